"""Columns of momentum and trend: RSI, MACD, momentum, stochastic, average true range, directional movement.

Each kernel reads a chunk of bars and fills its columns. Where TA-Lib has the indicator, definition and seed are
TA-Lib's (Wilder's and exponential averages start as simple ones), divided by the price so that no column has a unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Len

from pipeline import config
from pipeline.features.catalogue import Column, Indicator
from pipeline.features.chunks import (
    CLOSE,
    HIGH,
    INVERSE_CLOSE,
    LOW,
    SCRATCH,
    view_current,
    view_previous,
)
from pipeline.features.rolling import (
    EXPONENTIAL_CELLS,
    Floats,
    Floats32,
    Integers,
    compile_kernel,
    count_lag_cells,
    count_window_cells,
    lag_values,
    rolling_max,
    smooth_exponentially,
    smooth_from_seed,
)
from pipeline.features.windows import Window, Windows

RSI, MACD, MOMENTUM, STOCHASTIC, ATR, ADX = range(6)


@dataclass(frozen=True, kw_only=True)
class Params:
    """The windows of this file's columns, in bars."""

    rsi_windows: Windows
    macd_windows: Annotated[Windows, Len(3, 3)]  # fast, slow, signal
    momentum_windows: Windows
    stochastic_window: Window
    trend_window: Window

    def __post_init__(self) -> None:
        """Raise ParamsError where MACD's windows do not fit each other."""
        if self.macd_windows[0] >= self.macd_windows[1]:
            raise config.ParamsError(
                f"features.macd_windows is {self.macd_windows}; it must be [fast, slow, signal], fast below slow"
            )


@compile_kernel
def rsi(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with 100 · gains / (gains + losses), both Wilder-averaged; 50 where the price has not changed."""
    count = len(out)
    close, last = view_current(chunk, CLOSE, count), view_previous(chunk, CLOSE, count)
    gains, losses = view_current(chunk, SCRATCH, count), view_current(chunk, SCRATCH + 1, count)
    for i in range(count):
        change = close[i] - last[i]
        gains[i] = change if change > 0.0 else 0.0
    for i in range(count):
        change = last[i] - close[i]
        losses[i] = change if change > 0.0 else 0.0
    gain = smooth_exponentially(memory, cell, n, 1.0 / n, gains, 1.0, chunk[SCRATCH + 2 :])
    loss = smooth_exponentially(memory, cell + EXPONENTIAL_CELLS, n, 1.0 / n, losses, 1.0, chunk[SCRATCH + 4 :])
    for i in range(count):
        moved = gain[i] + loss[i]
        out[i] = 100.0 * gain[i] / moved if moved > 0.0 else 50.0


@compile_kernel
def macd(
    memory: Floats,
    cell: int,
    chunk: Floats,
    macd_out: Floats32,
    signal_out: Floats32,
    histogram_out: Floats32,
    fast: int,
    slow: int,
    smooth: int,
) -> None:
    """Fill the columns with (EMA fast - EMA slow) / close, its EMA / close, and their difference.

    The fast EMA starts at the same bar as the slow one.
    """
    count = len(macd_out)
    close, inverse_close = view_current(chunk, CLOSE, count), view_current(chunk, INVERSE_CLOSE, count)
    line, cell_2, cell_3 = view_current(chunk, SCRATCH, count), cell + EXPONENTIAL_CELLS, cell + 2 * EXPONENTIAL_CELLS
    scratch, scratch_2 = chunk[SCRATCH + 2 :], chunk[SCRATCH + 4 :]
    fast_ema = smooth_exponentially(memory, cell, fast, 2.0 / (fast + 1.0), close, float(slow - fast), scratch)
    slow_ema = smooth_exponentially(memory, cell_2, slow, 2.0 / (slow + 1.0), close, 0.0, scratch_2)
    for i in range(count):
        line[i] = fast_ema[i] - slow_ema[i]
    signal = smooth_exponentially(memory, cell_3, smooth, 2.0 / (smooth + 1.0), line, slow - 1.0, scratch)
    for i in range(count):
        macd_out[i] = line[i] * inverse_close[i]
    for i in range(count):
        signal_out[i] = signal[i] * inverse_close[i]
    for i in range(count):
        histogram_out[i] = (line[i] - signal[i]) * inverse_close[i]


@compile_kernel
def momentum(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with (close - close n bars ago) / close."""
    count = len(out)
    close, inverse_close = view_current(chunk, CLOSE, count), view_current(chunk, INVERSE_CLOSE, count)
    past = lag_values(memory, cell, n, close, chunk[SCRATCH])
    for i in range(count):
        out[i] = (close[i] - past[i]) * inverse_close[i]


@compile_kernel
def stochastic(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with 100 · (close - lowest low) / (highest high - lowest low) of n bars; 50 where they are equal."""
    count = len(out)
    close, high = view_current(chunk, CLOSE, count), view_current(chunk, HIGH, count)
    low, minus_low = view_current(chunk, LOW, count), view_current(chunk, SCRATCH, count)
    for i in range(count):
        minus_low[i] = -low[i]
    top = rolling_max(memory, cell, n, high, chunk[SCRATCH + 1 :])
    minus_bottom = rolling_max(memory, cell + count_window_cells(n), n, minus_low, chunk[SCRATCH + 3 :])
    for i in range(count):
        width = top[i] + minus_bottom[i]
        out[i] = 100.0 * (close[i] + minus_bottom[i]) / width if width > 0.0 else 50.0


@compile_kernel
def fill_true_range(chunk: Floats, count: int, result: Floats) -> None:
    """Fill `result` with the bar's range, extended to the previous close."""
    high, low = view_current(chunk, HIGH, count), view_current(chunk, LOW, count)
    last = view_previous(chunk, CLOSE, count)
    for i in range(count):
        result[i] = max(high[i], last[i]) - min(low[i], last[i])


@compile_kernel
def fill_directional_movements(chunk: Floats, count: int, rises: Floats, falls: Floats) -> None:
    """Fill Wilder's +DM and -DM: the rise of the high, the fall of the low, whichever is larger; the other is 0."""
    high, low = view_current(chunk, HIGH, count), view_current(chunk, LOW, count)
    last_high, last_low = view_previous(chunk, HIGH, count), view_previous(chunk, LOW, count)
    for i in range(count):
        up, down = high[i] - last_high[i], last_low[i] - low[i]
        rises[i] = up if up > down and up > 0.0 else 0.0
    for i in range(count):
        up, down = high[i] - last_high[i], last_low[i] - low[i]
        falls[i] = down if down > up and down > 0.0 else 0.0


@compile_kernel
def atr(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with Wilder's average of the true range, over the close."""
    count = len(out)
    inverse_close, ranges = view_current(chunk, INVERSE_CLOSE, count), view_current(chunk, SCRATCH, count)
    fill_true_range(chunk, count, ranges)
    average = smooth_exponentially(memory, cell, n, 1.0 / n, ranges, 1.0, chunk[SCRATCH + 1 :])
    for i in range(count):
        out[i] = average[i] * inverse_close[i]


@compile_kernel
def adx(
    memory: Floats, cell: int, chunk: Floats, adx_out: Floats32, plus_di: Floats32, minus_di: Floats32, n: int
) -> None:
    """Fill the columns with Wilder's ADX, +DI and -DI in 0..100; 0 where the price has not moved."""
    count, decay = len(adx_out), 1.0 - 1.0 / n
    ranges, index = view_current(chunk, SCRATCH, count), view_current(chunk, SCRATCH, count)
    rises, falls = view_current(chunk, SCRATCH + 1, count), view_current(chunk, SCRATCH + 2, count)
    cell_2, cell_3, cell_4 = cell + EXPONENTIAL_CELLS, cell + 2 * EXPONENTIAL_CELLS, cell + 3 * EXPONENTIAL_CELLS
    fill_true_range(chunk, count, ranges)
    fill_directional_movements(chunk, count, rises, falls)
    rise = smooth_from_seed(memory, cell, n - 1.0, 1.0, 1.0, decay, rises, 1.0, chunk[SCRATCH + 3 :])
    fall = smooth_from_seed(memory, cell_2, n - 1.0, 1.0, 1.0, decay, falls, 1.0, chunk[SCRATCH + 5 :])
    span = smooth_from_seed(memory, cell_3, n - 1.0, 1.0, 1.0, decay, ranges, 1.0, chunk[SCRATCH + 7 :])
    for i in range(count):
        both = rise[i] + fall[i]
        index[i] = 100.0 * abs(rise[i] - fall[i]) / both if both > 0.0 else 0.0
    for i in range(count):
        plus_di[i] = 100.0 * rise[i] / span[i] if span[i] > 0.0 else 0.0
    for i in range(count):
        minus_di[i] = 100.0 * fall[i] / span[i] if span[i] > 0.0 else 0.0
    average = smooth_exponentially(memory, cell_4, n, 1.0 / n, index, float(n), chunk[SCRATCH + 3 :])
    for i in range(count):
        adx_out[i] = average[i]


@compile_kernel
def update(plan: Integers, memory: Floats, chunk: Floats, out: Floats32, start: int, count: int) -> None:
    """Fill `out[:, start:start + count]` (F, N) with the columns of every row of `plan`, as Layout describes them."""
    for row in range(len(plan)):
        kernel, cell, column, n = plan[row, 0], plan[row, 1], plan[row, 2], plan[row, 3]
        first = out[column, start : start + count]
        if kernel == RSI:
            rsi(memory, cell, chunk, first, n)
        elif kernel == MACD:
            second = out[column + 1, start : start + count]
            third = out[column + 2, start : start + count]
            macd(memory, cell, chunk, first, second, third, n, plan[row, 4], plan[row, 5])
        elif kernel == MOMENTUM:
            momentum(memory, cell, chunk, first, n)
        elif kernel == STOCHASTIC:
            stochastic(memory, cell, chunk, first, n)
        elif kernel == ATR:
            atr(memory, cell, chunk, first, n)
        elif kernel == ADX:
            second = out[column + 1, start : start + count]
            third = out[column + 2, start : start + count]
            adx(memory, cell, chunk, first, second, third, n)


def list_indicators(params: Params) -> tuple[Indicator, ...]:
    """Return the catalogue's entries on momentum and trend."""
    return (
        *(_make_rsi(n) for n in params.rsi_windows),
        _make_macd(params.macd_windows),
        *(_make_momentum(n) for n in params.momentum_windows),
        _make_stochastic(params.stochastic_window),
        *_make_trend(params.trend_window),
    )


def _make_rsi(n: int) -> Indicator:
    meaning = f"TA-Lib's RSI of {n} bars, 0..100; 50 where the price has not changed (Wilder 1978)"
    return Indicator(RSI, (n,), (Column(f"rsi_{n}", meaning, n),), 2 * EXPONENTIAL_CELLS)


def _make_macd(windows: Sequence[int]) -> Indicator:
    fast, slow, signal = windows
    warm_up_bars = slow + signal - 2
    columns = (
        Column("macd", f"(EMA {fast} - EMA {slow}) / close, seeded as in TA-Lib", slow - 1),
        Column("macd_signal", f"EMA {signal} of (EMA {fast} - EMA {slow}), / close", warm_up_bars),
        Column("macd_hist", "macd - macd_signal", warm_up_bars),
    )
    return Indicator(MACD, (fast, slow, signal), columns, 3 * EXPONENTIAL_CELLS)


def _make_momentum(n: int) -> Indicator:
    column = Column(f"momentum_{n}", f"TA-Lib's MOM of {n} bars / close: (close - close {n} bars ago) / close", n)
    return Indicator(MOMENTUM, (n,), (column,), count_lag_cells(n))


def _make_stochastic(n: int) -> Indicator:
    meaning = f"TA-Lib's STOCHF %K of {n} bars, 0..100; 50 where highest high = lowest low (Lane)"
    return Indicator(STOCHASTIC, (n,), (Column(f"stoch_k_{n}", meaning, n - 1),), 2 * count_window_cells(n))


def _make_trend(n: int) -> tuple[Indicator, ...]:
    columns = (
        Column(f"adx_{n}", f"TA-Lib's ADX of {n} bars, 0..100; 0 until the price moves (Wilder 1978)", 2 * n - 1),
        Column("plus_di", f"TA-Lib's PLUS_DI of {n} bars, 0..100; 0 until the price moves", n),
        Column("minus_di", f"TA-Lib's MINUS_DI of {n} bars, 0..100; 0 until the price moves", n),
    )
    return (
        Indicator(ATR, (n,), (Column(f"atr_{n}", f"TA-Lib's ATR of {n} bars / close", n),), EXPONENTIAL_CELLS),
        Indicator(ADX, (n,), columns, 4 * EXPONENTIAL_CELLS),
    )
