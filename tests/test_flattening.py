"""Trees over windows: what they see of a window, in Python and in the graph."""

import numpy as np
import onnxruntime
import pytest

from pipeline.models.base import Signature
from pipeline.models.parity_checks.base import find_parity_checks
from pipeline.models.plugins import load
from pipeline.models.trees.engine.flattening import Flattening
from tests.data import OUTPUTS, TEST, TRAIN, VALID, plant_samples
from tests.params import BLOCKS, build_model

X = np.arange(12, dtype=np.float32).reshape(6, 2)
SEGMENT = np.int32([0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("last", [[6, 7], [10, 11]]),
        ("mean", [[4, 5], [np.float32(26) / np.float32(3), np.float32(29) / np.float32(3)]]),
        ("flatten", [[2, 3, 4, 5, 6, 7], [8, 9, 8, 9, 10, 11]]),
    ],
)
def test_a_window_is_of_one_segment_whose_first_row_is_repeated(method, expected):
    flattening = Flattening(3, method, ("a", "b"))
    windows = flattening.gather(X, SEGMENT, np.array([3, 5]))
    assert windows[:, :, 0].tolist() == [[2, 4, 6], [8, 8, 10]]
    assert np.array_equal(flattening.flatten(windows), np.float32(expected))
    assert np.array_equal(flattening.flatten(flattening.expand(np.float32(expected))), np.float32(expected))


def test_names_of_a_whole_window_count_bars_back_from_the_row():
    assert Flattening(2, "flatten", ("a", "b")).names == ("a[t-1]", "b[t-1]", "a", "b")
    assert Flattening(2, "mean", ("a", "b")).names == ("a", "b")


@pytest.mark.parametrize("name", ["lightgbm", "xgboost_barrier", "catboost"])
@pytest.mark.parametrize("method", ["last", "mean", "flatten"])
def test_trees_over_windows_are_exported_without_a_flipped_leaf(name, method, tmp_path):
    family, block = BLOCKS[name]
    kind = "barrier" if name == "xgboost_barrier" else "return"
    samples = plant_samples(kind, seed=1)
    changes = {"window": 3, "flatten": method, "num_boost_round": 5}
    signature = Signature(columns=samples.columns, output=OUTPUTS[kind])
    model = build_model(name, signature, seed=7, changes=changes)
    model.fit(samples, TRAIN, VALID)
    model.save(tmp_path)
    model.to_onnx(tmp_path / "model.onnx")
    checks, ordinary = find_parity_checks(family), model.inputs(samples, TEST)
    inputs = np.concatenate([ordinary, checks.make_edge_cases(model, ordinary, rng=np.random.default_rng(2))])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (prediction,) = session.run(["answer"], {"inputs": inputs})
    assert inputs.shape[1:] == (3, len(samples.columns))
    assert not checks.count_flips(model, inputs, tmp_path / "model.onnx").any()
    assert prediction == pytest.approx(model.predict(inputs), abs=1e-6)
    assert np.array_equal(load(tmp_path).predict_rows(samples, TEST), model.predict_rows(samples, TEST))
    assert len(model.measure_importances()["gain"]) == (24 if method == "flatten" else 8)
    assert model.lookback_bars == 2
