"""The columns that follow from the book alone, or from the book before and after an event."""

import math

from pipeline.features.rolling import Floats, compile_kernel, inline_kernel
from pipeline.orderbook import state as cells
from pipeline.orderbook.columns import FIRST_DERIVED, FIRST_QUEUE, FIRST_SIGNAL, LEVELS
from pipeline.orderbook.orders import NOTHING, remove_order
from pipeline.orderbook.state import NONE, State

EPSILON = 1e-8  # added to denominators
ASK_PRICE, ASK_SIZE, BID_PRICE, BID_SIZE = (LEVELS * i for i in range(4))


@inline_kernel
def count_levels(prices: Floats) -> int:
    """Return the number of levels of a side that are not empty."""
    count = 0
    while count < len(prices) and prices[count] > 0.0:
        count += 1
    return count


@compile_kernel
def match_levels(s: State, side: int, prices: Floats, sizes: Floats) -> None:
    """Compare what is followed at a side's visible prices with the book.

    What a level has beyond the orders that are followed is the size of censored ones, ahead of them. Where the book has
    no level, its orders ended out of sight: they are lost. All prices are visible where fewer than LEVELS have orders.
    """
    row, shown, i = (1 - side) // 2, count_levels(prices), 0
    worst = side * prices[shown - 1] if shown == len(prices) else -math.inf
    keys, order = s.order_floats[cells.KEYS + row], s.order_ints[cells.LEVEL_ORDER + row]
    place = s.ints[cells.LEVELS + row] - 1
    while place >= 0 and keys[place] >= worst:
        key, level = keys[place], order[place]
        while i < shown and side * prices[i] > key:
            i += 1
        if i < shown and side * prices[i] == key:
            set_untracked(s, level, sizes[i])
        else:
            lose_orders(s, level)
        place -= 1


@compile_kernel
def set_untracked(s: State, level: int, size: float) -> None:
    """Set the size of a level that belongs to no order that is followed; `size` is that of the whole level."""
    untracked = size - s.order_floats[cells.VOLUME, level]
    untracked = untracked if untracked > NOTHING * size else 0.0
    change = untracked - s.order_floats[cells.UNTRACKED, level]
    s.order_floats[cells.UNTRACKED, level] = untracked
    s.floats[cells.UNTRACKED_AHEAD] += change * s.order_ints[cells.COUNT, level]


@compile_kernel
def lose_orders(s: State, level: int) -> None:
    """Remove all orders of a level, none of which counts as completed."""
    order = s.order_ints[cells.HEAD, level]
    while order != NONE:
        following = s.order_ints[cells.NEXT, order]
        remove_order(s, order)
        s.ints[cells.LOST] += 1
        order = following


@compile_kernel
def fill_derived(book: Floats, v: Floats) -> None:
    """Fill columns 40 to 47; those of prices are 0 where a side is empty."""
    ask, bid, ask_size, bid_size = book[ASK_PRICE], book[BID_PRICE], book[ASK_SIZE], book[BID_SIZE]
    asks = bids = 0.0
    for i in range(LEVELS):
        asks += book[ASK_SIZE + i]
        bids += book[BID_SIZE + i]
    mid = spread = spread_bps = microprice = 0.0
    if ask > 0.0 and bid > 0.0:
        mid, spread = 0.5 * (ask + bid), ask - bid
        spread_bps = 1e4 * spread / mid
        both = ask_size + bid_size
        microprice = (bid * ask_size + ask * bid_size) / both if both > 0.0 else mid
    at = FIRST_DERIVED
    v[at], v[at + 1], v[at + 2], v[at + 3], v[at + 4] = mid, spread, spread_bps, bids, asks
    v[at + 5] = (bids - asks) / (bids + asks + EPSILON)
    v[at + 6], v[at + 7] = microprice, abs(mid - microprice)


@compile_kernel
def fill_depth(s: State, book: Floats, v: Floats) -> None:
    """Fill columns 70 to 73: orders a level, the concentration of sizes, and the ticks from best to worst."""
    asks = count_levels(book[ASK_PRICE : ASK_PRICE + LEVELS])
    bids = count_levels(book[BID_PRICE : BID_PRICE + LEVELS])
    total, squares = v[FIRST_DERIVED + 3] + v[FIRST_DERIVED + 4], 0.0
    for i in range(LEVELS):
        squares += book[ASK_SIZE + i] * book[ASK_SIZE + i] + book[BID_SIZE + i] * book[BID_SIZE + i]
    tick = s.floats[cells.TICK_SIZE]
    v[FIRST_QUEUE + 2] = s.ints[cells.ORDERS] / max(asks + bids, 1)
    v[FIRST_QUEUE + 3] = squares / (total * total) if total > 0.0 else 0.0
    v[FIRST_QUEUE + 4] = (book[BID_PRICE] - book[BID_PRICE + bids - 1]) / tick if bids > 0 else 0.0
    v[FIRST_QUEUE + 5] = (book[ASK_PRICE + asks - 1] - book[ASK_PRICE]) / tick if asks > 0 else 0.0


@compile_kernel
def compare_best(s: State, book: Floats) -> float:
    """Return the order-flow imbalance of an event at the best prices (Cont, Kukanov & Stoikov 2014, section 2.1).

    It is 0 where a side of the book is or was empty. Counts a change of the state where price or size of a best level
    differs, and stores the best levels for the next event.
    """
    ask, bid, ask_size, bid_size = book[ASK_PRICE], book[BID_PRICE], book[ASK_SIZE], book[BID_SIZE]
    last_ask, last_bid = s.floats[cells.ASK], s.floats[cells.BID]
    last_ask_size, last_bid_size = s.floats[cells.ASK_SIZE], s.floats[cells.BID_SIZE]
    flow = 0.0
    if ask > 0.0 and bid > 0.0 and last_ask > 0.0 and last_bid > 0.0:
        is_same = ask == last_ask and bid == last_bid and ask_size == last_ask_size and bid_size == last_bid_size
        s.ints[cells.STATE_CHANGES] += 0 if is_same else 1
        flow += (bid_size if bid >= last_bid else 0.0) - (last_bid_size if bid <= last_bid else 0.0)
        flow -= (ask_size if ask <= last_ask else 0.0) - (last_ask_size if ask >= last_ask else 0.0)
    s.floats[cells.ASK], s.floats[cells.BID] = ask, bid
    s.floats[cells.ASK_SIZE], s.floats[cells.BID_SIZE] = ask_size, bid_size
    return flow


@compile_kernel
def fill_book_signals(s: State, book: Floats, v: Floats) -> None:
    """Fill columns 84, 85, 87, 90 and 91; those of derived columns and of depth are filled already."""
    at, mid, microprice = FIRST_SIGNAL, v[FIRST_DERIVED], v[FIRST_DERIVED + 6]
    v[at] = compare_best(s, book)
    v[at + 1] = v[at] / (v[FIRST_DERIVED + 3] + v[FIRST_DERIVED + 4] + EPSILON)
    last = s.floats[cells.MICROPRICE]
    v[at + 3] = 1e4 * (microprice - last) / mid if last > 0.0 and microprice > 0.0 else 0.0
    if book[ASK_PRICE] > book[BID_PRICE] and microprice > 0.0:
        s.floats[cells.MICROPRICE] = microprice
    depths = v[FIRST_QUEUE + 4] + v[FIRST_QUEUE + 5] + EPSILON
    v[at + 6] = 1.0 - v[FIRST_QUEUE + 3] * depths / 100.0
    v[at + 7] = v[FIRST_DERIVED + 5]
