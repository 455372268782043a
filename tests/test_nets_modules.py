"""The nets alone, untrained: what they see of a window, what they refuse, and that ONNX answers as they do."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import softmax
from torch import Tensor, nn

from pipeline.models.nets.cnn import Cnn
from pipeline.models.nets.mlp import Mlp
from pipeline.models.nets.recurrent import Recurrent
from pipeline.models.nets.transformer import Transformer

COLUMNS, BARS, OUTPUTS = 5, 8, 3
TUNABLES: dict[type[nn.Module], dict[str, Any]] = {
    Recurrent: {
        "cell": "lstm",
        "hidden": 6,
        "layers": 1,
        "bidirectional": False,
        "attention": False,
        "dropout": 0.5,
    },
    Cnn: {"channels": [6, 7, 8, 9], "kernel": 3, "pool": "last", "batch_norm": False, "dropout": 0.5},  # sees 9 bars
    Transformer: {
        "d_model": 12,
        "heads": 3,
        "layers": 2,
        "feedforward": 16,
        "positions": "sinusoidal",
        "dropout": 0.5,
    },
    Mlp: {"hidden": [6, 7], "dropout": 0.5, "activation": "relu"},
}
OPTIONS: dict[type[nn.Module], dict[str, list[Any]]] = {
    Recurrent: {"cell": ["lstm", "gru"], "layers": [1, 2], "bidirectional": [False, True], "attention": [False, True]},
    Cnn: {"pool": ["last", "mean", "max"], "batch_norm": [False, True]},
    Transformer: {"layers": [1, 2], "positions": ["sinusoidal", "learnt"]},
    Mlp: {"activation": ["relu", "gelu", "silu"]},
}
VARIANTS = [
    pytest.param(plugin, dict(zip(options, chosen, strict=True)), id="-".join([plugin.__name__, *map(str, chosen)]))
    for plugin, options in OPTIONS.items()
    for chosen in itertools.product(*options.values())
]
EVERY = pytest.mark.parametrize(("plugin", "options"), VARIANTS)
EVERY_OF_BARS = pytest.mark.parametrize(("plugin", "options"), [p for p in VARIANTS if p.values[0] is not Mlp])
PLUGINS = pytest.mark.parametrize("plugin", TUNABLES)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Nets this small lose more by waiting for a second thread than it gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def net(plugin: type[nn.Module], seed: int = 0, **changes: object) -> nn.Module:
    """Ready to answer; its running statistics, where it has any, are no longer those it was born with."""
    torch.manual_seed(seed)
    made = plugin(**{"columns": COLUMNS, "bars": BARS, "outputs": OUTPUTS, **TUNABLES[plugin], **changes})
    with torch.no_grad():
        made.train()(3 * windows(16, seed=8) + 1)
    return made.eval()


def windows(count: int, *, seed: int = 1) -> Tensor:
    return torch.randn(count, BARS, COLUMNS, generator=torch.Generator().manual_seed(seed))


def gradient_by_bar(made: nn.Module) -> Tensor:
    """How far each bar of many windows moves their answers, (T,)."""
    x = windows(16).requires_grad_()
    made(x).sum().backward()
    return x.grad.abs().sum(dim=(0, 2))


@EVERY
def test_every_option_gives_one_finite_answer_for_each_window(plugin: type[nn.Module], options: dict[str, Any]) -> None:
    answer = net(plugin, **options)(windows(4))
    assert answer.shape == (4, OUTPUTS)
    assert answer.isfinite().all()


@EVERY
def test_the_same_seed_gives_the_same_weights_and_another_others(
    plugin: type[nn.Module], options: dict[str, Any]
) -> None:
    first, again, other = (net(plugin, seed, **options).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if first[name].ndim > 1)  # all but biases


@EVERY
def test_an_answer_does_not_depend_on_the_other_windows_of_the_batch(
    plugin: type[nn.Module], options: dict[str, Any]
) -> None:
    made = net(plugin, **options)
    mine = windows(1)
    crowd = torch.cat([100 * windows(3, seed=2), mine, -100 * windows(4, seed=3)])
    assert_allclose(made(crowd)[3:4].detach(), made(mine).detach(), atol=1e-6)


@EVERY_OF_BARS
def test_nets_of_bars_see_their_order(plugin: type[nn.Module], options: dict[str, Any]) -> None:
    made = net(plugin, **options)
    x = windows(8)
    shuffled = torch.cat([x[:, :-1].flip(1), x[:, -1:]], dim=1)  # the last bar stays
    assert ((made(x) - made(shuffled)).abs().amax(dim=1) > 1e-4).all()


@EVERY_OF_BARS
def test_nets_of_bars_see_every_bar(plugin: type[nn.Module], options: dict[str, Any]) -> None:
    assert (gradient_by_bar(net(plugin, **options)) > 0).all()


def test_the_mlp_sees_the_last_bar_and_no_other() -> None:
    moved = gradient_by_bar(net(Mlp))
    assert (moved[:-1] == 0).all()
    assert moved[-1] > 0


@PLUGINS
def test_dropout_acts_in_training_alone(plugin: type[nn.Module]) -> None:
    made, x = net(plugin), windows(8)
    assert torch.equal(made(x), made(x))
    made.train()
    assert not torch.equal(made(x), made(x))


def test_dropout_acts_between_recurrent_layers_too() -> None:
    x = windows(8)
    one, two = (net(Recurrent, layers=layers).train().recurrence for layers in (1, 2))
    assert torch.equal(one(x)[0], one(x)[0])
    assert not torch.equal(two(x)[0], two(x)[0])


@EVERY
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",  # of the exporter itself
    "ignore::torch.jit.TracerWarning",  # of torch's own checks in nn.LSTM and nn.GRU
    "ignore:Exporting a model to ONNX with a batch_size other than 1:UserWarning",  # what is tested here
)
def test_the_graph_answers_as_the_net_does_at_any_batch(
    plugin: type[nn.Module], options: dict[str, Any], tmp_path: Path
) -> None:
    made, file = net(plugin, **options), tmp_path / "net.onnx"
    torch.onnx.export(
        made,
        (windows(2),),
        file,
        dynamo=False,
        opset_version=17,
        input_names=["inputs"],
        output_names=["answer"],
        dynamic_axes={"inputs": {0: "batch"}, "answer": {0: "batch"}},
    )
    alone = onnxruntime.SessionOptions()
    alone.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, alone)
    for batch in (1, 2, 37):
        x = windows(batch, seed=batch)
        (answer,) = session.run(["answer"], {"inputs": x.numpy()})
        apart = np.abs(answer - made(x).detach().numpy())
        assert apart.shape == (batch, OUTPUTS)
        assert apart.mean() <= 1e-6
        assert apart.max() <= 1e-5


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_attention_weights_are_shares_of_one(cell: str, bidirectional: bool) -> None:
    shares = net(Recurrent, cell=cell, bidirectional=bidirectional, attention=True).weights(windows(9))
    assert shares.shape == (9, BARS)
    assert (shares >= 0).all()
    assert_allclose(shares.sum(dim=1).detach(), 1.0, rtol=1e-6)
    assert shares.std(dim=1).min() > 1e-4  # not the same for every bar


def test_attention_is_the_softmax_of_the_paper_and_its_answer_the_weighted_sum() -> None:
    made, x = net(Recurrent, attention=True), windows(9)
    states = made.recurrence(x)[0].detach().numpy()  # (B, T, hidden)
    W, b, v = (parameter.detach().numpy() for parameter in made.attention.parameters())
    shares = softmax((v[0] * np.tanh(np.einsum("ij,btj->bti", W, states) + b)).sum(axis=2), axis=1)
    assert_allclose(made.weights(x).detach(), shares, rtol=1e-5)
    summary = torch.from_numpy(np.einsum("bt,bti->bi", shares, states))
    assert_allclose(made(x).detach(), made.head(summary).detach(), atol=1e-6)


def test_weights_without_attention_are_refused() -> None:
    with pytest.raises(ValueError, match="recurrent: a net with attention: false has no attention weights"):
        net(Recurrent).weights(windows(1))


@pytest.mark.parametrize(("cell", "layers"), [("lstm", 1), ("gru", 2)])
def test_without_attention_both_directions_answer_from_their_final_states(cell: str, layers: int) -> None:
    made, x = net(Recurrent, cell=cell, layers=layers, bidirectional=True), windows(4)
    final = made.recurrence(x)[1]
    forward, backward = (final[0] if cell == "lstm" else final)[-2:]  # of the last layer
    assert_allclose(made(x).detach(), made.head(torch.cat([forward, backward], dim=1)).detach(), atol=1e-6)


@pytest.mark.parametrize(("cell", "gates"), [("lstm", 4), ("gru", 3)])
def test_recurrent_weights_begin_orthogonal_gate_by_gate(cell: str, gates: int) -> None:
    recurrence = net(Recurrent, cell=cell, layers=2, bidirectional=True).recurrence
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        by_gate = getattr(recurrence, f"weight_hh_{suffix}").detach().reshape(gates, 6, 6)
        assert_allclose(by_gate @ by_gate.mT, np.broadcast_to(np.eye(6), (gates, 6, 6)), atol=1e-5)


def test_an_lstm_begins_with_a_forget_bias_of_one() -> None:
    recurrence = net(Recurrent, layers=2, bidirectional=True).recurrence
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        both = getattr(recurrence, f"bias_ih_{suffix}") + getattr(recurrence, f"bias_hh_{suffix}")
        assert both.reshape(4, 6)[1].tolist() == [1.0] * 6  # torch's order of gates: input, forget, cell, output


def test_the_cnn_sees_no_bar_before_its_receptive_field() -> None:
    moved = gradient_by_bar(net(Cnn, channels=[6, 6], kernel=3, pool="last"))
    assert (moved > 0).tolist() == [False] * 3 + [True] * 5  # 1 + 2 * (3 - 1) bars


def test_what_the_cnn_makes_of_a_bar_ignores_later_bars() -> None:
    made, x = net(Cnn, batch_norm=True), windows(4).transpose(1, 2)
    assert_allclose(made.blocks(x)[:, :, :5].detach(), made.blocks(x[:, :, :5]).detach(), atol=1e-6)


@pytest.mark.parametrize(("pool", "expected"), [("last", 4), ("max", 6), ("mean", 10 / 3)])
def test_the_cnn_convolves_and_pools_as_by_hand(pool: str, expected: float) -> None:
    made = Cnn(columns=1, bars=3, outputs=1, channels=[1], kernel=2, pool=pool, batch_norm=False, dropout=0.0)
    made.blocks[0][0].weight.data = torch.tensor([[[1.0, 2.0]]])
    made.head.weight.data, made.head.bias.data = torch.ones(1, 1), torch.zeros(1)
    x = torch.tensor([3.0, -4.0, 4.0]).reshape(1, 3, 1)  # convolved 0 + 6, 3 - 8, -4 + 8, and -5 becomes 0
    assert made(x).item() == pytest.approx(expected)


def test_batch_normalisation_makes_training_indifferent_to_scale() -> None:
    x = windows(64)
    normalised, plain = (net(Cnn, batch_norm=batch_norm, dropout=0.0).train() for batch_norm in (True, False))
    assert_allclose(normalised(10 * x).detach(), normalised(x).detach(), atol=1e-3)
    assert (plain(10 * x) - plain(x)).abs().max() > 0.1


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_the_mlp_activates_as_it_is_told(activation: str) -> None:
    made, x = net(Mlp, hidden=[6], activation=activation), windows(4)
    (layer,) = made.layers
    expected = made.head(getattr(nn.functional, activation)(layer[0](x[:, -1])))
    assert torch.equal(made(x), expected)


def test_the_transformer_is_that_of_torch_with_its_norms_first() -> None:
    made, x = net(Transformer, layers=2), windows(4)
    layer = nn.TransformerEncoderLayer(12, 3, 16, 0.0, "gelu", batch_first=True, norm_first=True)
    torchs = nn.TransformerEncoder(layer, 2, norm=made.norm, enable_nested_tensor=False)
    for theirs, ours in zip(torchs.layers, made.blocks, strict=True):
        attention = ours.attention
        weights = (attention.query.weight, attention.key.weight, attention.value.weight)
        theirs.self_attn.in_proj_weight.data = torch.cat(weights)
        theirs.self_attn.in_proj_bias.data = torch.cat([attention.query.bias, torch.zeros(12), attention.value.bias])
        theirs.self_attn.out_proj = attention.joined
        theirs.norm1, theirs.norm2 = ours.attention_norm, ours.feedforward_norm
        theirs.linear1, theirs.linear2 = ours.feedforward[0], ours.feedforward[2]
    whole = torchs.train()(made.embedding(x) + made.positions)  # (B, T, d_model), by the path that is not fused
    assert_allclose(made(x).detach(), made.head(whole[:, -1]).detach(), atol=1e-6)


def test_sinusoids_are_those_of_the_paper() -> None:
    first, second = (net(Transformer, d_model=width, heads=1).positions[1] for width in (4, 3))
    expected = [np.sin(1), np.cos(1), np.sin(0.01), np.cos(0.01)]
    assert_allclose(first, expected, rtol=1e-6)
    assert_allclose(second, [np.sin(1), np.cos(1), np.sin(10_000 ** (-2 / 3))], rtol=1e-5)


@PLUGINS
@pytest.mark.parametrize("size", ["columns", "bars", "outputs"])
def test_a_net_of_nothing_is_refused(plugin: type[nn.Module], size: str) -> None:
    with pytest.raises(ValueError, match=rf"{plugin.__name__.lower()}: {size} is 0; allowed are whole numbers from 1"):
        net(plugin, **{size: 0})


@PLUGINS
@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan"), "1e-3"])
def test_a_dropout_that_is_no_share_below_one_is_refused(plugin: type[nn.Module], dropout: object) -> None:
    with pytest.raises(
        ValueError, match=rf"{plugin.__name__.lower()}: dropout is {dropout!r}; allowed is 0 <= dropout"
    ):
        net(plugin, dropout=dropout)


@pytest.mark.parametrize(
    ("plugin", "changes", "told"),
    [
        (Recurrent, {"cell": "rnn"}, r"recurrent: cell is 'rnn'; allowed are \['gru', 'lstm'\]"),
        (Recurrent, {"hidden": 0}, "recurrent: hidden is 0; allowed are whole numbers from 1 on"),
        (Recurrent, {"layers": 1.5}, "recurrent: layers is 1.5; allowed are whole numbers from 1 on"),
        (Cnn, {"channels": []}, r"cnn: channels is \[\]; allowed is a list of one width or more"),
        (Cnn, {"channels": 32}, "cnn: channels is 32; allowed is a list of one width or more"),
        (Cnn, {"channels": [8, 0]}, r"cnn: channels\[1\] is 0; allowed are whole numbers from 1 on"),
        (Cnn, {"kernel": 0}, "cnn: kernel is 0; allowed are whole numbers from 1 on"),
        (Cnn, {"pool": "first"}, r"cnn: pool is 'first'; allowed are \['last', 'max', 'mean'\]"),
        (
            Transformer,
            {"d_model": 10, "heads": 4},
            "transformer: d_model is 10 and heads is 4; heads must divide d_model",
        ),
        (Transformer, {"heads": 0}, "transformer: heads is 0; allowed are whole numbers from 1 on"),
        (Transformer, {"layers": 0}, "transformer: layers is 0; allowed are whole numbers from 1 on"),
        (Transformer, {"feedforward": -1}, "transformer: feedforward is -1; allowed are whole numbers from 1 on"),
        (Transformer, {"positions": "none"}, r"positions is 'none'; allowed are \['learnt', 'sinusoidal'\]"),
        (Mlp, {"hidden": []}, r"mlp: hidden is \[\]; allowed is a list of one width or more"),
        (Mlp, {"hidden": [-4]}, r"mlp: hidden\[0\] is -4; allowed are whole numbers from 1 on"),
        (Mlp, {"activation": "tanh"}, r"mlp: activation is 'tanh'; allowed are \['gelu', 'relu', 'silu'\]"),
    ],
)
def test_a_tunable_that_is_not_allowed_is_named_with_those_that_are(
    plugin: type[nn.Module], changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        net(plugin, **changes)
