"""Named stretches of time of one model, whose bars a report draws one by one: worst, best and most-traded day."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.evaluation import performance
from pipeline.reporting.tear_sheet.evidence import Bars, ModelEvidence
from pipeline.reporting.tear_sheet.formats import format_day
from pipeline.reporting.tear_sheet.series import DAY_MS

MIN_BARS, MAX_BARS = 60, 1500  # of a stretch: a day of fewer bars is widened, of more is narrowed


@dataclass(frozen=True)
class Stretch:
    """Bars `first` to `last`, without `last`, of a symbol; `name` says why they are shown, and the day."""

    name: str
    symbol: str
    first: int
    last: int

    @property
    def key(self) -> str:
        """The same for the same bars, whatever the name."""
        return f"candles-{self.symbol}-{self.first}-{self.last}"


def pick_stretches(model: ModelEvidence, bars: Mapping[str, Bars]) -> list[Stretch]:
    """Return the worst, the best and the most-traded UTC day of the median path; one that is two of them is named so.

    A day of more than `MAX_BARS` bars is cut to those where it earns least, earns most or trades most.
    """
    days, returns = performance.aggregate_days(model.time_ms, model.net)
    trips = model.round_trips
    orders = np.concatenate([trips["entry_time"].to_numpy(np.int64), trips["exit_time"].to_numpy(np.int64)])
    order_days = (orders // DAY_MS)[np.isin(orders // DAY_MS, days)]  # the last order may follow the last bar
    count = np.bincount(np.searchsorted(days, order_days), minlength=len(days))
    chosen = {
        "worst day": (days[np.argmin(returns)], -model.net, model.time_ms),
        "best day": (days[np.argmax(returns)], model.net, model.time_ms),
        "most-traded day": (days[np.argmax(count)], np.ones(len(orders)), orders),
    }
    found: dict[tuple[str, str, int, int], list[str]] = {}
    for name, (day, amount, time_ms) in chosen.items():
        symbol = find_symbol(trips, list(bars), start_ms=int(day) * DAY_MS)
        span = find_span(bars[symbol].time_ms, time_ms, amount, start_ms=int(day) * DAY_MS)
        found.setdefault((format_day(int(day) * DAY_MS), symbol, *span), []).append(name)
    return [
        Stretch(f"{' and '.join(names)}, {day}", symbol, first, last)
        for (day, symbol, first, last), names in found.items()
    ]


def find_symbol(trips: pd.DataFrame, symbols: list[str], *, start_ms: int) -> str:
    """Return the symbol with the most round trips that overlap the day; of equals, the first of `symbols`."""
    is_held = (trips["entry_time"] < start_ms + DAY_MS) & (trips["exit_time"] >= start_ms)
    counts = trips["symbol"][is_held].value_counts()
    return max(symbols, key=lambda symbol: int(counts.get(symbol, 0)))


def find_span(bars_ms: np.ndarray, time_ms: np.ndarray, amount: np.ndarray, *, start_ms: int) -> tuple[int, int]:
    """Return the first bar of a UTC day and the bar after its last, among (T,) times of bars.

    A day of fewer than `MIN_BARS` bars is widened to both sides. Of more than `MAX_BARS`, those with the largest sum of
    `amount` (n,) at `time_ms` (n,) are taken.
    """
    first, last = (int(each) for each in np.searchsorted(bars_ms, [start_ms, start_ms + DAY_MS]))
    if (lacking := MIN_BARS - (last - first)) > 0:
        first = max(0, min(first - lacking // 2, len(bars_ms) - MIN_BARS))
        return first, min(len(bars_ms), first + MIN_BARS)
    if last - first <= MAX_BARS:
        return first, last
    place = np.searchsorted(bars_ms[first:last], time_ms, side="right") - 1
    is_inside = (time_ms >= bars_ms[first]) & (time_ms < start_ms + DAY_MS)
    sums = np.bincount(place[is_inside], weights=amount[is_inside], minlength=last - first).cumsum()
    windows = sums[MAX_BARS - 1 :] - np.concatenate([[0.0], sums[:-MAX_BARS]])
    first += int(np.argmax(np.round(windows, 12)))
    return first, first + MAX_BARS
