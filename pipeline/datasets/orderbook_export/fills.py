"""The fills of market orders on an export: at the mid of the next row, or later, and half its spread beside."""

from pipeline.datasets.orderbook.fills import COLUMNS, find_fills, measure_executable

__all__ = ["COLUMNS", "find_fills", "measure_executable"]
