"""The clean table of klines: checked bars, in segments without gaps; stretches that no market made are reported."""

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd

from pipeline.datasets.klines.closings import apply_calendar, find_off_calendar, make_calendar
from pipeline.datasets.klines.synthetic import find_synthetic
from pipeline.datasets.klines.unusual_moves import describe_unusual_moves, find_unusual_moves
from pipeline.market import bars
from pipeline.market.checks import MAX_JUMP, format_time
from pipeline.market.sessions import AtOpen, Hours, Overnight

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
    beside. The report has `synthetic` and `unusual_moves` too, see `find_synthetic` and `find_unusual_moves`, and
    `jumps_across_gaps`: the bars after missing ones whose price is so far from that before that other units are likely.
    No bar is dropped for any of them.
    """
    calendar = make_calendar(exchange=exchange, features=features, positions=positions)
    find_off_grid = partial(find_off_calendar, calendar=calendar) if calendar else None
    cleaned, report = bars.clean(table, off_grid=off_grid, find_off_grid=find_off_grid)
    if calendar:
        cleaned, of_calendar = apply_calendar(cleaned, calendar)
        report |= of_calendar
    report |= {
        "jumps_across_gaps": bars.list_jumps_across_gaps(cleaned),
        "unusual_moves": find_unusual_moves(cleaned),
        "synthetic": find_synthetic(cleaned),
    }
    for warning in list_warnings(report, rows=len(table)):
        log.warning(warning)
    return cleaned, report


def list_warnings(report: dict[str, Any], *, rows: int) -> Iterator[str]:
    """Yield a sentence on each unusual finding of the report of a table, which had `rows` rows before."""
    if report["off_grid"]["count"]:
        first = report["off_grid"]["first_rows"][0]
        yield (
            f"klines: {report['off_grid']['count']:,} of {rows:,} bars open off the grid and are dropped: they "
            f"become gaps; the first is {first['symbol']} at {format_time(first['open_time'])}"
        )
    if report["gaps"]["count"]:
        closings = "where the market closes, set calendar.exchange"
        if "sessions" in report:
            closings = "a holiday or an early close that calendar.exchange lacks is a gap too"
        yield (
            f"klines: {report['missing_bars']:,} bars are missing, in {report['gaps']['count']:,} gap(s) beside "
            f"{report['rows']:,} bars; after each the features warm up again. Where a source leaves out bars without "
            f"trades, fill them with the last close and volume 0: sources.file.fill_gaps_bars; {closings}"
        )
    for symbol, found in report.get("sessions", {"symbols": {}})["symbols"].items():
        if 2 * found["without_first_bar"] > found["sessions"] - found["without_bars"]:
            yield (
                f"klines: {found['without_first_bar']:,} of {found['sessions']:,} sessions of {symbol} lack their "
                "first bar: bars are perhaps stamped by their close, or hours begin later than calendar.exchange has it"
            )
    if report["unusual_moves"]["count"]:
        yield describe_unusual_moves(report["unusual_moves"])
    if jumps := report["jumps_across_gaps"]["count"]:
        first = report["jumps_across_gaps"]["list"][0]
        yield (
            f"klines: the price jumps across {jumps} gap(s) by more than a factor {MAX_JUMP:g}; the first is "
            f"{first['symbol']} at {format_time(first['open_time'])}, to {first['close']}: check the source; the bars "
            "stay"
        )
    if (synthetic := report["synthetic"])["count"]:
        first = synthetic["list"][0]
        yield (
            f"klines: {synthetic['bars']} of {report['rows']} bars look synthetic, in {synthetic['count']} run(s); the "
            f"first is {first['bars']} bars of {first['symbol']} from {format_time(first['first_ms'])} "
            f"({first['kind']}): check the source; they stay in the table"
        )
