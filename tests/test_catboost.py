"""CatBoost beyond what all trees share: a missing package, bytes without a time, leaves that hold all margins."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import config
from pipeline.models import catalogue, plugins
from pipeline.models.trees import catboost
from pipeline.models.trees.engine.forest_graph import rank_leaves, traverse_trees
from tests.data import OUTPUTS, TEST, TRAIN, VALID, plant_samples
from tests.params import BLOCKS, PARAMS
from tests.test_trees import assert_graph_agrees, build_unfitted, fit_model

NAME = "pipeline.models.trees.catboost"


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "catboost", None)
    monkeypatch.delitem(sys.modules, NAME)


@pytest.mark.usefixtures("without_package")
def test_a_missing_package_is_named_with_the_extra_that_installs_it() -> None:
    family, block = BLOCKS["catboost"]
    with pytest.raises(
        config.ParamsError,
        match=r"models.trees.catboost: the plugin trees.catboost needs the package catboost; run `pip install -c "
        r".ci/constraints.txt -e '.\[catboost\]'`$",
    ):
        plugins.find_plugin_of(config.ModelBlock(family, block, "catboost"))
    entry = catalogue.describe_plugin("trees", "catboost", PARAMS)
    assert entry.facts == ("needs catboost: pip install -e '.[catboost]'",)


@pytest.mark.usefixtures("without_package")
def test_a_saved_model_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        plugins, "read_description", lambda _: {"family": "trees", "plugin": "catboost", "hyperparameters": {}}
    )
    with pytest.raises(ValueError, match=r"^saved/model: the plugin trees.catboost needs the package catboost; run"):
        plugins.load(Path("saved/model"))
    with pytest.raises(ValueError, match=r"^saved/model: the plugin trees.catboost needs the package catboost; run"):
        plugins.build_like(Path("saved/model"), seed=1)


def test_a_saved_forest_holds_neither_a_time_nor_an_identifier(tmp_path: Path) -> None:
    samples = plant_samples("return", seed=2)
    saved = []
    for name in ("first", "second"):
        fit_model("catboost", samples, "return").save(tmp_path / name)
        saved.append((tmp_path / name / "forest.cbm").read_bytes())
    assert saved[0] == saved[1]
    assert not any(name.encode() in saved[0] for name in catboost.RANDOM_METADATA)
    assert b"learning_rate" in saved[0]  # the search does find metadata


@pytest.mark.parametrize("kind", ["direction", "barrier"])
def test_margins_are_the_sums_of_the_leaves_that_the_splits_of_each_level_choose(kind: str) -> None:
    samples = plant_samples(kind, seed=2)
    model = fit_model("catboost", samples, kind)
    x = samples.x[TEST[:200]]
    margins, leaves = np.zeros((200, model.num_margins)), np.zeros((200, len(model.trees)), dtype=np.int64)
    for number, tree in enumerate(json.loads(catboost._export(model._forest, "json"))["oblivious_trees"]):
        for bit, split in enumerate(tree["splits"] or []):
            leaves[:, number] += (x[:, split["float_feature_index"]] > np.float32(split["border"])) << bit
        margins += np.array(tree["leaf_values"]).reshape(-1, model.num_margins)[leaves[:, number]]
    assert model.predict_margins(x) == pytest.approx(margins, abs=1e-12)
    assert np.array_equal(traverse_trees(model.trees, x, is_strict=False), leaves)
    native = model.predict_leaves(x)
    ranks = [rank_leaves(tree)[native[:, number]] for number, tree in enumerate(model.trees)]
    assert np.array_equal(np.stack(ranks, axis=1), leaves)


@pytest.mark.parametrize("kind", ["return", "barrier"])
def test_contributions_and_their_expectation_sum_to_the_margins(kind: str) -> None:
    samples = plant_samples(kind, seed=2)
    model = fit_model("catboost", samples, kind)
    x = samples.x[TEST[:50]]
    values = model.explain_margins(x)
    assert values.shape == (50, model.num_margins, len(samples.columns))
    rest = model.predict_margins(x) - values.sum(axis=2)
    assert rest == pytest.approx(np.tile(rest[0], (50, 1)), abs=1e-9)
    assert set(np.abs(values).mean(axis=(0, 1)).argsort()[-2:]) == {0, 1}  # the columns of the planted signal


def test_classes_that_train_lacks_keep_their_margins(tmp_path: Path) -> None:
    samples = plant_samples("barrier", seed=2)
    model = build_unfitted("catboost", "barrier", samples.columns)
    model.fit(samples, TRAIN[samples.y[TRAIN] != 1], VALID)
    prediction = model.predict_rows(samples, TEST)
    assert prediction.shape == (len(TEST), len(OUTPUTS["barrier"].names))
    assert prediction.mean(axis=0).argmin() == 1
    assert_graph_agrees(model, model.inputs(samples, TEST), tmp_path / "model.onnx")


def test_a_forest_of_trees_without_a_split_is_exported(tmp_path: Path) -> None:
    samples = plant_samples("return", seed=2)
    model = build_unfitted("catboost", "return", samples.columns, rsm=0.1)
    model.fit(samples, TRAIN, VALID)
    assert {len(tree.feature) for tree in model.trees} > {1}  # some trees find no column to split on
    assert_graph_agrees(model, model.inputs(samples, TEST), tmp_path / "model.onnx")


def test_an_error_of_catboost_is_reported_in_its_own_words() -> None:
    samples = plant_samples("return", seed=2)
    samples.x[:] = 1.0
    with pytest.raises(ValueError, match=r"^CatBoost: .*constant.*; correct the model's hyperparameters"):
        fit_model("catboost", samples, "return")
