"""The features of klines: those of the compiled engine, and columns in pandas; of several symbols at once."""

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
from joblib import delayed

from pipeline.by_symbol import count_processes, run_by_symbol, split_symbols
from pipeline.features.chunks import FIELDS
from pipeline.features.engine import KEYS, BulkFeatures, Features
from pipeline.features.params import FeatureParams, expand_params
from pipeline.row_groups import TableFile

__all__ = ["compute_parts"]


@expand_params
def compute_parts(bars: TableFile, params: FeatureParams) -> Iterator[Features]:
    """Yield the features of consecutive bars of a file with `segment`: together those of `engine.compute`.

    Columns among symbols and columns in pandas are computed in this process, those of other symbols in several.
    """
    symbols = split_symbols(bars.read(["open_time"])["open_time"].to_numpy())
    is_alone = count_processes(len(symbols), rows=bars.rows) == 1
    if is_alone or params.cross_section or params.in_pandas:
        yield from _compute_all(bars, params)
        return
    jobs = [delayed(_compute_symbol)(bars, params, start=start, stop=stop) for start, stop in symbols]
    for parts in run_by_symbol(jobs, rows=bars.rows):
        yield from parts


def _compute_symbol(bars: TableFile, params: FeatureParams, *, start: int, stop: int) -> list[Features]:
    """Return the features of the bars from `start` to `stop`, where segments begin, in parts."""
    table = bars.read({*KEYS, *FIELDS}, start=start, stop=stop)
    return [replace(part, rows=part.rows + start) for part in _compute_all(table, params)]


def _compute_all(bars: pd.DataFrame | TableFile, params: FeatureParams) -> Iterator[Features]:
    bulk, start = BulkFeatures(bars, params), 0
    for stop in bulk.part_stops:
        yield bulk.compute(start, stop)
        start = stop
