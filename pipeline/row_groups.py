"""Tables in parquet that are written and read by row groups: no stage needs all of a table in memory.

A file's bytes follow from its rows alone, however they were divided when they were appended. A table of at most
`GROUP_ROWS` rows has the bytes that `artifacts.write_table` gives it.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import digests
from pipeline.artifacts import ATTRIBUTES_KEY, CLEAN, read_attributes, replace_atomically

GROUP_ROWS = 1 << 18  # of every row group but the last


class TableWriter:
    """Writes tables one after another into one parquet file, in groups of `group_rows` rows."""

    def __init__(self, file: Path, *, group_rows: int = GROUP_ROWS) -> None:
        """Write to `file` once the first table is appended."""
        self.rows = 0
        self._file, self._group_rows = file, group_rows
        self._writer: pq.ParquetWriter | None = None
        self._schema: pa.Schema | None = None
        self._pending: list[pa.Table] = []
        self._pending_rows = 0

    def append(self, table: pd.DataFrame) -> None:
        """Append the rows of a table; the first one's columns, types and `attrs` are those of the file."""
        part = pa.Table.from_pandas(table, schema=self._schema, preserve_index=False)
        if self._schema is None:
            self._schema = _add_attributes(part.schema, table.attrs)
            self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
        self._pending.append(part.replace_schema_metadata(self._schema.metadata))
        self._pending_rows += part.num_rows
        self.rows += part.num_rows
        if self._pending_rows >= self._group_rows:
            self._write_pending(until=self._pending_rows - self._pending_rows % self._group_rows)

    def close(self) -> None:
        """Write the last group; ValueError where no table was appended."""
        if self._writer is None:
            raise ValueError(f"{self._file.name}: no table was appended; append at least one, with or without rows")
        try:
            if self._pending_rows or not self.rows:
                self._write_pending(until=self._pending_rows)
        finally:
            self._writer.close()

    def _write_pending(self, *, until: int) -> None:
        """Write the first `until` of the pending rows, in one group or several full ones."""
        assert self._writer is not None
        pending = pa.concat_tables(self._pending)
        for start in range(0, max(until, 1), self._group_rows):
            group = pending.slice(start, min(self._group_rows, until - start)).combine_chunks()
            self._writer.write_table(group, row_group_size=self._group_rows)
        self._pending = [pending.slice(until)]
        self._pending_rows -= until


@contextmanager
def open_table(path: Path, *, group_rows: int = GROUP_ROWS) -> Iterator[TableWriter]:
    """Yield the writer of a parquet file, which takes the place of `path` once all of it is written."""
    with replace_atomically(path) as draft:
        writer = TableWriter(draft, group_rows=group_rows)
        yield writer
        writer.close()


@dataclass(frozen=True)
class TableFile:
    """A parquet file, read by columns and rows."""

    path: Path

    @cached_property
    def schema(self) -> pa.Schema:
        """The names and types of the columns."""
        return pq.read_schema(self.path)

    @cached_property
    def group_stops(self) -> np.ndarray:
        """(groups,) int64, for each row group the row after its last one."""
        groups = pq.read_metadata(self.path)
        return np.cumsum([groups.row_group(i).num_rows for i in range(groups.num_row_groups)], dtype=np.int64)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.group_stops[-1]) if len(self.group_stops) else 0

    @property
    def attributes(self) -> dict[str, Any]:
        """The `attrs` of the table."""
        return read_attributes(self.schema)

    def read(self, columns: Collection[str] | None = None, *, start: int = 0, stop: int | None = None) -> pd.DataFrame:
        """Return those of these columns that the file has, of the rows from `start` to `stop`, which index the table.

        Columns are read one after another, so that no more than one of them is in memory twice. None: all of them.
        """
        rows = range(start, self.rows if stop is None else min(stop, self.rows))
        with pq.ParquetFile(self.path) as file:
            read = {
                name: self._read_column(file, name, rows)
                for name in self.schema.names
                if columns is None or name in columns
            }
        table = pd.DataFrame(read, index=pd.RangeIndex(rows.start, rows.stop), copy=False)
        table.attrs.update(self.attributes)
        return table

    def _read_column(self, file: pq.ParquetFile, name: str, rows: range) -> pd.Series:
        """Return some rows of a column: numbers one row group after another, so that one group at most is a copy."""
        index, stops = pd.RangeIndex(rows.start, rows.stop), self.group_stops
        first, last = np.searchsorted(stops, [rows.start, max(rows.stop - 1, rows.start)], side="right")
        groups = list(range(first, min(last + 1, len(stops))))
        starts = np.append(0, stops)[groups]
        if not self._is_plain(file.metadata, name, groups):
            whole = file.read_row_groups(groups, columns=[name], use_threads=False)
            offset = rows.start - int(starts[0]) if groups else 0
            found: pd.Series = whole.slice(offset, len(rows)).to_pandas()[name]
            return found.set_axis(index)
        values = np.empty(len(rows), dtype=self.schema.field(name).type.to_pandas_dtype())
        for group, start in zip(groups, starts.tolist(), strict=True):
            part = file.read_row_group(group, columns=[name], use_threads=False).column(0).to_numpy()
            part = part[max(rows.start - start, 0) : rows.stop - start]
            at = max(start - rows.start, 0)
            values[at : at + len(part)] = part
        return pd.Series(values, index=index, copy=False)

    def _is_plain(self, metadata: pq.FileMetaData, name: str, groups: list[int]) -> bool:
        """Return whether a column has floats, or integers of which none is missing."""
        kind, place = self.schema.field(name).type, self.schema.names.index(name)
        if not pa.types.is_integer(kind):
            return bool(pa.types.is_floating(kind))
        found = [metadata.row_group(group).column(place).statistics for group in groups]
        return all(each is not None and each.has_null_count and not each.null_count for each in found)


def read_clean(dataset: str, columns: Collection[str]) -> pd.DataFrame:
    """Return those of these columns that the clean table of a dataset has; ArtifactError where the file is damaged."""
    return TableFile(digests.verify(CLEAN / f"{dataset}.parquet")).read(columns)


def _add_attributes(schema: pa.Schema, attributes: dict[Any, Any]) -> pa.Schema:
    """Return the schema with the `attrs` of a table, where it has any, as pandas stores them."""
    if not attributes:
        return schema
    return schema.with_metadata({**(schema.metadata or {}), ATTRIBUTES_KEY: json.dumps(attributes)})
