"""Columns of the calendar: time of day, weekday, and the sessions of markets; functions of a bar's open time alone.

So they are known in advance: `minutes_ahead` gives the columns of times that come so many minutes later. There are none
without the key `calendar_columns`.
"""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import Annotated
from zoneinfo import ZoneInfo

from annotated_types import Interval, MinLen
from pydantic import AfterValidator, ConfigDict, with_config
from typing_extensions import TypedDict

from pipeline import config
from pipeline.features.catalogue import Column, Indicator
from pipeline.features.chunks import OPEN_TIME, view_current
from pipeline.features.elementary import sine_of_turns
from pipeline.features.rolling import Floats, Floats32, Integers, compile_kernel
from pipeline.features.utc_offsets import find_offset, tabulate_offsets
from pipeline.features.windows import MAX_BARS
from pipeline.market.sessions import Hours, list_sessions
from pipeline.market.time_zones import load_zone

CLOCK, SESSION = range(2)
MINUTE_MS, DAY_MS = 60_000.0, 86_400_000.0
THURSDAY = 3  # weekday of 1970-01-01; 0 is Monday
AHEAD, OPENS, CLOSES, OVERNIGHT, WEEKDAYS, HOLIDAYS, EARLY, DATES = 0, 1, 2, 3, 4, 11, 12, 13  # cells of a session


Minutes = Annotated[list[Annotated[int, Interval(ge=0, le=MAX_BARS)]], MinLen(1), AfterValidator(config.check_distinct)]


@with_config(ConfigDict(strict=True, extra="forbid"))
class CalendarColumns(TypedDict):
    """The times that columns describe, and the sessions."""

    timezone: str  # of time of day and weekday
    minutes_ahead: Minutes  # of a bar's open time
    sessions: dict[str, Hours]  # by name


@dataclass(frozen=True, kw_only=True)
class Params:
    """The section of the calendar; without it the group has no columns."""

    calendar_columns: CalendarColumns | None = None


@compile_kernel
def fill_clock(memory: Floats, cell: int, chunk: Floats, out: Floats32) -> None:
    """Fill `out` (4, N) with sine and cosine of the time of day, then of the weekday."""
    times = view_current(chunk, OPEN_TIME, out.shape[1])
    for i in range(len(times)):
        time_ms = times[i] + memory[cell]
        local = time_ms + find_offset(memory, cell + 1, time_ms, False)
        day = math.floor(local / DAY_MS)
        turns = (local - day * DAY_MS) / DAY_MS
        out[0, i], out[1, i] = sine_of_turns(turns), sine_of_turns(turns + 0.25)
        turns = ((day + THURSDAY) % 7) / 7.0
        out[2, i], out[3, i] = sine_of_turns(turns), sine_of_turns(turns + 0.25)


@compile_kernel
def find_close_ms(memory: Floats, cell: int, day: int) -> float:
    """Return when the session of a local day, counted from 1970, closes, in ms from its midnight; -1: it has none."""
    holidays, early = int(memory[cell + HOLIDAYS]), int(memory[cell + EARLY])
    if memory[cell + WEEKDAYS + (day + THURSDAY) % 7] == 0.0:
        return -1.0
    for place in range(cell + DATES, cell + DATES + holidays):
        if memory[place] == day:
            return -1.0
    for place in range(cell + DATES + holidays, cell + DATES + holidays + early):
        if memory[place] == day:
            return float(memory[place + early])
    return float(memory[cell + CLOSES])


@compile_kernel
def fill_session(memory: Floats, cell: int, chunk: Floats, out: Floats32) -> None:
    """Fill `out` (3, N): whether a session is open, minutes since its open and to its close; 0 where it is closed."""
    times = view_current(chunk, OPEN_TIME, out.shape[1])
    zone = cell + DATES + int(memory[cell + HOLIDAYS]) + 2 * int(memory[cell + EARLY])
    for i in range(len(times)):
        time_ms = times[i] + memory[cell + AHEAD]
        today = int(math.floor((time_ms + find_offset(memory, zone, time_ms, False)) / DAY_MS))
        out[0, i] = out[1, i] = out[2, i] = 0.0
        for day in range(today, today + 2):  # a session may open on the day before its own
            close = find_close_ms(memory, cell, day)
            if close >= 0.0:
                open_ms = day * DAY_MS + memory[cell + OPENS] - memory[cell + OVERNIGHT]
                open_ms -= find_offset(memory, zone, open_ms, True)
                close_ms = day * DAY_MS + close
                close_ms -= find_offset(memory, zone, close_ms, True)
                if open_ms <= time_ms and time_ms < close_ms:
                    out[0, i] = 1.0
                    out[1, i] = (time_ms - open_ms) / MINUTE_MS
                    out[2, i] = (close_ms - time_ms) / MINUTE_MS


@compile_kernel
def update(plan: Integers, memory: Floats, chunk: Floats, out: Floats32, start: int, count: int) -> None:
    """Fill `out[:, start:start + count]` (F, N) with the columns of every row of `plan`, as Layout describes them."""
    for row in range(len(plan)):
        cell, column = plan[row, 1], plan[row, 2]
        if plan[row, 0] == CLOCK:
            fill_clock(memory, cell, chunk, out[column : column + 4, start : start + count])
        else:
            fill_session(memory, cell, chunk, out[column : column + 3, start : start + count])


def list_indicators(params: Params) -> tuple[Indicator, ...]:
    """Return the catalogue's entries on the calendar."""
    if (section := params.calendar_columns) is None:
        return ()
    sessions = {name: _tabulate_session(name, hours) for name, hours in section["sessions"].items()}
    _check_columns_differ(sessions, section["minutes_ahead"])
    found = list[Indicator]()
    for minutes in section["minutes_ahead"]:
        found.append(_make_clock(section["timezone"], minutes))
        found += [_make_session(name, section["sessions"][name], minutes, cells) for name, cells in sessions.items()]
    return tuple(found)


def _check_columns_differ(sessions: Collection[str], minutes_ahead: Collection[int]) -> None:
    """Raise ParamsError where one session is named as the columns of another at a later minute are."""
    owners = dict[str, str]()
    for column, name in ((f"session_{name}{_describe_time(m)[0]}", name) for m in minutes_ahead for name in sessions):
        if (other := owners.setdefault(column, name)) != name:
            shorter, longer = sorted((other, name), key=len)
            raise config.ParamsError(
                f"features.calendar_columns.sessions.{longer}: its column {column} is also one of the session "
                f"{shorter}, by minutes_ahead; rename {longer}"
            )


def _make_clock(timezone: str, minutes: int) -> Indicator:
    zone = _load_zone(timezone, key="features.calendar_columns.timezone")
    constants = (minutes * MINUTE_MS, *tabulate_offsets(zone))
    suffix, when = _describe_time(minutes)
    meanings = {
        "hour_sin": f"sin 2πh, h = the share of the day that is over {when}, {timezone}",
        "hour_cos": f"cos 2πh, {when}",
        "weekday_sin": f"sin 2πw / 7, w = the weekday {when}, 0 is Monday, {timezone}",
        "weekday_cos": f"cos 2πw / 7, {when}",
    }
    columns = tuple(Column(name + suffix, meaning, 0) for name, meaning in meanings.items())
    return Indicator(CLOCK, (), columns, len(constants), constants)


def _make_session(name: str, hours: Hours, minutes: int, cells: tuple[float, ...]) -> Indicator:
    suffix, when = _describe_time(minutes)
    times = f"{hours['open']} to {hours['close']} {hours['timezone']}"
    columns = (
        Column(f"session_{name}{suffix}", f"1 where the session {name}, {times}, is open {when}, else 0", 0),
        Column(f"minutes_since_open_{name}{suffix}", f"minutes since the session {name} opened, {when}; 0 outside", 0),
        Column(f"minutes_to_close_{name}{suffix}", f"minutes until it closes, {when}; 0 outside", 0),
    )
    constants = (minutes * MINUTE_MS, *cells)
    return Indicator(SESSION, (), columns, len(constants), constants)


def _describe_time(minutes: int) -> tuple[str, str]:
    """Return the end of a column's name, and the words for the time that it describes."""
    if minutes == 0:
        return "", "at the bar's open time"
    return f"_ahead_{minutes}m", f"{minutes} minutes after the bar's open time"


def _tabulate_session(name: str, hours: Hours) -> tuple[float, ...]:
    """Return the cells of a session from OPENS on; ParamsError where its name or its hours are not allowed."""
    key = f"features.calendar_columns.sessions.{name}"
    if not re.fullmatch("[a-z0-9_]+", name):
        raise config.ParamsError(f"{key}: a name consists of a-z, 0-9 and _")
    try:
        list_sessions(date(2024, 1, 1), date(2024, 12, 31), exchange=hours)
    except ValueError as error:
        raise config.ParamsError(str(error).replace("calendar.exchange", key)) from error
    opens, closes = _count_ms(hours["open"]), _count_ms(hours["close"])
    early = hours["early_closes"]
    return (
        *(opens, closes, DAY_MS * (opens >= closes)),
        *(float(weekday in hours["weekdays"]) for weekday in range(7)),
        *(float(len(hours["holidays"])), float(len(early))),
        *map(_number_day, hours["holidays"]),
        *map(_number_day, early),
        *map(_count_ms, early.values()),
        *tabulate_offsets(_load_zone(hours["timezone"], key=f"{key}.timezone")),
    )


def _load_zone(name: str, *, key: str) -> ZoneInfo:
    """Return a time zone; ParamsError, which names the key, where there is none of that name."""
    try:
        return load_zone(name, key=key)
    except ValueError as error:
        raise config.ParamsError(str(error)) from error


def _count_ms(time: str) -> float:
    """Return the ms from midnight to HH:MM."""
    hour, minute = map(int, time.split(":"))
    return (60 * hour + minute) * MINUTE_MS


def _number_day(day: str) -> float:
    """Return the number of days from 1970-01-01 to YYYY-MM-DD."""
    return float((date.fromisoformat(day) - date(1970, 1, 1)).days)
