"""Int8 copies of graphs: how close they are, what is refused, and limits on the difference."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.models.onnx_session import open_session
from pipeline.stages import quantize
from tests.data import OUTPUTS

LIMITS = {"min_rank_correlation": 0.99, "max_flipped_share": 0.02}
GOOD = {"rank_correlation": 0.999, "flipped_share": 0.001}


def write_linear_graph(file, *, columns=64, outputs=1):
    """Write a graph of one matrix product to `file`."""
    weights = np.random.default_rng(0).normal(size=(columns, outputs)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["inputs", "weights"], ["answer"])],
        "linear",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [None, outputs])],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)


@pytest.fixture
def graphs(tmp_path):
    """A float32 graph and its int8 copy."""
    write_linear_graph(tmp_path / "model.onnx")
    quantize.write_int8_graph(tmp_path / "model.onnx", tmp_path / "int8.onnx", model="linear")
    return tmp_path / "model.onnx", tmp_path / "int8.onnx"


def test_the_int8_predictions_are_close_to_the_float32_predictions(graphs):
    inputs = np.random.default_rng(1).normal(size=(300, 1, 64)).astype(np.float32)
    found = quantize.compare_graphs(*graphs, iter(inputs / 10), output=OUTPUTS["return"])
    assert found["rows"] == 300
    assert found["rank_correlation"] > 0.999
    assert 0 < found["mean_abs"] < found["max_abs"] < 0.05
    assert found["flipped_share"] < 0.03


def test_the_int8_graph_has_the_same_bytes_each_time(graphs, tmp_path):
    quantize.write_int8_graph(graphs[0], tmp_path / "again.onnx", model="linear")
    assert (tmp_path / "again.onnx").read_bytes() == graphs[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.onnx", "int8.onnx", "model.onnx"]


def test_the_int8_graph_takes_one_row_at_a_time_since_others_would_change_its_prediction(graphs):
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="Expected: 1"):
        open_session(graphs[1]).run(["answer"], {"inputs": np.zeros((2, 64), np.float32)})


def test_a_graph_without_weights_is_refused(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["inputs"], ["answer"])],
        "same",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [None, 1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"^the graph of \['Identity'\] has no weights"):
        quantize.write_int8_graph(tmp_path / "a.onnx", tmp_path / "b.onnx", model="same")


def test_a_graph_with_inputs_that_are_no_features_is_refused_by_name():
    quantize.check_columns(["rsi", "vpin"], ("rsi", "vpin"), model="nets.lstm")
    with pytest.raises(
        ValueError,
        match=r"^the graph needs the inputs \['position'\].*take agents.d4pg out of quantize.models",
    ):
        quantize.check_columns(["rsi", "position"], ("rsi",), model="agents.d4pg")


def test_a_decision_is_the_most_probable_class_or_the_sign_of_the_score():
    classes = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3]])
    assert quantize.to_decision(classes, np.array([-0.3, 0.1]), OUTPUTS["direction"]).tolist() == [0, 1]
    assert quantize.to_decision(
        np.array([[0.2], [-0.1], [0.0]]), np.array([0.2, -0.1, 0.0]), OUTPUTS["return"]
    ).tolist() == [1, -1, 0]


def test_an_int8_graph_within_its_limits_passes():
    quantize.raise_if_beyond_limits(GOOD, "nets.lstm", **LIMITS)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"rank_correlation": 0.98}, "rank correlation of 0.98, below quantize.min_rank_correlation 0.99"),
        ({"rank_correlation": float("nan")}, "rank correlation of nan"),
        ({"flipped_share": 0.03}, "differ on 3.000% of the rows, above quantize.max_flipped_share 2.000%"),
    ],
)
def test_an_int8_graph_beyond_a_limit_is_refused(found, message):
    with pytest.raises(
        quantize.QuantizationError,
        match=f"^the int8 .*{message}.*; deploy trained/onnx/lstm and take nets.lstm out",
    ):
        quantize.raise_if_beyond_limits(GOOD | found, "nets.lstm", **LIMITS)
