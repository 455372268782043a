"""The features of klines: those of the compiled engine, and columns in pandas."""

from pipeline.features.engine import compute

__all__ = ["compute"]
