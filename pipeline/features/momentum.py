"""Columns on momentum and trend: RSI, MACD, momentum, stochastic, true range, directional movement.

Each kernel reads a stretch of the tape and writes its columns for it. Where TA-Lib has the indicator, definition and
seed are TA-Lib's (Wilder's and exponential averages start as simple ones), made free of the price's unit.
"""

from collections.abc import Sequence

from pipeline.features import tape as on
from pipeline.features.catalogue import Column, Family, window, windows
from pipeline.features.rolling import (
    EXPONENTIAL_CELLS,
    Floats,
    Floats32,
    Integers,
    exponential,
    kernel,
    lag_cells,
    lagged,
    rolling_max,
    seeded,
    window_cells,
)
from pipeline.features.tape import before, now

STRENGTH, CONVERGENCE, MOMENTUM, STOCHASTIC, TRUE_RANGE, DIRECTION = range(6)


@kernel
def relative_strength(memory: Floats, at: int, tape: Floats, out: Floats32, n: int) -> None:
    """100 · gains / (gains + losses), both Wilder-averaged; 50 where nothing has moved."""
    count = len(out)
    close, last = now(tape, on.CLOSE, count), before(tape, on.CLOSE, count)
    gains, losses = now(tape, on.WORK, count), now(tape, on.WORK + 1, count)
    for i in range(count):
        change = close[i] - last[i]
        gains[i] = change if change > 0.0 else 0.0
    for i in range(count):
        change = last[i] - close[i]
        losses[i] = change if change > 0.0 else 0.0
    gain = exponential(memory, at, n, 1.0 / n, gains, 1.0, tape[on.WORK + 2 :])
    loss = exponential(memory, at + EXPONENTIAL_CELLS, n, 1.0 / n, losses, 1.0, tape[on.WORK + 4 :])
    for i in range(count):
        moved = gain[i] + loss[i]
        out[i] = 100.0 * gain[i] / moved if moved > 0.0 else 50.0


@kernel
def convergence(
    memory: Floats,
    at: int,
    tape: Floats,
    line_over_close: Floats32,
    signal_over_close: Floats32,
    gap_over_close: Floats32,
    fast: int,
    slow: int,
    smooth: int,
) -> None:
    """(EMA fast - EMA slow) / close, its EMA / close, and their difference; the fast EMA starts as late as the slow."""
    count = len(line_over_close)
    close, per_close = now(tape, on.CLOSE, count), now(tape, on.PER_CLOSE, count)
    line = now(tape, on.WORK, count)
    spare, more = tape[on.WORK + 2 :], tape[on.WORK + 4 :]
    quick = exponential(memory, at, fast, 2.0 / (fast + 1.0), close, float(slow - fast), spare)
    steady = exponential(memory, at + EXPONENTIAL_CELLS, slow, 2.0 / (slow + 1.0), close, 0.0, more)
    for i in range(count):
        line[i] = quick[i] - steady[i]
    signal = exponential(memory, at + 2 * EXPONENTIAL_CELLS, smooth, 2.0 / (smooth + 1.0), line, slow - 1.0, spare)
    for i in range(count):
        line_over_close[i] = line[i] * per_close[i]
    for i in range(count):
        signal_over_close[i] = signal[i] * per_close[i]
    for i in range(count):
        gap_over_close[i] = (line[i] - signal[i]) * per_close[i]


@kernel
def momentum(memory: Floats, at: int, tape: Floats, out: Floats32, n: int) -> None:
    """(close - close n bars ago) / close."""
    count = len(out)
    close, per_close = now(tape, on.CLOSE, count), now(tape, on.PER_CLOSE, count)
    past = lagged(memory, at, n, close, tape[on.WORK])
    for i in range(count):
        out[i] = (close[i] - past[i]) * per_close[i]


@kernel
def stochastic(memory: Floats, at: int, tape: Floats, out: Floats32, n: int) -> None:
    """100 · (close - lowest low) / (highest high - lowest low) of n bars; 50 where they are equal."""
    count = len(out)
    close, low, fall = now(tape, on.CLOSE, count), now(tape, on.LOW, count), now(tape, on.WORK, count)
    for i in range(count):
        fall[i] = -low[i]
    top = rolling_max(memory, at, n, now(tape, on.HIGH, count), tape[on.WORK + 1 :])
    bottom = rolling_max(memory, at + window_cells(n), n, fall, tape[on.WORK + 3 :])
    for i in range(count):
        width = top[i] + bottom[i]
        out[i] = 100.0 * (close[i] + bottom[i]) / width if width > 0.0 else 50.0


@kernel
def true_range(tape: Floats, count: int, result: Floats) -> None:
    """The bar's range, stretched to the close before it."""
    high, low, last = now(tape, on.HIGH, count), now(tape, on.LOW, count), before(tape, on.CLOSE, count)
    for i in range(count):
        result[i] = max(high[i], last[i]) - min(low[i], last[i])


@kernel
def average_range(memory: Floats, at: int, tape: Floats, out: Floats32, n: int) -> None:
    """Wilder's average of the true range, over the close."""
    count = len(out)
    per_close, ranges = now(tape, on.PER_CLOSE, count), now(tape, on.WORK, count)
    true_range(tape, count, ranges)
    average = exponential(memory, at, n, 1.0 / n, ranges, 1.0, tape[on.WORK + 1 :])
    for i in range(count):
        out[i] = average[i] * per_close[i]


@kernel
def direction(memory: Floats, at: int, tape: Floats, adx: Floats32, plus: Floats32, minus: Floats32, n: int) -> None:
    """Wilder's ADX, +DI and -DI in 0..100; 0 where nothing has moved."""
    count = len(adx)
    high, low = now(tape, on.HIGH, count), now(tape, on.LOW, count)
    last_high, last_low = before(tape, on.HIGH, count), before(tape, on.LOW, count)
    ranges, rises, falls = now(tape, on.WORK, count), now(tape, on.WORK + 1, count), now(tape, on.WORK + 2, count)
    index, spare = now(tape, on.WORK, count), tape[on.WORK + 3 :]
    true_range(tape, count, ranges)
    for i in range(count):
        up, down = high[i] - last_high[i], last_low[i] - low[i]
        rises[i] = up if up > down and up > 0.0 else 0.0
    for i in range(count):
        up, down = high[i] - last_high[i], last_low[i] - low[i]
        falls[i] = down if down > up and down > 0.0 else 0.0
    kept = 1.0 - 1.0 / n
    rise = seeded(memory, at, n - 1.0, 1.0, 1.0, kept, rises, 1.0, spare)
    fall = seeded(memory, at + EXPONENTIAL_CELLS, n - 1.0, 1.0, 1.0, kept, falls, 1.0, tape[on.WORK + 5 :])
    span = seeded(memory, at + 2 * EXPONENTIAL_CELLS, n - 1.0, 1.0, 1.0, kept, ranges, 1.0, tape[on.WORK + 7 :])
    for i in range(count):
        both = rise[i] + fall[i]
        index[i] = 100.0 * abs(rise[i] - fall[i]) / both if both > 0.0 else 0.0
    for i in range(count):
        plus[i] = 100.0 * rise[i] / span[i] if span[i] > 0.0 else 0.0
    for i in range(count):
        minus[i] = 100.0 * fall[i] / span[i] if span[i] > 0.0 else 0.0
    average = exponential(memory, at + 3 * EXPONENTIAL_CELLS, n, 1.0 / n, index, float(n), spare)
    for i in range(count):
        adx[i] = average[i]


@kernel
def update(plan: Integers, memory: Floats, tape: Floats, out: Floats32, start: int, count: int) -> None:
    """`out[:, start:start + count]` (F, N) holds the columns of every family of `plan`, whose rows Layout describes."""
    for row in range(len(plan)):
        family, at, column, n = plan[row, 0], plan[row, 1], plan[row, 2], plan[row, 3]
        first = out[column, start : start + count]
        if family == STRENGTH:
            relative_strength(memory, at, tape, first, n)
        elif family == CONVERGENCE:
            second = out[column + 1, start : start + count]
            third = out[column + 2, start : start + count]
            convergence(memory, at, tape, first, second, third, n, plan[row, 4], plan[row, 5])
        elif family == MOMENTUM:
            momentum(memory, at, tape, first, n)
        elif family == STOCHASTIC:
            stochastic(memory, at, tape, first, n)
        elif family == TRUE_RANGE:
            average_range(memory, at, tape, first, n)
        elif family == DIRECTION:
            second = out[column + 1, start : start + count]
            third = out[column + 2, start : start + count]
            direction(memory, at, tape, first, second, third, n)


def families(
    *,
    rsi_windows: Sequence[int],
    macd_windows: Sequence[int],
    momentum_windows: Sequence[int],
    stochastic_window: int,
    trend_window: int,
) -> tuple[Family, ...]:
    """The catalogue's entries on momentum and trend. Raises ValueError on a parameter that is not allowed."""
    return (
        *_strength(windows("rsi_windows", rsi_windows)),
        _convergence(windows("macd_windows", macd_windows)),
        *_momentum(windows("momentum_windows", momentum_windows)),
        _stochastic(window("stochastic_window", stochastic_window)),
        *_trend(window("trend_window", trend_window)),
    )


def _strength(lengths: tuple[int, ...]) -> tuple[Family, ...]:
    meaning = "TA-Lib's RSI of {} bars, 0..100; 50 where nothing has moved (Wilder 1978)"
    return tuple(
        Family(STRENGTH, (n,), (Column(f"rsi_{n}", meaning.format(n), n),), 2 * EXPONENTIAL_CELLS) for n in lengths
    )


def _convergence(lengths: tuple[int, ...]) -> Family:
    if len(lengths) != 3 or lengths[0] >= lengths[1]:
        raise ValueError(
            f"features.macd_windows: got {list(lengths)}; allowed is [fast, slow, signal], fast below slow"
        )
    fast, slow, signal = lengths
    defined = slow + signal - 2
    columns = (
        Column("macd", f"(EMA {fast} - EMA {slow}) / close, TA-Lib's seeds", slow - 1),
        Column("macd_signal", f"EMA {signal} of the undivided macd, / close", defined),
        Column("macd_hist", "macd - macd_signal", defined),
    )
    return Family(CONVERGENCE, lengths, columns, 3 * EXPONENTIAL_CELLS)


def _momentum(lengths: tuple[int, ...]) -> tuple[Family, ...]:
    meaning = "TA-Lib's MOM, close - close {} bars ago, / close"
    return tuple(
        Family(MOMENTUM, (n,), (Column(f"momentum_{n}", meaning.format(n), n),), lag_cells(n)) for n in lengths
    )


def _stochastic(n: int) -> Family:
    meaning = f"TA-Lib's STOCHF %K of {n} bars, 0..100; 50 where highest high = lowest low (Lane)"
    return Family(STOCHASTIC, (n,), (Column(f"stoch_k_{n}", meaning, n - 1),), 2 * window_cells(n))


def _trend(n: int) -> tuple[Family, ...]:
    columns = (
        Column(f"adx_{n}", f"TA-Lib's ADX of {n} bars, 0..100; 0 while nothing has moved (Wilder 1978)", 2 * n - 1),
        Column("plus_di", f"TA-Lib's PLUS_DI of {n} bars, 0..100; 0 while nothing has moved", n),
        Column("minus_di", f"TA-Lib's MINUS_DI of {n} bars, 0..100; 0 while nothing has moved", n),
    )
    return (
        Family(TRUE_RANGE, (n,), (Column(f"atr_{n}", f"TA-Lib's ATR of {n} bars / close", n),), EXPONENTIAL_CELLS),
        Family(DIRECTION, (n,), columns, 4 * EXPONENTIAL_CELLS),
    )
