"""The clock of klines: milliseconds, on the grid of the bars."""

from pipeline.market.bars import count_bars_per_year as count_rows_per_year
from pipeline.market.bars import find_interval_ms as find_step

__all__ = ["COLUMNS", "TIME", "UNIT", "count_rows_per_year", "find_step"]

TIME, UNIT = "open_time", "ms"
COLUMNS = ["symbol", "open_time"]
