"""The one table that every model learns from: rows by segment, what was known, and what came true."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

KEY = ["segment", "time"]  # what names a row in every table of a dataset


@dataclass(frozen=True)
class Samples:
    """Rows by segment, in time order within each. `x` was known at `time`; `y` came true by `label_end`."""

    time: np.ndarray  # (N,) int64 ms, the bar's open_time; increasing within a segment
    label_end: np.ndarray  # (N,) int64 ms
    segment: np.ndarray  # (N,) int32; rows of one segment are consecutive bars: a window never crosses one
    x: np.ndarray  # (N, F) float32
    columns: tuple[str, ...]
    y: np.ndarray  # (N,) float32 for regression, int32 class codes for classification
    move: np.ndarray  # (N,) float64, what one unit held over the next bar earns

    @classmethod
    def load(cls, features: Path, labels: Path, *, rows: pd.DataFrame) -> "Samples":
        """The samples that `rows` (segment, time) names, in that order, from a features and a labels parquet.

        Raises:
            ValueError: a row has no features or no label; names the first.
        """
        known = aligned(pd.read_parquet(features), rows, named=str(features))
        true = aligned(pd.read_parquet(labels), rows, named=str(labels))
        columns = tuple(name for name in known.columns if name not in KEY)
        return cls(
            time=rows["time"].to_numpy(),
            label_end=true["label_end"].to_numpy(),
            segment=contiguous(rows),
            x=np.ascontiguousarray(known[list(columns)].to_numpy(np.float32)),
            columns=columns,
            y=true["y"].to_numpy(),
            move=true["move"].to_numpy(),
        )


def keyed(segment: np.ndarray, time: np.ndarray) -> pd.DataFrame:
    """The table that names rows: (N,) segment and (N,) time in ms."""
    return pd.DataFrame({"segment": segment, "time": time})


def aligned(table: pd.DataFrame, rows: pd.DataFrame, *, named: str) -> pd.DataFrame:
    """The rows of `table` that `rows` (segment, time) names, in that order; ValueError names the first it lacks."""
    place = table[KEY].assign(place=np.arange(len(table)))
    found = rows[KEY].merge(place, on=KEY, how="left", validate="one_to_one")["place"]
    if found.isna().any():
        lost = rows.iloc[int(np.flatnonzero(found.isna())[0])]
        raise ValueError(f"{named}: no row for segment {lost['segment']}, time {lost['time']}; run `dvc repro`")
    return table.iloc[found.to_numpy(np.int64)]


def common_rows(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The rows (segment, time) that stand in every table, in the order of the first."""
    rows = tables[0][KEY]
    for table in tables[1:]:
        rows = rows.merge(table[KEY], on=KEY, how="inner", validate="one_to_one")
    return rows.reset_index(drop=True)


def contiguous(rows: pd.DataFrame) -> np.ndarray:
    """(n,) int32 numbers of the runs of consecutive bars: a new one where the segment changes or a bar is left out."""
    if rows.empty:
        return np.empty(0, np.int32)
    step, same = np.diff(rows["time"].to_numpy()), np.diff(rows["segment"].to_numpy()) == 0
    bar_ms = step[same].min() if same.any() else 0
    return np.concatenate([[0], np.cumsum(~same | (step != bar_ms))]).astype(np.int32)
