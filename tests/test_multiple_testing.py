"""The tests over many trials against arch, scipy and statsmodels, and their size and power on constructed returns."""

import numpy as np
import pytest
from arch.bootstrap import SPA
from scipy import stats
from statsmodels.stats.multitest import multipletests

from pipeline.evaluation import multiple_testing


def draw_returns(*, days: int, trials: int, best: float = 0.0, seed: int = 1) -> np.ndarray:
    """Return correlated noise with one trial of mean `best` and one that clearly loses."""
    rng = np.random.default_rng(seed)
    returns = rng.normal(size=(days, trials)) + 0.5 * rng.normal(size=(days, 1))
    returns[:, 0] += best
    returns[:, 1] -= 0.8
    return returns


@pytest.mark.parametrize(("best", "days"), [(0.0, 1000), (0.1, 1000)])
def test_the_p_values_are_those_of_arch(best: float, days: int) -> None:
    returns = draw_returns(days=days, trials=20, best=best)
    found = multiple_testing.assess_superiority(returns, resamples=4000, seed=0)
    block = max(1, round(found.block_days))
    check = SPA(np.zeros(days), -returns, block_size=block, reps=4000, seed=1, studentize=False)
    check.compute()
    assert found.reality_check == pytest.approx(check.pvalues["upper"], abs=0.03)
    scale = np.sqrt([multiple_testing.estimate_long_run_variance(column) for column in returns.T])
    studentized = SPA(np.zeros(days), -returns / scale, block_size=block, reps=4000, seed=1, studentize=False)
    studentized.compute()
    for name, theirs in (("spa_lower", "lower"), ("spa", "consistent"), ("spa_upper", "upper")):
        assert getattr(found, name) == pytest.approx(
            studentized.pvalues[theirs], abs=0.1
        )  # each resample in its own error
    assert found.spa_lower <= found.spa <= found.spa_upper


def test_luck_is_found_out_in_about_as_many_worlds_as_the_level_says() -> None:
    p_values = [
        multiple_testing.assess_superiority(
            np.random.default_rng(seed).normal(size=(80, 30)), resamples=199, seed=0
        ).spa
        for seed in range(200)
    ]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05
    assert np.mean(np.array(p_values) <= 0.5) == pytest.approx(0.5, abs=0.15)


def test_losers_do_not_hide_a_winner_from_the_spa() -> None:
    returns = draw_returns(days=250, trials=5, best=0.35)
    noise = np.random.default_rng(4).normal(-1.0, 8.0, (250, 60))  # noisy trials that lose
    crowded = multiple_testing.assess_superiority(np.hstack([returns, noise]), resamples=999, seed=0)
    assert crowded.spa < 0.05 < crowded.reality_check
    assert crowded.best == 0


def test_a_trial_that_never_varies_is_left_out() -> None:
    returns = np.hstack([draw_returns(days=50, trials=4), np.zeros((50, 1))])
    assert multiple_testing.assess_superiority(returns, resamples=99, seed=0).trials == 4


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (np.ones((5, 2)), "T at least 11"),
        (np.ones((20, 2)), "none of the 2 trials varies"),
        (np.full((20, 2), np.nan), "nan"),
    ],
)
def test_returns_that_cannot_be_tested_are_refused(returns: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multiple_testing.assess_superiority(returns, resamples=9, seed=0)


def test_adjusted_p_values_are_those_of_statsmodels() -> None:
    p_values = np.array([0.001, 0.03, 0.2, 0.004, 0.8])
    found = multiple_testing.adjust_p_values(p_values, trials=5)
    for name, method in (("bonferroni", "bonferroni"), ("holm", "holm"), ("bhy", "fdr_by")):
        assert found[name] == pytest.approx(multipletests(p_values, method=method)[1])


def test_trials_without_a_p_value_count() -> None:
    found = multiple_testing.adjust_p_values(np.array([0.001, np.nan]), trials=10)
    assert found["bonferroni"][0] == pytest.approx(0.01)
    assert np.isnan(found["holm"][1])


def test_where_a_p_value_is_too_small_for_a_float_there_is_no_haircut() -> None:
    for found in multiple_testing.haircut_sharpes(np.array([0.5, 0.0]), np.array([0.01, 0.01]), trials=8).values():
        assert found[0] == 0.5
        assert np.isnan(found[1])


def test_the_haircut_is_that_of_the_published_example() -> None:
    """Harvey & Liu: 240 months, annual Sharpe 0.75, 200 tests; Bonferroni leaves p = 0.2 and a Sharpe of about 0.32."""
    monthly, error = 0.75 / np.sqrt(12), 1 / np.sqrt(240)
    found = multiple_testing.haircut_sharpes(np.array([monthly, -0.1]), np.array([error, error]), trials=200)
    single = 2 * stats.norm.sf(monthly / error)
    assert found["bonferroni"][0] == pytest.approx(stats.norm.isf(min(200 * single, 1) / 2) * error)
    assert found["bonferroni"][0] * np.sqrt(12) == pytest.approx(0.32, abs=0.03)
    assert np.isnan(found["bonferroni"][1])
