"""The messages of a simulated book: what each candidate of the flow does to it; see `sources/simulated_book.py`.

Arguments of compiled functions are positional, since numba has no keyword-only ones.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from pipeline.orderbook.queues import (
    ASK,
    BID,
    NONE,
    PRICES,
    Integers,
    Queues,
    add_order,
    find_level_behind,
    take_units,
    write_levels,
)
from pipeline.orderbook.raw_table import ADD, CANCEL, DELETE, EXECUTE, EXECUTE_HIDDEN, LEVELS

Floats = npt.NDArray[np.float64]

MARGIN = 20  # ticks behind the best price within which limit orders arrive
SPARSE_FACTOR = 3  # by which this range is longer in the regime of a sparse book
INSIDE = 0.25  # share of limit orders inside the spread where it is wider than a tick
PARTIAL_SHARE = 0.1  # of cancels
TRADE = 1.2  # what a market order adds to the excitation of its direction
MAX_EXCITATION = 20.0
SOFTNESS = 0.15  # imbalance at which the signal is 1/2
SPARSE_TICKS, SPARSE_GAIN = (
    50,
    -0.5,
)  # from this length of both sides' levels on the signal has the other sign, and half of its size

PICK, SIDE, PLACE, SIZE, ACCEPT, STATE, HIDDEN_STATE, THIN = range(8)  # columns of uniform numbers
CLOCK, ACTIVE, BUYING, SELLING, LEANING, SPARSE = range(6)  # of the hidden state


class Tape(NamedTuple):
    """The messages of a session, each field (N,) or (N, 4 x LEVELS), in ticks and units."""

    action: Integers
    order: Integers  # NONE for hidden executions
    units: Integers
    price: Integers
    side: Integers  # BID or ASK
    book: Integers  # (N, 4 * LEVELS) after the message
    time: Floats  # of the model
    signal: Floats  # in (-1, 1); times the effect it is the tilt of the next move of the mid
    rows: Integers  # (1,) messages written


class Terms(NamedTuple):
    """The parameters of a session."""

    effect: float
    is_hawkes: bool
    has_fractions: bool


class Session(NamedTuple):
    """The state of a session, and what it has written."""

    queues: Queues
    tape: Tape
    hidden: Floats  # (6,)
    terms: Terms


@njit()
def draw_units(uniform: float, has_fractions: bool) -> int:
    """Return a size: round lots and some odd ones; or any number of units, with a heavy tail."""
    if has_fractions:
        return int(1.0 + 40.0 / (1.0002 - uniform) + 4_000.0 * uniform * uniform)
    if uniform < 0.1:
        return int(1.0 + uniform * 990.0)  # 1 to 99
    if uniform < 0.7:
        return 100
    if uniform < 0.88:
        return 200
    return 300 if uniform < 0.96 else 500


@njit()
def place_limit_order(session: Session, u: Floats) -> None:
    """Add a limit order behind or at the best price, or propose one inside the spread."""
    queues, hidden = session.queues, session.hidden
    side = BID if u[SIDE] < 0.5 + 0.5 * min(max(hidden[LEANING], -0.7), 0.7) else ASK
    units = draw_units(u[SIZE], session.terms.has_fractions)
    spread = queues.best[ASK] - queues.best[BID]
    if spread > 1 and u[PLACE] < INSIDE:
        step = 1 + int(u[PLACE] / INSIDE * (spread - 1))
        _narrow_spread(session, u[ACCEPT], step, units)
        return
    part = (u[PLACE] - INSIDE) / (1.0 - INSIDE) if spread > 1 else u[PLACE]
    depth = int(part * MARGIN * (SPARSE_FACTOR if hidden[SPARSE] > 0.5 else 1))
    price = queues.best[BID] - depth if side == BID else queues.best[ASK] + depth
    full = 4.0 + depth  # queue-reactive: the more orders there are, the fewer come
    if u[ACCEPT] * (full + queues.orders[side, price]) < full:
        add_limit_order(session, side, price, units)


@njit()
def execute_market_order(session: Session, u: Floats, side: int) -> None:
    """Execute a market order against a side, order by order; propose a move where it would empty the best price."""
    queues, tape, hidden, terms = session
    units = draw_units(u[SIZE], terms.has_fractions)
    price = queues.best[side]
    excited = BUYING if side == ASK else SELLING
    if terms.is_hawkes:
        hidden[excited] = min(hidden[excited] + TRADE, MAX_EXCITATION)
    if queues.orders[side, price] == 1 and units >= queues.units[side, price]:
        _empty_best(session, u[ACCEPT], EXECUTE, draw_units(u[PLACE], terms.has_fractions))
        return
    units = min(units, queues.units[side, price] - 1)
    while units > 0 and tape.rows[0] < len(tape.action):
        order = queues.head[side, price]
        if queues.orders[side, price] == 1 and units >= queues.left[order]:
            return
        taken = min(units, queues.left[order])
        take_units(queues, order, taken)
        _write(session, EXECUTE, order, taken, price, side)
        units -= taken


@njit()
def cancel_order(session: Session, u: Floats, order: int) -> None:
    """Cancel an order, or a part of it; propose a move where it is the only one at the best price."""
    queues = session.queues
    side, price, left = queues.side[order], queues.price[order], queues.left[order]
    count = queues.orders[side, price]
    if u[ACCEPT] * (count + 2.0) >= count + 1.0:  # queue-reactive: an order in a longer queue is canceled earlier
        return
    if u[PLACE] < PARTIAL_SHARE and left > 1:
        taken = 1 + int(u[SIZE] * (left - 1))
        take_units(queues, order, taken)
        _write(session, CANCEL, order, taken, price, side)
    elif count > 1 or price != queues.best[side]:
        take_units(queues, order, left)
        _write(session, DELETE, order, left, price, side)
    else:
        _empty_best(session, u[SIZE], DELETE, draw_units(u[STATE], session.terms.has_fractions))


@njit()
def draw_direction(uniform: float, up: float, down: float, tilt: float) -> bool:
    """Return whether the mid moves up, by `up`, and not down, by `down`; without tilt the mean move is exactly 0."""
    balanced = down / (up + down)
    return uniform < balanced + tilt * min(balanced, 1.0 - balanced)


@njit()
def execute_hidden_order(session: Session, u: Floats) -> None:
    """Write the execution of an order that the book does not show, at the best price of a side."""
    side = ASK if u[SIDE] < 0.5 else BID
    units = draw_units(u[SIZE], session.terms.has_fractions)
    _write(session, EXECUTE_HIDDEN, NONE, units, session.queues.best[side], side)


@njit()
def find_tilt(session: Session) -> float:
    """Return the tilt of the next move of the mid, in [-1, 1]."""
    tape = session.tape
    return float(session.terms.effect * tape.signal[tape.rows[0] - 1])


@njit()
def _narrow_spread(session: Session, uniform: float, step: int, units: int) -> None:
    """Add an order inside the spread, a bid or an ask, `step` ticks before the best."""
    queues = session.queues
    side = BID if draw_direction(uniform, step, step, find_tilt(session)) else ASK
    price = queues.best[BID] + step if side == BID else queues.best[ASK] - step
    add_limit_order(session, side, price, units)


@njit()
def find_step(queues: Queues, side: int) -> int:
    """Return the ticks by which one message moves a best price away, or by one tick the other side's best toward it.

    That is in the direction in which `side` empties: up for asks. 0 where no single message does.
    """
    price = queues.best[side]
    if queues.orders[side, price] == 1:
        behind = find_level_behind(queues, side, price)
        return abs(behind - price) if 0 <= behind < PRICES else 0
    return 1 if queues.best[ASK] - queues.best[BID] > 1 else 0


@njit()
def _empty_best(session: Session, uniform: float, action: int, units: int) -> None:
    """Move the mid by one message, up or down, in a direction drawn by the tilt; nothing where one is impossible.

    A side with a single order at its best price loses it by `action`; else the other side adds an order one tick
    inside the spread, with `units`.
    """
    queues = session.queues
    up, down = find_step(queues, ASK), find_step(queues, BID)
    if up == 0 or down == 0:
        return
    side = ASK if draw_direction(uniform, up, down, find_tilt(session)) else BID
    price = queues.best[side]
    if queues.orders[side, price] == 1:
        order = queues.head[side, price]
        left = queues.left[order]
        take_units(queues, order, left)
        _write(session, action, order, left, price, side)
    elif side == ASK:
        add_limit_order(session, BID, queues.best[BID] + 1, units)
    else:
        add_limit_order(session, ASK, queues.best[ASK] - 1, units)


@njit()
def add_limit_order(session: Session, side: int, price: int, units: int) -> None:
    """Add an order and write its message."""
    order = add_order(session.queues, side, price, units)
    _write(session, ADD, order, units, price, side)


@njit()
def _write(
    session: Session,
    action: int,
    order: int,
    units: int,
    price: int,
    side: int,
) -> None:
    """Write a message, the book after it, and the tilt of the next move."""
    queues, tape, hidden, terms = session
    row = tape.rows[0]
    tape.action[row], tape.order[row], tape.units[row] = action, order, units
    tape.price[row], tape.side[row], tape.time[row] = price, side, hidden[CLOCK]
    write_levels(queues, tape.book[row])
    tape.signal[row] = find_signal(tape.book[row])
    tape.rows[0] = row + 1


@njit()
def find_signal(book: Integers) -> float:
    """Return the planted signal: it grows with the imbalance of the sizes of all levels, and a wide spread turns it."""
    asks, bids = book[LEVELS : 2 * LEVELS].sum(), book[3 * LEVELS :].sum()
    if asks == 0 or bids == 0:
        return 0.0
    imbalance = (bids - asks) / (bids + asks)
    ticks = book[LEVELS - 1] - book[0] + book[2 * LEVELS] - book[3 * LEVELS - 1]
    is_full = book[LEVELS - 1] > 0 and book[3 * LEVELS - 1] > 0
    gain = 1.0 if is_full and ticks < SPARSE_TICKS else SPARSE_GAIN
    return float(gain * imbalance / (abs(imbalance) + SOFTNESS))
