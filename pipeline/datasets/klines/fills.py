"""The fills of orders on klines: at the open of the next bar that trades."""

from pipeline.fills import COLUMNS, find_fills

__all__ = ["COLUMNS", "find_fills"]
