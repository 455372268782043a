"""The clock of an export: the number of the row; its time is midnight plus the sum of dt_seconds."""

from pipeline.datasets.orderbook.clock import COLUMNS, TIME, UNIT, count_rows_per_year, find_step, number_times, to_ms

__all__ = ["COLUMNS", "TIME", "UNIT", "count_rows_per_year", "find_step", "number_times", "to_ms"]
