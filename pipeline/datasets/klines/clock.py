"""The clock of klines: milliseconds, on the grid of the bars."""

import numpy as np
import pandas as pd

from pipeline.market.bars import count_bars_per_year as count_rows_per_year
from pipeline.market.bars import find_interval_ms as find_step

__all__ = ["COLUMNS", "TIME", "UNIT", "count_rows_per_year", "find_step", "to_ms"]

TIME, UNIT = "open_time", "ms"
COLUMNS = ["symbol", "segment", "open_time"]


def to_ms(clean: pd.DataFrame, time: np.ndarray) -> np.ndarray:
    """Return the instants of times of the clock: the same."""
    return time
