"""Boosted trees beyond the contract of all models: exact splits, the best iteration, class columns, and leaf flips."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import catboost as cb
import lightgbm as lgb
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import xgboost as xgb
from onnx import numpy_helper
from scipy.special import expit, softmax
from sklearn.metrics import log_loss, mean_squared_error

from pipeline.models.base import Signature
from pipeline.models.parity_checks.trees import count_flips, make_edge_cases
from pipeline.models.plugins import build
from pipeline.models.trees.engine.forest import BoostedTrees
from pipeline.models.trees.engine.forest_graph import (
    LEAF,
    Tree,
    list_split_points,
    rank_leaves,
    read_onnx_trees,
    traverse_trees,
)
from pipeline.models.trees.lightgbm import round_leaves_to_float32, round_thresholds_to_float32
from pipeline.samples import Samples
from tests.data import OUTPUTS, TEST, TRAIN, VALID, plant_samples

BTCUSDT = Path(__file__).parents[1].parent / "shared" / "data" / "BTCUSDT_1m_2024-01-01_90d.parquet"
HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "lightgbm": {
        "learning_rate": 0.2,
        "num_leaves": 15,
        "min_data_in_leaf": 20,
        "feature_fraction": 0.7,
        "bagging_fraction": 0.7,
        "lambda_l2": 1.0,
        "max_bin": 255,
    },
    "xgboost": {
        "learning_rate": 0.2,
        "max_depth": 5,
        "min_child_weight": 5.0,
        "colsample_bytree": 0.7,
        "subsample": 0.7,
        "reg_lambda": 1.0,
        "max_bin": 255,
    },
    "catboost": {
        "learning_rate": 0.2,
        "depth": 5,
        "l2_leaf_reg": 1.0,
        "rsm": 0.7,
        "subsample": 0.7,
        "random_strength": 1.0,
        "border_count": 254,
    },
}
PLUGINS = pytest.mark.parametrize("plugin", HYPERPARAMETERS)
KINDS = pytest.mark.parametrize("kind", OUTPUTS)


def build_unfitted(plugin: str, kind: str, columns: tuple[str, ...], **changes: object) -> BoostedTrees:
    loss = "log" if OUTPUTS[kind].is_classification else "l2"
    hyperparameters = {"loss": loss, **HYPERPARAMETERS[plugin], **changes}
    block = {"dataset": "planted", "target": kind, "plugin": plugin, "hyperparameters": hyperparameters}
    signature = Signature(columns=columns, output=OUTPUTS[kind])
    model = build("trees", block, signature, shared={"num_boost_round": 60, "early_stopping_rounds": 10}, seed=3)
    assert isinstance(model, BoostedTrees)
    return model


def fit_model(
    plugin: str, samples: Samples, kind: str, train: np.ndarray = TRAIN, valid: np.ndarray = VALID
) -> BoostedTrees:
    model = build_unfitted(plugin, kind, samples.columns)
    model.fit(samples, train, valid)
    return model


def run_graph(file: Path, inputs: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(file).run(["answer"], {"inputs": inputs})[0]


def assert_graph_agrees(model: BoostedTrees, inputs: np.ndarray, file: Path) -> None:
    model.to_onnx(file)
    edge_cases = make_edge_cases(model, inputs, rng=np.random.default_rng(5))
    spread = model.predict(inputs).std(axis=0)
    for rows in (inputs, edge_cases):
        difference = np.abs(run_graph(file, rows).astype(np.float64) - model.predict(rows))
        assert (difference < 1e-5 * np.minimum(spread, 1.0)).all()
        assert not count_flips(model, rows, file).any()


@PLUGINS
@KINDS
def test_the_best_iteration_is_the_one_that_predicts_and_is_exported(plugin: str, kind: str, tmp_path: Path) -> None:
    samples = plant_samples(kind, seed=2)
    model = build_unfitted(plugin, kind, samples.columns)
    history = model.fit(samples, TRAIN, VALID)
    model.to_onnx(tmp_path / "model.onnx")
    best = min(history, key=lambda entry: entry["valid_loss"])
    assert best["iteration"] < len(history)  # otherwise nothing is shown
    exported, _ = read_onnx_trees(tmp_path / "model.onnx")
    trees_of_a_round = 3 if kind == "barrier" and plugin != "catboost" else 1  # CatBoost's leaves have all margins
    assert len(exported) == best["iteration"] * trees_of_a_round
    inputs, truth = model.inputs(samples, VALID), samples.y[VALID]
    for prediction in (model.predict(inputs), run_graph(tmp_path / "model.onnx", inputs)):
        exact = prediction.astype(np.float64)
        if model.signature.is_classification:
            loss = log_loss(truth, exact / exact.sum(axis=1, keepdims=True), labels=range(len(model.outputs)))
        else:
            loss = mean_squared_error(truth, exact[:, 0])
        assert loss == pytest.approx(best["valid_loss"], rel=1e-5)


@PLUGINS
@KINDS
def test_the_graph_agrees_for_every_kind_of_target(plugin: str, kind: str, tmp_path: Path) -> None:
    samples = plant_samples(kind, seed=4)
    model = fit_model(plugin, samples, kind)
    assert_graph_agrees(model, model.inputs(samples, TEST), tmp_path / "model.onnx")


@PLUGINS
@pytest.mark.parametrize("loss", ["l1", "huber"])
def test_robust_losses_learn_and_export(plugin: str, loss: str, tmp_path: Path) -> None:
    samples = plant_samples("return", seed=4)
    model = build_unfitted(plugin, "return", samples.columns, loss=loss)
    history = model.fit(samples, TRAIN, VALID)
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]
    assert_graph_agrees(model, model.inputs(samples, TEST), tmp_path / "model.onnx")


@PLUGINS
def test_a_loss_of_the_other_task_is_refused_with_the_allowed_ones(plugin: str) -> None:
    with pytest.raises(ValueError, match="loss is 'l2'; for the outputs down, flat, up it must be one of log"):
        build_unfitted(plugin, "barrier", ("a",), loss="l2")


@PLUGINS
def test_a_target_far_from_zero_that_hardly_varies_costs_no_digits(plugin: str, tmp_path: Path) -> None:
    samples = plant_samples("return", seed=6)
    shifted = replace(samples, y=(1 + samples.y / 20).astype(np.float32))
    model = fit_model(plugin, shifted, "return")
    assert_graph_agrees(model, model.inputs(shifted, TEST), tmp_path / "model.onnx")


@PLUGINS
@KINDS
def test_a_constant_target_gives_a_constant_prediction_that_still_exports(
    plugin: str, kind: str, tmp_path: Path
) -> None:
    samples = plant_samples(kind, seed=6)
    model = fit_model(plugin, replace(samples, y=np.ones_like(samples.y)), kind)
    inputs = model.inputs(samples, TEST)
    model.to_onnx(tmp_path / "model.onnx")
    predicted = model.predict(inputs)
    assert predicted[:, min(1, predicted.shape[1] - 1)] == pytest.approx(1.0, abs=2e-3)
    assert run_graph(tmp_path / "model.onnx", inputs) == pytest.approx(predicted, abs=1e-6)
    edge_cases = make_edge_cases(model, inputs, rng=np.random.default_rng(5))
    assert not count_flips(model, edge_cases, tmp_path / "model.onnx").any()


@PLUGINS
@KINDS
def test_predictions_equal_those_of_the_library_alone(plugin: str, kind: str, tmp_path: Path) -> None:
    samples = plant_samples(kind, seed=6)
    model = fit_model(plugin, samples, kind)
    model.save(tmp_path)
    inputs = model.inputs(samples, TEST)
    if plugin == "lightgbm":
        margins = lgb.Booster(model_file=tmp_path / "forest.txt").predict(inputs, raw_score=True)
    elif plugin == "catboost":
        margins = cb.CatBoost().load_model(tmp_path / "forest.cbm").predict(inputs)
    else:
        margins = xgb.Booster(model_file=tmp_path / "forest.ubj").predict(xgb.DMatrix(inputs), output_margin=True)
    frequency = np.bincount(samples.y[TRAIN]) if model.signature.is_classification else np.array([])
    if kind == "barrier":
        expected = softmax(margins + np.log(frequency), axis=1)
    elif kind in ("direction", "large_move"):
        expected = expit(margins + np.log(frequency[1] / frequency[0]))[:, None] * [-1, 1] + [1, 0]
    else:
        expected = margins[:, None] + samples.y[TRAIN].mean(dtype=np.float64)
    assert model.predict(inputs) == pytest.approx(expected, abs=2e-4)  # frequencies are each counted once more


@PLUGINS
def test_a_threshold_moved_by_one_float32_step_is_a_flip(plugin: str, tmp_path: Path) -> None:
    samples = plant_samples("return", seed=8)
    model = fit_model(plugin, samples, "return")
    model.to_onnx(tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx")
    (node,) = (node for node in graph.graph.node if node.op_type.startswith("TreeEnsemble"))
    (values,) = (a for a in node.attribute if a.name == "nodes_values_as_tensor")
    thresholds = numpy_helper.to_array(values.t).copy()
    on_root = model.inputs(samples, TEST[:1]).copy()
    (column,) = (a.ints[0] for a in node.attribute if a.name == "nodes_featureids")
    on_root[0, column] = thresholds[0]
    assert count_flips(model, on_root, tmp_path / "model.onnx").tolist() == [0]
    direction = -np.inf if plugin != "xgboost" else np.inf  # x <= t turns false below t, x < t turns true above it
    thresholds[0] = np.nextafter(np.float32(thresholds[0]), np.float32(direction))
    values.t.CopyFrom(numpy_helper.from_array(thresholds))
    onnx.save(graph, tmp_path / "moved.onnx")
    assert count_flips(model, on_root, tmp_path / "moved.onnx").tolist() == [1]


def test_a_graph_of_another_fit_is_refused(tmp_path: Path) -> None:
    samples = plant_samples("return", seed=8)
    fit_model("lightgbm", samples, "return").to_onnx(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="export it again"):
        count_flips(fit_model("xgboost", samples, "return"), samples.x[:1], tmp_path / "model.onnx")


@PLUGINS
def test_importances_count_every_split_and_are_largest_for_informative_columns(plugin: str) -> None:
    samples = plant_samples("return", seed=8)
    model = fit_model(plugin, samples, "return")
    importances = model.measure_importances()
    assert importances is not None
    assert list(importances["gain"]) == list(importances["split"]) == list(samples.columns)
    assert sum(importances["split"].values()) == sum((tree.feature != LEAF).sum() for tree in model.trees)
    assert max(importances["gain"], key=importances["gain"].__getitem__) in ("column_0", "column_1")


@PLUGINS
def test_inputs_that_are_not_finite_and_labels_that_are_no_class_are_refused(plugin: str) -> None:
    samples = plant_samples("barrier", seed=8)
    x = samples.x.copy()
    x[TRAIN[3], 2] = np.nan
    with pytest.raises(ValueError, match="train holds values that are not finite"):
        fit_model(plugin, replace(samples, x=x), "barrier")
    with pytest.raises(ValueError, match=r"valid: y is int32 in \[1, 3\]; classes .*'flat'"):
        y = samples.y.copy()
        y[VALID] += 1
        fit_model(plugin, replace(samples, y=y), "barrier")
    with pytest.raises(ValueError, match="valid has no rows"):
        fit_model(plugin, samples, "barrier", TRAIN, TRAIN[:0])


def test_float32_thresholds_leave_every_native_prediction_bit_identical() -> None:
    rng = np.random.default_rng(9)
    x = rng.normal(size=(4000, 3)).astype(np.float32)
    x[rng.random((4000, 3)) < 0.3] = 0.0  # so that some splits lie at plus and minus 1e-35, where LightGBM's zero ends
    y = np.sign(x[:, 0]) + x[:, 1] + rng.normal(size=4000)
    options = {"num_leaves": 15, "num_threads": 1, "verbosity": -1, "use_missing": False}
    text = lgb.train(options, lgb.Dataset(x, y), num_boost_round=50).model_to_string()
    assert "=1.0000000180025095e-35" in text or " 1.0000000180025095e-35" in text
    assert "-1.0000000180025095e-35" in text
    before, after = lgb.Booster(model_str=text), lgb.Booster(model_str=round_thresholds_to_float32(text))
    lines = [line.split("=")[1].split() for line in text.splitlines() if line.startswith("threshold=")]
    near = np.unique(np.concatenate(lines).astype(np.float64)).astype(np.float32)
    near = np.concatenate([near, np.nextafter(near, np.float32(-9)), np.nextafter(near, np.float32(9)), [0.0, -0.0]])
    rows = np.concatenate([x, rng.choice(near.astype(np.float32), size=(20_000, 3))])
    assert np.array_equal(before.predict(rows, pred_leaf=True), after.predict(rows, pred_leaf=True))
    assert np.array_equal(before.predict(rows), after.predict(rows))


def test_float32_leaves_change_a_prediction_by_no_more_than_their_rounding() -> None:
    rng = np.random.default_rng(9)
    x = rng.normal(size=(2000, 3)).astype(np.float32)
    grown = lgb.train({"num_threads": 1, "verbosity": -1}, lgb.Dataset(x, x[:, 0] * x[:, 1]), num_boost_round=50)
    rounded = lgb.Booster(model_str=round_leaves_to_float32(grown.model_to_string()))
    difference = np.abs(rounded.predict(x) - grown.predict(x)).max()
    assert 0 < difference < 50 * 2.0**-25  # 50 leaves, each below 1


@PLUGINS
def test_predictions_that_hardly_vary_are_exported_as_exactly(plugin: str, tmp_path: Path) -> None:
    samples = plant_samples("barrier", seed=6)
    model = build_unfitted(plugin, "barrier", samples.columns, learning_rate=0.0001)
    model.fit(samples, TRAIN, VALID)
    inputs = model.inputs(samples, TEST)
    assert model.predict(inputs).std(axis=0).max() < 0.002  # a float32 step at 0.33 is 1.5e-5 of it
    assert_graph_agrees(model, inputs, tmp_path / "model.onnx")


#      0: x0 ? 1.0
#      |-- 1: leaf            rank 0
#      `-- 2: x1 ? 0.5
#          |-- 4: leaf        rank 1
#          `-- 3: leaf        rank 2
TREE = Tree(
    feature=np.array([0, LEAF, 1, LEAF, LEAF]),
    threshold=np.array([1.0, 0.0, 0.5, 0.0, 0.0]),
    left=np.array([1, 0, 4, 0, 0]),
    right=np.array([2, 0, 3, 0, 0]),
)
STUMP = Tree(*(np.array([value]) for value in (LEAF, 0.0, 0, 0)))


def test_leaves_are_ranked_from_left_to_right() -> None:
    assert rank_leaves(TREE).tolist() == [-1, 0, -1, 2, 1]
    assert rank_leaves(STUMP).tolist() == [0]


def test_rows_on_a_threshold_go_left_only_where_the_split_is_not_strict() -> None:
    x = np.array([[1.0, 9.0], [1.5, 0.5], [1.5, 0.6]], dtype=np.float32)
    assert traverse_trees([TREE, STUMP], x, is_strict=False).tolist() == [[0, 0], [1, 0], [2, 0]]
    assert traverse_trees([STUMP, TREE], x, is_strict=True).tolist() == [[0, 2], [0, 2], [0, 2]]


def test_split_points_list_each_threshold_once() -> None:
    feature, threshold = list_split_points([TREE, STUMP, TREE])
    assert list(zip(feature.tolist(), threshold.tolist(), strict=True)) == [(0, 1.0), (1, 0.5)]


@pytest.mark.skipif(not BTCUSDT.exists(), reason=f"real bars are missing: {BTCUSDT}")
@PLUGINS
@pytest.mark.parametrize("kind", ["return", "barrier"])
def test_the_graph_agrees_on_real_bars(plugin: str, kind: str, tmp_path: Path) -> None:
    close = np.log(pd.read_parquet(BTCUSDT, columns=["close"])["close"][:10_000])
    table = pd.DataFrame({f"return_{n}": close.diff(n) for n in (1, 5, 15, 60)})
    table["volatility"] = table["return_1"].rolling(60).std()
    ahead = (close.shift(-5) - close) / table["volatility"]
    is_complete = table.notna().all(axis=1) & np.isfinite(ahead)
    y = ahead[is_complete].to_numpy(np.float32)
    zeros = np.zeros(len(y), dtype=np.int64)
    samples = Samples(
        time=zeros,
        label_end=zeros,
        segment=zeros.astype(np.int32),
        x=table[is_complete].to_numpy(np.float32),
        columns=tuple(table.columns),
        y=np.digitize(y, [-1.0, 1.0]).astype(np.int32) if kind == "barrier" else y,
    )
    model = fit_model(plugin, samples, kind)
    assert_graph_agrees(model, model.inputs(samples, np.arange(len(y) - 2000, len(y))), tmp_path / "model.onnx")


def test_an_error_of_lightgbm_is_reported_in_its_own_words(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise lgb.basic.LightGBMError("bin count exceeds its limit")

    monkeypatch.setattr(lgb, "train", fail)
    samples = plant_samples("return", seed=0)
    with pytest.raises(ValueError, match="^LightGBM: bin count exceeds its limit; correct the model's hyperparameters"):
        build_unfitted("lightgbm", "return", samples.columns).fit(samples, TRAIN, VALID)
