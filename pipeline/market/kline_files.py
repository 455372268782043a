"""Files of klines in the forms that people have: CSV, plain or compressed, and parquet."""

import gzip
import lzma
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.market.kline_columns import BINANCE, HEADERLESS, TIMES, Fields, convert_columns, match_names
from pipeline.market.kline_csv import LFS_POINTER, SEPARATORS, Head, parse_text
from pipeline.market.plain_csv import parse_plain_rows, read_plain_head

CSV = (".csv", ".tsv", ".txt")
GZIP = tuple(f"{suffix}.gz" for suffix in CSV)
ZIP, PARQUET = (".zip",), (".parquet", ".pq")
SUFFIXES = (*PARQUET, *CSV, *GZIP, *ZIP)
MAX_BYTES = 4 << 30  # of an uncompressed file: about 60 years of minutes
MAX_RATIO = 200  # of uncompressed and compressed bytes; klines have about 4, those of an idle market 30
SMALL_BYTES = 1 << 24  # below it any ratio is harmless
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError)
IS_ENCRYPTED = 0x1  # flag of a member of a zip


@dataclass(frozen=True)
class KlineFile:
    """The klines of one file.

    `table` has those columns of `bars.SCHEMA` that the file has, in SCHEMA's order and types, times in ms UTC; `symbol`
    only where the file has it. `notes` are the conversions that were made and the columns that are missing or dropped.
    """

    table: pd.DataFrame
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """The zone and the names of columns of files that have other ones than the usual."""

    zone: ZoneInfo | None = None  # of times without a time zone; None: UTC
    columns: Mapping[str, str] = field(default_factory=dict)  # columns of `bars.SCHEMA`, and their names in the files


USUAL = Reading()


def find_suffix(file: Path) -> str | None:
    """Return the suffix of a file that can be read, as it is written there; None for another file."""
    name = file.name.lower()
    found = [suffix for suffix in SUFFIXES if name.endswith(suffix) and len(name) > len(suffix)]
    return file.name[-max(map(len, found)) :] if found else None


def read_file(file: Path, *, reading: Reading = USUAL) -> KlineFile:
    """Return the klines of a file: its suffix is one of SUFFIXES, in any case.

    Raises:
        ValueError: the file is of another kind, unreadable, or has values that are no klines; the message begins with
            its path.
    """
    suffix = (find_suffix(file) or "").lower()
    if suffix in PARQUET:
        return _read_parquet(file, reading)
    if suffix in ZIP:
        member, content = read_zip(file)
        return parse_csv(content, name=f"{file}, {member}", reading=reading)
    if suffix in GZIP:
        return parse_csv(_read_gzip(file), name=str(file), reading=reading)
    if suffix in CSV:
        return _read_by_blocks(file, reading) or parse_csv(_read_plain(file), name=str(file), reading=reading)
    raise ValueError(f"{file} has an unknown suffix; allowed are {', '.join(SUFFIXES)}")


def parse_csv(content: bytes, *, name: str, reading: Reading = USUAL) -> KlineFile:
    """Return the klines of a CSV's bytes; `name` is the file, for errors.

    Without a header, 6 columns are open_time, open, high, low, close, volume, and 11 or 12 those of Binance's archive.

    Raises:
        ValueError: see `parse_text`, `match_names` and `convert_columns`; or columns without a header stand in another
            order, since high and low do not bound open and close in most rows.
    """
    text = parse_text(content, name=name)
    del content  # so that the text and what is parsed of it are not in memory together
    names, columns, head = _name_columns(text.head, name=name), text.table.columns, text.head
    del text
    return _convert(columns, head, match_names(names, name=name, columns=reading.columns), name=name, zone=reading.zone)


def _read_by_blocks(file: Path, reading: Reading) -> KlineFile | None:
    """Return what `parse_csv` does of a large file of plain numbers, in less memory; None of any other file."""
    try:
        if (head := read_plain_head(file)) is None:
            return None
        fields = match_names(_name_columns(head, name=str(file)), name=str(file), columns=reading.columns)
    except (OSError, ValueError):  # which of several faults is named depends on all of the file
        return None
    numbers = [place for column, place in fields.places.items() if column not in (*TIMES, "symbol")]
    columns = parse_plain_rows(file, head, numbers=numbers)
    return None if columns is None else _convert(columns, head, fields, name=str(file), zone=reading.zone)


def _name_columns(head: Head, *, name: str) -> tuple[str, ...]:
    """Return the names of a file's columns: without a header those of Binance's archive, by their number."""
    if head.header is not None:
        return head.header
    if head.width not in HEADERLESS:
        raise ValueError(
            f"{name} has {head.width} columns, separated by {SEPARATORS[head.separator]}, and no header; without one a "
            f"file has the first 6, 11 or 12 of {', '.join(BINANCE)}; add a header"
        )
    return HEADERLESS[head.width]


def _convert(
    columns: list[pa.ChunkedArray], head: Head, fields: Fields, *, name: str, zone: ZoneInfo | None
) -> KlineFile:
    """Return the klines of the columns of a CSV; the list is empty afterwards."""
    names = _name_columns(head, name=name)
    notes = [] if head.header else [f"the {head.width} columns have no header and are read as {', '.join(names)}"]
    table, more = convert_columns(columns, fields, names=names, name=name, zone=zone)
    if head.header is None:
        _check_order(table, name=name)
    return KlineFile(table, (*notes, *more))


def _check_order(table: pd.DataFrame, *, name: str) -> None:
    """Raise ValueError where most rows have a price beyond their high and low: the columns stand in another order."""
    opened, high, low, close = (table[column].to_numpy() for column in ("open", "high", "low", "close"))
    bad = (high < np.maximum(opened, close)) | (low > np.minimum(opened, close))
    if bad.mean() > 0.5:
        raise ValueError(
            f"{name} has no header, and in {int(bad.sum()):,} of {len(bad):,} rows high and low do not bound open and "
            f"close when read as {', '.join(BINANCE[:6])}; add a header with the names of the columns in their order, "
            "such as time,low,high,open,close,volume of Coinbase"
        )


def read_zip(file: Path) -> tuple[str, bytes]:
    """Return the name and the bytes of the one CSV in a zip.

    Raises:
        ValueError: it is no zip, damaged or encrypted, or has not exactly one CSV, or one that is too large.
    """
    try:
        archive = zipfile.ZipFile(file)
    except ZIP_ERRORS as error:
        raise ValueError(f"{file} cannot be read as zip: {error}; copy or download it again") from error
    with archive:
        member = _find_member(archive, file)
        try:
            return member.filename, archive.read(member)
        except ZIP_ERRORS as error:
            raise ValueError(f"{file} cannot be unpacked: {error}; copy or download it again") from error


def _find_member(archive: zipfile.ZipFile, file: Path) -> zipfile.ZipInfo:
    members = [
        each
        for each in archive.infolist()
        if not each.filename.endswith("/") and not each.filename.startswith("__MACOSX/")
    ]
    names = [each.filename for each in members]
    if len(members) != 1:
        listed = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
        raise ValueError(
            f"{file} has {len(members)} members ({listed}); a zip has exactly one CSV: unpack it to a folder"
        )
    (member,) = members
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{file} has a member {member.filename!r} outside of its folder; make the zip again")
    if path.suffix.lower() not in CSV:
        raise ValueError(f"{file} has a member {member.filename!r}, which is no CSV; allowed are {', '.join(CSV)}")
    if member.flag_bits & IS_ENCRYPTED:
        raise ValueError(f"{file} is encrypted; unpack it first")
    _check_size(member.file_size, compressed=member.compress_size, file=file)
    return member


def _check_size(size: int, *, compressed: int, file: Path) -> None:
    if size > MAX_BYTES or size > max(SMALL_BYTES, MAX_RATIO * compressed):
        raise ValueError(
            f"{file} holds {size:,} bytes in {compressed:,}; allowed are {MAX_BYTES:,} and {MAX_RATIO} times the "
            "compressed size; unpack it if you trust it"
        )


def _read_gzip(file: Path) -> bytes:
    compressed = file.stat().st_size
    limit = min(MAX_BYTES, max(SMALL_BYTES, MAX_RATIO * compressed))
    try:
        with gzip.open(file) as stream:
            content = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} cannot be read as gzip: {error}; copy or download it again") from error
    _check_size(len(content), compressed=compressed, file=file)
    return content


def _read_plain(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}; check its path and permissions") from error


def _read_parquet(file: Path, reading: Reading) -> KlineFile:
    """Return the klines of a parquet file; of its columns, only those that klines have are read."""
    try:
        with pq.ParquetFile(file) as parquet:
            names = tuple(parquet.schema_arrow.names)
            fields = match_names(names, name=str(file), columns=reading.columns)
            wanted = [
                names[i] for i in [*fields.places.values(), *([] if fields.unnamed is None else [fields.unnamed])]
            ]
            table = parquet.read(columns=wanted)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if file.is_file() and file.read_bytes()[: len(LFS_POINTER)] == LFS_POINTER.encode():
            raise ValueError(f"{file} is a pointer of Git LFS and no parquet; run `git lfs pull`") from error
        raise ValueError(f"{file} cannot be read as parquet: {str(error).splitlines()[0]}; write it again") from error
    if not table.num_rows:
        raise ValueError(f"{file} has no rows; a file of klines has one row for each bar")
    columns = [table.column(each) if each in wanted else None for each in names]
    del table  # so that a column is released once it is converted
    converted, notes = convert_columns(columns, fields, names=names, name=str(file), zone=reading.zone)
    return KlineFile(converted, notes)
