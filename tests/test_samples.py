import numpy as np
import pandas as pd
import pytest

from pipeline.samples import Samples, aligned, common_rows, contiguous, keyed


def table(segment, minute, **columns):
    return pd.DataFrame({"segment": np.int32(segment), "time": np.int64(minute) * 60_000, **columns})


def test_a_new_run_begins_where_the_segment_changes_or_a_bar_is_left_out():
    rows = table([0, 0, 0, 0, 1, 1], [10, 11, 13, 14, 15, 16])
    assert contiguous(rows).tolist() == [0, 0, 1, 1, 2, 2]


def test_no_rows_have_no_runs():
    assert contiguous(table([], [])).tolist() == []


def test_common_rows_stand_in_every_table_in_the_order_of_the_first():
    a, b = table([1, 1, 0, 0], [5, 6, 1, 2]), table([0, 1, 1], [2, 6, 7])
    assert common_rows([a, b])["time"].tolist() == [6 * 60_000, 2 * 60_000]


def test_a_row_without_a_label_is_named():
    with pytest.raises(ValueError, match="labels: no row for segment 0, time 120000"):
        aligned(table([0], [1]), table([0, 0], [1, 2]), named="labels")


def test_samples_are_the_rows_asked_for_in_that_order(tmp_path):
    features = table([0, 0, 1], [1, 2, 9], rsi=np.float32([0.1, 0.2, 0.3]))
    labels = table([0, 0, 1], [1, 2, 9], label_end=np.int64([3, 4, 11]), y=np.float32([1, 2, 3]), move=[0.5, 0.6, 0.7])
    features.to_parquet(tmp_path / "x.parquet")
    labels.to_parquet(tmp_path / "y.parquet")
    rows = keyed(np.int32([1, 0]), np.int64([9, 2]) * 60_000)
    samples = Samples.load(tmp_path / "x.parquet", tmp_path / "y.parquet", rows=rows)
    assert samples.columns == ("rsi",)
    assert samples.x.dtype == np.float32
    assert samples.x.tolist() == np.float32([[0.3], [0.2]]).tolist()
    assert samples.y.tolist() == [3, 2]
    assert samples.label_end.tolist() == [11, 4]
    assert samples.segment.tolist() == [0, 1]
