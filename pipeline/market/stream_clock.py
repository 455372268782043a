"""The clock of a stream of bars: when a bar may come, and whether it continues its segment."""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.market.bar_reader import Times
from pipeline.market.checks import MAX_JUMP

log = logging.getLogger(__name__)

UNKNOWN = int(np.iinfo(np.int64).min)  # a time, step or segment not seen yet
CONTINUES, STARTS, RESTARTS = range(3)  # a bar continues its segment, starts one, or shows that the last bar did
MANY_LONG_STEPS = 3  # equal steps in a row that are longer than a bar: a feed of longer bars looks like that


class StreamClock:
    """The time and segment of the last bar, and the length of a bar, given or the shortest step so far."""

    def __init__(self, *, interval_ms: int | None = None) -> None:
        """Start before the first bar. Raises ValueError where the interval is no whole number above 0."""
        is_whole = isinstance(interval_ms, (int, np.integer)) and not isinstance(interval_ms, bool)
        if interval_ms is not None and not (is_whole and interval_ms > 0):
            raise ValueError(
                f"interval_ms is {interval_ms!r}; it must be null or a whole number of milliseconds above 0"
            )
        self.interval_ms = interval_ms
        self.time_ms, self.step_ms, self.segment = UNKNOWN, interval_ms or UNKNOWN, UNKNOWN
        self._pending = UNKNOWN, UNKNOWN  # time and segment of the bar that is being taken
        self._long_step_ms, self._long_steps = UNKNOWN, 0

    def find_change(self, bar: Mapping[str, Any], times: Times, *, now_ms: int | None) -> int:
        """Return whether a bar CONTINUES its segment, STARTS one, or RESTARTS it, so that the last bar was its first.

        Raises ValueError on a bar whose times are not allowed here, or whose price jumps from the bar just before.
        """
        opened, closed, jumps = times
        time_ms, segment = int(opened), bar.get("segment", UNKNOWN)
        step = opened - self.time_ms
        if (
            step == self.step_ms
            and segment == self.segment
            and closed - opened <= step
            and not jumps
            and now_ms is None
        ):
            self._pending = time_ms, self.segment
            return CONTINUES
        segment = _read_segment(segment)
        if time_ms != opened:
            raise ValueError(f"bar: open_time is {opened}; allowed are whole milliseconds")
        if now_ms is not None:
            self._check_closed(bar, closed, now_ms)
        step = time_ms - self.time_ms
        is_first = self.time_ms == UNKNOWN or segment != self.segment
        if not is_first and step <= 0:
            raise ValueError(f"bar: open_time is {time_ms}; allowed is one after the last bar's, {self.time_ms}")
        known = self.step_ms != UNKNOWN
        if self.interval_ms is not None and not is_first and step % self.interval_ms:
            raise ValueError(
                f"bar: open_time is {time_ms}, {step} ms after the last bar's; allowed are multiples of the stream's "
                f"interval, {self.interval_ms} ms"
            )
        infers = self.interval_ms is None and not is_first and segment == UNKNOWN
        limit = (min(step, self.step_ms) if known else step) if infers else self.interval_ms
        if limit is not None and closed - opened > limit:  # a bar may close as the next one opens
            raise ValueError(
                f"bar at open_time {time_ms}: it is {int(closed - opened) + 1} ms long; the bars of this stream have "
                f"{limit} ms: feed bars of the interval that the model was trained on"
            )
        if jumps:
            is_adjacent = segment != UNKNOWN or not known or step <= self.step_ms
            self._check_jump(time_ms, is_adjacent=is_adjacent and not is_first)
        self._pending = time_ms, segment
        if is_first:
            return STARTS
        if segment != UNKNOWN or step == self.step_ms:
            return CONTINUES
        return RESTARTS if not known or step < self.step_ms else STARTS

    def advance(self) -> None:
        """Take the bar that `find_change` has accepted as the last one."""
        time_ms, segment = self._pending
        if segment == UNKNOWN and self.segment == UNKNOWN and self.time_ms != UNKNOWN:
            step = time_ms - self.time_ms
            if self.step_ms == UNKNOWN or step < self.step_ms:
                self.step_ms = step
            elif step > self.step_ms and self.interval_ms is None:
                self._count_long_step(step)
            else:
                self._long_steps = 0
        self.time_ms, self.segment = time_ms, segment

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
        return clock

    def _check_closed(self, bar: Mapping[str, Any], closed: float, now_ms: int) -> None:
        """Raise ValueError where a bar has not closed at `now_ms`."""
        if "close_time" not in bar:
            if self.step_ms == UNKNOWN:
                raise ValueError(
                    "bar: now_ms needs close_time of the bar, or interval_ms of the stream; give one of them"
                )
            closed += self.step_ms - 1
        if closed >= now_ms:
            raise ValueError(f"bar: close_time is {int(closed)}, now_ms {now_ms}; update once the bar has closed")

    def _check_jump(self, time_ms: int, *, is_adjacent: bool) -> None:
        """Raise ValueError where the price jumps from the bar just before; warn where bars are missing in between."""
        fault = f"bar at open_time {time_ms}: the price jumps by more than a factor {MAX_JUMP:g} from the bar before"
        if is_adjacent:
            raise ValueError(f"{fault}: other units, or another instrument; restore the bars on one side")
        log.warning(f"{fault}, across missing bars: check the feed")

    def _count_long_step(self, step: int) -> None:
        """Count equal steps in a row that are longer than a bar, and warn of many."""
        self._long_steps = self._long_steps + 1 if step == self._long_step_ms else 1
        self._long_step_ms = step
        if self._long_steps == MANY_LONG_STEPS:
            log.warning(
                f"{MANY_LONG_STEPS} bars in a row came {step} ms after the one before, the bars of this stream have "
                f"{self.step_ms} ms: each starts a segment; give Stream its interval_ms"
            )


def _read_segment(segment: object) -> int:
    """Return the number of a bar's segment; ValueError where it is no whole number."""
    if type(segment) is int:
        return segment
    if isinstance(segment, (bool, np.bool_)) or not isinstance(segment, (int, float, np.integer, np.floating)):
        raise ValueError(f"bar: segment is {segment!r}; allowed is a whole number")
    if not np.isfinite(segment) or segment != int(segment):
        raise ValueError(f"bar: segment is {segment!r}; allowed is a whole number")
    return int(segment)
