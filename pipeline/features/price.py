"""Columns on the price's level and spread: returns, volatility, distance from averages, bands.

Each kernel reads a stretch of the tape and writes its columns for it. Where TA-Lib has the indicator, definition and
seed are TA-Lib's (an exponential average starts as a simple one), made free of the price's unit.
"""

import math
from collections.abc import Sequence

from pipeline.features import tape as on
from pipeline.features.catalogue import Column, Family, window, windows
from pipeline.features.elementary import ln
from pipeline.features.rolling import (
    EXPONENTIAL_CELLS,
    Floats,
    Floats32,
    Integers,
    copied,
    exponential,
    kernel,
    lag_cells,
    lagged,
    moment_cells,
    rolling_moments,
    rolling_sum,
    window_cells,
)
from pipeline.features.tape import before, now

RETURN, REALIZED, PARKINSON, GARMAN_KLASS, YANG_ZHANG, SIMPLE, EXPONENTIAL, BANDS = range(8)


@kernel
def log_return(memory: Floats, at: int, tape: Floats, out: Floats32, n: int) -> None:
    """ln(close / close n bars ago)."""
    count = len(out)
    close = now(tape, on.LN_CLOSE, count)
    past = lagged(memory, at, n, close, tape[on.WORK])
    for i in range(count):
        out[i] = close[i] - past[i]


@kernel
def root_of_sum(memory: Floats, at: int, tape: Floats, out: Floats32, n: int, scale: float) -> None:
    """√(scale · the sum of n values of the first work row), of which rounding may make a zero negative."""
    count = len(out)
    total = rolling_sum(memory, at, n, now(tape, on.WORK, count), tape[on.WORK + 1 :])
    for i in range(count):
        out[i] = math.sqrt(max(total[i], 0.0) * scale)


@kernel
def realized(memory: Floats, at: int, tape: Floats, out: Floats32, n: int) -> None:
    """√(Σ r² / n) over n one-bar log returns."""
    count = len(out)
    returns, squares = now(tape, on.RETURN, count), now(tape, on.WORK, count)
    for i in range(count):
        squares[i] = returns[i] * returns[i]
    root_of_sum(memory, at, tape, out, n, 1.0 / n)


@kernel
def parkinson(memory: Floats, at: int, tape: Floats, out: Floats32, n: int) -> None:
    """√(Σ ln²(high/low) / (4 n ln 2))."""
    count = len(out)
    high, low, squares = now(tape, on.LN_HIGH, count), now(tape, on.LN_LOW, count), now(tape, on.WORK, count)
    for i in range(count):
        squares[i] = (high[i] - low[i]) * (high[i] - low[i])
    root_of_sum(memory, at, tape, out, n, 1.0 / (4.0 * n * math.log(2.0)))


@kernel
def garman_klass(memory: Floats, at: int, tape: Floats, out: Floats32, n: int) -> None:
    """√ of the mean of ½ ln²(high/low) - (2 ln 2 - 1) ln²(close/open), which valid bars keep from being negative."""
    count = len(out)
    high, low, terms = now(tape, on.LN_HIGH, count), now(tape, on.LN_LOW, count), now(tape, on.WORK, count)
    start, close = now(tape, on.LN_OPEN, count), now(tape, on.LN_CLOSE, count)
    body = 2.0 * math.log(2.0) - 1.0
    for i in range(count):
        spread, move = high[i] - low[i], close[i] - start[i]
        terms[i] = 0.5 * spread * spread - body * move * move
    root_of_sum(memory, at, tape, out, n, 1.0 / n)


@kernel
def yang_zhang(memory: Floats, at: int, tape: Floats, out: Floats32, n: int) -> None:
    """√(σ²_gap + k σ²_body + (1 - k) σ²_RS): gap ln(open / last close), body ln(close / open), RS Rogers–Satchell."""
    count = len(out)
    high, low = now(tape, on.LN_HIGH, count), now(tape, on.LN_LOW, count)
    start, close, last = now(tape, on.LN_OPEN, count), now(tape, on.LN_CLOSE, count), before(tape, on.LN_CLOSE, count)
    gap, body, inside = now(tape, on.WORK, count), now(tape, on.WORK + 1, count), now(tape, on.WORK + 2, count)
    for i in range(count):
        gap[i] = start[i] - last[i]
    for i in range(count):
        body[i] = close[i] - start[i]
    for i in range(count):
        inside[i] = (high[i] - close[i]) * (high[i] - start[i]) + (low[i] - close[i]) * (low[i] - start[i])
    _, gaps, bodies, _ = rolling_moments(memory, at, n, gap, body, tape[on.WORK + 3 :])
    insides = rolling_sum(memory, at + moment_cells(n), n, inside, tape[on.WORK + 9 :])
    k = 0.34 / (1.34 + (n + 1.0) / (n - 1.0))
    gap_share, body_share, inside_share = 1.0 / (n - 1.0), k / (n - 1.0), (1.0 - k) / n
    for i in range(count):
        gaps[i] = gap_share * gaps[i] + body_share * bodies[i] + inside_share * max(insides[i], 0.0)
    for i in range(count):
        out[i] = math.sqrt(gaps[i])


@kernel
def distance(tape: Floats, average: Floats, scale: float, out: Floats32) -> None:
    """ln(close / (average · scale)), which takes the place of the average."""
    count = len(out)
    close, ratio = now(tape, on.CLOSE, count), now(tape, on.WORK, count)
    for i in range(count):
        ratio[i] = close[i] / (average[i] * scale)
    ln(ratio, average)
    copied(average, out)


@kernel
def simple_distance(memory: Floats, at: int, tape: Floats, out: Floats32, n: int) -> None:
    """ln(close / simple average of n closes)."""
    total = rolling_sum(memory, at, n, now(tape, on.CLOSE, len(out)), tape[on.WORK + 1 :])
    distance(tape, total, 1.0 / n, out)


@kernel
def exponential_distance(memory: Floats, at: int, tape: Floats, out: Floats32, n: int) -> None:
    """ln(close / exponential average of the closes, weight 2 / (n + 1))."""
    close, spare = now(tape, on.CLOSE, len(out)), tape[on.WORK + 1 :]
    distance(tape, exponential(memory, at, n, 2.0 / (n + 1.0), close, 0.0, spare), 1.0, out)


@kernel
def bands(
    memory: Floats, at: int, tape: Floats, upper: Floats32, middle: Floats32, lower: Floats32, width: Floats32, n: int
) -> None:
    """Upper band, middle, lower band and width of the close's mean ± k population deviations over n bars."""
    count = len(upper)
    close, per_close, deviation = now(tape, on.CLOSE, count), now(tape, on.PER_CLOSE, count), now(tape, on.WORK, count)
    deviations, share = memory[at], 1.0 / n
    mean, squares, _, _ = rolling_moments(memory, at + 1, n, close, close, tape[on.WORK + 1 :])
    for i in range(count):
        deviation[i] = math.sqrt(squares[i] * share)
    for i in range(count):
        upper[i] = (mean[i] - close[i] + deviations * deviation[i]) * per_close[i]
    for i in range(count):
        middle[i] = (mean[i] - close[i]) / deviation[i] if deviation[i] > 0.0 else 0.0
    for i in range(count):
        lower[i] = (mean[i] - close[i] - deviations * deviation[i]) * per_close[i]
    for i in range(count):
        width[i] = 2.0 * deviations * deviation[i] / mean[i]


@kernel
def update(plan: Integers, memory: Floats, tape: Floats, out: Floats32, start: int, count: int) -> None:
    """`out[:, start:start + count]` (F, N) holds the columns of every family of `plan`, whose rows Layout describes."""
    for row in range(len(plan)):
        family, at, column, n = plan[row, 0], plan[row, 1], plan[row, 2], plan[row, 3]
        first = out[column, start : start + count]
        if family == RETURN:
            log_return(memory, at, tape, first, n)
        elif family == REALIZED:
            realized(memory, at, tape, first, n)
        elif family == PARKINSON:
            parkinson(memory, at, tape, first, n)
        elif family == GARMAN_KLASS:
            garman_klass(memory, at, tape, first, n)
        elif family == YANG_ZHANG:
            yang_zhang(memory, at, tape, first, n)
        elif family == SIMPLE:
            simple_distance(memory, at, tape, first, n)
        elif family == EXPONENTIAL:
            exponential_distance(memory, at, tape, first, n)
        elif family == BANDS:
            second = out[column + 1, start : start + count]
            third = out[column + 2, start : start + count]
            fourth = out[column + 3, start : start + count]
            bands(memory, at, tape, first, second, third, fourth, n)


def families(
    *,
    return_windows: Sequence[int],
    volatility_windows: Sequence[int],
    range_window: int,
    sma_windows: Sequence[int],
    ema_windows: Sequence[int],
    bollinger_window: int,
    bollinger_deviations: float,
) -> tuple[Family, ...]:
    """The catalogue's entries on the price's level and spread. Raises ValueError on a parameter that is not allowed."""
    return (
        *_returns(windows("return_windows", return_windows)),
        *_volatility(windows("volatility_windows", volatility_windows), window("range_window", range_window, least=2)),
        *_averages(windows("sma_windows", sma_windows, least=2), windows("ema_windows", ema_windows, least=2)),
        _bands(window("bollinger_window", bollinger_window, least=2), bollinger_deviations),
    )


def _returns(lengths: tuple[int, ...]) -> tuple[Family, ...]:
    meaning = "ln(close / close {} bars ago)"
    return tuple(Family(RETURN, (n,), (Column(f"return_{n}", meaning.format(n), n),), lag_cells(n)) for n in lengths)


def _volatility(lengths: tuple[int, ...], n: int) -> tuple[Family, ...]:
    realized_columns = (Column(f"realized_vol_{m}", f"√(Σ r² / {m}) over {m} log returns r", m) for m in lengths)
    high_low = f"√(Σ ln²(high / low) / (4 · {n} · ln 2)) over {n} bars (Parkinson 1980)"
    ohlc = f"√mean(½ ln²(high / low) - (2 ln 2 - 1) ln²(close / open)) over {n} bars (Garman & Klass 1980)"
    gaps = (
        f"√(σ²_gap + k σ²_body + (1 - k) σ²_RS) over {n} bars, gap = ln(open / last close), body = ln(close / open), "
        "RS = Rogers–Satchell, k = 0.34 / (1.34 + (n + 1) / (n - 1)) (Yang & Zhang 2000)"
    )
    return (
        *(
            Family(REALIZED, (m,), (column,), window_cells(m))
            for m, column in zip(lengths, realized_columns, strict=True)
        ),
        Family(PARKINSON, (n,), (Column(f"parkinson_vol_{n}", high_low, n - 1),), window_cells(n)),
        Family(GARMAN_KLASS, (n,), (Column(f"garman_klass_vol_{n}", ohlc, n - 1),), window_cells(n)),
        Family(YANG_ZHANG, (n,), (Column(f"yang_zhang_vol_{n}", gaps, n),), moment_cells(n) + window_cells(n)),
    )


def _averages(simple: tuple[int, ...], exponentials: tuple[int, ...]) -> tuple[Family, ...]:
    sma, ema = "ln(close / simple average of {} closes)", "ln(close / EMA {}), TA-Lib's seed"
    return (
        *(Family(SIMPLE, (n,), (Column(f"sma_{n}", sma.format(n), n - 1),), window_cells(n)) for n in simple),
        *(
            Family(EXPONENTIAL, (n,), (Column(f"ema_{n}", ema.format(n), n - 1),), EXPONENTIAL_CELLS)
            for n in exponentials
        ),
    )


def _bands(n: int, deviations: float) -> Family:
    if isinstance(deviations, bool) or not isinstance(deviations, int | float) or not 0.0 < deviations < math.inf:
        raise ValueError(f"features.bollinger_deviations: got {deviations!r}; allowed is a number above 0")
    columns = (
        Column("bb_upper", f"TA-Lib's upper band, {n} bars, {deviations} population deviations, / close - 1", n - 1),
        Column(
            "bb_middle", "(mean - close) / deviation: the middle band, seen from the close; 0 in a flat window", n - 1
        ),
        Column("bb_lower", "TA-Lib's lower band / close - 1", n - 1),
        Column("bb_width", "(upper band - lower band) / mean", n - 1),
    )
    return Family(BANDS, (n,), columns, 1 + moment_cells(n), (float(deviations),))
