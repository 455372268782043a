"""Features are read from a file by column or by rows, and guards find in them what they find in memory."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.feature_file import FeatureFile, read_chunks
from pipeline.leakage.features import look_ahead, target_leakage, truncation
from pipeline.leakage.findings import check_finite
from pipeline.leakage.folds import duplicates
from pipeline.samples import KEY, find_label_ends, make_keys, open_features
from pipeline.validation.folds import cpcv

BAR = 60_000


def make_bars(*lengths: int) -> pd.DataFrame:
    """Return bars of two symbols at the same times, each in segments of these lengths with a gap between."""
    own = np.repeat(np.arange(len(lengths)), lengths)
    segment = np.concatenate([own, own + len(lengths)])
    time = np.tile((np.arange(len(own)) + 10 * own) * BAR, 2)
    close = 100 * np.exp(np.cumsum(np.random.default_rng(1).normal(size=len(time))) * 1e-3)
    columns = {"close": close, "high": close * 1.01, "low": close * 0.99, "volume": np.ones(len(time))}
    return pd.DataFrame({"segment": segment.astype(np.int32), "open_time": time, **columns})


def compute(bars: pd.DataFrame, *, leaks: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows after three bars of each segment, and three columns; with `leaks` the last reads the next bar."""
    close = bars.groupby("segment")["close"]
    mean = close.transform(lambda part: part.rolling(3).mean())
    hours = close.transform(lambda part: part.where(np.arange(len(part)) % 7 == 0).ffill().fillna(0.0))
    last = close.shift(-1 if leaks else 1).fillna(0.0)
    rows = np.flatnonzero(bars.groupby("segment").cumcount() >= 3)
    return rows, np.column_stack([mean, hours, last]).astype(np.float32)[rows]


def write_features(file: Path, bars: pd.DataFrame, rows: np.ndarray, x: np.ndarray, *, group_rows: int) -> FeatureFile:
    keys = bars.iloc[rows][["segment", "open_time"]].set_axis(KEY, axis=1).reset_index(drop=True)
    table = pd.concat([keys, pd.DataFrame(x, columns=["mean", "hours", "last"])], axis=1)
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), file, row_group_size=group_rows)
    return FeatureFile(file, keys=KEY)


@pytest.mark.parametrize("group_rows", [7, 1_000])
@pytest.mark.parametrize("count", [3, 500])
def test_the_features_of_a_file_are_those_of_the_table(tmp_path, group_rows, count):
    bars = make_bars(40, 5, 30)
    rows, x = compute(bars)
    stored = write_features(tmp_path / "x.parquet", bars, rows, x, group_rows=group_rows)
    assert (stored.shape, stored.columns) == (x.shape, ("mean", "hours", "last"))
    assert all(np.array_equal(stored[:, j], x[:, j]) for j in range(3))
    assert np.array_equal(np.concatenate(list(read_chunks(stored, count=count))), x)
    assert np.array_equal(np.concatenate(list(read_chunks(x, count=count))), x)


def test_the_features_of_some_rows_are_read_by_column_alone(tmp_path):
    bars = make_bars(40)
    rows, x = compute(bars)
    write_features(tmp_path / "x.parquet", bars, rows, x, group_rows=9)
    keys = make_keys(bars["segment"].to_numpy()[rows[[5, 6, 9]]], bars["open_time"].to_numpy()[rows[[5, 6, 9]]])
    stored, segment = open_features(tmp_path / "x.parquet", rows=keys)
    assert (stored.shape, segment.tolist()) == ((3, 3), [0, 0, 1])
    assert np.array_equal(stored[:, 1], x[[5, 6, 9], 1])
    with pytest.raises(ValueError, match="features of some rows are read by column"):
        next(read_chunks(stored, count=2))


@pytest.mark.parametrize("leaks", [False, True])
@pytest.mark.parametrize("part_rows", [1, 11, 1_000])
def test_truncation_finds_in_parts_of_a_file_what_it_finds_in_a_table_in_memory(tmp_path, leaks, part_rows):
    bars = make_bars(40, 5, 30)
    rows, x = compute(bars, leaks=leaks)

    def recompute(table: pd.DataFrame):
        selected, values = compute(table, leaks=leaks)
        for start in range(0, len(selected), part_rows):
            yield selected[start : start + part_rows], values[start : start + part_rows]

    names, chosen = ["mean", "hours", "last"], {"cuts": 12, "seed": 1}
    in_memory = truncation(bars, lambda table: [compute(table, leaks=leaks)], (rows, x), names, **chosen)
    stored = write_features(tmp_path / "x.parquet", bars, rows, x, group_rows=13)
    assert truncation(bars, recompute, (rows, stored), names, **chosen) == in_memory
    assert (in_memory.severity, list(in_memory.measurements["changed"])) == (
        ("critical", ["last"]) if leaks else ("ok", [])
    )


@pytest.mark.parametrize("drop", ["first", "last"])
def test_truncation_finds_rows_that_parts_lack_or_have_beside(tmp_path, drop):
    bars = make_bars(30)
    rows, x = compute(bars)
    fewer = slice(1, None) if drop == "first" else slice(None, -1)

    def select(part: tuple[np.ndarray, np.ndarray], is_whole: bool) -> tuple[np.ndarray, np.ndarray]:
        return part if is_whole else (part[0][fewer], part[1][fewer])

    for is_whole in (False, True):  # what is stored
        found = truncation(
            bars,
            lambda table, is_whole=is_whole: [select(compute(table), not is_whole)],
            select((rows, x), is_whole),
            ["mean", "hours", "last"],
            cuts=1,
            seed=1,
        )
        assert found.measurements["not_reproduced"]["row selection"]["row"] == rows[0 if drop == "first" else -1]


def test_guards_of_columns_and_of_copies_find_the_same_in_a_file(tmp_path):
    bars = make_bars(400, 300)
    rows, x = compute(bars)
    x[500] = x[20]
    time, segment = (bars[name].to_numpy()[rows] for name in ("open_time", "segment"))
    stored = write_features(tmp_path / "x.parquet", bars, rows, x, group_rows=100)
    folds = cpcv(time, time + BAR, groups=4, test_groups=1, embargo_pct=0.0, holdout_pct=0.2)
    move, flow = np.random.default_rng(2).normal(size=(2, len(rows)))
    in_memory, in_file = (
        [
            look_ahead(each, ["mean", "hours", "last"], move, segment, ratio=0.6, floor=0.5),
            *target_leakage(each, ["mean", "hours", "last"], {"move": move, "flow": flow}, threshold=0.9),
            duplicates(each, segment, folds),
        ]
        for each in (x, stored)
    )
    assert in_file == in_memory
    assert in_file[3].measurements["crossing_duplicates"] > 0


def test_the_first_value_that_is_not_finite_is_that_of_the_first_row():
    x = np.zeros((4, 2))
    x[3, 0], x[1, 1] = np.nan, np.inf
    with pytest.raises(ValueError, match="b: not finite in row 1, one of 2"):
        check_finite(x, ["a", "b"])


def test_a_row_ends_with_its_latest_label_and_one_without_every_label_with_itself():
    rows = make_keys(np.int32([0, 0, 1, 1]), np.int64([1, 2, 1, 2]))
    first = make_keys(np.int32([0, 1, 1]), np.int64([1, 1, 2])).assign(label_end=np.int64([5, 9, 3]))
    second = make_keys(np.int32([0, 0, 1]), np.int64([1, 2, 1])).assign(label_end=np.int64([7, 8, 2]))
    ends, is_labeled = find_label_ends(rows, iter([first, second]))
    assert ends.tolist() == [7, 2, 9, 2]
    assert is_labeled.tolist() == [True, False, True, False]
