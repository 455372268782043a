"""Averages, sums, extremes and moments that move bar by bar: a stretch of values in, one result each out.

Each primitive keeps what it must remember between two stretches in the cells of one flat array, `memory`, from `at`
on, so that one stretch of a hundred bars and a hundred stretches of one bar do the same operations on the same
numbers. `*_cells` says how many cells it takes; zeros are the state before the first value.

Windows are cut into blocks of n values. When a block is full it is turned into suffix sums (or suffix maxima) once, and
a window is always the suffix of the block before plus the prefix of the block that is filling (van Herk 1992,
Gil & Werman 1993). Nothing is ever subtracted: sums do not drift, what has left a window leaves no trace, a window
of zeros sums to exactly 0, and the cost is O(1) a value on average.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., object])

EXPONENTIAL_CELLS, PAIR_CELLS = 2, 3
MOMENT_HEAD, MOMENT_ROW = 8, 7


def kernel(function: Function) -> Function:
    """`function`, to be compiled into the one entry point; without fastmath: all callers get the same bits.

    Its arguments are positional, since numba has no keyword-only ones.
    """
    return cast(Function, numba.njit(error_model="numpy")(function))


def sized(function: Function) -> Function:
    """`function`, which both Python (to lay out memory) and compiled code (to find its way in it) call."""
    return numba.extending.register_jitable(function)


@sized
def lag_cells(n: int) -> int:
    """Cells that `lagged` takes."""
    return n + 1


@sized
def window_cells(n: int) -> int:
    """Cells that `rolling_sum` and `rolling_max` take."""
    return n + 2


@sized
def moment_cells(n: int) -> int:
    """Cells that `rolling_moments` takes."""
    return MOMENT_HEAD + MOMENT_ROW * n


@kernel
def lagged(memory: Floats, at: int, n: int, values: Floats, result: Floats) -> None:
    """`result[i]` is the value n before `values[i]` (0 where there was none)."""
    place = int(memory[at])
    for i in range(len(values)):
        cell = at + 1 + place
        result[i] = memory[cell]
        memory[cell] = values[i]
        place += 1
        if place == n:
            place = 0
    memory[at] = place


@kernel
def exponential(memory: Floats, at: int, n: int, weight: float, values: Floats, result: Floats, first: int) -> None:
    """`result[i]` is the exponential average of `values[first:i + 1]` and all before, seeded with the mean of n."""
    seen, average = memory[at], memory[at + 1]
    for i in range(first, len(values)):
        if seen < n:
            seen += 1.0
            average += values[i] / n
        else:
            average += weight * (values[i] - average)
        result[i] = average
    memory[at], memory[at + 1] = seen, average


@kernel
def exponential_pair(memory: Floats, at: int, n: int, weight: float, x: Floats, y: Floats, first: int) -> None:
    """Both x and y are replaced by their exponential averages, in one go: two chains take the time of one."""
    seen, average_x, average_y = memory[at], memory[at + 1], memory[at + 2]
    for i in range(first, len(x)):
        if seen < n:
            seen += 1.0
            average_x, average_y = average_x + x[i] / n, average_y + y[i] / n
        else:
            average_x += weight * (x[i] - average_x)
            average_y += weight * (y[i] - average_y)
        x[i], y[i] = average_x, average_y
    memory[at], memory[at + 1], memory[at + 2] = seen, average_x, average_y


@kernel
def rolling_sum(memory: Floats, at: int, n: int, values: Floats, result: Floats) -> None:
    """`result[i]` is the sum of the last n values (of all, while there are fewer)."""
    place, prefix = int(memory[at]), memory[at + 1]
    ring = at + 2
    for i in range(len(values)):
        value = values[i]
        prefix += value
        memory[ring + place] = value
        place += 1
        if place < n:
            result[i] = memory[ring + place] + prefix
        else:
            result[i] = prefix
            suffix = 0.0
            for cell in range(ring + n - 1, ring - 1, -1):
                suffix += memory[cell]
                memory[cell] = suffix
            place, prefix = 0, 0.0
    memory[at], memory[at + 1] = place, prefix


@kernel
def rolling_max(memory: Floats, at: int, n: int, values: Floats, result: Floats) -> None:
    """`result[i]` is the largest of the last n values; meaningless before there are n."""
    place, prefix = int(memory[at]), memory[at + 1]
    ring = at + 2
    for i in range(len(values)):
        value = values[i]
        prefix = value if place == 0 or value > prefix else prefix
        memory[ring + place] = value
        place += 1
        if place < n:
            suffix = memory[ring + place]
            result[i] = suffix if suffix > prefix else prefix
        else:
            result[i] = prefix
            suffix = value
            for cell in range(ring + n - 1, ring - 1, -1):
                suffix = memory[cell] if memory[cell] > suffix else suffix
                memory[cell] = suffix
            place = 0
    memory[at], memory[at + 1] = place, prefix


@kernel
def rolling_moments(
    memory: Floats, at: int, n: int, x: Floats, y: Floats, mean: Floats, xx: Floats, yy: Floats, xy: Floats
) -> None:
    """The mean of x and the central sums Σ(x-x̄)², Σ(y-ȳ)², Σ(x-x̄)(y-ȳ) of the last n pairs; meaningless before n.

    Differences are taken from an anchor that lies in the window (the last pair of the block before): equal values give
    exactly 0, and what cancels is at most n times the result, whatever the level of x and y.
    """
    place = int(memory[at])
    anchor_x, anchor_y = memory[at + 1], memory[at + 2]
    sum_x, sum_y = memory[at + 3], memory[at + 4]
    sum_xx, sum_yy, sum_xy = memory[at + 5], memory[at + 6], memory[at + 7]
    rows = at + MOMENT_HEAD
    for i in range(len(x)):
        row = rows + MOMENT_ROW * place
        memory[row], memory[row + 1] = x[i], y[i]
        place += 1
        if place == n:
            _anchor(memory, rows, n)
            place, anchor_x, anchor_y, row = 0, x[i], y[i], rows
            sum_x = sum_y = sum_xx = sum_yy = sum_xy = 0.0
        else:
            dx, dy = x[i] - anchor_x, y[i] - anchor_y
            sum_x, sum_y = sum_x + dx, sum_y + dy
            sum_xx, sum_yy, sum_xy = sum_xx + dx * dx, sum_yy + dy * dy, sum_xy + dx * dy
            row += MOMENT_ROW
        mean_dx = (sum_x + memory[row + 2]) / n
        all_y = sum_y + memory[row + 3]
        mean[i] = anchor_x + mean_dx
        xx[i] = max(sum_xx + memory[row + 4] - mean_dx * mean_dx * n, 0.0)
        yy[i] = max(sum_yy + memory[row + 5] - all_y * all_y / n, 0.0)
        xy[i] = sum_xy + memory[row + 6] - mean_dx * all_y
    memory[at], memory[at + 1], memory[at + 2] = place, anchor_x, anchor_y
    memory[at + 3], memory[at + 4] = sum_x, sum_y
    memory[at + 5], memory[at + 6], memory[at + 7] = sum_xx, sum_yy, sum_xy


@kernel
def _anchor(memory: Floats, rows: int, n: int) -> None:
    """The full block's suffix sums stand beside its pairs, as differences from its last pair."""
    last = rows + MOMENT_ROW * (n - 1)
    anchor_x, anchor_y = memory[last], memory[last + 1]
    sum_x = sum_y = sum_xx = sum_yy = sum_xy = 0.0
    for row in range(last, rows - 1, -MOMENT_ROW):
        dx, dy = memory[row] - anchor_x, memory[row + 1] - anchor_y
        sum_x, sum_y = sum_x + dx, sum_y + dy
        sum_xx, sum_yy, sum_xy = sum_xx + dx * dx, sum_yy + dy * dy, sum_xy + dx * dy
        memory[row + 2], memory[row + 3] = sum_x, sum_y
        memory[row + 4], memory[row + 5], memory[row + 6] = sum_xx, sum_yy, sum_xy
