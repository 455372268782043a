"""The features of an order book: those of the compiled engine."""

from pipeline.orderbook.engine import compute_parts

__all__ = ["compute_parts"]
