"""The features of klines: those of the compiled engine, and columns in pandas."""

from pipeline.features.engine import compute_parts

__all__ = ["compute_parts"]
