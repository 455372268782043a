"""The tail of losses, against scipy, known distributions and worked values."""

import numpy as np
import pytest
from scipy import stats

from pipeline import tail_risk

SHAPES = [-0.3, -0.05, 0.0, 0.02, 0.2, 0.5]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [60, 400])
def test_no_other_parameters_are_likelier_than_those_fitted(shape, count):
    excess = stats.genpareto.rvs(shape, scale=2.0, size=count, random_state=np.random.default_rng(count + 1))
    own, other = tail_risk.fit_gpd(excess), stats.genpareto.fit(excess, floc=0)
    likelihood = stats.genpareto.logpdf(excess, own[0], scale=own[1]).sum()
    assert likelihood >= stats.genpareto.logpdf(excess, other[0], scale=other[2]).sum() - 1e-6
    assert own == pytest.approx((other[0], other[2]), abs=5e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_value_at_risk_and_shortfall_are_those_of_the_distribution(shape):
    tail = tail_risk.GpdTail(threshold=1.0, shape=shape, scale=0.5, exceedances=100, observations=1000)
    distribution = stats.genpareto(shape, loc=1.0, scale=0.5)  # given a loss above the threshold, as a tenth is
    var = distribution.ppf(0.8)
    assert tail.value_at_risk(0.98) == pytest.approx(var, rel=1e-6)
    shortfall = distribution.expect(lambda loss: loss, lb=var, conditional=True)
    assert tail.expected_shortfall(0.98) == pytest.approx(shortfall, rel=1e-4)


def test_the_tail_is_continuous_where_it_becomes_exponential():
    near, at = (tail_risk.GpdTail(1.0, shape, 0.5, exceedances=100, observations=1000) for shape in (1e-7, 0.0))
    assert near.expected_shortfall(0.999) == pytest.approx(at.expected_shortfall(0.999), rel=1e-5)


@pytest.mark.parametrize("degrees", [3, 4, 8])
@pytest.mark.parametrize("level", [0.975, 0.99, 0.995])
def test_simulated_losses_exceed_the_value_at_risk_at_its_rate(degrees, level):
    rates = []
    for seed in range(40):
        known, later = np.random.default_rng([seed, degrees]).standard_t(degrees, size=(2, 5000))
        tail = tail_risk.fit_tail(known, tail_fraction=0.1, min_exceedances=50)
        rates.append(np.mean(later > tail.value_at_risk(level)))
    error = np.std(rates) / np.sqrt(len(rates))
    assert abs(np.mean(rates) - (1 - level)) < 3 * error + 0.05 * (1 - level)


def test_standard_errors_cover_the_true_shape():
    misses = 0
    for seed in range(200):
        losses = stats.genpareto.rvs(0.25, size=2000, random_state=np.random.default_rng(seed))
        tail = tail_risk.fit_tail(losses, tail_fraction=0.1, min_exceedances=50)
        misses += abs(tail.shape - 0.25) > 1.96 * tail.standard_errors[0]
    assert 2 <= misses <= 22  # 10 are expected


def test_too_few_exceedances_are_an_error_and_not_extrapolated():
    with pytest.raises(tail_risk.TooFewExceedancesError, match="20 of 200 losses exceed .* a tail needs 50"):
        tail_risk.fit_tail(np.random.default_rng(0).normal(size=200), tail_fraction=0.1, min_exceedances=50)
    with pytest.raises(tail_risk.TooFewExceedancesError, match="0 of 0"):
        tail_risk.fit_tail(np.empty(0), tail_fraction=0.1, min_exceedances=50)


def test_a_level_below_the_tail_is_refused():
    tail = tail_risk.GpdTail(1.0, 0.1, 0.5, exceedances=100, observations=1000)
    with pytest.raises(ValueError, match="level is 0.8; this tail of 10.00% of the losses covers levels from 0.9 on"):
        tail.value_at_risk(0.8)


def test_kupiec_is_the_worked_likelihood_ratio():
    hits = np.zeros(250, dtype=bool)
    hits[[10, 60, 110, 160, 210]] = True  # 5 where 2.5 are expected
    found = tail_risk.backtest_var(hits, level=0.99)
    ratio = -2 * (5 * np.log(0.01) + 245 * np.log(0.99) - 5 * np.log(0.02) - 245 * np.log(0.98))
    assert ratio == pytest.approx(1.9568, abs=1e-4)  # as in the literature's table of this case
    assert (found.violations, found.violation_rate) == (5, 0.02)
    assert found.kupiec_p == pytest.approx(stats.chi2.sf(ratio, 1), rel=1e-9)


def test_christoffersen_rejects_clustered_violations():
    rng = np.random.default_rng(0)
    scattered, clustered = rng.random(5000) < 0.02, np.zeros(5000, dtype=bool)
    for start in range(0, 5000, 250):
        clustered[start : start + 5] = True
    assert tail_risk.backtest_var(scattered, level=0.98).independence_p > 0.01
    assert tail_risk.backtest_var(clustered, level=0.98).kupiec_p > 0.5
    assert tail_risk.backtest_var(clustered, level=0.98).joint_p < 1e-6


def test_both_tests_reject_at_their_level():
    found = [
        tail_risk.backtest_var(np.random.default_rng(seed).random(3000) < 0.025, level=0.975) for seed in range(300)
    ]
    for name in ("kupiec_p", "independence_p", "joint_p"):
        assert 3 <= sum(getattr(each, name) < 0.05 for each in found) <= 32  # 15 are expected


@pytest.mark.parametrize(("bars", "is_fine"), [(100, True), (1000, False)])
def test_without_violations_independence_is_undefined_and_coverage_is_rejected_among_many(bars, is_fine):
    found = tail_risk.backtest_var(np.zeros(bars, dtype=bool), level=0.99)
    assert (found.violations, found.violation_rate) == (0, 0.0)
    assert np.isnan(found.independence_p)
    assert found.joint_p == found.kupiec_p == pytest.approx(stats.chi2.sf(-2 * bars * np.log(0.99), 1), rel=1e-9)
    assert (found.joint_p > 0.05) == is_fine


def test_excesses_whose_best_shape_is_at_the_limit_are_fitted_without_a_warning():
    excess = np.array([0.40, 2.36, 1.96, 2.37, 2.89, 0.49, 0.39, 2.42, 2.95, 2.06, 2.37, 0.21, 0.94, 0.08, 0.10, 1.30])
    shape, scale = tail_risk.fit_gpd(excess)
    assert tail_risk.SHAPES[0] <= shape < tail_risk.SHAPES[0] + 0.1
    assert 1 + shape * excess.max() / scale > 0
