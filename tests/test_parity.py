import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.models.base import Model, Shape
from pipeline.stages import parity

LIMITS = {"mean_abs": 1e-6, "max_abs": 1e-5}


class Doubled(Model):
    """Answers twice the first column."""

    def fit(self, samples, train, valid):
        return []

    def predict(self, inputs):
        return 2 * inputs[:, :1]

    def standardisation(self):
        return None

    def save_fitted(self, folder): ...

    def load_fitted(self, folder): ...

    def to_onnx(self, file, *, factor=2.0):
        weight = numpy_helper.from_array(np.array([[factor], [0.0]], np.float32), "weight")
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["inputs", "weight"], ["answer"])],
            "doubled",
            [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, 2])],
            [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [None, 1])],
            [weight],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), file)


@pytest.fixture
def model():
    return Doubled(shape=Shape(columns=("a", "b"), outputs=("return",)), seed=0)


@pytest.fixture
def inputs():
    return np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)


def test_an_equal_graph_passes(model, inputs, tmp_path):
    model.to_onnx(tmp_path / "model.onnx")
    found = parity.compare(model, tmp_path / "model.onnx", [inputs], scale=np.array([2.0]))
    assert found["max_abs"] == 0
    parity.refuse(found, "holdout", **LIMITS)


def test_a_graph_that_answers_otherwise_stops_the_line_naming_the_row(model, inputs, tmp_path):
    model.to_onnx(tmp_path / "model.onnx", factor=2.001)
    found = parity.compare(model, tmp_path / "model.onnx", [inputs], scale=np.array([2.0]))
    worst = int(np.argmax(np.abs(inputs[:, 0])))
    assert found["max_abs"] == pytest.approx(0.001 * abs(inputs[worst, 0]), rel=1e-3)
    with pytest.raises(
        parity.ParityError, match=f"mean_abs .* on the holdout rows, above 1e-06; the worst is row {worst}"
    ):
        parity.refuse(found, "holdout", **LIMITS)


def test_a_difference_that_is_small_in_itself_counts_over_the_spread_of_the_answers(model, inputs, tmp_path):
    model.to_onnx(tmp_path / "model.onnx", factor=2.0 + 2e-6)
    small = inputs * np.float32(0.01)
    found = parity.compare(model, tmp_path / "model.onnx", [small], scale=np.array([1e-4]))
    assert found["max_abs"] < 1e-5 < found["max_over_std"]
    with pytest.raises(parity.ParityError, match="over_std"):
        parity.refuse(found, "holdout", **LIMITS)


def test_answers_that_never_vary_have_no_relative_difference(model, inputs, tmp_path):
    model.to_onnx(tmp_path / "model.onnx")
    found = parity.compare(model, tmp_path / "model.onnx", [inputs], scale=np.array([0.0]))
    assert np.isnan(found["max_over_std"])
    parity.refuse(found, "holdout", **LIMITS)


def test_a_graph_that_answers_nan_stops_the_line(model, inputs, tmp_path):
    model.to_onnx(tmp_path / "model.onnx", factor=np.nan)
    found = parity.compare(model, tmp_path / "model.onnx", [inputs], scale=np.array([2.0]))
    with pytest.raises(parity.ParityError, match="100 answers to the holdout rows differ by no finite number"):
        parity.refuse(found, "holdout", **LIMITS)


def test_a_graph_of_another_shape_stops_the_line():
    with pytest.raises(parity.ParityError, match=r"the graph answers \(3,\), the model \(3, 1\)"):
        parity.distance(np.zeros(3), np.zeros((3, 1)))


def test_one_flipped_leaf_stops_the_line():
    found = dict.fromkeys(("mean_abs", "max_abs", "mean_over_std", "max_over_std"), 0.0)
    found |= {"worst_row": 0, "flipped_leaves": 1, "flipped_row": 7, "not_finite": 0}
    with pytest.raises(parity.ParityError, match="1 leaves are taken otherwise on the hard rows, the most at row 7"):
        parity.refuse(found, "hard", **LIMITS)
