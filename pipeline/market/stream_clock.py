"""The clock of a stream of bars: when a bar may come, and whether it continues its segment."""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import config
from pipeline.market.bar_reader import Times, describe_time
from pipeline.market.checks import MAX_JUMP, MAX_MS, MIN_MS
from pipeline.market.sessions import CALENDAR_KEYS
from pipeline.market.stream_sessions import NEVER_MS, make_stream_sessions

log = logging.getLogger(__name__)

UNKNOWN = int(np.iinfo(np.int64).min)  # a time, step or segment not seen yet
CONTINUES, STARTS, RESTARTS = range(3)  # a bar continues its segment, starts one, or shows that the last bar did
MAX_DELAY_BARS = 2  # between a bar's close and its receipt; beyond, the feed or the clock is behind
MANY_LONG_STEPS = 3  # equal steps in a row that are longer than a bar: a feed of longer bars looks like that


class StreamClock:
    """The time and segment of the last bar, and the length of a bar, given or the shortest step so far."""

    def __init__(
        self,
        *,
        interval_ms: int | None = None,
        calendar: Mapping[str, Any] | None = None,
        warm_up_bars: int = 0,
    ) -> None:
        """Start before the first bar.

        `calendar` has the keys `exchange`, `features` and `positions` of that section of params; with an exchange it
        needs the interval. `warm_up_bars` without features begin a segment, as warnings say. Raises ValueError where
        the interval is no whole number above 0, and on a calendar that is not allowed.
        """
        is_whole = isinstance(interval_ms, (int, np.integer)) and not isinstance(interval_ms, bool)
        if interval_ms is not None and not (is_whole and interval_ms > 0):
            raise ValueError(
                f"interval_ms is {interval_ms!r}; it must be null or a whole number of milliseconds above 0"
            )
        self.interval_ms, self.warm_up_bars = interval_ms, warm_up_bars
        self.time_ms, self.step_ms, self.segment = UNKNOWN, interval_ms or UNKNOWN, UNKNOWN
        self._sessions = None
        if calendar is not None:
            config.check_section(make_stream_sessions, calendar, name="calendar", keys=CALENDAR_KEYS)
            self._sessions = make_stream_sessions(**calendar, bar_ms=interval_ms)
        self.missing_bars = 0  # before the last bar
        self._close_ms = NEVER_MS  # when the market closes after the last bar
        self._next_ms = UNKNOWN  # when the bar opens that needs no further look: one interval later, before the close
        # time, segment, close of the bar that is being taken, and the number of bars missing before it
        self._pending = UNKNOWN, UNKNOWN, NEVER_MS, 0
        self._long_step_ms, self._long_steps, self._is_stale = UNKNOWN, 0, False

    def find_change(self, bar: Mapping[str, Any], times: Times, *, now_ms: float | None) -> int:
        """Return whether a bar CONTINUES its segment, STARTS one, or RESTARTS it, so that the last bar was its first.

        Raises ValueError on a bar whose times are not allowed here, or whose price jumps from the bar just before.
        """
        opened, closed, jumps = times
        segment = bar.get("segment", UNKNOWN)
        if (
            opened == self._next_ms
            and segment == self.segment
            and closed - opened <= self.step_ms
            and not jumps
            and now_ms is None
        ):
            self._pending, self._long_steps = (self._next_ms, self.segment, self._close_ms, 0), 0
            return CONTINUES
        segment, time_ms = _read_segment(segment), int(opened)
        if time_ms != opened:
            raise ValueError(f"bar: open_time is {opened}; allowed are whole milliseconds")
        is_first = self.time_ms == UNKNOWN or segment != self.segment
        if not is_first:
            self._check_order(time_ms)
        missing, close_ms = self._find_place(time_ms, is_first=is_first, segment=segment)
        ends_ms = self._check_length(bar, times, is_first=is_first, segment=segment, close_ms=close_ms)
        is_stale = now_ms is not None and self._check_now(time_ms, ends_ms, _read_now(now_ms))
        if jumps:
            is_adjacent = segment != UNKNOWN or self.step_ms == UNKNOWN or time_ms - self.time_ms <= self.step_ms
            self._check_jump(time_ms, is_adjacent=is_adjacent and not is_first)
        self._pending = time_ms, segment, close_ms, missing
        change = self._compare(time_ms, is_first=is_first, segment=segment, missing=missing)
        self._warn(bar.get("symbol"), time_ms, change=change, missing=missing)
        if is_stale and not self._is_stale:
            log.warning(
                f"{bar.get('symbol')}: the bar at open_time {describe_time(time_ms)} is received at "
                f"{describe_time(now_ms)}, more than {MAX_DELAY_BARS} bars after its close: check feed and clock"
            )
        self._is_stale = is_stale
        return change

    def advance(self) -> None:
        """Take the bar that `find_change` has accepted as the last one."""
        time_ms, segment, self._close_ms, self.missing_bars = self._pending
        if self.interval_ms is None and segment == self.segment == UNKNOWN != self.time_ms:
            step = time_ms - self.time_ms
            self.step_ms = step if self.step_ms == UNKNOWN else min(step, self.step_ms)
        self.time_ms, self.segment = time_ms, segment
        following = time_ms + self.step_ms
        self._next_ms = following if following < self._close_ms else UNKNOWN

    @property
    def ends_session(self) -> bool:
        """Whether the last bar is the last one of its session; never without a calendar."""
        is_last = self.time_ms + self.step_ms >= self._close_ms
        return is_last and self._sessions is not None and self._sessions.ends_session(self.time_ms)

    def pack(self) -> npt.NDArray[np.int64]:
        """Return the state as an array: time, step, segment and interval."""
        return np.array([self.time_ms, self.step_ms, self.segment, self.interval_ms or UNKNOWN])

    def unpack(self, packed: npt.NDArray[np.int64]) -> "StreamClock":
        """Return a clock of this interval in a packed state; ValueError where that is of another interval."""
        if len(packed) != 4:
            raise ValueError(
                f"state: clock has {len(packed)} numbers, not 4; restore the state of a Stream of this version"
            )
        time_ms, step_ms, segment, interval_ms = map(int, packed)
        length = interval_ms if interval_ms != UNKNOWN else step_ms
        if self.interval_ms is not None and length not in (UNKNOWN, self.interval_ms):
            raise ValueError(
                f"state: its bars have {length} ms, those of this stream {self.interval_ms} ms; restore it into a "
                "Stream of the same interval_ms"
            )
        clock = copy.copy(self)
        clock.interval_ms = self.interval_ms if interval_ms == UNKNOWN else interval_ms
        clock.time_ms, clock.segment = time_ms, segment
        clock.step_ms = clock.interval_ms or step_ms
        clock._next_ms, clock._long_steps, clock._is_stale = UNKNOWN, 0, False
        return clock

    def _check_order(self, time_ms: int) -> None:
        """Raise ValueError where a bar is not later than the last one, or not on the grid that the interval gives."""
        step = time_ms - self.time_ms
        fault = f"bar: open_time is {describe_time(time_ms)}"
        if not step:
            raise ValueError(f"{fault}, that of the last bar, which is already processed: skip it")
        if step < 0:
            raise ValueError(f"{fault}; allowed is one after the last bar's, {describe_time(self.time_ms)}")
        if self.interval_ms is not None and self._sessions is None and step % self.interval_ms:
            raise ValueError(
                f"{fault}, {step} ms after the last bar's; allowed are multiples of the stream's interval, "
                f"{self.interval_ms} ms"
            )

    def _find_place(self, time_ms: int, *, is_first: bool, segment: int) -> tuple[int, int]:
        """Return how many bars are missing before a bar, and when the market closes after it.

        A bar with a `segment` of its own is not looked up in the calendar. Raises ValueError outside of the sessions.
        """
        step = time_ms - self.time_ms
        if self._sessions is None or segment != UNKNOWN:
            missing = step // self.step_ms - 1 if not is_first and UNKNOWN != self.step_ms < step else 0
            return missing, NEVER_MS
        if not is_first and time_ms == self._next_ms:
            return 0, self._close_ms
        steps = self._sessions.count_steps(time_ms if is_first else self.time_ms, time_ms)
        if steps is None:
            raise ValueError(
                f"bar: open_time is {describe_time(time_ms)}, outside of the calendar's sessions, or not a whole "
                f"number of {self.interval_ms} ms after a session's open; feed the bars of the sessions alone"
            )
        return max(steps - 1, 0), self._sessions.find_close(time_ms)

    def _check_length(
        self, bar: Mapping[str, Any], times: Times, *, is_first: bool, segment: int, close_ms: int
    ) -> float | None:
        """Return the last ms of a bar, None where it is unknown; ValueError where it is longer than an interval."""
        opened, closed, _ = times
        limit = self.interval_ms
        if limit is None and not is_first and segment == UNKNOWN:
            step = int(opened) - self.time_ms
            limit = step if self.step_ms == UNKNOWN else min(step, self.step_ms)
        if limit is not None and closed - opened > limit:  # a bar may close as the next one opens
            raise ValueError(
                f"bar at open_time {describe_time(opened)}: it is {int(closed - opened) + 1} ms long; the bars of this "
                f"stream have {limit} ms: feed bars of the interval that the model was trained on"
            )
        if "close_time" in bar:
            return closed
        return None if self.step_ms == UNKNOWN else min(opened + self.step_ms, close_ms) - 1

    def _check_now(self, time_ms: int, ends_ms: float | None, now_ms: float) -> bool:
        """Return whether a bar that ends at `ends_ms` is stale at `now_ms`; ValueError where it has not closed yet."""
        if ends_ms is None:
            raise ValueError("bar: now_ms needs close_time of the bar, or interval_ms of the stream; give one of them")
        if ends_ms >= now_ms:
            raise ValueError(
                f"bar: close_time is {describe_time(ends_ms)}, now_ms {describe_time(now_ms)}; update once the bar has "
                "closed"
            )
        length = ends_ms + 1 - time_ms if self.step_ms == UNKNOWN else self.step_ms
        return now_ms - ends_ms > MAX_DELAY_BARS * length

    def _compare(self, time_ms: int, *, is_first: bool, segment: int, missing: int) -> int:
        """Return what a bar changes, see `find_change`."""
        step = time_ms - self.time_ms
        if is_first:
            return STARTS
        if segment != UNKNOWN:
            return CONTINUES
        if self._sessions is not None:
            return STARTS if missing or (self._sessions.restarts and step != self.step_ms) else CONTINUES
        if step == self.step_ms:
            return CONTINUES
        return RESTARTS if self.step_ms == UNKNOWN or step < self.step_ms else STARTS

    def _check_jump(self, time_ms: int, *, is_adjacent: bool) -> None:
        """Raise ValueError where the price jumps from the bar just before; warn where bars are missing in between."""
        fault = (
            f"bar at open_time {describe_time(time_ms)}: the price jumps by more than a factor {MAX_JUMP:g} from the "
            "bar before"
        )
        if is_adjacent:
            raise ValueError(f"{fault}: other units, or another instrument; download the bars on one side again")
        log.warning(f"{fault}, across missing bars: check the feed")

    def _warn(self, symbol: object, time_ms: int, *, change: int, missing: int) -> None:
        """Warn of missing bars that start a segment, and of equal long steps in a row; then no more until they end."""
        step = time_ms - self.time_ms
        self._long_steps = 0 if not missing else self._long_steps + 1 if step == self._long_step_ms else 1
        self._long_step_ms = step
        lost = f"{self.warm_up_bars} bars from the start of a segment have no features"
        if self._long_steps == MANY_LONG_STEPS:
            first = describe_time(time_ms - MANY_LONG_STEPS * step)
            remedy = (
                "feed bars of the interval that the model was trained on"
                if self.interval_ms
                else "give its interval_ms"
            )
            log.warning(
                f"{symbol}: {MANY_LONG_STEPS} bars in a row came {step} ms after the one before, from {first} to "
                f"{describe_time(time_ms)}; the bars of this stream have {self.step_ms} ms, and {lost}: {remedy}"
            )
        elif missing and change == STARTS and self._long_steps < MANY_LONG_STEPS:
            log.warning(
                f"{symbol}: {missing:,} bar(s) are missing from {describe_time(self.time_ms)} to "
                f"{describe_time(time_ms)}: a segment starts, and {lost}; feed all bars, or wait"
            )


def _read_now(now_ms: object) -> float:
    """Return the time of receipt; ValueError unless it is in milliseconds of the years 1990 to 2100."""
    is_number = isinstance(now_ms, (int, float, np.integer, np.floating)) and not isinstance(now_ms, bool)
    if not is_number or not MIN_MS <= now_ms < MAX_MS:  # type: ignore[operator]
        raise ValueError(
            f"now_ms is {now_ms!r} ({type(now_ms).__name__}); allowed are milliseconds since 1970, UTC: "
            "time.time() * 1000"
        )
    return float(now_ms)  # type: ignore[arg-type]


def _read_segment(segment: object) -> int:
    """Return the number of a bar's segment; ValueError where it is no whole number."""
    if type(segment) is int:
        return segment
    if isinstance(segment, (bool, np.bool_)) or not isinstance(segment, (int, float, np.integer, np.floating)):
        raise ValueError(f"bar: segment is {segment!r}; allowed is a whole number")
    if not np.isfinite(segment) or segment != int(segment):
        raise ValueError(f"bar: segment is {segment!r}; allowed is a whole number")
    return int(segment)
