"""How sure a Sharpe ratio is, and whether one is higher than another, when returns depend on their past.

Stationary bootstrap [1] with the automatic mean block length of [2] as corrected by [3], studentised and symmetric [4]:
every resample is measured in its own standard error, from the sums of its blocks [5], and the sample in one from its
autocovariances under the flat-top window of [2]. Sharpe ratios are per observation.
[1] Politis & Romano 1994, "The Stationary Bootstrap". [2] Politis & White 2004, "Automatic Block-Length Selection for
the Dependent Bootstrap". [3] Patton, Politis & White 2009, the correction to [2]. [4] Ledoit & Wolf 2008, "Robust
Performance Hypothesis Testing with the Sharpe Ratio". [5] Götze & Künsch 1996, "Second-Order Correctness of the
Blockwise Bootstrap for Stationary Observations". [6] Holm 1979, "A Simple Sequentially Rejective Multiple Test
Procedure".
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy import fft
from threadpoolctl import threadpool_limits

MIN_BARS = 11  # fewer have no autocovariance at all the lags that the block length asks for
TINY = 1e-12  # figures of standardised returns below this are rounding
UNDECIDED = "not distinguishable"


@dataclass(frozen=True)
class Dependence:
    """How much a series depends on its past."""

    block_bars: float  # mean block length with which the stationary bootstrap knows the error of the mean best
    variance: float  # of the mean, times the number of bars: the long-run variance; the estimate may fall below 0


STILL = Dependence(block_bars=1.0, variance=0.0)


def dependence(series: np.ndarray) -> Dependence:
    """Long-run variance of (T,) numbers by flat-top autocovariances, and the block length that follows ([2] 3.2, [3]).

    Lags count up to twice the first of those from which on max(5, log10 T) autocorrelations are within 2√(log10 T / T)
    of 0. Raises ValueError for fewer than `MIN_BARS` numbers, or such as never vary.
    """
    bars = len(_finite(series[:, None]))
    if np.ptp(series) == 0:
        raise ValueError(f"series: all {bars} are {series[0]}; numbers that never vary have no autocovariance")
    covariance = _autocovariances(series - series.mean())  # (lags + 1,)
    lag = np.arange(1, len(covariance))
    tapered = 2.0 * np.minimum(1.0, 2.0 * (1.0 - lag / lag[-1])) * covariance[1:]
    variance, slope = float(covariance[0] + tapered.sum()), abs(float((lag * tapered).sum()))
    length = (slope / abs(variance)) ** (2 / 3) * bars ** (1 / 3) if variance else np.inf
    return Dependence(block_bars=float(min(length, np.ceil(min(3 * np.sqrt(bars), bars / 3)))), variance=variance)


def _autocovariances(deviations: np.ndarray) -> np.ndarray:
    """(lags + 1,) autocovariances of (T,) deviations from their mean, up to the last lag that counts."""
    bars, run = len(deviations), max(5, int(np.log10(len(deviations))))
    most = int(np.ceil(np.sqrt(bars))) + run
    power = np.abs(fft.rfft(deviations, fft.next_fast_len(bars + most, real=True))) ** 2
    products = fft.irfft(power, fft.next_fast_len(bars + most, real=True))[: most + 1]
    squares, lag = np.concatenate([[0.0], np.cumsum(deviations**2)]), np.arange(most + 1)
    scale = np.sqrt((squares[bars] - squares[lag + 1]) * squares[bars - 1 - lag])
    quiet = np.abs(products) <= 2 * np.sqrt(np.log10(bars) / bars) * scale
    begins = np.lib.stride_tricks.sliding_window_view(quiet[:most], run).all(axis=1)
    last = min(2 * int(begins.argmax()), most) if begins.any() else most
    return np.asarray(products[: last + 1] / bars)


def blocks(rng: np.random.Generator, *, bars: int, block_bars: float) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of the blocks of one resample: geometric lengths, the last cut off, `bars` bars in all ([1]).

    A block that passes the last bar goes on with the first.
    """
    scale = -1.0 / np.log1p(-1.0 / block_bars) if block_bars > 1 else 0.0
    often = int(bars / block_bars + 6 * np.sqrt(bars / block_bars)) + 10  # enough, but for one resample in millions
    ends = np.zeros(0, dtype=np.int64)
    while not len(ends) or ends[-1] < bars:
        length = np.floor(scale * rng.standard_exponential(often)).astype(np.int64) + 1
        ends = np.concatenate([ends, length.cumsum() + (ends[-1] if len(ends) else 0)])
    ends = np.minimum(ends[: np.searchsorted(ends, bars) + 1], bars)
    return rng.integers(0, bars, len(ends)), np.diff(ends, prepend=0)


@dataclass(frozen=True)
class Resampled:
    """Statistics as observed, and how far those of resamples strayed from them; nan where undefined."""

    estimate: np.ndarray  # (statistics,)
    error: np.ndarray  # (statistics,) standard errors; 0 for one that is the same in all resamples
    strays: np.ndarray  # (resamples, statistics) |resampled - observed| in standard errors of the resample, ascending
    block_bars: float

    def interval(self, *, confidence: float) -> np.ndarray:
        """(statistics, 2) ends of the symmetric interval; infinite where too many resamples stray infinitely far."""
        resamples = len(self.strays)
        rank = int(np.ceil(confidence * (resamples + 1) - TINY))
        if not 0 < rank <= resamples:
            raise ValueError(
                f"resamples: {resamples} with confidence {confidence}; the confidence must be above 0, and resamples "
                "at least confidence / (1 - confidence): 19 for 0.95"
            )
        half = self.error.copy()
        np.multiply(self.error, self.strays[rank - 1], out=half, where=self.error > 0)
        return np.column_stack([self.estimate - half, self.estimate + half])

    def p_value(self) -> np.ndarray:
        """(statistics,) two-sided probability that one whose true value is 0 strays as far; 1 for one without error."""
        observed = self.error.copy()
        np.divide(np.abs(self.estimate), self.error, out=observed, where=self.error > 0)
        p_value = (1 + (self.strays >= observed).sum(axis=0)) / (len(self.strays) + 1)
        return np.where(np.isnan(observed), np.nan, p_value)


def resampled(returns: np.ndarray, weights: np.ndarray, *, resamples: int, seed: int) -> Resampled:
    """Weighted sums of the Sharpe ratios of (T, series) returns; `weights` are (series, statistics).

    All series are drawn by the same blocks, so that whatever binds them stays. The mean block length is the longest
    that a statistic asks for, and at least ∛T, the rate at which the best one grows: dependence that is too faint for
    the automatic choice is kept. A resample in which a series never varies strays infinitely far; a statistic without
    weights, or of a series that never varies, is undefined. Raises ValueError for fewer than `MIN_BARS` bars.
    """
    returns = _finite(returns)
    varies = np.ptp(returns, axis=0) > 0
    is_known = weights.any(axis=0) & ~weights[~varies].any(axis=0)
    estimate, error = np.full((2, weights.shape[1]), np.nan)
    strays, block_bars = np.full((resamples, weights.shape[1]), np.nan), np.nan
    if is_known.any():
        known = _resampled(returns[:, varies], weights[varies][:, is_known], resamples=resamples, seed=seed)
        estimate[is_known], error[is_known], strays[:, is_known] = known.estimate, known.error, known.strays
        block_bars = known.block_bars
    return Resampled(estimate, error, strays, block_bars)


def _resampled(returns: np.ndarray, weights: np.ndarray, *, resamples: int, seed: int) -> Resampled:
    """The same, where every series varies and every statistic has a weight."""
    bars, mean, spread = len(returns), returns.mean(axis=0), returns.std(axis=0, ddof=1)
    standard, sharpe = (returns - mean) / spread, mean / spread  # (T, series), (series,)
    with threadpool_limits(limits=1):  # more threads add up in another order
        influence = _influence(standard, sharpe) @ weights  # (T, statistics)
        is_still = np.ptp(influence, axis=0) <= TINY  # as the difference of equal series
        depends = [STILL if still else dependence(one) for one, still in zip(influence.T, is_still, strict=True)]
        block_bars = max(bars ** (1 / 3), *(one.block_bars for one in depends))
        drawn = _drawn(standard, sharpe, weights, block_bars=block_bars, resamples=resamples, seed=seed)
    estimate, variance = sharpe @ weights, np.array([one.variance for one in depends]) / bars
    variance = np.where(variance > 0, variance, drawn[0].var(axis=0))  # a flat top rarely falls below 0
    strays = np.full(drawn[0].shape, np.inf)
    np.divide(np.abs(drawn[0] - estimate), drawn[1], out=strays, where=drawn[1] > TINY)
    return Resampled(estimate, np.sqrt(np.where(is_still, 0.0, variance)), np.sort(strays, axis=0), block_bars)


def _drawn(
    standard: np.ndarray, sharpe: np.ndarray, weights: np.ndarray, *, block_bars: float, resamples: int, seed: int
) -> np.ndarray:
    """(2, resamples, statistics) statistics of resamples and their standard errors, 0 where a series never varies."""
    running = np.zeros((len(standard) + 1, 2 * len(sharpe)))  # sums of the bars before, then those of their squares
    np.cumsum(np.hstack([standard, standard**2]), axis=0, out=running[1:])
    rng = np.random.default_rng(seed)
    drawn: np.ndarray = np.empty((2, resamples, weights.shape[1]))
    for i in range(resamples):
        start, length = blocks(rng, bars=len(standard), block_bars=block_bars)
        drawn[:, i] = _redrawn(_sums(running, start, length), length, sharpe=sharpe, weights=weights)
    return drawn


def _influence(standard: np.ndarray, sharpe: np.ndarray) -> np.ndarray:
    """(T, series) what each bar adds to T times the error of the Sharpe ratio, to first order."""
    return np.asarray(standard - sharpe / 2 * (standard**2 - 1))


def _sums(running: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """(blocks, columns) sums over the bars of circular blocks, from the running sums before each bar."""
    bars, end = len(running) - 1, start + length
    wraps = end > bars
    sums = running.take(end - bars * wraps, axis=0)
    sums -= running.take(start, axis=0)
    sums[wraps] += running[bars]
    return np.asarray(sums)


def _redrawn(
    sums: np.ndarray, length: np.ndarray, *, sharpe: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(statistics,) the weighted Sharpe ratios of one resample and their errors, 0 where a series never varies.

    `sums` (blocks, 2 series) are of standardised returns, then of their squares; `sharpe` are the ratios before. The
    influence of a block, linear in its sums, is that of `_influence` with the mean and the deviation of this resample.
    """
    bars = length.sum()
    first, second = np.split(np.ones(len(sums)) @ sums, 2)  # (series,)
    mean, variance = first / bars, (second - first**2 / bars) / (bars - 1)
    variance[variance <= TINY] = np.inf
    ratio, spread = (sharpe + mean) / np.sqrt(variance), np.sqrt(variance)
    of_return, of_square = 1 / spread + ratio * mean / variance, -ratio / 2 / variance
    of_bar = ratio / 2 * (1 - mean**2 / variance) - mean / spread
    influence = sums @ np.vstack([of_return[:, None] * weights, of_square[:, None] * weights])  # (blocks, statistics)
    influence += length[:, None] * (of_bar @ weights)
    is_defined = ~(np.isinf(variance) @ (weights != 0))
    return ratio @ weights, np.sqrt((influence**2).sum(axis=0)) / bars * is_defined


def holm(p_values: np.ndarray) -> np.ndarray:
    """(tests,) p-values adjusted so that any false rejection among all is as rare as one alone ([6]); nan stays nan."""
    adjusted = np.full(len(p_values), np.nan)
    order = np.argsort(p_values, kind="stable")[: np.isfinite(p_values).sum()]  # nan stands last
    steps = (len(order) - np.arange(len(order))) * p_values[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


@dataclass(frozen=True)
class Pair:
    """Whether one of two models has the higher Sharpe ratio, in the mean over the paths on which both trade."""

    a: str
    b: str
    difference: float  # of a over b
    low: float  # of the interval of the difference, by itself
    high: float
    p_value: float  # two-sided, by itself
    p_adjusted: float  # among all pairs
    verdict: str
    why: str | None  # a figure is undefined, or no verdict possible


@dataclass(frozen=True)
class Certainty:
    """How sure the Sharpe ratios of several models are, and of which two it is known which is higher."""

    intervals: dict[str, tuple[float, float]]  # of the median path; nan where it trades too little
    pairs: list[Pair]
    block_bars: float  # mean block length; nan without a model


def certainty(
    paths: Mapping[str, np.ndarray], median: Mapping[str, int], *, confidence: float, resamples: int, seed: int
) -> Certainty:
    """The interval of each model's path `median`, and each two models compared over the mean of the paths both trade.

    `paths` are the (T, P) returns of each model at the same times, path p of one beside path p of the others.
    """
    if not paths:
        return Certainty({}, [], np.nan)
    names, returns = list(paths), np.stack(list(paths.values()), axis=1)  # (T, models, P)
    trades = np.ptp(returns, axis=0) > 0  # (models, P)
    couples = list(combinations(range(len(names)), 2))
    alone = [_alone(trades, model, path=median[name]) for model, name in enumerate(names)]
    weights = np.stack([*alone, *(_against(trades, a, b) for a, b in couples)], axis=-1)  # (models, P, statistics)
    found = resampled(
        returns.reshape(len(returns), -1), weights.reshape(trades.size, -1), resamples=resamples, seed=seed
    )
    limits = found.interval(confidence=confidence)
    limits = np.where(np.isfinite(limits), limits, np.nan).tolist()
    p_values = found.p_value()[len(names) :]
    figures = zip(couples, found.estimate[len(names) :], limits[len(names) :], p_values, holm(p_values), strict=True)
    return Certainty(
        intervals={name: (low, high) for name, (low, high) in zip(names, limits[: len(names)], strict=True)},
        pairs=[
            _judged(
                Pair(names[a], names[b], float(difference), low, high, float(p), float(adjusted), UNDECIDED, None),
                confidence=confidence,
                least=len(couples) / (resamples + 1),
            )
            for (a, b), difference, (low, high), p, adjusted in figures
        ],
        block_bars=found.block_bars,
    )


def _alone(trades: np.ndarray, model: int, *, path: int) -> np.ndarray:
    """(models, P) weights of one path of one model."""
    weights = np.zeros(trades.shape)
    weights[model, path] = 1.0
    return weights


def _against(trades: np.ndarray, a: int, b: int) -> np.ndarray:
    """(models, P) weights of the mean of model `a` over that of `b` on the paths that both trade; 0 without one."""
    both, weights = trades[a] & trades[b], np.zeros(trades.shape)
    weights[a, both], weights[b, both] = 1.0 / max(both.sum(), 1), -1.0 / max(both.sum(), 1)
    return weights


def _judged(pair: Pair, *, confidence: float, least: float) -> Pair:
    """The pair with its verdict; `least` is the lowest adjusted p-value that the first of all pairs can reach."""
    if np.isnan(pair.p_value):
        return replace(pair, why="there is no path on which both trade")
    if pair.p_adjusted <= 1 - confidence:
        better, worse = (pair.a, pair.b) if pair.difference > 0 else (pair.b, pair.a)
        return replace(pair, verdict=f"{better} better than {worse}")
    if least > 1 - confidence:
        return replace(
            pair, why=f"no difference could show: raise compare.resamples {least / (1 - confidence):.1f} times"
        )
    return replace(pair, why="they trade too little" if np.isnan(pair.low) else None)


def _finite(returns: np.ndarray) -> np.ndarray:
    returns = np.asarray(returns, dtype=np.float64)
    if returns.ndim != 2 or len(returns) < MIN_BARS or not np.isfinite(returns).all():
        is_finite = bool(np.isfinite(returns).all())
        raise ValueError(
            f"returns: shape {returns.shape}, all finite: {is_finite}; give finite (T, series), T at least {MIN_BARS}"
        )
    return returns
