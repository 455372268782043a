"""The records of an export's files in its manifest: digest, shape, type, and where their sequences begin."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

MAX_ROWS = 20_000_000  # of a day's file, those between its sequences included


@dataclass(frozen=True)
class Run:
    """Consecutive sequences of one file, each `stride` rows after the one before it."""

    segment: int  # of the file; sequences of different segments have no row in common
    first_sequence: int
    first_row: int  # of the first sequence, from the first exported row of the segment


@dataclass(frozen=True)
class FileRecord:
    """The facts that a manifest gives of one file."""

    sha256: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None  # numpy's name of it
    runs: tuple[Run, ...] = ()


def parse_records(found: Any, *, name: str) -> dict[str, FileRecord]:
    """Return what is recorded of each file, by its path, of a mapping or a list of them; {} where nothing is.

    Raises:
        ValueError: an entry is no section of keys and values, or one of these is not as it has to be.
    """
    if not isinstance(found, Mapping | list):
        raise ValueError(f"{name}: files is {found!r}; it must have sha256 and shape by path")
    entries = found.items() if isinstance(found, Mapping) else ((_find_path(each), each) for each in found)
    return {str(path): _parse_record(entry, name=f"{name}: files.{path}") for path, entry in entries}


def is_count(value: object) -> bool:
    """Return whether a value is a whole number from 0 to MAX_ROWS."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ROWS


def _parse_record(entry: Any, *, name: str) -> FileRecord:
    """Return what a manifest records of one file."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"{name} is {entry!r}; it must have sha256 and shape")
    sha256, shape, dtype, runs = (entry.get(key) for key in ("sha256", "shape", "dtype", "runs"))
    for key, text in (("sha256", sha256), ("dtype", dtype)):
        if not isinstance(text, str | None):
            raise ValueError(f"{name}.{key} is {text!r}; it must be a text")
    if shape is not None and not (isinstance(shape, list) and all(map(is_count, shape))):
        raise ValueError(f"{name}.shape is {shape!r}; it must be a list of whole numbers")
    names = [each.name for each in fields(Run)]
    runs = [] if runs is None else runs
    for run in runs if isinstance(runs, list) else [runs]:
        if not (isinstance(run, Mapping) and {*run} == {*names} and all(map(is_count, run.values()))):
            raise ValueError(
                f"{name}.runs has {run!r}; each run has {', '.join(names)}, whole numbers from 0 to {MAX_ROWS}"
            )
    return FileRecord(
        sha256=sha256.lower() if sha256 else None,
        shape=None if shape is None else tuple(shape),
        dtype=_name_dtype(dtype, name=name) if dtype else None,
        runs=tuple(Run(**each) for each in runs),
    )


def _name_dtype(text: str, *, name: str) -> str:
    """Return numpy's name of a type, which may have others, such as <f4 of float32."""
    try:
        return np.dtype(text).name
    except (TypeError, ValueError, SyntaxError):
        raise ValueError(f"{name}.dtype is {text!r}; it must be a type of numpy, such as float32") from None


def _find_path(entry: Any) -> str:
    """Return the path of an entry of a list of files."""
    names = ("path", "file", "name")
    return str(next((entry[key] for key in names if isinstance(entry, Mapping) and key in entry), entry))
