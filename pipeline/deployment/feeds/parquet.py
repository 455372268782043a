"""Bars as rows of a parquet file, in their order, a batch in memory at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.deployment.feeds.runner import Bar
from pipeline.market.bar_reader import CLOSED
from pipeline.market.kline_columns import match_names
from pipeline.market.kline_times import EDGES, MICROSECONDS_FROM_MS, UNITS, Times, convert_times, scale_to_ms

BATCH_ROWS = 1 << 13
TIMES = ("open_time", "close_time")
FLAGS = tuple(name for name in CLOSED if name.startswith("is"))  # the others may be names of anything in a file


def read_rows(path: Path) -> Iterator[Bar]:
    """Yield the rows of a parquet file as bars, in their order, whatever their symbols.

    Columns are found by their usual names (pipeline/market/README.md, "Files"); a flag of a closed bar is read too.
    Times become ms UTC, by the unit of the first row; a row's value that is missing or wrong stays as it is, and the
    hot path refuses that row alone.

    Raises:
        ValueError: the file cannot be read, lacks a column that every bar needs, or has times as text that are none.
    """
    with _name_in_errors(path), pq.ParquetFile(path) as file:
        yield from _read_batches(file, path)


def list_fields(path: Path) -> list[str]:
    """Return the names of the fields of bars that a parquet file has columns for; ValueError as `read_rows`."""
    with _name_in_errors(path):
        names = tuple(pq.read_schema(path).names)
    fields = match_names(names, name=str(path))
    return [*fields.places, *([] if fields.unnamed is None else ["open_time"])]


@contextmanager
def _name_in_errors(path: Path) -> Iterator[None]:
    """Raise ValueError with the path in place of an error of pyarrow or of the disk."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist; name a parquet file of bars") from error
    except (pa.ArrowException, OSError) as error:
        if path.is_dir():
            raise ValueError(f"{path} is a folder; --bars takes one parquet file") from error
        fault = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as parquet: {fault}; --bars takes one parquet file") from error


def _read_batches(file: pq.ParquetFile, path: Path) -> Iterator[Bar]:
    names = tuple(file.schema_arrow.names)
    fields = match_names(names, name=str(path))
    places = {**fields.places, **{name: names.index(name) for name in FLAGS if name in names}}
    if "open_time" not in places:
        assert fields.unnamed is not None  # `match_names` refuses a file without either
        places["open_time"] = fields.unnamed
    units: dict[str, str] = {}
    for batch in file.iter_batches(BATCH_ROWS, columns=[names[place] for place in places.values()]):
        columns = {}
        for name, place in places.items():
            column = _decode(batch.column(names[place]))
            columns[name] = (
                _read_times(column, units=units, name=name, place=f"{path}: column {names[place]!r}")
                if name in TIMES
                else _read_values(column)
            )
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


def _decode(column: pa.Array) -> pa.Array:
    """Return a column of plain values in place of a categorical one."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _read_values(column: pa.Array) -> list[Any]:
    """Return the values of a column; float32 as its shortest decimals, as training reads it: 0.1f becomes 0.1."""
    if column.type == pa.float32():
        column = column.cast(pa.string())
    return list(column.to_pylist())


def _read_times(column: pa.Array, *, units: dict[str, str], name: str, place: str) -> list[Any]:
    """Return times in ms; `units` has the unit of each column of numbers, once a row has shown it."""
    kind = column.type
    if pa.types.is_date(kind):
        column, kind = column.cast(pa.timestamp("ms")), pa.timestamp("ms")
    if pa.types.is_timestamp(kind):
        times = scale_to_ms(pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False), kind.unit)
        return _mark_missing(times, column)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return list(convert_times(pa.chunked_array([column]), place=place, label=name).time_ms.tolist())
    values = np.asarray(pc.fill_null(column, 0).to_numpy(zero_copy_only=False))
    with np.errstate(invalid="ignore"):
        whole = np.where(np.isfinite(values), values, 0).astype(np.int64)
    is_whole = whole == values
    codes = np.searchsorted(EDGES, whole, side="right")  # odd within a unit, even between two
    known = np.flatnonzero(is_whole & (codes % 2 == 1))
    if name not in units and known.size:
        units[name] = UNITS[codes[known[0]] // 2]
    times = _scale(whole, codes, unit=units.get(name, "ms"))
    read = zip(times.tolist(), is_whole, column.to_pylist(), strict=True)
    return [time if is_time else value for time, is_time, value in read]


def _scale(whole: Times, codes: np.ndarray, *, unit: str) -> Times:
    """Return times of one unit in ms; of Binance's files in ms, those from 2025 on may be in us."""
    if unit != "ms":
        return scale_to_ms(whole, unit)
    switched = (codes == 2 * UNITS.index("us") + 1) & (whole >= MICROSECONDS_FROM_MS * 1000)
    return np.where(switched, scale_to_ms(whole, "us"), whole)


def _mark_missing(times: Times, column: pa.Array) -> list[Any]:
    read = zip(times.tolist(), column.is_null().to_pylist(), strict=True)
    return [None if is_missing else time for time, is_missing in read]
