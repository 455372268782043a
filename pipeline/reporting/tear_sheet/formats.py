"""Numbers, times and shares as a report shows them; what is undefined is a dash."""

from datetime import UTC, datetime

from pipeline.reporting.markdown import DASH

MINUTE_MS = 60_000


def format_number(value: object, *, digits: int = 3) -> str:
    """Return significant digits with a true minus sign and separators of thousands, or a dash for NaN and None."""
    if not isinstance(value, int | float) or value != value:
        return DASH
    size = abs(value)
    is_whole = isinstance(value, int) or 1000 <= size < 1e7
    text = f"{value:,.0f}" if is_whole else f"{value:.{digits}g}"
    return text.replace("-", "−")


def format_percent(value: object, *, digits: int = 2) -> str:
    """Return a fraction in percent with `digits` decimals, or a dash."""
    if not isinstance(value, int | float) or value != value:
        return DASH
    return f"{value * 100:,.{digits}f} %".replace("-", "−")


def format_interval(value: object, low: object, high: object) -> str:
    """Return a number with its interval, where it has one."""
    interval = "" if format_number(low) == DASH else f" [{format_number(low)}, {format_number(high)}]"
    return format_number(value) + interval


def format_range(values: list[float | None]) -> str:
    """Return the lowest and the highest of the values that are defined, or a dash."""
    known = [value for value in values if value is not None and value == value]
    ends = list(dict.fromkeys(format_number(end(known)) for end in (min, max))) if known else [DASH]
    return " to ".join(ends)


def format_time(time_ms: float | None) -> str:
    """Return an instant in UTC to the minute, or a dash."""
    return DASH if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def format_day(time_ms: float) -> str:
    """Return the UTC date of an instant."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d")


def format_hours(milliseconds: float | None) -> str:
    """Return a duration in hours, below one hour in minutes, from two days on in days; a dash for None."""
    if milliseconds is None:
        return DASH
    minutes = milliseconds / MINUTE_MS
    if minutes < 60:
        return f"{minutes:.1f} min"
    return f"{minutes / 1440:.1f} days" if minutes >= 2880 else f"{minutes / 60:.1f} h"


def list_names(names: list[str]) -> str:
    """Return names as one text, or the word none."""
    return ", ".join(names) if names else "none"
