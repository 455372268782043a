"""The Sharpe ratio with its evidence: idle bars, few trades, fat tails, and the probabilities that follow."""

import numpy as np
import pytest

from pipeline.evaluation import overfitting
from pipeline.evaluation.sharpe_sample import MIN_OBSERVATIONS, assess_sharpe, measure_sharpe

BARS = 19_440
KNOWN = {"trial_sharpes": np.array([0.1, 0.0]), "trial_errors": np.array([0.01, 0.01]), "confidence": 0.95}


def scatter(returns: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Return the returns at random bars of an otherwise idle record."""
    record = np.zeros(BARS)
    record[np.random.default_rng(seed).choice(BARS, len(returns), replace=False)] = returns
    return record


def test_one_winning_bar_among_idle_ones_is_one_observation() -> None:
    sample = measure_sharpe(scatter(np.array([0.01])))
    assert sample.observations == pytest.approx(1.0, abs=0.01)
    assert overfitting.probabilistic_sharpe(**sample.moments) > 0.95  # by the published formula
    found = assess_sharpe(sample, trials={"dsr": 2}, **KNOWN)
    assert np.isnan(list(found.values())).all()


@pytest.mark.parametrize("traded", [3, 10, 50, 1000])
def test_idle_bars_are_no_observations(traded: int) -> None:
    returns = np.random.default_rng(traded).choice([-1.0, 1.0], traded)
    assert measure_sharpe(scatter(returns)).observations == pytest.approx(traded, rel=0.1)


def test_a_position_held_for_a_week_is_evidence_though_it_is_one_trade() -> None:
    record = np.zeros(BARS)
    record[2000 : 2000 + 7 * 1440] = np.random.default_rng(2).normal(size=7 * 1440)
    assert measure_sharpe(record).observations > 5000


def test_many_small_returns_beside_a_large_one_are_few_observations() -> None:
    returns = np.append(np.random.default_rng(1).normal(0, 1e-4, 1000), 0.05)
    assert measure_sharpe(returns).observations < 4


def test_the_psr_of_luck_is_rarely_high_on_idle_records_of_any_number_of_trades() -> None:
    """At 5 % nominal; without the rule 3 traded bars exceed 0.95 in a fifth of the records."""
    rng, passed, published = np.random.default_rng(7), 0, 0
    for traded in np.repeat([1, 2, 3, 5, 10, 20, 30, 50, 100, 200], 40):
        sample = measure_sharpe(scatter(rng.normal(size=traded), seed=int(rng.integers(2**32))))
        passed += assess_sharpe(sample, trials={"dsr": 2}, **KNOWN)["psr"] > 0.95
        published += overfitting.probabilistic_sharpe(**sample.moments) > 0.95
    assert passed / 400 < 0.05 < 0.1 < published / 400


def test_an_assessment_has_a_probability_for_each_number_of_trials() -> None:
    sample = measure_sharpe(np.random.default_rng(35).normal(0.1, 1, 500))
    found = assess_sharpe(sample, trials={"dsr": 20.0, "dsr_effective": 4.5}, **KNOWN)
    assert found["psr"] == overfitting.probabilistic_sharpe(**sample.moments)
    known = {name: KNOWN[name] for name in ("trial_sharpes", "trial_errors")}
    deflated = overfitting.deflate(**sample.moments, trials=20, **known)
    assert found["dsr"] == deflated.dsr < found["dsr_effective"] < found["psr"]
    assert (found["expected_max_sharpe"], found["trial_variance"]) == (deflated.sr0, deflated.variance)
    luck = overfitting.deflated_sharpe(**sample.moments, variance=1 / (sample.n - 1), trials=20)
    assert found["luck_dsr"] == pytest.approx(luck)
    assert found["excess_over_expected_max"] == sample.sharpe - deflated.sr0


def test_the_minimum_track_record_counts_dependent_bars() -> None:
    noise = np.random.default_rng(3).normal(0.05, 1, 50_000)
    sample = measure_sharpe(np.repeat(noise[:25_000], 2))  # every return twice
    found = assess_sharpe(sample, trials={"dsr": 2}, **KNOWN)["min_track_record_bars"]
    shape = {"skew": sample.skew, "kurtosis": sample.kurtosis}
    independent = overfitting.min_track_record(sample.sharpe, benchmark=0.0, confidence=0.95, **shape)
    assert found == pytest.approx(2 * independent, rel=0.1)


def test_returns_that_never_vary_have_no_observations() -> None:
    sample = measure_sharpe(np.full(100, 0.01))
    assert np.isnan(sample.observations)
    assert np.isnan(assess_sharpe(sample, trials={"dsr": 3}, **KNOWN)["dsr"])


def test_returns_that_never_trade_have_no_assessment() -> None:
    sample = measure_sharpe(np.zeros(50))
    assert (sample.bars, sample.is_sufficient) == (50, False)
    assert np.isnan(list(assess_sharpe(sample, trials={"dsr": 3}, **KNOWN).values())).all()
    assert MIN_OBSERVATIONS == 30
