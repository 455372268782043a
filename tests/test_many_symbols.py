"""Tables of many symbols: work by symbol in processes, and rows that fits do not copy, with the same bytes."""

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline import by_symbol, feature_file, labels
from pipeline.config import ModelBlock
from pipeline.datasets.klines import featurize, label
from pipeline.features import engine
from pipeline.mapped_rows import map_rows
from pipeline.market import simulated
from pipeline.models import base
from pipeline.models.cross_fit import ModelSpec
from pipeline.models.trees.engine import forest
from pipeline.row_groups import TableFile, open_table
from pipeline.samples import Samples, make_keys
from tests.data import OUTPUTS, plant_samples
from tests.params import BLOCKS, PARAMS
from tests.test_features import SHORT
from tests.test_features_parts import make_table, write_clean

MARKET = {key: value for key, value in PARAMS["sources"]["simulated"].items() if key != "kind"}


@pytest.fixture
def processes(monkeypatch):
    """Let any table of several symbols be worked on by two processes."""
    monkeypatch.setattr(by_symbol, "MIN_ROWS", 0)
    monkeypatch.setenv("PIPELINE_WORKERS", "2")


def test_symbols_in_processes_give_the_bars_features_and_labels_of_one_process(processes, monkeypatch, tmp_path):
    block = MARKET | {"symbols": ["AUSDT", "BUSDT", "CUSDT"], "days": 1}
    bars = simulated.load(**block)[0]
    bars["segment"] = np.repeat(np.arange(3, dtype=np.int32), 1440)
    file = write_clean(tmp_path, bars, group_rows=1000)
    features = list(featurize.compute_parts(file, **SHORT))
    target = PARAMS["datasets"]["klines"]["targets"]["return_5"] | {"clip_sigma": 2.0}
    found = label.make_labels(bars, target)
    monkeypatch.setenv("PIPELINE_WORKERS", "1")
    pd.testing.assert_frame_equal(simulated.load(**block)[0], bars.drop(columns="segment"))
    whole, expected = engine.compute(bars, **SHORT), labels.make_labels(bars, target)
    assert np.concatenate([part.x for part in features]).tobytes() == np.ascontiguousarray(whole.x).tobytes()
    assert np.array_equal(np.concatenate([part.rows for part in features]), whole.rows)
    pd.testing.assert_frame_equal(found.table, expected.table)
    assert replace(found, table=None) == replace(expected, table=None)
    assert expected.clipped > 0


def test_segments_of_one_symbol_stay_in_one_process(processes, tmp_path):
    bars = make_table()
    bars["open_time"] = np.concatenate([60_000 * np.arange(30), 60_000 * np.arange(37)])
    parts = list(featurize.compute_parts(write_clean(tmp_path, bars, group_rows=10), **SHORT))
    assert [part.rows[0] // 23 for part in parts if len(part.rows)] == [0, 1]


def test_the_rows_of_one_symbol_are_read_from_its_own_row_groups(tmp_path, monkeypatch):
    table = pd.DataFrame({"segment": np.repeat(np.arange(50, dtype=np.int32), 40), "x": np.arange(2000.0)})
    with open_table(tmp_path / "x.parquet", group_rows=100) as writer:
        writer.append(table)
    read, read_group = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, i, **named: (read.append(i), read_group(self, i, **named))[1]
    )
    found = TableFile(tmp_path / "x.parquet").read(["x"], start=880, stop=920)
    assert (found["x"].tolist(), read) == (table["x"][880:920].tolist(), [8, 9])
    by_filter = pq.read_table(tmp_path / "x.parquet", filters=[("segment", "==", 22)])
    assert by_filter["x"].to_pylist() == found["x"].tolist()


def test_mapped_rows_are_those_of_the_blocks_until_the_array_is_gone(tmp_path):
    blocks = [np.arange(12.0).reshape(3, 4).T, np.ones((2, 3))]
    x = map_rows(iter(blocks), columns=3, beside=tmp_path / "x.parquet")
    part = x[1:3]
    x[0] = 7.0  # is not stored
    assert np.array_equal(x[1:], np.concatenate(blocks)[1:].astype(np.float32))
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith(".x.parquet.")
    assert folder.name.endswith(".draft")
    assert np.fromfile(folder / "rows.f32", np.float32)[:3].tolist() == [0.0, 4.0, 8.0]
    del x
    gc.collect()
    assert list(tmp_path.iterdir()) == [folder]
    del part
    gc.collect()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("taken", [slice(None), slice(5, 90), [3, 4, 50, 97]])
def test_mapped_features_are_those_in_memory(taken, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    keys = make_keys(np.repeat(np.int32([0, 1]), 50), np.tile(np.arange(50), 2))
    table = keys.assign(a=rng.normal(size=100).astype(np.float32), b=rng.normal(size=100).astype(np.float32))
    for name, content in (("x", table), ("y", keys.assign(label_end=keys["time"], y=np.float32(1)))):
        with open_table(tmp_path / f"{name}.parquet", group_rows=30) as writer:
            writer.append(content)
    files = (tmp_path / "x.parquet", tmp_path / "y.parquet")
    in_memory = Samples.load(*files, rows=keys.iloc[taken])
    monkeypatch.setattr(feature_file, "MAX_BYTES_IN_MEMORY", 0)
    mapped = Samples.load(*files, rows=keys.iloc[taken])
    assert isinstance(mapped.x.base, np.memmap)
    assert np.array_equal(mapped.x, in_memory.x)
    assert np.array_equal(in_memory.x, table[["a", "b"]].to_numpy()[taken])


@pytest.mark.parametrize("name", ["lightgbm", "xgboost_barrier"])
def test_a_forest_of_views_and_batches_is_that_of_copied_rows(name, tmp_path: Path, monkeypatch):
    kind = "barrier" if name == "xgboost_barrier" else "return"
    samples = plant_samples(kind, seed=3)
    shape = base.Signature(columns=samples.columns, output=OUTPUTS[kind])
    spec = ModelSpec(ModelBlock(*BLOCKS[name]), shape, PARAMS["trees"] | {"num_boost_round": 8})
    rows = np.flatnonzero(np.arange(len(samples.time)) % 97 > 1)  # runs of 95 rows
    rows = np.setdiff1d(rows, np.arange(300, 360, 2))  # and single ones
    train, valid = np.split(rows, [len(rows) * 3 // 4])
    forests, predictions = [], []
    for views, batch in ((1 << 30, 1 << 30), (90, 64)):
        monkeypatch.setattr(forest, "MIN_VIEW_ROWS", views)
        monkeypatch.setattr(forest, "PREDICTED_BATCH_ROWS", batch)
        model = spec.build(7)
        model.fit(samples, train, valid)
        model.save(tmp_path / str(views))
        forests.append({file.name: file.read_bytes() for file in (tmp_path / str(views)).iterdir()})
        predictions.append(model.predict_rows(samples, valid).tobytes())
    assert forests[0] == forests[1]
    assert predictions[0] == predictions[1]


def test_long_runs_of_rows_are_views_and_all_parts_are_the_rows_in_order(monkeypatch):
    monkeypatch.setattr(forest, "MIN_VIEW_ROWS", 3)
    rows = np.array([0, 1, 2, 3, 5, 7, 8, 10, 11, 12, 20, 21, 22, 23, 30])
    parts = forest.split_into_runs(rows)
    assert [part.tolist() for part in parts] == [[0, 1, 2, 3], [5, 7, 8], [10, 11, 12], [20, 21, 22, 23], [30]]
