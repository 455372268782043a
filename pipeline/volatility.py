"""The one-bar volatility σ of bars, the scale of labels, and where it is too small to be one.

A σ far below the price's tick or far below the market's usual level is no scale: the bars are interpolated, pegged or
frozen, and the next ordinary move would be thousands of σ. Every limit uses bars of the row's own segment up to the
row, so that neither later bars nor other segments change a label.
"""

import numpy as np
import pandas as pd
from numba import njit

from pipeline.scale import RESOLUTION

MIN_TICKS = 12**-0.5  # σ in ticks, at least: the standard deviation of the error that rounding to the tick makes
MIN_USUAL_RATIO = 0.05  # σ over the usual level, at least: 7 of 525,600 minutes of BTC, 2023-24, are below
USUAL_WINDOWS = 200  # the usual level is the median over this many windows without overlap
TICK_BARS = 10_000  # the tick is inferred from the latest bars, at most this many
TICK_SHARE = 0.9  # of the closes that differ from the one before, which are multiples of the tick
MAX_DECIMALS = 12  # of a tick
TICKS = np.array([10.0**-count for count in range(MAX_DECIMALS + 1)])
WINDOWS = 64  # of successive bars, summed side by side; no value depends on it
BLOCK_BARS = 1 << 15  # that are computed at once; no value depends on it


def estimate_volatility(bars: pd.DataFrame, *, window: int) -> np.ndarray:
    """Return (N,) standard deviations (ddof=1) of the last `window` one-bar log returns; NaN in the warm-up.

    Each window is summed from scratch: equal bars give exactly 0, and bars before the window have no influence.
    """
    check_bar_count("volatility_window", window, at_least=2)
    age, _ = count_neighbors(bars)
    return np.asarray(_estimate_deviations(_take_steps(bars), age, window))


def estimate_scale(bars: pd.DataFrame, *, window: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return (N,) the volatility σ, and by cause (N,) the bars at which it is no scale; a bar may have several causes.

    The causes, in order: `warm_up`; `zero_volatility`, of equal closes; `volatility_below_tick`, where σ · close is
    below `MIN_TICKS` ticks, see `infer_tick`; `volatility_below_usual`, where σ is below `MIN_USUAL_RATIO` of the usual
    level, see `estimate_usual_level`.
    """
    volatility = estimate_volatility(bars, window=window)
    close = bars["close"].to_numpy(dtype=np.float64)
    causes = {
        "warm_up": np.isnan(volatility),
        "zero_volatility": volatility == 0,  # exactly, see `estimate_volatility`
        "volatility_below_tick": volatility * close < MIN_TICKS * infer_tick(bars),
        "volatility_below_usual": volatility < MIN_USUAL_RATIO * estimate_usual_level(bars, window=window),
    }
    return volatility, causes


def infer_tick(bars: pd.DataFrame) -> np.ndarray:
    """Return (N,) the tick of the closes as known at each bar: the largest 1, 0.1, 0.01 … that divides most of them.

    Most is `TICK_SHARE` of the closes that differ from the one before, among the segment's latest `TICK_BARS` bars. A
    tick of 0.05 counts as 0.01. The tick is at least float32's resolution of the price; it is that without a move.
    """
    close, (age, _) = bars["close"].to_numpy(dtype=np.float64), count_neighbors(bars)
    moves = (_take_steps(bars) != 0) & (age > 0)
    tick = _find_ticks(age, count_decimals(close), moves)
    return np.asarray(np.maximum(tick, close * RESOLUTION, out=tick))


def count_decimals(prices: np.ndarray) -> np.ndarray:
    """Return (N,) the decimals of prices, from 0; `MAX_DECIMALS` + 1 where they are finer than float32's resolution.

    >>> count_decimals(np.array([42000.0, 42000.1, 1.2345, 1 / 3])).tolist()
    [0, 1, 4, 13]
    """
    decimals = np.full(len(prices), MAX_DECIMALS + 1, dtype=np.int8)
    for start in range(0, len(prices), BLOCK_BARS):  # which stay in the processor's cache
        part, found = prices[start : start + BLOCK_BARS], decimals[start : start + BLOCK_BARS]
        for count in range(MAX_DECIMALS, -1, -1):
            scaled = part * 10.0**count
            is_whole = np.abs(scaled - np.rint(scaled)) <= 4e-15 * scaled  # the rounding of a product
            found[is_whole & (scaled * RESOLUTION <= 1)] = count
    return decimals


def estimate_usual_level(bars: pd.DataFrame, *, window: int) -> np.ndarray:
    """Return (N,) the median root mean square of log returns over the windows up to each bar; NaN before the first.

    Windows of `window` bars follow one another from the segment's start; the latest `USUAL_WINDOWS` with a move count.
    The root mean square contains the mean, so that a straight price path has a level although its σ is near 0.
    """
    age, _ = count_neighbors(bars)
    return np.asarray(_estimate_usual_levels(_take_steps(bars), age, window, USUAL_WINDOWS))


def count_neighbors(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) int32 the number of bars before each bar in its segment, and (N,) after it."""
    return _count_neighbors(bars["segment"].to_numpy())


def take_log_returns(bars: pd.DataFrame, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the log returns of the close from each bar `start` to the bar `end`."""
    close = bars["close"].to_numpy(dtype=np.float64)
    return np.asarray(np.log(close[end] / close[start]))


def check_bar_count(name: str, count: int, *, at_least: int) -> None:
    """Raise ValueError where `count` is no integer number of bars, or too few."""
    if not isinstance(count, int) or count < at_least:
        raise ValueError(f"{name}: {count!r}; it must be an integer number of bars, at least {at_least}")


def _take_steps(bars: pd.DataFrame) -> np.ndarray:
    """Return (N,) one-bar log returns; 0 at the first bar of the table."""
    close = bars["close"].to_numpy(dtype=np.float64)
    steps = np.ones(len(close))
    np.divide(close[1:], close[:-1], out=steps[1:])
    return np.asarray(np.log(steps, out=steps))


@njit(cache=True)
def _count_neighbors(segment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    before, after = np.zeros(len(segment), np.int32), np.zeros(len(segment), np.int32)
    for i in range(1, len(segment)):
        before[i] = before[i - 1] + 1 if segment[i] == segment[i - 1] else 0
    for i in range(len(segment) - 2, -1, -1):
        after[i] = after[i + 1] + 1 if segment[i] == segment[i + 1] else 0
    return before, after


@njit(cache=True)
def _find_ticks(age: np.ndarray, decimals: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Return (N,) the ticks of `infer_tick`, 0 where there is none, from a running count of each bar's decimals."""
    ticks, counts, total = np.zeros(len(age)), np.zeros(MAX_DECIMALS + 2, np.int64), 0
    for i in range(len(age)):
        if age[i] == 0:
            counts[:], total = 0, 0
        elif age[i] >= TICK_BARS and moves[i - TICK_BARS]:
            counts[decimals[i - TICK_BARS]] -= 1
            total -= 1
        if moves[i]:
            counts[decimals[i]] += 1
            total += 1
        count, within = 0, counts[0]
        while count < MAX_DECIMALS and within < TICK_SHARE * total:
            count += 1
            within += counts[count]
        if total > 0 and within >= TICK_SHARE * total:
            ticks[i] = TICKS[count]
    return ticks


@njit(cache=True, error_model="numpy")
def _estimate_deviations(step: np.ndarray, age: np.ndarray, window: int) -> np.ndarray:
    """Return (N,) standard deviations of each bar's last `window` steps; NaN where its segment has fewer.

    The windows of successive bars are summed side by side, each from its first step to its last.
    """
    deviation, mean, square = np.full(len(step), np.nan), np.empty(WINDOWS), np.empty(WINDOWS)
    for start in range(window, len(step), WINDOWS):  # no earlier bar has a whole window
        mean[:], square[:] = 0.0, 0.0
        for first in range(start - window + 1, start + 1):
            part = step[first : first + WINDOWS][: len(step) - start]
            for j in range(len(part)):
                mean[j] += part[j]
        for j in range(WINDOWS):
            mean[j] /= window
        for first in range(start - window + 1, start + 1):
            part = step[first : first + WINDOWS][: len(step) - start]
            for j in range(len(part)):
                square[j] += (part[j] - mean[j]) ** 2
        deviation[start : start + WINDOWS] = np.sqrt(square / (window - 1))[: len(step) - start]
    repeats = 0  # how many steps before a bar's are the same: rounding leaves no exact 0
    for i in range(1, len(step)):
        repeats = repeats + 1 if step[i] == step[i - 1] else 0
        if age[i] < window:
            deviation[i] = np.nan
        elif repeats >= window - 1:
            deviation[i] = 0.0
    return deviation


@njit(cache=True)
def _estimate_usual_levels(step: np.ndarray, age: np.ndarray, window: int, windows: int) -> np.ndarray:
    usual, recent, count = np.full(len(step), np.nan), np.full(windows, np.nan), 0
    for i in range(len(step)):
        if age[i] == 0:
            count = 0
        if count > 0:
            usual[i] = usual[i - 1]
        if age[i] > 0 and age[i] % window == 0:
            level = np.sqrt(np.mean(step[i - window + 1 : i + 1] ** 2))
            if level > 0:
                recent[count % windows] = level
                count += 1
                usual[i] = np.median(recent[: min(count, windows)])
    return usual
