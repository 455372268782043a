"""The functions that recompute features and labels of an order book, for the guards that remove or alter events.

Guards know the clock as `open_time`. Features do not read it.
"""

from typing import Any

import pandas as pd

from pipeline import config
from pipeline.datasets.orderbook.featurize import compute_parts
from pipeline.orderbook import labels
from pipeline.orderbook.columns import BOOK
from pipeline.orderbook.raw_table import MESSAGE
from pipeline.target_kinds import Labels

__all__ = ["compute", "compute_parts", "list_columns", "make_labels"]

compute = None  # canaries of bars are not planted: the kind has its own
HAS_GATES = True


def list_columns(block: config.Block) -> list[str]:
    """Return the columns of the clean table that features read, and the clock."""
    return ["segment", "open_time", "symbol", "day", "time_ns", *MESSAGE, *BOOK]


def make_labels(clean: pd.DataFrame, block: dict[str, Any], *, name: str = "target", delay_bars: int = 0) -> Labels:
    """Return the labels of a clean table whose clock is named `open_time`."""
    return labels.make_labels(clean.rename(columns={"open_time": "event"}), block, name=name, delay_bars=delay_bars)
