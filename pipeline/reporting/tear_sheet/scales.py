"""Axes of charts: from values to pixels, with ticks and their labels."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.dates import (
    DAILY,
    HOURLY,
    MINUTELY,
    MONTHLY,
    SECONDLY,
    AutoDateLocator,
    ConciseDateFormatter,
    date2num,
    num2date,
)
from matplotlib.ticker import LogLocator, MaxNLocator

Unit = Literal["number", "count", "percent", "time"]
Ticks = list[tuple[float, str]]
MAX_TICKS, TICK_PIXELS = 5, 30  # at most this many, each at least so far from the next
LONGEST_INTERVALS = {MONTHLY: 12, DAILY: 31, HOURLY: 24, MINUTELY: 60, SECONDLY: 60}
MARGIN = 0.04  # of the range, beyond the lowest and the highest value
WIDE = 20.0  # ratio of highest to lowest value from which a log axis has ticks at powers of 10


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map of [low, high] to pixels [start, stop]."""

    low: float
    high: float
    start: float
    stop: float
    unit: Unit = "number"
    is_log: bool = False

    def place(self, values: np.ndarray | float) -> np.ndarray:
        """Return the pixels of values."""
        low, high, given = self.low, self.high, np.asarray(values, np.float64)
        if self.is_log:
            low, high, given = np.log(low), np.log(high), np.log(given)
        return np.asarray(self.start + (given - low) / (high - low) * (self.stop - self.start))

    def list_ticks(self) -> Ticks:
        """Return the values of at most about MAX_TICKS ticks within the range, and their labels."""
        ticks = int(np.clip(abs(self.stop - self.start) / TICK_PIXELS, 2, MAX_TICKS))
        if self.unit == "time":
            return _list_dates(self.low, self.high)
        is_wide = self.is_log and self.high / self.low > WIDE
        locator = LogLocator(numticks=ticks) if is_wide else MaxNLocator(ticks, integer=self.unit == "count")
        values = np.asarray(locator.tick_values(self.low, self.high))
        inside = values[(values >= self.low) & (values <= self.high)]
        return [(float(value), _format_value(float(value), self.unit)) for value in inside]


def fit_scale(
    *values: np.ndarray | float,
    start: float,
    stop: float,
    unit: Unit = "number",
    is_log: bool = False,
    include: float | None = None,
) -> Scale:
    """Return the scale of all finite values, with a margin; `include` is a value that it must show.

    Times have no margin. Without a finite value the range is that around `include`, or 0 to 1.
    """
    given = [*values, *([] if include is None else [include])]
    joined = np.concatenate([np.ravel(np.asarray(each, np.float64)) for each in given] or [np.empty(0)])
    finite = joined[np.isfinite(joined) & (joined > 0 if is_log else True)]
    if not finite.size:
        finite = np.array([0.5, 2.0]) if is_log else np.array([0.0, 1.0])
    low, high = float(finite.min()), float(finite.max())
    if unit != "time":
        ends = np.log([low, high]) if is_log else np.array([low, high])
        space = MARGIN * (ends[1] - ends[0]) or (0.05 if is_log else abs(ends[0]) * MARGIN or 1.0)
        ends = ends + np.array([-space, space])
        low, high = map(float, np.exp(ends) if is_log else ends)
    return Scale(low, high if high > low else low + 1.0, start, stop, unit, is_log)


def _list_dates(first_ms: float, last_ms: float) -> Ticks:
    ends = [num2date(date2num(np.datetime64(int(time), "ms"))) for time in (first_ms, last_ms)]
    locator = AutoDateLocator(minticks=3, maxticks=MAX_TICKS)
    for unit, interval in LONGEST_INTERVALS.items():  # without which some spans have no interval of few ticks
        locator.intervald[unit] = [*locator.intervald[unit], interval]
    days = np.asarray(locator.tick_values(*ends))
    times = days * 86_400_000.0
    inside = days[(times >= first_ms) & (times <= last_ms)]
    labels = ConciseDateFormatter(locator).format_ticks(inside)
    return [(float(day) * 86_400_000.0, label) for day, label in zip(inside, labels, strict=True)]


def _format_value(value: float, unit: Unit) -> str:
    shown = value * 100 if unit == "percent" else value
    if abs(shown) >= 1e6:
        return _format_value(shown / 1e6, "number") + ("M %" if unit == "percent" else "M")
    text = "0" if abs(shown) < 1e-12 else f"{shown:,.6g}"
    return f"{text.replace('-', '−')} %" if unit == "percent" else text.replace("-", "−")
