import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.models.nets.engine.windows import make_windows
from pipeline.samples import Samples, align, make_keys, number_runs


def make_table(segment, minute, **columns):
    return pd.DataFrame({"segment": np.int32(segment), "time": np.int64(minute) * 60_000, **columns})


def test_a_new_run_begins_at_a_new_segment_and_after_a_missing_row():
    assert number_runs(np.int32([0, 0, 0, 0, 1, 1]), np.array([10, 11, 13, 14, 15, 16])).tolist() == [0, 0, 1, 1, 2, 2]


def test_no_rows_have_no_runs():
    assert number_runs(np.int32([]), np.array([], int)).tolist() == []


def test_a_row_without_a_label_is_named():
    with pytest.raises(ValueError, match="labels: no row for segment 0, time 120000"):
        align(make_table([0], [1]), make_table([0, 0], [1, 2]), name="labels")


@pytest.mark.parametrize("far", [1, 2**60])  # too far for one number of segment and time
def test_rows_in_any_order_are_found_by_segment_and_time(far):
    keys = [(0, 3), (7, far), (0, far), (7, 1)]
    table = pd.DataFrame({"segment": np.int32([k[0] for k in keys]), "time": [k[1] for k in keys], "y": range(4)})
    table = table.drop_duplicates(["segment", "time"])
    assert align(table, table.iloc[::-1], name="labels")["y"].tolist() == table["y"].tolist()[::-1]


def test_a_key_that_stands_twice_is_refused():
    table = make_table([0, 1, 0], [2, 5, 2])
    with pytest.raises(ValueError, match="rows: 1 keys are repeated, first segment 0, time 120000"):
        align(table, make_table([1], [5]), name="labels")


def test_samples_are_the_given_rows_in_their_order(tmp_path):
    features = make_table([0, 0, 1], [1, 2, 9], rsi=np.float32([0.1, 0.2, 0.3]))
    labels = make_table([0, 0, 1], [1, 2, 9], label_end=np.int64([3, 4, 11]), y=np.float32([1, 2, 3]))
    features.to_parquet(tmp_path / "x.parquet")
    labels.to_parquet(tmp_path / "y.parquet")
    rows = make_keys(np.int32([1, 0]), np.int64([9, 2]) * 60_000)
    samples = Samples.load(tmp_path / "x.parquet", tmp_path / "y.parquet", rows=rows)
    assert samples.columns == ("rsi",)
    assert samples.x.dtype == np.float32
    assert samples.x.tolist() == np.float32([[0.3], [0.2]]).tolist()
    assert samples.y.tolist() == [3, 2]
    assert samples.label_end.tolist() == [11, 4]
    assert samples.segment.tolist() == [0, 1]
    assert samples.is_labeled.all()
    assert samples.fills is None


def write_tables(tmp_path, *, unlabeled, y):
    features = make_table([0] * 6, range(6), a=np.arange(6, dtype=np.float32), b=np.zeros(6, np.float32))
    labels = make_table([0] * 6, range(6), label_end=np.arange(6) * 60_000 + 120_000, y=y)
    features.to_parquet(tmp_path / "x.parquet")
    labels.drop(index=unlabeled).reset_index(drop=True).to_parquet(tmp_path / "y.parquet")
    is_labeled = ~np.isin(np.arange(6), unlabeled)
    return make_keys(features["segment"], features["time"]).assign(is_labeled=is_labeled)


@pytest.mark.parametrize(("dtype", "missing"), [(np.float32, "nan"), (np.int32, "-1")])
def test_rows_without_a_label_keep_their_place_and_end_at_their_own_time(dtype, missing, tmp_path):
    rows = write_tables(tmp_path, unlabeled=[2, 3], y=np.arange(6, dtype=dtype))
    samples = Samples.load(tmp_path / "x.parquet", tmp_path / "y.parquet", rows=rows)
    assert samples.segment.tolist() == [0] * 6
    assert [f"{y:g}" for y in samples.y] == ["0", "1", missing, missing, "4", "5"]
    assert (samples.label_end // 60_000).tolist() == [2, 3, 2, 3, 6, 7]


def test_labels_over_several_horizons_are_read_in_their_order_and_the_longest_is_y(tmp_path):
    rows = write_tables(tmp_path, unlabeled=[1], y=np.arange(6, dtype=np.float32))
    labels = pd.read_parquet(tmp_path / "y.parquet")
    labels.assign(raw=0.0, y_1=labels["y"] / 4, y_10=labels["y"] / 2).to_parquet(tmp_path / "y.parquet")
    samples = Samples.load(tmp_path / "x.parquet", tmp_path / "y.parquet", rows=rows.iloc[[3, 1, 0]])
    assert samples.y_by_horizon.dtype == np.float32
    assert np.array_equal(samples.y_by_horizon, [[0.75, 1.5, 3.0], [np.nan] * 3, [0.0] * 3], equal_nan=True)
    assert samples.learned is samples.y_by_horizon
    assert np.array_equal(samples.y, samples.y_by_horizon[:, -1], equal_nan=True)


def test_a_window_reads_rows_without_a_label_as_a_stream_would(tmp_path):
    rows = write_tables(tmp_path, unlabeled=[1, 2, 3], y=np.zeros(6, np.float32))
    samples = Samples.load(tmp_path / "x.parquet", tmp_path / "y.parquet", rows=rows)
    windows = make_windows(samples.x, samples.segment, length=4, device=torch.device("cpu"))
    assert windows.gather(torch.tensor([5]))[0, :, 0].tolist() == [2, 3, 4, 5]


def test_columns_are_selected_by_name_and_an_unknown_one_is_refused(tmp_path):
    rows = write_tables(tmp_path, unlabeled=[], y=np.zeros(6, np.float32))
    samples = Samples.load(tmp_path / "x.parquet", tmp_path / "y.parquet", rows=rows)
    assert samples.select_columns(["b", "a"]).x[:, 1].tolist() == list(range(6))
    with pytest.raises(ValueError, match=r"no columns \['c'\]; the features are a, b"):
        samples.select_columns(["c"])
