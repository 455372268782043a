"""Averages, sums, maxima and moments of rolling windows: a chunk of values in, one result per value out.

Each primitive stores its state between two chunks in the cells of one flat array, `memory`, from `cell` on. One chunk
of a hundred bars and a hundred chunks of one bar thus do the same operations on the same numbers. `count_*_cells`
returns the number of cells that it takes; zeros are the state before the first value.

A window of n values is the sum of two windows of n / 2, and so on down (with one more value where n is odd): a handful
of additions per bar, in an order that depends on n alone. A value that has left a window leaves no trace: nothing is
ever subtracted, sums do not drift, and a window of zeros sums to exactly 0. Each step is a plain loop over the chunk,
which the processor vectorizes.

`scratch` is rows of working space. Each has the chunk at its end, and enough cells in front for the values before it.
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

CHAINS = 8  # independent chains in `sum_decayed`, a power of two; no definition depends on it
MOMENT_HEAD, MOMENT_ROW = 8, 7
EXPONENTIAL_CELLS = 2 + 2 * CHAINS + 3  # the seed's two, lags of 1, 2 and 4, the chains, and a position for each


njit: Any = numba.njit  # its stubs lack the options that omit the wrappers for Python and C, slow to compile
OPTIONS = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def compile_kernel(function: Function) -> Function:
    """Return `function` compiled for calls from the one entry point; without fastmath: all callers get the same bits.

    Arguments are positional, since numba has no keyword-only ones.
    """
    return cast(Function, njit(**OPTIONS)(function))


def inline_kernel(function: Function) -> Function:
    """Return a small kernel that is inlined, since a call would take longer than its work for one bar."""
    return cast(Function, njit(forceinline=True, **OPTIONS)(function))


def register_jitable(function: Function) -> Function:
    """Return `function` for calls from Python, which allocates memory, and from compiled code, which addresses it."""
    return numba.extending.register_jitable(function)


def _build_borrow(context: Any, array: Any) -> Any:
    """Return the same array without its reference counter, so that slices of it count no references.

    Counting them would take longer than all other work for a single bar. The caller must own the array.
    """

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = target.make_array(array)(target, builder, value=arguments[0])
        view.meminfo = view.meminfo.type(None)
        return view._getvalue()

    return array(array), generate


borrow = cast(Callable[[Any], Any], numba.extending.intrinsic(_build_borrow))


@register_jitable
def count_lag_cells(n: int) -> int:
    """Return the number of cells that `lag_values` takes."""
    return n + 1


@register_jitable
def count_doublings(n: int) -> int:
    """Return the largest k with 2^k <= n."""
    steps = 0
    while n >> (steps + 1):
        steps += 1
    return steps


@register_jitable
def count_window_cells(n: int) -> int:
    """Return the number of cells that `rolling_sum` or `rolling_max` takes."""
    cells = 0
    for bit in range(count_doublings(n)):
        cells += count_lag_cells(n >> (bit + 1)) + count_lag_cells(1) * ((n >> bit) & 1)
    return cells


@register_jitable
def count_moment_cells(n: int) -> int:
    """Return the number of cells that `rolling_moments` takes."""
    return MOMENT_HEAD + MOMENT_ROW * n


@inline_kernel
def view_end(row: Floats, count: int) -> Floats:
    """Return a view of the chunk, the last `count` values of the row."""
    return row[len(row) - count :]


@inline_kernel
def prepend_history(memory: Floats, cell: int, n: int, row: Floats, count: int) -> Floats:
    """Return a view (count,) of the values n before those of the chunk (0 where there is none).

    Those from before the chunk are written in front of it in the row. The chunk's last n are stored for the next one.
    """
    size, slot, known = len(row), cell + 1 + int(memory[cell]), min(count, n)
    past, new = row[size - count - n : size - n], row[size - known :]
    for i in range(known):
        past[i], memory[slot] = memory[slot], new[i]
        slot += 1 if slot < cell + n else 1 - n
    memory[cell] = slot - cell - 1
    return past


@inline_kernel
def copy_to_end(values: Floats, row: npt.NDArray[Any]) -> None:
    """Copy the values to the end of the row."""
    end = view_end(row, len(values))
    for i in range(len(values)):
        end[i] = values[i]


@compile_kernel
def lag_values(memory: Floats, cell: int, n: int, values: Floats, row: Floats) -> Floats:
    """Return the values n before `values` (0 where there is none); overwrites `row`."""
    copy_to_end(values, row)
    return prepend_history(memory, cell, n, row, len(values))


@compile_kernel
def smooth_from_seed(
    memory: Floats,
    cell: int,
    n: float,
    seed_weight: float,
    weight: float,
    decay: float,
    values: Floats,
    skipped: float,
    scratch: Floats,
) -> Floats:
    """Return decay · previous result + weight · value, started as seed_weight · the sum of n values; 0 before that.

    The segment's first `skipped` values are left out. `sum_decayed` gets the seed as its first value.
    """
    count, start = len(values), 0
    terms, seen, seed = view_end(scratch[0], count), memory[cell], memory[cell + 1]
    while start < count and seen < skipped + n:
        seen += 1.0
        seed += values[start] if seen > skipped else 0.0
        terms[start] = seed_weight * seed if seen == skipped + n else 0.0
        start += 1
    memory[cell], memory[cell + 1] = seen, seed
    later_terms, later_values = terms[start:], values[start:]
    for i in range(len(later_values)):
        later_terms[i] = weight * later_values[i]
    return sum_decayed(memory, cell + 2, decay, scratch, count)


@compile_kernel
def sum_decayed(memory: Floats, cell: int, decay: float, scratch: Floats, count: int) -> Floats:
    """Return Σ decay^k · (the value k before), for each value of the chunk in `scratch[0]`.

    result[i] = value[i] + decay · result[i - 1] would wait for the bar before. result[i - 8], with 8 values summed
    ahead, leaves eight independent chains.
    """
    one, other, width = scratch[0], scratch[1], 1
    while width < CHAINS:
        past = prepend_history(memory, cell, width, one, count)
        new, both = view_end(one, count), view_end(other, count)
        for i in range(count):
            both[i] = new[i] + decay * past[i]
        cell += count_lag_cells(width)
        one, other, width, decay = other, one, 2 * width, decay * decay
    result, chain, chains = view_end(one, count), int(memory[cell]), memory[cell + 1 : cell + 1 + CHAINS]
    for i in range(count):
        chains[chain] = result[i] = result[i] + decay * chains[chain]
        chain = (chain + 1) & (CHAINS - 1)
    memory[cell] = chain
    return result


@compile_kernel
def smooth_exponentially(
    memory: Floats, cell: int, n: int, weight: float, values: Floats, skipped: float, scratch: Floats
) -> Floats:
    """Return the exponential average of the values after the first `skipped`, seeded with the mean of n."""
    return smooth_from_seed(memory, cell, float(n), 1.0 / n, weight, 1.0 - weight, values, skipped, scratch)


@inline_kernel
def add_values(new: Floats, old: Floats, result: Floats) -> None:
    """Fill `result` with the sums of both."""
    for i in range(len(result)):
        result[i] = new[i] + old[i]


@inline_kernel
def take_larger(new: Floats, old: Floats, result: Floats) -> None:
    """Fill `result` with the larger of both."""
    for i in range(len(result)):
        result[i] = new[i] if new[i] > old[i] else old[i]


@compile_kernel
def rolling_sum(memory: Floats, cell: int, n: int, values: Floats, scratch: Floats) -> Floats:
    """Return the sum of the last n values (of all, while there are fewer)."""
    count, one, other = len(values), scratch[0], scratch[1]
    copy_to_end(values, one)
    for bit in range(count_doublings(n) - 1, -1, -1):
        for single in range(1 + ((n >> bit) & 1)):
            lag = 1 if single else n >> (bit + 1)
            new, past = values if single else view_end(one, count), prepend_history(memory, cell, lag, one, count)
            add_values(new, past, view_end(other, count))
            cell, one, other = cell + count_lag_cells(lag), other, one
    return view_end(one, count)


@compile_kernel
def rolling_max(memory: Floats, cell: int, n: int, values: Floats, scratch: Floats) -> Floats:
    """Return the largest of the last n values; undefined before there are n."""
    count, one, other = len(values), scratch[0], scratch[1]
    copy_to_end(values, one)
    for bit in range(count_doublings(n) - 1, -1, -1):
        for single in range(1 + ((n >> bit) & 1)):
            lag = 1 if single else n >> (bit + 1)
            new, past = values if single else view_end(one, count), prepend_history(memory, cell, lag, one, count)
            take_larger(new, past, view_end(other, count))
            cell, one, other = cell + count_lag_cells(lag), other, one
    return view_end(one, count)


@compile_kernel
def rolling_moments(
    memory: Floats, cell: int, n: int, x: Floats, y: Floats, scratch: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the mean of x and the central sums Σ(x-x̄)², Σ(y-ȳ)², Σ(x-x̄)(y-ȳ) of the last n pairs.

    They are undefined before there are n pairs. For two series, blocks of n pairs are faster than halving: a window is
    the suffix of the block before plus the prefix of the block that is filling (van Herk 1992). Differences are taken
    from an anchor in the window, the last pair of the block before. Equal values thus give exactly 0, and the terms
    that cancel are at most n times the result, whatever the level of x and y.
    """
    count, inverse_n = len(x), 1.0 / n
    all_x, all_y, all_xx = view_end(scratch[0], count), view_end(scratch[1], count), view_end(scratch[2], count)
    all_yy, all_xy, mean_x = view_end(scratch[3], count), view_end(scratch[4], count), view_end(scratch[5], count)
    position, anchor_x, anchor_y = int(memory[cell]), memory[cell + 1], memory[cell + 2]
    sum_x, sum_y, sum_xx = memory[cell + 3], memory[cell + 4], memory[cell + 5]
    sum_yy, sum_xy = memory[cell + 6], memory[cell + 7]
    rows = cell + MOMENT_HEAD
    block = memory[rows : rows + MOMENT_ROW * n]
    for i in range(count):
        row = MOMENT_ROW * position
        block[row], block[row + 1] = x[i], y[i]
        position += 1
        if position == n:
            store_suffix_sums(block)
            position, anchor_x, anchor_y, row = 0, x[i], y[i], -MOMENT_ROW
            sum_x = sum_y = sum_xx = sum_yy = sum_xy = 0.0
        else:
            dx, dy = x[i] - anchor_x, y[i] - anchor_y
            sum_x, sum_y = sum_x + dx, sum_y + dy
            sum_xx, sum_yy, sum_xy = sum_xx + dx * dx, sum_yy + dy * dy, sum_xy + dx * dy
        row += MOMENT_ROW
        mean_x[i] = anchor_x
        all_x[i], all_y[i] = sum_x + block[row + 2], sum_y + block[row + 3]
        all_xx[i], all_yy[i], all_xy[i] = sum_xx + block[row + 4], sum_yy + block[row + 5], sum_xy + block[row + 6]
    memory[cell], memory[cell + 1], memory[cell + 2] = position, anchor_x, anchor_y
    memory[cell + 3], memory[cell + 4], memory[cell + 5] = sum_x, sum_y, sum_xx
    memory[cell + 6], memory[cell + 7] = sum_yy, sum_xy
    for i in range(count):
        mean_x[i] += all_x[i] * inverse_n
    center_products(all_xx, all_x, all_x, inverse_n, 0.0)
    center_products(all_yy, all_y, all_y, inverse_n, 0.0)
    center_products(all_xy, all_x, all_y, inverse_n, -np.inf)
    return mean_x, all_xx, all_yy, all_xy


@inline_kernel
def center_products(products: Floats, sum_x: Floats, sum_y: Floats, inverse_n: float, minimum: float) -> None:
    """Subtract from the sums of products what the means contribute; no result is below `minimum`."""
    for i in range(len(products)):
        products[i] = max(products[i] - sum_x[i] * sum_y[i] * inverse_n, minimum)


@compile_kernel
def store_suffix_sums(block: Floats) -> None:
    """Store the full block's suffix sums beside its pairs, as differences from its last pair."""
    last_row = len(block) - MOMENT_ROW
    anchor_x, anchor_y = block[last_row], block[last_row + 1]
    sum_x = sum_y = sum_xx = sum_yy = sum_xy = 0.0
    for row in range(last_row, -1, -MOMENT_ROW):
        dx, dy = block[row] - anchor_x, block[row + 1] - anchor_y
        sum_x, sum_y = sum_x + dx, sum_y + dy
        sum_xx, sum_yy, sum_xy = sum_xx + dx * dx, sum_yy + dy * dy, sum_xy + dx * dy
        block[row + 2], block[row + 3] = sum_x, sum_y
        block[row + 4], block[row + 5], block[row + 6] = sum_xx, sum_yy, sum_xy
