"""Klines from the user's own files, each entry pinned by its sha256 so that a result identifies its input bytes."""

import hashlib
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
from pydantic import NonNegativeInt

from pipeline.market.bars import repeat_symbol
from pipeline.market.kline_columns import simplify
from pipeline.market.kline_files import SUFFIXES, KlineFile, Reading, find_suffix, read_file
from pipeline.market.kline_merge import NamedTable, fill_gaps, find_clear_interval, merge_tables
from pipeline.market.time_zones import load_zone

BINANCE_NAME = re.compile(r"([A-Z0-9_]+)-(\d+(?:s|m|h|d|w|mo))-\d{4}-\d{2}(?:-\d{2})?(?!\d)")  # BTCUSDT-1m-2025-03-01
GLOB_MARKS = "*?["
MAX_LISTED_NAMES = 3

MS_BY_UNIT = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}  # of a file's name
URL = re.compile(r"[a-z][a-z0-9+.-]*://")
SHA256 = re.compile(r"(?i)\s*([0-9a-f]{64})(\s.*)?")  # also with the name that sha256sum prints after it

Column = Literal[
    "symbol", "open_time", "open", "high", "low", "close", "volume",
    "close_time", "quote_volume", "trades", "taker_buy_base", "taker_buy_quote",
]  # fmt: skip
Names = str | list[str] | None  # for all entries, or one for each


class Entry(NamedTuple):
    """One entry of `sources.file.path`: a file, folder or glob; its files in the order of their names; their digest."""

    path: str
    files: list[Path]
    sha256: str
    command: str  # that computes the digest


def load(
    *,
    path: Names,
    sha256: Names,
    symbol: Names,
    timezone: str | None = None,
    columns: dict[Column, str] | None = None,
    fill_gaps_bars: NonNegativeInt = 0,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the bars of one entry, or of several, with `symbol`, and a report of what was read and converted.

    The report has the number of `files`, `notes` on conversions, and by symbol the `rows` and the first and last
    `open_time`.

    Args:
        path: a file, a folder, whose files are read but not those of its subfolders, or a glob; or a list of these.
        sha256: of the entry; a list for several.
        symbol: of all rows of files without such a column, or a list for several entries. Where it is null, files have
            their own, or names such as BTCUSDT-1m-2025-03-01.csv.
        timezone: IANA name, of times without a time zone; None: UTC.
        columns: names in the files, by the column that each is; others are found by their usual names.
        fill_gaps_bars: gaps of at most so many bars are filled, see `fill_gaps`.

    Raises:
        ValueError: a file is missing, unreadable, or no table of klines; files contradict each other or their names;
            or a digest is not the pinned one, with the command that pins it.
    """
    paths = _check_paths(path)
    pins = [_normalize_pin(pin) for pin in _broadcast(sha256, len(paths), name="sha256")]
    symbols = _broadcast([symbol] * len(paths) if isinstance(symbol, str) else symbol, len(paths), name="symbol")
    names = {str(column): title for column, title in (columns or {}).items()}
    reading = Reading(load_zone(timezone, key="file: sources.file.timezone") if timezone is not None else None, names)
    entries = [_find_files(each) for each in paths]
    if [each.sha256 for each in entries] != pins:
        raise ValueError(_format_pin_error(entries, pins, is_list=isinstance(path, list)))
    tables: list[NamedTable] = []
    found: list[tuple[str, str]] = []  # file, note
    for entry, name in zip(entries, symbols, strict=True):
        _check_symbol(entry, name)
        for file in entry.files:
            read = _read(file, reading)
            _check_interval(file, read.table)
            found += [(file.name, note) for note in read.notes]
            tables.append(NamedTable(str(file), _add_symbol(read.table, file, name)))
    count = len(tables)
    table, notes = _merge(tables)
    table, filled = fill_gaps(table, max_bars=fill_gaps_bars)
    return table, {"files": count, "notes": [*_collect_notes(found), *notes, *filled], "symbols": _summarize(table)}


def hash_names_and_digests(digests: Iterable[tuple[str, str]]) -> str:
    """Return the one sha256 of several files, given the base name and the digest of each.

    It is that of sha256sum's output for them, without folders and sorted by bytes:
    `sha256sum -- FILES | sed 's|  .*/|  |' | LC_ALL=C sort | sha256sum`.
    """
    lines = sorted(f"{digest}  {name}\n".encode() for name, digest in digests)
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _check_paths(path: Names) -> list[str]:
    if not path:
        raise ValueError(
            "file: sources.file.path is empty; name a file, a folder or a glob of "
            f"{', '.join(SUFFIXES)}: "
            "dvc exp run -S datasets.klines.source=file -S sources.file.path=FILE -S sources.file.symbol=BTCUSDT"
        )
    paths = [path] if isinstance(path, str) else list(path)
    if remote := [each for each in paths if URL.match(each)]:
        raise ValueError(f"file: {remote[0]} is an address; sources.file.path is a local file: download it first")
    return paths


def _normalize_pin(pin: str | None) -> str | None:
    """Return a digest in lower case, without blanks or the name that sha256sum prints after it."""
    match = SHA256.fullmatch(pin or "")
    return match[1].lower() if match else pin


def _broadcast(values: Names, length: int, *, name: str) -> list[str | None]:
    """Return one value for each entry; null stands for null for each."""
    if values is None:
        return [None for _ in range(length)]
    given = [values] if isinstance(values, str) else values
    if len(given) != length:
        raise ValueError(
            f"file: sources.file.{name} has {len(given)} value(s) for {length} path(s); give one for each, in the same "
            "order"
        )
    return list(given)


def _find_files(path: str) -> Entry:
    """Return an entry of `sources.file.path` with its digest; ValueError where it has no file that can be read."""
    place = Path(path)
    if place.is_file():
        if find_suffix(place) is None:
            raise ValueError(f"file: {place} has an unknown suffix; allowed are {', '.join(SUFFIXES)}")
        return Entry(path, [place], _hash_file(place), f"sha256sum -- {shlex.quote(path)}")
    is_glob = any(mark in path for mark in GLOB_MARKS) and not place.is_dir()
    if not is_glob and not place.is_dir():
        raise ValueError(f"file: {place} does not exist; relative paths start at the folder of dvc.yaml")
    found = _match_glob(path) if is_glob else list(place.iterdir())
    files = sorted(each for each in found if _is_readable(each))
    if not files:
        kind = "glob matches" if is_glob else "folder has"
        raise ValueError(
            f"file: {path} has no file to read: the {kind} none of {', '.join(SUFFIXES)}; "
            "of a folder, subfolders are not read: a glob such as 'FOLDER/**/*.csv' does"
        )
    return Entry(path, files, *_hash_all(path, files, is_glob=is_glob))


def _match_glob(path: str) -> list[Path]:
    parts = Path(path).parts
    first = next(i for i, part in enumerate(parts) if any(mark in part for mark in GLOB_MARKS))
    return list(Path(*parts[:first]).glob("/".join(parts[first:])))


def _is_readable(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and find_suffix(file) is not None


def _hash_file(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"file: {file} cannot be read: {error.strerror}; check its permissions") from error


def _hash_all(path: str, files: list[Path], *, is_glob: bool) -> tuple[str, str]:
    """Return the one digest of an entry's files, and the command that computes it."""
    sha256 = hash_names_and_digests((file.name, _hash_file(file)) for file in files)
    if is_glob:
        words = [re.sub(r"[^\w./*?\[\]-]", lambda mark: f"\\{mark[0]}", path)]
    else:
        folder, suffixes = shlex.quote(path.rstrip("/")), sorted({str(find_suffix(file)) for file in files})
        words = [f"{folder}/*{suffix}" for suffix in suffixes]
    before = "shopt -s globstar; " if is_glob and "**" in path else ""
    return sha256, f"{before}sha256sum -- {' '.join(words)} | sed 's|  .*/|  |' | LC_ALL=C sort | sha256sum"


def _format_pin_error(entries: list[Entry], pins: list[str | None], *, is_list: bool) -> str:
    """Return which entries differ from their pins, their digests, and the command that pins all of them as they are."""
    differing = [
        f"file: {entry.path} has sha256 {entry.sha256}, and sources.file.sha256 {f'is {pin}' if pin else 'is empty'}"
        + (f" ({len(entry.files)} files; computed as: {entry.command})" if entry.files[0] != Path(entry.path) else "")
        for entry, pin in zip(entries, pins, strict=True)
        if entry.sha256 != pin
    ]
    digests = [entry.sha256 for entry in entries]
    value = f"'sources.file.sha256=[{','.join(digests)}]'" if is_list else f"sources.file.sha256={digests[0]}"
    return "\n".join([*differing, "If these are the intended bytes, run:", f"  dvc exp run -S {value}"])


def _read(file: Path, reading: Reading) -> KlineFile:
    try:
        return read_file(file, reading=reading)
    except ValueError as error:
        raise ValueError(f"file: sources.file.path has {error}") from error


def _merge(tables: list[NamedTable]) -> tuple[pd.DataFrame, list[str]]:
    try:
        return merge_tables(tables)
    except ValueError as error:
        raise ValueError(f"file: sources.file.path: {error}") from error


def _find_symbol(file: Path) -> str | None:
    """Return the symbol in a file name of Binance's archive."""
    match = BINANCE_NAME.match(file.name)
    return match[1] if match else None


def _check_symbol(entry: Entry, symbol: str | None) -> None:
    """Raise ValueError where a file's name has another symbol than the one that is given."""
    named = sorted({each for file in entry.files if (each := _find_symbol(file))})
    if symbol and any(simplify(each) != simplify(symbol) for each in named):
        raise ValueError(
            f"file: {entry.path} has files of {', '.join(named[:MAX_LISTED_NAMES])} by their names, and "
            f"sources.file.symbol is {symbol}; take the symbols from the names: dvc exp run -S sources.file.symbol=null"
        )


def _check_interval(file: Path, table: pd.DataFrame) -> None:
    """Raise ValueError where a file's name has another bar length than its rows."""
    match, step = BINANCE_NAME.match(file.name), find_clear_interval(table)
    length = re.fullmatch(r"(\d+)([smhdw])", match[2]) if match else None
    if length and step and step != int(length[1]) * MS_BY_UNIT[length[2]]:
        raise ValueError(
            f"file: {file} has bars of {length[0]} by its name, and of {step / 60_000:g} minutes by its rows; rename "
            "the file, or use the right one"
        )


def _add_symbol(table: pd.DataFrame, file: Path, symbol: str | None) -> pd.DataFrame:
    """Return the table with its symbol column first: its own, the given name, or that in the file's name."""
    if "symbol" in table.columns:
        if symbol:
            raise ValueError(
                f"file: {file} has a symbol column, and sources.file.symbol is {symbol}; "
                "drop one of the two: dvc exp run -S sources.file.symbol=null"
            )
        return table
    symbol = symbol or _find_symbol(file)
    if not symbol:
        raise ValueError(
            f"file: {file} has no symbol column, its name is not as BTCUSDT-1m-2025-03-01.csv, and sources.file.symbol "
            "is null; name its rows: dvc exp run -S sources.file.symbol=BTCUSDT"
        )
    table.insert(0, "symbol", repeat_symbol(symbol, len(table)))
    return table


def _collect_notes(found: list[tuple[str, str]]) -> list[str]:
    """Return each note once, with the files that it is of."""
    files: dict[str, list[str]] = {}
    for file, note in found:
        files.setdefault(note, []).append(file)
    return [
        f"{note}: {', '.join(names[:MAX_LISTED_NAMES])}"
        + (f" and {len(names) - MAX_LISTED_NAMES:,} more files" if len(names) > MAX_LISTED_NAMES else "")
        for note, names in files.items()
    ]


def _summarize(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    times = table.groupby("symbol", sort=False)["open_time"]
    return {
        str(symbol): {"rows": len(part), "first_ms": int(part.min()), "last_ms": int(part.max())}
        for symbol, part in times
    }
