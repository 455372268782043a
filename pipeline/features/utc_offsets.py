"""The offset of a time zone from UTC at any instant, as a table that compiled code reads from `memory`."""

import functools
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

from pipeline.features.rolling import Floats, compile_kernel

FIRST, LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)  # outside the nearest offset holds
STEP_S = 3 * 86_400  # shorter than the time between two changes of any zone, 6.96 days at least


@functools.cache
def tabulate_offsets(zone: ZoneInfo) -> tuple[float, ...]:
    """Return n, then n instants at which the offset changes, n local times of these, and the n + 1 offsets, all in ms.

    A local time that a clock repeats is the first of the two; one that it skips has the offset before the gap: both as
    `datetime` has them with fold 0.
    """
    instants = range(int(FIRST.timestamp()), int(LAST.timestamp()), STEP_S)
    offsets = [_find_offset_s(zone, instants[0])]
    changes, local = list[float](), list[float]()
    for start, stop in pairwise(instants):
        if (after := _find_offset_s(zone, stop)) != offsets[-1]:
            change = _find_change_s(zone, start, stop)
            changes.append(change * 1000.0)
            local.append((change + max(offsets[-1], after)) * 1000.0)
            offsets.append(after)
    return (float(len(changes)), *changes, *local, *(offset * 1000.0 for offset in offsets))


def _find_offset_s(zone: ZoneInfo, time_s: int) -> int:
    offset = datetime.fromtimestamp(time_s, zone).utcoffset()
    return int(offset.total_seconds()) if offset is not None else 0


def _find_change_s(zone: ZoneInfo, start: int, stop: int) -> int:
    """Return the first second, later than `start`, with the offset that the zone has at `stop`."""
    after = _find_offset_s(zone, stop)
    while stop - start > 1:
        middle = (start + stop) // 2
        start, stop = (start, middle) if _find_offset_s(zone, middle) == after else (middle, stop)
    return stop


@compile_kernel
def find_offset(memory: Floats, cell: int, time_ms: float, is_local: bool) -> float:
    """Return the offset in ms at an instant, or at a local time, of the table that begins at `cell`."""
    changes = int(memory[cell])
    first = cell + 1 + (changes if is_local else 0)
    low, high = 0, changes
    while low < high:
        middle = (low + high) // 2
        if memory[first + middle] <= time_ms:
            low = middle + 1
        else:
            high = middle
    return float(memory[cell + 1 + 2 * changes + low])
