"""The overfitting statistics against the papers' published examples, scipy, simulation and constructed cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from pipeline.evaluation import overfitting

HEDGE_FUND = {"skew": -2.448, "kurtosis": 10.164}  # the example of "The Sharpe Ratio Efficient Frontier"
NORMAL = {"skew": 0.0, "kurtosis": 3.0}


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
    """With five years of data, more than 45 configurations give an annual Sharpe of 1 by luck."""
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
        overfitting.probabilistic_sharpe(**overfitting.estimate_moments(rng.standard_t(6, 400))) for _ in range(400)
    ]
    assert stats.kstest(probabilities, "uniform").pvalue > 0.01


@pytest.mark.parametrize("sharpe", [0.1, 0.5])
def test_the_error_of_the_sharpe_is_that_of_simulated_skewed_returns(sharpe: float) -> None:
    """Exponential returns, shifted: skew 2, kurtosis 9. PSR implies the standard error that it uses."""
    draws = np.random.default_rng(20).exponential(1.0, (4000, 1000)) - 1.0 + sharpe
    simulated = (draws.mean(axis=1) / draws.std(axis=1, ddof=1)).std()
    probability = overfitting.probabilistic_sharpe(0.01, n=1000, skew=2.0, kurtosis=9.0, benchmark=0.01)
    assert probability == 0.5
    above = overfitting.probabilistic_sharpe(sharpe, n=1000, skew=2.0, kurtosis=9.0, benchmark=sharpe - simulated)
    assert stats.norm.ppf(above) == pytest.approx(1.0, abs=0.05)


def test_moments_are_per_observation_with_the_kurtosis_of_a_normal_at_three() -> None:
    moments = overfitting.estimate_moments(np.array([1.0, -1.0, 1.0, -1.0, 5.0]))
    deviations = np.array([0.0, -2.0, 0.0, -2.0, 4.0])  # from the mean of 1; mean square 24/5
    assert moments["n"] == 5
    assert moments["sharpe"] == pytest.approx(1 / np.sqrt(24 / 4))
    assert moments["skew"] == pytest.approx((deviations**3).mean() / (24 / 5) ** 1.5)
    assert moments["kurtosis"] == pytest.approx((deviations**4).mean() / (24 / 5) ** 2)


def test_moments_of_returns_that_never_vary_are_nan() -> None:
    moments = overfitting.estimate_moments(np.zeros(4))
    assert moments["n"] == 4
    assert np.isnan([moments["sharpe"], moments["skew"], moments["kurtosis"]]).all()


def test_a_track_record_that_no_length_can_prove_is_nan() -> None:
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
    ],
)
def test_impossible_input_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def make_block(correlation: float, trials: int) -> np.ndarray:
    return np.full((trials, trials), correlation) + (1 - correlation) * np.eye(trials)


def join_blocks(*blocks: np.ndarray, between: float = 0.0) -> np.ndarray:
    """Return the correlations of clusters; each pair of trials of different clusters has the correlation `between`."""
    size = sum(len(one) for one in blocks)
    whole, at = np.full((size, size), between), 0
    for one in blocks:
        whole[at : at + len(one), at : at + len(one)] = one
        at += len(one)
    return whole


@pytest.mark.parametrize(
    ("correlation", "trials"),
    [
        (np.eye(1), 1.0),
        (make_block(1.0, 7), 1.0),
        (np.eye(40), 40.0),
        (make_block(0.5, 11), 1 + 10 * 0.5),  # the interpolation for one cluster
        (make_block(0.9, 2), 1.1),
        (make_block(-1.0, 2), 2.0),  # the better of a bet and its opposite: two tries
        (join_blocks(make_block(1.0, 5), make_block(1.0, 5)), 2.0),
        (join_blocks(make_block(0.95, 5), make_block(0.95, 5)), 2 * (1 + 4 * 0.05)),
        (join_blocks(make_block(0.9, 4), make_block(0.8, 3), make_block(0.99, 6), between=0.1), 1.3 + 1.4 + 1.05),
        (join_blocks(make_block(1.0, 2), make_block(1.0, 1)), 2.0),
    ],
)
def test_the_effective_number_of_constructed_trials_is_known(correlation: np.ndarray, trials: float) -> None:
    assert overfitting.count_effective_trials(correlation) == pytest.approx(trials)


def test_clusters_are_found_in_simulated_returns_in_any_order() -> None:
    rng = np.random.default_rng(30)
    common = rng.normal(size=(2000, 4))
    cluster = np.array([0, 1, 2, 3, 0, 0, 1, 2, 2, 2, 3, 1])
    returns = common[:, cluster] + 0.3 * rng.normal(size=(2000, len(cluster)))
    found = overfitting.cluster_trials(overfitting.correlate_trials(returns))
    assert {(a, b) for a in range(12) for b in range(12) if found[a] == found[b]} == {
        (a, b) for a in range(12) for b in range(12) if cluster[a] == cluster[b]
    }
    order = rng.permutation(12)
    trials = overfitting.count_effective_trials(overfitting.correlate_trials(returns))
    assert overfitting.count_effective_trials(overfitting.correlate_trials(returns[:, order])) == pytest.approx(trials)
    assert trials == pytest.approx(4 + 8 * (1 - 1 / 1.09), abs=0.1)


def test_noise_does_not_split_one_cluster() -> None:
    rng = np.random.default_rng(36)
    returns = rng.normal(size=(300, 1)) + rng.normal(size=(300, 10)) / 3  # correlations around 0.9
    correlation = overfitting.correlate_trials(returns)
    assert len(np.unique(overfitting.cluster_trials(correlation))) == 1
    mean = correlation[~np.eye(10, dtype=bool)].mean()
    assert overfitting.count_effective_trials(correlation) == pytest.approx(1 + 9 * (1 - mean))


def test_uncorrelated_trials_count_in_full() -> None:
    correlation = overfitting.correlate_trials(np.random.default_rng(31).normal(size=(5000, 60)))
    assert overfitting.count_effective_trials(correlation) == pytest.approx(60, rel=0.02)


def test_a_trial_that_never_trades_counts_as_one() -> None:
    returns = np.random.default_rng(32).normal(size=(200, 1)) @ np.ones((1, 4))
    returns[:, 2] = 0.0
    returns[:, 3] = 0.1
    assert overfitting.count_effective_trials(overfitting.correlate_trials(returns)) == pytest.approx(3.0)
    assert overfitting.count_effective_trials(overfitting.correlate_trials(np.zeros((9, 5)))) == 5.0


def test_copies_of_a_trial_at_other_sizes_are_the_same_trial() -> None:
    returns = np.random.default_rng(33).normal(size=(500, 1)) * np.array([1.0, 3.0, 0.1, 1e-6, 7.7])
    assert overfitting.count_effective_trials(overfitting.correlate_trials(returns)) == pytest.approx(1.0)


@settings(max_examples=100, deadline=None)
@given(
    returns=arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(1, 9)), elements=st.integers(-2, 2).map(float))
)
def test_the_effective_number_of_trials_is_between_one_and_the_count(returns: np.ndarray) -> None:
    assert 1 <= overfitting.count_effective_trials(overfitting.correlate_trials(returns)) <= returns.shape[1] + 1e-9


def test_correlations_are_those_of_numpy() -> None:
    returns = np.random.default_rng(34).normal(size=(50, 6))
    np.testing.assert_allclose(overfitting.correlate_trials(returns), np.corrcoef(returns.T), atol=1e-12)


@pytest.mark.parametrize(
    ("correlation", "message"),
    [
        (np.ones((2, 3)), "give \\(trials, trials\\)"),
        (np.ones((0, 0)), "at least one trial"),
        (2 * np.ones((2, 2)), "between -1 and 1"),
        (np.array([[1.0, 0.5], [0.2, 1.0]]), "symmetric"),
    ],
)
def test_a_matrix_that_holds_no_correlations_is_refused(correlation: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overfitting.count_effective_trials(correlation)


def test_an_assessment_has_a_probability_for_each_number_of_trials() -> None:
    moments = overfitting.estimate_moments(np.random.default_rng(35).normal(0.1, 1, 500))
    found = overfitting.assess_sharpe(moments, variance=0.01, trials={"dsr": 20, "dsr_effective": 4.5}, confidence=0.95)
    shape = {name: moments[name] for name in ("n", "skew", "kurtosis")}
    assert found["psr"] == overfitting.probabilistic_sharpe(moments["sharpe"], **shape)
    for name, trials in (("dsr", 20), ("dsr_effective", 4.5)):
        assert found[name] == overfitting.deflated_sharpe(moments["sharpe"], **shape, variance=0.01, trials=trials)
    assert found["dsr"] < found["dsr_effective"] < found["psr"]
    assert found["excess_over_expected_max"] == moments["sharpe"] - overfitting.expected_max_sharpe(
        variance=0.01, trials=20
    )


def test_without_a_variance_across_trials_only_a_single_trial_can_be_deflated() -> None:
    moments = overfitting.estimate_moments(np.random.default_rng(35).normal(0.1, 1, 500))
    found = overfitting.assess_sharpe(moments, variance=np.nan, trials={"dsr": 3, "alone": 1}, confidence=0.95)
    assert np.isnan([found["dsr"], found["excess_over_expected_max"]]).all()
    assert found["alone"] == found["psr"]


def test_returns_that_never_trade_have_no_assessment() -> None:
    moments = overfitting.estimate_moments(np.zeros(9))
    found = overfitting.assess_sharpe(moments, variance=0.01, trials={"dsr": 3}, confidence=0.95)
    assert list(found) == ["psr", "dsr", "excess_over_expected_max", "min_track_record_bars"]
    assert np.isnan(list(found.values())).all()
