"""The nets for order books against their papers: sizes, arithmetic by hand, the order of columns, and their graphs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from pipeline.models.base import Signature
from pipeline.models.nets.deeplob import DeepLOB
from pipeline.models.nets.engine.mixing import BilinearNormalization, MixingMlp, make_head
from pipeline.models.nets.mlplob import MLPLOB
from pipeline.models.nets.tlob import TLOB
from pipeline.models.onnx_session import open_session
from pipeline.models.plugins import build
from pipeline.models.torch_runtime.onnx_export import export_onnx
from pipeline.orderbook.columns import CATEGORICAL, COLUMNS, PRESETS
from tests.data import OUTPUTS, TRAIN, VALID, plant_samples
from tests.params import BLOCKS, PARAMS

SMALL: dict[type[nn.Module], dict[str, int]] = {
    DeepLOB: {"columns": 40, "window": 21, "conv_channels": 4, "inception_channels": 4, "hidden_size": 6},
    TLOB: {"columns": 9, "window": 16, "hidden_size": 8, "num_layers": 2},
    MLPLOB: {"columns": 9, "window": 16, "hidden_size": 8, "num_layers": 2},
}
EVERY = pytest.mark.parametrize("plugin", SMALL)


def make_net(plugin: type[nn.Module], **changes: Any) -> nn.Module:
    """Return a small module in evaluation mode, whose running statistics are no longer the initial ones."""
    torch.manual_seed(0)
    made = plugin(outputs=3, **SMALL[plugin] | changes)
    with torch.no_grad():
        for seed in range(30 if plugin is DeepLOB else 0):  # until each normalization knows what the one before gives
            made.train()(draw_windows(plugin, 16, seed=seed, **changes))
    return made.eval()


def draw_windows(plugin: type[nn.Module], count: int, *, seed: int = 1, **changes: Any) -> Tensor:
    shape = SMALL[plugin] | changes
    return torch.randn(count, shape["window"], shape["columns"], generator=torch.Generator().manual_seed(seed))


def count_parameters(made: nn.Module) -> int:
    return sum(parameter.numel() for parameter in made.parameters())


@pytest.mark.parametrize(
    ("plugin", "columns", "window", "expected"),
    [
        (DeepLOB, 40, 100, 143_907),  # summary of the authors' notebook
        (DeepLOB, 48, 100, 143_907 + 4 * 64 * 8),  # eight more inputs of the four gates
        (TLOB, 40, 128, 1_135_971),  # the authors' module without its embedding of order types, which books lack
        (MLPLOB, 40, 384, 3_012_411),
    ],
)
def test_by_default_a_net_has_the_parameters_of_its_paper(
    plugin: type[nn.Module], columns: int, window: int, expected: int
) -> None:
    assert count_parameters(plugin(columns=columns, window=window, outputs=3)) == expected


def test_deeplob_reads_ask_price_ask_size_bid_price_and_bid_size_of_one_level_after_another() -> None:
    names = PRESETS["lob_only"]
    read = [names[place] for place in make_net(DeepLOB).places.tolist()]
    assert read[:6] == ["ask_price_1", "ask_size_1", "bid_price_1", "bid_size_1", "ask_price_2", "ask_size_2"]
    assert read[-4:] == ["ask_price_10", "ask_size_10", "bid_price_10", "bid_size_10"]
    assert sorted(read) == sorted(names)


def test_the_first_kernel_of_deeplob_joins_the_price_with_the_size_of_a_level() -> None:
    made = make_net(DeepLOB)
    with torch.no_grad():
        first = made.convolutions[0]
        first.weight[:], first.bias[:] = torch.tensor([[[[1.0, 10.0]]]]), 0.0  # price + 10 size
    seen: list[Tensor] = []
    first.register_forward_hook(lambda module, given, output: seen.append(output))
    row = torch.arange(40.0)  # column j has the value j
    made(row.expand(1, 21, 40))
    (joined,) = seen  # (1, channels, 21, 20): ask and bid of each level
    expected = [value for level in range(10) for value in (level + 10 * (10 + level), 20 + level + 10 * (30 + level))]
    assert joined.shape == (1, 4, 21, 20)
    assert joined[0, 0, 0].tolist() == expected


def test_the_derived_columns_of_the_extended_deeplob_reach_the_recurrence_beside_their_row() -> None:
    made, x = make_net(DeepLOB, columns=48), draw_windows(DeepLOB, 2, columns=48)
    seen: list[Tensor] = []
    made.recurrence.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    made(x)
    assert seen[0].shape == (2, 3, 3 * 4 + 8)  # 21 - 18 rows
    assert torch.equal(seen[0][:, :, 12:], x[:, 18:, 40:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": 98}, r"^the net sees 98 columns; allowed are 40 \(columns: \[lob_only\]\) and 48"),
        ({"columns": 8}, "^the net sees 8 columns"),
        ({"window": 18}, "^window is 18; allowed are more than the 18 rows"),
    ],
)
def test_deeplob_refuses_other_columns_and_windows_that_its_convolutions_use_up(
    changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DeepLOB(outputs=3, **SMALL[DeepLOB] | changes)


def test_the_presets_of_the_order_book_have_the_columns_that_deeplob_takes() -> None:
    for preset, count in (("lob_only", 40), ("deeplob_extended", 48)):
        assert PRESETS[preset] == COLUMNS[:count]


def test_bilinear_normalization_is_as_by_hand() -> None:
    layer = BilinearNormalization(columns=3, window=2)
    with torch.no_grad():
        layer.column_scale[:], layer.column_bias[:] = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.1]])
        layer.row_scale[:], layer.row_bias[:] = torch.tensor([[10.0], [20.0]]), torch.tensor([[0.2]])
        layer.weights[:] = torch.tensor([0.5, 0.25])  # over rows, over columns
    x = torch.tensor([[[1.0, 2.0, 6.0], [3.0, 2.0, 4.0]]])
    s = np.sqrt(0.5)  # (1 - 2) / sqrt(((1 - 2)² + (3 - 2)²) / (2 - 1))
    by_column = np.array([[-s, 0, 3 * s], [s, 0, -3 * s]]) + 0.1
    first = np.array([-2, -1, 3]) / np.sqrt(7)  # variance (4 + 1 + 9) / 2
    second = np.array([0, -1, 1])  # variance (0 + 1 + 1) / 2
    by_row = np.stack([10 * first, 20 * second]) + 0.2
    assert_allclose(layer(x)[0].detach(), 0.5 * by_column + 0.25 * by_row, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 579.33, -1e4])
def test_bilinear_normalization_of_constants_leaves_the_biases_and_finite_gradients(value: float) -> None:
    layer = BilinearNormalization(columns=3, window=2)
    x = torch.full((1, 2, 3), value, requires_grad=True)
    output = layer(x)
    output.sum().backward()
    assert output.detach().tolist() == [[[0.0] * 3] * 2]
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_bilinear_normalization_keeps_the_digits_of_one_small_move_far_from_zero() -> None:
    layer = BilinearNormalization(columns=2, window=128)
    with torch.no_grad():
        layer.column_scale[:], layer.weights[:] = 1.0, torch.tensor([1.0, 0.0])
    x = torch.full((1, 128, 2), 4.0)
    x[:, 100:] += 2.0**-12  # one tick
    exact = x.double()
    z = (exact - exact.mean(dim=1, keepdim=True)) / exact.std(dim=1, keepdim=True)
    by_row = 0.01 * layer.row_bias  # the least weight, of a normalization whose rows do not vary
    assert_allclose(layer(x).detach(), (z + by_row).detach(), rtol=1e-6)


def test_a_negative_weight_counts_as_the_least_one_and_no_parameter_is_made_in_forward() -> None:
    layer, x = BilinearNormalization(columns=3, window=2), draw_windows(TLOB, 1)[:, :2, :3]
    before = {name: id(parameter) for name, parameter in layer.named_parameters()}
    with torch.no_grad():
        layer.weights[:] = -1.0
        negative = layer(x)
        layer.weights[:] = 0.01
    assert torch.equal(negative, layer(x))
    assert {name: id(parameter) for name, parameter in layer.named_parameters()} == before


def test_a_head_goes_to_a_quarter_down_to_128() -> None:
    sizes = [(layer.in_features, layer.out_features) for layer in make_head(320, 3) if isinstance(layer, nn.Linear)]
    assert sizes == [(320, 80), (80, 3)]
    assert [layer.out_features for layer in make_head(128, 3)] == [3]
    assert len(make_head(2049, 3)) == 5  # 512, 128


def test_a_mixing_perceptron_is_as_by_hand() -> None:
    layer = MixingMlp(2, 2, hidden_size=1)
    with torch.no_grad():
        layer.linear1.weight[:], layer.linear1.bias[:] = torch.tensor([[1.0, 1.0]]), 0.0
        layer.linear2.weight[:], layer.linear2.bias[:] = torch.tensor([[1.0], [0.0]]), 0.0
    x = torch.tensor([[[2.0, 1.0]]])
    hidden = 3 * 0.9986501  # GELU(3) = 3 Φ(3)
    before = np.array([hidden + 2, 1.0])  # with the residual
    normalized = (before - before.mean()) / np.sqrt(before.var() + 1e-5)
    expected = normalized * np.array([0.8413447, 0.1586553])  # Φ(±1)
    assert_allclose(layer(x)[0, 0].detach(), expected, rtol=1e-4)


def test_the_head_of_tlob_reads_column_by_column_and_that_of_mlplob_row_by_row() -> None:
    for plugin, axes in ((TLOB, (2, 1)), (MLPLOB, (1, 2))):
        made, seen = make_net(plugin), []
        made.pairs[-1][1].register_forward_hook(lambda module, given, output, seen=seen: seen.append(output))
        made.head.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given[0]))
        made(draw_windows(plugin, 5))
        last, read = seen  # (B, columns, rows) and (B, columns · rows)
        assert last.shape == (5, 2, 4)
        states = last.transpose(1, 2)  # (B, rows, columns)
        assert torch.equal(read, states.permute(0, *axes).flatten(1))


def test_the_attention_of_tlob_is_the_softmax_of_the_paper() -> None:
    made, x = make_net(TLOB, num_layers=1), draw_windows(TLOB, 3)
    weights = made.attend(x).detach()
    assert weights.shape == (3, 1, 16, 16)
    assert_allclose(weights.sum(dim=-1), 1.0, rtol=1e-5)
    states = (made.embedding(made.normalization(x)) + made.positions).detach().numpy()
    attention = made.pairs[0][0].attention
    query, key = (layer(torch.from_numpy(states)).detach().numpy() for layer in (attention.query, attention.key))
    scores = np.einsum("btf,bsf->bts", query, key) / np.sqrt(8)
    expected = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
    assert_allclose(weights[:, 0], expected, rtol=1e-4)


@pytest.mark.parametrize("plugin", [TLOB, MLPLOB])
def test_a_size_whose_quarter_is_one_number_is_refused(plugin: type[nn.Module]) -> None:
    for name in ("window", "hidden_size"):
        with pytest.raises(ValueError, match=rf"^{name} is 7; allowed is 8 or more"):
            plugin(outputs=3, **SMALL[plugin] | {name: 7})


@pytest.mark.parametrize("plugin", [TLOB, MLPLOB])
def test_the_normalization_makes_attention_and_mixing_independent_of_the_scale_of_all_columns(
    plugin: type[nn.Module],
) -> None:
    made, x = make_net(plugin), draw_windows(plugin, 4)
    assert_allclose(made(8 * x + 2).detach(), made(x).detach(), atol=1e-4)


@EVERY
def test_an_output_depends_on_the_order_of_rows_and_not_on_the_other_windows(plugin: type[nn.Module]) -> None:
    made, x = make_net(plugin), draw_windows(plugin, 4)
    batch = torch.cat([50 * draw_windows(plugin, 3, seed=2), x])
    assert_allclose(made(batch)[3:].detach(), made(x).detach(), atol=1e-5)
    assert ((made(x) - made(x.flip(1))).abs().amax(dim=1) > 1e-4).all()


@EVERY
def test_an_output_depends_on_every_row_and_column(plugin: type[nn.Module]) -> None:
    x = draw_windows(plugin, 8).requires_grad_()
    (make_net(plugin)(x) * torch.arange(1.0, 4.0)).sum().backward()
    assert x.grad is not None
    slope = x.grad.abs().sum(dim=0)
    assert (slope.sum(dim=0) > 0).all()
    assert (slope.sum(dim=1) > 0).all()


@EVERY
def test_the_graph_agrees_with_the_net_also_where_a_window_hardly_moves(
    plugin: type[nn.Module], tmp_path: Path
) -> None:
    made, file = make_net(plugin), tmp_path / "net.onnx"
    x = draw_windows(plugin, 37)
    file.write_bytes(export_onnx(made, inputs={"inputs": tuple(x.shape[1:])}, outputs=["answer"]))
    session = open_session(file)
    moves = (torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.01).cumsum(dim=1)
    still = x[:, :1].expand_as(x).contiguous()
    for windows in (x, x[:1], still, 4 * still + 1e-3 * moves):
        (output,) = session.run(["answer"], {"inputs": windows.numpy()})
        assert np.abs(output - made(windows).detach().numpy()).max() < 5e-6


LOSSES = [
    {"name": "cross_entropy"},
    {"name": "weighted_cross_entropy"},
    {"name": "focal", "gamma": 2.0, "alpha": [0.25, 0.5, 0.25]},
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss["name"])
@pytest.mark.parametrize("name", ["deeplob", "tlob", "mlplob"])
def test_losses_with_class_weights_and_the_focal_loss_fit_three_classes(name: str, loss: dict[str, Any]) -> None:
    _, block = BLOCKS[name]
    columns = PRESETS[block["columns"][0]]
    samples = plant_samples("barrier", seed=1, columns=len(columns))
    samples = replace(samples, columns=columns)
    plugin = next(each for each in SMALL if each.__name__.lower() == name)
    sizes = {key: value for key, value in SMALL[plugin].items() if key != "columns"}
    made = build(
        "nets",
        block | {"hyperparameters": block["hyperparameters"] | sizes | {"loss": loss}},
        Signature(samples.columns, OUTPUTS["barrier"]),
        shared=PARAMS["nets"] | {"epochs": 1, "batch_size": 64},
        seed=1,
    )
    (entry,) = made.fit(samples, TRAIN[:600], VALID[:100])
    assert np.isfinite([entry["train_loss"], entry["valid_loss"]]).all()
    assert made.predict_rows(samples, VALID[:5]).sum(axis=1) == pytest.approx(1.0)


def test_categories_of_the_order_book_are_left_unscaled_by_name() -> None:
    _, block = BLOCKS["tlob"]
    names = [COLUMNS[place] for place in CATEGORICAL]
    samples = plant_samples("barrier", seed=1, columns=len(COLUMNS))
    samples = replace(samples, columns=COLUMNS)
    own = {"window": 8, "hidden_size": 8, "num_layers": 1, "unscaled_columns": names}
    made = build(
        "nets",
        block | {"hyperparameters": block["hyperparameters"] | own},
        Signature(COLUMNS, OUTPUTS["barrier"]),
        shared=PARAMS["nets"] | {"epochs": 1},
        seed=1,
    )
    made.fit(samples, TRAIN[:600], VALID[:100])
    assert made.standardization is not None
    mean, std = made.standardization
    is_unscaled = (mean == 0) & (std == 1)
    assert [COLUMNS[place] for place in np.flatnonzero(is_unscaled)] == names
