"""A chunk of consecutive bars: the array of prices, logarithms, return and signed volume that all kernels read.

A chunk is an array (N_ROWS + SCRATCH_ROWS, lookback + bars), with one row per quantity below. The bars are at the end
of each row. The cell in front of them holds the bar before the chunk; kernels write older values into the front of
scratch rows. The first cells of `memory` hold the number of bars so far and the last bar, for the next chunk.
"""

import numpy as np

from pipeline.features.elementary import fill_log
from pipeline.features.rolling import Floats, compile_kernel, inline_kernel

FIELDS = ("open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_base", "open_time")
N_PRICES = 4  # the first fields are prices: above 0; the others are amounts, and a time in ms: 0 or more

OPEN, HIGH, LOW, CLOSE, VOLUME, QUOTE_VOLUME, TRADES, TAKER_BUY, OPEN_TIME = range(9)
LN_OPEN, LN_HIGH, LN_LOW, LN_CLOSE, RETURN, SIGNED_VOLUME, INVERSE_CLOSE = range(9, 16)
N_ROWS = 16
SCRATCH = N_ROWS  # the first of the rows that any kernel may overwrite within one call
SCRATCH_ROWS = 11

BARS_SEEN = 0  # the cell with the number of bars of this segment before the chunk
LAST_BAR = 1  # the first of the cells with the last bar, N_ROWS of them
HEAD_CELLS = LAST_BAR + N_ROWS


def allocate_chunk(bars: int, lookback_bars: int) -> Floats:
    """Return an array for chunks of at most `bars` bars and kernels that read at most `lookback_bars` before them."""
    return np.zeros((N_ROWS + SCRATCH_ROWS, lookback_bars + bars))


@inline_kernel
def view_current(chunk: Floats, row: int, count: int) -> Floats:
    """Return a view (count,) of the quantity at each bar of the chunk."""
    return chunk[row, chunk.shape[1] - count :]


@inline_kernel
def view_previous(chunk: Floats, row: int, count: int) -> Floats:
    """Return a view (count,) of the quantity one bar before each bar of the chunk."""
    return chunk[row, chunk.shape[1] - count - 1 : chunk.shape[1] - 1]


@compile_kernel
def fill_chunk(memory: Floats, chunk: Floats, bars: Floats, start: int, count: int) -> None:
    """Fill the chunk with `count` bars of `bars` (fields, N) from `start` on.

    The first bar of a segment counts as its own previous bar, so that its return is 0.
    """
    for field in range(len(FIELDS)):
        source, target = bars[field, start : start + count], view_current(chunk, field, count)
        for i in range(count):
            target[i] = source[i]
    for price in range(N_PRICES):
        fill_log(view_current(chunk, price, count), view_current(chunk, LN_OPEN + price, count))
    close, inverse = view_current(chunk, CLOSE, count), view_current(chunk, INVERSE_CLOSE, count)
    for i in range(count):
        inverse[i] = 1.0 / close[i]
    buy, volume = view_current(chunk, TAKER_BUY, count), view_current(chunk, VOLUME, count)
    signed = view_current(chunk, SIGNED_VOLUME, count)
    for i in range(count):
        signed[i] = 2.0 * buy[i] - volume[i]
    load_last_bar(memory, chunk, count)
    level, last_level = view_current(chunk, LN_CLOSE, count), view_previous(chunk, LN_CLOSE, count)
    returns = view_current(chunk, RETURN, count)
    for i in range(count):
        returns[i] = level[i] - last_level[i]


@compile_kernel
def load_last_bar(memory: Floats, chunk: Floats, count: int) -> None:
    """Put the last bar before the chunk in front of it, or the chunk's first bar where a segment starts."""
    edge = chunk.shape[1] - count - 1
    for row in range(N_ROWS):
        chunk[row, edge] = memory[LAST_BAR + row] if memory[BARS_SEEN] > 0.0 else chunk[row, edge + 1]
    if memory[BARS_SEEN] == 0.0:
        chunk[RETURN, edge] = 0.0


@compile_kernel
def store_last_bar(memory: Floats, chunk: Floats, count: int) -> None:
    """Store the chunk's last bar for the next chunk, and count the `count` bars of this one."""
    memory[BARS_SEEN] += count
    for row in range(N_ROWS):
        memory[LAST_BAR + row] = chunk[row, chunk.shape[1] - 1]
