"""One account under the loss limits of a prop firm, bar by bar, in compiled code; see `prop_firm` for the conventions.

Arguments of compiled functions are positional, since numba has no keyword-only ones.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

UNDECIDED, PASSED, DAILY, MAX = 0, 1, 2, 3  # the status of an account
ROUNDING = 1e-9  # of the initial balance: amounts closer than this are equal; of a lot, where sizes are cut to lots


class Bars(NamedTuple):
    """The bars of one symbol, the positions of a strategy over them, and where days begin."""

    before: np.ndarray  # (T,) close of the bar before; its own of the first bar
    high: np.ndarray  # (T,)
    low: np.ndarray  # (T,)
    close: np.ndarray  # (T,)
    position: np.ndarray  # (T,) target position over each bar
    first: np.ndarray  # (D + 1,) first bar of each day, and T


class Terms(NamedTuple):
    """The limits of an account as amounts, and how positions become units."""

    initial_balance: float
    daily_loss: float  # amount
    max_loss: float  # amount
    target: float  # amount; infinite where none ends the account
    min_days: int
    is_trailing: bool
    fee: float  # share of the value traded
    exposure: float  # value of a position of 1 as a multiple of the equity
    max_leverage: float  # largest value of a position as a multiple of the equity; infinite without a limit
    lot_size: float  # units; 0 where any size can be traded


class Holding(NamedTuple):
    """The units and the balance of an account."""

    units: float
    entry: float  # average price of the open units
    balance: float  # without the unrealized profit


class Walk(NamedTuple):
    """The end of a walk over days."""

    status: int
    step: int  # place in the sequence of days at which it ended; that of the last day where undecided
    bar: int  # at which it ended
    days: int  # on which a position was opened
    balance: float  # after closing all positions; at a breach the equity at the worst price
    highest: float  # balance at the midnights, at least the initial one


@njit(cache=True)
def size_units(position: float, equity: float, price: float, terms: Terms) -> float:
    """Return the units of a target position: leverage is capped, and lots are cut to whole ones toward zero."""
    weight = min(max(position * terms.exposure, -terms.max_leverage), terms.max_leverage)
    units = weight * equity / price
    if terms.lot_size > 0.0:
        return float(np.sign(units) * np.floor(abs(units) / terms.lot_size + ROUNDING) * terms.lot_size)
    return units


@njit(cache=True)
def trade_units(held: Holding, wanted: float, price: float, fee: float) -> Holding:
    """Return the account after a trade to `wanted` units; its balance has the fee and the profit of what is closed."""
    change = wanted - held.units
    balance = held.balance - abs(change) * price * fee
    if held.units * wanted <= 0.0:  # closed, reversed or opened from flat
        return Holding(wanted, price, balance + held.units * (price - held.entry))
    if abs(wanted) <= abs(held.units):
        return Holding(wanted, held.entry, balance - change * (price - held.entry))
    return Holding(wanted, (held.units * held.entry + change * price) / wanted, balance)


@njit(cache=True)
def value_at(held: Holding, price: float) -> float:
    """Return the equity at a price."""
    return held.balance + held.units * (price - held.entry)


@njit(cache=True)
def find_worst_price(units: float, i: int, bars: Bars) -> float:
    """Return the worst price of bar i for the units held over it, the close before included."""
    if units > 0.0:
        return float(min(bars.low[i], bars.before[i]))
    if units < 0.0:
        return float(max(bars.high[i], bars.before[i]))
    return float(bars.before[i])


@njit(cache=True)
def walk_account(
    bars: Bars,
    sequence: np.ndarray,
    start: int,
    stop: int,
    balance: float,
    highest: float,
    terms: Terms,
    equity: np.ndarray,
) -> Walk:
    """Return how an account ends that trades the days `sequence[start:stop]` of the bars, from flat and a balance.

    Prices of a day continue at the close of the day before it in the sequence. `equity` (T,), or of no bar, receives
    the equity at the closes of the bars up to the end. `highest` is the highest balance at midnights so far.
    """
    rounding, i, days = ROUNDING * terms.initial_balance, 0, 0
    held, position, price = Holding(0.0, 0.0, balance), 0.0, 0.0
    for step in range(start, stop):
        first, end = bars.first[sequence[step]], bars.first[sequence[step] + 1]
        scale = price / bars.before[first] if step > start else 1.0
        highest = max(highest, held.balance)
        daily_limit = held.balance - terms.daily_loss
        max_limit = (highest if terms.is_trailing else terms.initial_balance) - terms.max_loss
        limit, has_opened = max(daily_limit, max_limit) - rounding, False
        for i in range(first, end):
            price = bars.before[i] * scale
            if bars.position[i] != position:
                position = bars.position[i]
                wanted = size_units(position, value_at(held, price), price, terms)
                has_opened |= abs(wanted) > abs(held.units) or wanted * held.units < 0.0
                held = trade_units(held, wanted, price, terms.fee)
            worst = value_at(held, find_worst_price(held.units, i, bars) * scale)
            price = bars.close[i] * scale
            if worst < limit:
                status = DAILY if daily_limit > max_limit else MAX
                if len(equity):
                    equity[i:] = worst
                return Walk(status, step, i, days + has_opened, worst, highest)
            closed = trade_units(held, 0.0, price, terms.fee).balance
            if days + has_opened >= terms.min_days and closed >= terms.initial_balance + terms.target - rounding:
                if len(equity):
                    equity[i:] = closed
                return Walk(PASSED, step, i, days + has_opened, closed, highest)
            if len(equity):
                equity[i] = value_at(held, price)
        days += has_opened
    return Walk(UNDECIDED, stop - 1, i, days, trade_units(held, 0.0, price, terms.fee).balance, highest)
