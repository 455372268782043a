"""The table that every model learns from: rows by segment, with their features and labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.feature_file import FeatureFile
from pipeline.fills import Fills
from pipeline.row_groups import TableFile
from pipeline.targets import list_shorter

KEY = ["segment", "time"]  # identifies a row in every table of a dataset
LABELS = ["label_end", "y"]


@dataclass(frozen=True)
class Samples:
    """Rows by segment, in the order of the dataset's clock within each: every row whose features are known.

    `x` is known when the bar that opens at `time` closes, and `y` when the bar that opens at `label_end` (t1 in AFML)
    closes. A row without a label is predicted, and part of windows; its `y` is NaN or -1. No two rows of a segment
    have the same `time`; several may stand at one instant where the clock is the number of an event.
    """

    time: np.ndarray  # (N,) int64, the dataset's clock: of klines the bar's open_time in ms
    label_end: np.ndarray  # (N,) int64, the same clock
    segment: np.ndarray  # (N,) int32, the run of consecutive rows; a window never crosses its border
    x: np.ndarray  # (N, F) float32; very many rows are mapped from a file: a copy would fill the memory
    columns: tuple[str, ...]
    y: np.ndarray  # (N,) float32 for regression, int32 class codes for classification
    is_labeled: np.ndarray = field(default_factory=lambda: np.empty(0, bool))  # (N,); not given: all are
    fills: Fills | None = None  # (N,) each, of the orders decided at the rows; None where a model does not trade
    y_by_horizon: np.ndarray | None = None  # (N, horizons) float32, the last is y; None of a target with one horizon

    def __post_init__(self) -> None:
        """Take all rows as labeled where nothing else is given."""
        if len(self.is_labeled) != len(self.time):
            object.__setattr__(self, "is_labeled", np.ones(len(self.time), bool))

    @property
    def learned(self) -> np.ndarray:
        """The y that a fit learns: (N,), or of a target with several horizons (N, horizons)."""
        return self.y if self.y_by_horizon is None else self.y_by_horizon

    @classmethod
    def load(cls, features: Path, labels: Path, *, rows: pd.DataFrame) -> "Samples":
        """Return the samples of `rows` (segment, time), in that order, from a features and a labels parquet.

        Where `rows` have a column `is_labeled`, the others need no label; they end at their own time.

        Raises:
            ValueError: a row has no features, or a labeled one no label; names the first.
        """
        known, (stored, segment) = read_labels(labels, rows=rows), open_features(features, rows=rows)
        return cls(
            time=rows["time"].to_numpy(),
            segment=segment,
            x=stored.read_rows(),
            columns=stored.columns,
            label_end=known["label_end"],
            y=known["y"],
            is_labeled=known["is_labeled"],
            y_by_horizon=known.get("y_by_horizon"),
        )

    def select_columns(self, columns: Sequence[str]) -> "Samples":
        """Return the samples with these columns alone, in this order.

        Raises:
            ValueError: a column does not exist.
        """
        if tuple(columns) == self.columns:
            return self
        if missing := [column for column in columns if column not in self.columns]:
            raise ValueError(f"there are no columns {missing}; the features are {', '.join(self.columns)}")
        x = np.ascontiguousarray(self.x[:, [self.columns.index(column) for column in columns]])
        return replace(self, x=x, columns=tuple(columns))


def open_features(file: Path, *, rows: pd.DataFrame) -> tuple[FeatureFile, np.ndarray]:
    """Return the features of `rows` (segment, time), in that order, and the number of each row's run, (N,) int32.

    Raises:
        ValueError: a row has no features; names the first.
    """
    stored = TableFile(file)
    position = locate(stored.read(KEY), rows, name=str(file))
    segment = number_runs(rows["segment"].to_numpy(), position)
    has_all = len(position) == stored.rows and bool((np.diff(position) == 1).all())
    return FeatureFile(file, keys=KEY, rows=None if has_all else position), segment


def read_labels(file: Path, *, rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return label_end, y and is_labeled, (N,) each, of `rows` from a parquet of labels; see Samples.

    Of a target with several horizons it has y_by_horizon too, (N, horizons).
    """
    is_labeled = rows["is_labeled"].to_numpy() if "is_labeled" in rows else np.ones(len(rows), bool)
    labeled = rows if is_labeled.all() else rows[is_labeled]
    stored = TableFile(file)
    shorter = list_shorter(stored.schema.names)
    table = align(stored.read([*KEY, *LABELS, *shorter]), labeled, name=str(file))
    label_end, y = (table[name].to_numpy() for name in LABELS)
    by_horizon = table[[*shorter, "y"]].to_numpy() if shorter else None
    return {
        "label_end": _fill_rows(label_end, is_labeled, rows["time"].to_numpy()),
        "y": _fill_rows(y, is_labeled, -1 if np.issubdtype(y.dtype, np.integer) else np.nan),
        "is_labeled": is_labeled,
        **({} if by_horizon is None else {"y_by_horizon": _fill_rows(by_horizon, is_labeled, np.nan)}),
    }


def make_keys(segment: np.ndarray, time: np.ndarray) -> pd.DataFrame:
    """Return the table of row keys: (N,) segment and (N,) time."""
    return pd.DataFrame({"segment": segment, "time": time})


def align(table: pd.DataFrame, rows: pd.DataFrame, *, name: str) -> pd.DataFrame:
    """Return the rows of `table` with the keys `rows` (segment, time), in that order.

    Raises:
        ValueError: the table `name` lacks a row; names the first.
    """
    return table.iloc[locate(table, rows, name=name)]


def locate(table: pd.DataFrame, rows: pd.DataFrame, *, name: str) -> np.ndarray:
    """Return (n,) the position in `table` of each of the keys `rows` (segment, time).

    Raises:
        ValueError: the table `name` lacks a row; names the first.
    """
    found = _find_positions(table, rows)
    if (found < 0).any():
        missing = rows.iloc[int(np.flatnonzero(found < 0)[0])]
        raise ValueError(f"{name}: no row for segment {missing['segment']}, time {missing['time']}; run `dvc repro`")
    return found


def find_label_ends(rows: pd.DataFrame, tables: Iterable[pd.DataFrame]) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) the latest label_end of each of `rows`, and (N,) whether every one of the tables of labels has it.

    A row that a table lacks ends at its own time. One table is held at a time.
    """
    time = rows["time"].to_numpy()
    latest, is_labeled = np.full(len(rows), np.iinfo(np.int64).min), np.ones(len(rows), dtype=bool)
    for table in tables:
        found = _find_positions(table, rows)
        has_label = found >= 0
        is_labeled &= has_label
        if has_label.any():
            np.maximum(latest, table["label_end"].to_numpy()[found], out=latest, where=has_label)
    np.copyto(latest, time, where=~is_labeled)
    return latest, is_labeled


def number_runs(segment: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return (n,) int32 numbers of the runs of consecutive rows: a new one at each new segment and missing row.

    `row` are positions in a table that has every bar of a segment, such as the clean bars or all samples.
    """
    is_border = (np.diff(segment) != 0) | (np.diff(row) != 1)
    return np.concatenate([np.zeros(min(len(row), 1), np.int32), np.cumsum(is_border, dtype=np.int32)])


def _find_positions(table: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    """Return (n,) the position in `table` of each key of `rows`; -1 where the table has none.

    Raises:
        ValueError: a key stands twice in either.
    """
    if not len(table) or not len(rows):
        return np.full(len(rows), -1)
    known, wanted = _number_keys(table, rows)
    order, known = _sort_distinct(known, table)
    _sort_distinct(wanted, rows)
    place = np.searchsorted(known, wanted)
    np.minimum(place, len(known) - 1, out=place)
    is_missing = known[place] != wanted
    found = place if order is None else order[place]
    found[is_missing] = -1
    return found


def _number_keys(*tables: pd.DataFrame) -> list[np.ndarray]:
    """Return (n,) int64 numbers of each table's keys, the same for the same key, ascending by segment and time."""
    segments, times = ([table[name].to_numpy() for table in tables] for name in KEY)
    first, last = (min(int(each.min()) for each in times), max(int(each.max()) for each in times))
    lowest, highest = (min(int(each.min()) for each in segments), max(int(each.max()) for each in segments))
    if (highest - lowest + 1) * (last - first + 1) >= 2**63:  # then times are numbered first
        known = np.unique(np.concatenate(times))
        times, first, last = [np.searchsorted(known, each) for each in times], 0, len(known) - 1
    numbers = [segment.astype(np.int64) for segment in segments]
    for number, time in zip(numbers, times, strict=True):  # in place: a vector may have millions of rows
        number -= lowest
        number *= last - first + 1
        number += time
        number -= first
    return numbers


def _sort_distinct(keys: np.ndarray, table: pd.DataFrame) -> tuple[np.ndarray | None, np.ndarray]:
    """Return the order of ascending keys, None where they ascend as they are, and the keys in that order.

    Raises:
        ValueError: a key stands twice; names the first.
    """
    order = None if (keys[1:] >= keys[:-1]).all() else np.argsort(keys, kind="stable")
    ascending = keys if order is None else keys[order]
    repeated = np.flatnonzero(ascending[1:] == ascending[:-1])
    if repeated.size:
        row = int(repeated[0]) + 1 if order is None else int(order[repeated[0] + 1])
        raise ValueError(
            f"rows: {repeated.size} keys are repeated, first segment {table['segment'].iloc[row]}, time "
            f"{table['time'].iloc[row]}; a key identifies one row: remove the copies"
        )
    return order, ascending


def _fill_rows(values: np.ndarray, is_present: np.ndarray, missing: np.ndarray | float) -> np.ndarray:
    """Return (N,) or (N, columns) the values of rows where they are present, and `missing` elsewhere."""
    filled = np.empty((len(is_present), *values.shape[1:]), values.dtype)
    filled[:] = missing
    filled[is_present] = values
    return filled
