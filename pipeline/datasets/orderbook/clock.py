"""The clock of an order book: the number of the event among those of all symbols, with its time beside."""

import numpy as np
import pandas as pd

TIME, UNIT = "event", "events"
COLUMNS = ["symbol", "segment", "event", "time_ns"]
NS_PER_MS = 1_000_000


def find_step(clean: pd.DataFrame) -> None:
    """Return None: the events of a symbol are no grid, since those of others have numbers too."""


def number_times(clean: pd.DataFrame, time: np.ndarray) -> None:
    """Return None: no calendar numbers the events."""


def count_rows_per_year(clean: pd.DataFrame) -> float:
    """Return the number of rows of all symbols in a year, at their mean rate while one of them is traded.

    `traded_ms_per_year` is by the calendar. A portfolio has a row for each event of any symbol.
    """
    spans = clean.groupby("segment")["time_ns"].agg(["min", "max"]).sort_values("min")
    start, end = spans["min"].to_numpy(), np.maximum.accumulate(spans["max"].to_numpy())
    before = np.append(start[:1], end[:-1])  # sessions of several symbols overlap: time counts once
    traded_ms = max(float(np.maximum(end - np.maximum(start, before), 0).sum()) / NS_PER_MS, 1.0)
    return float(clean.attrs["traded_ms_per_year"]) * len(clean) / traded_ms


def to_ms(clean: pd.DataFrame, time: np.ndarray) -> np.ndarray:
    """Return the instants of events."""
    event = clean["event"].to_numpy()
    order = np.argsort(event)
    return np.asarray(clean["time_ns"].to_numpy()[order[np.searchsorted(event[order], time)]] // NS_PER_MS)
