"""The raw table of an order book: one row for each event, with the book after it; every source returns it.

`symbol`, `day` (such as 2012-06-21), `event`, `time_ns` (since 1970, UTC), `action`, `order_id`, `size` and `price` of
the event, `side` of the resting order, and the ten best levels of both sides. `event` numbers the events of all symbols
in time order: it is the clock. A level that is empty has price 0 and size 0. The price of a HALT says what it is:
PRICE_RESUMED where trading resumes, and no more than 0 where it halts or only quotes resume.
"""

from collections.abc import MutableMapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.orderbook.columns import BOOK
from pipeline.orderbook.columns import LEVELS as LEVELS

ADD, CANCEL, DELETE, EXECUTE, EXECUTE_HIDDEN, CROSS, HALT = range(1, 8)  # LOBSTER's codes
ACTIONS = {
    ADD: "adds",
    CANCEL: "cancels",
    DELETE: "deletes",
    EXECUTE: "executions",
    EXECUTE_HIDDEN: "hidden_executions",
    CROSS: "crosses",
    HALT: "halts",
}
BID, ASK = 1, -1
PRICE_RESUMED = 1.0
SIDES = ("ask", "bid")

KEYS = ("symbol", "day", "event", "time_ns")
MESSAGE = ("action", "order_id", "size", "price", "side")
COLUMNS = (*KEYS, *MESSAGE, *BOOK)
TYPES = {"event": "int64", "time_ns": "int64", "action": "int8", "order_id": "int64", "side": "int8"}

Arrays = MutableMapping[str, npt.NDArray[Any]]


def name_levels(side: str, what: str) -> list[str]:
    """Return the names of the levels of a side, best first; `what` is price or size."""
    return [f"{side}_{what}_{i}" for i in range(1, LEVELS + 1)]


def join_days(parts: Sequence[tuple[str, str, Arrays]]) -> pd.DataFrame:
    """Return the raw table of days, each a symbol, a day and the arrays of its events in order, all columns but KEYS.

    The arrays have `time_ns` beside; they are taken out of the mappings, so that one column alone is in memory twice.
    Events of several symbols are numbered in time order, those of one instant by symbol.
    """
    parts = sorted(parts, key=lambda part: part[:2])
    symbols, days = zip(*(part[:2] for part in parts), strict=True)
    arrays = [part[2] for part in parts]
    counts = [len(each["time_ns"]) for each in arrays]
    columns: dict[str, Any] = {"symbol": repeat_texts(symbols, counts), "day": repeat_texts(days, counts)}
    columns["time_ns"] = np.concatenate([each.pop("time_ns") for each in arrays])
    columns["event"] = number_events(columns["time_ns"])
    for name in (*MESSAGE, *BOOK):
        joined = np.concatenate([each.pop(name) for each in arrays])
        columns[name] = joined.astype(TYPES.get(name, "float64"), copy=False)
    return pd.DataFrame({name: columns[name] for name in COLUMNS}, copy=False)


def number_events(time_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return (N,) the number of each event in time order; those of one instant stay in the order of the rows.

    >>> number_events(np.array([5, 7, 7, 5, 6]))
    array([0, 3, 4, 1, 2])
    """
    number = np.empty(len(time_ns), np.int64)
    number[np.argsort(time_ns, kind="stable")] = np.arange(len(time_ns))
    return number


def repeat_texts(texts: Sequence[str], counts: Sequence[int]) -> pd.Series:
    """Return a column in which each text is repeated."""
    return pd.Series(list(texts), dtype="str").repeat(counts).reset_index(drop=True)
