import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.models.base import Model, Signature
from pipeline.models.parity_checks.base import count_flips
from pipeline.stages import parity
from tests.data import OUTPUTS

LIMITS = {"mean_abs": 1e-6, "max_abs": 1e-5}


class Doubled(Model):
    """Predicts twice the first column."""

    output_kinds = ("value",)

    def fit(self, samples, train, valid):
        return []

    def predict(self, inputs):
        return 2 * inputs[:, :1]

    @property
    def standardization(self):
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
    return Doubled(signature=Signature(columns=("a", "b"), output=OUTPUTS["return"]), seed=0)


@pytest.fixture
def inputs():
    return np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)


def test_an_equal_graph_passes(model, inputs, tmp_path):
    model.to_onnx(tmp_path / "model.onnx")
    found = parity.compare(model, tmp_path / "model.onnx", [inputs], scale=np.array([2.0]), count_flips=count_flips)
    assert found["max_abs"] == 0
    parity.check_limits(found, "holdout", **LIMITS)


def test_a_graph_that_predicts_something_else_is_refused_naming_the_row(model, inputs, tmp_path):
    model.to_onnx(tmp_path / "model.onnx", factor=2.001)
    found = parity.compare(model, tmp_path / "model.onnx", [inputs], scale=np.array([2.0]), count_flips=count_flips)
    worst = int(np.argmax(np.abs(inputs[:, 0])))
    assert found["max_abs"] == pytest.approx(0.001 * abs(inputs[worst, 0]), rel=1e-3)
    with pytest.raises(
        parity.ParityError, match=f"mean_abs .* on the holdout rows, above 1e-06; the worst is row {worst}"
    ):
        parity.check_limits(found, "holdout", **LIMITS)


def test_a_small_difference_is_refused_where_it_is_large_relative_to_the_spread_of_predictions(model, inputs, tmp_path):
    model.to_onnx(tmp_path / "model.onnx", factor=2.0 + 2e-6)
    small = inputs * np.float32(0.01)
    found = parity.compare(model, tmp_path / "model.onnx", [small], scale=np.array([1e-4]), count_flips=count_flips)
    assert found["max_abs"] < 1e-5 < found["max_over_std"]
    with pytest.raises(parity.ParityError, match="over_std"):
        parity.check_limits(found, "holdout", **LIMITS)


def test_constant_predictions_have_no_relative_difference(model, inputs, tmp_path):
    model.to_onnx(tmp_path / "model.onnx")
    found = parity.compare(model, tmp_path / "model.onnx", [inputs], scale=np.array([0.0]), count_flips=count_flips)
    assert np.isnan(found["max_over_std"])
    parity.check_limits(found, "holdout", **LIMITS)


def test_a_graph_that_predicts_nan_is_refused(model, inputs, tmp_path):
    model.to_onnx(tmp_path / "model.onnx", factor=np.nan)
    found = parity.compare(model, tmp_path / "model.onnx", [inputs], scale=np.array([2.0]), count_flips=count_flips)
    with pytest.raises(parity.ParityError, match="100 predictions of the holdout rows differ by NaN or infinity"):
        parity.check_limits(found, "holdout", **LIMITS)


def test_a_graph_of_another_shape_is_refused():
    with pytest.raises(parity.ParityError, match=r"the graph predicts \(3,\), the model \(3, 1\)"):
        parity.subtract(np.zeros(3), np.zeros((3, 1)))


def test_one_flipped_leaf_is_refused():
    found = dict.fromkeys(("mean_abs", "max_abs", "mean_over_std", "max_over_std"), 0.0)
    found |= {"worst_row": 0, "flipped_decisions": 1, "flipped_row": 7, "not_finite": 0}
    with pytest.raises(parity.ParityError, match="1 decisions .* are flipped on the edge_cases rows, most at row 7"):
        parity.check_limits(found, "edge_cases", **LIMITS)
