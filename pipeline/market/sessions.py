"""The sessions of a market: when it is open, by an exchange's calendar or by hours given in params.

A session is an interval [open, close) of a date, in ms UTC; a break, such as one at noon, divides it into two. Hours
are local: daylight saving moves them in UTC. A market that never closes has no calendar.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
from annotated_types import Interval, MinLen
from pydantic import AfterValidator, ConfigDict, with_config
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from pipeline.market.bars import YEAR_MS
from pipeline.market.checks import format_time
from pipeline.market.time_zones import load_zone

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MARGIN_DAYS = 7  # before the first year and after the last: a session may open on the date before its own
OUTSIDE = -1  # number of a bar that no session has


def check_time(text: str) -> str:
    """Return a time of day; an error of pydantic where it is none."""
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d|24:00", text):
        raise PydanticCustomError("time_of_day", 'HH:MM in quotes, such as "09:30" or "24:00"')
    return text


def check_date(text: str) -> str:
    """Return a date; an error of pydantic where it is none."""
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) and date.fromisoformat(text):
            return text
    except ValueError:
        pass
    raise PydanticCustomError("date", 'a date that exists, YYYY-MM-DD in quotes, such as "2024-07-04"')


TimeOfDay = Annotated[str, AfterValidator(check_time)]
Date = Annotated[str, AfterValidator(check_date)]
CALENDAR_KEYS = ("exchange", "features", "positions")  # of the section `calendar`, on which live bars depend
AtOpen = Literal["continue", "restart"]  # what features do where a session opens
Overnight = Literal["hold", "close"]  # what happens to positions where one closes
Weekday = Annotated[int, Interval(ge=0, le=6)]  # 0 is Monday


@with_config(ConfigDict(strict=True, extra="forbid"))
class Hours(TypedDict):
    """Hours of a market that the library does not know; dates and weekdays are those of the day of the close."""

    timezone: str  # such as America/New_York
    open: TimeOfDay  # local; where it is not before `close`, the session opens on the day before
    close: TimeOfDay
    weekdays: Annotated[list[Weekday], MinLen(1)]
    holidays: list[Date]  # without a session
    early_closes: dict[Date, TimeOfDay]


@dataclass(frozen=True, eq=False)
class Sessions:
    """Intervals in which a market is open, ascending, without overlap."""

    open_ms: Integers  # (S,)
    close_ms: Integers  # (S,), the first instant at which the market is closed
    ends_session: Mask  # (S,) whether the session ends with the interval; False before a break


def list_sessions(first: date, last: date, *, exchange: str | Hours) -> Sessions:
    """Return the sessions of the dates from `first` to `last`, both included.

    Raises:
        ValueError: the library is missing or does not know the exchange or the dates; hours name no time zone, or
            sessions overlap.
    """
    found = (
        _ask_library(first, last, code=exchange) if isinstance(exchange, str) else _apply_hours(first, last, exchange)
    )
    bad = found.close_ms <= found.open_ms
    bad[:-1] |= found.open_ms[1:] < found.close_ms[:-1]
    if bad.any():
        at = int(np.argmax(bad))
        raise ValueError(
            f"calendar.exchange: a session ends after the next one opens, or before its own open, as that from "
            f"{format_time(int(found.open_ms[at]))} to {format_time(int(found.close_ms[at]))}; correct open, close and "
            "early_closes"
        )
    return found


def list_years(first_ms: int, last_ms: int, *, exchange: str | Hours) -> Sessions:
    """Return the sessions of the whole years from that of `first_ms` to `last_ms`'s, and of a week on both sides."""
    first, last = (datetime.fromtimestamp(ms / 1000, UTC).year for ms in (first_ms, last_ms))
    margin = timedelta(days=MARGIN_DAYS)
    return list_sessions(date(first, 1, 1) - margin, date(last, 12, 31) + margin, exchange=exchange)


def count_bars(sessions: Sessions, *, bar_ms: int) -> Integers:
    """Return (S,) the number of bars of each interval; the last one may be cut short by the close."""
    return np.asarray(-(-(sessions.close_ms - sessions.open_ms) // bar_ms))


def list_bar_opens(sessions: Sessions, *, bar_ms: int) -> Integers:
    """Return the open times of all bars, in ms UTC; the bars of an interval begin with its open."""
    counts = count_bars(sessions, bar_ms=bar_ms)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(np.repeat(sessions.open_ms, counts) + within * bar_ms)


def find_off_grid(time_ms: Integers, sessions: Sessions, *, bar_ms: int) -> Mask:
    """Return (N,) whether a bar opens while the market is open, but not whole intervals after the open."""
    place = np.maximum(np.searchsorted(sessions.open_ms, time_ms, side="right") - 1, 0)
    is_open = (time_ms >= sessions.open_ms[place]) & (time_ms < sessions.close_ms[place])
    return np.asarray(is_open & ((time_ms - sessions.open_ms[place]) % bar_ms != 0))


def number_bars(time_ms: Integers, sessions: Sessions, *, bar_ms: int) -> tuple[Integers, Mask]:
    """Return (N,) the number of the bar that opens at each time among all of the sessions, and whether it ends one.

    The number is OUTSIDE where no bar of the sessions opens.
    """
    counts = count_bars(sessions, bar_ms=bar_ms)
    interval = np.searchsorted(sessions.open_ms, time_ms, side="right") - 1
    place = np.maximum(interval, 0)
    within, rest = np.divmod(time_ms - sessions.open_ms[place], bar_ms)
    is_open = (interval >= 0) & (time_ms < sessions.close_ms[place]) & (rest == 0)
    number = np.where(is_open, (np.cumsum(counts) - counts)[place] + within, OUTSIDE)
    return number, np.asarray(is_open & sessions.ends_session[place] & (within == counts[place] - 1))


def count_bars_per_year(first_ms: int, last_ms: int, sessions: Sessions, *, bar_ms: int) -> float:
    """Return the bars of the average year of 365 days, over the whole years from that of `first_ms` to `last_ms`'s."""
    years = [datetime.fromtimestamp(ms / 1000, UTC).year for ms in (first_ms, last_ms)]
    start, end = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000) for year in (years[0], years[1] + 1))
    is_within = (sessions.open_ms >= start) & (sessions.open_ms < end)
    return float(count_bars(sessions, bar_ms=bar_ms)[is_within].sum() * YEAR_MS / (end - start))


def _apply_hours(first: date, last: date, hours: Hours) -> Sessions:
    """Return the sessions of explicit hours."""
    zone = load_zone(hours["timezone"], key="calendar.exchange.timezone")
    _check_early_closes(hours)
    holidays = set(hours["holidays"])
    opens, closes = [], []
    for day in (first + timedelta(days=n) for n in range((last - first).days + 1)):
        if day.weekday() not in hours["weekdays"] or day.isoformat() in holidays:
            continue
        before = timedelta(days=hours["open"] >= hours["close"])
        opens.append(_find_instant_ms(day - before, hours["open"], zone))
        closes.append(_find_instant_ms(day, hours["early_closes"].get(day.isoformat(), hours["close"]), zone))
    return Sessions(np.array(opens, np.int64), np.array(closes, np.int64), np.ones(len(opens), dtype=bool))


def _check_early_closes(hours: Hours) -> None:
    """Raise ValueError where an early close is of a date without a session, or is not before the usual close."""
    for day, time in hours["early_closes"].items():
        fault = ""
        if date.fromisoformat(day).weekday() not in hours["weekdays"] or day in hours["holidays"]:
            fault = "is of a date without a session"
        elif time >= hours["close"]:
            fault = f"is not before the usual close, {hours['close']}"
        if fault:
            raise ValueError(f"calendar.exchange.early_closes: {day} ({time}) {fault}; correct or remove it")


def find_zone(exchange: str | Hours, day: date) -> ZoneInfo:
    """Return the time zone of an exchange, of which the library knows the date `day`."""
    if isinstance(exchange, str):
        return ZoneInfo(str(_open_calendar(day, day + timedelta(days=MARGIN_DAYS), code=exchange).tz))
    return load_zone(exchange["timezone"], key="calendar.exchange.timezone")


def _find_instant_ms(day: date, time: str, zone: ZoneInfo) -> int:
    """Return the instant of a local time, HH:MM up to 24:00, in ms UTC."""
    hour, minute = map(int, time.split(":"))
    day += timedelta(days=hour // 24)
    local = datetime(day.year, day.month, day.day, hour % 24, minute, tzinfo=zone)
    return int(local.timestamp() * 1000)


def _ask_library(first: date, last: date, *, code: str) -> Sessions:
    """Return the sessions of an exchange as the library exchange_calendars has them, divided by their breaks."""
    found = _open_calendar(first, last, code=code)
    return _divide_by_breaks(
        *(_to_ms(each) for each in (found.opens, found.closes, found.break_starts, found.break_ends))
    )


def _open_calendar(first: date, last: date, *, code: str) -> Any:
    """Return the calendar of the library exchange_calendars for an exchange and the dates from `first` to `last`."""
    try:
        import exchange_calendars as library
    except ImportError as error:
        raise ValueError(
            f"calendar.exchange is {code!r}: its hours come from the package exchange_calendars, which is not "
            "installed; run `pip install -c .ci/constraints.txt -e '.[calendars]'`, or give hours instead of a code"
        ) from error
    known = library.get_calendar_names(include_aliases=True)
    if code not in known:
        raise ValueError(f"calendar.exchange is {code!r}; give hours, or one of {', '.join(sorted(known))}")
    try:
        return library.get_calendar(code, start=first.isoformat(), end=last.isoformat())
    except ValueError as error:
        raise ValueError(f"calendar.exchange is {code!r}, from {first} to {last}: {error}; give hours") from error


def _to_ms(instants: Any) -> Integers:
    """Return instants of the library in ms UTC; 0 where there is none."""
    values = instants.dt.tz_localize(None).to_numpy("datetime64[ms]")
    return np.where(np.isnat(values), 0, values.astype(np.int64)).astype(np.int64)


def _divide_by_breaks(opens: Integers, closes: Integers, starts: Integers, ends: Integers) -> Sessions:
    """Return the sessions with two intervals where there is a break, from `starts` to `ends`; both are 0 elsewhere."""
    has_break = starts > 0
    open_ms = np.concatenate([opens, ends[has_break]])
    close_ms = np.concatenate([np.where(has_break, starts, closes), closes[has_break]])
    ends_session = np.concatenate([~has_break, np.ones(has_break.sum(), dtype=bool)])
    order = np.argsort(open_ms, kind="stable")
    return Sessions(open_ms[order], close_ms[order], ends_session[order])
