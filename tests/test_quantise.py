import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.graphs import opened
from pipeline.stages import quantise

LIMITS = {"rank_correlation": 0.99, "flipped_decisions": 0.02}
GOOD = {"rank_correlation": 0.999, "flipped_decisions": 0.001}


def linear(file, *, columns=64, outputs=1):
    """A graph of one product, written to `file`; its weights."""
    weights = np.random.default_rng(0).normal(size=(columns, outputs)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["inputs", "weights"], ["answer"])],
        "linear",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [None, outputs])],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return weights


@pytest.fixture
def graphs(tmp_path):
    """A graph and its copy."""
    linear(tmp_path / "model.onnx")
    quantise.write(tmp_path / "model.onnx", tmp_path / "copy.onnx", model="linear")
    return tmp_path / "model.onnx", tmp_path / "copy.onnx"


def test_the_copy_answers_almost_as_the_graph_does(graphs):
    inputs = np.random.default_rng(1).normal(size=(300, 1, 64)).astype(np.float32)
    found = quantise.compared(*graphs, iter(inputs / 10), outputs=("return",))
    assert found["rows"] == 300
    assert found["rank_correlation"] > 0.999
    assert 0 < found["mean_abs"] < found["max_abs"] < 0.05
    assert found["flipped_decisions"] < 0.03


def test_the_copy_has_the_same_bytes_each_time(graphs, tmp_path):
    quantise.write(graphs[0], tmp_path / "again.onnx", model="linear")
    assert (tmp_path / "again.onnx").read_bytes() == graphs[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.onnx", "copy.onnx", "model.onnx"]


def test_the_copy_takes_one_row_at_a_time_since_others_would_change_its_answer(graphs):
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="Expected: 1"):
        opened(graphs[1]).run(["answer"], {"inputs": np.zeros((2, 64), np.float32)})


def test_a_graph_without_weights_is_refused(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["inputs"], ["answer"])],
        "same",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [None, 1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"same: its graph, of \['Identity'\], has no weights"):
        quantise.write(tmp_path / "a.onnx", tmp_path / "b.onnx", model="same")


def test_a_graph_that_sees_what_it_holds_is_refused_by_name():
    quantise.refuse_own(["rsi", "vpin"], ("rsi", "vpin"), model="lstm")
    with pytest.raises(ValueError, match=r"d4pg: its graph takes \['position'\].*take d4pg out of quantise.models"):
        quantise.refuse_own(["rsi", "position"], ("rsi",), model="d4pg")


def test_a_decision_is_the_class_called_or_the_side_of_neutral():
    classes = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3]])
    assert quantise.decided(classes, np.array([-0.3, 0.1])).tolist() == [0, 1]
    assert quantise.decided(np.array([[0.2], [-0.1], [0.0]]), np.array([0.2, -0.1, 0.0])).tolist() == [1, -1, 0]


def test_a_copy_within_its_limits_passes():
    quantise.refuse(GOOD, "lstm", **LIMITS)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"rank_correlation": 0.98}, "rank correlation of 0.98 .* below 0.99"),
        ({"rank_correlation": float("nan")}, "rank correlation of nan"),
        ({"flipped_decisions": 0.03}, "otherwise on 3.000% of the rows, above 2.000%"),
    ],
)
def test_a_copy_beyond_a_limit_is_refused(found, message):
    with pytest.raises(quantise.QuantisationError, match=f"lstm: .*{message}.*; deploy trained/onnx/lstm"):
        quantise.refuse(GOOD | found, "lstm", **LIMITS)
