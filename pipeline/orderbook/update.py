"""The update of one event: orders, then windows, then all columns in order."""

from pipeline.features.rolling import Floats, compile_kernel
from pipeline.orderbook import state as cells
from pipeline.orderbook.book_columns import (
    ASK_PRICE,
    ASK_SIZE,
    BID_PRICE,
    BID_SIZE,
    fill_book_signals,
    fill_depth,
    fill_derived,
    match_levels,
)
from pipeline.orderbook.columns import (
    BOOK_VALID,
    DT_SECONDS,
    FIRST_LARGE,
    FIRST_LIFECYCLE,
    FIRST_QUEUE,
    INVALIDITY_DELTA,
    LEVELS,
    MBO_READY,
    SCHEMA,
    SCHEMA_VERSION,
    TIME_REGIME,
)
from pipeline.orderbook.completed import find_median_lifetime_ns
from pipeline.orderbook.events import push_event
from pipeline.orderbook.flow_columns import fill_flow, fill_sizes
from pipeline.orderbook.orders import follow_event
from pipeline.orderbook.state import COMPLETED_ORDERS, Integers, State

TIME_NS, ORDER_ID, ACTION, SIDE, NUMBERS = range(5)  # columns of an event's integers, and their number
SIZE, PRICE, BOOK = range(3)  # columns of its floats: its size and price, and the first of 40 of the book after it
AMOUNTS = BOOK + 4 * LEVELS
DAY_S = 86_400
MANY_MODIFICATIONS = 10.0


@compile_kernel
def update_event(s: State, numbers: Integers, amounts: Floats, v: Floats) -> None:
    """Fill the 98 columns (float64) after one event."""
    now, action, side = numbers[TIME_NS], numbers[ACTION], numbers[SIDE]
    size, book = amounts[SIZE], amounts[BOOK:AMOUNTS]
    if action <= cells.EXECUTE_HIDDEN:
        follow_event(s, now, numbers[ORDER_ID], action, side, size, amounts[PRICE])
        push_event(s, now, action, side, size)
    match_levels(s, -1, book[ASK_PRICE:ASK_SIZE], book[ASK_SIZE:BID_PRICE])
    match_levels(s, 1, book[BID_PRICE:BID_SIZE], book[BID_SIZE:])
    for i in range(len(book)):
        v[i] = book[i]
    fill_derived(book, v)
    fill_flow(s, v)
    fill_sizes(s, v)
    fill_depth(s, book, v)
    fill_orders(s, now, v)
    fill_book_signals(s, book, v)
    fill_meta(s, now, v)


@compile_kernel
def fill_orders(s: State, now: int, v: Floats) -> None:
    """Fill columns 68, 69, 76 to 81 and 83: the queues, the active orders, and the last completed ones."""
    active, at = s.ints[cells.ORDERS], FIRST_LIFECYCLE
    age = position = ahead = 0.0
    if active > 0:
        seconds = active * (now // 1_000_000_000) - s.ints[cells.ADDED_S]
        rest_ns = active * (now % 1_000_000_000) - s.ints[cells.ADDED_NS]
        age = (seconds + 1e-9 * rest_ns) / active
        position = s.ints[cells.POSITIONS] / active
        ahead = (s.floats[cells.AHEAD] + s.floats[cells.UNTRACKED_AHEAD]) / active
    v[FIRST_QUEUE], v[FIRST_QUEUE + 1] = position, ahead
    completed = min(s.ints[cells.COMPLETED], COMPLETED_ORDERS)
    modifications = s.ints[cells.COMPLETED_MODIFICATIONS] / max(completed, 1)
    fills, filling = s.floats[cells.MEAN_FILL_RATIO], s.ints[cells.FILLING_ORDERS]
    v[FIRST_LARGE + 2] = modifications
    v[FIRST_LARGE + 3] = fills * min(modifications / MANY_MODIFICATIONS, 1.0)
    v[at], v[at + 1], v[at + 2] = age, find_median_lifetime_ns(s) / 1e9, fills
    v[at + 3] = s.ints[cells.FILLING_NS] / 1e9 / filling if filling > 0 else 0.0
    v[at + 5] = active


@compile_kernel
def fill_meta(s: State, now: int, v: Floats) -> None:
    """Fill columns 92 to 97, and store the time of the event."""
    bid, ask = v[BID_PRICE], v[ASK_PRICE]
    is_valid, is_crossed = 0.0 < bid < ask, 0.0 < ask <= bid
    s.ints[cells.INVALID_EVENTS] += 1 if is_crossed else 0
    v[BOOK_VALID] = 1.0 if is_valid else 0.0
    v[TIME_REGIME] = find_regime(s, now)
    v[MBO_READY] = 1.0 if s.ints[cells.STATE_CHANGES] >= s.ints[cells.READY_EVENTS] else 0.0
    v[DT_SECONDS] = (now - s.ints[cells.TIME_NS]) / 1e9 if s.ints[cells.EVENTS] > 0 else 0.0
    v[INVALIDITY_DELTA] = s.ints[cells.INVALID_EVENTS]
    v[SCHEMA] = SCHEMA_VERSION
    if is_valid:
        s.ints[cells.INVALID_EVENTS] = 0
    s.ints[cells.TIME_NS] = now
    s.ints[cells.EVENTS] += 1


@compile_kernel
def find_regime(s: State, now: int) -> float:
    """Return the part of the session, 0 to 4, at a time that is not before that of the last call."""
    time_s, at, zones = now // 1_000_000_000, s.ints[cells.ZONE_AT], s.ints[cells.ZONES]
    zone = s.ints[cells.ZONE_NOW]
    while zone + 1 < zones and s.ints[at + zone + 1] <= time_s:
        zone += 1
    s.ints[cells.ZONE_NOW] = zone
    local_s = (time_s + s.ints[at + zones + zone]) % DAY_S
    regime = 0
    for i in range(5):
        regime += 1 if local_s >= s.ints[cells.SESSION + i] else 0
    return float(regime % 5)
