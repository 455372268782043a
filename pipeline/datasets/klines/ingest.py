"""The clean table of klines: checked bars, in segments without gaps."""

from pipeline.market.bars import clean

__all__ = ["clean"]
