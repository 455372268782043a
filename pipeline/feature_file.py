"""The features of a parquet table, read one column, or a few rows, at a time, or as rows that may be on the disk."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq

from pipeline.mapped_rows import map_rows
from pipeline.row_groups import TableFile

MAX_BYTES_IN_MEMORY = 1 << 30  # of the features of all rows; more are mapped from a file, with the same values


class Matrix(Protocol):
    """(N, F) numbers that are read by column, as `x[:, j]`: an array, or the features of a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, F)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the numbers."""

    def __getitem__(self, key: tuple[slice, int], /) -> np.ndarray:
        """Return a column, (N,); the slice is that of all rows."""


class FeatureFile:
    """The features of a parquet table as a Matrix of float32, of all its rows or of some."""

    dtype = np.dtype(np.float32)

    def __init__(self, path: Path, *, keys: Collection[str], rows: np.ndarray | None = None) -> None:
        """Take every column but `keys` as a feature; `rows` are positions in the table, None: all."""
        self._file, self._rows = TableFile(path), rows
        self.columns = tuple(name for name in self._file.schema.names if name not in keys)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, F)."""
        return self._file.rows if self._rows is None else len(self._rows), len(self.columns)

    def __getitem__(self, key: tuple[slice, int], /) -> np.ndarray:
        """Return a feature, (N,); the slice is that of all rows."""
        name = self.columns[key[1]]
        values = self._file.read([name])[name].to_numpy(np.float32)
        return np.asarray(values if self._rows is None else values[self._rows])

    def read_chunks(self, *, count: int) -> Iterator[np.ndarray]:
        """Yield (n, F) features, at most `count` rows of a row group at a time.

        Raises:
            ValueError: the features are of some rows alone.
        """
        if self._rows is not None:
            raise ValueError(f"{self._file.path}: features of some rows are read by column; take those of all rows")
        for values in self._read_groups():
            yield from read_chunks(values, count=count)

    def read_rows(self) -> np.ndarray:
        """Return all features, (N, F) C-contiguous; above MAX_BYTES_IN_MEMORY they are mapped, see `map_rows`."""
        rows, width = self.shape
        if rows * width * self.dtype.itemsize > MAX_BYTES_IN_MEMORY and self._is_ascending:
            return map_rows(self._select_rows(), columns=width, beside=self._file.path)
        x = np.empty((rows, width), self.dtype)
        if self._is_ascending:
            start = 0
            for block in self._select_rows():
                x[start : start + len(block)] = block
                start += len(block)
        else:
            for column in range(width):
                x[:, column] = self[:, column]
        return x

    @property
    def _is_ascending(self) -> bool:
        """Whether the rows are in the order of the table, each at most once."""
        return self._rows is None or bool((np.diff(self._rows) > 0).all())

    def _select_rows(self) -> Iterator[np.ndarray]:
        """Yield (n, F) those rows of each row group that are taken; they must ascend."""
        if self._rows is None:
            yield from self._read_groups()
            return
        stops = self._file.group_stops
        edges = np.searchsorted(self._rows, np.append(0, stops))
        for group, values in enumerate(self._read_groups()):
            own = self._rows[edges[group] : edges[group + 1]]
            yield values[own - (stops[group] - len(values))]

    def _read_groups(self) -> Iterator[np.ndarray]:
        """Yield (n, F) the features of each row group."""
        with pq.ParquetFile(self._file.path) as file:
            for group in range(file.num_row_groups):
                values = np.empty((len(self.columns), file.metadata.row_group(group).num_rows), np.float32)
                for row, name in zip(values, self.columns, strict=True):
                    row[:] = file.read_row_group(group, columns=[name], use_threads=False).column(0).to_numpy()
                yield values.T


def read_chunks(x: Matrix, *, count: int) -> Iterator[np.ndarray]:
    """Yield (n, F) rows of a Matrix, at most `count` at a time.

    Raises:
        TypeError: it is neither an array nor a FeatureFile.
    """
    if isinstance(x, FeatureFile):
        yield from x.read_chunks(count=count)
    elif isinstance(x, np.ndarray):
        yield from (x[start : start + count] for start in range(0, len(x), count))
    else:
        raise TypeError(f"features are a {type(x).__name__}; give an array or a FeatureFile")
