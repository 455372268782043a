"""What every column sees of a stretch of bars: prices, their logarithms, the return, the signed volume.

The tape has one row for each quantity below and one place for each bar, after place 0, which holds the bar before the
stretch. The first cells of `memory` keep that bar, and the bar's number within its segment, between two stretches.
"""

import numpy as np

from pipeline.features.elementary import ln
from pipeline.features.rolling import Floats, kernel

FIELDS = ("open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_base", "open_time")
PRICES = 4  # the first fields are prices: above 0; the others are amounts, and a time in ms: 0 or more

OPEN, HIGH, LOW, CLOSE, VOLUME, QUOTE, TRADES, BUY, TIME = range(9)
LN_OPEN, LN_HIGH, LN_LOW, LN_CLOSE, RETURN, SIGNED = range(9, 15)
ROWS = 15
WORK = ROWS  # the first of the rows that any kernel may use within one call
WORK_ROWS = 6

AGE = 0  # bars of this segment before the stretch
BEFORE = 1  # the last bar's place on the tape, ROWS cells
HEAD_CELLS = BEFORE + ROWS


def blank(bars: int) -> Floats:
    """A tape for stretches of at most `bars` bars."""
    return np.zeros((ROWS + WORK_ROWS, bars + 1))


@kernel
def now(tape: Floats, row: int, count: int) -> Floats:
    """The quantity at each bar of the stretch."""
    return tape[row, 1 : count + 1]


@kernel
def before(tape: Floats, row: int, count: int) -> Floats:
    """The quantity one bar before each bar of the stretch."""
    return tape[row, :count]


@kernel
def observe(memory: Floats, tape: Floats, bars: Floats, start: int, count: int) -> None:
    """The tape holds `count` bars of `bars` (fields × N) from `start` on; a segment's first has itself before it."""
    for field in range(len(FIELDS)):
        for i in range(count):
            tape[field, i + 1] = bars[field, start + i]
    for price in range(PRICES):
        ln(now(tape, price, count), now(tape, LN_OPEN + price, count))
    for i in range(1, count + 1):
        tape[SIGNED, i] = 2.0 * tape[BUY, i] - tape[VOLUME, i]
    for row in range(ROWS):
        tape[row, 0] = memory[BEFORE + row] if memory[AGE] > 0.0 else tape[row, 1]
    if memory[AGE] == 0.0:
        tape[RETURN, 0] = 0.0
    for i in range(1, count + 1):
        tape[RETURN, i] = tape[LN_CLOSE, i] - tape[LN_CLOSE, i - 1]


@kernel
def remember(memory: Floats, tape: Floats, count: int) -> None:
    """The next stretch goes on after bar `count` of this one."""
    memory[AGE] += count
    for row in range(ROWS):
        memory[BEFORE + row] = tape[row, count]
