"""The fills of orders on klines: at the open of the next bar that trades."""

from pipeline.fills import COLUMNS as REQUIRED_COLUMNS
from pipeline.fills import OPTIONAL_COLUMNS, find_fills

__all__ = ["COLUMNS", "find_fills"]

COLUMNS = [*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS]
