"""What every column sees of a stretch of bars: prices, their logarithms, the return, the signed volume.

The tape has one row for each quantity below. The stretch stands at the end of the rows, so that what is before it can
stand in front: there the tape has the bar before, and kernels put older values in their scratch rows. The first cells
of `memory` keep the last bar, and its number within its segment, between two stretches.
"""

import numpy as np

from pipeline.features.elementary import ln
from pipeline.features.rolling import Floats, inlined, kernel

FIELDS = ("open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_base", "open_time")
PRICES = 4  # the first fields are prices: above 0; the others are amounts, and a time in ms: 0 or more

OPEN, HIGH, LOW, CLOSE, VOLUME, QUOTE, TRADES, BUY, TIME = range(9)
LN_OPEN, LN_HIGH, LN_LOW, LN_CLOSE, RETURN, SIGNED, PER_CLOSE = range(9, 16)
ROWS = 16
WORK = ROWS  # the first of the rows that any kernel may use within one call
WORK_ROWS = 11

AGE = 0  # bars of this segment before the stretch
BEFORE = 1  # the last bar's place on the tape, ROWS cells
HEAD_CELLS = BEFORE + ROWS


def blank(bars: int, past: int) -> Floats:
    """A tape for stretches of at most `bars` bars, and kernels that look back on at most `past` more."""
    return np.zeros((ROWS + WORK_ROWS, past + bars))


@inlined
def now(tape: Floats, row: int, count: int) -> Floats:
    """The quantity at each bar of the stretch."""
    return tape[row, tape.shape[1] - count :]


@inlined
def before(tape: Floats, row: int, count: int) -> Floats:
    """The quantity one bar before each bar of the stretch."""
    return tape[row, tape.shape[1] - count - 1 : tape.shape[1] - 1]


@kernel
def observe(memory: Floats, tape: Floats, bars: Floats, start: int, count: int) -> None:
    """The tape holds `count` bars of `bars` (fields × N) from `start` on; a segment's first has itself before it."""
    for field in range(len(FIELDS)):
        given, held = bars[field, start : start + count], now(tape, field, count)
        for i in range(count):
            held[i] = given[i]
    for price in range(PRICES):
        ln(now(tape, price, count), now(tape, LN_OPEN + price, count))
    close, inverse = now(tape, CLOSE, count), now(tape, PER_CLOSE, count)
    for i in range(count):
        inverse[i] = 1.0 / close[i]
    buy, volume, signed = now(tape, BUY, count), now(tape, VOLUME, count), now(tape, SIGNED, count)
    for i in range(count):
        signed[i] = 2.0 * buy[i] - volume[i]
    edge = tape.shape[1] - count - 1
    for row in range(ROWS):
        tape[row, edge] = memory[BEFORE + row] if memory[AGE] > 0.0 else tape[row, edge + 1]
    if memory[AGE] == 0.0:
        tape[RETURN, edge] = 0.0
    level, last_level = now(tape, LN_CLOSE, count), before(tape, LN_CLOSE, count)
    returns = now(tape, RETURN, count)
    for i in range(count):
        returns[i] = level[i] - last_level[i]


@kernel
def remember(memory: Floats, tape: Floats, count: int) -> None:
    """The next stretch goes on after the `count` bars of this one."""
    memory[AGE] += count
    for row in range(ROWS):
        memory[BEFORE + row] = tape[row, tape.shape[1] - 1]
