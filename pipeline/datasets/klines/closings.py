"""The section `calendar` of klines: sessions whose closings are no gaps, and what a closing does to rows and positions.

The clean table then has two columns more, which later stages use where they exist:

- `bar_number`, int64: of the bar among all that the calendar has; bars with only closed hours between them are adjacent
- `closes_positions`, bool: whether what is held is closed at the bar's open, which is the last one of its session
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pandas as pd

from pipeline.market import bars
from pipeline.market.sessions import (
    OUTSIDE,
    AtOpen,
    Hours,
    Overnight,
    Sessions,
    count_bars,
    count_bars_per_year,
    find_off_grid,
    find_zone,
    list_years,
    number_bars,
)
from pipeline.market.time_zones import read_as_local

DAY_MS = 86_400_000
MAX_MISFITS = 0.05  # of the bars outside of the sessions, when another reading of the times explains them


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """When a market is open, and what its closings do."""

    exchange: str | Hours  # a code of exchange_calendars, such as XNYS, or hours
    features: AtOpen  # continue over closings, or restart in a segment of its own after each
    positions: Overnight  # hold over closings, or close at the open of a session's last bar


def make_calendar(*, exchange: str | Hours | None, features: AtOpen, positions: Overnight) -> Calendar | None:
    """Return the calendar that a section describes; None where `exchange` is null: the market never closes.

    Raises:
        ValueError: `features` or `positions` ask for what only a market with closings has.
    """
    if exchange is not None:
        return Calendar(exchange=exchange, features=features, positions=positions)
    if (features, positions) != ("continue", "hold"):
        raise ValueError(
            f"calendar: features is {features!r} and positions {positions!r}, but exchange is null, a market that "
            "never closes; set them to 'continue' and 'hold', or exchange to a code or hours"
        )
    return None


def apply_calendar(clean: pd.DataFrame, calendar: Calendar) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return a clean table with the columns and segments of a calendar, and its report, see `bars.summarize`.

    The report has `sessions` beside. The table's attribute `bars_per_year` is that of the calendar's whole years.

    Raises:
        ValueError: bars open outside of the sessions or off their grid; names their count, the first, and what to set.
    """
    time, bar_ms = clean["open_time"].to_numpy(np.int64), bars.find_interval_ms(clean)
    first, last = int(time.min()), int(time.max())
    sessions = list_years(first, last, exchange=calendar.exchange)
    number, is_session_end = number_bars(time, sessions, bar_ms=bar_ms)
    _raise_if_outside(clean, number == OUTSIDE, sessions=sessions, bar_ms=bar_ms, calendar=calendar)
    closes = is_session_end if calendar.positions == "close" else np.zeros(len(time), dtype=bool)
    table = clean.assign(bar_number=number, closes_positions=closes)
    table["segment"] = bars.number_segments(table, at_closings=calendar.features == "restart")
    table.attrs["bars_per_year"] = count_bars_per_year(first, last, sessions, bar_ms=bar_ms)
    ends = np.cumsum(count_bars(sessions, bar_ms=bar_ms))[sessions.ends_session]  # one beyond each session's last bar
    described = {
        "exchange": calendar.exchange,
        "features": calendar.features,
        "positions": calendar.positions,
        "bars_per_year": table.attrs["bars_per_year"],
        "symbols": {str(part["symbol"].iloc[0]): _summarize_sessions(part, ends) for part in bars.split_symbols(table)},
    }
    return table, bars.summarize(table) | {"sessions": described}


def find_off_calendar(time: np.ndarray, bar_ms: int, *, calendar: Calendar) -> np.ndarray:
    """Return (N,) the bars inside of a session that open off its grid: its open plus whole intervals."""
    sessions = list_years(int(time.min()), int(time.max()), exchange=calendar.exchange)
    return find_off_grid(time, sessions, bar_ms=bar_ms)


def _raise_if_outside(
    table: pd.DataFrame, is_outside: np.ndarray, *, sessions: Sessions, bar_ms: int, calendar: Calendar
) -> None:
    if not is_outside.any():
        return
    rows = table[is_outside].iloc[: bars.MAX_LISTED_ROWS]
    listed = "; ".join(
        f"{symbol} {time} ({pd.Timestamp(time, unit='ms')} UTC)"
        for symbol, time in zip(rows["symbol"], rows["open_time"], strict=True)
    )
    time = table["open_time"].to_numpy(np.int64)
    remedy = (
        "Set calendar.exchange to hours that contain them, such as those before and after the main session, or remove "
        "these bars from the source"
    )
    readings = list(_list_readings(time, bar_ms=bar_ms, calendar=calendar))
    misfits = [int((number_bars(each, sessions, bar_ms=bar_ms)[0] == OUTSIDE).sum()) for each, _ in readings]
    if min(misfits) <= MAX_MISFITS * is_outside.sum():
        remedy = readings[misfits.index(min(misfits))][1]
    elif bar_ms % DAY_MS == 0:
        remedy = _advise_daily(time, calendar)
    raise ValueError(
        f"klines: {is_outside.sum():,} of {len(table):,} bars open outside of the calendar's sessions; the first: "
        f"{listed}. {remedy}"
    )


def _list_readings(time: np.ndarray, *, bar_ms: int, calendar: Calendar) -> Iterator[tuple[np.ndarray, str]]:
    """Yield other readings of times: what they are then, and what to do where these fit the sessions."""
    by_close = f"by their close: subtract {bar_ms} ms from open_time"
    yield time - bar_ms, f"Bars fit the sessions where they are stamped {by_close}; to remove some would leak"
    zone = find_zone(calendar.exchange, _find_day(time))
    local, setting = read_as_local(time, zone), f"set sources.file.timezone={zone.key}"
    yield local, f"Bars fit the sessions where their times are local ones of {zone.key}: {setting}"
    yield local - bar_ms, f"Bars fit the sessions where times are local ones of {zone.key}: {setting}; and {by_close}"


def _advise_daily(time: np.ndarray, calendar: Calendar) -> str:
    """Return what to set for bars of days, which open at a midnight and not at that of a session."""
    zone = "UTC" if not (time % DAY_MS).any() else find_zone(calendar.exchange, _find_day(time)).key
    return (
        f'Bars of days open at midnight: set calendar.exchange to hours with timezone: {zone}, open: "00:00", close: '
        '"24:00", the weekdays and the holidays, and no early_closes'
    )


def _find_day(time: np.ndarray) -> date:
    return datetime.fromtimestamp(int(time.min()) / 1000, UTC).date()


def _summarize_sessions(part: pd.DataFrame, ends: np.ndarray) -> dict[str, int]:
    """Return a symbol's sessions from its first to its last: all, those without a bar, a first bar, or a last trade.

    `ends` are the numbers one beyond the last bar of each session. Positions cannot be closed in a session whose last
    bar is missing or has no volume: they are held over the closing.
    """
    number = part["bar_number"].to_numpy()
    session = np.searchsorted(ends, number, side="right")
    all_sessions = np.arange(session[0], session[-1])  # the last one may go on after the table
    traded = number[part["volume"].to_numpy() > 0]
    firsts = np.append(0, ends)[all_sessions + 1]  # of the sessions after the first, in which the table may begin
    return {
        "sessions": int(session[-1] - session[0] + 1),
        "without_bars": int(session[-1] - session[0] + 1 - len(np.unique(session))),
        "without_first_bar": int((~np.isin(firsts, number)).sum()),
        "without_last_trade": int((~np.isin(ends[all_sessions] - 1, traded)).sum()),
    }
