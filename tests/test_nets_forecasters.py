"""N-HiTS, PatchTST and the TFT against their papers: sizes, arithmetic by hand, invariances, and their graphs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from pipeline.models.base import Signature
from pipeline.models.nets.nhits import NHiTS
from pipeline.models.nets.patchtst import PatchTST
from pipeline.models.nets.tft import TFT
from pipeline.models.onnx_session import open_session
from pipeline.models.plugins import build
from pipeline.models.torch_runtime.onnx_export import export_onnx
from pipeline.targets import Output
from tests.data import OUTPUTS, TRAIN, VALID, plant_samples
from tests.params import BLOCKS, PARAMS

SMALL: dict[type[nn.Module], dict[str, Any]] = {
    NHiTS: {"horizon": 4, "n_pool_kernel_size": [4, 1], "n_freq_downsample": [2, 1], "mlp_units": [8]},
    PatchTST: {"patch_len": 4, "stride": 2, "d_model": 4, "nhead": 2, "num_layers": 1, "dim_feedforward": 8},
    TFT: {"hidden_size": 4, "nhead": 2, "known_columns": 1},
}
EVERY = pytest.mark.parametrize("plugin", SMALL)


def make_net(plugin: type[nn.Module], **changes: Any) -> nn.Module:
    """Return a small module of 3 columns, 8 bars and 2 outputs in evaluation mode."""
    torch.manual_seed(0)
    return plugin(**{"columns": 3, "window": 8, "outputs": 2, "dropout": 0.0, **SMALL[plugin], **changes}).eval()


def draw_windows(count: int, *, seed: int = 1, columns: int = 3) -> Tensor:
    return torch.randn(count, 8, columns, generator=torch.Generator().manual_seed(seed))


def count_parameters(made: nn.Module) -> int:
    return sum(parameter.numel() for parameter in made.parameters())


def fill_parameters(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


def test_the_parameters_of_nhits_are_those_of_its_perceptrons_and_coefficients() -> None:
    # kernel 4 sees 2 bars of 3 columns, 6 * 8 + 8 = 56; rate 2 has 3 * 4 backcast coefficients, 8 * 12 + 12 = 108,
    # and 2 * 2 of the forecast, 8 * 4 + 4 = 36. Kernel 1 sees 24: 24 * 8 + 8 = 200; rate 1: 8 * 24 + 24 = 216 and
    # 8 * 8 + 8 = 72.
    assert count_parameters(make_net(NHiTS)) == 56 + 108 + 36 + 200 + 216 + 72


def test_the_parameters_of_patchtst_do_not_depend_on_the_columns_but_for_their_mixing() -> None:
    # 4 patches: (8 + 2 - 4) / 2 + 1. Embedding 4 * 4 + 4, positions 4 * 4, attention 4 * 16 + 3 * 4 (keys have no
    # bias), two normalizations of 8, feedforward 4 * 8 + 8 + 8 * 4 + 4, head 16 * 2 + 2, mixing 2 * 3, bias 2.
    expected = 20 + 16 + 76 + 16 + 76 + 34 + 6 + 2
    assert count_parameters(make_net(PatchTST)) == expected
    assert count_parameters(make_net(PatchTST, columns=10)) == expected + 2 * 7


def test_the_parameters_of_the_tft_are_those_of_a_gated_residual_network_for_each_column() -> None:
    # d = 4. A gated residual network d -> d: 20 + 20 + 40 + 8 = 88, its norm last. Of a column: embedding 8, and 20 +
    # 20 + 40; they share a norm of 8. The weights of 3 columns: 3 * 4 + 4 + 20 + 4 * 6 + 6 + norm 6 = 72, and of the
    # known one: skip and all, 4 + 4 + 20 + 4 * 2 + 2 + norm 2 = 40. LSTM 2 * 4 * 4 * 4 + 2 * 16 = 160, twice.
    # Three gates with norm, 40 + 8. Attention: query 20, key 16, value 4 * 2 + 2, output 2 * 4. Head 4 * 2 + 2.
    selection, known = 3 * 88 + 8 + 72, 88 + 8 + 40
    expected = selection + known + 2 * 160 + 3 * 48 + 2 * 88 + (20 + 16 + 10 + 8) + 10
    assert count_parameters(make_net(TFT)) == expected


def test_nhits_pools_by_the_maximum_interpolates_between_coefficients_and_passes_on_what_is_left() -> None:
    made = make_net(
        NHiTS,
        **{"columns": 1, "window": 4, "outputs": 1, "horizon": 2, "mlp_units": [1]},
        **{"n_pool_kernel_size": [2, 4], "n_freq_downsample": [2, 2]},
    )
    fill_parameters(made, 0.0)
    first, second = made.blocks
    with torch.no_grad():
        first.mlp[0].weight[:] = torch.tensor([[1.0, 10.0]])
        first.backcast.coefficients.weight[:] = torch.tensor([[0.0], [1.0]])
        first.forecast.coefficients.weight[:] = 2.0
        second.mlp[0].weight[:], second.forecast.coefficients.weight[:] = 1.0, 100.0
        x = torch.tensor([[[1.0], [3.0], [0.0], [0.2]]])
        # hidden = max(1, 3) + 10 max(0, 0.2) = 5; coefficients 0 and 5 stand at bars 0.5 and 2.5, flat outside
        backcast, path = first(x.transpose(1, 2))
        assert_allclose(backcast[0, 0], [0.0, 1.25, 3.75, 5.0])
        assert_allclose(path[0, 0], [10.0, 10.0])
        # what is left is 1, 1.75, -3.75, -4.8, whose maximum is 1.75
        assert_allclose(made.forecast(x)[0, 0], [10 + 175.0, 10 + 175.0], rtol=1e-6)
        assert_allclose(made(x), [[185.0]], rtol=1e-6)


def test_patchtst_returns_the_mean_of_a_window_and_the_head_in_units_of_its_deviation() -> None:
    made = make_net(PatchTST, columns=1, outputs=1, num_layers=1)
    fill_parameters(made, 0.0)
    x = torch.tensor([1.0, 3.0] * 4)[None, :, None]  # mean 2, deviation 1
    with torch.no_grad():
        made.mixing[:], made.head.bias[:] = 1.0, 0.5
        assert_allclose(made(x), [[2.5]], rtol=1e-5)
        assert_allclose(made(4 * x), [[10.0]], rtol=1e-5)


def test_the_patches_of_patchtst_start_a_stride_apart_and_the_last_bar_fills_the_last_one() -> None:
    made = make_net(PatchTST)
    with torch.no_grad():
        made.embedding.weight[:], made.embedding.bias[:] = torch.tensor([1.0, 10.0, 100.0, 1000.0]), 0.0
        patches = made.embedding(made.padding(torch.arange(1.0, 9.0)[None, None]))[0, 0]
    assert patches.tolist() == [4321.0, 6543.0, 8765.0, 8887.0]


def test_the_forecasts_of_patchtst_follow_shift_scale_and_permutation_of_the_columns() -> None:
    made, x = make_net(PatchTST), draw_windows(5)
    plain = made.forecast(x).detach()
    scale, shift = torch.tensor([2.0, 8.0, 1.0]), torch.tensor([0.0, 3.0, -50.0])
    assert_allclose(made.forecast(x * scale + shift).detach(), plain * scale + shift, rtol=1e-3, atol=1e-3)
    turned = [2, 0, 1]
    assert_allclose(made.forecast(x[:, :, turned]).detach(), plain[:, :, turned], atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_column_that_does_not_vary_leaves_finite_gradients_in_patchtst(value: float) -> None:
    made, x = make_net(PatchTST), torch.full((2, 8, 3), value, requires_grad=True)
    output = made(x)
    output.sum().backward()
    assert output.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_the_variable_selection_of_the_tft_is_a_gated_residual_network_of_each_column() -> None:
    selection, x = make_net(TFT).selection, draw_windows(2)
    with torch.no_grad():
        selection.biases.normal_()
        processed = selection.process(x).numpy()
    values = {name: parameter.detach().numpy().astype(float) for name, parameter in selection.named_parameters()}
    for column in range(3):
        own = {name: values[name][column] for name in ("embedding", "embedding_bias", "first", "second", "gate")}
        biases = np.split(values["biases"][column], [4, 8])
        states = x[:, :, column, None].numpy() * own["embedding"] + own["embedding_bias"]
        hidden = states @ own["first"] + biases[0]
        hidden = np.where(hidden > 0, hidden, np.expm1(hidden)) @ own["second"] + biases[1]
        value, gate = np.split(hidden @ own["gate"] + biases[2], 2, axis=-1)
        sums = states + value / (1 + np.exp(-gate))
        expected = (sums - sums.mean(-1, keepdims=True)) / np.sqrt(sums.var(-1, keepdims=True) + 1e-5)
        assert_allclose(processed[:, :, column], expected, rtol=1e-3, atol=1e-5)


def test_the_weights_of_columns_and_of_bars_sum_to_one_and_the_heads_share_values() -> None:
    made, x = make_net(TFT), draw_windows(3)
    assert_allclose(made.select(x).sum(dim=2).detach(), np.ones((3, 8)), rtol=1e-5)
    weights = made.attend(x).detach()
    assert weights.shape == (3, 2, 1, 9)
    assert_allclose(weights.sum(dim=3), np.ones((3, 2, 1)), rtol=1e-5)
    states = draw_windows(3, columns=4)
    mean = made.attention.weigh(states[:, -1:], states).mean(dim=1)
    expected = made.attention.out_proj(mean @ made.attention.value(states))
    assert torch.equal(made.attention(states[:, -1:], states), expected)


def test_the_decoder_of_the_tft_reads_the_known_columns_alone() -> None:
    made, seen = make_net(TFT), []
    made.known_selection.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    x = draw_windows(2)
    made(x)
    assert torch.equal(seen[0], x[:, -1:, 2:])


@pytest.mark.parametrize(
    ("plugin", "changes", "message"),
    [
        (NHiTS, {"n_freq_downsample": [1]}, "both need one number for each block"),
        (PatchTST, {"patch_len": 9}, "patch_len is 9 and window is 8; a patch must fit the window"),
        (PatchTST, {"nhead": 3}, "patchtst: .* nhead must divide d_model"),
        (TFT, {"nhead": 3}, "tft: .* nhead must divide hidden_size"),
        (TFT, {"known_columns": 4}, "known_columns is 4, of 3 columns"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_refused(
    plugin: type[nn.Module], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_net(plugin, **changes)


@EVERY
def test_the_graph_agrees_with_the_net_also_where_a_window_does_not_move(
    plugin: type[nn.Module], tmp_path: Path
) -> None:
    made, file, x = make_net(plugin), tmp_path / "net.onnx", draw_windows(37)
    file.write_bytes(export_onnx(made, inputs={"inputs": (8, 3)}, outputs=["answer"]))
    session = open_session(file)
    for windows in (x, x[:1], x[:, :1].expand_as(x).contiguous()):
        (output,) = session.run(["answer"], {"inputs": windows.numpy()})
        assert_allclose(output, made(windows).detach(), rtol=0, atol=1e-6)


QUANTILES = Output(kind="quantiles", names=("q10", "q50", "q90"), levels=(0.1, 0.5, 0.9))
LOSSES = {"barrier": ("cross_entropy", OUTPUTS["barrier"]), "return": ("pinball", QUANTILES)}


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("name", ["nhits", "patchtst", "tft"])
def test_classes_and_quantiles_are_fitted_by_their_losses(name: str, kind: str) -> None:
    _, block = BLOCKS[name]
    samples = plant_samples(kind, seed=1)
    loss, output = LOSSES[kind]
    own = {"window": 8, "loss": {"name": loss}}
    made = build(
        "nets",
        block | {"hyperparameters": block["hyperparameters"] | own},
        Signature(samples.columns, output),
        shared=PARAMS["nets"] | {"epochs": 1, "batch_size": 64, "train_stride": 1},
        seed=1,
    )
    (entry,) = made.fit(samples, TRAIN[:600], VALID[:100])
    assert np.isfinite([entry["train_loss"], entry["valid_loss"]]).all()
    assert made.predict_rows(samples, VALID[:5]).shape == (5, 3)
