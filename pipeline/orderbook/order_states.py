"""Messages on what is left of an order, as L3 feeds have them, as messages on what is taken from it."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from pipeline.orderbook.raw_table import ADD, CANCEL, DELETE, EXECUTE

Integers = npt.NDArray[np.int64]

NEW, CHANGE, REMOVE, TRADE = range(4)  # codes of a feed's actions
NONE, NOT_ADDED, FINISHED, REPEATED, EXCESS, UNCHANGED, MOVED = range(7)  # codes of messages that do not fit
FAULTS = ("not_added", "already_finished", "repeated_ids", "excess_size", "unchanged", "moved_order")


class Messages(NamedTuple):
    """Messages on orders, each field (N,)."""

    action: Integers
    order: Integers  # number of the order among all, from 0
    units: Integers  # of size
    price: Integers  # units
    side: Integers


class Taken(NamedTuple):
    """Messages with LOBSTER's codes, each field (M,); `row` is that of the message that each is made of."""

    row: Integers
    action: Integers
    units: Integers
    price: Integers
    side: Integers


def convert_messages(messages: Messages, *, orders: int) -> tuple[Taken, dict[str, int]]:
    """Return what each message adds or takes, and the number of messages by fault.

    A change to a smaller size is a partial cancel, to 0 a delete. A change to a larger size, or of the price where it
    has one, loses the place in the queue: a delete and an add. A trade takes its size, at most what is left; with the
    last of it the order is gone, and a delete that follows is `already_finished`. Messages on orders that were not
    added are left out. A message with another side than its order, or a trade at another price, is a `moved_order`: the
    side and the price of the order are used.
    """
    out = np.empty((5, 2 * len(messages.action)), np.int64)
    state = np.zeros((3, orders), np.int64)  # left, price, side of each order
    state[0] = -1
    fault = np.zeros(len(messages.action), np.int64)
    count = _convert_all(*messages, state, out, fault)
    counts = np.bincount(fault, minlength=len(FAULTS) + 1)[1:]
    return Taken(*out[:, :count]), dict(zip(FAULTS, counts.tolist(), strict=True))


@njit(cache=True)
def _convert_all(
    action: Integers,
    order: Integers,
    units: Integers,
    price: Integers,
    side: Integers,
    state: npt.NDArray[np.int64],
    out: npt.NDArray[np.int64],
    fault: Integers,
) -> int:
    """Write the converted messages to `out` (5, 2N), and faults to `fault` (N,); return how many there are."""
    count = 0
    for i in range(len(action)):
        left, number = state[0, order[i]], order[i]
        if action[i] == NEW:
            if left > 0:
                fault[i] = REPEATED
                count = _write(out, count, i, DELETE, left, state[1, number], state[2, number])
            state[0, number], state[1, number], state[2, number] = units[i], price[i], side[i]
            count = _write(out, count, i, ADD, units[i], price[i], side[i])
        elif left <= 0:
            fault[i] = NOT_ADDED if left < 0 else FINISHED
        elif action[i] == TRADE:
            taken = min(units[i], left)
            fault[i] = EXCESS if units[i] > left else _find_move(price[i], side[i], state[:, number])
            state[0, number] = left - taken
            count = _write(out, count, i, EXECUTE, taken, state[1, number], state[2, number])
        else:
            size = 0 if action[i] == REMOVE else units[i]
            fault[i] = MOVED if side[i] != state[2, number] else NONE
            moves = size > 0 and (size > left or (price[i] > 0 and price[i] != state[1, number]))
            if size == 0 or moves:
                count = _write(out, count, i, DELETE, left, state[1, number], state[2, number])
            elif size < left:
                count = _write(out, count, i, CANCEL, left - size, state[1, number], state[2, number])
            elif fault[i] == NONE:
                fault[i] = UNCHANGED
            if moves:
                state[1, number] = price[i] if price[i] > 0 else state[1, number]
                count = _write(out, count, i, ADD, size, state[1, number], state[2, number])
            state[0, number] = size
    return count


@njit(cache=True)
def _find_move(price: int, side: int, order: Integers) -> int:
    """Return the fault of a trade with another price or side than its order's: left, price and side."""
    return MOVED if side != order[2] or (price > 0 and price != order[1]) else NONE


@njit(cache=True)
def _write(out: npt.NDArray[np.int64], count: int, row: int, action: int, units: int, price: int, side: int) -> int:
    """Write a message; return how many there are."""
    out[0, count], out[1, count], out[2, count], out[3, count], out[4, count] = row, action, units, price, side
    return count + 1
