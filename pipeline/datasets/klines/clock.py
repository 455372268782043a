"""The clock of klines: milliseconds, on the grid of the bars; where a market has sessions, they number the bars."""

import numpy as np
import pandas as pd

from pipeline.market.bars import count_bars_per_year as count_rows_per_year
from pipeline.market.bars import find_interval_ms

__all__ = ["COLUMNS", "TIME", "UNIT", "count_rows_per_year", "find_step", "number_times", "to_ms"]

TIME, UNIT = "open_time", "ms"
COLUMNS = ["symbol", "segment", "open_time", "bar_number", "closes_positions"]


def find_step(clean: pd.DataFrame) -> int | None:
    """Return the bar length in ms; None where the market has sessions: their times are no grid."""
    return None if "bar_number" in clean.columns else find_interval_ms(clean)


def number_times(clean: pd.DataFrame, time: np.ndarray) -> np.ndarray | None:
    """Return (n,) the number of the bar that opens at each time, among all of the sessions; None where none close."""
    if "bar_number" not in clean.columns:
        return None
    known, place = np.unique(clean["open_time"].to_numpy(), return_index=True)
    return np.asarray(clean["bar_number"].to_numpy()[place[np.searchsorted(known, time)]])


def to_ms(clean: pd.DataFrame, time: np.ndarray) -> np.ndarray:
    """Return the instants of times of the clock: the same."""
    return time
