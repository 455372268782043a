"""The fills of a dataset's bars by time and symbol: one clock for all symbols of a portfolio."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.fills import WAITS, Fills


@dataclass(frozen=True, eq=False)
class TradingGrid:
    """The fills of every bar of the traded symbols, as arrays (T, S) by time and symbol."""

    time: np.ndarray  # (T,)
    symbols: tuple[str, ...]
    fills: Fills
    last_place: np.ndarray  # (S,) of each symbol's last bar

    def slice_times(self, first: int, last: int) -> "TradingGrid":
        """Return the rows from the place `first` to the place `last`, both included."""
        rows = np.arange(first, last + 1)
        return TradingGrid(self.time[rows], self.symbols, self.fills.take(rows), self.last_place - first)

    def locate(self, time: np.ndarray) -> np.ndarray:
        """Return the places of times that the grid has."""
        return np.searchsorted(self.time, time)


def make_grid(
    bars: pd.DataFrame,
    find_fills: Callable[..., Fills],
    *,
    time_column: str,
    symbols: Sequence[str],
    delay_bars: int,
    bar_ms: int | None,
) -> TradingGrid:
    """Return the fills of clean bars by time and symbol; where a symbol has no bar it WAITS, and holds.

    `bars` have the columns that `find_fills` reads, and the clock in `time_column`. With `bar_ms` it is a regular grid.
    """
    own = bars[bars["symbol"].isin(symbols)]
    found, times = find_fills(own, delay_bars=delay_bars), own[time_column].to_numpy()
    time = np.arange(times.min(), times.max() + 1, bar_ms) if bar_ms else np.unique(times)
    row, column = np.searchsorted(time, times), pd.Categorical(own["symbol"], categories=list(symbols)).codes
    shape = (len(time), len(symbols))
    waits = np.full(shape, WAITS, np.int8)
    grid = Fills(np.zeros(shape), np.zeros(shape), np.zeros(shape), waits, np.zeros(shape, bool))
    gap = np.flatnonzero(found.crosses_gap)
    earned = row.copy()  # where a move is booked: over missing bars not before the last of them
    earned[gap] = row[gap + 1] - 1
    for name in ("quote_volume", "outcome", "half_spread"):
        getattr(grid, name)[row, column] = getattr(found, name)
    for name in ("move", "years", "crosses_gap"):
        getattr(grid, name)[earned, column] = getattr(found, name)
    latest = np.zeros(shape, np.int64)  # each symbol's latest bar: at the end it is closed at that bar's half spread
    latest[row, column] = row
    grid.half_spread[:] = np.take_along_axis(grid.half_spread, np.maximum.accumulate(latest), axis=0)
    last_place = np.full(len(symbols), -1)
    np.maximum.at(last_place, column, row)
    return TradingGrid(time, tuple(symbols), grid, last_place)
