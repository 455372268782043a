"""The state of one segment: five arrays, of which `allocate` makes zeros and `grow` enlarges what orders need.

Prices of a side are compared by their key, price times +1 for bids and -1 for asks: the best price has the highest key.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from pipeline.features.rolling import compile_kernel
from pipeline.orderbook.settings import Settings, list_offsets

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ADD, CANCEL, DELETE, EXECUTE, EXECUTE_HIDDEN, CROSS, HALT = range(1, 8)  # LOBSTER's codes of an event
FIRST_ORDERS = 1024  # that have room before the state grows; no value depends on it
COMPLETED_ORDERS = 1000  # the last ones, of which lifetimes, fills and modifications are described
KINDS = 6  # of events that are counted: adds, cancels and trades, each at bid and ask
RING_FIELDS = 2 + KINDS  # of an event: time, side, and how many events of each kind there were up to it

# cells of `ints`
FAST, MEDIUM, SLOW, READY_EVENTS, RING, RING_AT, ZONES, ZONE_AT, ZONE_NOW = range(9)
SESSION = 9  # the first of five: where the regimes begin, in seconds of the local day
TIME_NS, EVENTS, WINDOW_EVENTS, STATE_CHANGES, INVALID_EVENTS = range(14, 19)
ORDERS, FREE_ORDER, FREE_LEVEL, POSITIONS, ADDED_S, ADDED_NS = range(19, 25)
FILLING_ORDERS, FILLING_NS, COMPLETED, COMPLETED_MODIFICATIONS = range(25, 29)
LEVELS = 29  # the first of two: the price levels with orders that are followed, of bids and of asks
COUNTS = 31  # the first of the counts of COUNT_NAMES
COUNT_NAMES = (
    "added",
    "completed",
    "censored_cancels",  # of orders that were not added within the segment
    "censored_deletes",
    "censored_executions",
    "lost",  # orders whose level left the book out of sight
    "replaced",  # orders whose id was added again
)
ADDED, DONE, CENSORED_CANCELS, CENSORED_DELETES, CENSORED_EXECUTIONS, LOST, REPLACED = range(31, 38)
LIFETIMES, SORTED_LIFETIMES, MODIFICATIONS_DONE = (40 + COMPLETED_ORDERS * i for i in range(3))
INTS = 40 + 3 * COMPLETED_ORDERS

# cells of `floats`
TICK_SIZE, AHEAD, UNTRACKED_AHEAD, BID, BID_SIZE, ASK, ASK_SIZE, MICROPRICE, MEAN_FILL_RATIO = range(9)
FILL_RATIOS = 9
FLOATS = 9 + COMPLETED_ORDERS
# `floats` then has the sizes of the medium window in order, their sides, and the size of every event of the ring

# rows of `order_ints`: of an order, then of a price level, then the numbers of the levels in order, by side
ID, ADD_NS, FILL_NS, MODIFICATIONS, NEXT, PREVIOUS, LEVEL, SIDE, COUNT, HEAD, TAIL, LEVEL_ORDER = range(12)
ORDER_INTS = LEVEL_ORDER + 2
# rows of `order_floats`: of an order, then of a price level, then the keys of the levels in order, by side
ORIGINAL, REMAINING, FILLED, VOLUME, UNTRACKED, LEVEL_AHEAD, KEYS = range(7)
ORDER_FLOATS = KEYS + 2
NONE = -1


class State(NamedTuple):
    """The arrays of one segment."""

    ints: Integers  # settings, counters, the last completed orders, and the ring of events
    floats: Floats
    order_ints: Integers  # (ORDER_INTS, capacity)
    order_floats: Floats  # (ORDER_FLOATS, capacity)
    table: Integers  # (a power of two,) by hash of an order's id: its place + 1, 0 where there is none


def allocate(settings: Settings) -> State:
    """Return the state in which a segment starts."""
    starts, offsets = list_offsets(settings.timezone)
    fast, medium, slow = settings.windows
    ring = slow + 1
    ints = np.zeros(INTS + 2 * len(starts) + RING_FIELDS * ring, dtype=np.int64)
    ints[[FAST, MEDIUM, SLOW]] = fast, medium, slow
    ints[[READY_EVENTS, RING, ZONES, ZONE_AT]] = settings.ready_events, ring, len(starts), INTS
    ints[RING_AT] = INTS + 2 * len(starts)
    ints[SESSION : SESSION + len(settings.regime_starts_s)] = settings.regime_starts_s
    ints[INTS : INTS + 2 * len(starts)] = np.concatenate([starts, offsets])
    ints[TIME_NS] = np.iinfo(np.int64).min
    ints[[FREE_ORDER, FREE_LEVEL]] = NONE
    floats = np.zeros(FLOATS + 2 * medium + ring)
    floats[TICK_SIZE] = settings.tick_size
    empty = State(ints, floats, np.zeros((ORDER_INTS, 0), np.int64), np.zeros((ORDER_FLOATS, 0)), np.zeros(0, np.int64))
    return grow(empty, FIRST_ORDERS)


def copy_state(state: State) -> State:
    """Return a copy that shares no array."""
    return State(
        state.ints.copy(),
        state.floats.copy(),
        state.order_ints.copy(),
        state.order_floats.copy(),
        state.table.copy(),
    )


def grow(state: State, orders: int) -> State:
    """Return the same state with room for so many orders, a power of two."""
    had = state.order_ints.shape[1]
    order_ints = np.zeros((ORDER_INTS, orders), dtype=np.int64)
    order_floats = np.zeros((ORDER_FLOATS, orders))
    order_ints[:, :had], order_floats[:, :had] = state.order_ints, state.order_floats
    new = np.arange(had, orders)
    for field, cell in ((NEXT, FREE_ORDER), (HEAD, FREE_LEVEL)):  # the new places stand before those that were free
        order_ints[field, new] = np.append(new[1:], state.ints[cell])
        state.ints[cell] = had
    table = np.zeros(4 * orders, dtype=np.int64)
    grown = State(state.ints, state.floats, order_ints, order_floats, table)
    _fill_table(state.table, order_ints, table)
    return grown


@compile_kernel
def find_home(order_id: int, table: Integers) -> int:
    """Return the cell of the table where an id stands, unless others took it."""
    mixed = np.uint64(order_id) * np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio
    return int(mixed >> np.uint64(32)) & (len(table) - 1)


@numba.njit(cache=True)
def _fill_table(old: Integers, order_ints: Integers, table: Integers) -> None:
    """Enter every order of the old table into the new one."""
    for place in old:
        if place > 0:
            cell = find_home(order_ints[ID, place - 1], table)
            while table[cell] > 0:
                cell = (cell + 1) & (len(table) - 1)
            table[cell] = place
