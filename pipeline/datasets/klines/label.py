"""The labels of klines, of several symbols at once: a label uses bars of its own segment alone."""

from functools import partial
from typing import Any

import pandas as pd
from joblib import delayed

from pipeline import labels
from pipeline.by_symbol import run_by_symbol, split_symbols
from pipeline.labels import describe_target
from pipeline.market.bars import concat_tables
from pipeline.target_kinds import Labels

__all__ = ["COLUMNS", "describe_target", "make_labels"]

COLUMNS = ["segment", "open_time", "open", "high", "low", "close", "closes_positions"]


def make_labels(bars: pd.DataFrame, block: dict[str, Any], *, name: str = "target", delay_bars: int = 0) -> Labels:
    """Return the labels of the clean table `bars` for a target, see `pipeline.labels.make_labels`."""
    symbols = split_symbols(bars["open_time"].to_numpy())
    make = partial(labels.make_labels, block=block, name=name, delay_bars=delay_bars)
    if len(symbols) == 1:
        return make(bars)
    parts = list(run_by_symbol([delayed(make)(bars.iloc[start:stop]) for start, stop in symbols], rows=len(bars)))
    for part, (start, _) in zip(parts, symbols, strict=True):
        part.table["row"] += start
    largest = [part.largest for part in parts if part.largest is not None]
    return Labels(
        lost={cause: sum(part.lost[cause] for part in parts) for cause in parts[0].lost},
        ties=sum(part.ties for part in parts),
        clipped=sum(part.clipped for part in parts),
        largest=max(largest) if largest else None,
        table=concat_tables([part.table for part in parts]),
    )
