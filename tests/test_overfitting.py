"""The overfitting statistics against the papers' published examples, scipy, simulation and brute force."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from pipeline import metrics, overfitting

HEDGE_FUND = {"skew": -2.448, "kurtosis": 10.164}  # the example of "The Sharpe Ratio Efficient Frontier"
NORMAL = {"skew": 0.0, "kurtosis": 3.0}


def brute_force_logits(returns: np.ndarray, *, blocks: int) -> list[float]:
    """CSCV as the paper tells it: lists, loops, scipy's ranks, rows put together again for every choice."""
    size = len(returns) // blocks
    runs = [list(range(b * size, (b + 1) * size)) for b in range(blocks)]
    logits = []
    for inside in combinations(range(blocks), blocks // 2):
        rows_in = [row for b in inside for row in runs[b]]
        rows_out = [row for b in range(blocks) if b not in inside for row in runs[b]]
        ratio_in, ratio_out = (
            [np.mean(r) / np.std(r, ddof=1) for r in returns[rows].T] for rows in (rows_in, rows_out)
        )
        rank = stats.rankdata(np.round(ratio_out, 12))[int(np.argmax(np.round(ratio_in, 12)))]
        relative = rank / (returns.shape[1] + 1)
        logits.append(np.log(relative / (1 - relative)))
    return logits


def by_rows(returns: np.ndarray) -> np.ndarray:
    """The Sharpe ratio as any other metric: pbo does not recognise it and takes the slow path."""
    return np.asarray(metrics.sharpe(returns))


def test_probabilistic_sharpe_is_the_published_hedge_fund_example() -> None:
    monthly = 0.458  # 1.59 a year, over 24 months
    assert overfitting.probabilistic_sharpe(monthly, n=24, **NORMAL) == pytest.approx(0.982, abs=5e-4)
    assert overfitting.probabilistic_sharpe(monthly, n=24, **HEDGE_FUND) == pytest.approx(0.913, abs=5e-4)


@pytest.mark.parametrize(("per_year", "years"), [(252, 2.73), (52, 2.83), (12, 3.24)])
def test_min_track_record_is_the_published_table_for_normal_returns(per_year: int, years: float) -> None:
    bars = overfitting.min_track_record(
        2 / np.sqrt(per_year), benchmark=1 / np.sqrt(per_year), confidence=0.95, **NORMAL
    )
    assert bars / per_year == pytest.approx(years, abs=5e-3)


def test_min_track_record_is_the_published_figure_for_skewed_returns() -> None:
    sharpe, benchmark = 2 / np.sqrt(12), 1 / np.sqrt(12)
    months = overfitting.min_track_record(sharpe, skew=-0.72, kurtosis=5.78, benchmark=benchmark, confidence=0.95)
    assert months / 12 == pytest.approx(4.99, abs=5e-3)


def test_deflated_sharpe_is_the_published_example() -> None:
    """Annual Sharpe 2.5 over 1250 days, best of 100 trials whose annual Sharpe has variance 1/2 (paper, section 6)."""
    daily = {"n": 1250, "skew": -3.0, "kurtosis": 10.0, "variance": 0.5 / 250}
    assert overfitting.expected_max_sharpe(variance=0.5 / 250, trials=100) == pytest.approx(0.1132, abs=5e-5)
    assert overfitting.deflated_sharpe(2.5 / np.sqrt(250), trials=100, **daily) == pytest.approx(0.9004, abs=5e-5)
    assert overfitting.deflated_sharpe(2.5 / np.sqrt(250), trials=46, **daily) == pytest.approx(0.9505, abs=5e-5)


def test_deflated_sharpe_is_the_published_example_for_normal_returns() -> None:
    daily = {"n": 1250, "variance": 0.5 / 250, **NORMAL}
    assert overfitting.deflated_sharpe(2.5 / np.sqrt(250), trials=88, **daily) == pytest.approx(0.9505, abs=5e-5)


def test_min_backtest_years_is_the_published_rule_of_thumb() -> None:
    """With five years of data no more than 45 configurations should be tried, else an annual Sharpe of 1 is luck."""
    assert overfitting.min_backtest_years(1.0, trials=45) == pytest.approx(5.0, abs=5e-3)
    assert overfitting.min_backtest_years(2.0, trials=45) == pytest.approx(1.25, abs=2e-3)


def test_expected_max_sharpe_is_near_the_simulated_maximum() -> None:
    simulated = np.random.default_rng(1).normal(0, 0.3, (20_000, 50)).max(axis=1).mean()
    assert overfitting.expected_max_sharpe(variance=0.09, trials=50) == pytest.approx(simulated, rel=0.02)


def test_one_trial_deflates_nothing() -> None:
    assert overfitting.expected_max_sharpe(variance=0.5, trials=1) == 0.0
    arguments = {"n": 500, "skew": -0.5, "kurtosis": 5.0}
    deflated = overfitting.deflated_sharpe(0.1, variance=0.5, trials=1, **arguments)
    assert deflated == overfitting.probabilistic_sharpe(0.1, **arguments)


def test_expected_max_sharpe_never_falls_with_more_trials() -> None:
    expected = [
        overfitting.expected_max_sharpe(variance=1.0, trials=n) for n in [1, 1.01, 1.3, 1.7, 2, 2.5, 3, 10, 1e6]
    ]
    assert expected[0] == 0.0
    assert (np.diff(expected) >= 0).all()


def test_probabilistic_sharpe_at_the_min_track_record_is_the_confidence() -> None:
    n = overfitting.min_track_record(0.12, benchmark=0.03, confidence=0.9, **HEDGE_FUND)
    assert overfitting.probabilistic_sharpe(0.12, n=n, benchmark=0.03, **HEDGE_FUND) == pytest.approx(0.9)


def test_probabilistic_sharpe_is_uniform_where_returns_are_luck() -> None:
    rng = np.random.default_rng(5)
    probabilities = [
        overfitting.probabilistic_sharpe(**overfitting.sharpe_moments(rng.standard_t(6, 400))) for _ in range(400)
    ]
    assert stats.kstest(probabilities, "uniform").pvalue > 0.01


def test_moments_are_per_observation_with_the_kurtosis_of_a_normal_at_three() -> None:
    moments = overfitting.sharpe_moments(np.array([1.0, -1.0, 1.0, -1.0, 5.0]))
    deviations = np.array([0.0, -2.0, 0.0, -2.0, 4.0])  # from the mean of 1; mean square 24/5
    assert moments["n"] == 5
    assert moments["sharpe"] == pytest.approx(1 / np.sqrt(24 / 4))
    assert moments["skew"] == pytest.approx((deviations**3).mean() / (24 / 5) ** 1.5)
    assert moments["kurtosis"] == pytest.approx((deviations**4).mean() / (24 / 5) ** 2)


def test_moments_of_returns_that_never_vary_are_nan() -> None:
    moments = overfitting.sharpe_moments(np.zeros(4))
    assert moments["n"] == 4
    assert np.isnan([moments["sharpe"], moments["skew"], moments["kurtosis"]]).all()


def test_what_no_length_can_prove_is_nan() -> None:
    assert np.isnan(overfitting.min_track_record(0.1, benchmark=0.1, confidence=0.95, **NORMAL))
    assert np.isnan(overfitting.min_track_record(0.05, benchmark=0.1, confidence=0.95, **NORMAL))
    assert np.isnan(overfitting.min_backtest_years(0.0, trials=10))
    assert np.isnan(overfitting.min_backtest_years(-1.0, trials=10))


def test_a_sharpe_without_error_has_no_probability() -> None:
    assert np.isnan(overfitting.probabilistic_sharpe(1.0, n=10, skew=2.0, kurtosis=5.0))  # 1 - 2 + 1 = 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: overfitting.probabilistic_sharpe(0.1, n=1, **NORMAL), "at least 2"),
        (lambda: overfitting.probabilistic_sharpe(np.nan, n=10, **NORMAL), "sharpe: nan"),
        (lambda: overfitting.probabilistic_sharpe(0.1, n=10, skew=np.nan, kurtosis=3), "skew: nan"),
        (lambda: overfitting.probabilistic_sharpe(0.1, n=10, skew=0.0, kurtosis=0.0), "not the excess"),
        (lambda: overfitting.expected_max_sharpe(variance=1.0, trials=0), "at least 1 trial"),
        (lambda: overfitting.expected_max_sharpe(variance=-1.0, trials=5), "at least 0"),
        (lambda: overfitting.expected_max_sharpe(variance=np.nan, trials=5), "variance: nan"),
        (lambda: overfitting.min_backtest_years(1.0, trials=0.5), "at least 1 trial"),
        (lambda: overfitting.min_track_record(0.1, benchmark=0.0, confidence=1.0, **NORMAL), "below 1"),
        (lambda: overfitting.pbo(np.zeros((8, 2)), blocks=3), "even"),
        (lambda: overfitting.pbo(np.zeros((8, 2)), blocks=0), "at least 2"),
        (lambda: overfitting.pbo(np.zeros((8, 2)), blocks=10), "at most the 8 rows"),
        (lambda: overfitting.pbo(np.zeros((8, 1)), blocks=2), "at least 2 strategies"),
        (lambda: overfitting.pbo(np.zeros(8), blocks=2), "at least 2 strategies"),
        (lambda: overfitting.pbo(np.array([[0.0, 1.0], [np.nan, 1.0]]), blocks=2), "index \\(1, 0\\)"),
        (lambda: overfitting.pbo(np.zeros((8, 2)), blocks=2, metric=lambda r: r.mean()), "one finite or nan"),
        (lambda: overfitting.pbo(np.zeros((8, 2)), blocks=2, metric=lambda r: np.full(2, np.inf)), "one finite or nan"),
    ],
)
def test_impossible_input_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("blocks", "rows", "strategies"), [(2, 20, 3), (4, 43, 5), (6, 60, 2), (8, 100, 7)])
def test_pbo_is_what_brute_force_gives(blocks: int, rows: int, strategies: int) -> None:
    returns = np.random.default_rng(rows).normal(0.01, 1, (rows, strategies))
    logits = brute_force_logits(returns, blocks=blocks)
    result = overfitting.pbo(returns, blocks=blocks)
    np.testing.assert_allclose(result.logits, logits, atol=1e-12)
    assert result.pbo == np.mean(np.array(logits) <= 0)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float64, st.tuples(st.integers(8, 30), st.integers(2, 5)), elements=st.integers(-2, 2).map(float)),
    st.sampled_from([2, 4, 6]),
    st.sampled_from([1.0, 0.1, 1e-4]),
)
def test_block_sums_equal_the_slow_definition_ties_included(returns: np.ndarray, blocks: int, scale: float) -> None:
    fast = overfitting.pbo(returns * scale, blocks=blocks)
    slow = overfitting.pbo(returns * scale, blocks=blocks, metric=by_rows)
    np.testing.assert_array_equal(fast.chosen, slow.chosen)
    np.testing.assert_allclose(fast.logits, slow.logits, atol=1e-12)
    np.testing.assert_allclose(fast.in_sample, slow.in_sample, atol=1e-12)
    np.testing.assert_allclose(fast.out_of_sample, slow.out_of_sample, atol=1e-12)
    assert (fast.pbo, fast.loss_probability) == pytest.approx((slow.pbo, slow.loss_probability), nan_ok=True)


def test_pbo_by_hand_on_two_blocks() -> None:
    """Strategy 0 wins the first half and is last in the second; strategy 1 wins the second, second in the first."""
    returns = np.array([[3.0, 1.0, 0.0], [5.0, 1.0, 0.0], [0.0, 4.0, 1.0], [-2.0, 4.0, 1.0]])
    result = overfitting.pbo(returns, blocks=2, metric=lambda rows: rows.mean(axis=0))
    np.testing.assert_array_equal(result.chosen, [0, 1])
    np.testing.assert_array_equal(result.in_sample, [4.0, 4.0])
    np.testing.assert_array_equal(result.out_of_sample, [-1.0, 1.0])
    np.testing.assert_allclose(result.logits, [np.log((1 / 4) / (3 / 4)), 0.0])  # ranks 1 and 2 of 3
    assert result.pbo == 1.0  # a logit of 0 counts
    assert result.loss_probability == 0.5
    assert np.isnan(result.slope)  # both were 4 in sample


def test_twins_share_their_rank() -> None:
    best = np.random.default_rng(2).normal(1.0, 0.1, 40)
    result = overfitting.pbo(np.column_stack([best, best, -best]), blocks=4)
    np.testing.assert_allclose(result.logits, np.log((2.5 / 4) / (1.5 / 4)))
    assert (result.chosen == 0).all()


def test_the_last_rows_beyond_equal_blocks_are_dropped() -> None:
    returns = np.random.default_rng(8).normal(0, 1, (43, 4))
    np.testing.assert_array_equal(
        overfitting.pbo(returns, blocks=4).in_sample, overfitting.pbo(returns[:40], blocks=4).in_sample
    )


def test_rows_of_a_choice_are_in_time_order() -> None:
    returns = np.column_stack([np.arange(12.0), -np.arange(12.0)])
    seen = []
    overfitting.pbo(returns, blocks=4, metric=lambda rows: [seen.append(rows[:, 0].tolist()), rows.mean(axis=0)][1])
    assert seen[0] == [0, 1, 2, 3, 4, 5]
    assert seen[1] == [0, 1, 2, 6, 7, 8]
    assert all(rows == sorted(rows) for rows in seen)


def test_a_strategy_that_stands_still_is_behind_all_others() -> None:
    returns = np.random.default_rng(6).normal(-1, 1, (40, 3))
    returns[:, 0] = 0.0
    result = overfitting.pbo(returns, blocks=4)
    assert (result.chosen != 0).all()
    assert result.logits.min() >= np.log((2 / 4) / (2 / 4))  # never last
    assert np.isfinite(result.in_sample).all()


def test_a_constant_return_has_no_sharpe_from_block_sums_either() -> None:
    returns = np.random.default_rng(11).normal(0, 1, (28, 3))
    returns[:, 0] = 0.1  # the mean of seven of these is not 0.1
    assert (overfitting.pbo(returns, blocks=4).chosen != 0).all()


def test_strategies_that_all_stand_still_have_no_pbo() -> None:
    result = overfitting.pbo(np.zeros((8, 2)), blocks=4)
    assert np.isnan([result.pbo, result.slope, result.loss_probability]).all()
    assert np.isnan(result.logits).all()


def test_one_truly_better_strategy_is_not_overfitted() -> None:
    returns = np.random.default_rng(7).normal(0, 1, (1000, 20))
    returns[:, 3] += 0.5
    result = overfitting.pbo(returns, blocks=10)
    assert result.pbo == 0.0
    assert (result.chosen == 3).all()


def test_luck_alone_has_a_pbo_around_one_half_or_above() -> None:
    rng = np.random.default_rng(9)
    found = [overfitting.pbo(rng.normal(0, 1, (240, 10)), blocks=8).pbo for _ in range(60)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.1)
    assert overfitting.pbo(rng.normal(0, 1, (240, 10)), blocks=8).slope < 0  # in and out of sample share one total


def test_slope_is_the_regression_of_out_of_sample_on_in_sample() -> None:
    result = overfitting.pbo(np.random.default_rng(10).normal(0, 1, (60, 5)), blocks=6)
    assert result.slope == pytest.approx(np.polyfit(result.in_sample, result.out_of_sample, 1)[0])
