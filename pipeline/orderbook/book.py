"""The price levels of a book, rebuilt from the messages on its orders, for sources without snapshots.

Prices and sizes are counted in whole units of the smallest decimal that they have: a level from which all is taken is
exactly empty, also where sizes are fractions such as 0.1. Messages have LOBSTER's codes. Hidden executions, crosses and
halts leave the book as it is.

Arguments of compiled functions are positional, since numba has no keyword-only ones.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from numba import njit

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

ADD, CANCEL, DELETE, EXECUTE, EXECUTE_HIDDEN, CROSS, HALT = 1, 2, 3, 4, 5, 6, 7
BID, ASK = 0, 1  # rows of arrays with both sides
MAX_DECIMALS = 12
MAX_UNITS = 2.0**53  # integers up to it are exact in float64
FAULTS = {
    "unknown_order": "changes an order that was never added",
    "finished_order": "changes an order of which nothing is left",
    "repeated_order": "adds an order that is in the book",
    "excess_size": "takes more than the order has left; the rest of the order is taken",
    "unequal_delete": "deletes an order by another size than it has left; all of it is taken",
    "moved_order": "has another price or side than its order; those of the order are used",
}
UNKNOWN, FINISHED, REPEATED, EXCESS, UNEQUAL, MOVED = range(1, 7)  # 1 + the place in FAULTS


class Rebuilt(NamedTuple):
    """The levels after every message, and the messages that do not fit the book."""

    columns: dict[str, Floats]  # each (N,)
    faults: dict[str, int]  # number of messages by name of FAULTS, all names


class Levels(NamedTuple):
    """The levels of both sides; the best one of a side is its last."""

    keys: Integers  # (2, C) ascending: price units of bids, minus those of asks
    units: Integers  # (2, C) total size
    used: Integers  # (2,) levels in use


class Messages(NamedTuple):
    """Messages in whole units, each field (N,)."""

    action: Integers
    order: Integers  # number of the order among all of the table
    units: Integers
    price: Integers  # units
    side: Integers  # BID or ASK


class Orders(NamedTuple):
    """The state of every order, each field (M,)."""

    left: Integers  # units; -1 before it is added
    price: Integers
    side: Integers


def name_levels(levels: int) -> list[str]:
    """Return the names of the columns of a book: ask prices, ask sizes, bid prices, bid sizes."""
    return [f"{side}_{what}_{i}" for side in ("ask", "bid") for what in ("price", "size") for i in range(1, levels + 1)]


def rebuild(messages: pd.DataFrame | Mapping[str, npt.NDArray[Any]], *, levels: int = 10) -> Rebuilt:
    """Return the best `levels` of both sides after every message, and the number of faults; an empty level is 0.

    `messages` are of one symbol and one session, in order, with action, order_id, size, price and side. A message on an
    unknown order leaves the book as it is; see FAULTS for the others.

    Raises:
        ValueError: a column cannot be read.
    """
    if levels < 1:
        raise ValueError(f"book: levels is {levels}; at least 1 is allowed")
    coded, scales = _read_messages(messages)
    book = np.zeros((len(coded.action), 4 * levels), np.int64)
    fault = np.zeros(len(coded.action), np.int64)
    if len(book):
        _apply_all(coded, make_levels(coded.price), make_orders(coded.order), book, fault)
    scale = np.repeat([scales[0], scales[1], scales[0], scales[1]], levels)
    columns = {name: book[:, j] / scale[j] for j, name in enumerate(name_levels(levels))}
    counts = np.bincount(fault, minlength=len(FAULTS) + 1)[1:]
    return Rebuilt(columns, dict(zip(FAULTS, counts.tolist(), strict=True)))


def _read_messages(messages: pd.DataFrame | Mapping[str, npt.NDArray[Any]]) -> tuple[Messages, tuple[float, float]]:
    """Return the messages in whole units, and the units in a price of 1 and in a size of 1."""
    action = np.asarray(messages["action"]).astype(np.int64)
    side = np.asarray(messages["side"]).astype(np.int64)
    is_order = np.isin(action, [ADD, CANCEL, DELETE, EXECUTE])
    known = np.arange(ADD, HALT + 1)
    if not np.isin(action, known).all():
        raise ValueError(f"book: actions {np.setdiff1d(action, known).tolist()} are none of LOBSTER's codes, 1 to 7")
    if not np.isin(side[is_order], [-1, 1]).all():
        raise ValueError("book: a message on an order has a side that is neither 1 (bid) nor -1 (ask)")
    price, price_scale = count_units(np.where(is_order, np.asarray(messages["price"]), 1.0), name="price")
    size, size_scale = count_units(np.where(is_order, np.asarray(messages["size"]), 1.0), name="size")
    number = np.unique(np.asarray(messages["order_id"]), return_inverse=True)[1].astype(np.int64)
    return Messages(action, number, size, price, np.where(side == 1, BID, ASK)), (price_scale, size_scale)


def count_units(values: npt.NDArray[Any], *, name: str) -> tuple[Integers, float]:
    """Return positive decimals as whole numbers of their smallest unit, and the number of units in 1.

    >>> count_units(np.array([0.1, 2.25]), name="size")
    (array([ 10, 225]), 100.0)

    Raises:
        ValueError: a value is not positive, or has more decimals than can be counted.
    """
    numbers = np.asarray(values, np.float64)
    if not np.all(np.isfinite(numbers) & (numbers > 0)):
        bad = numbers[~(np.isfinite(numbers) & (numbers > 0))][0]
        raise ValueError(f"book: a message on an order has {name} {bad}; a finite number above 0 is allowed")
    for decimals in range(MAX_DECIMALS + 1) if np.all(numbers < MAX_UNITS) else ():
        scale = 10.0**decimals
        units = np.rint(numbers * scale)
        if np.array_equal(units / scale, numbers) and np.all(units < MAX_UNITS):
            return units.astype(np.int64), scale
    raise ValueError(
        f"book: {name}s have more than {MAX_DECIMALS} decimals, or too many digits; "
        "read them as float64 from their decimal text, and not from float32"
    )


def make_levels(price: Integers) -> Levels:
    """Return the levels of an empty book in which orders have these prices."""
    capacity = len(np.unique(price))
    return Levels(np.zeros((2, capacity), np.int64), np.zeros((2, capacity), np.int64), np.zeros(2, np.int64))


def make_orders(order: Integers) -> Orders:
    """Return orders none of which is added, given the number of the order of each message."""
    count = int(order.max()) + 1
    return Orders(np.full(count, -1, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64))


@njit(cache=True)
def find_level(levels: Levels, side: int, key: int) -> int:
    """Return the place of a level among those of its side, or the place where it would stand."""
    low, high = 0, levels.used[side]
    while low < high:
        middle = (low + high) // 2
        if levels.keys[side, middle] < key:
            low = middle + 1
        else:
            high = middle
    return int(low)


@njit(cache=True)
def change_level(levels: Levels, side: int, price: int, change: int) -> None:
    """Add units to a level, or take them; a new level is inserted, and an empty one removed."""
    key = price if side == BID else -price
    place, count = find_level(levels, side, key), levels.used[side]
    keys, units = levels.keys[side], levels.units[side]
    if place == count or keys[place] != key:
        for i in range(count, place, -1):
            keys[i], units[i] = keys[i - 1], units[i - 1]
        keys[place], units[place] = key, 0
        levels.used[side] = count + 1
    units[place] += change
    if units[place] == 0:
        for i in range(place, levels.used[side] - 1):
            keys[i], units[i] = keys[i + 1], units[i + 1]
        levels.used[side] -= 1


@njit(cache=True)
def add_order(orders: Orders, levels: Levels, messages: Messages, i: int) -> int:
    """Add the order of message i to the book; return the code of a fault, 0 without one."""
    order = messages.order[i]
    if orders.left[order] > 0:
        return REPEATED
    orders.left[order] = messages.units[i]
    orders.price[order], orders.side[order] = messages.price[i], messages.side[i]
    change_level(levels, messages.side[i], messages.price[i], messages.units[i])
    return 0


@njit(cache=True)
def reduce_order(orders: Orders, levels: Levels, messages: Messages, i: int) -> int:
    """Take from the order of message i what the message says; return the code of a fault, 0 without one."""
    order, units, fault = messages.order[i], messages.units[i], 0
    left, side, price = orders.left[order], orders.side[order], orders.price[order]
    if left <= 0:
        return UNKNOWN if left < 0 else FINISHED
    if side != messages.side[i] or price != messages.price[i]:
        fault = MOVED
    if messages.action[i] == DELETE:
        fault = UNEQUAL if units != left else fault
        units = left
    elif units > left:
        units, fault = left, EXCESS
    orders.left[order] = left - units
    change_level(levels, side, price, -units)
    return fault


@njit(cache=True)
def write_levels(levels: Levels, row: npt.NDArray[np.int64]) -> None:
    """Write the best levels of both sides to a row: ask prices, ask sizes, bid prices, bid sizes."""
    width = len(row) // 4
    for side in (ASK, BID):
        start = 0 if side == ASK else 2 * width
        count = levels.used[side]
        for j in range(min(width, count)):
            key = levels.keys[side, count - 1 - j]
            row[start + j] = -key if side == ASK else key
            row[start + width + j] = levels.units[side, count - 1 - j]


@njit(cache=True)
def _apply_all(
    messages: Messages, levels: Levels, orders: Orders, book: npt.NDArray[np.int64], fault: Integers
) -> None:
    """Apply all messages; write the levels after each to `book` (N, 4 x levels), and its fault to `fault` (N,)."""
    for i in range(len(messages.action)):
        action = messages.action[i]
        if action == ADD:
            fault[i] = add_order(orders, levels, messages, i)
        elif action <= EXECUTE:
            fault[i] = reduce_order(orders, levels, messages, i)
        write_levels(levels, book[i])
