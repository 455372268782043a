"""The table that every model learns from: rows by segment, with their features and labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

KEY = ["segment", "time"]  # identifies a row in every table of a dataset


@dataclass(frozen=True)
class Samples:
    """Rows by segment, in time order within each.

    `x` is known when the bar that opens at `time` closes, and `y` when the bar that opens at `label_end` (t1 in AFML)
    closes.
    """

    time: np.ndarray  # (N,) int64 ms, the bar's open_time; increasing within a segment
    label_end: np.ndarray  # (N,) int64 ms
    segment: np.ndarray  # (N,) int32, the run of consecutive rows: a new one at each segment border and missing row
    x: np.ndarray  # (N, F) float32
    columns: tuple[str, ...]
    y: np.ndarray  # (N,) float32 for regression, int32 class codes for classification
    move: np.ndarray  # (N,) float64, simple return of one unit held over the next bar

    @classmethod
    def load(cls, features: Path, labels: Path, *, rows: pd.DataFrame) -> "Samples":
        """Return the samples of `rows` (segment, time), in that order, from a features and a labels parquet.

        Raises:
            ValueError: a row has no features or no label; names the first.
        """
        feature_table = align(pd.read_parquet(features), rows, name=str(features))
        label_table = align(pd.read_parquet(labels), rows, name=str(labels))
        columns = tuple(column for column in feature_table.columns if column not in KEY)
        return cls(
            time=rows["time"].to_numpy(),
            label_end=label_table["label_end"].to_numpy(),
            segment=number_runs(rows),
            x=np.ascontiguousarray(feature_table[list(columns)].to_numpy(np.float32)),
            columns=columns,
            y=label_table["y"].to_numpy(),
            move=label_table["move"].to_numpy(),
        )


def make_keys(segment: np.ndarray, time: np.ndarray) -> pd.DataFrame:
    """Return the table of row keys: (N,) segment and (N,) time in ms."""
    return pd.DataFrame({"segment": segment, "time": time})


def align(table: pd.DataFrame, rows: pd.DataFrame, *, name: str) -> pd.DataFrame:
    """Return the rows of `table` with the keys `rows` (segment, time), in that order.

    Raises:
        ValueError: the table `name` lacks a row; names the first.
    """
    positions = table[KEY].assign(position=np.arange(len(table)))
    found = rows[KEY].merge(positions, on=KEY, how="left", validate="one_to_one")["position"]
    if found.isna().any():
        missing = rows.iloc[int(np.flatnonzero(found.isna())[0])]
        raise ValueError(f"{name}: no row for segment {missing['segment']}, time {missing['time']}; run `dvc repro`")
    return table.iloc[found.to_numpy(np.int64)]


def intersect_rows(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the keys (segment, time) that every table has, in the order of the first."""
    rows = tables[0][KEY]
    for table in tables[1:]:
        rows = rows.merge(table[KEY], on=KEY, how="inner", validate="one_to_one")
    return rows.reset_index(drop=True)


def number_runs(rows: pd.DataFrame) -> np.ndarray:
    """Return (n,) int32 numbers of the runs of consecutive bars: a new one at each new segment and missing bar."""
    if rows.empty:
        return np.empty(0, np.int32)
    step, same = np.diff(rows["time"].to_numpy()), np.diff(rows["segment"].to_numpy()) == 0
    bar_ms = step[same].min() if same.any() else 0
    return np.concatenate([[0], np.cumsum(~same | (step != bar_ms))]).astype(np.int32)
