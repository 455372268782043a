"""The files of a folder of exports: a day's sequences, or its rows, and their labels, in one of three splits."""

import re
import tokenize
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.orderbook.columns import COLUMNS
from pipeline.orderbook.exports.manifest import Manifest
from pipeline.orderbook.exports.records import FileRecord
from pipeline.orderbook.exports.sequences import DayRows, decode_labels, join_sequences

EXPORTS = Path("data/exports")  # the folder of the exports that we write, each under its dataset's name
SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}  # and the names of folders
SUFFIXES = ("_sequences", "_features")  # of the names of files with rows
LABELS = "_labels"
DATE = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)")


@dataclass(frozen=True)
class DayFiles:
    """The files of one day."""

    split: str
    day: str  # as 2012-06-21
    rows: Path  # sequences (N, T, 98), or rows (N, 98)
    labels: Path


@dataclass(frozen=True, eq=False)
class DayExport:
    """The rows of one day and the classes of their labels."""

    files: DayFiles
    rows: DayRows
    classes: npt.NDArray[np.int8]  # (N, horizons) of the rows `rows.last`


def scan_days(folder: Path) -> tuple[list[DayFiles], list[str]]:
    """Return the days of a folder, by split and day, and the faults of its files' names."""
    days, faults = [], []
    for split, names in SPLITS.items():
        found = [folder / name for name in names if (folder / name).is_dir()]
        if len(found) > 1:
            faults.append(
                f"{folder}: has {' and '.join(each.name for each in found)}; one folder is allowed for {split}"
            )
        for subfolder in found[:1]:
            scanned, wrong = _scan_split(subfolder, split)
            days += scanned
            faults += wrong
    if not days:
        faults.append(f"{folder}: has no day in train, val or test; give the folder of an export")
    return days, faults


def find_date_faults(days: list[DayFiles]) -> list[str]:
    """Return a fault for each day that is in two splits, and for splits that are not in the order of time."""
    faults, known = [], dict[str, DayFiles]()
    for each in days:
        if (other := known.setdefault(each.day, each)) is not each:
            faults.append(f"{each.rows}: {each.day} stands in {other.rows} too; a day belongs to one split")
    for earlier, later in (("train", "val"), ("val", "test"), ("train", "test")):
        first, second = ([each.day for each in days if each.split == split] for split in (earlier, later))
        if first and second and max(first) > min(second):
            faults.append(
                f"{earlier} ends with {max(first)}, and {later} begins with {min(second)}; splits must be in the order "
                "of time"
            )
    return faults


def find_split_faults(folder: Path, manifest: Manifest, days: list[DayFiles]) -> list[str]:
    """Return a fault for each split whose days are not those that the manifest lists, where it lists dates by split."""
    found = {split: sorted(each.day for each in days if each.split == split) for split in SPLITS}
    split_of = {name: split for split, names in SPLITS.items() for name in names}
    listed = {split_of.get(name): [*map(_read_date, given)] for name, given in manifest.splits.items()}
    if not listed or None in listed or any(None in each for each in listed.values()):
        return []
    return [
        f"{folder}: {split} has {len(found[split])} days, and the manifest others; copy or export it again"
        for split in SPLITS
        if found[split] != sorted(filter(None, listed.get(split, ())))
    ]


def find_record_faults(folder: Path, manifest: Manifest, days: list[DayFiles]) -> list[str]:
    """Return a fault for each file that a manifest with files does not have, or that the folder lacks."""
    if not manifest.files:
        return []
    present = {file.relative_to(folder).as_posix() for each in days for file in (each.rows, each.labels)}
    lacking = [f"{folder / path}: does not exist, and the manifest has it; copy it again" for path in manifest.files]
    return [
        *(fault for path, fault in zip(manifest.files, lacking, strict=True) if path not in present),
        *(
            f"{folder / path}: is not in the manifest; remove it, or export it again"
            for path in sorted(present - manifest.files.keys())
        ),
    ]


def read_array(file: Path) -> npt.NDArray[Any]:
    """Return the array of an npy file, as a map of its bytes; ValueError where the file is damaged."""
    try:
        return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError:
        raise ValueError(f"{file}: does not exist; each file of rows needs one of labels") from None
    except (ValueError, TypeError, EOFError, SyntaxError, OverflowError, OSError, tokenize.TokenError) as error:
        raise ValueError(f"{file}: is no array in npy ({error}); copy or export it again") from None


def read_day(folder: Path, files: DayFiles, manifest: Manifest) -> DayExport:
    """Return the rows and the classes of a day; ValueError where its files are not as the manifest says."""
    x, labels = read_array(files.rows), read_array(files.labels)
    record = manifest.files.get(files.rows.relative_to(folder).as_posix(), FileRecord())
    _check_shapes(files, x, labels, manifest)
    is_flat = x.ndim == 2
    if is_flat:
        x = x[:, None]
    rows = join_sequences(
        x,
        record.runs,
        stride=1 if is_flat else manifest.stride,
        extra_rows=max(manifest.reach),
        name=str(files.rows),
    )
    last = rows.last
    if len(labels) != len(last):  # of flat rows: a label for each sequence that they may be cut into
        last = last[manifest.sequence_length - 1 :: manifest.stride]
    classes = decode_labels(labels, dict(manifest.codes), name=str(files.labels))
    return DayExport(files, DayRows(rows.x, rows.is_exported, rows.segment, last), classes)


def _check_shapes(files: DayFiles, x: npt.NDArray[Any], labels: npt.NDArray[Any], manifest: Manifest) -> None:
    """Raise ValueError where arrays are not those of the manifest, or have not as many labels as sequences."""
    length, columns = manifest.sequence_length, len(COLUMNS)
    if x.ndim not in (2, 3) or x.shape[-1] != columns or (x.ndim == 3 and x.shape[1] != length):
        raise ValueError(f"{files.rows}: has shape {x.shape}; it must be (N, {length}, {columns}) or (N, {columns})")
    if x.dtype.type not in (np.float32, np.float64):
        raise ValueError(f"{files.rows}: is of {x.dtype}; it must be of float32 or float64")
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim not in (1, 2):
        raise ValueError(f"{files.labels}: is of {labels.dtype} and shape {labels.shape}; it must be of whole numbers")
    count, horizons = len(labels), len(manifest.horizons)
    if (labels.shape[1] if labels.ndim == 2 else 1) != horizons:
        raise ValueError(f"{files.labels}: has shape {labels.shape}, and the manifest has {horizons} horizons")
    allowed = {len(x)} if x.ndim == 3 else {len(x), (len(x) - length) // manifest.stride + 1}
    if not count or count not in allowed:
        raise ValueError(f"{files.labels}: has {count} labels for {files.rows.name} of shape {x.shape}; align them")


def _scan_split(folder: Path, split: str) -> tuple[list[DayFiles], list[str]]:
    """Return the days of the folder of a split, and the faults of its files' names."""
    days, faults = dict[str, DayFiles](), list[str]()
    labels = {file.stem.removesuffix(LABELS): file for file in folder.glob(f"*{LABELS}.npy")}
    for file in sorted(file for suffix in SUFFIXES for file in folder.glob(f"*{suffix}.npy")):
        stem = file.stem.removesuffix(SUFFIXES[0]).removesuffix(SUFFIXES[1])
        day = _read_date(stem)
        if day is None:
            faults.append(f"{file}: {stem!r} is no date; a file is named as 2012-06-21{SUFFIXES[0]}.npy")
        elif day in days:
            faults.append(f"{file}: {day} stands in {days[day].rows.name} too; a day has one file of rows")
        elif stem not in labels:
            faults.append(f"{file}: has no {stem}{LABELS}.npy beside it; each file of rows needs one of labels")
        else:
            days[day] = DayFiles(split, day, file, labels[stem])
        labels.pop(stem, None)
    faults += [f"{file}: has no rows beside it; remove it, or copy those" for file in labels.values()]
    return [days[day] for day in sorted(days)], faults


def _read_date(text: str) -> str | None:
    """Return a date such as 20120621 or 2012-06-21 as 2012-06-21; None where the text is none."""
    if not (found := DATE.fullmatch(text)):
        return None
    try:
        return date(*map(int, found.groups())).isoformat()
    except ValueError:
        return None
