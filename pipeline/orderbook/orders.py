"""Orders from their arrival to their end: the queue of each price level, first in first out, and what is left of each.

An order is followed if it was added within the segment. One that existed before is censored: its size counts in that of
its level, where it stands before all orders that are followed, and nothing is known of its age.
"""

from pipeline.features.rolling import Floats, compile_kernel, inline_kernel
from pipeline.orderbook import state as cells
from pipeline.orderbook.completed import record_completed
from pipeline.orderbook.state import NONE, State, find_home

NOTHING = 1e-9  # a share of a size below which it is the error of a subtraction


@compile_kernel
def follow_event(s: State, now: int, order_id: int, action: int, side: int, size: float, price: float) -> None:
    """Add, change or end the order of an event; hidden executions, auctions and halts have none."""
    if action == cells.ADD:
        known = find_order(s, order_id)
        if known != NONE:
            remove_order(s, known)
            s.ints[cells.REPLACED] += 1
        add_order(s, now, order_id, side, size, side * price)
    elif action <= cells.EXECUTE:
        order = find_order(s, order_id)
        if order == NONE:
            s.ints[cells.CENSORED_CANCELS + action - cells.CANCEL] += 1
        else:
            change_order(s, now, order, action, size)


@compile_kernel
def change_order(s: State, now: int, order: int, action: int, size: float) -> None:
    """Cancel, delete or execute an order; it is completed when nothing remains."""
    original, remaining = s.order_floats[cells.ORIGINAL, order], s.order_floats[cells.REMAINING, order]
    taken = min(size, remaining)
    if action == cells.CANCEL:
        s.order_ints[cells.MODIFICATIONS, order] += 1
    elif action == cells.EXECUTE:
        s.order_floats[cells.FILLED, order] += taken
        if s.order_ints[cells.FILL_NS, order] == NONE:
            s.order_ints[cells.FILL_NS, order] = now - s.order_ints[cells.ADD_NS, order]
            s.ints[cells.FILLING_ORDERS] += 1
            s.ints[cells.FILLING_NS] += s.order_ints[cells.FILL_NS, order]
    if action == cells.DELETE or remaining - taken <= NOTHING * original:
        lifetime = now - s.order_ints[cells.ADD_NS, order]
        ratio = s.order_floats[cells.FILLED, order] / original if original > 0.0 else 0.0
        record_completed(s, lifetime, ratio, s.order_ints[cells.MODIFICATIONS, order])
        remove_order(s, order)
    else:
        reduce_order(s, order, taken)


@compile_kernel
def find_order(s: State, order_id: int) -> int:
    """Return the place of an order, NONE where it is not followed."""
    cell, table = find_home(order_id, s.table), s.table
    while table[cell] > 0 and s.order_ints[cells.ID, table[cell] - 1] != order_id:
        cell = (cell + 1) & (len(table) - 1)
    return int(table[cell]) - 1


@compile_kernel
def enter_id(s: State, order: int) -> None:
    """Enter an order into the table of ids."""
    cell, table = find_home(s.order_ints[cells.ID, order], s.table), s.table
    while table[cell] > 0:
        cell = (cell + 1) & (len(table) - 1)
    table[cell] = order + 1


@compile_kernel
def forget_id(s: State, order: int) -> None:
    """Remove an order from the table of ids; others move up, so that each is found from its home on."""
    table, mask = s.table, len(s.table) - 1
    cell = find_home(s.order_ints[cells.ID, order], table)
    while table[cell] != order + 1:
        cell = (cell + 1) & mask
    table[cell] = 0
    later = (cell + 1) & mask
    while table[later] > 0:
        home = find_home(s.order_ints[cells.ID, table[later] - 1], table)
        if ((later - home) & mask) >= ((later - cell) & mask):
            table[cell], table[later] = table[later], 0
            cell = later
        later = (later + 1) & mask


@compile_kernel
def find_place(keys: Floats, count: int, key: float) -> int:
    """Return the first of the ascending keys that is not below `key`."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@compile_kernel
def find_or_add_level(s: State, side: int, key: float) -> int:
    """Return the level of a side and key, a new one where there is none."""
    row = (1 - side) // 2
    keys, order = s.order_floats[cells.KEYS + row], s.order_ints[cells.LEVEL_ORDER + row]
    count = s.ints[cells.LEVELS + row]
    place = find_place(keys, count, key)
    if place < count and keys[place] == key:
        return int(order[place])
    for i in range(count, place, -1):
        keys[i], order[i] = keys[i - 1], order[i - 1]
    level = s.ints[cells.FREE_LEVEL]
    s.ints[cells.FREE_LEVEL] = s.order_ints[cells.HEAD, level]
    s.ints[cells.LEVELS + row] = count + 1
    keys[place], order[place] = key, level
    s.order_ints[cells.SIDE, level], s.order_ints[cells.COUNT, level] = side, 0
    s.order_ints[cells.HEAD, level] = s.order_ints[cells.TAIL, level] = NONE
    for field in (cells.VOLUME, cells.UNTRACKED, cells.LEVEL_AHEAD):
        s.order_floats[field, level] = 0.0
    return int(level)


@compile_kernel
def remove_level(s: State, level: int) -> None:
    """Remove a level without orders."""
    row = (1 - s.order_ints[cells.SIDE, level]) // 2
    keys, order = s.order_floats[cells.KEYS + row], s.order_ints[cells.LEVEL_ORDER + row]
    count = s.ints[cells.LEVELS + row] - 1
    place = count  # most ends are at the best prices
    while order[place] != level:
        place -= 1
    for i in range(place, count):
        keys[i], order[i] = keys[i + 1], order[i + 1]
    s.ints[cells.LEVELS + row] = count
    s.order_ints[cells.HEAD, level] = s.ints[cells.FREE_LEVEL]
    s.ints[cells.FREE_LEVEL] = level


@compile_kernel
def add_order(s: State, now: int, order_id: int, side: int, size: float, key: float) -> None:
    """Put a new order at the end of its level's queue."""
    order = s.ints[cells.FREE_ORDER]
    s.ints[cells.FREE_ORDER] = s.order_ints[cells.NEXT, order]
    level = find_or_add_level(s, side, key)
    tail, volume = s.order_ints[cells.TAIL, level], s.order_floats[cells.VOLUME, level]
    s.order_ints[cells.ID, order], s.order_ints[cells.ADD_NS, order] = order_id, now
    s.order_ints[cells.FILL_NS, order], s.order_ints[cells.MODIFICATIONS, order] = NONE, 0
    s.order_ints[cells.NEXT, order], s.order_ints[cells.PREVIOUS, order] = NONE, tail
    s.order_ints[cells.LEVEL, order] = level
    s.order_floats[cells.ORIGINAL, order] = s.order_floats[cells.REMAINING, order] = size
    s.order_floats[cells.FILLED, order] = 0.0
    if tail == NONE:
        s.order_ints[cells.HEAD, level] = order
    else:
        s.order_ints[cells.NEXT, tail] = order
    s.order_ints[cells.TAIL, level] = order
    enter_id(s, order)
    count_order(s, level, now, 1)
    s.ints[cells.ADDED] += 1
    s.order_floats[cells.LEVEL_AHEAD, level] += volume
    s.floats[cells.AHEAD] += volume
    s.order_floats[cells.VOLUME, level] = volume + size


@inline_kernel
def count_order(s: State, level: int, added: int, step: int) -> None:
    """Count one order more (`step` 1) or less (-1) in a level and in all totals but those of sizes."""
    count = s.order_ints[cells.COUNT, level]
    s.order_ints[cells.COUNT, level] = count + step
    s.ints[cells.ORDERS] += step
    s.ints[cells.POSITIONS] += step * (count if step > 0 else count - 1)
    s.ints[cells.ADDED_S] += step * (added // 1_000_000_000)
    s.ints[cells.ADDED_NS] += step * (added % 1_000_000_000)
    s.floats[cells.UNTRACKED_AHEAD] += step * s.order_floats[cells.UNTRACKED, level]


@compile_kernel
def reduce_order(s: State, order: int, size: float) -> None:
    """Take a size off an order, which keeps its place."""
    level, behind = s.order_ints[cells.LEVEL, order], -1
    behind += s.order_ints[cells.COUNT, level]
    before = s.order_ints[cells.PREVIOUS, order]
    while before != NONE:
        behind -= 1
        before = s.order_ints[cells.PREVIOUS, before]
    s.order_floats[cells.REMAINING, order] -= size
    s.order_floats[cells.VOLUME, level] -= size
    s.order_floats[cells.LEVEL_AHEAD, level] -= size * behind
    s.floats[cells.AHEAD] -= size * behind


@compile_kernel
def remove_order(s: State, order: int) -> None:
    """Take an order out of its queue, and its level out of the book where it was the last one."""
    level, ahead, own = s.order_ints[cells.LEVEL, order], 0.0, s.order_floats[cells.REMAINING, order]
    before = s.order_ints[cells.PREVIOUS, order]
    while before != NONE:
        ahead += s.order_floats[cells.REMAINING, before]
        before = s.order_ints[cells.PREVIOUS, before]
    reduce_order(s, order, own)
    s.order_floats[cells.LEVEL_AHEAD, level] -= ahead
    s.floats[cells.AHEAD] -= ahead
    previous, following = s.order_ints[cells.PREVIOUS, order], s.order_ints[cells.NEXT, order]
    if previous == NONE:
        s.order_ints[cells.HEAD, level] = following
    else:
        s.order_ints[cells.NEXT, previous] = following
    if following == NONE:
        s.order_ints[cells.TAIL, level] = previous
    else:
        s.order_ints[cells.PREVIOUS, following] = previous
    if s.order_ints[cells.FILL_NS, order] != NONE:
        s.ints[cells.FILLING_ORDERS] -= 1
        s.ints[cells.FILLING_NS] -= s.order_ints[cells.FILL_NS, order]
    forget_id(s, order)
    count_order(s, level, s.order_ints[cells.ADD_NS, order], -1)
    s.order_ints[cells.NEXT, order] = s.ints[cells.FREE_ORDER]
    s.ints[cells.FREE_ORDER] = order
    if s.order_ints[cells.COUNT, level] == 0:
        s.floats[cells.AHEAD] -= s.order_floats[cells.LEVEL_AHEAD, level]  # the error of its subtractions
        remove_level(s, level)
    if s.ints[cells.ORDERS] == 0:
        s.floats[cells.AHEAD] = s.floats[cells.UNTRACKED_AHEAD] = 0.0
