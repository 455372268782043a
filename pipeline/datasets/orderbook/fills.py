"""The fills of market orders on an order book: at the mid of the next event, or later, and half its spread beside."""

import numpy as np
import pandas as pd

from pipeline.fills import CLOSES, FILLS, WAITS, Fills

BEST = ["ask_price_1", "bid_price_1", "ask_size_1", "bid_size_1"]
COLUMNS = ["segment", "time_ns", "close", "half_spread", *BEST]
NS_PER_YEAR = 365 * 86_400 * 10**9


def find_fills(clean: pd.DataFrame, *, delay_bars: int) -> Fills:
    """Return the fills of the orders decided at each event i: at event i + 1 + delay_bars of its segment.

    The price is the mid of that event; half its spread is `half_spread`, a part of the mid. Quote volume is the size of
    both best levels, at the mid. Where a side is empty, or the bid is not below the ask, nothing fills: the order
    waits, and the next one replaces it. At the last event of a segment what is held is closed, at the latest valid mid.
    """
    segment, time_ns, close, half_spread = (clean[name].to_numpy() for name in COLUMNS[:4])
    ask, bid, ask_size, bid_size = (clean[name].to_numpy() for name in BEST)
    row, first, last = np.arange(len(clean)), *_find_bounds(segment)
    place = np.minimum(row + 1 + min(delay_bars, len(clean)), last)
    following = np.where(row == last, place, np.append(place[1:], place[-1:]))
    is_valid = ((bid > 0) & (ask > 0) & (bid < ask))[place]
    latest = np.maximum(row - 1 - delay_bars, first - 1)  # the order whose fill is known: at the event itself
    return Fills(
        move=close[following] / close[place] - 1,
        years=(time_ns[following] - time_ns[place]) / NS_PER_YEAR,
        quote_volume=np.where(is_valid, (ask_size + bid_size)[place] * close[place], 0.0),
        outcome=np.where(place == last, CLOSES, np.where(is_valid, FILLS, WAITS)).astype(np.int8),
        crosses_gap=np.zeros(len(clean), dtype=bool),  # nothing is held after a segment
        lag=row - latest,
        half_spread=half_spread[place],
    )


def _find_bounds(segment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) the first row and (N,) the last row of the segment of each row."""
    row, border = np.arange(len(segment)), np.diff(segment) != 0
    first = np.maximum.accumulate(np.where(np.append(True, border), row, 0))
    last = np.minimum.accumulate(np.where(np.append(border, True), row, len(segment))[::-1])[::-1]
    return first, last
