"""A book of queues, first in, first out, as a simulated exchange has it: prices are ticks, sizes are whole units.

Arguments of compiled functions are positional, since numba has no keyword-only ones.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Integers = npt.NDArray[np.int64]

BID, ASK = 0, 1  # rows of arrays with both sides
NONE = -1  # instead of an order or a price
PRICES = 1 << 15  # ticks from 0 on, in which a session has to stay


class Queues(NamedTuple):
    """The queue at every price, and the orders, numbered as they were added."""

    head: Integers  # (2, PRICES) first order in the queue
    tail: Integers  # (2, PRICES) last one
    orders: Integers  # (2, PRICES) orders
    units: Integers  # (2, PRICES) total size
    best: Integers  # (2,) best price
    left: Integers  # (M,) units of each order; 0 when it is finished
    price: Integers  # (M,)
    side: Integers  # (M,)
    following: Integers  # (M,) next order in its queue
    preceding: Integers  # (M,)
    place: Integers  # (M,) in `active`
    active: Integers  # (M,) the orders in the book, in any order; as many as used[0]
    used: Integers  # (2,) orders in the book, orders ever added


def make_queues(orders: int) -> Queues:
    """Return an empty book with space for so many orders."""
    head, tail = (np.full((2, PRICES), NONE, np.int64) for _ in range(2))
    count, units = (np.zeros((2, PRICES), np.int64) for _ in range(2))
    left, price, side, following, preceding, place, active = (np.zeros(orders, np.int64) for _ in range(7))
    best = np.array([NONE, PRICES], np.int64)
    known = left, price, side, following, preceding, place, active
    return Queues(head, tail, count, units, best, *known, np.zeros(2, np.int64))


@njit()
def add_order(queues: Queues, side: int, price: int, units: int) -> int:
    """Add an order at the end of its queue; return its number."""
    order, last = queues.used[1], queues.tail[side, price]
    queues.left[order], queues.price[order], queues.side[order] = units, price, side
    queues.following[order], queues.preceding[order] = NONE, last
    if last == NONE:
        queues.head[side, price] = order
    else:
        queues.following[last] = order
    queues.tail[side, price] = order
    queues.orders[side, price] += 1
    queues.units[side, price] += units
    queues.place[order] = queues.used[0]
    queues.active[queues.used[0]] = order
    queues.used[0] += 1
    queues.used[1] += 1
    better = max(queues.best[side], price) if side == BID else min(queues.best[side], price)
    queues.best[side] = better
    return int(order)


@njit()
def take_units(queues: Queues, order: int, units: int) -> None:
    """Take units of an order; it leaves the book when nothing is left."""
    side, price = queues.side[order], queues.price[order]
    queues.left[order] -= units
    queues.units[side, price] -= units
    if queues.left[order] > 0:
        return
    _unlink(queues, order)
    queues.orders[side, price] -= 1
    last = queues.active[queues.used[0] - 1]
    queues.active[queues.place[order]], queues.place[last] = last, queues.place[order]
    queues.used[0] -= 1
    if price == queues.best[side] and queues.orders[side, price] == 0:
        queues.best[side] = find_level_behind(queues, side, price)


@njit()
def _unlink(queues: Queues, order: int) -> None:
    """Join the orders before and after an order in its queue."""
    side, price = queues.side[order], queues.price[order]
    before, after = queues.preceding[order], queues.following[order]
    if before == NONE:
        queues.head[side, price] = after
    else:
        queues.following[before] = after
    if after == NONE:
        queues.tail[side, price] = before
    else:
        queues.preceding[after] = before


@njit()
def find_level_behind(queues: Queues, side: int, price: int) -> int:
    """Return the next price with an order behind `price`: NONE for bids, PRICES for asks where there is none."""
    step = -1 if side == BID else 1
    price += step
    while 0 <= price < PRICES and queues.orders[side, price] == 0:
        price += step
    return int(price)


@njit()
def write_levels(queues: Queues, row: Integers) -> None:
    """Write the best levels to a row of zeros: ask prices, ask sizes, bid prices, bid sizes."""
    width = len(row) // 4
    for side in (ASK, BID):
        start = 0 if side == ASK else 2 * width
        price = queues.best[side]
        for j in range(width):
            if price < 0 or price >= PRICES:
                break
            row[start + j], row[start + width + j] = price, queues.units[side, price]
            price = find_level_behind(queues, side, price)
