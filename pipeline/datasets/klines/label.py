"""The labels of klines."""

from pipeline.labels import describe_target, make_labels

__all__ = ["COLUMNS", "describe_target", "make_labels"]

COLUMNS = ["segment", "open_time", "open", "high", "low", "close", "closes_positions"]
