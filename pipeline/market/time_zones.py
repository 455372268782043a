"""Time zones by their IANA names, and the instants of times that were written by a local clock."""

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import pandas as pd

Times = npt.NDArray[np.int64]


def load_zone(name: str, *, key: str) -> ZoneInfo:
    """Return a time zone by its IANA name; ValueError where there is none. `key` is that of params, for the error."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: the name is that of a folder of zones
        raise ValueError(f"{key} is {name!r}; give a name of the IANA database, such as America/New_York") from error


def read_as_local(time_ms: Times, zone: ZoneInfo) -> Times:
    """Return the instants in ms UTC of local times, given in ms as if they were UTC.

    Of an hour that a clock repeats, the later one is taken; one that it skips is moved behind the gap.
    """
    local = pd.DatetimeIndex(time_ms.astype("datetime64[ms]"))
    later = np.zeros(len(local), dtype=bool)
    return _take_ms(local.tz_localize(zone, ambiguous=later, nonexistent="shift_forward"))


def localize(time_ms: Times, zone: ZoneInfo, *, place: str) -> Times:
    """Return the instants in ms UTC of local times in order, given in ms as if they were UTC.

    The two hours of the end of daylight saving are known by that order.

    Raises:
        ValueError: a time does not exist in the zone, or it is repeated without an order. `place` is the file and the
            column, for the error.
    """
    local = pd.DatetimeIndex(time_ms.astype("datetime64[ms]"))
    is_reversed = len(local) > 1 and local[0] > local[-1]
    try:
        found = (local[::-1] if is_reversed else local).tz_localize(zone, ambiguous="infer", nonexistent="raise")
    except ValueError as error:
        raise ValueError(
            f"{place}: a time does not exist, or is repeated without an order, in {zone.key} ({error}); store ms UTC"
        ) from error
    return _take_ms(found)[:: -1 if is_reversed else 1]


def _take_ms(instants: pd.DatetimeIndex) -> Times:
    return np.asarray(instants.tz_convert("UTC").tz_localize(None).as_unit("ms").asi8, dtype=np.int64)
