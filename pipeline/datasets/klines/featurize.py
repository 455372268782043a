"""The features of klines: those of the compiled engine, and columns in pandas."""

from pipeline.features.engine import compute, compute_parts

__all__ = ["compute", "compute_parts"]
