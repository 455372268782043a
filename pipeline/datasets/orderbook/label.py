"""The labels of an order book."""

from pipeline.orderbook.labels import COLUMNS, describe_target, make_labels

__all__ = ["COLUMNS", "describe_target", "make_labels"]
