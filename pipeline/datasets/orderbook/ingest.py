"""The clean table of an order book: checked events, in a segment for each symbol's day or piece between halts."""

import logging
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from annotated_types import Interval

from pipeline.orderbook.checks import BestQuotes, check_raw, count_events, find_halted, take_best
from pipeline.orderbook.raw_table import KEYS

log = logging.getLogger(__name__)

MS_PER_HOUR = 3_600_000


def clean(
    table: pd.DataFrame,
    *,
    days_per_year: Annotated[float, Interval(gt=0, le=366)],
    hours_per_day: Annotated[float, Interval(gt=0, le=24)],
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the clean table and its report: the raw events with `segment`, `close` and `half_spread`.

    `close` is the mid, and `half_spread` the part of it that an order pays beside. A row whose book is one-sided,
    crossed or locked has those of the last valid row of its segment. Dropped are rows before the first valid one, and
    those of halts. The keyword arguments are the section `calendar`: how long a symbol is traded in a year.

    Raises:
        ValueError: an event makes the state of the book wrong, see `check_raw`; or no row has both sides.
    """
    check_raw(table)
    starts = _find_starts(table[list(KEYS)])
    halted = find_halted(table["action"].to_numpy(), table["price"].to_numpy(np.float64), starts)
    segment = np.cumsum(starts | np.append(False, halted[:-1] & ~halted[1:]))
    quotes = take_best(table)
    is_early = _find_early(segment, quotes.is_valid & ~halted)
    is_used = ~(halted | is_early)
    if not is_used.any():
        raise ValueError("orderbook: no event has a book with both sides, the bid below the ask; correct the source")
    report = count_events(table, segment)
    close, half_spread = _value_rows(quotes)
    cleaned = table.assign(segment=segment, close=close, half_spread=half_spread)
    if not is_used.all():
        cleaned = cleaned[is_used].reset_index(drop=True)
    cleaned["segment"] = _renumber(cleaned["segment"].to_numpy())
    cleaned.attrs["traded_ms_per_year"] = days_per_year * hours_per_day * MS_PER_HOUR
    report = {
        "rows": len(cleaned),
        "dropped": {"halted": int(halted.sum()), "before_both_sides": int((is_early & ~halted).sum())},
        "invalid_book": int(np.count_nonzero(~quotes.is_valid[is_used])),
        **report,
        "segments": _describe_segments(cleaned),
    }
    for warning in list_warnings(report):
        log.warning(warning)
    return cleaned, report


def list_warnings(report: dict[str, Any]) -> list[str]:
    """Return a sentence on each unusual finding of a report."""
    found = []
    if report["book"]["crossed"]:
        found.append(f"orderbook: {report['book']['crossed']:,} rows have a crossed book; they are no valid rows")
    if report["dropped"]["halted"]:
        found.append(f"orderbook: {report['dropped']['halted']:,} rows are of halts, and are dropped")
    if report["executions"]["size_differs"] > 0.01 * max(report["actions"]["executions"], 1):
        found.append(
            f"orderbook: at {report['executions']['size_differs']:,} of {report['actions']['executions']:,} executions "
            "the best level does not lose their size; messages and books may not belong together"
        )
    if report["orders"]["repeated_ids"]:
        found.append(f"orderbook: {report['orders']['repeated_ids']:,} orders have the id of an earlier one")
    return found


def _find_starts(keys: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Return (N,) whether a row is the first of a symbol's day."""
    symbol, day = (pd.factorize(keys[name])[0] for name in ("symbol", "day"))
    return np.append(True, (np.diff(symbol) != 0) | (np.diff(day) != 0))


def _find_early(segment: npt.NDArray[np.int64], is_valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return (N,) whether no row of the segment is valid yet."""
    first = np.append(True, np.diff(segment) != 0)
    valid_rows = np.cumsum(is_valid)
    before = np.where(first, valid_rows - is_valid, 0)
    return np.asarray(valid_rows == np.maximum.accumulate(before))


def _value_rows(quotes: BestQuotes) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return (N,) the mid and the relative half spread of the latest valid row; rows before it are no valid values."""
    rows = np.arange(len(quotes.ask))
    latest = np.maximum.accumulate(np.where(quotes.is_valid, rows, 0))
    mid = (quotes.ask[latest] + quotes.bid[latest]) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return mid, (quotes.ask[latest] - quotes.bid[latest]) / 2 / mid


def _renumber(segment: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Return (N,) the numbers of segments from 0, without holes."""
    return np.asarray(np.cumsum(np.append(False, np.diff(segment) != 0)), dtype=np.int32)


def _describe_segments(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the symbol, day, first event, rows and seconds of every segment."""
    starts = np.flatnonzero(np.append(True, np.diff(table["segment"].to_numpy()) != 0))
    stops = np.append(starts[1:], len(table))
    time = table["time_ns"].to_numpy()
    first = table[["symbol", "day", "event"]].iloc[starts]
    return [
        {
            "symbol": str(symbol),
            "day": str(day),
            "first_event": int(event),
            "rows": int(stop - start),
            "seconds": float((time[stop - 1] - time[start]) / 1e9),
        }
        for (symbol, day, event), start, stop in zip(first.itertuples(index=False), starts, stops, strict=True)
    ]
