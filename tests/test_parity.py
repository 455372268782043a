import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.models.base import Model, Signature
from pipeline.models.parity_checks.base import count_flips, find_parity_checks
from pipeline.stages import parity
from tests.data import OUTPUTS

LIMITS = parity.Limits(mean_abs=1e-6, max_abs=1e-5, max_relative=1e-4)


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


def compare(model, folder, inputs, *, unit):
    units = {"unit": np.array([unit]), "floor": LIMITS.floor}
    return parity.compare(model, folder / "model.onnx", [inputs], **units, count_flips=count_flips)


def test_an_equal_graph_passes(model, inputs, tmp_path):
    model.to_onnx(tmp_path / "model.onnx")
    found = parity.compare(
        model, tmp_path / "model.onnx", [inputs], floor=LIMITS.floor, unit=np.array([2.0]), count_flips=count_flips
    )
    assert found["max_abs"] == 0
    parity.check_limits(found, "holdout", LIMITS)


def test_a_graph_that_predicts_something_else_is_refused_naming_the_row(model, inputs, tmp_path):
    model.to_onnx(tmp_path / "model.onnx", factor=2.001)
    found = parity.compare(
        model, tmp_path / "model.onnx", [inputs], floor=LIMITS.floor, unit=np.array([2.0]), count_flips=count_flips
    )
    worst = int(np.argmax(np.abs(inputs[:, 0])))
    assert found["max_abs"] == pytest.approx(0.001 * abs(inputs[worst, 0]), rel=1e-3)
    with pytest.raises(
        parity.ParityError, match=f"mean_abs .* on the holdout rows, above 1e-06; the worst is row {worst}"
    ):
        parity.check_limits(found, "holdout", LIMITS)


def test_a_small_difference_is_refused_where_it_is_large_relative_to_the_spread_of_predictions(model, inputs, tmp_path):
    model.to_onnx(tmp_path / "model.onnx", factor=2.0 + 2e-6)
    small = inputs * np.float32(0.01)
    found = parity.compare(
        model, tmp_path / "model.onnx", [small], floor=LIMITS.floor, unit=np.array([1e-4]), count_flips=count_flips
    )
    assert found["max_abs"] < 1e-5 < found["max_over_std"]
    with pytest.raises(parity.ParityError, match="over_std"):
        parity.check_limits(found, "holdout", LIMITS)


def test_constant_predictions_have_no_relative_difference(model, inputs, tmp_path):
    model.to_onnx(tmp_path / "model.onnx")
    found = parity.compare(
        model, tmp_path / "model.onnx", [inputs], floor=LIMITS.floor, unit=np.array([0.0]), count_flips=count_flips
    )
    assert np.isnan(found["max_over_std"])
    parity.check_limits(found, "holdout", LIMITS)


def test_a_small_prediction_may_differ_by_one_part_in_ten_thousand_or_by_the_mean_limit():
    """Predictions 0.05 and 0.001: limits 5e-6 (1e-4 of it) and 1e-6 (the absolute one, as it is larger)."""
    for prediction, allowed in ((0.05, 5e-6), (0.001, 1e-6), (0.0, 1e-6)):
        for share, message in ((0.99, None), (1.01, "max_relative is 0.000101 on the holdout rows, above 0.0001")):
            difference = np.array([[0.0]] * 9 + [[share * allowed]])  # one row of ten, so that the mean is small
            relative = difference / max(prediction, LIMITS.floor)
            found = parity.summarize_differences(difference, relative, np.zeros(10, int), unit=np.ones(1))
            if message is None:
                parity.check_limits(found, "holdout", LIMITS)
                continue
            with pytest.raises(parity.ParityError, match=f"{message}; the worst is row 9") as refused:
                parity.check_limits(found, "holdout", LIMITS)
            assert "raise parity.max_relative" in str(refused.value)


def test_the_unit_of_the_spread_is_never_finer_than_float32_resolves():
    """A position of nearly constant 0.3: the mean limit, 1e-6 of the unit, is float32's epsilon of 1."""
    eps = np.finfo(np.float32).eps
    wide, narrow = np.array([[-0.5], [0.5]]), np.array([[0.299], [0.301]])
    position, value = OUTPUTS["position"], OUTPUTS["return"]
    assert parity.find_unit(wide, position, mean_abs=1e-6) == pytest.approx([0.5])
    assert parity.find_unit(narrow, position, mean_abs=1e-6) * 1e-6 == pytest.approx([eps])
    assert parity.find_unit(narrow * 1e-3, value, mean_abs=1e-6) * 1e-6 == pytest.approx([eps * 3e-4], rel=1e-4)
    assert parity.find_unit(wide * 1e-3, value, mean_abs=1e-6) == pytest.approx([5e-4])
    for output in (position, value):
        assert parity.find_unit(np.full((2, 1), 0.3), output, mean_abs=1e-6).tolist() == [0.0]


def test_a_graph_that_predicts_nan_is_refused(model, inputs, tmp_path):
    model.to_onnx(tmp_path / "model.onnx", factor=np.nan)
    found = parity.compare(
        model, tmp_path / "model.onnx", [inputs], floor=LIMITS.floor, unit=np.array([2.0]), count_flips=count_flips
    )
    with pytest.raises(parity.ParityError, match="100 predictions of the holdout rows differ by NaN or infinity"):
        parity.check_limits(found, "holdout", LIMITS)


def test_a_graph_of_another_shape_is_refused():
    with pytest.raises(parity.ParityError, match=r"the graph predicts \(3,\), the model \(3, 1\)"):
        parity.subtract(np.zeros(3), np.zeros((3, 1)))


@pytest.mark.parametrize(
    ("family", "decisions"), [("trees", "leaves of trees"), ("agents", "positions"), ("nets", "decisions")]
)
def test_one_flipped_decision_is_refused_by_its_own_name(family, decisions):
    found = dict.fromkeys(parity.STATISTICS, 0.0)
    found |= {"worst_row": 0, "flipped_decisions": 1, "flipped_row": 7, "not_finite": 0}
    with pytest.raises(parity.ParityError, match=f"^1 {decisions} are flipped on the edge_cases rows, most at row 7"):
        parity.check_limits(found, "edge_cases", LIMITS, decisions=find_parity_checks(family).decisions)
