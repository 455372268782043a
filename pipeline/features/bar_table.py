"""A table of bars as `engine.compute` takes it: the matrix of its fields, and its segments."""

import math
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.features import chunks
from pipeline.features.chunks import N_PRICES
from pipeline.features.rolling import Floats, Integers
from pipeline.market import bars as klines


def list_absent_fields(columns: Collection[str], declared: Collection[str]) -> tuple[str, ...]:
    """Return the optional fields that features read and that a table with `columns` lacks, or are declared absent."""
    optional = [name for name in chunks.FIELDS if name in klines.OPTIONAL]
    return tuple(name for name in optional if name in declared or name not in columns)


def read_matrix(bars: pd.DataFrame, *, absent: Sequence[str], start: int = 0) -> Floats:
    """Return valid prices and amounts (fields, N) of bars, from row `start` of a table; an absent field is NaN."""
    present = [name for name in chunks.FIELDS if name not in absent]
    if missing := [name for name in present if name not in bars.columns]:
        raise ValueError(f"bars: columns {missing} are missing; there are {list(bars.columns)}")
    matrix, lows, highs = np.full((len(chunks.FIELDS), len(bars)), np.nan), list[float](), list[float]()
    for row, name in zip(matrix, chunks.FIELDS, strict=True):
        if name in absent:
            continue
        row[:] = bars[name].to_numpy(dtype=np.float64)
        lows.append(row.min(initial=math.inf))  # now, while the row is in the processor's cache
        highs.append(row.max(initial=-math.inf))
    if not (
        all(low > 0.0 for low in lows[:N_PRICES])
        and all(low >= 0.0 for low in lows)
        and all(high < math.inf for high in highs)
    ):
        read = np.array([name in present for name in chunks.FIELDS])
        bad = int(np.flatnonzero(~_is_valid(matrix)[read].all(axis=0))[0])
        raise ValueError(f"bars: row {start + bad}: {_describe_fault(matrix[:, bad], read)}")
    return matrix


def _is_valid(values: Floats) -> npt.NDArray[np.bool_]:
    """Return a mask: prices (first axis) are finite and above 0, amounts are finite and not negative."""
    valid = np.isfinite(values)
    valid[:N_PRICES] &= values[:N_PRICES] > 0.0
    valid[N_PRICES:] &= values[N_PRICES:] >= 0.0
    return valid


def _describe_fault(values: Floats, read: npt.NDArray[np.bool_]) -> str:
    """Return what is wrong with one bar's fields, of which `read` are not absent."""
    field = int(np.flatnonzero(~_is_valid(values) & read)[0])
    allowed = "above 0" if field < N_PRICES else "0 or more"
    return f"{chunks.FIELDS[field]} is {values[field]}; allowed is a finite number, {allowed}"


def find_segments(bars: pd.DataFrame) -> tuple[Integers, Integers, Integers]:
    """Return each segment's number, first row and end row.

    Raises ValueError where a segment's rows are apart or not in time order.
    """
    numbers = bars["segment"] if "segment" in bars.columns else pd.Series(klines.number_segments(bars))
    segment, time_ms = numbers.to_numpy(np.int64), bars["open_time"].to_numpy(np.int64)
    is_border = segment[1:] != segment[:-1]
    starts = np.flatnonzero(np.concatenate([np.ones(min(len(bars), 1), dtype=np.bool_), is_border]))
    back = np.flatnonzero((time_ms[1:] <= time_ms[:-1]) & ~is_border)
    if back.size:
        raise ValueError(f"bars: row {back[0] + 1} does not follow row {back[0]} in time within its segment; sort them")
    unique, runs = np.unique(segment[starts], return_counts=True)
    if (runs > 1).any():
        raise ValueError(
            f"bars: the rows of segment {unique[runs > 1][0]} are not adjacent; sort them by segment, then open_time"
        )
    return segment[starts], starts, np.append(starts[1:], len(bars)) if len(bars) else starts


def join_ranges(starts: Integers, stops: Integers) -> Integers:
    """Return the positions from each start to its stop, one range after the other."""
    ranges = [np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)]
    return np.concatenate([np.arange(0), *ranges])
