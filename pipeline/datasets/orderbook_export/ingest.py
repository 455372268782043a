"""The clean table of an export: its rows, in a segment for each stretch of a day, with the mid and half the spread."""

import logging
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from annotated_types import Interval

from pipeline.orderbook.columns import COLUMNS, GATES

log = logging.getLogger(__name__)

MS_PER_HOUR = 3_600_000
BEST = ("ask_price_1", "bid_price_1")


def clean(
    table: pd.DataFrame,
    *,
    days_per_year: Annotated[float, Interval(gt=0, le=366)],
    hours_per_day: Annotated[float, Interval(gt=0, le=24)],
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the clean table and its report: the rows with `passes_gates`, `close` and `half_spread`.

    `close` is the mid, and `half_spread` the part of it that an order pays beside; a row whose book is one-sided or
    crossed has those of the last valid row of its segment, or else of the first one. A segment without any is dropped.
    Rows that do not pass the gates stay, since labels may end there, but have no features and no label. The keyword
    arguments are the section `calendar`.

    Raises:
        ValueError: an exported row that passes the gates has a value that is not finite, or no row passes.
    """
    passes = find_passing(table)
    check_finite(table, passes)
    ask, bid = (table[name].to_numpy(np.float64) for name in BEST)
    segment = table["segment"].to_numpy()
    is_valid = (bid > 0) & (ask >= bid)  # float32 may have rounded the two to one
    latest, is_known = _find_valid(segment, is_valid)
    mid = (ask[latest] + bid[latest]) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        half_spread = (ask[latest] - bid[latest]) / 2 / mid
    added = {"passes_gates": passes & is_valid, "close": mid, "half_spread": half_spread}
    cleaned = pd.concat([table, pd.DataFrame(added)], axis=1)  # one copy: frames of 100 columns are slow to extend
    cleaned = cleaned[is_known].reset_index(drop=True) if not is_known.all() else cleaned
    if not cleaned["passes_gates"].any():
        raise ValueError(
            "orderbook_export: no row passes the gates book_valid 1, mbo_ready 1, invalidity_delta 0; "
            "give an export of valid books"
        )
    cleaned["segment"] = np.cumsum(np.append(False, np.diff(cleaned["segment"]) != 0)).astype(np.int32)
    cleaned.attrs |= table.attrs | {"traded_ms_per_year": days_per_year * hours_per_day * MS_PER_HOUR}
    report = summarize(cleaned, rows=len(table))
    if report["gated_share"] > 0.1:
        log.warning(f"orderbook_export: {report['gated_share']:.0%} of the exported rows do not pass the gates")
    return cleaned, report


def find_passing(table: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Return (N,) whether a row is exported and passes every gate."""
    passes = table["is_exported"].to_numpy(bool).copy()
    for column, value in GATES.items():
        passes &= table[COLUMNS[column]].to_numpy() == np.float32(value)
    return passes


def check_finite(table: pd.DataFrame, passes: npt.NDArray[np.bool_]) -> None:
    """Raise ValueError where a row that passes the gates has a value that is not finite; names column and day."""
    for name in COLUMNS:
        if (wrong := passes & ~np.isfinite(table[name].to_numpy())).any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"orderbook_export: {name} is {table[name].iloc[row]} in {np.count_nonzero(wrong)} rows that pass the "
                f"gates, first on {table['day'].iloc[row]}; export finite values"
            )


def summarize(cleaned: pd.DataFrame, *, rows: int) -> dict[str, Any]:
    """Return the counts of a clean table, by gate too; the raw table had so many `rows`."""
    is_exported = cleaned["is_exported"].to_numpy()
    gated = {
        COLUMNS[column]: int(np.count_nonzero(is_exported & (cleaned[COLUMNS[column]].to_numpy() != np.float32(value))))
        for column, value in GATES.items()
    }
    passing = int(cleaned["passes_gates"].sum())
    return {
        "rows": len(cleaned),
        "dropped": {"segments_without_both_sides": rows - len(cleaned)},
        "rows_not_exported": int((~is_exported).sum()),
        "gated": gated,
        "gated_share": 1 - passing / int(is_exported.sum()),
        "segments": int(cleaned["segment"].iloc[-1]) + 1,
    }


def _find_valid(
    segment: npt.NDArray[np.integer], is_valid: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return (N,) the valid row by which each row is valued, and (N,) whether its segment has one."""
    rows = np.arange(len(segment))
    latest = np.maximum.accumulate(np.where(is_valid, rows, 0))
    following = np.minimum.accumulate(np.where(is_valid, rows, len(rows) - 1)[::-1])[::-1]
    is_early = ~is_valid[latest] | (segment[latest] != segment)
    found = np.where(is_early, following, latest)
    return found, is_valid[found] & (segment[found] == segment)
