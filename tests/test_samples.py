import numpy as np
import pandas as pd
import pytest

from pipeline.samples import Samples, align, intersect_rows, make_keys, number_runs


def make_table(segment, minute, **columns):
    return pd.DataFrame({"segment": np.int32(segment), "time": np.int64(minute) * 60_000, **columns})


def test_a_new_run_begins_at_a_new_segment_and_after_a_missing_bar():
    rows = make_table([0, 0, 0, 0, 1, 1], [10, 11, 13, 14, 15, 16])
    assert number_runs(rows).tolist() == [0, 0, 1, 1, 2, 2]


def test_no_rows_have_no_runs():
    assert number_runs(make_table([], [])).tolist() == []


def test_the_intersection_has_the_rows_of_every_table_in_the_order_of_the_first():
    a, b = make_table([1, 1, 0, 0], [5, 6, 1, 2]), make_table([0, 1, 1], [2, 6, 7])
    assert intersect_rows([a, b])["time"].tolist() == [6 * 60_000, 2 * 60_000]


def test_a_row_without_a_label_is_named():
    with pytest.raises(ValueError, match="labels: no row for segment 0, time 120000"):
        align(make_table([0], [1]), make_table([0, 0], [1, 2]), name="labels")


def test_samples_are_the_given_rows_in_their_order(tmp_path):
    features = make_table([0, 0, 1], [1, 2, 9], rsi=np.float32([0.1, 0.2, 0.3]))
    labels = make_table(
        [0, 0, 1], [1, 2, 9], label_end=np.int64([3, 4, 11]), y=np.float32([1, 2, 3]), move=[0.5, 0.6, 0.7]
    )
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
