"""The parameters of the columns of an order book, checked once, and the offsets of a time zone in force when."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from annotated_types import Gt, Interval, MaxLen, MinLen

from pipeline import config
from pipeline.market.time_zones import load_zone
from pipeline.orderbook.columns import COLUMNS, GROUPS, PRESETS

Integers = npt.NDArray[np.int64]
Window = Annotated[int, Interval(ge=1, le=1_000_000)]
Windows = Annotated[list[Window], MinLen(3), MaxLen(3)]
Count = Annotated[int, Interval(ge=1)]
TickSize = Annotated[float, Gt(0.0)]
Session = dict[Literal["opening", "morning", "afternoon", "closing", "end"], str]

REGIMES = ("opening", "morning", "afternoon", "closing", "end")  # begin regimes 1, 2, 3, 4, and 0 again
WINDOWS = (5, 500, 5000)
TIMEZONE = "America/New_York"
SESSION = {"opening": "09:30", "morning": "10:00", "afternoon": "12:00", "closing": "15:30", "end": "16:00"}
TICK_SIZE = 0.01
READY_EVENTS = 100
DAY_S = 86_400
FIRST_YEAR, LAST_YEAR = 1990, 2060  # of the offsets of a time zone, the last one excluded
FIRST_NS, LAST_NS = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 10**9 for year in (FIRST_YEAR, LAST_YEAR))
CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00")


@dataclass(frozen=True)
class Settings:
    """The parameters as the compiled update reads them."""

    columns: tuple[str, ...] = COLUMNS  # those that are returned
    windows: tuple[int, ...] = WINDOWS  # events: fast, medium, slow
    regime_starts_s: tuple[int, ...] = field(default_factory=lambda: read_session(SESSION))  # of the local day
    timezone: str = TIMEZONE
    tick_size: float = TICK_SIZE
    ready_events: int = READY_EVENTS


def read_settings(
    *,
    columns: list[str] | str | None = None,
    windows: Windows | None = None,
    timezone: str = TIMEZONE,
    session: Session | None = None,
    tick_size: TickSize = TICK_SIZE,
    ready_events: Count = READY_EVENTS,
) -> Settings:
    """Return the settings of the columns of an order book.

    Args:
        columns: names of `columns.COLUMNS`, of its groups and presets; None: all.
        windows: the fast, medium and slow window, in events; None: 5, 500, 5000.
        timezone: of `session`, an IANA name.
        session: where opening, morning, afternoon and closing begin and the session ends, as HH:MM of local time;
            None: 09:30, 10:00, 12:00, 15:30, 16:00.
        tick_size: of columns bid_depth_ticks and ask_depth_ticks.
        ready_events: changes of the best levels after which a segment's rows count.

    Raises:
        ParamsError: a value is not allowed, alone or beside another.
    """
    block = {
        "columns": columns,
        "windows": windows,
        "timezone": timezone,
        "session": session,
        "tick_size": tick_size,
        "ready_events": ready_events,
    }
    config.check_section(read_settings, block, name="features")
    windows = list(WINDOWS) if windows is None else windows
    if windows != sorted(set(windows)):
        raise config.ParamsError(f"features.windows is {windows}; give three lengths in events that ascend")
    load_zone(timezone, key="features.timezone")
    return Settings(
        columns=select_columns(columns),
        windows=tuple(windows),
        regime_starts_s=read_session(SESSION if session is None else session),
        timezone=timezone,
        tick_size=float(tick_size),
        ready_events=ready_events,
    )


def select_columns(columns: list[str] | str | None) -> tuple[str, ...]:
    """Return the columns of a preset, or of a list of columns, groups and presets, each column once; None: all."""
    names = list(COLUMNS) if columns is None else [columns] if isinstance(columns, str) else list(columns)
    known = {**GROUPS, **PRESETS, **{name: (name,) for name in COLUMNS}}
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) < len(names):
        raise config.ParamsError(
            f"features.columns has {unknown[0] if unknown else names!r}; give one or more distinct names of columns "
            f"(pipeline/orderbook/README.md), of the presets {', '.join(PRESETS)}, or of the groups {', '.join(GROUPS)}"
        )
    return tuple(dict.fromkeys(column for name in names for column in known[name]))


def read_session(session: Mapping[Any, str]) -> tuple[int, ...]:
    """Return where the regimes 1 to 4 and the end of the session begin, in seconds of the local day."""
    if missing := [name for name in REGIMES if name not in session]:
        raise config.ParamsError(f"features.session lacks {missing[0]}; it needs {', '.join(REGIMES)}, as HH:MM")
    for name in REGIMES:
        if not CLOCK.fullmatch(session[name]):
            raise config.ParamsError(f"features.session.{name} is {session[name]!r}; give HH:MM, in quotes")
    starts = tuple(3600 * int(session[name][:2]) + 60 * int(session[name][3:]) for name in REGIMES)
    if list(starts) != sorted(starts):
        raise config.ParamsError(f"features.session is {session}; {', '.join(REGIMES)} must follow one another")
    return starts


@functools.cache
def list_offsets(timezone: str) -> tuple[Integers, Integers]:
    """Return the instants (n,) in s UTC from which an offset from UTC holds, and the offsets (n,) in s."""
    zone = load_zone(timezone, key="features.timezone")

    def offset_at(time_s: int) -> int:
        offset = datetime.fromtimestamp(time_s, UTC).astimezone(zone).utcoffset()
        assert offset is not None
        return offset // timedelta(seconds=1)

    first, last = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (FIRST_YEAR, LAST_YEAR))
    starts, offsets = [np.iinfo(np.int64).min], [offset_at(first)]
    for start in range(first, last, 15 * DAY_S):  # no zone changes twice in half a month
        low, high = start, start + 15 * DAY_S
        if (new := offset_at(high)) == offsets[-1]:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if offset_at(middle) == new else (middle, high)
        starts.append(high)
        offsets.append(new)
    return np.array(starts, dtype=np.int64), np.array(offsets, dtype=np.int64)
