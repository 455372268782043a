"""Check a folder of exports: files, digests, shapes, days, splits, sequences, labels, classes, gates and values.

A fault is one line; the exit status is 1 where there is any. The report goes to standard output as JSON.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import cli, digests
from pipeline.orderbook.columns import (
    BOOK_VALID,
    CATEGORICAL,
    COLUMNS,
    DT_SECONDS,
    GATES,
    INVALIDITY_DELTA,
    MBO_READY,
    SCHEMA,
    SCHEMA_VERSION,
    TIME_REGIME,
)
from pipeline.orderbook.exports.files import (
    SPLITS,
    DayExport,
    DayFiles,
    find_date_faults,
    find_record_faults,
    find_split_faults,
    read_array,
    read_day,
    scan_days,
)
from pipeline.orderbook.exports.manifest import CLASSES, Manifest, read_manifest

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
VALUES = {  # that a categorical column may have
    BOOK_VALID: (0.0, 1.0),
    TIME_REGIME: (0.0, 1.0, 2.0, 3.0, 4.0),
    MBO_READY: (0.0, 1.0),
    SCHEMA: (SCHEMA_VERSION,),
}
MOVING = (0, 10, 20, 30, 40)  # columns of the best levels and the mid: without a move there is nothing to learn
MIN_PASSING = 0.9  # share of the rows that pass the gates, below which a warning says so
MAX_DRIFT = 0.1  # between the share of a class in train and in another split


@dataclass
class Totals:
    """Sums over the days of a split."""

    days: int = 0
    sequences: int = 0
    rows: int = 0
    passing: int = 0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, len(CLASSES)), np.int64))
    low: Floats = field(default_factory=lambda: np.full(len(COLUMNS), np.inf))
    high: Floats = field(default_factory=lambda: np.full(len(COLUMNS), -np.inf))


def validate_export(folder: Path, *, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the report of a folder of exports: its `faults`, `warnings`, and counts and class shares by split.

    `given` are facts that its manifest lacks, see `read_manifest`.
    """
    try:
        manifest = read_manifest(folder, given=given)
    except ValueError as error:
        return {"faults": [str(error)], "warnings": [], "splits": {}}
    days, faults = scan_days(folder)
    faults += [
        *find_date_faults(days),
        *find_record_faults(folder, manifest, days),
        *find_split_faults(folder, manifest, days),
    ]
    totals = {split: Totals(counts=np.zeros((len(manifest.horizons), len(CLASSES)), np.int64)) for split in SPLITS}
    for files in days:
        faults += find_file_faults(folder, files, manifest)
        try:
            day = read_day(folder, files, manifest)
        except ValueError as error:
            faults.append(str(error))
            continue
        faults += find_value_faults(day)
        add_day(totals[files.split], day)
    totals = {split: each for split, each in totals.items() if each.days}
    faults += [*find_missing_classes(totals, manifest), *find_still_columns(totals)]
    return {
        "faults": faults,
        "warnings": [
            *find_drifts(totals, manifest),
            *find_constants(totals),
            *find_gated(totals),
            *find_unpinned(manifest, days),
        ],
        **manifest.describe(),
        "splits": {split: summarize(each, manifest) for split, each in totals.items()},
    }


def find_file_faults(folder: Path, files: DayFiles, manifest: Manifest) -> list[str]:
    """Return the faults of a day's files against what the manifest records of them."""
    faults = []
    for file in (files.rows, files.labels):
        record = manifest.files.get(file.relative_to(folder).as_posix())
        if record is None:
            continue
        if record.sha256 and (found := digests.hash_file(file)) != record.sha256:
            faults.append(f"{file}: has sha256 {found}, and the manifest {record.sha256}; copy or export it again")
        try:
            array = read_array(file)
        except ValueError:
            continue  # read_day finds it
        for name, value, recorded in (("shape", array.shape, record.shape), ("dtype", array.dtype.name, record.dtype)):
            if recorded and value != recorded:
                faults.append(f"{file}: has {name} {value}, and the manifest {recorded}; copy or export it again")
    return faults


def find_unpinned(manifest: Manifest, days: list[DayFiles]) -> Iterator[str]:
    """Yield a warning where files have no digest in the manifest, by which damage would be found."""
    pinned = sum(record.sha256 is not None for record in manifest.files.values())
    if pinned < 2 * len(days):
        yield f"{2 * len(days) - pinned} files have no sha256 in the manifest; not all damage of them can be found"


def find_value_faults(day: DayExport) -> Iterator[str]:
    """Yield the faults of the values of a day: what is not finite, gates, categories, and spans of time."""
    x, name = day.rows.x[day.rows.is_exported], day.files.rows
    for column in np.flatnonzero(~np.isfinite(x).all(axis=0)).tolist():
        count = int(np.count_nonzero(~np.isfinite(x[:, column])))
        yield f"{name}: {COLUMNS[column]} is NaN or infinite in {count} of {len(x)} rows; export finite values"
    for column in CATEGORICAL:
        values = np.array(VALUES[column], np.float32)
        if unknown := [each for each in np.setdiff1d(x[:, column], values).tolist() if np.isfinite(each)]:
            yield f"{name}: {COLUMNS[column]} has {unknown[:3]}; it may have {', '.join(map(str, VALUES[column]))}"
    for column in (DT_SECONDS, INVALIDITY_DELTA):
        if (x[:, column] < 0).any():
            yield f"{name}: {COLUMNS[column]} is negative in {np.count_nonzero(x[:, column] < 0)} rows; it is a count"
    if not find_passing(x).any():
        gates = ", ".join(f"{COLUMNS[column]} {value:g}" for column, value in GATES.items())
        yield f"{name}: no row passes the gates {gates}; leave the day out"


def find_passing(x: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return (n,) whether a row passes every gate."""
    return np.asarray(np.all([x[:, column] == np.float32(value) for column, value in GATES.items()], axis=0))


def add_day(totals: Totals, day: DayExport) -> None:
    """Add a day to the sums of its split."""
    x = day.rows.x[day.rows.is_exported]
    passes = find_passing(x)
    totals.days += 1
    totals.sequences += len(day.classes)
    totals.rows += len(x)
    totals.passing += int(np.count_nonzero(passes))
    for row, classes in zip(totals.counts, day.classes.T, strict=True):
        row += np.bincount(classes, minlength=len(CLASSES))
    if passes.any():
        np.fmin(totals.low, x[passes].min(axis=0), out=totals.low)
        np.fmax(totals.high, x[passes].max(axis=0), out=totals.high)


def share_classes(totals: Totals) -> Floats:
    """Return (horizons, 3) the share of each class."""
    return np.asarray(totals.counts / totals.counts.sum(axis=1, keepdims=True))


def find_missing_classes(totals: Mapping[str, Totals], manifest: Manifest) -> Iterator[str]:
    """Yield a fault for each class that no label of a split and horizon has, and where no day is in train."""
    if "train" not in totals:
        yield "train: has no day that can be read; a model has nothing to learn from"
    for split, each in totals.items():
        for horizon, number in np.argwhere(each.counts == 0):
            yield (
                f"{split}: none of {each.sequences} labels of horizon {manifest.horizons[horizon]} is "
                f"{CLASSES[number]}; give more days, or change the threshold of the labels"
            )


def find_drifts(totals: Mapping[str, Totals], manifest: Manifest) -> Iterator[str]:
    """Yield a warning for each class whose share in a split is far from that in train."""
    if "train" not in totals:
        return
    train = share_classes(totals["train"])
    for split, each in totals.items():
        shares = share_classes(each)
        for horizon, number in np.argwhere(np.abs(shares - train) > MAX_DRIFT):
            yield (
                f"{split}: {shares[horizon, number]:.0%} of the labels of horizon {manifest.horizons[horizon]} are "
                f"{CLASSES[number]}, and {train[horizon, number]:.0%} in train"
            )


def list_constants(totals: Mapping[str, Totals]) -> list[int]:
    """Return the columns that have one value in all rows that pass the gates."""
    low = np.min([each.low for each in totals.values()], axis=0, initial=np.inf)
    high = np.max([each.high for each in totals.values()], axis=0, initial=-np.inf)
    return np.flatnonzero(low == high).tolist()


def find_still_columns(totals: Mapping[str, Totals]) -> Iterator[str]:
    """Yield a fault for each price or size of the best levels that never changes."""
    for column in set(list_constants(totals)) & set(MOVING) if totals else ():
        yield f"{COLUMNS[column]}: has one value in all rows; export the book after each event"


def find_constants(totals: Mapping[str, Totals]) -> Iterator[str]:
    """Yield a warning that names the other columns that never change, but gates and the schema's version."""
    others = [
        COLUMNS[column]
        for column in (list_constants(totals) if totals else ())
        if column not in (*MOVING, *GATES, SCHEMA)
    ]
    if others:
        yield f"{', '.join(others)}: one value in all rows; models learn nothing from it"


def find_gated(totals: Mapping[str, Totals]) -> Iterator[str]:
    """Yield a warning for each split of which many rows do not pass the gates."""
    for split, each in totals.items():
        if each.passing < MIN_PASSING * each.rows:
            yield f"{split}: {each.passing / each.rows:.0%} of the rows pass the gates; the others have no label"


def summarize(totals: Totals, manifest: Manifest) -> dict[str, Any]:
    """Return the counts of a split, the share of its rows that pass the gates, and of each class by horizon."""
    return {
        "days": totals.days,
        "sequences": totals.sequences,
        "rows": totals.rows,
        "gates_share": totals.passing / totals.rows,
        "class_shares": {
            str(horizon): dict(zip(CLASSES, shares.tolist(), strict=True))
            for horizon, shares in zip(manifest.horizons, share_classes(totals), strict=True)
        },
    }


def log_findings(report: Mapping[str, Any]) -> None:
    """Log each fault and each warning of a report, a line each."""
    for fault in report["faults"]:
        log.error(f"fault: {fault}")
    for warning in report["warnings"]:
        log.warning(f"warning: {warning}")


def main() -> None:
    """Check the folder that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.orderbook.validate_export", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        report = validate_export(folder)
    except (ValueError, OSError) as error:
        sys.exit(f"validate_export {folder}: {cli.describe_error(error)}")
    log_findings(report)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    sys.exit(1 if report["faults"] else 0)


if __name__ == "__main__":
    main()
