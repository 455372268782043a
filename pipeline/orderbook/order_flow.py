"""The messages of one session of a simulated book, with the tilt of the next move of the mid at every message.

See `sources/simulated_book.py` for the model. The random numbers are uniform and exponential ones drawn by numpy; with
them the code adds, multiplies, divides and compares, so that its result has the same bits on every processor.

Arguments of compiled functions are positional, since numba has no keyword-only ones.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from pipeline.orderbook.book import ADD, CANCEL, DELETE, EXECUTE, EXECUTE_HIDDEN
from pipeline.orderbook.queues import (
    ASK,
    BID,
    NONE,
    PRICES,
    Integers,
    Queues,
    add_order,
    find_level_behind,
    make_queues,
    take_units,
    write_levels,
)

Floats = npt.NDArray[np.float64]

LEVELS = 10
CHUNK = 1 << 16  # candidates whose random numbers are drawn at once
MID = PRICES // 2  # ticks at which a session opens

# Rates of candidates, per unit of time and before excitation
LIMIT_RATE, MARKET_RATE, HIDDEN_RATE = 1.0, 0.10, 0.004
CANCEL_RATE, BEST_CANCEL_RATE = 0.014, 0.3  # of each order in the book; of the last orders at the best prices
MARGIN = 20  # ticks behind the best price within which limit orders arrive
OPENING_ORDERS = 2  # at each of these prices
INSIDE = 0.25  # share of limit orders inside the spread where it is wider than a tick
SWITCH = 1 / 800  # probability per candidate that orders become larger or smaller
LARGER = 2  # factor of the sizes in the regime of large orders
PARTIAL_SHARE = 0.1  # of cancels
PERSISTENCE, PRESSURE = 0.997, 0.16  # of the side of limit orders: per candidate, and largest change

# Self-excitation: what each message or trade adds to the rates, as a share, and how much is lost in 1 / TICKS of time
TICKS = 1024.0
ACTIVITY, ACTIVITY_DECAY = 0.02, 1 - 0.1 / TICKS
TRADE, TRADE_DECAY = 1.2, 1 - 0.2 / TICKS
MAX_EXCITATION = 20.0

SOFTNESS = 0.15  # imbalance at which the tilt has half of its largest size
THIN_GAIN = -0.1  # of the tilt where the book is thin, that of a thick book being 1
THICK = (7_000, 80_000)  # units in all levels from which on a book is thick: of lots, of fractions

PICK, SIDE, PLACE, SIZE, ACCEPT, STATE, HIDDEN_STATE, THIN = range(8)  # columns of uniform numbers
CLOCK, ACTIVE, BUYING, SELLING, LEANING, LARGE = range(6)  # of the hidden state


class Tape(NamedTuple):
    """The messages of a session, each field (N,) or (N, 4 x LEVELS), in ticks and units."""

    action: Integers
    order: Integers  # NONE for hidden executions
    units: Integers
    price: Integers
    side: Integers  # BID or ASK
    book: Integers  # (N, 4 * LEVELS) after the message
    time: Floats  # of the model
    tilt: Floats  # of the next move of the mid, in [-1, 1]
    rows: Integers  # (1,) messages written


class Terms(NamedTuple):
    """The parameters of a session."""

    effect: float
    is_hawkes: bool
    has_fractions: bool


def simulate_session(rng: np.random.Generator, terms: Terms, *, events: int) -> Tape:
    """Return the messages of a session that opens at MID.

    Raises:
        ValueError: the price leaves the range that a session has.
    """
    integers = [np.zeros(events, np.int64) for _ in range(5)]
    book = np.zeros((events, 4 * LEVELS), np.int64)
    tape = Tape(*integers, book, np.zeros(events), np.zeros(events), np.zeros(1, np.int64))
    queues, hidden = make_queues(events + 1), np.zeros(6)
    hidden[LARGE] = 1.0
    _open_book(queues, tape, hidden, rng.random(2 * OPENING_ORDERS * MARGIN), terms)
    while tape.rows[0] < events:
        _run_candidates(queues, tape, hidden, rng.random((CHUNK, THIN + 1)), rng.standard_exponential(CHUNK), terms)
        if queues.best[BID] < 2 * MARGIN or queues.best[ASK] > PRICES - 2 * MARGIN:
            raise ValueError(
                "simulated_book: the price moved by more ticks than a session allows; lower events_per_day"
            )
    return tape


@njit(cache=True)
def _open_book(queues: Queues, tape: Tape, hidden: Floats, uniform: Floats, terms: Terms) -> None:
    """Add the orders of an opening book, bids and asks in turn, from the best prices on."""
    for i in range(len(uniform)):
        side, depth = i % 2, i // 2 % MARGIN
        price = MID - 1 - depth if side == BID else MID + 1 + depth
        if tape.rows[0] < len(tape.action):
            _add(queues, tape, hidden, side, price, draw_units(uniform[i], terms.has_fractions), terms)


@njit(cache=True)
def _run_candidates(
    queues: Queues, tape: Tape, hidden: Floats, uniform: Floats, exponential: Floats, terms: Terms
) -> None:
    """Apply candidates one after another until the tape is full."""
    for i in range(len(exponential)):
        if tape.rows[0] >= len(tape.action):
            return
        u = uniform[i]
        if _advance(queues, hidden, u, exponential[i], terms.is_hawkes):
            _apply(queues, tape, hidden, u, terms)


@njit(cache=True)
def decay(value: float, base: float, ticks: int) -> float:
    """Return value x base^ticks by repeated squaring."""
    while ticks > 0 and value > 0.0:
        if ticks & 1:
            value *= base
        base *= base
        ticks >>= 1
    return value


@njit(cache=True)
def sum_rates(queues: Queues, hidden: Floats) -> float:
    """Return the rate of all candidates."""
    calm = LIMIT_RATE + HIDDEN_RATE + MARKET_RATE + BEST_CANCEL_RATE + CANCEL_RATE * queues.used[0]
    return float((1.0 + hidden[ACTIVE]) * calm + MARKET_RATE / 2 * (hidden[BUYING] + hidden[SELLING]))


@njit(cache=True)
def _advance(queues: Queues, hidden: Floats, u: Floats, exponential: float, is_hawkes: bool) -> bool:
    """Advance time and the hidden state to the next candidate; return whether it survives thinning (Ogata 1981)."""
    before = sum_rates(queues, hidden)
    start = int(hidden[CLOCK] * TICKS)
    hidden[CLOCK] += exponential / before
    hidden[LEANING] = PERSISTENCE * hidden[LEANING] + PRESSURE * (u[HIDDEN_STATE] - 0.5)
    if u[STATE] < SWITCH:
        hidden[LARGE] = 1.0 - hidden[LARGE]
    if not is_hawkes:
        return True
    ticks = int(hidden[CLOCK] * TICKS) - start
    hidden[ACTIVE] = decay(hidden[ACTIVE], ACTIVITY_DECAY, ticks)
    hidden[BUYING] = decay(hidden[BUYING], TRADE_DECAY, ticks)
    hidden[SELLING] = decay(hidden[SELLING], TRADE_DECAY, ticks)
    if u[THIN] * before >= sum_rates(queues, hidden):
        return False
    hidden[ACTIVE] = min(hidden[ACTIVE] + ACTIVITY, MAX_EXCITATION)
    return True


@njit(cache=True)
def _apply(queues: Queues, tape: Tape, hidden: Floats, u: Floats, terms: Terms) -> None:
    """Apply one candidate, chosen in proportion to the rates."""
    rest, activity = u[PICK] * sum_rates(queues, hidden), 1.0 + hidden[ACTIVE]
    if rest < LIMIT_RATE * activity:
        _place_limit_order(queues, tape, hidden, u, terms)
        return
    rest -= LIMIT_RATE * activity
    buys, sells = MARKET_RATE / 2 * (activity + hidden[BUYING]), MARKET_RATE / 2 * (activity + hidden[SELLING])
    if rest < buys + sells:
        _execute_market_order(queues, tape, hidden, u, ASK if rest < buys else BID, terms)
        return
    rest -= buys + sells
    if rest < HIDDEN_RATE * activity:
        side = ASK if u[SIDE] < 0.5 else BID
        units = draw_units(u[SIZE], terms.has_fractions)
        _write(queues, tape, hidden, EXECUTE_HIDDEN, NONE, units, queues.best[side], side, terms)
        return
    rest -= HIDDEN_RATE * activity
    if rest < BEST_CANCEL_RATE * activity:
        side = ASK if u[SIDE] < 0.5 else BID
        order = queues.tail[side, queues.best[side]]
    else:
        order = queues.active[int(u[SIDE] * queues.used[0])]
    _cancel_order(queues, tape, hidden, u, order, terms)


@njit(cache=True)
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


@njit(cache=True)
def _place_limit_order(queues: Queues, tape: Tape, hidden: Floats, u: Floats, terms: Terms) -> None:
    """Add a limit order behind or at the best price, or propose one inside the spread."""
    side = BID if u[SIDE] < 0.5 + 0.5 * min(max(hidden[LEANING], -0.7), 0.7) else ASK
    units = draw_units(u[SIZE], terms.has_fractions) * (LARGER if hidden[LARGE] > 0.5 else 1)
    spread = queues.best[ASK] - queues.best[BID]
    if spread > 1 and u[PLACE] < INSIDE:
        step = 1 + int(u[PLACE] / INSIDE * (spread - 1))
        _narrow_spread(queues, tape, hidden, u[ACCEPT], step, units, terms)
        return
    part = (u[PLACE] - INSIDE) / (1.0 - INSIDE) if spread > 1 else u[PLACE]
    depth = int(part * MARGIN)
    price = queues.best[BID] - depth if side == BID else queues.best[ASK] + depth
    full = 4.0 + depth  # queue-reactive: the more orders there are, the fewer come
    if u[ACCEPT] * (full + queues.count[side, price]) < full:
        _add(queues, tape, hidden, side, price, units, terms)


@njit(cache=True)
def _execute_market_order(queues: Queues, tape: Tape, hidden: Floats, u: Floats, side: int, terms: Terms) -> None:
    """Execute a market order against a side, order by order; propose a move where it would empty the best price."""
    units = draw_units(u[SIZE], terms.has_fractions)
    price = queues.best[side]
    excited = BUYING if side == ASK else SELLING
    if terms.is_hawkes:
        hidden[excited] = min(hidden[excited] + TRADE, MAX_EXCITATION)
    if queues.count[side, price] == 1 and units >= queues.units[side, price]:
        _empty_best(queues, tape, hidden, u[ACCEPT], EXECUTE, draw_units(u[PLACE], terms.has_fractions), terms)
        return
    units = min(units, queues.units[side, price] - 1)
    while units > 0 and tape.rows[0] < len(tape.action):
        order = queues.head[side, price]
        if queues.count[side, price] == 1 and units >= queues.left[order]:
            return
        taken = min(units, queues.left[order])
        take_units(queues, order, taken)
        _write(queues, tape, hidden, EXECUTE, order, taken, price, side, terms)
        units -= taken


@njit(cache=True)
def _cancel_order(queues: Queues, tape: Tape, hidden: Floats, u: Floats, order: int, terms: Terms) -> None:
    """Cancel an order, or a part of it; propose a move where it is the only one at the best price."""
    side, price, left = queues.side[order], queues.price[order], queues.left[order]
    count = queues.count[side, price]
    if u[ACCEPT] * (count + 2.0) >= count + 1.0:  # queue-reactive: an order in a longer queue is canceled earlier
        return
    if u[PLACE] < PARTIAL_SHARE and left > 1:
        taken = 1 + int(u[SIZE] * (left - 1))
        take_units(queues, order, taken)
        _write(queues, tape, hidden, CANCEL, order, taken, price, side, terms)
    elif count > 1 or price != queues.best[side]:
        take_units(queues, order, left)
        _write(queues, tape, hidden, DELETE, order, left, price, side, terms)
    else:
        _empty_best(queues, tape, hidden, u[SIZE], DELETE, draw_units(u[STATE], terms.has_fractions), terms)


@njit(cache=True)
def draw_direction(uniform: float, up: float, down: float, tilt: float) -> bool:
    """Return whether the mid moves up, by `up`, and not down, by `down`; without tilt the mean move is exactly 0."""
    balanced = down / (up + down)
    return uniform < balanced + tilt * min(balanced, 1.0 - balanced)


@njit(cache=True)
def _narrow_spread(
    queues: Queues, tape: Tape, hidden: Floats, uniform: float, step: int, units: int, terms: Terms
) -> None:
    """Add an order inside the spread, a bid or an ask, `step` ticks before the best."""
    side = BID if draw_direction(uniform, step, step, tape.tilt[tape.rows[0] - 1]) else ASK
    price = queues.best[BID] + step if side == BID else queues.best[ASK] - step
    _add(queues, tape, hidden, side, price, units, terms)


@njit(cache=True)
def find_step(queues: Queues, side: int) -> int:
    """Return the ticks by which one message moves a best price away, or by one tick the other side's best toward it.

    That is in the direction in which `side` empties: up for asks. 0 where no single message does.
    """
    price = queues.best[side]
    if queues.count[side, price] == 1:
        behind = find_level_behind(queues, side, price)
        return abs(behind - price) if 0 <= behind < PRICES else 0
    return 1 if queues.best[ASK] - queues.best[BID] > 1 else 0


@njit(cache=True)
def _empty_best(
    queues: Queues, tape: Tape, hidden: Floats, uniform: float, action: int, units: int, terms: Terms
) -> None:
    """Move the mid by one message, up or down, in a direction drawn by the tilt; nothing where one is impossible.

    A side with a single order at its best price loses it by `action`; else the other side adds an order one tick
    inside the spread, with `units`.
    """
    up, down = find_step(queues, ASK), find_step(queues, BID)
    if up == 0 or down == 0:
        return
    side = ASK if draw_direction(uniform, up, down, tape.tilt[tape.rows[0] - 1]) else BID
    price = queues.best[side]
    if queues.count[side, price] == 1:
        order = queues.head[side, price]
        left = queues.left[order]
        take_units(queues, order, left)
        _write(queues, tape, hidden, action, order, left, price, side, terms)
    elif side == ASK:
        _add(queues, tape, hidden, BID, queues.best[BID] + 1, units, terms)
    else:
        _add(queues, tape, hidden, ASK, queues.best[ASK] - 1, units, terms)


@njit(cache=True)
def _add(queues: Queues, tape: Tape, hidden: Floats, side: int, price: int, units: int, terms: Terms) -> None:
    """Add an order and write its message."""
    order = add_order(queues, side, price, units)
    _write(queues, tape, hidden, ADD, order, units, price, side, terms)


@njit(cache=True)
def _write(
    queues: Queues,
    tape: Tape,
    hidden: Floats,
    action: int,
    order: int,
    units: int,
    price: int,
    side: int,
    terms: Terms,
) -> None:
    """Write a message, the book after it, and the tilt of the next move."""
    row = tape.rows[0]
    tape.action[row], tape.order[row], tape.units[row] = action, order, units
    tape.price[row], tape.side[row], tape.time[row] = price, side, hidden[CLOCK]
    write_levels(queues, tape.book[row])
    tape.tilt[row] = terms.effect * find_tilt(tape.book[row], THICK[int(terms.has_fractions)])
    tape.rows[0] = row + 1


@njit(cache=True)
def find_tilt(book: Integers, thick: int) -> float:
    """Return the tilt of a full effect: it grows with the imbalance of the levels' sizes, and its sign is that of the
    spread's gain.
    """
    asks, bids = book[LEVELS : 2 * LEVELS].sum(), book[3 * LEVELS :].sum()
    if asks == 0 or bids == 0:
        return 0.0
    imbalance = (bids - asks) / (bids + asks)
    gain = 1.0 if asks + bids >= thick else THIN_GAIN
    return float(gain * imbalance / (abs(imbalance) + SOFTNESS))
