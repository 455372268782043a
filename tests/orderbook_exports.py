"""Tiny datasets of order books, and exports of other extractors made of them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from pipeline import artifacts
from pipeline.datasets.orderbook_export import featurize, ingest, label
from pipeline.orderbook.columns import COLUMNS
from pipeline.orderbook.sources import export
from pipeline.row_groups import TableFile

DAYS, ROWS, LENGTH, STRIDE = ("2012-06-19", "2012-06-20", "2012-06-21"), 300, 20, 5
HORIZONS = (5, 10)
CALENDAR = {"days_per_year": 252, "hours_per_day": 6.5}
CODES = {"-1": "Down", "0": "Stable", "1": "Up"}


@dataclass
class Book:
    """Rows of an order book and their labels, as arrays."""

    x: np.ndarray  # (n, 98)
    y: np.ndarray  # (n, horizons), -1 where there is none
    segment: np.ndarray
    day: np.ndarray


def draw_book(seed: int = 0) -> Book:
    """Three days of 300 rows: the second has a halt after 100, gated rows, and more than 20 rows without a label."""
    rng, n = np.random.default_rng(seed), len(DAYS) * ROWS
    x = rng.normal(size=(n, len(COLUMNS))).astype(np.float32)
    mid = 570 + 0.01 * rng.integers(-2, 3, size=n).cumsum()
    level = 0.01 * np.arange(10)
    x[:, 0:10], x[:, 20:30] = mid[:, None] + 0.01 + level, mid[:, None] - 0.01 - level
    x[:, 10:20], x[:, 30:40] = rng.integers(1, 300, size=(2, n, 10))
    x[:, 40], x[:, 41] = mid, 0.02
    x[:, 92], x[:, 93], x[:, 94], x[:, 96], x[:, 97] = 1, rng.integers(0, 5, size=n), 1, 0, 2.2
    x[:, 95] = rng.uniform(0, 0.1, size=n)
    day = np.repeat(np.arange(len(DAYS)), ROWS)
    segment = day + (np.arange(n) >= ROWS + 100)
    y = np.full((n, len(HORIZONS)), -1, np.int8)
    for column, horizon in enumerate(HORIZONS):
        rows = np.flatnonzero(segment[:-horizon] == segment[horizon:])
        y[rows, column] = 1 + np.sign(np.round(mid[rows + horizon] - mid[rows], 6))
    x[ROWS : ROWS + 10, 94] = 0  # not ready
    x[ROWS + 150, 92] = 0
    y[ROWS + 200 : ROWS + 245] = -1  # without a label, so that rows are in no sequence
    return Book(x, y, segment, np.array(DAYS)[day])


def write_dataset(book: Book, name: str, *, strategy: str = "smoothed") -> None:
    """Write a dataset as the stages do, into the current folder, with events of which a third is of another symbol."""
    event = np.arange(len(book.x)) * 3 // 2
    keys = pd.DataFrame({"segment": book.segment.astype(np.int32), "event": event})
    artifacts.write_table(
        artifacts.CLEAN / f"{name}.parquet", keys.assign(symbol="GOOG", day=book.day, time_ns=event * 10**6)
    )
    table = pd.DataFrame(book.x, columns=list(COLUMNS))
    times = keys.rename(columns={"event": "time"})
    artifacts.write_table(artifacts.FEATURES / f"{name}.parquet", pd.concat([times, table], axis=1))
    targets = {}
    for column, horizon in enumerate(HORIZONS):
        row = np.flatnonzero(book.y[:, column] >= 0)
        labels = times.iloc[row].assign(
            label_end=event[row + horizon], y=book.y[row, column].astype(np.int32), raw=np.float32(0)
        )
        described = label.describe_target({"horizon": horizon}, name=f"move_{horizon}", path="")
        labels.attrs.update(described.attributes)
        artifacts.write_table(artifacts.LABELS / name / f"move_{horizon}.parquet", labels.reset_index(drop=True))
        targets[f"move_{horizon}"] = {"kind": strategy, "horizon": horizon, "window": 4}
    add_params(name, targets)


def add_params(name: str, targets: dict[str, Any]) -> None:
    """Add a dataset's targets to the params.yaml of the current folder."""
    file = Path("params.yaml")
    params = yaml.safe_load(file.read_text()) if file.exists() else {"datasets": {}}
    params["datasets"][name] = {"features": {}, "targets": targets}
    file.write_text(yaml.safe_dump(params, sort_keys=False))


def run_kind(folder: Path, name: str, **manifest: Any) -> dict[str, Any]:
    """Run the kind `orderbook_export` on a folder, and write its tables as the stages do; return the reports."""
    raw, fetched = export.load(path=str(folder), manifest=manifest)
    clean, ingested = ingest.clean(raw, **CALENDAR)
    artifacts.write_table(artifacts.CLEAN / f"{name}.parquet", clean)
    file = TableFile(artifacts.CLEAN / f"{name}.parquet")
    clean = file.read()
    keys = clean[["segment", "event"]].rename(columns={"event": "time"})
    (features,) = featurize.compute_parts(file)
    x = pd.DataFrame(features.x, columns=list(features.columns))
    artifacts.write_table(
        artifacts.FEATURES / f"{name}.parquet", pd.concat([keys.iloc[features.rows].reset_index(drop=True), x], axis=1)
    )
    targets, labeled = {}, {}
    for horizon in fetched["horizons"]:
        target = f"horizon_{horizon}"
        targets[target] = {"horizon": horizon}
        labels = label.make_labels(clean, targets[target], name=target)
        table = labels.table.drop(columns="row")
        table.attrs.update(label.describe_target(targets[target], name=target, path="").attributes)
        artifacts.write_table(artifacts.LABELS / name / f"{target}.parquet", table)
        labeled[horizon] = labels
    add_params(name, targets)
    return {"fetch": fetched, "ingest": ingested, "labels": labeled, "clean": clean}


def write_foreign(folder: Path, book: Book, **changes: Any) -> None:
    """Write the export of an extractor whose facts stand in several files: sequences of whole days, dates as 20120619.

    `changes` are those of a day's metadata, but `codes`, `dtype` and `is_flat`.
    """
    codes = changes.pop("codes", CODES)
    by_class = {["down", "stable", "up"].index(word.lower()): int(code) for code, word in codes.items()}
    dtype, is_flat = changes.pop("dtype", np.float32), changes.pop("is_flat", False)
    for split, day in zip(("train", "val", "test"), DAYS, strict=True):
        (folder / split).mkdir(parents=True)
        x, y = book.x[book.day == day].astype(dtype), book.y[book.day == day]
        last = np.arange(LENGTH - 1, ROWS - max(HORIZONS), 1 if is_flat else STRIDE)
        sequences = x[last] if is_flat else np.array([x[i - LENGTH + 1 : i + 1] for i in last])
        stem = folder / split / day.replace("-", "")
        np.save(f"{stem}_{'features' if is_flat else 'sequences'}.npy", sequences)
        np.save(f"{stem}_labels.npy", np.vectorize(by_class.get)(y[last]).astype(np.int8))
        metadata = {
            "day": day,
            "window_size": LENGTH,
            "n_features": 98,
            "schema_version": "2.2",
            "label_strategy": "tlob",
            "labeling": {
                "label_mode": "multi_horizon",
                "horizons": list(HORIZONS),
                "label_encoding": {"values": codes},
            },
            "normalization": {"strategy": "none", "applied": False},
        }
        Path(f"{stem}_metadata.json").write_text(json.dumps(metadata | changes))
        Path(f"{stem}_horizons.json").write_text(json.dumps({"horizons": list(HORIZONS), "smoothing_window": 4}))
    manifest = {"experiment": {"name": "GOOG"}, "symbol": "GOOG", "feature_count": 98, "days_processed": 3}
    (folder / "dataset_manifest.json").write_text(json.dumps(manifest))
    (folder / "export_config.toml").write_text(f"[sequence]\nwindow_size = {LENGTH}\nstride = {STRIDE}\n")


def whole_book(seed: int = 0) -> Book:
    """A book without halts, gated rows or missing labels, one segment a day, and labels up to each day's end."""
    book = draw_book(seed)
    book.x[:, [92, 94]] = 1
    book.segment = np.repeat(np.arange(len(DAYS)), ROWS)
    mid = book.x[:, 40].astype(np.float64)
    for column, horizon in enumerate(HORIZONS):
        rows = np.flatnonzero(book.segment[:-horizon] == book.segment[horizon:])
        book.y[rows, column] = 1 + np.sign(np.round(mid[rows + horizon] - mid[rows], 3))
    return book
