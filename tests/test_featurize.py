"""The stage `featurize`: the table that it writes part by part, the values that it refuses, and its report."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.datasets.klines.words import WORDS
from pipeline.datasets.orderbook.words import WORDS as EVENTS
from pipeline.datasets.words import Words
from pipeline.features.engine import Features
from pipeline.row_groups import TableFile, open_table
from pipeline.stages import featurize

BARS = pd.DataFrame({"symbol": "X", "segment": [0, 0, 1], "open_time": [0, 60_000, 240_000]})


def make_features(x, rows, *, lost=None):
    """Return features of two columns."""
    return Features(
        columns=("a", "b"),
        x=np.float32(x).reshape(-1, 2),
        rows=np.array(rows, dtype=np.int64),
        warm_up_bars={"a": 0, "b": 7},
        lost_by_segment=lost or {0: 2, 1: 0},
        groups={"a": "price", "b": "idea"},
        in_pandas=("b",),
    )


def write_parts(folder: Path, *parts: Features, words: Words = WORDS) -> tuple[Features, TableFile, pd.DataFrame]:
    """Return what `write_features` returns for BARS, the file that it wrote, and the segments."""
    with open_table(folder / "clean.parquet", group_rows=2) as writer:
        writer.append(BARS)
    clean, file = TableFile(folder / "clean.parquet"), folder / "features.parquet"
    segments = featurize.list_segments(clean)
    written = featurize.write_features(parts, clean, file, segments=segments, time="open_time", words=words)
    return written, TableFile(file), segments


def test_bars_shorter_than_the_warm_up_are_refused_with_both_lengths(tmp_path):
    with pytest.raises(
        ValueError, match="no segment is longer than the warm-up of 7 bars, the longest has 2; give more bars"
    ):
        write_parts(tmp_path, make_features([], []))
    assert not (tmp_path / "features.parquet").exists()


def test_few_rows_with_features_are_logged_with_their_share_and_the_segments(tmp_path, caplog):
    features, file, segments = write_parts(tmp_path, make_features([[1, 2]], [1]))
    featurize.warn_of_few_rows(features, segments, rows=file.rows, words=WORDS)
    (message,) = caplog.messages
    assert message.startswith(
        "features: 1 of 3 bars have features (33.3%); each of 2 segments loses a warm-up of 7 bars"
    )
    caplog.clear()
    featurize.warn_of_few_rows(features, segments, rows=3, words=WORDS)
    assert caplog.messages == []


def test_values_that_are_not_finite_are_counted_and_the_first_is_named_with_its_column_and_bar(tmp_path):
    message = (
        "2 values after warm-up .* the first is b of X at open_time 60000; .* correct the column in "
        "pipeline/features/in_pandas/idea.py"
    )
    with pytest.raises(ValueError, match=message):
        write_parts(tmp_path, make_features([[1, 2], [3, np.inf]], [0, 1]), make_features([[np.nan, 2]], [2]))
    assert not (tmp_path / "features.parquet").exists()


def test_of_an_order_book_the_fault_and_the_few_rows_are_those_of_events(tmp_path, caplog):
    with pytest.raises(ValueError, match="correct the sizes and prices of the source, or the column in pipeline/order"):
        write_parts(tmp_path, make_features([[1, np.nan]], [0]), words=EVENTS)
    features, file, segments = write_parts(tmp_path, make_features([[1, 2]], [1]), words=EVENTS)
    featurize.warn_of_few_rows(features, segments, rows=file.rows, words=EVENTS)
    (message,) = caplog.messages
    assert message.startswith(
        "features: 1 of 3 events have features (33.3%); each of 2 segments loses a warm-up of 7 ev"
    )
    assert "lower features.ready_events" in message
    assert featurize.summarize_features(features, file, segments, words=EVENTS)["unit"] == "events"
    assert "unit" not in featurize.summarize_features(features, file, segments, words=WORDS)


def test_segments_that_outlast_the_warm_up_without_a_row_are_not_said_to_be_shorter(tmp_path):
    features = replace(make_features([], []), warm_up_bars={"a": 0, "b": 1})
    with pytest.raises(ValueError, match="no row has features, though the longest segment has 2 bars; give more"):
        write_parts(tmp_path, features)


def test_the_table_has_the_rows_of_all_parts_with_their_keys(tmp_path):
    _, file, _ = write_parts(
        tmp_path, make_features([[1, 2]], [1]), make_features([], []), make_features([[3, 4]], [2])
    )
    expected = pd.DataFrame({"segment": [0, 1], "time": [60_000, 240_000], "a": [1, 3], "b": [2, 4]})
    pd.testing.assert_frame_equal(file.read(), expected.astype({"a": np.float32, "b": np.float32}))


def test_the_report_accounts_for_every_bar_and_adds_up_what_the_parts_lost(tmp_path):
    parts = (make_features([], [], lost={0: 1}), make_features([[1, 2]], [2], lost={0: 1, 1: 0}))
    report = featurize.summarize_features(*write_parts(tmp_path, *parts), words=WORDS)
    assert (report["bars"], report["rows"], report["lost"]) == (3, 1, {"warm_up": 2})
    assert report["lost_by_segment"] == {0: 2, 1: 0}


def test_the_report_has_the_group_of_every_column_and_says_whether_it_can_be_streamed(tmp_path):
    written = write_parts(tmp_path, make_features([[1, 2]], [2]))
    columns = featurize.summarize_features(*written, words=WORDS)["columns"]
    assert {name: (column["group"], column["streamable"]) for name, column in columns.items()} == {
        "a": ("price", True),
        "b": ("idea", False),
    }
    features, *others = written
    among_symbols = replace(features, groups=features.groups | {"b": "cross_section"})
    assert featurize.summarize_features(among_symbols, *others, words=WORDS)["columns"]["b"]["streamable"]


def test_the_distribution_of_a_column_is_that_of_all_its_rows():
    assert featurize.summarize_column(np.arange(101.0)) == {
        "std": pytest.approx(np.sqrt((101**2 - 1) / 12)),
        "q01": 1.0,
        "median": 50.0,
        "q99": 99.0,
    }


def test_the_segments_of_a_table_are_listed_in_its_order_with_symbol_and_length(tmp_path):
    _, _, segments = write_parts(tmp_path, make_features([[1, 2]], [2]))
    assert segments.values.tolist() == [[0, "X", 2], [1, "X", 1]]


def test_the_params_of_the_report_name_the_compiled_groups_alone():
    assert featurize.list_groups(make_features([[1, 2]], [2])) == ["price"]


def test_the_report_has_the_longest_look_back_where_it_is_not_the_warm_up(tmp_path):
    features, file, segments = write_parts(tmp_path, make_features([[1, 2]], [1]))
    assert "lookback_bars" not in featurize.summarize_features(features, file, segments, words=WORDS)
    longer = replace(features, lookback_bars={"a": 0, "b": 5000})
    assert featurize.summarize_features(longer, file, segments, words=WORDS)["lookback_bars"] == 5000
