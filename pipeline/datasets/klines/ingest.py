"""The clean table of klines: checked bars, in segments without gaps; stretches that no market made are reported."""

import logging
from typing import Any

import pandas as pd

from pipeline.datasets.klines.closings import AtOpen, Overnight, apply_calendar, make_calendar
from pipeline.datasets.klines.synthetic import find_synthetic
from pipeline.market import bars
from pipeline.market.checks import MAX_JUMP
from pipeline.market.sessions import Hours

log = logging.getLogger(__name__)


def clean(
    table: pd.DataFrame,
    *,
    exchange: str | Hours | None,
    features: AtOpen,
    positions: Overnight,
    off_grid: bars.OffGrid,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the clean table and its report, see `bars.clean`; it warns of what is unusual.

    The keyword arguments are the section `calendar`. `off_grid` says whether bars that open off the grid of most bars
    are refused or dropped. Where the market has sessions, `apply_calendar` says what the table and the report have
    beside. The report has `synthetic` too, see `find_synthetic`, and `jumps_across_gaps`: the bars after missing ones
    whose price is so far from that before that a split or other units are likely. No bar is dropped for either.
    """
    calendar = make_calendar(exchange=exchange, features=features, positions=positions)
    cleaned, report = bars.clean(table, off_grid=off_grid)
    if report["off_grid"]["count"]:
        first = report["off_grid"]["first_rows"][0]
        log.warning(
            f"klines: {report['off_grid']['count']:,} of {len(table):,} bars open off the grid and are dropped: they "
            f"become gaps; the first is {first['symbol']} at {first['open_time']}"
        )
    if calendar:
        cleaned, of_calendar = apply_calendar(cleaned, calendar)
        report |= of_calendar
    jumps = bars.list_jumps_across_gaps(cleaned)
    if jumps["count"]:
        first = jumps["list"][0]
        log.warning(
            f"klines: the price jumps across {jumps['count']} gap(s) by more than a factor {MAX_JUMP:g}; the first is "
            f"{first['symbol']} at {first['open_time']}, to {first['close']}: check the source; the bars stay"
        )
    synthetic = find_synthetic(cleaned)
    if synthetic["count"]:
        first = synthetic["list"][0]
        log.warning(
            f"klines: {synthetic['bars']} of {len(cleaned)} bars look synthetic, in {synthetic['count']} run(s); the "
            f"first is {first['bars']} bars of {first['symbol']} from {first['first_ms']} ({first['kind']}): check the "
            "source; they stay in the table"
        )
    return cleaned, report | {"jumps_across_gaps": jumps, "synthetic": synthetic}
