import re

import numpy as np
import pandas as pd
import pytest

from pipeline import artifacts
from pipeline.evaluation import overfitting, performance, trials
from pipeline.evaluation.comparison import TimeScale, compare_models
from pipeline.evaluation.population import Population
from pipeline.evaluation.returns import Returns, align_models
from pipeline.reporting import comparison_page, plots
from pipeline.stages import compare

YEAR = 525_600.0
MARKET = trials.Market({"BTCUSDT": trials.Prices(0, 0, "abcdef")})


def make_returns(paths):
    """Return a model's returns at minutes 0, 1, ..."""
    paths = np.asarray(paths, dtype=np.float64)
    return Returns(60_000 * np.arange(len(paths)), paths, np.zeros(paths.shape[1]))


SENSITIVITY = {
    "target": "return_5",
    "embargo_factors": [0, 0.5, 2],
    "embargo_bars": [0, 5, 20],
    "ic": [0.3, 0.2, 0.1],
    "boundary_ic": [0.5, 0.25, 0.125],
    "boundary_ic_low": [0.4, 0.15, 0.025],
    "boundary_ic_high": [0.6, 0.35, 0.225],
    "reason": None,
    "finding": {
        "guard": "embargo_sensitivity",
        "severity": "warning",
        "message": "suspected leakage",
        "measurements": {},
    },
}
NOT_MEASURED = {
    "target": "return_5",
    "reason": "no multiples",
    "finding": {
        "guard": "embargo_sensitivity",
        "severity": "ok",
        "message": "not measured: no multiples",
        "measurements": {},
    },
}


def simulate_model(mean, *, seed, rows=4000, paths=3):
    rng = np.random.default_rng(seed)
    return make_returns(rng.normal(mean, 1e-3, size=(rows, paths)))


IDLE = make_returns(np.zeros((4000, 3)))


def make_trial(model, *, name):
    """Return the trial that the median path of a model is; those of equal names differ in the seed alone."""
    parameters = {"model": name, "seeds": [int(abs(model.paths).sum() * 1e6)]}
    return trials.make_trial(
        "trial",
        parameters,
        MARKET,
        target="return_5",
        time_ms=model.time,
        net=model.paths[:, model.median_path],
        bars_per_year=YEAR,
        risk_free_rate=0.0,
    )


def make_population(models, others=()):
    """Return the trials of models, and others that are (name, returns)."""
    own = {name: make_trial(model, name=name) for name, model in models.items()}
    return Population(own, [make_trial(model, name=name) for name, model in others])


def compare_small(models, others=(), **changes):
    block = {"blocks": 8, "confidence": 0.95, "resamples": 99} | changes
    time = next(iter(models.values())).time if models else np.empty(0, np.int64)
    return compare_models(models, make_population(models, others), TimeScale(time, YEAR), 0, **block)


def drop(count):
    """Return trials without skill that were dropped."""
    return [(f"dropped {i}", simulate_model(0.0, seed=100 + i, paths=1)) for i in range(count)]


def test_the_median_path_is_one_path_not_a_mean_of_them():
    assert make_returns([[1.0, 2.0, -1.0], [-1.0, 1.0, -2.0], [2.0, 3.0, -1.5]]).median_path == 0


def test_the_best_model_stands_first_and_one_that_never_trades_last():
    board = compare_small(
        {"idle": IDLE, "poor": simulate_model(-1e-4, seed=1), "good": simulate_model(2e-4, seed=2)}
    ).leaderboard
    assert list(board) == ["good", "poor", "idle"]
    assert np.isnan([board["idle"][name] for name in ("dsr", "dsr_effective", "sharpe_low", "sharpe_high")]).all()
    assert board["idle"]["reason"] == "no trade"


def test_the_deflated_sharpe_is_that_of_the_median_path_with_all_trials():
    models = {"a": simulate_model(1e-4, seed=1), "b": simulate_model(2e-5, seed=2)}
    population = make_population(models, drop(18))
    row = compare_small(models, drop(18)).leaderboard["a"]
    moments = overfitting.estimate_moments(models["a"].paths[:, models["a"].median_path])
    assert moments["sharpe"] == pytest.approx(np.median(models["a"].sharpes))
    known = {"trial_sharpes": population.sharpes, "trial_errors": population.errors}
    expected = overfitting.deflate(**moments, **known, trials=20)
    assert row["trials"] == len(population.sharpes) == 20
    assert row["dsr"] == pytest.approx(expected.dsr)
    assert (row["expected_max_sharpe"], row["trial_variance"]) == pytest.approx((expected.sr0, expected.variance))
    assert compare_small(models).leaderboard["a"]["dsr"] > expected.dsr


def test_more_trials_before_these_lower_the_deflated_sharpe():
    models = {"a": simulate_model(5e-5, seed=1), "b": simulate_model(0.0, seed=2)}
    dsr = [compare_small(models, drop(count)).leaderboard["a"]["dsr"] for count in (0, 10, 200)]
    assert dsr == sorted(dsr, reverse=True)
    assert len(set(dsr)) == 3


def test_equal_trials_count_as_one_and_idle_ones_in_full():
    """Two equal models, an idle one, another, over 40 days."""
    original = simulate_model(1e-4, seed=1, rows=40 * 1440)
    larger, idle = make_returns(3.0 * original.paths), make_returns(0.0 * original.paths)
    models = {"a": original, "b": larger, "idle": idle, "c": simulate_model(2e-5, seed=2, rows=40 * 1440)}
    report = compare_small(models)
    assert report.trials == 4
    assert report.effective_trials["clusters"] == pytest.approx(1 + 1 + 1, abs=0.1)
    assert 2.4 < min(report.effective_trials.values()) < max(report.effective_trials.values()) <= 4
    row = report.leaderboard["a"]
    assert row["psr"] >= row["dsr_effective"] == row["dsr_clusters"] >= row["dsr"]
    headline = compare.make_headline(report, SENSITIVITY)
    assert headline["effective_trials"] == report.effective_trials["clusters"]
    assert headline["best_dsr"] == pytest.approx(report.leaderboard["b"]["dsr"])  # the conservative one


def test_few_days_have_no_effective_number_of_trials():
    report = compare_small({"a": simulate_model(1e-4, seed=1), "b": simulate_model(0.0, seed=2)})
    assert report.effective_trials == {}
    assert np.isnan(report.leaderboard["a"]["dsr_effective"])
    assert report.superiority is None
    assert np.isnan(report.ledger_pbo)
    reason = compare.make_headline(report, SENSITIVITY)["reason"]
    for missing in ("no effective number of trials: fewer than 20 days", "no SPA", "no PBO of the ledger"):
        assert missing in reason
    assert compare.collect_details(report, dict.fromkeys(report.leaderboard, EXECUTION))["reason"] == "; ".join(
        report.missing
    )


def test_the_daily_sharpe_stands_beside_that_of_bars_with_its_interval():
    model = simulate_model(1e-4, seed=1, rows=30 * 1440)
    row = compare_small({"a": model}).leaderboard["a"]
    expected = performance.measure_daily_sharpe(model.time, model.paths[:, model.median_path], bars_per_year=YEAR)
    assert row["sharpe_daily"] == pytest.approx(expected)
    assert row["sharpe_daily_low"] < row["sharpe_daily"] < row["sharpe_daily_high"]


def test_pbo_is_of_single_paths_with_its_range():
    models = {name: simulate_model(0.0, seed=seed) for seed, name in enumerate("abc")}
    report = compare_small(models)
    alone = [
        overfitting.pbo(np.column_stack([model.paths[:, path] for model in models.values()]), blocks=8).pbo
        for path in range(3)
    ]
    assert [each.pbo for each in report.path_pbo] == alone
    headline = compare.make_headline(report, SENSITIVITY)
    assert (headline["pbo_lowest"], headline["pbo"], headline["pbo_highest"]) == tuple(sorted(alone))


def test_the_tests_over_all_trials_use_those_of_the_ledger():
    models = {"a": simulate_model(3e-4, seed=1, rows=40 * 1440)}
    others = [(f"{i}", simulate_model(0.0, seed=i + 5, rows=40 * 1440, paths=1)) for i in range(5)]
    report = compare_small(models, others)
    assert (report.superiority.trials, report.superiority.days, report.superiority.best) == (6, 40, 0)
    assert report.superiority.spa < 0.05
    assert 0 <= report.ledger_pbo < 0.2


def test_seeds_of_one_model_widen_its_interval_and_its_comparisons():
    base, other = simulate_model(1e-4, seed=1), simulate_model(0.0, seed=9)
    alone = compare_small({"a": base, "b": other}, blocks=8)
    seeds = [("a", simulate_model(mean, seed=3)) for mean in (-5e-4, 5e-4)]  # of the ledger
    report = compare_small({"a": base, "b": other}, seeds)
    row, narrow = report.leaderboard["a"], alone.leaderboard["a"]
    assert np.isnan(narrow["seed_std"])
    assert row["seed_std"] > 100
    assert row["sharpe_high"] - row["sharpe_low"] > 2 * (narrow["sharpe_high"] - narrow["sharpe_low"])
    assert report.pairs[0].high - report.pairs[0].low > 2 * (alone.pairs[0].high - alone.pairs[0].low)
    assert report.leaderboard["b"]["sharpe_low"] == pytest.approx(alone.leaderboard["b"]["sharpe_low"])


def test_seeds_of_its_own_fits_count_before_those_of_the_ledger():
    paths = np.hstack([simulate_model(mean, seed=3).paths for mean in (-5e-4, 5e-4)])
    model = Returns(60_000 * np.arange(4000), paths, np.repeat([1, 2], 3))
    row = compare_small({"a": model}).leaderboard["a"]
    assert row["seeds"] == 2
    assert row["seed_std"] == pytest.approx(np.std(model.median_sharpe_by_seed, ddof=1) * np.sqrt(YEAR))


def test_the_sharpe_lies_in_its_interval_and_a_longer_record_makes_it_narrower():
    widths = []
    for rows in (1000, 4000, 16_000):
        figures = compare_small({"a": simulate_model(1e-4, seed=1, rows=rows)}).leaderboard["a"]
        assert figures["sharpe_low"] < figures["sharpe"] < figures["sharpe_high"]
        widths.append(figures["sharpe_high"] - figures["sharpe_low"])
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.3)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.3)


def test_a_model_that_trades_twice_has_no_interval_and_says_why():
    paths = np.zeros((4000, 3))
    paths[[10, 3000]] = 1e-3
    figures = compare_small({"rare": make_returns(paths), "usual": simulate_model(1e-4, seed=1)}).leaderboard["rare"]
    assert np.isnan([figures["sharpe_low"], figures["sharpe_high"]]).all()
    assert figures["reason"] == (
        "no PSR, DSR, MinTRL: 2.0 independent traded observations, 30 needed; "
        "no interval: too few trades, many resamples have none"
    )


CURVE = {"values": [0.0, 1.0], "net_return": [0.1, None], "sharpe_daily": [1.0, None], "turnover": [0.1, 0.1]}
EXECUTION = {  # of every model here, as its report of `evaluate` has it
    **dict.fromkeys(("break_even_bps", "charged_bps", "half_spread_bps"), 1.0),
    **dict.fromkeys(("by_delay", "by_cost", "by_capital"), CURVE),
    "round_trips": 7,
    "executability": {"is_executable": False, "reasons": ["net -1.00% with a delay of 1 bar"]},
    "warnings": ["10% of the bars have no trades: their prices are stale, and orders wait"],
}
CAPACITY = {
    **dict.fromkeys(("max_profit_capital", "max_profit_per_year", "half_sharpe_capital")),
    **{"capitals": [0.0, 1.0], "sharpe_daily": [1.0, None], "reason": "no capacity: why"},
}


def render_page(report, sensitivity):
    execution, capacity = (dict.fromkeys(report.leaderboard, each) for each in (EXECUTION, CAPACITY))
    return comparison_page.render_page("klines", report, sensitivity, execution, capacity)


def test_the_page_names_a_model_that_is_not_executable_and_why():
    page = render_page(compare_small({"a": simulate_model(1e-4, seed=1)}), SENSITIVITY)
    assert "| a | not executable |" in page
    assert "not executable: net -1.00% with a delay of 1 bar" in page
    assert "- a: 10% of the bars have no trades" in page


def test_the_better_of_two_models_is_named_first_in_any_order():
    common = np.random.default_rng(3).normal(0, 1e-3, size=(4000, 3))
    good, poor, own = (
        make_returns(common + 1e-4),
        make_returns(common),
        np.random.default_rng(4).normal(0, 2e-4, size=(4000, 3)),
    )
    for models in (
        {"good": good, "poor": make_returns(poor.paths + own)},
        {"poor": make_returns(poor.paths + own), "good": good},
    ):
        (pair,) = compare_small(models).pairs
        assert (pair.a, pair.b, pair.verdict) == ("good", "poor", "good better than poor")
        ratios = [np.mean(models[name].sharpes) for name in ("good", "poor")]
        assert pair.difference == pytest.approx((ratios[0] - ratios[1]) * np.sqrt(YEAR))
        assert 0 < pair.low < pair.difference < pair.high


def test_one_model_has_a_sharpe_but_no_pbo_and_says_why():
    report = compare_small({"a": simulate_model(1e-4, seed=1)})
    headline = compare.make_headline(report, SENSITIVITY)
    assert np.isnan(headline["pbo"])
    assert headline["reason"].startswith("no PBO: fewer than two models trade, there is nothing to choose from")
    assert report.leaderboard["a"]["dsr"] == report.leaderboard["a"]["psr"]  # a single trial is not deflated
    assert "nothing to compare" in render_page(report, SENSITIVITY)


def test_the_table_shows_a_sharpe_with_its_interval_and_a_dash_where_a_figure_is_undefined():
    page = render_page(compare_small({"idle": IDLE, "good": simulate_model(2e-4, seed=2)}), SENSITIVITY)
    assert "| idle | not executable | – | – | – |" in page
    assert re.search(
        r"\| good \| not executable \| -?[\d.]+ \| [\d.]+ \[[\d.]+, [\d.]+\] \|", page
    )  # too few days for an interval


@pytest.mark.parametrize(
    ("dsr", "effective", "verdict"),
    [
        (0.99, [1.0, 1.0], "yes"),
        (0.5, [0.96, 0.99], "only if correlated trials count as fewer, by every estimate of their effective number"),
        (0.5, [0.96, 0.94], "only by some estimates of the effective number of trials"),
        (0.5, [0.6, 0.94], "no"),
        (0.5, [], "no"),
        (np.nan, [np.nan], "not known, too few observations or no trade"),
    ],
)
def test_the_verdict_on_a_model_considers_all_numbers_of_trials(dsr, effective, verdict):
    row = {"dsr": dsr, **{f"dsr_{i}": value for i, value in enumerate(effective)}}
    assert comparison_page.judge_model(row) == verdict


def test_the_page_says_which_models_differ_significantly_and_which_do_not():
    models = {"good": simulate_model(5e-4, seed=1), "a": simulate_model(0.0, seed=2), "b": simulate_model(0.0, seed=3)}
    page = render_page(compare_small(models), SENSITIVITY)
    assert "- good better than a by " in page
    assert "- good better than b by " in page
    assert re.search(r"- not distinguishable: (a and b|b and a)\n", page)


def test_a_score_that_falls_with_the_embargo_is_reported_with_its_drop():
    report = compare_small({})
    page = render_page(report, SENSITIVITY)
    assert "Embargo: suspected leakage." in page
    assert "| 0.5 | 5 | 0.25 [0.15, 0.35] | 0.2 |" in page
    assert compare.make_headline(report, SENSITIVITY)["embargo_ic_drop"] == 0.375
    assert compare.plot_sensitivity(SENSITIVITY).axes[0].get_title(loc="left") == "return_5: SUSPECTED LEAKAGE"


def test_where_the_sensitivity_was_not_measured_the_page_says_why():
    report = compare_small({})
    assert render_page(report, NOT_MEASURED).endswith("Embargo: not measured: no multiples.\n")
    assert np.isnan(compare.make_headline(report, NOT_MEASURED)["embargo_ic_drop"])
    assert compare.make_headline(report, NOT_MEASURED)["reason"].endswith("no multiples")
    assert compare.plot_sensitivity(NOT_MEASURED).axes[0].get_title(loc="left") == "not measured: no multiples"


def test_a_model_that_never_trades_does_not_raise_the_rank_of_those_that_lose():
    losers = {"a": simulate_model(-1e-4, seed=1), "b": simulate_model(-1e-4, seed=2)}
    assert compare_small(losers | {"idle": IDLE}).cscv.pbo == compare_small(losers).cscv.pbo


def test_a_path_that_never_trades_has_return_zero_and_ranks_below_those_that_won():
    paths = np.zeros((4000, 5))
    paths[:, :3] = np.random.default_rng(0).normal([-2e-4, -1e-4, 1e-4], 1e-3, size=(4000, 3))
    found = make_returns(paths)
    assert not found.paths[:, found.median_path].any()


def test_models_are_compared_on_the_bars_that_all_of_them_cover():
    a, b = simulate_model(1e-4, seed=1), simulate_model(1e-4, seed=2)
    later = Returns(b.time + 60_000 * 100, b.paths, b.seeds)
    found = align_models({"a": a, "later": later})
    assert found["a"].time.tolist() == found["later"].time.tolist() == a.time[100:].tolist()
    np.testing.assert_array_equal(found["a"].paths, a.paths[100:])
    np.testing.assert_array_equal(found["later"].paths, b.paths[:-100])
    with pytest.raises(ValueError, match="a, never have no bar in common"):
        align_models({"a": a, "never": Returns(b.time + 10**9, b.paths, b.seeds)})


def test_the_returns_of_evaluate_are_read_by_path_and_time(tmp_path):
    net = {"time": [10, 20, 20, 10], "net": [0.1, 0.2, 0.3, 0.4]}
    table = pd.DataFrame({"path": [1, 1, 0, 0], "seed": [8, 8, 7, 7], **net})
    artifacts.write_table(tmp_path / "a.parquet", table)
    found = Returns.load(tmp_path / "a.parquet")
    assert (found.time.tolist(), found.paths.tolist()) == ([10, 20], [[0.4, 0.1], [0.3, 0.2]])
    assert found.seeds.tolist() == [7, 8]


def test_a_dataset_without_a_model_has_an_empty_leaderboard():
    headline = compare.make_headline(compare_small({}), SENSITIVITY)
    assert headline["best"] is None
    assert np.isnan(headline["best_dsr"])


def test_the_same_params_give_the_same_report():
    models = {"a": simulate_model(1e-4, seed=1), "b": simulate_model(2e-5, seed=2)}
    assert compare_small(models).pairs == compare_small(models).pairs
    assert render_page(compare_small(models), SENSITIVITY) == render_page(compare_small(models), SENSITIVITY)


@pytest.mark.parametrize(
    "models",
    [
        {},
        {"idle": IDLE},
        {"a": simulate_model(1e-4, seed=1, paths=1)},
        {"a": simulate_model(1e-4, seed=1), "b": simulate_model(0.0, seed=2), "idle": IDLE},
        {name: simulate_model(0.0, seed=seed, rows=400, paths=50) for seed, name in enumerate("abcde")},
    ],
    ids=["none", "idle", "one of one path", "three", "five of fifty paths"],
)
def test_every_comparison_has_its_pictures_the_same_each_time(models, tmp_path):
    drawn = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        figures = compare.plot_comparison("klines", models, compare_small(models), SENSITIVITY, bars_per_year=YEAR)
        for name, figure in figures.items():
            artifacts.write_figure(folder / f"{name}.png", figure)
        drawn.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert sorted(drawn[0]) == [
        "degradation.png",
        "embargo.png",
        "equity.png",
        "pairs.png",
        "pbo_logits.png",
        "sharpes.png",
    ]
    assert drawn[0] == drawn[1]


def test_a_fan_ends_where_its_paths_end_and_a_picture_does_not_hold_every_bar():
    found = simulate_model(1e-4, seed=1)
    equity = compare.make_equity_paths(found)
    assert len(equity.time) == plots.MAX_POINTS
    assert (equity.time[0], equity.time[-1]) == (found.time[0], found.time[-1])
    np.testing.assert_allclose(equity.paths[:, -1], np.prod(1.0 + found.paths, axis=0))


def test_the_red_share_of_the_logits_is_the_pbo():
    result = overfitting.pbo(np.random.default_rng(5).normal(size=(400, 60)), blocks=8)
    bars = plots.plot_pbo_logits(result.logits, pbo=result.pbo).axes[0].patches
    left = sum(bar.get_height() for bar in bars if bar.get_x() + bar.get_width() <= 1e-6)
    assert left == pytest.approx(result.pbo)
    assert sum(bar.get_height() for bar in bars) == pytest.approx(1.0)
