"""Statistics of backtest overfitting: PSR, DSR, MinTRL, MinBTL, PBO.

Sharpe ratios are per observation, not annualized, except where the name says years. Kurtosis is not excess: Normal = 3.
[1] Bailey & López de Prado 2012, "The Sharpe Ratio Efficient Frontier". [2] the same 2014, "The Deflated Sharpe Ratio".
[3] Bailey, Borwein, López de Prado & Zhu 2014, "Pseudo-Mathematics and Financial Charlatanism". [4] the same 2017, "The
Probability of Backtest Overfitting".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import ndtr, ndtri

from pipeline.evaluation import bootstrap
from pipeline.evaluation.performance import require_finite, sharpe
from pipeline.scale import RESOLUTION

TIE = 1e-12  # values that differ by less, relative to their size, differ by rounding alone


def estimate_moments(returns: np.ndarray) -> dict[str, float]:
    """Return `sharpe`, `n`, `skew` and `kurtosis` of (T,) returns, as the functions below take them.

    `n` is the effective length: T independent bars, or fewer where returns keep their sign. It is T times variance over
    long-run variance of the influence on the Sharpe ratio, the variance that the intervals of `bootstrap` use, at most
    T. All but `n` are NaN where the Sharpe ratio is undefined (fewer than 2 bars, or returns that never vary).
    """
    ratio, bars = float(sharpe(returns)), len(returns)
    if np.isnan(ratio):
        return {"sharpe": ratio, "n": bars, "skew": np.nan, "kurtosis": np.nan}
    dependence = bootstrap.estimate_sharpe_dependence(returns) if bars >= bootstrap.MIN_BARS else 1.0
    squared = (returns - returns.mean()) ** 2
    skew = (squared * (returns - returns.mean())).mean() / squared.mean() ** 1.5
    kurtosis = (squared**2).mean() / squared.mean() ** 2
    return {"sharpe": ratio, "n": bars / max(dependence, 1.0), "skew": float(skew), "kurtosis": float(kurtosis)}


def probabilistic_sharpe(sharpe: float, *, n: float, skew: float, kurtosis: float, benchmark: float = 0.0) -> float:
    """Return the probability that the true Sharpe ratio is above `benchmark`, given `n` observations ([1] eq. 9).

    NaN where the standard error is 0. Raises ValueError for n < 2 or a kurtosis that no distribution has.
    """
    _check_numbers({"sharpe": sharpe, "n": n, "benchmark": benchmark})
    if n < 2:
        raise ValueError(f"n: {n} observations; a Sharpe ratio's error needs at least 2")
    variance = _estimate_sharpe_variance(sharpe, skew=skew, kurtosis=kurtosis) / (n - 1)
    return float(ndtr((sharpe - benchmark) / np.sqrt(variance))) if variance > 0 else np.nan


def expected_max_sharpe(*, variance: float, trials: float) -> float:
    """Return the expected Sharpe ratio of the best of `trials` without skill ([2] eq. 1).

    `variance` is that of the Sharpe ratio across trials. 0 for one trial. An effective number of trials need not be
    whole.
    """
    _check_numbers({"variance": variance, "trials": trials})
    if trials < 1 or variance < 0:
        raise ValueError(f"trials: {trials}, variance: {variance}; at least 1 trial and a variance of at least 0")
    if trials == 1:
        return 0.0
    quantile, scaled = -ndtri([1 / trials, 1 / (trials * np.e)])
    standard = (1 - np.euler_gamma) * quantile + np.euler_gamma * scaled
    return float(np.sqrt(variance) * max(standard, 0.0))  # between 1 and 2 trials the approximation falls below 0


def deflated_sharpe(sharpe: float, *, n: float, skew: float, kurtosis: float, variance: float, trials: float) -> float:
    """Return the probability that the true Sharpe ratio is above the expected maximum of `trials` ([2] eq. 2)."""
    benchmark = expected_max_sharpe(variance=variance, trials=trials)
    return probabilistic_sharpe(sharpe, n=n, skew=skew, kurtosis=kurtosis, benchmark=benchmark)


def min_track_record(sharpe: float, *, skew: float, kurtosis: float, benchmark: float, confidence: float) -> float:
    """Return the observations needed to show, with `confidence`, a true Sharpe ratio above `benchmark` ([1] eq. 11).

    NaN where the Sharpe ratio is not above the benchmark: no number is enough.
    """
    _check_numbers({"sharpe": sharpe, "benchmark": benchmark, "confidence": confidence})
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence: {confidence}; it must be at least 0.5 and below 1, for example 0.95")
    variance = _estimate_sharpe_variance(sharpe, skew=skew, kurtosis=kurtosis)
    if sharpe <= benchmark:
        return np.nan
    return float(1 + variance * (ndtri(confidence) / (sharpe - benchmark)) ** 2)


def min_backtest_years(sharpe: float, *, trials: float) -> float:
    """Return the years below which the best of `trials` without skill is expected to reach the annual `sharpe`.

    Source: [3] theorem 2. NaN where the Sharpe ratio is not positive.
    """
    _check_numbers({"sharpe": sharpe})
    expected = expected_max_sharpe(variance=1.0, trials=trials)
    return (expected / sharpe) ** 2 if sharpe > 0 else np.nan


@dataclass(frozen=True)
class DeflatedSharpe:
    """A Sharpe ratio against the best of many trials without skill, and what that is made of."""

    dsr: float  # the probability that the true Sharpe ratio is above sr0
    sr0: float  # the expected maximum
    variance: float  # V: of the Sharpe ratio across trials
    trials: float  # N


def deflate(
    sharpe: float,
    *,
    n: float,
    skew: float,
    kurtosis: float,
    trial_sharpes: Sequence[float] | np.ndarray,
    trials: float,
    trial_errors: Sequence[float] | np.ndarray | None = None,
) -> DeflatedSharpe:
    """Return the deflated Sharpe ratio of one of `trials`, of which some have a known Sharpe ratio per observation.

    Args:
        sharpe: of the trial in question, with the effective length `n`, `skew` and `kurtosis` of its returns.
        trial_sharpes: those that are known, of all trials or of survivors alone; NaN for one that never traded.
        trials: the number of all that were made, or their effective number.
        trial_errors: standard errors of `trial_sharpes`. Each is then measured in its own, so that a noisy trial counts
            as noise. Without them all trials are taken to be as noisy as the one in question.

    V is the variance of the known ones, and at least 1/(n - 1), that of a Sharpe ratio without skill: survivors lie
    closer together than trials do. Where not all of `trials` are known, V leaves out the trial in question: of two
    survivors it would spread them the more the better it is. The left tail is winsorized, and with `trial_errors` those
    that are worse than luck explains do not count: losers say nothing about the maximum.
    """
    if n < 2:
        raise ValueError(f"n: {n} observations; a Sharpe ratio's error needs at least 2")
    known = np.asarray(trial_sharpes, dtype=np.float64)
    error = 1 / np.sqrt(n - 1)
    itself = np.flatnonzero(known == sharpe)[: int(len(known) < trials)]
    if trial_errors is not None:
        known = known / np.asarray(trial_errors, dtype=np.float64) * error
    known = np.delete(known, itself)
    known = known[np.isfinite(known)]
    worst = (
        -np.inf if trial_errors is None else -expected_max_sharpe(variance=error**2, trials=max(trials, len(known), 1))
    )
    variance = max(_estimate_trial_variance(known, worst=worst), error**2)
    sr0 = expected_max_sharpe(variance=variance, trials=trials)
    dsr = deflated_sharpe(sharpe, n=n, skew=skew, kurtosis=kurtosis, variance=variance, trials=trials)
    return DeflatedSharpe(dsr=dsr, sr0=sr0, variance=variance, trials=float(trials))


def _estimate_trial_variance(sharpes: np.ndarray, *, worst: float) -> float:
    """Return the variance of Sharpe ratios across trials, without a long left tail; 0 for fewer than two.

    Those below `worst`, the worst that luck explains, do not count: their costs are no luck. None of the others lies
    further below the median than the best lies above it.
    """
    sharpes = sharpes[sharpes >= worst]
    if len(sharpes) < 2:
        return 0.0
    lowest = 2 * np.median(sharpes) - sharpes.max()
    return float(np.maximum(sharpes, lowest).var(ddof=1))


def _estimate_sharpe_variance(sharpe: float, *, skew: float, kurtosis: float) -> float:
    """Return the variance of the estimated Sharpe ratio times n - 1 ([1] eq. 8), at least 0."""
    _check_numbers({"skew": skew, "kurtosis": kurtosis})
    if kurtosis < (1 + skew**2) * (1 - 1e-9):
        raise ValueError(
            f"kurtosis: {kurtosis} with skew {skew}; no distribution has less than 1 + skew² = {1 + skew**2:.6g}. "
            "Give the kurtosis that is 3 for a Normal, not the excess"
        )
    return 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2


def _check_numbers(numbers: dict[str, float]) -> None:
    for name, number in numbers.items():
        if not np.isfinite(number):
            raise ValueError(f"{name}: {number}; only a finite number is allowed")


@dataclass(frozen=True)
class CscvResult:
    """The strategy that is best in sample and its rank out of sample, for each choice of half of the blocks."""

    chosen: np.ndarray  # (choices,) int64: the column that was best in sample
    in_sample: np.ndarray  # (choices,) its metric there
    out_of_sample: np.ndarray  # (choices,) its metric on the other blocks; NaN where undefined
    logits: np.ndarray  # (choices,) of its relative rank out of sample; NaN where no strategy has a metric in sample
    pbo: float  # share of logits <= 0: the best in sample is not above the median out of sample
    slope: float  # of out_of_sample on in_sample by least squares; NaN where in_sample never varies
    loss_probability: float  # share of choices with a negative metric out of sample


def pbo(returns: np.ndarray, *, blocks: int, metric: Callable[[np.ndarray], np.ndarray | float] = sharpe) -> CscvResult:
    """Return the probability of backtest overfitting of (T, strategies) returns, by CSCV ([4] 2.2).

    CSCV is combinatorially symmetric cross-validation. The rows are cut into `blocks` equal runs; the last T mod
    `blocks` rows are dropped. Each half of the blocks, rows in time order, selects the strategy with the highest
    `metric` ((rows, strategies) -> (strategies,)), the leftmost among equals. Its rank on the other half, average among
    equals, gives the logit. A strategy whose metric is NaN ranks last. The Sharpe ratio comes from block sums, other
    metrics from the rows. Values that differ by rounding alone count as equal.
    Raises ValueError for NaN, one strategy, an odd number of blocks, or more blocks than rows.
    """
    returns = require_finite("returns", returns)
    if returns.ndim != 2 or returns.shape[1] < 2:
        raise ValueError(f"returns: shape {returns.shape}; ranks need (T, strategies) with at least 2 strategies")
    if blocks < 2 or blocks % 2 or blocks > len(returns):
        raise ValueError(f"blocks: {blocks}; it must be even, at least 2 and at most the {len(returns)} rows")
    cut = returns[: len(returns) // blocks * blocks].reshape(blocks, -1, returns.shape[1])  # (blocks, rows, strategies)
    choices = np.array(list(combinations(range(blocks), blocks // 2)))  # (choices, blocks/2), lexicographic
    if metric is sharpe:
        return _cross_validate(_sum_sharpes(cut, choices), unit=1.0)  # of standardized returns, however small the mean
    values = _evaluate_metric(cut, choices, metric=metric)
    return _cross_validate(values, unit=np.nanmax(np.abs(values), initial=0.0))


def _cross_validate(values: np.ndarray, *, unit: float) -> CscvResult:
    """Return CSCV of (choices, strategies) metrics; in lexicographic order, choice i complements the i-th from the end.

    The rounding error is `TIE` times the value, or times `unit` where that is larger.
    """
    every, strategies = np.arange(len(values)), values.shape[1]
    inside = np.where(np.isnan(values), -np.inf, values)
    best = inside.max(axis=1, keepdims=True)
    chosen = (inside >= best - _bound_rounding(best, unit=unit)).argmax(axis=1)  # (choices,)
    outside = inside[::-1]
    own = outside[every, chosen][:, None]
    tie = _bound_rounding(own, unit=unit)
    behind, ahead = (outside < own - tie).sum(axis=1), (outside > own + tie).sum(axis=1)
    rank = (behind + strategies - ahead + 1) / 2  # the average over those that are equal
    logits = np.where(best[:, 0] > -np.inf, np.log(rank / (strategies + 1 - rank)), np.nan)
    in_sample, out_of_sample = values[every, chosen], values[::-1][every, chosen]
    decided = ~np.isnan(logits)
    return CscvResult(
        chosen=chosen,
        in_sample=in_sample,
        out_of_sample=out_of_sample,
        logits=logits,
        pbo=_average_flags((logits <= 0)[decided]),
        slope=_fit_slope(in_sample, out_of_sample, unit=unit),
        loss_probability=_average_flags((out_of_sample < -TIE * unit)[decided]),
    )


def _bound_rounding(values: np.ndarray, *, unit: float) -> np.ndarray:
    return np.asarray(TIE * np.maximum(unit, np.where(np.isfinite(values), np.abs(values), 0.0)))


def _average_flags(flags: np.ndarray) -> float:
    return float(flags.mean()) if len(flags) else np.nan


def _fit_slope(x: np.ndarray, y: np.ndarray, *, unit: float) -> float:
    defined = np.isfinite(x) & np.isfinite(y)
    x, y = x[defined], y[defined]
    varies = len(x) > 1 and np.ptp(x) > _bound_rounding(x, unit=unit).max()
    if not varies:
        return np.nan
    covariance = np.cov(x, y, bias=True)
    return float(covariance[0, 1] / covariance[0, 0])


def _evaluate_metric(
    cut: np.ndarray, choices: np.ndarray, *, metric: Callable[[np.ndarray], np.ndarray | float]
) -> np.ndarray:
    """Return (choices, strategies) values of `metric` on the rows of the chosen blocks."""
    strategies = cut.shape[2]
    values = np.stack([metric(cut[choice].reshape(-1, strategies)) for choice in choices])
    if values.shape != (len(choices), strategies) or np.isinf(values).any():
        raise ValueError(
            f"metric: gave values of shape {values.shape[1:]}; it must give one finite or NaN for each strategy"
        )
    return values


def _sum_sharpes(cut: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """Return (choices, strategies) Sharpe ratios from each block's mean and squared deviations.

    Deviations add up by Chan's formula around the first chosen block, so that returns which never vary give 0 but for
    rounding.
    """
    rows, half = cut.shape[1], choices.shape[1]
    mean, squares = cut.mean(axis=1), np.stack([((block - block.mean(axis=0)) ** 2).sum(axis=0) for block in cut])
    is_constant = cut.min(axis=1) == cut.max(axis=1)  # (blocks, strategies)
    mean, squares = np.where(is_constant, cut[:, 0], mean), np.where(is_constant, 0.0, squares)
    first = mean[choices[:, 0]]
    shift = sum(mean[block] - first for block in choices.T) / half  # (choices, strategies)
    total = sum(squares[block] + rows * (mean[block] - first - shift) ** 2 for block in choices.T)
    deviation = np.sqrt(np.asarray(total) / max(rows * half - 1, 1))
    ratio = np.full(deviation.shape, np.nan)
    np.divide(first + shift, deviation, out=ratio, where=deviation > RESOLUTION * np.abs(first + shift))
    return ratio
