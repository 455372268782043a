"""What a label could have earned: both sides of the trade at the quotes, fees included.

A market order decided at row t is executed `delay_bars` after the next event: a long trade buys at that ask, and sells
at the bid as much later than the end of its label; a short trade sells at the bid, and buys at the ask. There is no
queue, and no volume beyond the best level. A trade without quotes, as beyond the segment's end, has no return.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

COLUMNS = ["segment", "event", "ask_price_1", "bid_price_1"]  # of the clean table


@dataclass(frozen=True, eq=False)
class Executable:
    """Trades of one unit of value, of (N,) rows, from their order to the end of their labels; NaN without quotes."""

    long: np.ndarray  # net return, of the value traded at the entry
    short: np.ndarray
    move: np.ndarray  # return of the mid between the two executions, before costs
    half_spread: np.ndarray  # mean of both executions, relative to the mid


def measure_executable(
    clean: pd.DataFrame,
    *,
    segment: np.ndarray,
    time: np.ndarray,
    label_end: np.ndarray,
    delay_bars: int,
    cost_bps: float,
) -> Executable:
    """Return what long and short trades at rows (N,) earn until their labels end.

    Args:
        clean: the clean table of events, with COLUMNS.
        segment: (N,) of each row, in which its trade stays.
        time: (N,) the event of each row.
        label_end: (N,) the event at which its label ends.
        delay_bars: events between a decision and its execution, beyond the next one.
        cost_bps: fee and slippage, of the value traded on each side.
    """
    event, last = clean["event"].to_numpy(), len(clean) - 1
    order = np.argsort(event, kind="stable")
    places = [order[np.searchsorted(event[order], at)] + 1 + delay_bars for at in (time, label_end)]
    own, ask, bid = (clean[name].to_numpy() for name in ("segment", "ask_price_1", "bid_price_1"))
    is_quoted, quotes = np.ones(len(time), bool), []
    for place in places:
        at = np.minimum(place, last)
        is_quoted &= (place <= last) & (own[at] == segment) & (bid[at] > 0) & (ask[at] > bid[at])
        quotes += [np.where(is_quoted, ask[at], np.nan), np.where(is_quoted, bid[at], np.nan)]
    ask_entry, bid_entry, ask_exit, bid_exit = quotes
    cost, mids = cost_bps / 1e4, ((ask_entry + bid_entry) / 2, (ask_exit + bid_exit) / 2)
    spreads = (ask_entry - bid_entry) / mids[0], (ask_exit - bid_exit) / mids[1]
    return Executable(
        long=bid_exit / ask_entry * (1 - cost) - (1 + cost),
        short=(1 - cost) - ask_exit / bid_entry * (1 + cost),
        move=mids[1] / mids[0] - 1,
        half_spread=(spreads[0] + spreads[1]) / 4,
    )
