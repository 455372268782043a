"""Times of klines, as people store them, converted to milliseconds since 1970, UTC."""

import re
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.market.checks import MAX_MS, MIN_MS
from pipeline.market.time_zones import localize

Times = npt.NDArray[np.int64]

FIRST_S, END_S = int(MIN_MS // 1000), int(MAX_MS // 1000)  # of 1990 and 2101: in between the units do not overlap
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
UNITS = tuple(PER_SECOND)
EDGES = np.array([edge * factor for factor in PER_SECOND.values() for edge in (FIRST_S, END_S)], dtype=np.int64)
MICROSECONDS_FROM_MS = 1_735_689_600_000  # 2025-01-01: files of Binance's spot archive have microseconds from then on
LARGEST_EXACT = 2**53  # float64 holds every integer up to it
ISO_EXAMPLE = "2024-01-31 23:59:00+00:00"
MIN_DATES = 2  # of text whose day may stand where the month is
HAS_ZONE = r"[T ]\d{2}.*([Zz]|[+-]\d{2}(:?\d{2})?)$"
DIGITS = {  # the number of digits of a date that is written as one number, and its format
    8: ("YYYYMMDD", "%Y%m%d"),
    10: ("YYYYMMDDHH", "%Y%m%d%H"),
    12: ("YYYYMMDDHHMM", "%Y%m%d%H%M"),
    14: ("YYYYMMDDHHMMSS", "%Y%m%d%H%M%S"),
}
LONGER_UNITS = {"minutes since 1970": 60, "hours since 1970": 3600, "days since 1970, or Excel's days": 86_400}


class Converted(NamedTuple):
    """Times (N,) in ms UTC, and a note on each unusual conversion."""

    time_ms: Times
    notes: tuple[str, ...] = ()


def convert_times(column: pa.ChunkedArray, *, place: str, label: str, zone: ZoneInfo | None = None) -> Converted:
    """Return the times of a column in ms UTC, rounded down.

    Numbers are s, ms, us or ns by their magnitude, each value by itself, for the years 1990 to 2100. Text is ISO 8601,
    or such numbers. Times without a time zone are those of `zone`, or UTC. `place` is the file and the column, for
    errors; `label` is the column, for notes.

    Raises:
        ValueError: a value is missing or no time of these years, units are mixed otherwise than in Binance's files,
            or `zone` does not apply: times are numbers, have a zone, or do not exist in it once.
    """
    found = _convert_column(column, place=place, label=label)
    naive = f"{label} has no time zone and is read as UTC"
    if zone is None:
        return found
    if naive not in found.notes:
        raise ValueError(
            f"{place}: its times are numbers or have a time zone, and sources.file.timezone is {zone.key}, which is "
            "for times without one; set it to null"
        )
    return Converted(localize(found.time_ms, zone, place=place), (f"{label} is converted from {zone.key} to UTC",))


def _convert_column(column: pa.ChunkedArray, *, place: str, label: str) -> Converted:
    """Return the times of a column; those without a time zone are read as UTC, with a note."""
    kind = column.type
    if column.null_count:
        raise ValueError(f"{place}, row {find_row(column.is_null())}: there is no time; drop or restore the row")
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _convert_texts(column, place=place, label=label)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _convert_instants(column, place=place, label=label)
    if pa.types.is_integer(kind):
        return _convert_numbers(_cast_integers(column, place=place), place=place, label=label)
    if pa.types.is_floating(kind):
        return _convert_floats(column, place=place, label=label)
    raise ValueError(f"{place} has type {kind}; store it as int64 in ms UTC, as a timestamp, or as ISO 8601 text")


def find_row(mask: Any) -> int:
    """Return the number of the first true row, from 1; rows are counted without the header and without blank rows."""
    return int(np.argmax(np.asarray(mask, dtype=bool))) + 1


def shorten(value: object) -> str:
    """Return a value as a message shows it."""
    text = str(value)
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def _cast_integers(column: pa.ChunkedArray, *, place: str) -> Times:
    try:
        return np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{place} has numbers beyond int64, which are no times; store ms UTC") from error


def _round_whole(column: pa.ChunkedArray, *, place: str) -> Times:
    values = column.cast(pa.float64()).to_numpy()
    bad = ~np.isfinite(values) | (values != np.floor(values))
    if bad.any():
        row = find_row(bad)
        raise ValueError(f"{place}, row {row}: {values[row - 1]} is no whole number; store times as int64 in ms UTC")
    bad = np.abs(values) > LARGEST_EXACT
    if bad.any() or column.type != pa.float64():
        raise ValueError(
            f"{place} has type {column.type}, which is too coarse for its times; store them as int64 in ms UTC"
        )
    return np.asarray(values, dtype=np.int64)


def _convert_floats(column: pa.ChunkedArray, *, place: str, label: str) -> Converted:
    """Return times of whole numbers, or of seconds with a fraction, whose float64 is exact to the microsecond."""
    values = np.asarray(column.to_numpy(), dtype=np.float64)
    is_fraction = bool((values != np.floor(values)).any()) and column.type == pa.float64()
    if is_fraction and ((values >= FIRST_S) & (values < END_S)).all():
        time_us = np.round(values * 1e6).astype(np.int64)
        return Converted(scale_to_ms(time_us, "us"), (f"{label} is converted from s to ms",))
    return _convert_numbers(_round_whole(column, place=place), place=place, label=label)


def _convert_numbers(values: Times, *, place: str, label: str) -> Converted:
    """Return times by the unit of each value."""
    _refuse_dates_as_numbers(values, place=place)
    if not len(values):
        return Converted(values)
    code = np.searchsorted(EDGES, values, side="right")  # odd within a unit, even between two
    outside = code % 2 == 0
    if outside.any():
        row = find_row(outside)
        value = int(values[row - 1])
        raise ValueError(
            f"{place}, row {row}: {value} is no time of the years 1990 to 2100 in s, ms, us or ns; "
            f"{_describe_number(value)}"
        )
    units, time_ms = code // 2, np.empty_like(values)
    found = [UNITS[i] for i in np.unique(units)]
    for unit in found:
        rows = units == UNITS.index(unit) if len(found) > 1 else slice(None)
        time_ms[rows] = scale_to_ms(values[rows], unit)
    if len(found) > 1:
        _check_switch(time_ms, units, found, place=place)
    notes = () if found == ["ms"] else (f"{label} is converted from {' and '.join(found)} to ms",)
    return Converted(time_ms, notes)


def scale_to_ms(values: Times, unit: str) -> Times:
    """Return whole numbers of a unit in ms, rounded down."""
    per_second = PER_SECOND[unit]
    return values * (1000 // per_second) if per_second <= 1000 else values // (per_second // 1000)


def _check_switch(time_ms: Times, units: npt.NDArray[np.intp], found: list[str], *, place: str) -> None:
    """Raise ValueError unless the units are ms before 2025 and us from then on, as in Binance's files."""
    is_new = time_ms >= MICROSECONDS_FROM_MS
    if found == ["ms", "us"] and ((units == UNITS.index("us")) == is_new).all():
        return
    row = find_row(units != units[0])
    raise ValueError(
        f"{place} mixes {' and '.join(found)}: row 1 is in {UNITS[units[0]]}, row {row} in {UNITS[units[row - 1]]}; "
        "store one unit (only Binance's switch from ms to us on 2025-01-01 is converted)"
    )


def _refuse_dates_as_numbers(values: Times, *, place: str) -> None:
    """Raise ValueError where all values are dates with an hour as digits: as seconds they would be of 2033 to 2036."""
    if len(values) and ((values >= 1_990_010_100) & (values <= 2_100_123_123)).all():
        month, day, hour = values // 10**4 % 100, values // 100 % 100, values % 100
        if ((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31) & (hour <= 23)).all():
            raise ValueError(
                f"{place}, row 1: {values[0]} is no time in s, ms, us or ns; {_describe_number(values[0])}"
            )


def _describe_number(value: int) -> str:
    """Return what a number looks like that is no time in a known unit, and how to convert it."""
    name, layout = DIGITS.get(len(str(value)), ("", ""))
    if layout and _is_date(str(value), layout):
        return f"it looks like {name}: convert it, as by pd.to_datetime(column, format={layout!r})"
    for unit, seconds in LONGER_UNITS.items():
        if FIRST_S <= value * seconds < END_S:
            return f"it looks like {unit}: multiply to ms, such as minutes by 60,000"
    return "store ms since 1970, UTC, or ISO 8601 text"


def _is_date(text: str, layout: str) -> bool:
    try:
        return 1990 <= datetime.strptime(text, layout).year <= 2100
    except ValueError:
        return False


def _convert_instants(column: pa.ChunkedArray, *, place: str, label: str) -> Converted:
    """Return times of a column of timestamps or dates."""
    zone = getattr(column.type, "tz", None)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    raw = np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64)
    time_ms = scale_to_ms(raw, column.type.unit)
    _check_years(time_ms, place=place)
    if zone is None:
        return Converted(time_ms, (f"{label} has no time zone and is read as UTC",))
    is_utc = zone.upper() in ("UTC", "ETC/UTC", "GMT", "+00:00", "Z")
    return Converted(time_ms, () if is_utc else (f"{label} is converted from {zone} to UTC",))


def _check_years(time_ms: Times, *, place: str) -> None:
    bad = (time_ms < FIRST_S * 1000) | (time_ms >= END_S * 1000)
    if bad.any():
        row = find_row(bad)
        when = pd.Timestamp(int(time_ms[row - 1]), unit="ms")
        hint = "; numbers were perhaps converted in a wrong unit" if when.year in (1969, 1970) else ""
        raise ValueError(f"{place}, row {row}: {when} is not of the years 1990 to 2100{hint}; store ms UTC")


def _convert_texts(column: pa.ChunkedArray, *, place: str, label: str) -> Converted:
    """Return times of text: numbers, or ISO 8601."""
    text = pc.utf8_trim_whitespace(column)
    if pc.all(pc.match_substring_regex(text, r"^[-+]?\d{1,19}$")).as_py():
        return _convert_numbers(
            _cast_integers(pc.replace_substring_regex(text, r"^\+", ""), place=place), place=place, label=label
        )
    is_number = pc.match_substring_regex(text, r"^[-+]?\d+(\.\d*)?$")
    if pc.all(is_number).as_py():
        return _convert_floats(text.cast(pa.float64()), place=place, label=label)
    if pc.any(is_number).as_py():
        row = find_row(pc.invert(is_number)) if is_number[0].as_py() else find_row(is_number)
        raise ValueError(
            f"{place}, row {row}: {shorten(text[row - 1].as_py())} is no time like that of the first row, "
            f"{shorten(text[0].as_py())}; correct or remove the row, such as a repeated header"
        )
    scientific = pc.match_substring_regex(text, r"^[-+]?\d[.,]?\d*[eE]\+?\d+$")
    if pc.any(scientific).as_py():
        row = find_row(scientific)
        raise ValueError(
            f"{place}, row {row}: {shorten(text[row - 1].as_py())} has lost digits, as in a spreadsheet; "
            "export the column as a whole number"
        )
    return _parse_iso(text, place=place, label=label)


def _parse_iso(text: pa.ChunkedArray, *, place: str, label: str) -> Converted:
    text = pc.replace_substring_regex(text, r"\s*(UTC|GMT)$", "Z")
    written = pc.match_substring_regex(text, r"^\d{4}-\d{1,2}-\d{1,2}|^\d{8}[T ]")
    parsed = pd.Series(pd.to_datetime(text.to_pandas(), format="ISO8601", utc=True, errors="coerce"))
    bad = parsed.isna().to_numpy() | ~np.asarray(written, dtype=bool)
    if bad.any():
        row = find_row(bad)
        raise ValueError(
            f"{place}, row {row}: {shorten(text[row - 1].as_py())} is no time; "
            f"allowed are whole numbers in s, ms, us or ns, and ISO 8601 text such as {ISO_EXAMPLE}"
        )
    has_zone = np.asarray(pc.match_substring_regex(text, HAS_ZONE), dtype=bool)
    if has_zone.any() and not has_zone.all():
        row = find_row(has_zone != has_zone[0])
        raise ValueError(f"{place} has a time zone in some rows only: see rows 1 and {row}; give one to all or none")
    time_ms = np.asarray(parsed.dt.as_unit("ms").astype("int64"), dtype=np.int64)
    _refuse_days_as_months(time_ms, text[0].as_py(), place=place)
    _check_years(time_ms, place=place)
    return Converted(time_ms, () if has_zone.any() else (f"{label} has no time zone and is read as UTC",))


def _refuse_days_as_months(time_ms: Times, first: str, *, place: str) -> None:
    """Raise ValueError where many rows have one day of the month and successive months: YYYY-DD-MM."""
    days = np.unique(time_ms.astype("datetime64[ms]").astype("datetime64[D]"))
    is_intraday = bool((time_ms % 86_400_000).any())
    if not (is_intraday and MIN_DATES <= len(days) < len(time_ms) / 2):
        return
    months = days.astype("datetime64[M]")
    if len(set((days - months).tolist())) == 1 and (np.diff(months).astype(int) == 1).all():
        raise ValueError(
            f"{place}, row 1: {shorten(first)} and the other rows have one day of the month and {len(days)} months in "
            f"a row, as YYYY-DD-MM; write the month before the day, such as {ISO_EXAMPLE}"
        )


def is_time_text(text: str) -> bool:
    """Return whether a cell begins as a date or a number does."""
    return re.match(r"[-+]?\.?\d", text.strip()) is not None
