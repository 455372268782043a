"""Meta-labeling: what the secondary model learns from, how it sizes bets, and what it may not see."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.config import ParamsError
from pipeline.models import plugins
from pipeline.models.base import Signature
from pipeline.models.composites.engine.inner_folds import make_inner_folds, predict_out_of_sample
from pipeline.models.composites.meta_label import BET, MetaLabel, make_meta_samples
from pipeline.models.cross_fit import make_spec
from pipeline.samples import Samples
from tests.data import BAR_MS, OUTPUTS, TEST, TRAIN, VALID, plant_samples
from tests.params import BLOCKS, PARAMS, SMALLER

BLOCK = BLOCKS["meta_label"][1]
GIVEN = BLOCK["hyperparameters"] | SMALLER["meta_label"]


def build(samples: Samples, *, kind: str = "return", **changes: Any) -> MetaLabel:
    block = BLOCK | {"hyperparameters": GIVEN | changes}
    model = plugins.build("composites", block, Signature(samples.columns, OUTPUTS[kind]), shared={}, seed=3)
    assert isinstance(model, MetaLabel)
    return model


def plant_confidence(*, rows: int = 8000) -> tuple[Samples, np.ndarray, np.ndarray, np.ndarray]:
    """The sign of column 0 is that of y where column 1 is above 0; elsewhere y is noise as large."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    side = np.where(x[:, 1] > 0, np.sign(x[:, 0]), rng.choice([-1.0, 1.0], size=rows))
    y = (side * np.abs(rng.normal(1.0, 0.2, size=rows))).astype(np.float32)
    time = np.arange(rows, dtype=np.int64) * BAR_MS
    samples = Samples(time, time + 5 * BAR_MS, np.zeros(rows, np.int32), x, ("side", "trust", "noise"), y)
    return samples, np.arange(5000), np.arange(5100, 6000), np.arange(6100, rows)


def test_bets_that_a_column_says_will_earn_get_the_larger_size():
    samples, train, valid, test = plant_confidence()
    model = build(samples)
    model.fit(samples, train, valid)
    sized, primary = (each.predict_rows(samples, test)[:, 0] for each in (model, model.primary_model))
    size = sized / primary
    trusted = samples.x[test, 1] > 0
    assert size.min() >= 0
    assert size.max() <= 1
    assert size[trusted].mean() > 0.8
    assert size[~trusted].mean() < 0.2
    assert (np.sign(sized) * np.sign(primary)).min() >= 0  # never against the primary's side
    profit = {name: each @ samples.y[test] / np.abs(each).sum() for name, each in (("sized", sized), ("all", primary))}
    assert profit["sized"] > profit["all"]


def test_every_inner_fold_is_purged_and_embargoed_and_each_train_row_is_predicted_once():
    samples = plant_samples("return", seed=1)
    train = np.setdiff1d(TRAIN, np.arange(2000, 2600))  # a test group of the outer split lies between
    clock, found = samples.time, list(make_inner_folds(samples, train, folds=4, embargo_bars=30))
    assert np.array_equal(np.sort(np.concatenate([block for _, block in found])), train)
    for rows, block in found:
        first, last = clock[block].min(), samples.label_end[block].max()
        before, after = rows[clock[rows] < first], rows[clock[rows] > first]
        assert np.intersect1d(rows, block).size == 0
        assert np.isin(rows, train).all()
        assert (samples.label_end[before] < first).all()
        assert (clock[after] > last + 30 * BAR_MS).all()
    later = found[0][0]
    assert clock[later].min() == samples.label_end[found[0][1]].max() + 31 * BAR_MS


class Recorder:
    """A model that predicts the mean y of its train rows; it notes the rows that each fit sees."""

    def __init__(self, seen: list[np.ndarray]) -> None:
        self.seen = seen

    def fit(self, samples, train, valid):
        self.seen.append(np.concatenate([train, valid]))
        self.mean = samples.y[train].mean()

    def predict_rows(self, samples, rows):
        return np.column_stack([np.full(len(rows), self.mean), rows])


def test_the_primary_predictions_that_are_learned_from_are_of_fits_without_their_block_in_the_order_of_train():
    samples, seen = plant_samples("return", seed=1), list[np.ndarray]()
    train = TRAIN[::-1]  # symbols may interleave the rows
    found = predict_out_of_sample(lambda _: Recorder(seen), samples, train, VALID, folds=3, embargo_bars=10)
    assert np.array_equal(found[:, 1], train)
    folds = list(make_inner_folds(samples, train, folds=3, embargo_bars=10))
    for (rows, block), used in zip(folds, seen, strict=True):
        assert np.array_equal(used, np.concatenate([rows, VALID]))
        assert found[np.isin(train, block), 0] == pytest.approx(samples.y[rows].mean())


def test_the_labels_of_a_block_change_nothing_that_the_secondary_model_sees_of_it():
    samples = plant_samples("return", seed=1)
    model = build(samples)
    _, (_, block), _ = make_inner_folds(samples, TRAIN, folds=3, embargo_bars=GIVEN["embargo_bars"])
    altered = replace(samples, y=samples.y.copy())
    altered.y[block] = -altered.y[block]
    arguments = {"folds": 3, "embargo_bars": GIVEN["embargo_bars"]}
    found = [predict_out_of_sample(model._build_inner, own, TRAIN, VALID, **arguments) for own in (samples, altered)]
    inside = np.isin(TRAIN, block)
    assert np.array_equal(found[0][inside], found[1][inside])
    assert not np.array_equal(found[0][~inside], found[1][~inside])


def test_predictions_in_sample_would_make_bets_on_noise_look_good_and_those_of_inner_folds_do_not():
    rng = np.random.default_rng(6)
    samples = plant_samples("return", seed=1)
    samples = replace(samples, y=rng.normal(size=len(samples.y)).astype(np.float32))
    wrapped = {"family": "trees", "plugin": "lightgbm"}
    strong = {"num_boost_round": 200, "early_stopping_rounds": 200, "min_data_in_leaf": 5, "num_leaves": 63}
    primary = wrapped | {"hyperparameters": GIVEN["primary"]["hyperparameters"] | strong}
    model = build(samples, primary=primary, embargo_bars=20)
    model.fit(samples, TRAIN, VALID)
    naive = make_meta_samples(samples, TRAIN, model.primary_model.predict_rows(samples, TRAIN)[:, 0])
    assert naive.y.mean() > 0.55  # of bets on rows that the primary model has learned from
    assert model.report["earned_share"] == pytest.approx(0.5, abs=0.03)
    assert model.report["valid_mean_size"] < 0.05


def test_bets_without_an_outcome_are_left_out():
    samples = plant_samples("return", seed=1)
    samples = replace(samples, y=np.float32([1, -2, 0, 3, *samples.y[4:]]))
    found = make_meta_samples(samples, np.arange(4), np.float32([0.5, 0.25, 0.5, 0.0]))
    assert found.columns == (*samples.columns, BET)
    assert found.y.tolist() == [1, 0]
    assert found.x[:, -1].tolist() == [0.5, 0.25]
    assert np.array_equal(found.time, samples.time[:2])


def test_a_size_is_the_fraction_of_kelly_at_even_odds():
    model = build(plant_samples("return", seed=1))
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1], [0.0, 1.0]])
    assert model.size_bets(probabilities).tolist() == [0.5, 0.0, 0.0, 1.0]


def test_a_secondary_model_of_several_bars_and_folds_that_leave_nothing_are_refused():
    samples = plant_samples("return", seed=1)
    several = GIVEN["secondary"] | {"hyperparameters": GIVEN["secondary"]["hyperparameters"] | {"window": 4}}
    with pytest.raises(ValueError, match="secondary has a window of several bars"):
        build(samples, secondary=several)
    with pytest.raises(ValueError, match="secondary: loss is 'l2'; for the outputs lost, earned"):
        build(samples, secondary=GIVEN["primary"])
    with pytest.raises(ValueError, match="inner_folds is 2: purge and an embargo of 9000 bars leave none of"):
        build(samples, inner_folds=2, embargo_bars=9000).fit(samples, TRAIN, VALID)
    with pytest.raises(ValueError, match="inner_folds is 1; it must be at least 2"):
        build(samples, inner_folds=1)


def test_a_target_without_a_direction_is_refused():
    with pytest.raises(ValueError, match="bets on the sign of a return; volatility has no direction: choose a return"):
        build(plant_samples("return", seed=1), kind="volatility")


def test_bets_are_worth_their_size_on_unseen_rows():
    samples = plant_samples("return", seed=1)
    model = build(samples, embargo_bars=20)
    model.fit(samples, TRAIN, VALID)
    sized, primary = (each.predict_rows(samples, TEST)[:, 0] for each in (model, model.primary_model))
    assert np.corrcoef(sized, samples.y[TEST])[0, 1] > 0.9 * np.corrcoef(primary, samples.y[TEST])[0, 1]


def test_an_embargo_below_that_of_the_folds_is_refused():
    params = PARAMS | {"models": {"composites": {"sized": BLOCK}}}
    data: Any = SimpleNamespace(folds=SimpleNamespace(embargo_bars=470), target=SimpleNamespace(horizon_bars=5))
    with pytest.raises(
        ParamsError, match=r"models.composites.sized.*embargo_bars is 469; it must be at least 470, the"
    ):
        make_spec(params, "sized", data=data)
