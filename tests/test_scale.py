"""Constant and zero are judged by the size of numbers: statistics of returns that vary by rounding are undefined."""

import numpy as np
import pytest

from pipeline import scale
from pipeline.evaluation import bootstrap, effective_trials, forecast, overfitting, pairwise, performance
from pipeline.evaluation.sharpe_sample import measure_sharpe

PRICES = 100 * 1.0001 ** np.arange(3000)
GROWTH = PRICES[1:] / PRICES[:-1] - 1  # 1e-4 a bar but for rounding
NOISE = np.random.default_rng(1).normal(0, 1e-3, len(GROWTH))


def test_the_returns_of_constant_growth_differ_by_rounding() -> None:
    assert 0 < np.ptp(GROWTH) < 1e-15
    assert GROWTH.mean() / GROWTH.std() > 1e10


@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e9])
def test_constant_does_not_depend_on_the_unit(factor: float) -> None:
    assert scale.is_constant(factor * GROWTH)
    assert not scale.is_constant(factor * NOISE)
    assert scale.is_constant(np.column_stack([GROWTH, NOISE]) * factor, axis=0).tolist() == [True, False]
    assert scale.is_negligible(factor * np.array([1.0, 1e-13, 0.0, -1e-11])).tolist() == [False, True, True, False]


def test_zeros_are_constant_and_one_move_among_zeros_is_not() -> None:
    assert scale.is_constant(np.zeros(9))
    assert not scale.is_constant(np.append(np.zeros(100_000), 1e-9))
    assert scale.is_negligible(np.zeros(2)).all()


def test_constant_growth_has_no_sharpe_ratio_and_no_probability() -> None:
    assert np.isnan(performance.sharpe(GROWTH))
    sample = measure_sharpe(GROWTH)
    assert np.isnan(sample.sharpe) and not sample.is_sufficient
    assert np.isnan(overfitting.estimate_moments(GROWTH)["sharpe"])


def test_every_trading_metric_of_constant_growth_has_a_value_or_a_reason() -> None:
    metrics, reasons = performance.measure_trading(
        60_000 * np.arange(len(GROWTH)), GROWTH, np.ones(len(GROWTH)), bars_per_year=525_600, risk_free_rate=0.0
    )
    assert reasons == {
        "sharpe": "the return never varies",
        "sharpe_daily": "the return never varies from day to day",
        "sortino": "no losing bar",
        "calmar": "no drawdown",
        "profit_factor": "no losing bar",
        "recovery_factor": "no drawdown",
        "average_drawdown": "no drawdown",
    }
    assert metrics["win_rate"] == 1.0


def test_losses_that_are_rounding_alone_are_no_losses() -> None:
    returns = np.array([0.01, -1e-17, 0.02, -2e-18, 0.03])
    assert np.isnan(performance.sortino(returns))
    assert np.isnan(performance.profit_factor(returns))
    assert np.isnan(performance.calmar(returns))
    assert np.isnan(performance.recovery_factor(returns))
    assert performance.win_rate(returns) == 1.0
    assert performance.sortino(np.array([0.01, -1e-6])) > 0


def test_constant_growth_ranks_last_in_the_pbo() -> None:
    for start in range(3):
        result = overfitting.pbo(np.column_stack([GROWTH, NOISE])[start:], blocks=4)
        assert result.chosen.tolist() == [1] * 6


def test_constant_growth_is_not_compared_clustered_or_bootstrapped() -> None:
    compared = pairwise.compare_sharpes(
        {"growth": GROWTH[:, None], "noise": NOISE[:, None]},
        {"growth": 0, "noise": 0},
        confidence=0.95,
        resamples=99,
        seed=1,
    )
    assert np.isnan(compared.intervals["growth"]).all() and np.isfinite(compared.intervals["noise"]).all()
    assert compared.pairs[0].reason == "there is no path on which both trade"
    assert np.isnan(effective_trials.correlate_trials(np.column_stack([GROWTH, NOISE]))[0]).all()
    with pytest.raises(ValueError, match="never vary"):
        bootstrap.estimate_dependence(GROWTH)


def test_a_forecast_that_varies_by_rounding_has_no_ic() -> None:
    metrics, reasons = forecast.measure_regression(NOISE, GROWTH)
    assert np.isnan(metrics["ic"])
    assert reasons["ic"] == "the prediction never varies"
    metrics, reasons = forecast.measure_regression(GROWTH, NOISE)
    assert np.isnan(metrics["r2"])
    assert (reasons["r2"], reasons["ic"]) == ("y never varies", "y never varies")
