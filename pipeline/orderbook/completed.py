"""The last completed orders: their lifetimes, the share of each that was filled, how often each was modified."""

from pipeline.features.rolling import compile_kernel
from pipeline.orderbook import state as cells
from pipeline.orderbook.state import COMPLETED_ORDERS, State


@compile_kernel
def record_completed(s: State, lifetime_ns: int, fill_ratio: float, modifications: int) -> None:
    """Record an order that has ended, in place of the oldest one where there are COMPLETED_ORDERS."""
    count = s.ints[cells.COMPLETED]
    slot, known = count % COMPLETED_ORDERS, min(count, COMPLETED_ORDERS)
    if count >= COMPLETED_ORDERS:
        remove_lifetime(s, s.ints[cells.LIFETIMES + slot], known)
        s.ints[cells.COMPLETED_MODIFICATIONS] -= s.ints[cells.MODIFICATIONS_DONE + slot]
        known -= 1
    insert_lifetime(s, lifetime_ns, known)
    s.ints[cells.LIFETIMES + slot] = lifetime_ns
    s.ints[cells.MODIFICATIONS_DONE + slot] = modifications
    s.ints[cells.COMPLETED_MODIFICATIONS] += modifications
    s.floats[cells.FILL_RATIOS + slot] = fill_ratio
    s.ints[cells.COMPLETED] = count + 1
    s.ints[cells.DONE] += 1
    s.floats[cells.MEAN_FILL_RATIO] = sum_fill_ratios(s, known + 1) / (known + 1)


@compile_kernel
def insert_lifetime(s: State, lifetime_ns: int, count: int) -> None:
    """Insert a lifetime into the `count` that are in order."""
    place = cells.SORTED_LIFETIMES + count
    while place > cells.SORTED_LIFETIMES and s.ints[place - 1] > lifetime_ns:
        s.ints[place] = s.ints[place - 1]
        place -= 1
    s.ints[place] = lifetime_ns


@compile_kernel
def remove_lifetime(s: State, lifetime_ns: int, count: int) -> None:
    """Remove one lifetime from the `count` that are in order."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if s.ints[cells.SORTED_LIFETIMES + middle] < lifetime_ns:
            low = middle + 1
        else:
            high = middle
    for place in range(cells.SORTED_LIFETIMES + low, cells.SORTED_LIFETIMES + count - 1):
        s.ints[place] = s.ints[place + 1]


@compile_kernel
def sum_fill_ratios(s: State, count: int) -> float:
    """Return the sum of the last fill ratios, in four chains that do not wait for one another."""
    first = second = third = fourth = 0.0
    stop = cells.FILL_RATIOS + count
    for i in range(cells.FILL_RATIOS, stop - 3, 4):
        first += s.floats[i]
        second += s.floats[i + 1]
        third += s.floats[i + 2]
        fourth += s.floats[i + 3]
    for i in range(stop - count % 4, stop):
        first += s.floats[i]
    return (first + second) + (third + fourth)


@compile_kernel
def find_median_lifetime_ns(s: State) -> float:
    """Return the median lifetime of the last completed orders, 0 where there is none."""
    count = min(s.ints[cells.COMPLETED], COMPLETED_ORDERS)
    if count == 0:
        return 0.0
    low = s.ints[cells.SORTED_LIFETIMES + (count - 1) // 2]
    return float(0.5 * (low + s.ints[cells.SORTED_LIFETIMES + count // 2]))
