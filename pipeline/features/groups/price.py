"""Columns of the price's level and dispersion: returns, volatility, distance from averages, Bollinger bands.

Each kernel reads a chunk of bars and fills its columns. Where TA-Lib has the indicator, definition and seed are
TA-Lib's (an exponential average starts as a simple one), divided by the price so that the columns have no unit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import PositiveFloat

from pipeline.features.catalogue import Column, Indicator
from pipeline.features.chunks import (
    CLOSE,
    INVERSE_CLOSE,
    LN_CLOSE,
    LN_HIGH,
    LN_LOW,
    LN_OPEN,
    RETURN,
    SCRATCH,
    view_current,
    view_previous,
)
from pipeline.features.elementary import fill_log
from pipeline.features.rolling import (
    EXPONENTIAL_CELLS,
    Floats,
    Floats32,
    Integers,
    compile_kernel,
    copy_to_end,
    count_lag_cells,
    count_moment_cells,
    count_window_cells,
    lag_values,
    rolling_moments,
    rolling_sum,
    smooth_exponentially,
)
from pipeline.features.windows import LongWindow, LongWindows, Windows

LOG_RETURN, REALIZED, PARKINSON, GARMAN_KLASS, YANG_ZHANG, SMA, EMA, BOLLINGER = range(8)


@dataclass(frozen=True, kw_only=True)
class Params:
    """The windows of this file's columns, in bars, and the width of the Bollinger bands."""

    return_windows: Windows
    volatility_windows: Windows
    range_window: LongWindow
    sma_windows: LongWindows
    ema_windows: LongWindows
    bollinger_window: LongWindow
    bollinger_deviations: PositiveFloat


@compile_kernel
def log_return(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with ln(close / close n bars ago)."""
    count = len(out)
    close = view_current(chunk, LN_CLOSE, count)
    past = lag_values(memory, cell, n, close, chunk[SCRATCH])
    for i in range(count):
        out[i] = close[i] - past[i]


@compile_kernel
def fill_root_of_sum(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int, scale: float) -> None:
    """Fill `out` with √(scale · the sum of n values of the first scratch row).

    Rounding may make a sum of 0 negative: it is cut at 0.
    """
    count = len(out)
    total = rolling_sum(memory, cell, n, view_current(chunk, SCRATCH, count), chunk[SCRATCH + 1 :])
    for i in range(count):
        out[i] = math.sqrt(max(total[i], 0.0) * scale)


@compile_kernel
def realized_volatility(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with √(Σ r² / n) over n one-bar log returns r."""
    count = len(out)
    returns, squares = view_current(chunk, RETURN, count), view_current(chunk, SCRATCH, count)
    for i in range(count):
        squares[i] = returns[i] * returns[i]
    fill_root_of_sum(memory, cell, chunk, out, n, 1.0 / n)


@compile_kernel
def parkinson(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with √(Σ ln²(high/low) / (4 n ln 2))."""
    count = len(out)
    high, low = view_current(chunk, LN_HIGH, count), view_current(chunk, LN_LOW, count)
    squares = view_current(chunk, SCRATCH, count)
    for i in range(count):
        squares[i] = (high[i] - low[i]) * (high[i] - low[i])
    fill_root_of_sum(memory, cell, chunk, out, n, 1.0 / (4.0 * n * math.log(2.0)))


@compile_kernel
def garman_klass(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with √ of the mean of ½ ln²(high/low) - (2 ln 2 - 1) ln²(close/open).

    The mean is not negative, since open and close of a valid bar lie between low and high.
    """
    count = len(out)
    high, low = view_current(chunk, LN_HIGH, count), view_current(chunk, LN_LOW, count)
    start, close = view_current(chunk, LN_OPEN, count), view_current(chunk, LN_CLOSE, count)
    terms, body = view_current(chunk, SCRATCH, count), 2.0 * math.log(2.0) - 1.0
    for i in range(count):
        spread, move = high[i] - low[i], close[i] - start[i]
        terms[i] = 0.5 * spread * spread - body * move * move
    fill_root_of_sum(memory, cell, chunk, out, n, 1.0 / n)


@compile_kernel
def yang_zhang(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with √(σ²_overnight + k σ²_body + (1 - k) σ²_RS), RS being Rogers–Satchell.

    overnight = ln(open / previous close), body = ln(close / open).
    """
    count = len(out)
    high, low = view_current(chunk, LN_HIGH, count), view_current(chunk, LN_LOW, count)
    start, close = view_current(chunk, LN_OPEN, count), view_current(chunk, LN_CLOSE, count)
    last, overnight = view_previous(chunk, LN_CLOSE, count), view_current(chunk, SCRATCH, count)
    body, inside = view_current(chunk, SCRATCH + 1, count), view_current(chunk, SCRATCH + 2, count)
    for i in range(count):
        overnight[i] = start[i] - last[i]
    for i in range(count):
        body[i] = close[i] - start[i]
    for i in range(count):
        inside[i] = (high[i] - close[i]) * (high[i] - start[i]) + (low[i] - close[i]) * (low[i] - start[i])
    _, variance, bodies, _ = rolling_moments(memory, cell, n, overnight, body, chunk[SCRATCH + 3 :])
    insides = rolling_sum(memory, cell + count_moment_cells(n), n, inside, chunk[SCRATCH + 9 :])
    k = 0.34 / (1.34 + (n + 1.0) / (n - 1.0))
    overnight_weight, body_weight, inside_weight = 1.0 / (n - 1.0), k / (n - 1.0), (1.0 - k) / n
    for i in range(count):
        variance[i] = overnight_weight * variance[i] + body_weight * bodies[i] + inside_weight * max(insides[i], 0.0)
    for i in range(count):
        out[i] = math.sqrt(variance[i])


@compile_kernel
def fill_distance(chunk: Floats, average: Floats, scale: float, out: Floats32) -> None:
    """Fill `out` with ln(close / (average · scale)); overwrites `average`."""
    count = len(out)
    close, ratio = view_current(chunk, CLOSE, count), view_current(chunk, SCRATCH, count)
    for i in range(count):
        ratio[i] = close[i] / (average[i] * scale)
    fill_log(ratio, average)
    copy_to_end(average, out)


@compile_kernel
def fill_sma_distance(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with ln(close / simple average of n closes)."""
    total = rolling_sum(memory, cell, n, view_current(chunk, CLOSE, len(out)), chunk[SCRATCH + 1 :])
    fill_distance(chunk, total, 1.0 / n, out)


@compile_kernel
def fill_ema_distance(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with ln(close / exponential average of the closes, weight 2 / (n + 1))."""
    close, scratch = view_current(chunk, CLOSE, len(out)), chunk[SCRATCH + 1 :]
    fill_distance(chunk, smooth_exponentially(memory, cell, n, 2.0 / (n + 1.0), close, 0.0, scratch), 1.0, out)


@compile_kernel
def bollinger_bands(
    memory: Floats,
    cell: int,
    chunk: Floats,
    upper: Floats32,
    middle: Floats32,
    lower: Floats32,
    width: Floats32,
    n: int,
) -> None:
    """Fill upper band, middle, lower band and width of the close's mean ± k population deviations over n bars."""
    count = len(upper)
    close, inverse_close = view_current(chunk, CLOSE, count), view_current(chunk, INVERSE_CLOSE, count)
    deviation, multiple, inverse_n = view_current(chunk, SCRATCH, count), memory[cell], 1.0 / n
    mean, squares, _, _ = rolling_moments(memory, cell + 1, n, close, close, chunk[SCRATCH + 1 :])
    for i in range(count):
        deviation[i] = math.sqrt(squares[i] * inverse_n)
    for i in range(count):
        upper[i] = (mean[i] - close[i] + multiple * deviation[i]) * inverse_close[i]
    for i in range(count):
        middle[i] = (mean[i] - close[i]) / deviation[i] if deviation[i] > 0.0 else 0.0
    for i in range(count):
        lower[i] = (mean[i] - close[i] - multiple * deviation[i]) * inverse_close[i]
    for i in range(count):
        width[i] = 2.0 * multiple * deviation[i] / mean[i]


@compile_kernel
def update(plan: Integers, memory: Floats, chunk: Floats, out: Floats32, start: int, count: int) -> None:
    """Fill `out[:, start:start + count]` (F, N) with the columns of every row of `plan`, as Layout describes them."""
    for row in range(len(plan)):
        kernel, cell, column, n = plan[row, 0], plan[row, 1], plan[row, 2], plan[row, 3]
        first = out[column, start : start + count]
        if kernel == LOG_RETURN:
            log_return(memory, cell, chunk, first, n)
        elif kernel == REALIZED:
            realized_volatility(memory, cell, chunk, first, n)
        elif kernel == PARKINSON:
            parkinson(memory, cell, chunk, first, n)
        elif kernel == GARMAN_KLASS:
            garman_klass(memory, cell, chunk, first, n)
        elif kernel == YANG_ZHANG:
            yang_zhang(memory, cell, chunk, first, n)
        elif kernel == SMA:
            fill_sma_distance(memory, cell, chunk, first, n)
        elif kernel == EMA:
            fill_ema_distance(memory, cell, chunk, first, n)
        elif kernel == BOLLINGER:
            second = out[column + 1, start : start + count]
            third = out[column + 2, start : start + count]
            fourth = out[column + 3, start : start + count]
            bollinger_bands(memory, cell, chunk, first, second, third, fourth, n)


def list_indicators(params: Params) -> tuple[Indicator, ...]:
    """Return the catalogue's entries on the price's level and dispersion."""
    return (
        *(_make_log_return(n) for n in params.return_windows),
        *(_make_realized_volatility(n) for n in params.volatility_windows),
        *_make_range_volatilities(params.range_window),
        *_make_averages(params.sma_windows, params.ema_windows),
        _make_bollinger_bands(params.bollinger_window, params.bollinger_deviations),
    )


def _make_log_return(n: int) -> Indicator:
    column = Column(f"return_{n}", f"ln(close / close {n} {'bar' if n == 1 else 'bars'} ago)", n)
    return Indicator(LOG_RETURN, (n,), (column,), count_lag_cells(n))


def _make_realized_volatility(n: int) -> Indicator:
    column = Column(f"realized_vol_{n}", f"√(Σ r² / {n}) over {n} log returns r", n)
    return Indicator(REALIZED, (n,), (column,), count_window_cells(n))


def _make_range_volatilities(n: int) -> tuple[Indicator, ...]:
    high_low = f"√(Σ ln²(high / low) / (4 · {n} · ln 2)) over {n} bars (Parkinson 1980)"
    ohlc = f"√mean(½ ln²(high / low) - (2 ln 2 - 1) ln²(close / open)) over {n} bars (Garman & Klass 1980)"
    overnight = (
        f"√(σ²_overnight + k σ²_body + (1 - k) σ²_RS) over n = {n} bars, overnight = ln(open / previous close), "
        "body = ln(close / open), RS = Rogers–Satchell, k = 0.34 / (1.34 + (n + 1) / (n - 1)) (Yang & Zhang 2000)"
    )
    sums, moments = count_window_cells(n), count_moment_cells(n)
    return (
        Indicator(PARKINSON, (n,), (Column(f"parkinson_vol_{n}", high_low, n - 1),), sums),
        Indicator(GARMAN_KLASS, (n,), (Column(f"garman_klass_vol_{n}", ohlc, n - 1),), sums),
        Indicator(YANG_ZHANG, (n,), (Column(f"yang_zhang_vol_{n}", overnight, n),), moments + sums),
    )


def _make_averages(simple: Sequence[int], exponential: Sequence[int]) -> tuple[Indicator, ...]:
    sma, ema = "ln(close / simple average of {} closes)", "ln(close / EMA {}), seeded as in TA-Lib"
    smas = [(n, Column(f"sma_{n}", sma.format(n), n - 1)) for n in simple]
    emas = [(n, Column(f"ema_{n}", ema.format(n), n - 1)) for n in exponential]
    return (
        *(Indicator(SMA, (n,), (column,), count_window_cells(n)) for n, column in smas),
        *(Indicator(EMA, (n,), (column,), EXPONENTIAL_CELLS) for n, column in emas),
    )


def _make_bollinger_bands(n: int, multiple: float) -> Indicator:
    bands = f"TA-Lib's BBANDS of {n} bars, {multiple} population standard deviations"
    columns = (
        Column("bb_upper", f"upper band / close - 1; {bands}", n - 1),
        Column("bb_middle", "(mean - close) / standard deviation; 0 in a flat window", n - 1),
        Column("bb_lower", "lower band / close - 1", n - 1),
        Column("bb_width", "(upper band - lower band) / mean", n - 1),
    )
    return Indicator(BOLLINGER, (n,), columns, 1 + count_moment_cells(n), (float(multiple),))
