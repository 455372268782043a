"""Averages, sums, extremes and moments that move bar by bar: a stretch of values in, one result each out.

Each primitive keeps what it must remember between two stretches in the cells of one flat array, `memory`, from `at`
on, so that one stretch of a hundred bars and a hundred stretches of one bar do the same operations on the same
numbers. `*_cells` says how many cells it takes; zeros are the state before the first value.

A window of n values is put together from two of n / 2, and so on down (with one more value where n is odd): a handful
of additions a bar, always the same tree of them. What has left a window leaves no trace, nothing is ever subtracted,
sums do not drift, a window of zeros sums to exactly 0; and each step is a plain loop over the stretch, which the
processor takes several bars at once.

`spare` is rows of scratch, each with the stretch at its end and room in front of it for the values before the stretch.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., object])

STRIDE = 8  # bars between two links of the chains in `decayed`, a power of two; no definition depends on it
MOMENT_HEAD, MOMENT_ROW = 8, 7
EXPONENTIAL_CELLS = 2 + 2 * STRIDE + 3  # the seed's two, lags of 1, 2 and 4, the chains, and a place for each


njit: Any = numba.njit  # its stubs lack the options that leave out the ways in from Python and C, slow to compile
WITHIN = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def kernel(function: Function) -> Function:
    """`function`, to be compiled into the one entry point; without fastmath: all callers get the same bits.

    Its arguments are positional, since numba has no keyword-only ones.
    """
    return cast(Function, njit(**WITHIN)(function))


def inlined(function: Function) -> Function:
    """A small kernel that is set into its callers, where a call would take longer than what it does for one bar."""
    return cast(Function, njit(forceinline=True, **WITHIN)(function))


def sized(function: Function) -> Function:
    """`function`, which both Python (to lay out memory) and compiled code (to find its way in it) call."""
    return numba.extending.register_jitable(function)


def _borrowed(context: Any, array: Any) -> Any:
    """The same array as one that its caller owns: cutting rows and stretches out of it then counts no references.

    Counting them would take longer than all else that is done for a single bar.
    """

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = target.make_array(array)(target, builder, value=arguments[0])
        view.meminfo = view.meminfo.type(None)
        return view._getvalue()

    return array(array), generate


borrowed = cast(Callable[[Any], Any], numba.extending.intrinsic(_borrowed))


@sized
def lag_cells(n: int) -> int:
    """Cells that `lagged` takes."""
    return n + 1


@sized
def doublings(n: int) -> int:
    """How often 1 is doubled on the way to n."""
    steps = 0
    while n >> (steps + 1):
        steps += 1
    return steps


@sized
def window_cells(n: int) -> int:
    """Cells that `rolling_sum` and `rolling_max` take."""
    cells = 0
    for bit in range(doublings(n)):
        cells += lag_cells(n >> (bit + 1)) + lag_cells(1) * ((n >> bit) & 1)
    return cells


@sized
def moment_cells(n: int) -> int:
    """Cells that `rolling_moments` takes."""
    return MOMENT_HEAD + MOMENT_ROW * n


@inlined
def last(row: Floats, count: int) -> Floats:
    """The stretch at the end of the row."""
    return row[len(row) - count :]


@inlined
def recall(memory: Floats, at: int, n: int, row: Floats, count: int) -> Floats:
    """The values n before each of the stretch (0 where there was none); its own last n are kept for the next.

    They stand in the row, in front of the stretch as far as they are from before it.
    """
    size, cell, known = len(row), at + 1 + int(memory[at]), min(count, n)
    past, new = row[size - count - n : size - n], row[size - known :]
    for i in range(known):
        past[i], memory[cell] = memory[cell], new[i]
        cell += 1 if cell < at + n else 1 - n
    memory[at] = cell - at - 1
    return past


@inlined
def copied(values: Floats, row: npt.NDArray[Any]) -> None:
    """The values stand at the end of the row."""
    end = last(row, len(values))
    for i in range(len(values)):
        end[i] = values[i]


@kernel
def lagged(memory: Floats, at: int, n: int, values: Floats, row: Floats) -> Floats:
    """The values n before `values`, in place of `row` (0 where there was none)."""
    copied(values, row)
    return recall(memory, at, n, row, len(values))


@kernel
def seeded(
    memory: Floats,
    at: int,
    n: float,
    share: float,
    weight: float,
    decay: float,
    values: Floats,
    skipped: float,
    spare: Floats,
) -> Floats:
    """decay · the result before + weight · value, once it has started as share · the sum of n values; 0 before.

    The segment's first `skipped` values are not among them. The seed is given to `decayed` as its first value.
    """
    count, start = len(values), 0
    given, seen, seed = last(spare[0], count), memory[at], memory[at + 1]
    while start < count and seen < skipped + n:
        seen += 1.0
        seed += values[start] if seen > skipped else 0.0
        given[start] = share * seed if seen == skipped + n else 0.0
        start += 1
    memory[at], memory[at + 1] = seen, seed
    after, later = given[start:], values[start:]
    for i in range(len(later)):
        after[i] = weight * later[i]
    return decayed(memory, at + 2, decay, spare, count)


@kernel
def decayed(memory: Floats, at: int, decay: float, spare: Floats, count: int) -> Floats:
    """Σ decay^k · (the value k before), for each value of the stretch in `spare[0]`.

    result[i] = value[i] + decay · result[i - 1] would wait for the bar before; result[i - 8], with 8 values summed
    ahead, leaves eight chains to run side by side.
    """
    one, other, width = spare[0], spare[1], 1
    while width < STRIDE:
        past, new, both = recall(memory, at, width, one, count), last(one, count), last(other, count)
        for i in range(count):
            both[i] = new[i] + decay * past[i]
        at += lag_cells(width)
        one, other, width, decay = other, one, 2 * width, decay * decay
    result, place, chains = last(one, count), int(memory[at]), memory[at + 1 : at + 1 + STRIDE]
    for i in range(count):
        chains[place] = result[i] = result[i] + decay * chains[place]
        place = (place + 1) & (STRIDE - 1)
    memory[at] = place
    return result


@kernel
def exponential(
    memory: Floats, at: int, n: int, weight: float, values: Floats, skipped: float, spare: Floats
) -> Floats:
    """The exponential average of the values after the first `skipped`, seeded with the mean of n."""
    return seeded(memory, at, float(n), 1.0 / n, weight, 1.0 - weight, values, skipped, spare)


@inlined
def join_sums(new: Floats, old: Floats, result: Floats) -> None:
    """The sums of both."""
    for i in range(len(result)):
        result[i] = new[i] + old[i]


@inlined
def join_maxima(new: Floats, old: Floats, result: Floats) -> None:
    """The larger of both."""
    for i in range(len(result)):
        result[i] = new[i] if new[i] > old[i] else old[i]


@kernel
def rolling_sum(memory: Floats, at: int, n: int, values: Floats, spare: Floats) -> Floats:
    """The sum of the last n values (of all, while there are fewer)."""
    count, one, other = len(values), spare[0], spare[1]
    copied(values, one)
    for bit in range(doublings(n) - 1, -1, -1):
        for single in range(1 + ((n >> bit) & 1)):
            lag = 1 if single else n >> (bit + 1)
            new, past = values if single else last(one, count), recall(memory, at, lag, one, count)
            join_sums(new, past, last(other, count))
            at, one, other = at + lag_cells(lag), other, one
    return last(one, count)


@kernel
def rolling_max(memory: Floats, at: int, n: int, values: Floats, spare: Floats) -> Floats:
    """The largest of the last n values; meaningless before there are n."""
    count, one, other = len(values), spare[0], spare[1]
    copied(values, one)
    for bit in range(doublings(n) - 1, -1, -1):
        for single in range(1 + ((n >> bit) & 1)):
            lag = 1 if single else n >> (bit + 1)
            new, past = values if single else last(one, count), recall(memory, at, lag, one, count)
            join_maxima(new, past, last(other, count))
            at, one, other = at + lag_cells(lag), other, one
    return last(one, count)


@kernel
def rolling_moments(
    memory: Floats, at: int, n: int, x: Floats, y: Floats, spare: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """The mean of x and the central sums Σ(x-x̄)², Σ(y-ȳ)², Σ(x-x̄)(y-ȳ) of the last n pairs; meaningless before n.

    For two series a walk over blocks of n pairs is faster than halving: a window is the suffix of the block before plus
    the prefix of the block that is filling (van Herk 1992). Differences are taken from an anchor that lies in the
    window, the last pair of the block before: equal values give exactly 0, and what cancels is at most n times the
    result, whatever the level of x and y.
    """
    count, share = len(x), 1.0 / n
    all_x, all_y, all_xx = last(spare[0], count), last(spare[1], count), last(spare[2], count)
    all_yy, all_xy, mean_x = last(spare[3], count), last(spare[4], count), last(spare[5], count)
    place, anchor_x, anchor_y = int(memory[at]), memory[at + 1], memory[at + 2]
    sum_x, sum_y, sum_xx = memory[at + 3], memory[at + 4], memory[at + 5]
    sum_yy, sum_xy = memory[at + 6], memory[at + 7]
    rows = at + MOMENT_HEAD
    block = memory[rows : rows + MOMENT_ROW * n]
    for i in range(count):
        row = MOMENT_ROW * place
        block[row], block[row + 1] = x[i], y[i]
        place += 1
        if place == n:
            anchored(block)
            place, anchor_x, anchor_y, row = 0, x[i], y[i], -MOMENT_ROW
            sum_x = sum_y = sum_xx = sum_yy = sum_xy = 0.0
        else:
            dx, dy = x[i] - anchor_x, y[i] - anchor_y
            sum_x, sum_y = sum_x + dx, sum_y + dy
            sum_xx, sum_yy, sum_xy = sum_xx + dx * dx, sum_yy + dy * dy, sum_xy + dx * dy
        row += MOMENT_ROW
        mean_x[i] = anchor_x
        all_x[i], all_y[i] = sum_x + block[row + 2], sum_y + block[row + 3]
        all_xx[i], all_yy[i], all_xy[i] = sum_xx + block[row + 4], sum_yy + block[row + 5], sum_xy + block[row + 6]
    memory[at], memory[at + 1], memory[at + 2] = place, anchor_x, anchor_y
    memory[at + 3], memory[at + 4], memory[at + 5] = sum_x, sum_y, sum_xx
    memory[at + 6], memory[at + 7] = sum_yy, sum_xy
    for i in range(count):
        mean_x[i] += all_x[i] * share
    centred(all_xx, all_x, all_x, share, 0.0)
    centred(all_yy, all_y, all_y, share, 0.0)
    centred(all_xy, all_x, all_y, share, -np.inf)
    return mean_x, all_xx, all_yy, all_xy


@inlined
def centred(products: Floats, sum_x: Floats, sum_y: Floats, share: float, least: float) -> None:
    """The sums of products, less what the means contribute, and at least `least`."""
    for i in range(len(products)):
        products[i] = max(products[i] - sum_x[i] * sum_y[i] * share, least)


@kernel
def anchored(block: Floats) -> None:
    """The full block's suffix sums stand beside its pairs, as differences from its last pair."""
    last_row = len(block) - MOMENT_ROW
    anchor_x, anchor_y = block[last_row], block[last_row + 1]
    sum_x = sum_y = sum_xx = sum_yy = sum_xy = 0.0
    for row in range(last_row, -1, -MOMENT_ROW):
        dx, dy = block[row] - anchor_x, block[row + 1] - anchor_y
        sum_x, sum_y = sum_x + dx, sum_y + dy
        sum_xx, sum_yy, sum_xy = sum_xx + dx * dx, sum_yy + dy * dy, sum_xy + dx * dy
        block[row + 2], block[row + 3] = sum_x, sum_y
        block[row + 4], block[row + 5], block[row + 6] = sum_xx, sum_yy, sum_xy
