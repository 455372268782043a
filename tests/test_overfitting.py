"""The overfitting statistics against the papers' published examples, scipy, simulation and constructed cases."""

import numpy as np
import pytest
from scipy import signal, stats

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


def draw_null_trials(rng: np.random.Generator, *, trials: int, noisy: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return Sharpe ratios without skill of 10,000 bars, and their errors; those of the first `noisy` are tripled."""
    errors = np.full(trials, 0.01)
    errors[:noisy] *= 3
    return rng.normal(0, errors), errors


def test_deflate_is_the_published_formula_where_the_variance_across_trials_is_above_its_floor() -> None:
    sharpes = np.array([0.00, 0.02, 0.04, 0.06, 0.08])
    found = overfitting.deflate(0.08, n=2000, **HEDGE_FUND, trial_sharpes=sharpes, trials=5)
    assert found.variance == pytest.approx(sharpes.var(ddof=1))
    assert found.sr0 == overfitting.expected_max_sharpe(variance=found.variance, trials=5)
    assert found.dsr == overfitting.deflated_sharpe(0.08, n=2000, **HEDGE_FUND, variance=found.variance, trials=5)
    assert found.trials == 5


@pytest.mark.parametrize("survivors", [[], [0.03], [0.03, 0.03], [0.0301, 0.03, np.nan]])
def test_the_variance_across_trials_is_never_below_that_of_a_sharpe_without_skill(survivors: list[float]) -> None:
    found = overfitting.deflate(0.03, n=10_001, **NORMAL, trial_sharpes=survivors, trials=100)
    assert found.variance == pytest.approx(1 / 10_000)
    assert found.sr0 == pytest.approx(2.5306 / 100, rel=1e-3)  # of the best of 100 standard normals
    assert found.dsr < 0.95 < overfitting.probabilistic_sharpe(0.03, n=10_001, **NORMAL)


def test_one_absurd_trial_does_not_destroy_the_others() -> None:
    """A Sharpe ratio of -217 a year among eight of 0 to 4; bars are minutes of 90 days."""
    year = np.sqrt(525_600)
    usual = np.linspace(0, 4, 8) / year
    best = {"n": 129_600, **NORMAL, "trials": 9}
    alone = overfitting.deflate(12 / year, trial_sharpes=usual, **best)
    beside = overfitting.deflate(12 / year, trial_sharpes=[*usual, -217 / year], **best)
    assert beside.dsr == pytest.approx(alone.dsr, abs=0.01)
    errors = np.full(9, 1 / np.sqrt(129_599))
    assert overfitting.deflate(12 / year, trial_sharpes=[*usual, -217 / year], trial_errors=errors, **best).dsr > 0.95
    assert (
        overfitting.deflated_sharpe(
            12 / year, n=129_600, **NORMAL, variance=np.var([*usual, -217 / year], ddof=1), trials=9
        )
        < 1e-6
    )


@pytest.mark.parametrize(
    ("trials", "survivors", "noisy"), [(20, 2, 0), (100, 8, 0), (100, 2, 0), (50, 1, 0), (100, 100, 10)]
)
def test_the_best_of_many_without_skill_passes_in_few_worlds(trials: int, survivors: int, noisy: int) -> None:
    rng, passed = np.random.default_rng(trials + survivors), 0
    for _ in range(300):
        sharpes, errors = draw_null_trials(rng, trials=trials, noisy=noisy)
        ranked = np.argsort(-sharpes / errors)[:survivors]
        found = overfitting.deflate(
            sharpes[ranked[0]],
            n=1 + 1 / errors[ranked[0]] ** 2,
            **NORMAL,
            trial_sharpes=sharpes[ranked],
            trial_errors=errors[ranked],
            trials=trials,
        )
        passed += found.dsr > 0.95
    assert passed <= 6  # 2 %: the published formula lets most of these worlds pass where 2 of 100 are kept


def test_a_noisy_trial_counts_in_units_of_its_own_error() -> None:
    """In units of its own error the last Sharpe ratio is 4, as the first, not 40; the third is worse than luck."""
    sharpes, errors = np.array([0.04, 0.0, -0.02, 0.40]), np.array([0.01, 0.01, 0.01, 0.1])
    found = overfitting.deflate(0.04, n=10_001, **NORMAL, trial_sharpes=sharpes, trial_errors=errors, trials=4)
    lowest = 0.04  # as far below the median of 0.04 as the best is above it
    assert found.variance == pytest.approx(max(np.var([0.04, lowest, 0.04], ddof=1), 1e-4), rel=1e-3)


@pytest.mark.parametrize("errors", [None, [0.01, 0.01]])
def test_of_few_survivors_a_better_one_has_a_higher_dsr(errors: list[float] | None) -> None:
    """The runner-up is 2.2 errors above 0, as the second of 100 without skill is."""
    found = [
        overfitting.deflate(
            best * 0.01, n=10_001, **NORMAL, trial_sharpes=[best * 0.01, 0.022], trial_errors=errors, trials=100
        ).dsr
        for best in (3, 4, 5, 6, 8)
    ]
    assert found == sorted(found)
    assert found[1] < 0.95 < found[2]


def test_dearer_copies_of_good_trials_do_not_raise_the_variance() -> None:
    """Eight trials with skill; then the same at costs that leave each of them a loss."""
    sharpes = np.linspace(0.025, 0.065, 8)
    known = {"trial_errors": np.full(8, 0.003)}
    alone = overfitting.deflate(0.065, n=110_000, **NORMAL, trial_sharpes=sharpes, trials=8, **known)
    both = np.concatenate([sharpes, sharpes - 0.1])
    beside = overfitting.deflate(
        0.065, n=110_000, **NORMAL, trial_sharpes=both, trials=16, trial_errors=np.full(16, 0.003)
    )
    assert beside.variance == alone.variance
    assert beside.sr0 > alone.sr0  # N counts all of them


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 1}, "at least 2"),
        ({"trials": 0}, "trials: 0"),
        ({"sharpe": np.nan}, "sharpe: nan"),
    ],
)
def test_a_deflation_of_impossible_input_is_refused(changes: dict, message: str) -> None:
    arguments = {"sharpe": 0.1, "n": 100, **NORMAL, "trial_sharpes": [0.1, 0.0], "trials": 2} | changes
    with pytest.raises(ValueError, match=message):
        overfitting.deflate(**arguments)


def test_dependence_shortens_the_effective_length() -> None:
    """Returns of an AR(1) with 0.5 have three times the long-run variance of independent ones."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=50_000)
    returns = signal.lfilter([1.0], [1.0, -0.5], noise)
    assert overfitting.estimate_moments(returns)["n"] == pytest.approx(50_000 / 3, rel=0.1)
    assert overfitting.estimate_moments(noise)["n"] == pytest.approx(50_000, rel=0.03)
    assert overfitting.estimate_moments(np.diff(noise))["n"] == 49_999  # no credit for returns that revert


@pytest.mark.parametrize("seed", range(3))
def test_moments_and_slopes_are_those_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    returns, other = rng.exponential(1e-3, (2, 500)) - 5e-4
    moments = overfitting.estimate_moments(returns)
    assert moments["skew"] == pytest.approx(stats.skew(returns), rel=1e-9)
    assert moments["kurtosis"] == pytest.approx(stats.kurtosis(returns, fisher=False), rel=1e-9)
    slope = overfitting._fit_slope(returns, other, unit=1.0)
    assert slope == pytest.approx(stats.linregress(returns, other).slope, rel=1e-9)
