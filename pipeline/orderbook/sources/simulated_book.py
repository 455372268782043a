"""A simulated limit order book whose predictability is known: every message of a market with real queues and orders.

Limit orders, market orders and cancels arrive at random, as in the zero-intelligence model [1]. Rates depend on queues,
as in [2]: fewer orders join a long queue, and more of its orders are canceled. With `arrivals` "hawkes" every message
excites all rates for a while, and every market order those of its direction [3]. A hidden state leans to bids or asks,
and the book is imbalanced for hundreds of messages. Another one places orders farther away, and the book is sparse.

**The null.** The mid moves by messages that empty a best price with a single order, or that add an order inside the
spread. Whenever such a message is due, the model looks up how far the mid could move up and how far down by one, and
draws the direction so that the mean move is exactly 0; where one direction is impossible, the message does not happen.
Without an effect the mid is therefore a martingale whatever is known of the book: nothing predicts its moves.

**The effect** tilts that draw by `imbalance_effect` times a signal: x / (|x| + 0.15), where x is the imbalance
(bids - asks) / (bids + asks) of the sizes of ten levels; -1/2 of it while the book is sparse, its ten levels on both
sides covering 46 ticks or more. Both are visible in the book. A linear model sees the imbalance; the best prediction
turns its sign in a sparse book.

[1] Smith, Farmer, Gillemot & Krishnamurthy 2003, "Statistical theory of the continuous double auction".
[2] Huang, Lehalle & Rosenbaum 2015, "Simulating and analyzing order book data: the queue-reactive model".
[3] Bacry, Mastromatteo & Muzy 2015, "Hawkes processes in finance".
"""

import zlib
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from annotated_types import Interval, MinLen
from pydantic import NonNegativeInt, PositiveFloat

from pipeline.market.bars import Days
from pipeline.market.sessions import Date, TimeOfDay
from pipeline.market.time_zones import load_zone
from pipeline.orderbook import queues
from pipeline.orderbook.book import count_units, name_levels
from pipeline.orderbook.flow_messages import Tape, Terms
from pipeline.orderbook.order_flow import MID, simulate_session
from pipeline.orderbook.raw_table import ASK, BID, LEVELS, Arrays, join_days
from pipeline.orderbook.settings import FIRST_YEAR, LAST_YEAR
from pipeline.orderbook.simulated_facts import describe_book

HOURS_PER_DAY = 24
FRACTIONS_PER_UNIT = 10_000  # of sizes that are fractions
NS_PER_S = 10**9

Events = Annotated[int, Interval(ge=100, le=10_000_000)]
Hours = Annotated[float, Interval(gt=0, le=HOURS_PER_DAY)]


class Session(NamedTuple):
    """A day of a market, in ns since 1970, UTC."""

    day: str
    open_ns: int
    length_ns: int


class Scales(NamedTuple):
    """The ticks and units in 1."""

    tick_units: int
    price_units: float  # in a price of 1; a tick has `tick_units` of them
    size_units: float
    start: int  # ticks


def load(
    *,
    symbols: Annotated[list[str], MinLen(1)],
    start: Date,
    days: Days,
    events_per_day: Events,
    opens: TimeOfDay,
    hours: Hours,
    timezone: str,
    price: PositiveFloat,
    tick: PositiveFloat,
    sizes: Literal["lots", "fractions"],
    arrivals: Literal["poisson", "hawkes"],
    imbalance_effect: Annotated[float, Interval(ge=0, le=1)],
    seed: NonNegativeInt,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the raw table of all symbols and days, and the facts of each symbol's book; see `describe_book`.

    A session of less than 24 hours is held on weekdays alone. `price` is that of the first open; a day opens where the
    one before closed. A symbol's messages depend only on its name, the day's number and the parameters.

    Raises:
        ValueError: a symbol is repeated, a time zone is unknown, the price is no multiple of the tick or too few ticks,
            or it moves out of the range that a session has.
    """
    if len(set(symbols)) != len(symbols):
        raise ValueError(f"sources.simulated_book: symbols is {symbols}; give a list without repeats")
    scales = find_scales(price=price, tick=tick, sizes=sizes)
    sessions = list_sessions(start=start, days=days, opens=opens, hours=hours, timezone=timezone)
    terms = Terms(float(imbalance_effect), arrivals == "hawkes", sizes == "fractions")
    parts: list[tuple[str, str, Arrays]] = []
    report: dict[str, Any] = {}
    for symbol in symbols:
        tapes = [
            simulate_session(make_rng(seed, symbol, number), terms, events=events_per_day) for number in range(days)
        ]
        report[symbol] = describe_book(tapes)
        parts += _scale_days(symbol, tapes, sessions, scales)
    return join_days(parts), {"simulated": report}


def make_rng(seed: int, symbol: str, day: int) -> np.random.Generator:
    """Return the generator of a symbol's day, by its number: a longer simulation begins with the shorter one."""
    return np.random.default_rng([seed, zlib.crc32(symbol.encode()), day])


def find_scales(*, price: float, tick: float, sizes: str) -> Scales:
    """Return the units of prices and sizes; ValueError where the price is no multiple of the tick, or too low."""
    try:
        units, price_units = count_units(np.array([tick, price]), name="price")
    except ValueError as error:
        raise ValueError(
            f"sources.simulated_book: price is {price} and tick {tick}; from the first digit of one to the last of the "
            "other at most 15 digits are allowed, 12 of them decimals: round them"
        ) from error
    tick_units, start = int(units[0]), int(units[1]) // int(units[0])
    if start * tick_units != units[1] or start <= MID // 2:
        nearest = max(start, MID // 2 + 1) * tick_units / price_units
        raise ValueError(
            f"sources.simulated_book: price is {price}, which is {units[1] / units[0]:,.12g} times the tick of {tick}; "
            f"it must be a whole number of ticks, more than {MID // 2:,}: set price to {nearest:.12g}, or change tick"
        )
    return Scales(tick_units, price_units, FRACTIONS_PER_UNIT if sizes == "fractions" else 1, start)


def list_sessions(*, start: str, days: int, opens: str, hours: float, timezone: str) -> list[Session]:
    """Return the sessions of so many days from a date on; ValueError where the time zone or a year is unknown."""
    zone = load_zone(timezone, key="sources.simulated_book.timezone")
    day, sessions = date.fromisoformat(start), list[Session]()
    hour, minute = (int(part) for part in opens.split(":"))
    while len(sessions) < days:
        if not FIRST_YEAR <= day.year < LAST_YEAR:
            raise ValueError(
                f"sources.simulated_book: {days} days from {start} on reach {day}; they must lie within {FIRST_YEAR} "
                f"to {LAST_YEAR - 1}"
            )
        opening, following = (
            datetime.combine(each, time(hour % HOURS_PER_DAY, minute), tzinfo=zone)
            for each in (day, day + timedelta(days=1))
        )
        if hours == HOURS_PER_DAY or day.weekday() < 5:
            length_s = min(hours * 3600, following.timestamp() - opening.timestamp())  # a day of 23 hours ends earlier
            sessions.append(Session(str(day), int(opening.timestamp()) * NS_PER_S, int(length_s * NS_PER_S)))
        day += timedelta(days=1)
    return sessions


def _scale_days(
    symbol: str, tapes: list[Tape], sessions: list[Session], scales: Scales
) -> list[tuple[str, str, Arrays]]:
    """Return the arrays of each day in prices, sizes and ns; ValueError where a price is not above 0."""
    parts, start, orders = [], scales.start, 0
    for tape, session in zip(tapes, sessions, strict=True):
        arrays = scale_tape(tape, session, scales._replace(start=start), first_order=orders + 1)
        if arrays["price"].min() <= 0:
            raise ValueError(f"sources.simulated_book: {symbol} falls to 0 on {session.day}; raise price or lower tick")
        parts.append((symbol, session.day, arrays))
        orders += int(tape.order.max()) + 1
        start += int(tape.book[-1, 0] + tape.book[-1, 2 * LEVELS]) // 2 - MID
    return parts


def scale_tape(tape: Tape, session: Session, scales: Scales, *, first_order: int) -> Arrays:
    """Return the arrays of a session's raw table; hidden executions have the order id 0."""
    share = tape.time / tape.time[-1] if tape.time[-1] > 0 else tape.time
    arrays: Arrays = {
        "time_ns": session.open_ns + (share * (session.length_ns - 1)).astype(np.int64),
        "action": tape.action.astype(np.int8),
        "order_id": np.where(tape.order < 0, 0, tape.order + first_order),
        "size": tape.units / scales.size_units,
        "price": scale_prices(tape.price, scales),
        "side": np.where(tape.side == queues.BID, BID, ASK).astype(np.int8),
    }
    for j, name in enumerate(name_levels(LEVELS)):
        column = tape.book[:, j]
        if "_size_" in name:
            arrays[name] = column / scales.size_units
        else:
            arrays[name] = np.where(tape.book[:, j + LEVELS] > 0, scale_prices(column, scales), 0.0)
    return arrays


def scale_prices(ticks: npt.NDArray[np.int64], scales: Scales) -> npt.NDArray[np.float64]:
    """Return prices of ticks of a session, each the float64 nearest to its decimal number."""
    return (scales.start + ticks - MID) * scales.tick_units / scales.price_units
