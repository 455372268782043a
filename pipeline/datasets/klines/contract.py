"""The bars that a deployment of a model on klines has to feed: interval, symbols, sessions, and fields with units."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.market.bars import SCHEMA, find_interval_ms
from pipeline.market.sessions import CALENDAR_KEYS

COLUMNS = ["symbol", "open_time"]
UNITS = {
    "symbol": "name",
    "open_time": "ms since 1970, UTC",
    "close_time": "ms since 1970, UTC",
    **dict.fromkeys(("open", "high", "low", "close"), "quote currency for one unit of the base"),
    **dict.fromkeys(("volume", "taker_buy_base"), "units of the base"),
    **dict.fromkeys(("quote_volume", "taker_buy_quote"), "quote currency"),
    "trades": "count",
}


def describe_bars(
    clean: pd.DataFrame,
    *,
    fields: Collection[str],
    calendar: Mapping[str, Any],
    symbols: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the bars of a table: `interval_ms`, `symbols`, `calendar`, `time_unit`, and `columns` with their units.

    `clean` has COLUMNS of the table, `fields` are the names of all. `calendar` is that section of the dataset.
    `symbols` are those that the model learned from; None: all of the table.
    """
    known = [str(symbol) for symbol in clean["symbol"].unique()]
    return {
        "interval_ms": find_interval_ms(clean),
        "symbols": [symbol for symbol in known if symbols is None or symbol in symbols],
        "calendar": {key: calendar[key] for key in CALENDAR_KEYS},
        "time_unit": "ms",
        "columns": {name: UNITS[name] for name in SCHEMA if name in fields},
    }
