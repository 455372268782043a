"""The section `calendar` of klines: sessions whose closings are no gaps, and what a closing does to rows and positions.

The clean table then has two columns more, which later stages use where they exist:

- `bar_number`, int64: of the bar among all that the calendar has; bars with only closed hours between them are adjacent
- `closes_positions`, bool: whether what is held is closed at the bar's open, which is the last one of its session
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from pipeline.market import bars
from pipeline.market.sessions import OUTSIDE, Hours, count_bars, count_bars_per_year, list_years, number_bars

AtOpen = Literal["continue", "restart"]
Overnight = Literal["hold", "close"]


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
    _raise_if_outside(clean, number == OUTSIDE, bar_ms=bar_ms)
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


def _raise_if_outside(table: pd.DataFrame, is_outside: np.ndarray, *, bar_ms: int) -> None:
    if not is_outside.any():
        return
    rows = table[is_outside].iloc[: bars.MAX_LISTED_ROWS]
    listed = "; ".join(
        f"{symbol} {time} ({pd.Timestamp(time, unit='ms')} UTC)"
        for symbol, time in zip(rows["symbol"], rows["open_time"], strict=True)
    )
    raise ValueError(
        f"klines: {is_outside.sum():,} of {len(table):,} bars open outside of the calendar's sessions, or not a whole "
        f"number of {bar_ms} ms after a session's open; the first: {listed}. Set calendar.exchange to hours that "
        "contain them, such as those before and after the main session, or remove these bars from the source"
    )


def _summarize_sessions(part: pd.DataFrame, ends: np.ndarray) -> dict[str, int]:
    """Return a symbol's sessions from its first to its last: all, those without a bar, and those without a last trade.

    `ends` are the numbers one beyond the last bar of each session. Positions cannot be closed in a session whose last
    bar is missing or has no volume: they are held over the closing.
    """
    number = part["bar_number"].to_numpy()
    session = np.searchsorted(ends, number, side="right")
    all_sessions = np.arange(session[0], session[-1])  # the last one may go on after the table
    traded = number[part["volume"].to_numpy() > 0]
    return {
        "sessions": int(session[-1] - session[0] + 1),
        "without_bars": int(session[-1] - session[0] + 1 - len(np.unique(session))),
        "without_last_trade": int((~np.isin(ends[all_sessions] - 1, traded)).sum()),
    }
