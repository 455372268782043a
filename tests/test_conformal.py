"""Conformal intervals: the quantile that a coverage demands, honest calibration rows, and what is predicted."""

import sys
from dataclasses import replace
from fractions import Fraction
from math import inf
from typing import Any

import numpy as np
import pytest

from pipeline.models import plugins
from pipeline.models.base import BATCH_ROWS, Model, Signature
from pipeline.models.composites.conformal import Conformal, round_up_to_float32
from pipeline.models.composites.engine.calibrated import divide_valid
from pipeline.models.composites.engine.conformity import (
    find_conformal_quantile,
    list_coverages,
    measure_excess,
    rank_quantile,
)
from pipeline.samples import Samples
from pipeline.targets import Output
from tests.data import BAR_MS, TEST, TRAIN, VALID, plant_samples
from tests.params import BLOCKS

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
QUANTILES = Output(kind="quantiles", names=("q5", "q25", "q50", "q75", "q95"), levels=LEVELS)
TREE = BLOCKS["interval"][1]["hyperparameters"]["primary"]
SHORT = TREE | {"hyperparameters": TREE["hyperparameters"] | {"num_boost_round": 30, "min_data_in_leaf": 50}}


def build(samples: Samples, *, output: Output = QUANTILES, **hyperparameters: Any) -> Model:
    given = {"conformity_score": "absolute_residual", "primary": SHORT} | hyperparameters
    return plugins.build("composites", block(given), Signature(samples.columns, output), shared={}, seed=3)


def block(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    return {"dataset": "klines", "target": "y", "plugin": "conformal", "hyperparameters": hyperparameters}


@pytest.fixture(scope="module")
def fitted() -> tuple[Samples, Model]:
    samples = plant_samples("return", seed=1)
    model = build(samples)
    model.fit(samples, TRAIN, VALID)
    return samples, model


@pytest.mark.parametrize(
    ("count", "coverage", "rank"),
    [(9, 0.9, 9), (10, 0.9, 10), (19, 0.9, 18), (99, 0.95, 95), (100, 0.95, 96), (8, 0.9, 9), (999, 0.9, 900)],
)
def test_the_rank_is_n_plus_1_times_the_coverage_rounded_up(count, coverage, rank):
    """Worked by hand: 10 · 0.9 = 9; 11 · 0.9 = 9.9; 20 · 0.9 = 18; 100 · 0.95 = 95; 101 · 0.95 = 95.95."""
    assert rank_quantile(count, coverage) == rank


def test_the_quantile_is_numpys_own_at_the_level_of_the_literature():
    """`numpy.quantile` with the level ⌈(n + 1)(1 − α)⌉ / n, `higher`, as Angelopoulos & Bates 2021 compute it."""
    rng = np.random.default_rng(0)
    for count in (20, 57, 200):
        scores, coverage = rng.normal(size=count), 0.9
        level = Fraction(int(np.ceil(round((count + 1) * coverage, 9))), count)
        expected = np.quantile(scores, float(level), method="inverted_cdf")
        assert find_conformal_quantile(scores, coverage) == expected


def test_too_few_scores_bound_nothing():
    assert find_conformal_quantile(np.arange(8.0), 0.9) == inf
    assert find_conformal_quantile(np.arange(9.0), 0.9) == 8.0


def test_the_coverage_of_exchangeable_rows_lies_between_the_bounds_of_the_theorem():
    """For 18 calibration rows and a coverage of 0.9 the rank is ⌈17.1⌉ = 18, so that it is 18 / 19 exactly."""
    rng, count, draws = np.random.default_rng(1), 18, 20_000
    scores = rng.exponential(size=(draws, count + 1))
    covered = [
        new <= find_conformal_quantile(known, 0.9) for known, new in zip(scores[:, 1:], scores[:, 0], strict=True)
    ]
    share, error = np.mean(covered), np.sqrt(0.9 * 0.1 / draws)
    assert 0.9 - 3 * error <= share <= 0.9 + 1 / (count + 1) + 3 * error
    assert share == pytest.approx(18 / 19, abs=3 * error)


def test_the_excess_of_each_interval_is_that_of_its_nearest_end():
    quantiles = np.array([[-2.0, -1.0, 0.0, 1.0, 2.0]] * 3)
    excess = measure_excess(np.array([3.0, 1.5, -1.25]), quantiles)
    assert excess.tolist() == [[1.0, 2.0], [-0.5, 0.5], [-0.75, 0.25]]


@pytest.mark.parametrize("levels", [(0.1, 0.9), (0.5,), (0.1, 0.5, 0.8), (0.1, 0.4, 0.9)])
def test_levels_that_are_no_pairs_around_the_median_are_refused(levels):
    output = replace(QUANTILES, names=tuple(map(str, levels)), levels=levels)
    with pytest.raises(
        ValueError, match=r"intervals need pairs of levels around the median, such as \[0.05, 0.5, 0.95\]"
    ):
        build(plant_samples("return", seed=1), output=output)
    assert list_coverages(LEVELS) == [0.9, 0.5]


def test_an_interval_is_the_prediction_of_the_primary_model_and_its_margin_on_either_side(fitted):
    samples, model = fitted
    alone = plugins.build_plugin(
        "trees",
        "lightgbm",
        Signature(samples.columns, Output(kind="value", names=("return",))),
        hyperparameters=SHORT["hyperparameters"],
        seed=3,
        name="alone",
    )
    alone.fit(samples, TRAIN, VALID)
    center = alone.predict_rows(samples, TEST)[:, 0]
    residual = np.sort(np.abs(samples.y[VALID] - alone.predict_rows(samples, VALID)[:, 0]))
    margins = [residual[rank - 1] for rank in (1081, 601)]  # of 1,200 rows: ⌈1201 · 0.9⌉, ⌈1201 · 0.5⌉
    expected = np.stack([center + shift for shift in (-margins[0], -margins[1], 0, margins[1], margins[0])], axis=1)
    assert model.predict_rows(samples, TEST) == pytest.approx(expected, abs=1e-6)
    assert model.fit_report["conformal"]["rows"] == len(VALID)


def test_the_inputs_of_many_rows_are_gathered_a_batch_at_a_time(fitted, monkeypatch):
    """All windows of a net at once would fill the memory."""
    samples, model = fitted
    rows = np.resize(TEST, 2 * BATCH_ROWS + 7)
    inputs, sizes = model.inputs(samples, rows), []
    monkeypatch.setattr(model, "inputs", lambda _, batch: sizes.append(len(batch)) or inputs[: len(batch)])
    assert len(model.predict_rows(samples, rows)) == len(rows)
    assert sizes == [BATCH_ROWS, BATCH_ROWS, 7]
    monkeypatch.undo()
    assert np.array_equal(model.predict_rows(samples, rows), model.predict(inputs))


def test_intervals_hold_their_coverage_on_unseen_rows_of_the_same_distribution(fitted):
    samples, model = fitted
    predicted, y = model.predict_rows(samples, TEST), samples.y[TEST]
    for place, coverage in enumerate((0.9, 0.5)):
        share = ((y >= predicted[:, place]) & (y <= predicted[:, -1 - place])).mean()
        error = np.sqrt(coverage * (1 - coverage) * (1 / len(TEST) + 1 / len(VALID)))
        assert share == pytest.approx(coverage, abs=3 * error)


def test_the_later_half_calibrates_rows_that_have_not_stopped_the_fit():
    samples = plant_samples("return", seed=1)
    stopping, calibration = divide_valid(samples, VALID)
    assert samples.label_end[stopping].max() < samples.time[calibration].min()
    assert len(calibration) == len(VALID) // 2
    assert len(stopping) == len(VALID) // 2 - 5  # labels of five bars end before the later half begins
    altered = replace(samples, y=samples.y.copy())
    altered.y[calibration] *= 10
    models = [build(samples, calibration_rows="later_half") for _ in range(2)]
    histories = [model.fit(own, TRAIN, VALID) for model, own in zip(models, (samples, altered), strict=True)]
    assert histories[0] == histories[1]
    widths = [np.ptp(model.predict_rows(samples, TEST[:1])) for model in models]
    assert widths[1] > 5 * widths[0]


def test_too_few_calibration_rows_are_refused():
    samples = plant_samples("return", seed=1)
    with pytest.raises(ValueError, match="8 calibration rows are too few for a coverage of 0.9; raise train.valid_pct"):
        build(samples).fit(samples, TRAIN, VALID[:8])
    with pytest.raises(ValueError, match="the 4 valid times are too few to be divided"):
        divide_valid(samples, VALID[:4])


def test_margins_that_narrow_an_interval_beyond_the_median_leave_the_quantiles_in_order(monkeypatch):
    quantiles = np.array([[-2.0, -1.0, 0.0, 1.0, 2.0], [-2.0, -1.0, 0.0, 3.0, 4.0]], np.float32)
    model = build(plant_samples("return", seed=1))
    assert isinstance(model, Conformal)
    model.margins = np.array([-0.5, -2.0], np.float32)
    monkeypatch.setattr(model.primary_model, "predict", lambda inputs: quantiles)
    predicted = model.predict(np.zeros((2, 1), np.float32))
    assert predicted.tolist() == [[-1.5, 0.0, 0.0, 0.0, 1.5], [-1.5, 0.0, 0.0, 1.0, 3.5]]


def test_a_margin_is_rounded_to_the_float32_that_is_not_below_it():
    exact = np.array([0.1, 1.0, 1 / 3])
    rounded = round_up_to_float32(exact)
    assert rounded.dtype == np.float32
    assert (rounded.astype(np.float64) >= exact).all()
    assert (rounded - exact < 3e-8).all()


@pytest.mark.parametrize(
    ("primary", "message"),
    [
        ({"family": "composites", "plugin": "conformal", "hyperparameters": {}}, "wraps a model of another family"),
        ({"family": "tree", "plugin": "lightgbm", "hyperparameters": {}}, "primary.family is 'tree'; a composite"),
        (
            {"family": "agents", "plugin": "d4pg", "hyperparameters": {}},
            "primary: agents.d4pg trades while it learns; choose a tree or a net",
        ),
        (SHORT | {"plugin": "forest"}, "primary: unknown plugin 'forest' of family 'trees'"),
        (SHORT | {"hyperparameters": {}}, "primary.hyperparameters: key .* is missing"),
        ({"family": "trees"}, "primary: key .* is missing; its keys are family, plugin, hyperparameters"),
    ],
)
def test_a_primary_model_that_cannot_be_wrapped_is_refused(primary, message):
    with pytest.raises(ValueError, match=message):
        build(plant_samples("return", seed=1), primary=primary)


def test_a_primary_model_whose_library_is_missing_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "catboost", None)
    monkeypatch.delitem(sys.modules, "pipeline.models.trees.catboost", raising=False)
    with pytest.raises(ValueError, match=r"^params.yaml: .*: primary: the plugin trees.catboost needs .* run `pip"):
        build(plant_samples("return", seed=1), primary=SHORT | {"plugin": "catboost"})


def test_trees_that_predict_no_quantiles_are_refused_for_their_score():
    with pytest.raises(
        ValueError, match="LightGBM predicts value, position, probability, classes; its target asks for quantiles"
    ):
        build(plant_samples("return", seed=1), conformity_score="quantile")


def test_labels_that_reach_into_the_later_half_stop_no_fit():
    samples = plant_samples("return", seed=1)
    longer = replace(samples, label_end=samples.time + 100 * BAR_MS)
    stopping, calibration = divide_valid(longer, VALID)
    assert len(stopping) == len(VALID) // 2 - 100
    assert len(calibration) == len(VALID) // 2
