"""The columns of windows of events: rates, imbalances, and the sizes of the medium window."""

import math

from pipeline.features.rolling import Floats, compile_kernel, inline_kernel
from pipeline.orderbook import state as cells
from pipeline.orderbook.book_columns import EPSILON
from pipeline.orderbook.columns import FIRST_FLOW, FIRST_LARGE, FIRST_LIFECYCLE, FIRST_SIGNAL, FIRST_SIZE
from pipeline.orderbook.events import (
    ASK_ADDS,
    ASK_CANCELS,
    ASK_TRADES,
    BID_ADDS,
    BID_CANCELS,
    BID_TRADES,
    KIND,
    count_events,
    find_duration_s,
    find_size,
    find_slot,
)
from pipeline.orderbook.state import State

PARTS, MIN_EVENTS = 10, 50  # of the medium window whose net order flows are compared, and the events that it needs
MIN_SLOW_FLOW, MAX_RATIO = 0.01, 10.0
LARGE_MEANS = 3.0
CONSTANT = 1e-9  # a share of the mean below which a standard deviation is a rounding error


@inline_kernel
def find_net_flow(s: State, window: int) -> float:
    """Return (adds at the bid - at the ask) over all adds of a window."""
    bids, asks = count_events(s, BID_ADDS, window), count_events(s, ASK_ADDS, window)
    return (bids - asks) / (bids + asks + EPSILON)


@compile_kernel
def fill_flow(s: State, v: Floats) -> None:
    """Fill columns 48 to 59, 82, 86, 88 and 89."""
    duration, at, medium = find_duration_s(s), FIRST_FLOW, s.ints[cells.MEDIUM]
    for kind in range(cells.KINDS):
        v[at + kind] = count_events(s, kind, medium) / duration
    adds = count_events(s, BID_ADDS, medium) + count_events(s, ASK_ADDS, medium)
    bid_cancels, ask_cancels = count_events(s, BID_CANCELS, medium), count_events(s, ASK_CANCELS, medium)
    sold, bought = count_events(s, BID_TRADES, medium), count_events(s, ASK_TRADES, medium)
    cancels, trades = bid_cancels + ask_cancels, sold + bought
    v[at + 6] = find_net_flow(s, medium)
    v[at + 7] = (ask_cancels - bid_cancels) / (cancels + EPSILON)
    v[at + 8] = (bought - sold) / (trades + EPSILON)  # a trade at the ask is bought by who takes it
    v[at + 9] = trades / (adds + EPSILON)
    v[at + 10] = find_flow_deviation(s)
    ratio = find_net_flow(s, s.ints[cells.FAST]) / max(abs(find_net_flow(s, s.ints[cells.SLOW])), MIN_SLOW_FLOW)
    v[at + 11] = min(max(ratio, -MAX_RATIO), MAX_RATIO)
    v[FIRST_LIFECYCLE + 4] = min(cancels / (adds + EPSILON), MAX_RATIO)
    v[FIRST_SIGNAL + 2] = v[at + ASK_TRADES] - v[at + BID_TRADES]
    v[FIRST_SIGNAL + 4], v[FIRST_SIGNAL + 5] = v[at + 8], v[at + 7]


@compile_kernel
def find_flow_deviation(s: State) -> float:
    """Return the standard deviation of the net order flow over ten parts of the medium window."""
    count = min(s.ints[cells.WINDOW_EVENTS], s.ints[cells.MEDIUM])
    if count < MIN_EVENTS:
        return 0.0
    mean = squares = 0.0
    for part in range(PARTS):
        mean += find_part_flow(s, part, count) / PARTS
    for part in range(PARTS):
        squares += (find_part_flow(s, part, count) - mean) ** 2
    return math.sqrt(squares / PARTS)


@inline_kernel
def find_part_flow(s: State, part: int, count: int) -> float:
    """Return the net order flow of one of the parts of the last `count` events; the last part takes what is over."""
    last = s.ints[cells.WINDOW_EVENTS]
    start = last - count + part * (count // PARTS)
    stop = last if part == PARTS - 1 else start + count // PARTS
    first, end = find_slot(s, start) + KIND, find_slot(s, stop) + KIND
    bids, asks = s.ints[end + BID_ADDS] - s.ints[first + BID_ADDS], s.ints[end + ASK_ADDS] - s.ints[first + ASK_ADDS]
    return float((bids - asks) / max(bids + asks, 1))


@compile_kernel
def fill_sizes(s: State, v: Floats) -> None:
    """Fill columns 60 to 67, 74 and 75."""
    last = s.ints[cells.WINDOW_EVENTS]
    medium, at = s.ints[cells.MEDIUM], FIRST_SIZE
    count = min(last, medium)
    if count == 0:
        for i in range(at, at + 8):
            v[i] = 0.0
        v[FIRST_LARGE] = v[FIRST_LARGE + 1] = 0.0
        return
    sizes = s.floats[cells.FLOATS : cells.FLOATS + count]
    v[at], v[at + 1] = sizes[count // 4], sizes[count // 2]
    v[at + 2], v[at + 3] = sizes[count * 3 // 4], sizes[count * 9 // 10]
    fill_moments(sizes, s.floats[find_size(s, last)], v)
    fill_large(s, sizes, s.floats[cells.FLOATS + medium : cells.FLOATS + medium + count], v)


@compile_kernel
def fill_moments(sizes: Floats, size: float, v: Floats) -> None:
    """Fill columns 64 to 67 of sizes in order, the last event's beside them; sums are of four chains each."""
    count, at = len(sizes), FIRST_SIZE
    a = b = c = d = 0.0
    p = q = r = t = 0.0
    for i in range(0, count - 3, 4):
        a, b, c, d = a + sizes[i], b + sizes[i + 1], c + sizes[i + 2], d + sizes[i + 3]
        p, q = p + sizes[i] * sizes[i], q + sizes[i + 1] * sizes[i + 1]
        r, t = r + sizes[i + 2] * sizes[i + 2], t + sizes[i + 3] * sizes[i + 3]
    for i in range(count - count % 4, count):
        a, p = a + sizes[i], p + sizes[i] * sizes[i]
    total, squares = (a + b) + (c + d), (p + q) + (r + t)
    mean = total / count
    a = b = c = d = 0.0
    for i in range(0, count - 1, 2):
        x, y = sizes[i] - mean, sizes[i + 1] - mean
        a, b = a + x * x, b + y * y
        c, d = c + x * x * x, d + y * y * y
    if count % 2:
        x = sizes[count - 1] - mean
        a, c = a + x * x, c + x * x * x
    deviation = math.sqrt((a + b) / count)
    is_constant = deviation <= CONSTANT * mean
    deviation = 0.0 if is_constant else deviation
    v[at + 4] = 0.0 if is_constant else (size - mean) / (deviation + EPSILON)
    v[at + 5] = (count - find_first_above(sizes, LARGE_MEANS * mean)) / count
    v[at + 6] = 0.0 if is_constant or count < 3 else (c + d) / count / (deviation * deviation * deviation)
    v[at + 7] = squares / (total * total) if total > 0.0 else 0.0


@compile_kernel
def find_first_above(sizes: Floats, limit: float) -> int:
    """Return the first place of ascending sizes with one above a limit."""
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high) // 2
        if sizes[middle] <= limit:
            low = middle + 1
        else:
            high = middle
    return low


@compile_kernel
def fill_large(s: State, sizes: Floats, sides: Floats, v: Floats) -> None:
    """Fill columns 74 and 75: events above the 90th percentile of sizes, a second, and the imbalance of their sizes."""
    first = find_first_above(sizes, v[FIRST_SIZE + 3])
    bids = asks = 0.0
    for i in range(first, len(sizes)):
        bids += sizes[i] if sides[i] > 0.0 else 0.0
        asks += sizes[i] if sides[i] <= 0.0 else 0.0
    v[FIRST_LARGE] = (len(sizes) - first) / find_duration_s(s)
    v[FIRST_LARGE + 1] = (bids - asks) / (bids + asks + EPSILON)
