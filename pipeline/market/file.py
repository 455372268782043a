"""Klines from the user's own files, each entry pinned by its sha256 so that a result identifies its input bytes."""

import hashlib
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipeline.market.bars import repeat_symbol
from pipeline.market.kline_files import SUFFIXES, KlineFile, find_suffix, read_file
from pipeline.market.kline_merge import NamedTable, merge_tables

BINANCE_NAME = re.compile(r"([A-Z0-9_]+)-\d+(?:s|m|h|d|w|mo)-\d{4}-\d{2}(?:-\d{2})?(?!\d)")  # BTCUSDT-1m-2025-03-01
GLOB_MARKS = "*?["
MAX_LISTED_NAMES = 3

Names = str | list[str] | None  # for all entries, or one for each


class Entry(NamedTuple):
    """One entry of `sources.file.path`: a file, folder or glob; its files in the order of their names; their digest."""

    path: str
    files: list[Path]
    sha256: str
    command: str  # that computes the digest


def load(*, path: Names, sha256: Names, symbol: Names) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the bars of one entry, or of several, with `symbol`, and a report of what was read and converted.

    The three arguments are single values, or lists of equal length. `path` is a file, a folder, whose files are read
    but not those of its subfolders, or a glob. `symbol` names the rows of files without such a column. Where it is
    null, files have their own, or names such as BTCUSDT-1m-2025-03-01.csv. The report has the number of `files`,
    `notes` on conversions, and by symbol the `rows` and the first and last `open_time`.

    Raises:
        ValueError: a file is missing, unreadable, or no table of klines; files contradict each other; or a digest is
            not the pinned one, with the command that pins it.
    """
    paths = _check_paths(path)
    pins = _broadcast(sha256, len(paths), name="sha256")
    symbols = _broadcast(symbol, len(paths), name="symbol")
    entries = [_find_files(each) for each in paths]
    if [each.sha256 for each in entries] != pins:
        raise ValueError(_format_pin_error(entries, pins, is_list=isinstance(path, list)))
    tables: list[NamedTable] = []
    found: list[tuple[str, str]] = []  # file, note
    for entry, name in zip(entries, symbols, strict=True):
        _check_one_symbol(entry, name)
        for file in entry.files:
            read = _read(file)
            found += [(file.name, note) for note in read.notes]
            tables.append(NamedTable(str(file), _add_symbol(read.table, file, name)))
    table, notes = _merge(tables)
    return table, {"files": len(tables), "notes": [*_collect_notes(found), *notes], "symbols": _summarize(table)}


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
    return [path] if isinstance(path, str) else list(path)


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


def _read(file: Path) -> KlineFile:
    try:
        return read_file(file)
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


def _check_one_symbol(entry: Entry, symbol: str | None) -> None:
    """Raise ValueError where one symbol is given for files whose names have several."""
    named = sorted({each for file in entry.files if (each := _find_symbol(file))})
    if symbol and len(named) > 1:
        raise ValueError(
            f"file: {entry.path} has files of {', '.join(named[:MAX_LISTED_NAMES])}, and sources.file.symbol is "
            f"{symbol}; take the symbols from the names: dvc exp run -S sources.file.symbol=null"
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
