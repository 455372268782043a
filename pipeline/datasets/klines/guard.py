"""The functions that recompute features and labels of klines, for the guards that remove or alter bars."""

from pipeline.features.engine import compute
from pipeline.labels import make_labels

__all__ = ["COLUMNS", "compute", "make_labels"]

COLUMNS = ["segment", "open_time", "open", "high", "low", "close", "volume", "bar_number", "closes_positions"]
