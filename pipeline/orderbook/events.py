"""The last events: how many of each kind within a window, and the sizes of the medium window in ascending order.

Windows have events on orders alone (actions 1 to 5): auctions and halts are no events of theirs.
"""

from pipeline.features.rolling import Floats, compile_kernel, inline_kernel
from pipeline.orderbook import state as cells
from pipeline.orderbook.state import RING_FIELDS, State

BID_ADDS, ASK_ADDS, BID_CANCELS, ASK_CANCELS, BID_TRADES, ASK_TRADES = range(6)
TIME, SIDE, KIND = 0, 1, 2  # fields of an event of the ring; KIND is the first of six counts


@inline_kernel
def find_slot(s: State, number: int) -> int:
    """Return the first cell of the event of a number, of the last slow window; the segment's first has number 1."""
    return int(s.ints[cells.RING_AT] + RING_FIELDS * (number % s.ints[cells.RING]))


@inline_kernel
def count_events(s: State, kind: int, window: int) -> int:
    """Return how many of the last `window` events are of a kind."""
    last = s.ints[cells.WINDOW_EVENTS]
    first = last - min(window, last)
    return int(s.ints[find_slot(s, last) + KIND + kind] - s.ints[find_slot(s, first) + KIND + kind])


@inline_kernel
def find_size(s: State, number: int) -> int:
    """Return the cell of `floats` with the size of the event of a number."""
    return int(cells.FLOATS + 2 * s.ints[cells.MEDIUM] + number % s.ints[cells.RING])


@compile_kernel
def push_event(s: State, now: int, action: int, side: int, size: float) -> None:
    """Add an event to all windows; the oldest one leaves each that is full."""
    last, medium = s.ints[cells.WINDOW_EVENTS], s.ints[cells.MEDIUM]
    sizes = s.floats[cells.FLOATS : cells.FLOATS + medium]
    sides = s.floats[cells.FLOATS + medium : cells.FLOATS + 2 * medium]
    known = min(last, medium)
    if last >= medium:
        oldest = last - medium + 1
        known -= 1
        remove_size(sizes, sides, known, s.floats[find_size(s, oldest)], float(s.ints[find_slot(s, oldest) + SIDE]))
    insert_size(sizes, sides, known, size, float(side))
    before, slot = find_slot(s, last), find_slot(s, last + 1)
    for kind in range(cells.KINDS):
        s.ints[slot + KIND + kind] = s.ints[before + KIND + kind]
    row = 0 if action == cells.ADD else 2 if action <= cells.DELETE else 4
    s.ints[slot + KIND + row + (0 if side > 0 else 1)] += 1
    s.ints[slot + TIME], s.ints[slot + SIDE] = now, side
    s.floats[find_size(s, last + 1)] = size
    s.ints[cells.WINDOW_EVENTS] = last + 1


@inline_kernel
def is_below(size: float, side: float, other_size: float, other_side: float) -> bool:
    """Return whether a size stands before another; equal sizes are in the order of their sides."""
    return size < other_size or (size == other_size and side < other_side)


@compile_kernel
def find_rank(sizes: Floats, sides: Floats, count: int, size: float, side: float) -> int:
    """Return how many of `count` sizes in order stand before one."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if is_below(sizes[middle], sides[middle], size, side):
            low = middle + 1
        else:
            high = middle
    return low


@compile_kernel
def insert_size(sizes: Floats, sides: Floats, count: int, size: float, side: float) -> None:
    """Insert a size into `count` sizes in order."""
    place = find_rank(sizes, sides, count, size, side)
    for i in range(count, place, -1):
        sizes[i] = sizes[i - 1]
    for i in range(count, place, -1):
        sides[i] = sides[i - 1]
    sizes[place], sides[place] = size, side


@compile_kernel
def remove_size(sizes: Floats, sides: Floats, count: int, size: float, side: float) -> None:
    """Remove a size, so that `count` remain in order."""
    place = find_rank(sizes, sides, count + 1, size, side)
    for i in range(place, count):
        sizes[i] = sizes[i + 1]
    for i in range(place, count):
        sides[i] = sides[i + 1]


@compile_kernel
def find_duration_s(s: State) -> float:
    """Return the time from the first to the last event of the medium window, at least a millisecond."""
    last = s.ints[cells.WINDOW_EVENTS]
    first = max(last - s.ints[cells.MEDIUM], 0) + 1
    duration_ns = s.ints[find_slot(s, last) + TIME] - s.ints[find_slot(s, first) + TIME]
    return float(max(duration_ns / 1e9, 1e-3))
