"""Untrained modules of the nets: which bars they read, what they refuse, and that their ONNX graphs agree with them."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import softmax
from torch import Tensor, nn

from pipeline import config
from pipeline.models.nets.cnn import Cnn
from pipeline.models.nets.mlp import Mlp
from pipeline.models.nets.recurrent import Recurrent
from pipeline.models.nets.transformer import Transformer

COLUMNS, WINDOW, OUTPUTS = 5, 8, 3
HYPERPARAMETERS: dict[type[nn.Module], dict[str, Any]] = {
    Recurrent: {
        "cell": "lstm",
        "hidden_size": 6,
        "num_layers": 1,
        "bidirectional": False,
        "attention": False,
        "dropout": 0.5,
    },
    Cnn: {
        "channels": [6, 7, 8, 9],
        "kernel_size": 3,
        "pool": "last",
        "batch_norm": False,
        "dropout": 0.5,
    },  # reads 9 bars
    Transformer: {
        "d_model": 12,
        "nhead": 3,
        "num_layers": 2,
        "dim_feedforward": 16,
        "positional_encoding": "sinusoidal",
        "dropout": 0.5,
    },
    Mlp: {"hidden_sizes": [6, 7], "dropout": 0.5, "activation": "relu"},
}
OPTIONS: dict[type[nn.Module], dict[str, list[Any]]] = {
    Recurrent: {
        "cell": ["lstm", "gru"],
        "num_layers": [1, 2],
        "bidirectional": [False, True],
        "attention": [False, True],
    },
    Cnn: {"pool": ["last", "mean", "max"], "batch_norm": [False, True]},
    Transformer: {"num_layers": [1, 2], "positional_encoding": ["sinusoidal", "learned"]},
    Mlp: {"activation": ["relu", "gelu", "silu"]},
}
VARIANTS = [
    pytest.param(plugin, dict(zip(options, chosen, strict=True)), id="-".join([plugin.__name__, *map(str, chosen)]))
    for plugin, options in OPTIONS.items()
    for chosen in itertools.product(*options.values())
]
EVERY = pytest.mark.parametrize(("plugin", "options"), VARIANTS)
EVERY_SEQUENCE = pytest.mark.parametrize(("plugin", "options"), [p for p in VARIANTS if p.values[0] is not Mlp])
PLUGINS = pytest.mark.parametrize("plugin", HYPERPARAMETERS)


def make_net(plugin: type[nn.Module], seed: int = 0, **changes: object) -> nn.Module:
    """Return a module in evaluation mode, whose running statistics are no longer the initial ones."""
    torch.manual_seed(seed)
    block = {"columns": COLUMNS, "window": WINDOW, "outputs": OUTPUTS, **HYPERPARAMETERS[plugin], **changes}
    made = config.call_with(plugin, block=block, name=plugin.__name__.lower())
    with torch.no_grad():
        made.train()(3 * draw_windows(16, seed=8) + 1)
    return made.eval()


def draw_windows(count: int, *, seed: int = 1) -> Tensor:
    return torch.randn(count, WINDOW, COLUMNS, generator=torch.Generator().manual_seed(seed))


def measure_gradients(made: nn.Module) -> Tensor:
    """Return how much the outputs for many windows depend on each bar, (T,)."""
    x = draw_windows(16).requires_grad_()
    made(x).sum().backward()
    return x.grad.abs().sum(dim=(0, 2))


@EVERY
def test_every_option_gives_one_finite_output_for_each_window(plugin: type[nn.Module], options: dict[str, Any]) -> None:
    output = make_net(plugin, **options)(draw_windows(4))
    assert output.shape == (4, OUTPUTS)
    assert output.isfinite().all()


@EVERY
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    plugin: type[nn.Module], options: dict[str, Any]
) -> None:
    first, again, other = (make_net(plugin, seed, **options).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if first[name].ndim > 1)  # all but biases


@EVERY
def test_an_output_does_not_depend_on_the_other_windows_of_the_batch(
    plugin: type[nn.Module], options: dict[str, Any]
) -> None:
    made = make_net(plugin, **options)
    mine = draw_windows(1)
    batch = torch.cat([100 * draw_windows(3, seed=2), mine, -100 * draw_windows(4, seed=3)])
    assert_allclose(made(batch)[3:4].detach(), made(mine).detach(), atol=1e-6)


@EVERY_SEQUENCE
def test_sequence_nets_depend_on_the_order_of_bars(plugin: type[nn.Module], options: dict[str, Any]) -> None:
    made = make_net(plugin, **options)
    x = draw_windows(8)
    shuffled = torch.cat([x[:, :-1].flip(1), x[:, -1:]], dim=1)  # the last bar stays
    assert ((made(x) - made(shuffled)).abs().amax(dim=1) > 1e-4).all()


@EVERY_SEQUENCE
def test_sequence_nets_depend_on_every_bar(plugin: type[nn.Module], options: dict[str, Any]) -> None:
    assert (measure_gradients(make_net(plugin, **options)) > 0).all()


def test_the_mlp_depends_on_the_last_bar_and_no_other() -> None:
    gradients = measure_gradients(make_net(Mlp))
    assert (gradients[:-1] == 0).all()
    assert gradients[-1] > 0


@PLUGINS
def test_dropout_acts_in_training_alone(plugin: type[nn.Module]) -> None:
    made, x = make_net(plugin), draw_windows(8)
    assert torch.equal(made(x), made(x))
    made.train()
    assert not torch.equal(made(x), made(x))


def test_dropout_acts_between_recurrent_layers_too() -> None:
    x = draw_windows(8)
    one, two = (make_net(Recurrent, num_layers=layers).train().recurrence for layers in (1, 2))
    assert torch.equal(one(x)[0], one(x)[0])
    assert not torch.equal(two(x)[0], two(x)[0])


@EVERY
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",  # of the exporter itself
    "ignore::torch.jit.TracerWarning",  # of torch's own checks in nn.LSTM and nn.GRU
    "ignore:Exporting a model to ONNX with a batch_size other than 1:UserWarning",  # what is tested here
)
def test_the_graph_agrees_with_the_net_at_any_batch_size(
    plugin: type[nn.Module], options: dict[str, Any], tmp_path: Path
) -> None:
    made, file = make_net(plugin, **options), tmp_path / "net.onnx"
    torch.onnx.export(
        made,
        (draw_windows(2),),
        file,
        dynamo=False,
        opset_version=17,
        input_names=["inputs"],
        output_names=["answer"],
        dynamic_axes={"inputs": {0: "batch"}, "answer": {0: "batch"}},
    )
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, session_options)
    for batch in (1, 2, 37):
        x = draw_windows(batch, seed=batch)
        (output,) = session.run(["answer"], {"inputs": x.numpy()})
        difference = np.abs(output - made(x).detach().numpy())
        assert difference.shape == (batch, OUTPUTS)
        assert difference.mean() <= 1e-6
        assert difference.max() <= 1e-5


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_attention_weights_are_not_negative_and_have_sum_1(cell: str, bidirectional: bool) -> None:
    weights = make_net(Recurrent, cell=cell, bidirectional=bidirectional, attention=True).attend(draw_windows(9))
    assert weights.shape == (9, WINDOW)
    assert (weights >= 0).all()
    assert_allclose(weights.sum(dim=1).detach(), 1.0, rtol=1e-6)
    assert weights.std(dim=1).min() > 1e-4  # not the same for every bar


def test_attention_is_the_softmax_of_the_paper_and_its_summary_the_weighted_sum() -> None:
    made, x = make_net(Recurrent, attention=True), draw_windows(9)
    states = made.recurrence(x)[0].detach().numpy()  # (B, T, hidden)
    W, b, v = (parameter.detach().numpy() for parameter in made.attention.parameters())
    weights = softmax((v[0] * np.tanh(np.einsum("ij,btj->bti", W, states) + b)).sum(axis=2), axis=1)
    assert_allclose(made.attend(x).detach(), weights, rtol=1e-5)
    summary = torch.from_numpy(np.einsum("bt,bti->bi", weights, states))
    assert_allclose(made(x).detach(), made.head(summary).detach(), atol=1e-6)


def test_attention_weights_without_attention_are_refused() -> None:
    with pytest.raises(ValueError, match="recurrent: attention is false, so there are no attention weights"):
        make_net(Recurrent).attend(draw_windows(1))


@pytest.mark.parametrize(("cell", "layers"), [("lstm", 1), ("gru", 2)])
def test_without_attention_the_head_reads_the_final_states_of_both_directions(cell: str, layers: int) -> None:
    made, x = make_net(Recurrent, cell=cell, num_layers=layers, bidirectional=True), draw_windows(4)
    final = made.recurrence(x)[1]
    forward, backward = (final[0] if cell == "lstm" else final)[-2:]  # of the last layer
    assert_allclose(made(x).detach(), made.head(torch.cat([forward, backward], dim=1)).detach(), atol=1e-6)


@pytest.mark.parametrize(("cell", "gates"), [("lstm", 4), ("gru", 3)])
def test_initial_recurrent_weights_are_orthogonal_gate_by_gate(cell: str, gates: int) -> None:
    recurrence = make_net(Recurrent, cell=cell, num_layers=2, bidirectional=True).recurrence
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        by_gate = getattr(recurrence, f"weight_hh_{suffix}").detach().reshape(gates, 6, 6)
        assert_allclose(by_gate @ by_gate.mT, np.broadcast_to(np.eye(6), (gates, 6, 6)), atol=1e-5)


def test_the_initial_forget_bias_of_an_lstm_is_one() -> None:
    recurrence = make_net(Recurrent, num_layers=2, bidirectional=True).recurrence
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        both = getattr(recurrence, f"bias_ih_{suffix}") + getattr(recurrence, f"bias_hh_{suffix}")
        assert both.reshape(4, 6)[1].tolist() == [1.0] * 6  # torch's order of gates: input, forget, cell, output


def test_the_cnn_depends_on_no_bar_before_its_receptive_field() -> None:
    gradients = measure_gradients(make_net(Cnn, channels=[6, 6], kernel_size=3, pool="last"))
    assert (gradients > 0).tolist() == [False] * 3 + [True] * 5  # 1 + 2 * (3 - 1) bars


def test_the_convolutions_of_a_bar_ignore_later_bars() -> None:
    made, x = make_net(Cnn, batch_norm=True), draw_windows(4).transpose(1, 2)
    assert_allclose(made.blocks(x)[:, :, :5].detach(), made.blocks(x[:, :, :5]).detach(), atol=1e-6)


@pytest.mark.parametrize(("pool", "expected"), [("last", 4), ("max", 6), ("mean", 10 / 3)])
def test_the_cnn_convolves_and_pools_as_by_hand(pool: str, expected: float) -> None:
    made = Cnn(columns=1, window=3, outputs=1, channels=[1], kernel_size=2, pool=pool, batch_norm=False, dropout=0.0)
    made.blocks[0][0].weight.data = torch.tensor([[[1.0, 2.0]]])
    made.head.weight.data, made.head.bias.data = torch.ones(1, 1), torch.zeros(1)
    x = torch.tensor([3.0, -4.0, 4.0]).reshape(1, 3, 1)  # convolved 0 + 6, 3 - 8, -4 + 8, and -5 becomes 0
    assert made(x).item() == pytest.approx(expected)


def test_batch_normalization_makes_training_independent_of_scale() -> None:
    x = draw_windows(64)
    normalized, plain = (make_net(Cnn, batch_norm=batch_norm, dropout=0.0).train() for batch_norm in (True, False))
    assert_allclose(normalized(10 * x).detach(), normalized(x).detach(), atol=1e-3)
    assert (plain(10 * x) - plain(x)).abs().max() > 0.1


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_the_mlp_uses_its_activation(activation: str) -> None:
    made, x = make_net(Mlp, hidden_sizes=[6], activation=activation), draw_windows(4)
    (layer,) = made.layers
    expected = made.head(getattr(nn.functional, activation)(layer[0](x[:, -1])))
    assert torch.equal(made(x), expected)


def test_the_mlp_without_hidden_layers_is_a_linear_model_of_the_last_bar() -> None:
    made, x = make_net(Mlp, hidden_sizes=[], dropout=0.5).train(), draw_windows(4)
    assert_allclose(made(x).detach(), (x[:, -1] @ made.head.weight.T + made.head.bias).detach(), rtol=1e-6)


def test_the_transformer_agrees_with_torch_s_with_norm_first() -> None:
    made, x = make_net(Transformer, num_layers=2), draw_windows(4)
    layer = nn.TransformerEncoderLayer(12, 3, 16, 0.0, "gelu", batch_first=True, norm_first=True)
    torchs = nn.TransformerEncoder(layer, 2, norm=made.norm, enable_nested_tensor=False)
    for theirs, ours in zip(torchs.layers, made.blocks, strict=True):
        attention = ours.attention
        weights = (attention.query.weight, attention.key.weight, attention.value.weight)
        theirs.self_attn.in_proj_weight.data = torch.cat(weights)
        theirs.self_attn.in_proj_bias.data = torch.cat([attention.query.bias, torch.zeros(12), attention.value.bias])
        theirs.self_attn.out_proj = attention.out_proj
        theirs.norm1, theirs.norm2 = ours.attention_norm, ours.feedforward_norm
        theirs.linear1, theirs.linear2 = ours.feedforward[0], ours.feedforward[2]
    whole = torchs.train()(made.embedding(x) + made.positions)  # (B, T, d_model), by the path that is not fused
    assert_allclose(made(x).detach(), made.head(whole[:, -1]).detach(), atol=1e-6)


def test_sinusoids_are_those_of_the_paper() -> None:
    first, second = (make_net(Transformer, d_model=width, nhead=1).positions[1] for width in (4, 3))
    expected = [np.sin(1), np.cos(1), np.sin(0.01), np.cos(0.01)]
    assert_allclose(first, expected, rtol=1e-6)
    assert_allclose(second, [np.sin(1), np.cos(1), np.sin(10_000 ** (-2 / 3))], rtol=1e-5)


@PLUGINS
@pytest.mark.parametrize("size", ["columns", "window", "outputs"])
def test_a_size_of_zero_is_refused(plugin: type[nn.Module], size: str) -> None:
    with pytest.raises(ValueError, match=rf"{plugin.__name__.lower()}.{size} is 0; it must be above 0"):
        make_net(plugin, **{size: 0})


@PLUGINS
@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan"), "1e-3"])
def test_a_dropout_that_is_no_probability_below_one_is_refused(plugin: type[nn.Module], dropout: object) -> None:
    with pytest.raises(ValueError, match=rf"{plugin.__name__.lower()}.dropout is {dropout!r}; it must be"):
        make_net(plugin, dropout=dropout)


@pytest.mark.parametrize(
    ("plugin", "changes", "message"),
    [
        (Recurrent, {"cell": "rnn"}, r"recurrent.cell is 'rnn'; it must be 'lstm' or 'gru'"),
        (Recurrent, {"hidden_size": 0}, "recurrent.hidden_size is 0; it must be above 0"),
        (Recurrent, {"num_layers": 1.5}, "recurrent.num_layers is 1.5; it must be a whole number"),
        (Cnn, {"channels": []}, r"cnn.channels is \[\]; it must be a list of at least 1"),
        (Cnn, {"channels": 32}, "cnn.channels is 32; it must be a list"),
        (Cnn, {"channels": [8, 0]}, "cnn.channels.1 is 0; it must be above 0"),
        (Cnn, {"kernel_size": 0}, "cnn.kernel_size is 0; it must be above 0"),
        (Cnn, {"pool": "first"}, "cnn.pool is 'first'; it must be 'last', 'max' or 'mean'"),
        (
            Transformer,
            {"d_model": 10, "nhead": 4},
            "^d_model is 10 and nhead is 4; nhead must divide d_model",
        ),
        (Transformer, {"nhead": 0}, "transformer.nhead is 0; it must be above 0"),
        (Transformer, {"num_layers": 0}, "transformer.num_layers is 0; it must be above 0"),
        (Transformer, {"dim_feedforward": -1}, "transformer.dim_feedforward is -1; it must be above 0"),
        (
            Transformer,
            {"positional_encoding": "none"},
            "positional_encoding is 'none'; it must be 'learned' or 'sinusoidal'",
        ),
        (Mlp, {"hidden_sizes": [-4]}, "mlp.hidden_sizes.0 is -4; it must be above 0"),
        (Mlp, {"activation": "tanh"}, "mlp.activation is 'tanh'; it must be 'relu', 'gelu' or 'silu'"),
    ],
)
def test_a_hyperparameter_out_of_range_is_named_with_what_is_allowed(
    plugin: type[nn.Module], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_net(plugin, **changes)
