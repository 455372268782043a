"""The events that a deployment of a model on an order book has to feed: symbols, and fields with units."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

COLUMNS = ["symbol"]
UNITS = {
    "symbol": "name",
    "event": "number of the event",
    "time_ns": "ns since 1970, UTC",
    "action": "1 add, 2 partial cancel, 3 delete, 4 execution, 5 hidden execution, 6 cross, 7 halt",
    "order_id": "number of the order",
    "size": "units",
    "price": "currency",
    "side": "1: the resting order is a bid; -1: an ask",
}


def describe_bars(
    clean: pd.DataFrame,
    *,
    fields: Collection[str],
    calendar: Mapping[str, Any],
    symbols: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the events of a table: `symbols`, `calendar`, `time_unit`, and `columns` with their units.

    `clean` has COLUMNS of the table, `fields` are the names of all. `calendar` is that section of the dataset.
    `symbols` are those that the model learned from; None: all of the table.
    """
    known = [str(symbol) for symbol in clean["symbol"].unique()]
    levels = {
        name: UNITS["price" if "price" in name else "size"] for name in fields if name.startswith(("ask_", "bid_"))
    }
    return {
        "symbols": [symbol for symbol in known if symbols is None or symbol in symbols],
        "calendar": dict(calendar),
        "time_unit": "ns",
        "columns": {name: unit for name, unit in UNITS.items() if name in fields} | levels,
    }
