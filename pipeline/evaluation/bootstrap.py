"""Confidence intervals of Sharpe ratios and sums of them, for returns that depend on their past.

Stationary bootstrap [1] with the automatic mean block length of [2] as corrected by [3], studentized and symmetric [4].
Every resample is measured in its own standard error, from the sums of its blocks [5]. The sample is measured in one
from its autocovariances under the flat-top window of [2]. Sharpe ratios are per observation.
[1] Politis & Romano 1994, "The Stationary Bootstrap". [2] Politis & White 2004, "Automatic Block-Length Selection for
the Dependent Bootstrap". [3] Patton, Politis & White 2009, the correction to [2]. [4] Ledoit & Wolf 2008, "Robust
Performance Hypothesis Testing with the Sharpe Ratio". [5] Götze & Künsch 1996, "Second-Order Correctness of the
Blockwise Bootstrap for Stationary Observations". [6] Holm 1979, "A Simple Sequentially Rejective Multiple Test
Procedure".
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import fft
from threadpoolctl import threadpool_limits

from pipeline.scale import is_constant

MIN_BARS = 11  # fewer have no autocovariance at all the lags that the block length needs
TINY = 1e-12  # statistics of standardized returns below this are rounding errors


@dataclass(frozen=True)
class Dependence:
    """The serial dependence of a series."""

    block_bars: float  # mean block length with which the stationary bootstrap estimates the error of the mean best
    variance: float  # long-run variance: of the mean, times the number of bars; the estimate may fall below 0


CONSTANT = Dependence(block_bars=1.0, variance=0.0)


def estimate_dependence(series: np.ndarray, *, active: int | None = None) -> Dependence:
    """Return the long-run variance of (T,) numbers by flat-top autocovariances, and the block length ([2] 3.2, [3]).

    Lags count up to twice the first lag from which on max(5, log10 A) autocorrelations are within 2√(log10 A / A) of 0.
    A is `active`, the bars that carry information, such as those with a position; all T unless given.
    Raises ValueError for fewer than `MIN_BARS` numbers, or numbers that never vary.
    """
    bars = len(_require_matrix(series[:, None]))
    if is_constant(series):
        raise ValueError(
            f"series: all {bars} are {series[0]} but for rounding; numbers that never vary have no autocovariance"
        )
    active = min(max(bars if active is None else active, MIN_BARS), bars)
    covariance = _estimate_autocovariances(series - series.mean(), active=active)  # (lags + 1,)
    lag = np.arange(1, len(covariance))
    tapered = 2.0 * np.minimum(1.0, 2.0 * (1.0 - lag / lag[-1])) * covariance[1:]
    variance, slope = float(covariance[0] + tapered.sum()), abs(float((lag * tapered).sum()))
    length = (slope / abs(variance)) ** (2 / 3) * bars ** (1 / 3) if variance else np.inf
    return Dependence(block_bars=float(min(length, np.ceil(min(3 * np.sqrt(bars), bars / 3)))), variance=variance)


def _estimate_autocovariances(deviations: np.ndarray, *, active: int) -> np.ndarray:
    """Return (lags + 1,) autocovariances of (T,) deviations from their mean, up to the last lag that counts."""
    bars, run = len(deviations), max(5, int(np.log10(active)))
    most = int(np.ceil(np.sqrt(active))) + run
    power = np.abs(fft.rfft(deviations, fft.next_fast_len(bars + most, real=True))) ** 2
    products = fft.irfft(power, fft.next_fast_len(bars + most, real=True))[: most + 1]
    squares, lag = np.concatenate([[0.0], np.cumsum(deviations**2)]), np.arange(most + 1)
    scale = np.sqrt((squares[bars] - squares[lag + 1]) * squares[bars - 1 - lag])
    is_small = np.abs(products) <= 2 * np.sqrt(np.log10(active) / active) * scale
    starts_run = np.lib.stride_tricks.sliding_window_view(is_small[:most], run).all(axis=1)
    last = min(2 * int(starts_run.argmax()), most) if starts_run.any() else most
    return np.asarray(products[: last + 1] / bars)


def draw_blocks(rng: np.random.Generator, *, bars: int, block_bars: float) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and lengths of the blocks of one resample ([1]): `bars` bars in all, the last block cut off.

    Lengths are geometric with the mean `block_bars`. A block that passes the last bar continues at the first.
    """
    scale = -1.0 / np.log1p(-1.0 / block_bars) if block_bars > 1 else 0.0
    batch = int(bars / block_bars + 6 * np.sqrt(bars / block_bars)) + 10  # enough, but for one resample in millions
    ends = np.zeros(0, dtype=np.int64)
    while not len(ends) or ends[-1] < bars:
        length = np.floor(scale * rng.standard_exponential(batch)).astype(np.int64) + 1
        ends = np.concatenate([ends, length.cumsum() + (ends[-1] if len(ends) else 0)])
    ends = np.minimum(ends[: np.searchsorted(ends, bars) + 1], bars)
    return rng.integers(0, bars, len(ends)), np.diff(ends, prepend=0)


@dataclass(frozen=True)
class BootstrapResult:
    """Statistics of the sample and the studentized errors of their resamples; NaN where undefined."""

    estimate: np.ndarray  # (statistics,)
    error: np.ndarray  # (statistics,) standard errors; 0 for a statistic that is the same in all resamples
    t_statistics: np.ndarray  # (resamples, statistics) |resample - estimate| / error of the resample, ascending
    block_bars: float

    def widen(self, variance: np.ndarray) -> "BootstrapResult":
        """Return the result with (statistics,) variances of another source of luck added to those of the sample."""
        return replace(self, error=np.sqrt(self.error**2 + variance))

    def make_intervals(self, *, confidence: float) -> np.ndarray:
        """Return (statistics, 2) ends of the symmetric interval; infinite where too many t-statistics are."""
        resamples = len(self.t_statistics)
        rank = int(np.ceil(confidence * (resamples + 1) - TINY))
        if not 0 < rank <= resamples:
            raise ValueError(
                f"resamples: {resamples} with confidence {confidence}; the confidence must be above 0, and resamples "
                "at least confidence / (1 - confidence): 19 for 0.95"
            )
        half = self.error.copy()
        np.multiply(self.error, self.t_statistics[rank - 1], out=half, where=self.error > 0)
        return np.column_stack([self.estimate - half, self.estimate + half])

    @property
    def p_values(self) -> np.ndarray:
        """(statistics,) two-sided p-values of the hypothesis that the true value is 0; 1 where the error is 0."""
        observed = self.error.copy()
        np.divide(np.abs(self.estimate), self.error, out=observed, where=self.error > 0)
        p_value = (1 + (self.t_statistics >= observed).sum(axis=0)) / (len(self.t_statistics) + 1)
        return np.where(np.isnan(observed), np.nan, p_value)


def bootstrap_sharpes(returns: np.ndarray, weights: np.ndarray, *, resamples: int, seed: int) -> BootstrapResult:
    """Return the bootstrap of weighted sums of the Sharpe ratios of (T, series) returns.

    `weights` are (series, statistics). All series are drawn by the same blocks, which preserves their dependence on one
    another. The mean block length is the longest that a statistic needs, and at least ∛T. That is the rate at which the
    best one grows, and protects against dependence that is too faint for the automatic choice. A resample in which a
    series never varies has an infinite t-statistic. A statistic without weights, or of a series that never varies, is
    undefined. Raises ValueError for fewer than `MIN_BARS` bars.
    """
    returns = _require_matrix(returns)
    varies = ~is_constant(returns, axis=0)
    is_known = weights.any(axis=0) & ~weights[~varies].any(axis=0)
    estimate, error = np.full((2, weights.shape[1]), np.nan)
    t_statistics, block_bars = np.full((resamples, weights.shape[1]), np.nan), np.nan
    if is_known.any():
        known = _bootstrap_varying(returns[:, varies], weights[varies][:, is_known], resamples=resamples, seed=seed)
        estimate[is_known], error[is_known], t_statistics[:, is_known] = known.estimate, known.error, known.t_statistics
        block_bars = known.block_bars
    return BootstrapResult(estimate, error, t_statistics, block_bars)


def _bootstrap_varying(returns: np.ndarray, weights: np.ndarray, *, resamples: int, seed: int) -> BootstrapResult:
    """Return the same, where every series varies and every statistic has a weight."""
    bars, mean, deviation = len(returns), returns.mean(axis=0), returns.std(axis=0, ddof=1)
    standard, sharpe = (returns - mean) / deviation, mean / deviation  # (T, series), (series,)
    with threadpool_limits(limits=1):  # more threads add up in another order
        influence = _evaluate_influence(standard, sharpe) @ weights  # (T, statistics)
        is_equal = np.ptp(influence, axis=0) <= TINY  # as the difference of equal series
        dependences = [
            CONSTANT if equal else estimate_dependence(column, active=int(active))
            for column, equal, active in zip(influence.T, is_equal, _count_active(returns, weights), strict=True)
        ]
        block_bars = max(bars ** (1 / 3), *(one.block_bars for one in dependences))
        drawn = _draw_resamples(standard, sharpe, weights, block_bars=block_bars, resamples=resamples, seed=seed)
    estimate, variance = sharpe @ weights, np.array([one.variance for one in dependences]) / bars
    variance = np.where(variance > 0, variance, drawn[0].var(axis=0))  # a flat top rarely falls below 0
    t_statistics = np.full(drawn[0].shape, np.inf)
    np.divide(np.abs(drawn[0] - estimate), drawn[1], out=t_statistics, where=drawn[1] > TINY)
    error = np.sqrt(np.where(is_equal, 0.0, variance))
    return BootstrapResult(estimate, error, np.sort(t_statistics, axis=0), block_bars)


def _count_active(returns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (statistics,) the bars with a return other than 0, of the series with a weight that has the fewest."""
    active = np.count_nonzero(returns, axis=0)[:, None]  # (series, 1)
    return np.asarray(np.where(weights != 0, active, len(returns)).min(axis=0))


def _draw_resamples(
    standard: np.ndarray, sharpe: np.ndarray, weights: np.ndarray, *, block_bars: float, resamples: int, seed: int
) -> np.ndarray:
    """Return (2, resamples, statistics): statistics of resamples, and their errors, 0 where a series never varies."""
    running = np.zeros((len(standard) + 1, 2 * len(sharpe)))  # sums of the bars before, then those of their squares
    np.cumsum(np.hstack([standard, standard**2]), axis=0, out=running[1:])
    rng = np.random.default_rng(seed)
    drawn: np.ndarray = np.empty((2, resamples, weights.shape[1]))
    for i in range(resamples):
        start, length = draw_blocks(rng, bars=len(standard), block_bars=block_bars)
        drawn[:, i] = _estimate_resample(sum_blocks(running, start, length), length, sharpe=sharpe, weights=weights)
    return drawn


def estimate_sharpe_dependence(returns: np.ndarray) -> float:
    """Return the long-run variance of the influence of (T,) returns on their Sharpe ratio, over its variance.

    It is 1 where bars are independent, larger where returns keep their sign; the error of the Sharpe ratio is as large
    as that of T divided by it independent bars. Raises ValueError for fewer than `MIN_BARS` returns, or constant ones.
    """
    deviation = returns.std(ddof=1)
    standard, sharpe = (returns - returns.mean()) / deviation, returns.mean() / deviation
    influence = _evaluate_influence(standard, sharpe)
    dependence = estimate_dependence(influence, active=int(np.count_nonzero(returns)))
    return float(dependence.variance / influence.var())


def _evaluate_influence(standard: np.ndarray, sharpe: np.ndarray) -> np.ndarray:
    """Return (T, series) what each bar adds to T times the error of the Sharpe ratio, to first order."""
    return np.asarray(standard - sharpe / 2 * (standard**2 - 1))


def sum_blocks(running: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return (blocks, columns) sums over the bars of circular blocks, from the running sums before each bar."""
    bars, end = len(running) - 1, start + length
    wraps = end > bars
    sums = running.take(end - bars * wraps, axis=0)
    sums -= running.take(start, axis=0)
    sums[wraps] += running[bars]
    return np.asarray(sums)


def _estimate_resample(
    sums: np.ndarray, length: np.ndarray, *, sharpe: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (statistics,) the weighted Sharpe ratios of one resample and their errors, 0 where a series never varies.

    `sums` (blocks, 2 series) are of standardized returns, then of their squares; `sharpe` are the ratios of the sample.
    The influence of a block is that of `_evaluate_influence`, with the mean and the deviation of this resample. It is
    linear in the block's sums.
    """
    bars = length.sum()
    first, second = np.split(np.ones(len(sums)) @ sums, 2)  # (series,)
    mean, variance = first / bars, (second - first**2 / bars) / (bars - 1)
    variance[variance <= TINY] = np.inf
    ratio, deviation = (sharpe + mean) / np.sqrt(variance), np.sqrt(variance)
    per_return, per_square = 1 / deviation + ratio * mean / variance, -ratio / 2 / variance
    per_bar = ratio / 2 * (1 - mean**2 / variance) - mean / deviation
    influence = sums @ np.vstack([per_return[:, None] * weights, per_square[:, None] * weights])  # (blocks, statistics)
    influence += length[:, None] * (per_bar @ weights)
    is_defined = ~(np.isinf(variance) @ (weights != 0))
    return ratio @ weights, np.sqrt((influence**2).sum(axis=0)) / bars * is_defined


def adjust_holm(p_values: np.ndarray) -> np.ndarray:
    """Return (tests,) p-values adjusted for the family-wise error rate by Holm's method ([6]); NaN stays NaN."""
    adjusted = np.full(len(p_values), np.nan)
    order = np.argsort(p_values, kind="stable")[: np.isfinite(p_values).sum()]  # NaN stands last
    steps = (len(order) - np.arange(len(order))) * p_values[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _require_matrix(returns: np.ndarray) -> np.ndarray:
    returns = np.asarray(returns, dtype=np.float64)
    if returns.ndim != 2 or len(returns) < MIN_BARS or not np.isfinite(returns).all():
        is_finite = bool(np.isfinite(returns).all())
        raise ValueError(
            f"returns: shape {returns.shape}, all finite: {is_finite}; give finite (T, series), T at least {MIN_BARS}"
        )
    return returns
