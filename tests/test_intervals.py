"""Coverage and width of predicted intervals, fixed and adapted to their errors."""

import math
from dataclasses import replace
from fractions import Fraction
from math import inf

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm

from pipeline.evaluation.forecast_report import ForecastSettings
from pipeline.evaluation.intervals import (
    adapt_margins,
    bound_share,
    describe_intervals,
    describe_path,
    judge_coverage,
    list_pairs,
    measure_interval,
    summarize_intervals,
)
from pipeline.reporting.forecast_page import render_interval
from pipeline.reporting.tear_sheet.forecast_page import tabulate_interval
from pipeline.targets import Output
from pipeline.validation.folds import cpcv
from tests.test_evaluate import MINUTE, known

NAMES = ("q5", "q50", "q95")
QUANTILES = Output(kind="quantiles", names=NAMES, levels=(0.05, 0.5, 0.95))
SETTINGS = ForecastSettings(
    calibration_bins=2,
    tiers=[0.5],
    sessions={"us": [14.5, 21.0]},
    confidence=0.95,
    resamples=100,
    interval_blocks=3,
    adaptive_gamma=0.02,
    adaptive_window=200,
)


def test_the_bounds_of_a_share_are_those_of_an_exact_binomial_test():
    for hits, rows in ((0, 20), (17, 20), (20, 20), (873, 1000)):
        expected = binomtest(hits, rows).proportion_ci(confidence_level=0.9, method="exact")
        assert bound_share(hits / rows, rows, confidence=0.9) == pytest.approx((expected.low, expected.high))


def test_coverage_width_and_verdict_of_intervals():
    rng = np.random.default_rng(0)
    y = rng.normal(size=4000)
    half = norm.ppf(0.95)
    found = measure_interval(
        y, np.full(4000, -half), np.full(4000, half), instant=np.arange(4000), nominal=0.9, confidence=0.95
    )
    assert found["coverage"] == pytest.approx((np.abs(y) <= half).mean())
    assert found["width"] == pytest.approx(2 * half)
    assert found["below"] + found["above"] == pytest.approx(1 - found["coverage"])
    assert found["verdict"] == "as nominal"
    assert [judge_coverage(0.9, bounds) for bounds in ((0.7, 0.8), (0.95, 0.99), (np.nan, np.nan))] == [
        "below nominal",
        "above nominal",
        None,
    ]


def test_rows_that_depend_on_one_another_widen_the_bounds():
    rng = np.random.default_rng(1)
    y = np.repeat(rng.normal(size=300), 20)
    known_as = {"nominal": 0.9, "confidence": 0.95, "instant": np.arange(6000)}
    found = measure_interval(y, np.full(6000, -1.6), np.full(6000, 1.6), **known_as)
    assert 150 < found["independent_rows"] < 600


def test_intervals_without_bounds_count_beside_the_width_of_the_others():
    low, high = np.array([-1.0, -inf, inf]), np.array([1.0, inf, -inf])  # the last is empty
    found = measure_interval(np.zeros(3), low, high, instant=np.arange(3), nominal=0.9, confidence=0.95)
    assert found["coverage"] == pytest.approx(2 / 3)
    assert (found["width"], found["unbounded"]) == (2.0, pytest.approx(2 / 3))
    assert found["reason"] == "too few independent rows"


def adapt(scores, *, length=1, miscoverage=0.5, gamma=0.1, window=100):
    time = np.arange(len(scores))
    return adapt_margins(
        np.array(scores, float), time, time + length, miscoverage=miscoverage, gamma=gamma, window=window
    )


def test_margins_follow_the_errors_by_hand():
    """With an allowed rate of 0.5 the margin is 0 for one row, and then a quantile of the scores that are known.

    Row 0: α 0.5, margin 0, error. Row 1: α 0.45, scores [1], rank ⌈2 · 0.55⌉ = 2, of one score the last: margin 1, no
    error. Row 2: α 0.5, [-1, 1], rank ⌈3 · 0.5⌉ = 2: margin 1, no error. Row 3: α 0.55, [-1, 0.5, 1], rank
    ⌈4 · 0.45⌉ = 2: 0.5, and an error. Row 4: α 0.5, [-1, 0.5, 1, 3], rank ⌈5 · 0.5⌉ = 3: margin 1.
    """
    assert adapt([1.0, -1.0, 0.5, 3.0, 0.0]).tolist() == [0.0, 1.0, 1.0, 0.5, 1.0]


@pytest.mark.parametrize("levels", [(0.05, 0.95), (0.025, 0.975), (0.1, 0.9), (0.15, 0.85), (0.01, 0.99)])
def test_adapting_begins_with_the_first_number_of_scores_that_has_the_demanded_rank(levels):
    """The rank ⌈(n + 1) · coverage⌉ is at most n; here in fractions, of which floats such as 1 - 0.9 fall short."""
    coverage = Fraction(str(levels[1])) - Fraction(str(levels[0]))
    first = next(n for n in range(1, 200) if math.ceil((n + 1) * coverage) <= n)
    data = replace(known([5.0] * (first + 2), [0.0] * (first + 2)), output=QUANTILES)
    table = data.rows.assign(split=np.int16(0), row=np.arange(first + 2), low=-1.0, high=1.0)
    nominal = round(levels[1] - levels[0], 9)
    settings = replace(SETTINGS, adaptive_gamma=1e-12, interval_blocks=1)
    found = describe_path(table, data, ends=("low", "high"), nominal=nominal, settings=settings)
    # each y is 4 outside, and known one bar later: rows 0 to first - 1 have no margin, the last two a margin of 4
    assert found["adaptive"]["coverage"] == pytest.approx(2 / (first + 2))


def test_only_labels_that_are_known_and_the_last_of_them_count():
    assert adapt([1.0, -1.0, 0.5, 3.0, 0.0], length=5).tolist() == [0.0] * 5
    delayed = adapt([1.0, -1.0, 0.5, 3.0, 0.0], length=2)
    assert delayed.tolist() == [0.0, 0.0, 1.0, 1.0, 0.5]  # row 2 had the margin 1: no error, α 0.55, rank 2
    assert adapt([9.0, 9.0, 1.0, 1.0, 1.0, 0.0], window=2, gamma=1e-9)[5] == 1.0  # the nines are forgotten


def test_a_future_row_changes_no_margin():
    rng = np.random.default_rng(2)
    scores = rng.normal(size=300)
    before = adapt(scores, length=7, miscoverage=0.1, gamma=0.05)
    after = adapt(np.append(scores[:200], 100 + scores[200:]), length=7, miscoverage=0.1, gamma=0.05)
    assert np.array_equal(before[:207], after[:207])
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("length", [1, 20])
@pytest.mark.parametrize("gamma", [0.005, 0.05])
def test_the_rate_of_errors_under_drift_is_within_the_bound_of_the_theorem(length, gamma):
    """Proposition 4.1 of Gibbs & Candès 2021 and the labels unknown at once, on a scale that grows fivefold."""
    rng, rows, allowed = np.random.default_rng(3), 3000, 0.1
    scores = np.abs(rng.normal(size=rows)) * np.linspace(1, 5, rows) - norm.ppf(0.95)
    fixed = (scores > 0).mean()
    adaptive = (scores > adapt(scores, length=length, miscoverage=allowed, gamma=gamma, window=300)).mean()
    bound = (max(allowed, 1 - allowed) + gamma * length) / (gamma * rows) + length / rows  # the last are never known
    assert abs(adaptive - allowed) <= bound
    assert fixed > 0.4
    assert adaptive < 0.16


def test_an_adversary_meets_the_bound_only_by_intervals_without_bounds():
    margins = adapt([10.0 * 2**i for i in range(40)], miscoverage=0.1, gamma=0.05)
    assert np.isinf(margins).any()
    scores = [1.0] * 400
    steady = adapt(scores, miscoverage=0.1, gamma=0.05)
    assert (np.array(scores) > steady).mean() <= 0.1 + (0.9 + 0.05) / (0.05 * 400)


def make_world(*, rows=1200, scale=None):
    """Intervals of ± 1.645 on both paths of three groups, each tested by two splits, of y with a standard deviation."""
    rng = np.random.default_rng(4)
    y = rng.normal(size=rows) * (np.ones(rows) if scale is None else scale)
    data = replace(known(y.tolist(), [0.0] * rows), output=QUANTILES)
    time = data.rows["time"].to_numpy()
    data = replace(data, label_end=time + 5 * MINUTE)
    folds = cpcv(time, data.label_end, groups=3, test_groups=2, embargo_pct=0.0, holdout_pct=0.0)
    half = norm.ppf(0.95)
    tables = [
        data.rows.iloc[folds.test(split)].assign(
            split=np.int16(split), row=folds.test(split), q5=-half, q50=0.0, q95=half
        )
        for split in range(folds.n_splits)
    ]
    return pd.concat(tables), data, folds


def test_each_interval_is_described_on_every_path_and_by_time():
    predictions, data, folds = make_world()
    (found,) = describe_intervals(predictions, data, folds, paths=folds.n_paths, settings=SETTINGS)
    assert (found["quantiles"], found["nominal"]) == (["q5", "q95"], 0.9)
    expected = (np.abs(data.y) <= norm.ppf(0.95)).mean()
    assert [path["coverage"] for path in found["paths"]] == pytest.approx([expected] * 2)
    assert [path["verdict"] for path in found["paths"]] == ["as nominal"] * 2
    blocks = found["paths"][0]["blocks"]
    assert [block["rows"] for block in blocks] == [400] * 3
    assert blocks[1]["first_ms"] == 400 * MINUTE
    assert np.mean([block["coverage"] for block in blocks]) == pytest.approx(expected)
    headline = summarize_intervals([found])
    assert headline["coverage"] == pytest.approx(expected)
    assert headline["coverage_nominal"] == 0.9
    assert summarize_intervals([]) == {}


def test_drift_costs_fixed_intervals_their_coverage_and_adaptive_ones_little():
    predictions, data, folds = make_world(scale=np.linspace(1, 3, 1200))
    (found,) = describe_intervals(predictions, data, folds, paths=folds.n_paths, settings=SETTINGS)
    path = found["paths"][0]
    assert path["verdict"] == "below nominal"
    assert path["blocks"][0]["coverage"] > path["blocks"][2]["coverage"] + 0.1
    assert path["adaptive"]["coverage"] > path["coverage"] + 0.1
    assert path["adaptive"]["width"] > path["width"]
    page = render_interval(found)
    assert page.startswith("Interval from q5 to q95, nominal coverage 90%")
    assert "below nominal" in page
    table = tabulate_interval(found, model="interval")
    assert table.title == "Interval of interval from q5 to q95: nominal coverage 90.00 %"
    assert len(table.rows) == 2 * (2 + SETTINGS.interval_blocks)


def test_a_fit_adapts_to_its_own_errors_alone():
    """Path 0 has two fits. Every row of the first is missed by 1, the second one covers all of its rows, which are 0.

    The errors of the first would widen intervals of the second, whose own scores of -1.645 narrow them to nothing.
    """
    half = norm.ppf(0.95)
    predictions, data, folds = make_world()
    assert folds.paths[0].tolist() == [0, 0, 1]
    data = replace(data, y=np.append(np.full(800, half + 1), np.zeros(400)))
    (found,) = describe_intervals(predictions, data, folds, paths=1, settings=SETTINGS)
    fits = [(1.0, 800), (-half, 400)]
    known_as = {"length": 5, "miscoverage": 0.1, "gamma": 0.02, "window": 200}
    margins = [adapt([score] * rows, **known_as) for score, rows in fits]
    width = 2 * (half + np.concatenate(margins))
    assert found["paths"][0]["adaptive"]["width"] == pytest.approx(np.maximum(width, 0)[np.isfinite(width)].mean())
    together = adapt(np.repeat(*zip(*fits, strict=True)), **known_as)
    assert together[800:].max() > 0 >= margins[1].max()


def test_only_pairs_of_levels_around_the_median_bound_an_interval():
    assert list_pairs(QUANTILES) == [(0, 2)]
    assert list_pairs(replace(QUANTILES, levels=(0.1, 0.5, 0.8))) == []
    assert list_pairs(Output(kind="value", names=("return",))) == []
    predictions, data, folds = make_world(rows=60)
    numbers = replace(data, output=Output(kind="value", names=("q50",)))
    assert describe_intervals(predictions, numbers, folds, paths=2, settings=SETTINGS) == []
