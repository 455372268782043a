"""The order flow of one session of a simulated book, candidate by candidate; see `sources/simulated_book.py`.

The random numbers are uniform and exponential ones drawn by numpy. With them the code adds, multiplies, divides and
compares, so that its result has the same bits on every processor.

Arguments of compiled functions are positional, since numba has no keyword-only ones.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numba import njit

from pipeline.orderbook.compiling import announce_compilation, digest_code
from pipeline.orderbook.flow_messages import (
    ACTIVE,
    BUYING,
    CLOCK,
    HIDDEN_STATE,
    LEANING,
    MARGIN,
    MAX_EXCITATION,
    PICK,
    SELLING,
    SIDE,
    SPARSE,
    STATE,
    THIN,
    Floats,
    Session,
    Tape,
    Terms,
    add_limit_order,
    cancel_order,
    draw_units,
    execute_hidden_order,
    execute_market_order,
    place_limit_order,
)
from pipeline.orderbook.queues import ASK, BID, PRICES, Queues, make_queues
from pipeline.orderbook.raw_table import LEVELS

COMPILED = ("order_flow", "flow_messages", "queues", "raw_table", "columns")
FILES = [Path(__file__).with_name(f"{name}.py") for name in COMPILED]
CHUNK = 1 << 16  # candidates whose random numbers are drawn at once
MID = PRICES // 2  # ticks at which a session opens
OPENING_ORDERS = 2  # at each of MARGIN prices

# Rates of candidates, per unit of time and before excitation
LIMIT_RATE, MARKET_RATE, HIDDEN_RATE = 1.0, 0.10, 0.004
CANCEL_RATE, BEST_CANCEL_RATE = 0.014, 0.3  # of each order in the book; of the last orders at the best prices
SWITCH = 1 / 800  # probability per candidate that the spread's regime changes
PERSISTENCE, PRESSURE = 0.997, 0.16  # of the side of limit orders: per candidate, and range of its changes

# Self-excitation: what each candidate adds to the rates, as a share, and what remains after 1 / TICKS of time
TICKS = 1024.0
ACTIVITY, ACTIVITY_DECAY = 0.02, 1 - 0.1 / TICKS
TRADE_DECAY = 1 - 0.2 / TICKS


def simulate_session(rng: np.random.Generator, terms: Terms, *, events: int) -> Tape:
    """Return the messages of a session that opens at MID.

    Raises:
        ValueError: the price leaves the range that a session has.
    """
    announce_compilation(run_candidates, files=FILES, what="the simulator of order flow")
    action, order, units, price, side = (np.zeros(events, np.int64) for _ in range(5))
    book = np.zeros((events, 4 * LEVELS), np.int64)
    flow = np.zeros(events), np.zeros(events)
    tape = Tape(action, order, units, price, side, book, *flow, np.zeros(1, np.int64))
    queues, hidden = make_queues(events + 1), np.zeros(6)
    session = Session(queues, tape, hidden, terms)
    open_book(session, rng.random(2 * OPENING_ORDERS * MARGIN))
    while tape.rows[0] < events:
        run_candidates(session, rng.random((CHUNK, THIN + 1)), rng.standard_exponential(CHUNK))
        if queues.best[BID] < 2 * MARGIN or queues.best[ASK] > PRICES - 2 * MARGIN:
            raise ValueError(
                "simulated_book: the price moved by more ticks than a session allows; lower events_per_day"
            )
    return tape


def _compile() -> tuple[Callable[..., None], Callable[..., None]]:
    """Return open_book and run_candidates, cached on disk under keys that include every file of code that they run."""
    sources = digest_code(FILES)

    @njit(cache=True)
    def open_book(session: Session, uniform: Floats) -> None:
        """Add the orders of an opening book, bids and asks in turn, from the best prices on."""
        _ = sources
        tape, has_fractions = session.tape, session.terms.has_fractions
        for i in range(len(uniform)):
            side, depth = i % 2, i // 2 % MARGIN
            price = MID - 1 - depth if side == BID else MID + 1 + depth
            if tape.rows[0] < len(tape.action):
                add_limit_order(session, side, price, draw_units(uniform[i], has_fractions))

    @njit(cache=True)
    def run_candidates(session: Session, uniform: Floats, exponential: Floats) -> None:
        """Apply candidates one after another until the tape is full."""
        _ = sources
        tape = session.tape
        for i in range(len(exponential)):
            if tape.rows[0] >= len(tape.action):
                return
            u = uniform[i]
            if _advance(session, u, exponential[i]):
                _apply(session, u)

    return open_book, run_candidates


open_book, run_candidates = _compile()


@njit()
def decay(value: float, base: float, ticks: int) -> float:
    """Return value x base^ticks by repeated squaring."""
    while ticks > 0 and value > 0.0:
        if ticks & 1:
            value *= base
        base *= base
        ticks >>= 1
    return value


@njit()
def sum_rates(queues: Queues, hidden: Floats) -> float:
    """Return the rate of all candidates."""
    calm = LIMIT_RATE + HIDDEN_RATE + MARKET_RATE + BEST_CANCEL_RATE + CANCEL_RATE * queues.used[0]
    return float((1.0 + hidden[ACTIVE]) * calm + MARKET_RATE / 2 * (hidden[BUYING] + hidden[SELLING]))


@njit()
def _advance(session: Session, u: Floats, exponential: float) -> bool:
    """Advance time and the hidden state to the next candidate; return whether it survives thinning (Ogata 1981)."""
    queues, hidden = session.queues, session.hidden
    before = sum_rates(queues, hidden)
    start = int(hidden[CLOCK] * TICKS)
    hidden[CLOCK] += exponential / before
    hidden[LEANING] = PERSISTENCE * hidden[LEANING] + PRESSURE * (u[HIDDEN_STATE] - 0.5)
    if u[STATE] < SWITCH:
        hidden[SPARSE] = 1.0 - hidden[SPARSE]
    if not session.terms.is_hawkes:
        return True
    ticks = int(hidden[CLOCK] * TICKS) - start
    hidden[ACTIVE] = decay(hidden[ACTIVE], ACTIVITY_DECAY, ticks)
    hidden[BUYING] = decay(hidden[BUYING], TRADE_DECAY, ticks)
    hidden[SELLING] = decay(hidden[SELLING], TRADE_DECAY, ticks)
    if u[THIN] * before >= sum_rates(queues, hidden):
        return False
    hidden[ACTIVE] = min(hidden[ACTIVE] + ACTIVITY, MAX_EXCITATION)
    return True


@njit()
def _apply(session: Session, u: Floats) -> None:
    """Apply one candidate, chosen in proportion to the rates."""
    queues, hidden = session.queues, session.hidden
    rest, activity = u[PICK] * sum_rates(queues, hidden), 1.0 + hidden[ACTIVE]
    if rest < LIMIT_RATE * activity:
        place_limit_order(session, u)
        return
    rest -= LIMIT_RATE * activity
    buys, sells = MARKET_RATE / 2 * (activity + hidden[BUYING]), MARKET_RATE / 2 * (activity + hidden[SELLING])
    if rest < buys + sells:
        execute_market_order(session, u, ASK if rest < buys else BID)
        return
    rest -= buys + sells
    if rest < HIDDEN_RATE * activity:
        execute_hidden_order(session, u)
        return
    rest -= HIDDEN_RATE * activity
    if rest < BEST_CANCEL_RATE * activity:
        side = ASK if u[SIDE] < 0.5 else BID
        order = queues.tail[side, queues.best[side]]
    else:
        order = queues.active[int(u[SIDE] * queues.used[0])]
    cancel_order(session, u, order)
