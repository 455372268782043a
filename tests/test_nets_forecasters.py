"""N-HiTS, PatchTST and the TFT against their papers: sizes, arithmetic by hand, invariances, and their graphs."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from pipeline import config
from pipeline.models.base import Signature
from pipeline.models.cross_fit import ModelSpec, make_spec
from pipeline.models.nets.nhits import NHiTS
from pipeline.models.nets.patchtst import PatchTST
from pipeline.models.nets.tft import TemporalFusionTransformer
from pipeline.models.onnx_session import open_session
from pipeline.models.plugins import build
from pipeline.models.torch_runtime.onnx_export import export_onnx
from pipeline.samples import Samples
from pipeline.targets import Output, Target
from tests import slow_forecasters, slow_tft
from tests.data import OUTPUTS, TEST, TRAIN, VALID, plant_samples
from tests.params import BLOCKS, LEAST_WINDOWS, PARAMS, SMALLER

SMALL: dict[type[nn.Module], dict[str, Any]] = {
    NHiTS: {"horizon": 4, "n_pool_kernel_size": [4, 1], "n_freq_downsample": [2, 1], "mlp_units": [8]},
    PatchTST: {"patch_len": 4, "stride": 2, "d_model": 4, "nhead": 2, "num_layers": 1, "dim_feedforward": 8},
    TemporalFusionTransformer: {"hidden_size": 4, "nhead": 2, "known_positions": [2], "static_positions": []},
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
    assert count_parameters(make_net(TemporalFusionTransformer)) == expected


def count_dense(before: int, after: int) -> int:
    return before * after + after


def count_grn(before: int, after: int, hidden: int, *, context: int = 0) -> int:
    """Count Lim et al., eq. 2 to 5: two layers, the context's product, the gated linear unit, the norm, the skip."""
    layers = count_dense(before, hidden) + count_dense(hidden, hidden) + context * hidden
    return layers + count_dense(hidden, 2 * after) + 2 * after + (count_dense(before, after) if before != after else 0)


def test_patchtst_42_has_the_parameters_of_its_paper_but_for_keys_and_mixing() -> None:
    # Nie et al. 2023: 336 bars, patches of 16 at strides of 8: 42; d_model 128, 16 heads, 3 layers, 256 units, 96 bars
    # ahead. Weather has 21 channels, each with its own forecast of the shared head.
    attention, norms = 4 * count_dense(128, 128), 2 * 2 * 128
    layer = attention + norms + count_dense(128, 256) + count_dense(256, 128)
    paper = count_dense(16, 128) + 42 * 128 + 3 * layer + count_dense(42 * 128, 96)
    assert paper == 921_184
    made = make_net(
        PatchTST,
        **{"columns": 21, "window": 336, "outputs": 96, "patch_len": 16, "stride": 8},
        **{"d_model": 128, "nhead": 16, "num_layers": 3, "dim_feedforward": 256},
    )
    mixing, keys = 96 * 21 + 96, 3 * 128  # a bias of keys cancels in the softmax
    assert count_parameters(made) == paper - keys + mixing == 922_912


def test_nhits_of_96_bars_has_the_parameters_of_its_paper() -> None:
    # Challu et al. 2023: a window of 5 horizons, three stacks of one block, two layers of 512 units, pooling by 2, 2, 1
    # and a coefficient for every 4, 2, 1 bars of backcast and forecast.
    expected = 0
    for pooled, backcast, forecast in ((240, 120, 24), (240, 240, 48), (480, 480, 96)):
        expected += count_dense(pooled, 512) + count_dense(512, 512)
        expected += count_dense(512, backcast) + count_dense(512, forecast)
    made = make_net(
        NHiTS,
        **{"columns": 1, "window": 480, "outputs": 1, "horizon": 96, "mlp_units": [512, 512]},
        **{"n_pool_kernel_size": [2, 2, 1], "n_freq_downsample": [4, 2, 1]},
    )
    assert count_parameters(made) == expected == 1_798_128


def test_the_tft_of_electricity_has_the_parameters_of_its_paper_but_for_the_selection_and_biases() -> None:
    # Lim et al. 2021, table 2 and appendix A: d = 160, 4 heads, 3 quantiles; a static identity, the load, and three
    # columns that are known: hour, weekday, time. Temporal inputs are the load and these three.
    d, quantiles = 160, 3

    def count_selection(columns: int, *, context: int = 0) -> int:
        weights = count_grn(columns * d, columns, d, context=context)
        return columns * (count_dense(1, d) + count_grn(d, d, d)) + weights

    gate = count_dense(d, 2 * d) + 2 * d
    attention = 2 * d * d + d * d // 4 + d // 4 * d  # of queries and keys, of the shared values, of the output
    lstm = 2 * 4 * (2 * d * d + d)
    paper = count_selection(1) + count_selection(4, context=d) + count_selection(3, context=d) + 4 * count_grn(d, d, d)
    paper += (
        lstm + 3 * gate + count_grn(d, d, d, context=d) + count_grn(d, d, d) + attention + count_dense(d, quantiles)
    )
    # ours: the weights read the columns themselves, without a skip that changes size; columns share a norm; an LSTM of
    # torch has two biases; queries and values have one
    ours = paper + 2 * 4 * d + d + d // 4
    for columns in (1, 4, 3):
        ours -= columns * d * d - columns * d + (columns * d * columns + columns if columns * d != columns else 0)
        ours -= (columns - 1) * 2 * d
    made = make_net(
        TemporalFusionTransformer,
        **{"columns": 5, "window": 168, "outputs": quantiles, "hidden_size": d, "nhead": 4},
        **{"known_positions": [1, 2, 3], "static_positions": [4]},
    )
    assert (paper, count_parameters(made)) == (2_446_603, ours) == (2_446_603, 2_238_795)


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


@pytest.mark.parametrize("window", [8, 7])  # the last pool of 7 bars is not whole
def test_nhits_is_the_one_of_the_paper_in_numpy(window: int) -> None:
    sizes = {"horizon": 6, "n_pool_kernel_size": [4, 2, 1], "n_freq_downsample": [3, 2, 1], "mlp_units": [5, 6]}
    made, x = make_net(NHiTS, window=window, **sizes), draw_windows(4)[:, :window]
    expected = slow_forecasters.forward_nhits(made, x.numpy(), kernels=[4, 2, 1], outputs=2, horizon=6)
    assert_allclose(made(x).detach(), expected, rtol=0, atol=1e-5)


def test_the_horizons_of_nhits_are_bars_of_its_path_in_numpy() -> None:
    sizes = {"horizon": 6, "n_pool_kernel_size": [4, 2, 1], "n_freq_downsample": [3, 2, 1], "mlp_units": [5, 6]}
    made, x = make_net(NHiTS, window=8, outputs=3, horizons=(1, 4, 6), **sizes), draw_windows(4)[:, :8]
    path = slow_forecasters.forecast_path(made, x.numpy(), kernels=[4, 2, 1], outputs=1, horizon=6)
    assert_allclose(made(x).detach(), path[:, 0, [0, 3, 5]], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"horizon is 6, and the target's horizons are \[1, 7\]: set it to the last"):
        make_net(NHiTS, window=8, outputs=2, horizons=(1, 7), **sizes)


def test_nhits_without_biases_is_homogeneous_and_blind_to_the_order_within_a_pool() -> None:
    made, x = make_net(NHiTS, n_pool_kernel_size=[4], n_freq_downsample=[2]), draw_windows(5)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    plain = made(x).detach()
    assert_allclose(made(8 * x).detach(), 8 * plain, rtol=1e-5, atol=1e-6)
    turned = x[:, [3, 1, 0, 2, 4, 5, 7, 6]]  # within the pools of bars 0 to 3 and 4 to 7
    assert_allclose(made(turned).detach(), plain, atol=1e-6)
    assert not np.allclose(made(x[:, [4, 1, 2, 3, 0, 5, 6, 7]]).detach(), plain, atol=1e-3)


def test_a_layer_of_patchtst_without_attention_is_its_perceptron_between_two_norms() -> None:
    made = make_net(PatchTST, columns=1, window=4, outputs=1, stride=4, d_model=2, nhead=1, dim_feedforward=1)
    fill_parameters(made, 0.0)
    (layer,) = made.layers
    with torch.no_grad():
        made.embedding.weight[0, 0], made.embedding.weight[1, 0] = (
            torch.tensor([1.0, 0, 0, 0]),
            torch.tensor([0, 1.0, 0, 0]),
        )
        for norm in (layer.attention_norm, layer.feedforward_norm):
            norm.weight[:], norm.running_var[:], norm.eps = 1.0, 1.0, 0.0
        layer.feedforward[0].weight[:] = torch.tensor([[100.0, 0.0]])  # far above 0, where GELU is the identity
        layer.feedforward[3].weight[:] = torch.tensor([[0.0], [0.01]])
        made.head.weight[:, :2], made.mixing[:] = torch.tensor([[0.0, 1.0]]), 1.0
        # mean 2, deviation 1: the series is 1, -1, 1, -1; the patch's state is 1, -1, its second number -1 + 1
        assert_allclose(made(torch.tensor([3.0, 1.0, 3.0, 1.0])[None, :, None]), [[2.0]], atol=1e-4)
        layer.feedforward[3].weight[1] = 0.05  # -1 + 5
        assert_allclose(made(torch.tensor([3.0, 1.0, 3.0, 1.0])[None, :, None]), [[6.0]], atol=1e-4)


def test_patchtst_is_the_one_of_the_paper_in_numpy() -> None:
    made = make_net(PatchTST, num_layers=2).double()  # in float32 a level of 30 times the scale loses digits
    x = draw_windows(4).double() * torch.tensor([1.0, 0.1, 20.0]) + 3.0
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in made.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 2.0)
    expected = slow_forecasters.forward_patchtst(made, x.numpy(), patch_len=4, stride=2, nhead=2)
    assert_allclose(made(x).detach(), expected, rtol=1e-9, atol=1e-9)


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
    selection, x = make_net(TemporalFusionTransformer).selection, draw_windows(2)
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
    made, x = make_net(TemporalFusionTransformer), draw_windows(3)
    assert_allclose(made.select(x).sum(dim=2).detach(), np.ones((3, 8)), rtol=1e-5)
    weights = made.attend(x).detach()
    assert weights.shape == (3, 2, 1, 9)
    assert_allclose(weights.sum(dim=3), np.ones((3, 2, 1)), rtol=1e-5)
    states = draw_windows(3, columns=4)
    mean = made.attention.weigh(states[:, -1:], states).mean(dim=1)
    expected = made.attention.out_proj(mean @ made.attention.value(states))
    assert torch.equal(made.attention(states[:, -1:], states), expected)


def test_the_decoder_of_the_tft_reads_the_known_columns_alone() -> None:
    made, seen = make_net(TemporalFusionTransformer), []
    made.known_selection.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    x = draw_windows(2)
    made(x)
    assert torch.equal(seen[0], x[:, -1:, 2:])


@pytest.mark.parametrize(("known", "static"), [([2], []), ([], []), ([2], [0])])
def test_the_tft_is_the_one_of_the_paper_in_numpy(known: list[int], static: list[int]) -> None:
    made = make_net(TemporalFusionTransformer, known_positions=known, static_positions=static)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = draw_windows(4)
    expected = slow_tft.forward(made, x.numpy(), known=known, static=static, nhead=2)
    assert_allclose(made(x).detach(), expected, rtol=1e-4, atol=1e-5)


def test_static_columns_are_read_at_the_last_bar_and_change_every_part_of_the_tft() -> None:
    made, x = make_net(TemporalFusionTransformer, static_positions=[0]), draw_windows(3)
    changed = x.clone()
    changed[:, :-1, 0] = 9.0
    assert torch.equal(made(changed), made(x))
    changed[:, -1, 0] += 1.0
    assert not torch.allclose(made.select(changed), made.select(x))
    assert not torch.allclose(made.attend(changed), made.attend(x))
    assert made.select(x).shape == (3, 8, 2)


def make_tft(columns: tuple[str, ...], **own: Any) -> Any:
    """Return an unfitted model of the block `tft` on these columns, with other hyperparameters."""
    block = BLOCKS["tft"][1]
    changed = block | {"hyperparameters": block["hyperparameters"] | {"window": 4} | own}
    return build("nets", changed, Signature(columns, OUTPUTS["return"]), shared=PARAMS["nets"], seed=1, name="tft")


def test_columns_ahead_are_known_by_their_names_and_those_of_a_list_by_theirs() -> None:
    columns = ("return_1", "hour_sin", "hour_sin_ahead_5m", "session_us_ahead_5m", "is_btc")
    assert make_tft(columns).net.body.known_positions == [2, 3]
    assert make_tft(columns[:2]).net.body.known_positions == [0, 1]  # none is known: the last bar is decoded
    made = make_tft(columns, known_columns=["hour_sin"], static_columns=["is_btc"])
    assert (made.net.body.known_positions, made.net.body.static_positions) == ([1], [4])
    with pytest.raises(
        ValueError, match=r"models.nets.tft: known_columns has \['hour'\]; the columns of the model are"
    ):
        make_tft(columns, known_columns=["hour"])
    with pytest.raises(ValueError, match=r"known_columns is 'future'; it must be 'ahead', or a list$"):
        make_tft(columns, known_columns="future")
    with pytest.raises(ValueError, match=r"static_columns and known_columns both have \['hour_sin_ahead_5m'\]"):
        make_tft(columns, static_columns=["hour_sin_ahead_5m"])


def test_a_static_column_that_varies_within_a_segment_is_refused_and_one_that_varies_among_segments_is_not() -> None:
    time, rows = np.arange(8, dtype=np.int64), np.arange(8)
    segment = np.array([0, 1] * 4, dtype=np.int32)
    x = np.stack([time, segment], axis=1).astype(np.float32)
    samples = Samples(time, time + 1, segment, x, ("return_1", "is_btc"), np.zeros(8, np.float32))
    made = make_tft(samples.columns, static_columns=["is_btc"])
    made.check_fit(samples, rows[:4], rows[4:])
    samples.x[6, 1] = 1.0
    with pytest.raises(ValueError, match=r"static_columns has \['is_btc'\], which vary within a segment; remove"):
        made.check_fit(samples, rows, rows[4:])


@pytest.mark.parametrize(
    ("plugin", "changes", "message"),
    [
        (NHiTS, {"n_freq_downsample": [1]}, "both need one number for each block"),
        (PatchTST, {"patch_len": 9}, "patch_len is 9 and window is 8; a patch must fit the window"),
        (PatchTST, {"nhead": 3}, "^d_model is .* nhead must divide d_model"),
        (TemporalFusionTransformer, {"nhead": 3}, "^hidden_size is .* nhead must divide hidden_size"),
        (TemporalFusionTransformer, {"static_positions": [2]}, r"^columns \[2\] are both static and known"),
        (TemporalFusionTransformer, {"static_positions": [0, 1, 2]}, "^all of its 3 columns are static"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_refused(
    plugin: type[nn.Module], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_net(plugin, **changes)


@pytest.mark.parametrize(
    ("family", "target", "needed"),
    [("nets", "return_5", 5), ("nets", "position", 1), ("tuned", "return_5", 5), ("composites", "return_5", 5)],
)
def test_a_horizon_of_nhits_that_is_not_the_targets_is_refused_by_both_names(
    family: str, target: str, needed: int
) -> None:
    plugin = {"nets": "nhits", "tuned": "nets.nhits", "composites": "conformal"}[family]
    data = SimpleNamespace(
        samples=SimpleNamespace(columns=("a",)),
        target=Target(name=target, horizon_bars=needed, output=OUTPUTS["return"]),
        folds=SimpleNamespace(embargo_bars=0),
    )

    def make_model_spec(horizon: int) -> ModelSpec:
        own = BLOCKS["nhits"][1]["hyperparameters"] | {"horizon": horizon}
        if family == "composites":
            own = {"primary": {"family": "nets", "plugin": "nhits", "hyperparameters": own}}
        block = {"dataset": "klines", "target": target, "plugin": plugin, "hyperparameters": own}
        return make_spec(PARAMS | {"models": {family: {"path": block}}}, "path", data=cast(Any, data))

    assert make_model_spec(needed).signature.columns == ("a",)
    inner = "primary.hyperparameters." if family == "composites" else ""
    message = (
        rf"models.{family}.path.hyperparameters.{inner}horizon is 7, and horizon of datasets.klines.targets.{target} "
        f"is {needed}: they must be equal, since the model forecasts that target; set the first to {needed}"
    )
    with pytest.raises(config.ParamsError, match=message):
        make_model_spec(7)


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


def measure_pinball_loss(y: np.ndarray, quantiles: np.ndarray) -> float:
    error = y[:, None] - quantiles
    return float(np.maximum(QUANTILES.levels * error, (np.array(QUANTILES.levels) - 1) * error).mean())


def fit_forecaster(name: str, samples: Samples, output: Output, loss: dict[str, Any]) -> np.ndarray:
    """Return the predictions of a small net of the block `name` for the rows of TEST."""
    block = BLOCKS[name][1]
    own = {key: value for key, value in SMALLER[name].items() if key in block["hyperparameters"]}
    own |= {"window": LEAST_WINDOWS.get(name, 1), "loss": loss}
    made = build(
        "nets",
        block | {"hyperparameters": block["hyperparameters"] | own},
        Signature(samples.columns, output),
        shared=PARAMS["nets"] | {"epochs": 2, "batch_size": 64, "train_stride": 1},
        seed=1,
    )
    made.fit(samples, TRAIN, VALID[:200])
    return made.predict_rows(samples, TEST)


FORECASTERS = pytest.mark.parametrize("name", ["nhits", "patchtst", "tft"])


@FORECASTERS
@pytest.mark.parametrize("loss", [{"name": "mse"}, {"name": "huber", "delta": 1.0}], ids=lambda loss: loss["name"])
def test_each_horizon_is_learned_in_the_scale_of_its_own_y(name: str, loss: dict[str, Any]) -> None:
    rng, samples = np.random.default_rng(5), plant_samples("return", seed=1, noise=0.5)
    column = samples.x[:, 0] + 0.5 * rng.standard_normal(len(samples.y))
    several = replace(samples, y_by_horizon=np.column_stack([1000 * column + 300, samples.y]).astype(np.float32))
    output = Output(kind="horizons", names=("return_ahead_1", "return_ahead_5"), horizons=(1, 5))
    predicted = fit_forecaster(name, several, output, loss)
    for found, y in zip(predicted.T, several.y_by_horizon[TEST].T, strict=True):
        assert ((y - found) ** 2).mean() < 0.6 * y.var()


@FORECASTERS
def test_classes_are_learned_by_their_log_loss(name: str) -> None:
    samples = plant_samples("barrier", seed=1, noise=0.5)
    predicted = fit_forecaster(name, samples, OUTPUTS["barrier"], {"name": "cross_entropy"})
    y = samples.y[TEST]
    share = np.bincount(samples.y[TRAIN]) / len(TRAIN)
    assert_allclose(predicted.sum(axis=1), 1.0, rtol=1e-5)
    assert -np.log(predicted[np.arange(len(y)), y]).mean() < -0.9 * np.log(share[y]).mean()
    assert (predicted.argmax(axis=1) == y).mean() > share.max() + 0.08  # six standard errors


@FORECASTERS
def test_quantiles_are_learned_by_their_pinball_loss(name: str) -> None:
    samples = plant_samples("return", seed=1, noise=0.5)
    predicted = fit_forecaster(name, samples, QUANTILES, {"name": "pinball"})
    y = samples.y[TEST]
    of_train = np.quantile(samples.y[TRAIN], QUANTILES.levels)[None]
    assert measure_pinball_loss(y, predicted) < 0.85 * measure_pinball_loss(y, of_train)
    assert_allclose((y[:, None] <= predicted).mean(axis=0), QUANTILES.levels, atol=0.08)  # hence they are ordered
    assert (np.diff(predicted) > 0).mean() > 0.99  # nearly everywhere: no loss forbids a crossing


def test_the_quantiles_of_the_tft_cover_unseen_rows_as_often_as_they_say() -> None:
    # y is normal with mean x0 and a standard deviation of exp(x1 / 2): the conditional quantiles are known
    rng, rows = np.random.default_rng(3), 12_000
    x = rng.standard_normal((rows, 2)).astype(np.float32)
    spread = np.exp(x[:, 1] / 2)
    y = (x[:, 0] + spread * rng.standard_normal(rows)).astype(np.float32)
    time = 60_000 * np.arange(rows, dtype=np.int64)
    samples = Samples(time, time, np.zeros(rows, np.int32), x, ("level", "spread"), y)
    train, valid, test = np.split(np.arange(rows), [6000, 7000])
    own = {"window": 1, "dropout": 0.0, "loss": {"name": "pinball"}}
    own |= {"optimizer": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.0}}
    block = BLOCKS["tft"][1]
    made = build(
        "nets",
        block | {"hyperparameters": block["hyperparameters"] | own},
        Signature(samples.columns, QUANTILES),
        shared=PARAMS["nets"] | {"epochs": 8, "batch_size": 128, "train_stride": 1},
        seed=1,
    )
    made.fit(samples, train, valid)
    predicted = made.predict_rows(samples, test)
    for level, values, score in zip(QUANTILES.levels, predicted.T, (-1.2816, 0.0, 1.2816), strict=True):
        # four standard errors of the share of test rows, and of the train rows on which the quantile was found
        tolerance = 4 * np.sqrt(level * (1 - level) * (1 / len(test) + 1 / len(train)))
        assert abs((y[test] <= values).mean() - level) < tolerance
        is_wide = x[test, 1] > 0  # a quantile without the spread would miss in each half
        for half in (is_wide, ~is_wide):
            assert abs((y[test][half] <= values[half]).mean() - level) < 2 * tolerance
        assert np.corrcoef(values, x[test, 0] + score * spread[test])[0, 1] > 0.97
