"""Second opinions on the best of many trials: tests of superior predictive ability, and haircuts of Sharpe ratios.

[1] White 2000, "A Reality Check for Data Snooping". [2] Hansen 2005, "A Test for Superior Predictive Ability".
[3] Harvey & Liu 2015, "Backtesting". [4] Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
[5] Benjamini & Yekutieli 2001, "The Control of the False Discovery Rate in Multiple Testing under Dependency".
[6] Götze & Künsch 1996, "Second-Order Correctness of the Blockwise Bootstrap for Stationary Observations".
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.evaluation import bootstrap
from pipeline.evaluation.performance import require_finite
from pipeline.scale import is_constant

TINY = 1e-12  # statistics that differ by less are equal but for rounding


@dataclass(frozen=True)
class SuperiorityTest:
    """p-values of the hypothesis that no trial has a positive mean return, however many were tried."""

    reality_check: float  # White's: of the largest mean, all means put at 0 in the resamples
    spa: float  # Hansen's consistent one: of the largest t-statistic; trials that are clearly bad do not count
    spa_lower: float  # its lower bound: every loser is put at its own loss
    spa_upper: float  # its upper bound: every loser is put at 0, as in the Reality Check
    best: int  # the trial with the largest t-statistic
    trials: int
    days: int
    block_days: float  # mean block length of the bootstrap


def assess_superiority(returns: np.ndarray, *, resamples: int, seed: int) -> SuperiorityTest:
    """Return the Reality Check ([1]) and the test of superior predictive ability ([2]) of (T, trials) returns.

    The benchmark is a return of 0. Resamples are those of the stationary bootstrap, the same for all trials, so that
    their correlation is preserved. A trial that never varies is left out. Raises ValueError for returns that are not
    finite, for fewer than `bootstrap.MIN_BARS` rows, and where no trial varies.
    """
    returns = require_finite("returns", returns)
    if returns.ndim != 2 or len(returns) < bootstrap.MIN_BARS:
        raise ValueError(f"returns: shape {returns.shape}; give (T, trials), T at least {bootstrap.MIN_BARS}")
    varies = np.flatnonzero(~is_constant(returns, axis=0))
    if not len(varies):
        raise ValueError(f"returns: none of the {returns.shape[1]} trials varies; there is nothing to test")
    known = returns[:, varies]
    deviation = np.sqrt([estimate_long_run_variance(column) for column in known.T])  # (trials,) of √T times the mean
    lengths = [bootstrap.estimate_dependence(column).block_bars for column in known.T]
    block = max(len(returns) ** (1 / 3), float(np.median(lengths)))
    mean = known.mean(axis=0)
    drawn, errors = _resample_means(known - mean, block=block, resamples=resamples, seed=seed)  # (resamples, trials)
    clearly_bad = -deviation * np.sqrt(2 * np.log(np.log(len(returns))) / len(returns))
    put_at = {"spa_lower": np.minimum(mean, 0.0), "spa": np.where(mean < clearly_bad, mean, 0.0), "spa_upper": 0.0}
    t_statistic = mean / deviation * np.sqrt(len(returns))
    return SuperiorityTest(
        reality_check=_find_p_value(mean, drawn),
        **{name: _find_p_value(t_statistic, (drawn + start) / errors) for name, start in put_at.items()},
        best=int(varies[np.argmax(t_statistic)]),
        trials=len(varies),
        days=len(returns),
        block_days=block,
    )


def estimate_long_run_variance(returns: np.ndarray) -> float:
    """Return the long-run variance of (T,) returns, or their variance where the estimate is not positive."""
    variance = bootstrap.estimate_dependence(returns).variance
    return variance if variance > 0 else float(returns.var())


def _resample_means(
    deviations: np.ndarray, *, block: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (resamples, trials) means of resamples of (T, trials) deviations from the mean, and their errors.

    The error of a resample is that of its own blocks ([6]). Measured in the error of the sample instead, the largest of
    many t-statistics would be that of the trial whose error is underestimated most.
    """
    rng, rows = np.random.default_rng(seed), len(deviations)
    running = np.zeros((rows + 1, deviations.shape[1]))
    np.cumsum(deviations, axis=0, out=running[1:])
    drawn = np.empty((2, resamples, deviations.shape[1]))
    for i in range(resamples):
        start, length = bootstrap.draw_blocks(rng, bars=rows, block_bars=block)
        sums = bootstrap.sum_blocks(running, start, length)  # (blocks, trials)
        mean = sums.sum(axis=0) / rows
        squares = ((sums - length[:, None] * mean) ** 2).sum(axis=0) * len(length) / max(len(length) - 1, 1)
        drawn[:, i] = mean, np.sqrt(np.maximum(squares, TINY**2)) / rows
    return drawn[0], drawn[1]


def _find_p_value(observed: np.ndarray, drawn: np.ndarray) -> float:
    """Return the share of resamples whose largest statistic, at least 0, reaches the largest one observed."""
    largest, reached = max(float(observed.max()), 0.0), np.maximum(drawn.max(axis=1), 0.0)
    return float((1 + (reached >= largest - TINY).sum()) / (len(drawn) + 1))


def adjust_p_values(p_values: np.ndarray, *, trials: int) -> dict[str, np.ndarray]:
    """Return (known,) p-values adjusted for the `trials` that were made, by method: Bonferroni, Holm ([4]), BHY ([5]).

    Trials whose p-value is not known count as if theirs was 1. NaN stays NaN.
    """
    known = np.isfinite(p_values)
    padded = np.concatenate([np.where(known, p_values, 1.0), np.ones(max(trials - len(p_values), 0))])
    adjusted = {
        "bonferroni": np.minimum(padded * len(padded), 1.0),
        "holm": bootstrap.adjust_holm(padded),
        "bhy": stats.false_discovery_control(padded, method="by"),
    }
    return {name: np.where(known, found[: len(p_values)], np.nan) for name, found in adjusted.items()}


def haircut_sharpes(sharpes: np.ndarray, errors: np.ndarray, *, trials: int) -> dict[str, np.ndarray]:
    """Return (known,) Sharpe ratios after the haircut of [3], by method of adjustment; NaN where one is not positive.

    The haircut Sharpe ratio is the one that a single test would give the p-value that is adjusted for `trials`. Tests
    are two-sided, `errors` (known,) the standard errors of `sharpes`. Where the p-value is too small for a float there
    is no haircut.
    """
    ratio = np.asarray(sharpes, np.float64) / np.asarray(errors, np.float64)
    p_values = 2 * stats.norm.sf(np.abs(ratio))
    adjusted = adjust_p_values(p_values, trials=trials)
    return {
        name: np.where(ratio > 0, np.clip(stats.norm.isf(found / 2), 0.0, np.maximum(ratio, 0.0)) * errors, np.nan)
        for name, found in adjusted.items()
    }
