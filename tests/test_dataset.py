"""A model block selects columns and symbols of a dataset, and the rows that a fit learns from."""

import numpy as np
import pytest

from pipeline.models.cross_fit import plan_fits
from pipeline.models.dataset import LabeledDataset, list_groups
from pipeline.validation.folds import cpcv
from tests.data import make_dataset, plant_samples

ATTRIBUTES = {
    "groups": {"a": "price", "b": "flow", "c": "liquidity"},
    "presets": {"microstructure": ["flow", "liquidity"]},
}


@pytest.fixture(scope="module")
def data() -> LabeledDataset:
    samples = plant_samples("barrier", seed=1)
    folds = cpcv(samples.time, samples.label_end, groups=4, test_groups=2, embargo_pct=0.01, holdout_pct=0.15)
    symbols = np.where(samples.segment == 0, "AAA", "BBB")
    return make_dataset(samples, folds, kind="barrier", symbols=symbols)


def plan(data: LabeledDataset, is_included: np.ndarray, is_learned: np.ndarray) -> list:
    return list(plan_fits(data.folds, "a", [42], is_included, is_learned, valid_pct=0.15))


def test_groups_and_presets_name_their_columns():
    assert list_groups(ATTRIBUTES) == {"price": ["a"], "flow": ["b"], "liquidity": ["c"], "microstructure": ["b", "c"]}
    assert list_groups({}) == {}


def test_a_preset_may_name_columns_too():
    presets = {"presets": {"signals": ["c", "flow"], "absent": ["d"]}}
    assert list_groups(ATTRIBUTES | presets)["signals"] == ["c", "b"]
    assert "absent" not in list_groups(ATTRIBUTES | presets)


def test_a_preset_of_groups_that_are_off_does_not_exist():
    assert list_groups(ATTRIBUTES | {"groups": {"a": "price"}}) == {"price": ["a"]}


def test_columns_are_named_by_group_or_alone_and_keep_their_order(data):
    assert data.select_columns(["column_5", "first"]).samples.columns == ("column_0", "column_1", "column_5")
    assert data.select_columns(None) is data


def test_an_unknown_column_is_refused_with_the_groups_and_the_features(data):
    with pytest.raises(
        ValueError, match=r"columns has \['rsi'\]; allowed are the groups first and the features column_0,"
    ):
        data.select_columns(["first", "rsi"])


def test_a_group_that_is_off_is_named_with_the_key_that_turns_it_on(data):
    with pytest.raises(ValueError, match=r"; calendar is off: add calendar_columns to the features of the dataset$"):
        data.select_columns(["first", "calendar"])


def test_a_model_of_one_symbol_neither_learns_from_nor_predicts_the_other(data):
    own = data.mark_symbols(["AAA"])
    for task in plan(data, own, own):
        assert all(own[rows].all() for rows in (task.train, task.valid, task.predicted))
    with pytest.raises(ValueError, match=r"include_symbols has \['CCC'\]; the dataset has AAA, BBB"):
        data.mark_symbols(["AAA", "CCC"])


def test_neutral_classes_are_predicted_and_not_learned_from(data):
    every, is_neutral = data.mark_symbols(None), data.mark_neutrals()
    assert every.all()
    for task, whole in zip(plan(data, every, ~is_neutral), plan(data, every, every), strict=True):
        assert set(data.samples.y[np.append(task.train, task.valid)]) == {0, 2}
        assert task.predicted.tolist() == whole.predicted.tolist()


def test_a_target_without_a_neutral_class_is_refused(data):
    samples = plant_samples("return", seed=1)
    with pytest.raises(ValueError, match="target has no neutral class: set it to false"):
        make_dataset(samples, data.folds, kind="return").mark_neutrals()
