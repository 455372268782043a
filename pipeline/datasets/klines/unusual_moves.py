"""Moves of klines that a market hardly makes: of bad prints, splits that are not adjusted, and two instruments in one.

They are reported, never dropped: a stock may open far from its last close.
"""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.market.checks import format_time

MAX_MOVE = 1.5  # factor: opens of BTC and ARB, 2017 to 2025, lie within 1.07 of the close before
MAX_LISTED = 3
KINDS = {  # what a move is of, and from what
    "open": "open from the close before",
    "high": "high from open and close",
    "low": "low from open and close",
}


def find_unusual_moves(bars: pd.DataFrame) -> dict[str, Any]:
    """Return the moves by more than a factor MAX_MOVE: their `count`, that of each of KINDS, and a `list` of the first.

    `bars` are a clean table. An open is compared with the close before it of the same symbol, whether the market closes
    or bars are missing in between. An entry has the symbol, the time (ISO 8601, UTC), the kind, and both prices.
    """
    opened, high, low, close = (bars[name].to_numpy(np.float64) for name in ("open", "high", "low", "close"))
    before = np.where((bars["symbol"] == bars["symbol"].shift()).to_numpy(bool), np.roll(close, 1), opened)
    pairs = {
        "open": (opened, before),
        "high": (high, np.maximum(opened, close)),
        "low": (low, np.minimum(opened, close)),
    }
    rows = {kind: np.flatnonzero(np.abs(np.log(a / b)) > np.log(MAX_MOVE)) for kind, (a, b) in pairs.items()}
    first = sorted((int(row), kind) for kind, found in rows.items() for row in found[:MAX_LISTED])[:MAX_LISTED]
    return {
        "limit": MAX_MOVE,
        "count": sum(len(found) for found in rows.values()),
        "kinds": {kind: len(found) for kind, found in rows.items()},
        "list": [
            {
                "symbol": str(bars["symbol"].iloc[row]),
                "time": format_time(int(bars["open_time"].iloc[row])),
                "kind": kind,
                "price": float(pairs[kind][0][row]),
                "from": float(pairs[kind][1][row]),
            }
            for row, kind in first
        ],
    }


def describe_unusual_moves(found: dict[str, Any]) -> str:
    """Return the sentence of the log: counts by kind, the first moves, and what to check."""
    counts = ", ".join(f"{count:,} of {KINDS[kind]}" for kind, count in found["kinds"].items() if count)
    first = "; ".join(
        f"{each['symbol']} {each['time']} {each['kind']} {each['price']:g} from {each['from']:g}"
        for each in found["list"]
    )
    return (
        f"klines: prices move by more than a factor {found['limit']:g} ({counts}); the first: {first}: check for bad "
        "prints, splits that are not adjusted, or another instrument; the bars stay"
    )
