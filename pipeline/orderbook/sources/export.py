"""Exports in npy of this or another extractor: a folder with the sequences or rows of each day, and their labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import digests
from pipeline.orderbook.columns import COLUMNS, DT_SECONDS
from pipeline.orderbook.exports.files import (
    DayExport,
    find_date_faults,
    find_record_faults,
    find_split_faults,
    read_day,
    scan_days,
)
from pipeline.orderbook.exports.manifest import Manifest, read_manifest
from pipeline.orderbook.exports.sequences import UNLABELED

MAX_HORIZONS = 16
NS_PER_S = 1_000_000_000
SECONDS_PER_WEEK = 7 * 86_400  # the first row of a day may count from days before


def load(*, path: str | None, manifest: dict[str, Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the rows of a folder of exports, and a report; `manifest` has the facts that its own manifest lacks.

    The columns are symbol, day, split, `segment`, `event`, which numbers the rows and is the clock, `time_ns`,
    `is_exported`, `label_0`, `label_1` … by horizon (0 down, 1 flat, 2 up, -1 none), and the 98 as float32. The time
    of a row is midnight plus the sum of dt_seconds: exports have no other. Rows that no sequence has, between two or
    after the last, hold the place of events at which labels end, see `join_sequences`.

    Raises:
        ValueError: the folder is no export, its manifest lacks a fact, or a file is damaged or not as it says.
    """
    if path is None:
        raise ValueError("sources.export.path is null; set it to a folder of exports, with its dataset_manifest.json")
    folder = Path(path)
    described = read_manifest(folder, given=manifest)
    if len(described.horizons) > MAX_HORIZONS:
        raise ValueError(f"{folder}: has {len(described.horizons)} horizons; at most {MAX_HORIZONS} are allowed")
    days, faults = scan_days(folder)
    faults += [
        *find_date_faults(days),
        *find_record_faults(folder, described, days),
        *find_split_faults(folder, described, days),
    ]
    if faults:
        raise ValueError(
            f"{faults[0]} ({len(faults)} faults; `python -m pipeline.orderbook.validate_export` lists all)"
        )
    tables = []
    for files in sorted(days, key=lambda each: each.day):
        for file in (files.rows, files.labels):
            record = described.files.get(file.relative_to(folder).as_posix())
            if record and record.sha256:
                digests.verify_digest(file, record.sha256, source=folder)
        tables.append(make_table(read_day(folder, files, described), described))
    table = number_rows(tables)
    table.attrs["export"] = described.describe()
    return table, summarize(table, described)


def make_table(day: DayExport, manifest: Manifest) -> pd.DataFrame:
    """Return the rows of a day, with its segments numbered from 0, without the column `event`."""
    rows = day.rows
    seconds = rows.x[:, DT_SECONDS].astype(np.float64)
    if not (np.isfinite(seconds) & (seconds >= 0)).all():
        raise ValueError(f"{day.files.rows}: dt_seconds has a value that is no span of time; it must be at least 0")
    if seconds.sum() > SECONDS_PER_WEEK:
        raise ValueError(f"{day.files.rows}: dt_seconds adds up to {seconds.sum():,.0f} s; a day has 86,400")
    midnight = pd.Timestamp(day.files.day, tz="UTC").value
    elapsed = np.rint(np.cumsum(seconds) * NS_PER_S).astype(np.int64)
    labels = np.full((len(manifest.horizons), len(rows.x)), UNLABELED, np.int8)
    labels[:, rows.last] = day.classes.T
    return pd.DataFrame(
        {
            "symbol": manifest.symbol,
            "day": day.files.day,
            "split": day.files.split,
            "segment": rows.segment,
            "time_ns": midnight + elapsed,
            "is_exported": rows.is_exported,
            **{f"label_{i}": label for i, label in enumerate(labels)},
            **dict(zip(COLUMNS, np.ascontiguousarray(rows.x.T), strict=True)),
        }
    )


def number_rows(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the tables of days as one, with segments numbered throughout and the number of each row as `event`."""
    first = 0
    for table in tables:
        table["segment"] = table["segment"].to_numpy(np.int32) + np.int32(first)
        first = int(table["segment"].iloc[-1]) + 1
    joined = pd.concat(tables, ignore_index=True)
    joined.insert(4, "event", np.arange(len(joined), dtype=np.int64))
    return joined


def summarize(table: pd.DataFrame, manifest: Manifest) -> dict[str, Any]:
    """Return the counts of days, rows and labels of a table, and the facts of its manifest."""
    days = table.groupby("split", sort=False)["day"].nunique()
    return {
        **manifest.describe(),
        "rows": len(table),
        "rows_not_exported": int((~table["is_exported"]).sum()),
        "labeled_rows": int((table["label_0"] != UNLABELED).sum()),
        "segments": int(table["segment"].iloc[-1]) + 1,
        "days": {str(split): int(count) for split, count in days.items()},
    }
