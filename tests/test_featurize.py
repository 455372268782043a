import numpy as np
import pandas as pd
import pytest

from pipeline.features.engine import Features
from pipeline.stages import featurize

BARS = pd.DataFrame({"symbol": "X", "segment": [0, 0, 1], "open_time": [0, 60_000, 240_000]})


def make_features(x, rows):
    """Return features of two columns."""
    return Features(
        columns=("a", "b"),
        x=np.float32(x).reshape(-1, 2),
        rows=np.array(rows),
        warm_up_bars={"a": 0, "b": 7},
        lost_by_segment={0: 2, 1: 0},
        groups={"a": "price", "b": "idea"},
        in_pandas=("b",),
    )


def test_bars_shorter_than_the_warm_up_are_refused_with_both_lengths():
    with pytest.raises(
        ValueError, match="no segment is longer than the warm-up of 7 bars, the longest has 2; give more bars"
    ):
        featurize.raise_if_empty(make_features([], []), BARS)


def test_a_value_that_is_not_finite_is_named_with_its_column_and_bar():
    message = "the first is b of X at open_time 240000; .* correct the column in pipeline/features/in_pandas/idea.py"
    with pytest.raises(ValueError, match=message):
        featurize.raise_if_not_finite(make_features([[1, 2], [3, np.inf]], [1, 2]), BARS, time="open_time")


def test_the_report_accounts_for_every_bar():
    report = featurize.summarize_features(make_features([[1, 2]], [2]), BARS)
    assert (report["bars"], report["rows"], report["lost"]) == (3, 1, {"warm_up": 2})
    assert report["lost_by_segment"] == {0: 2, 1: 0}


def test_the_report_has_the_group_of_every_column_and_says_whether_it_can_be_streamed():
    columns = featurize.summarize_features(make_features([[1, 2]], [2]), BARS)["columns"]
    assert {name: (column["group"], column["streamable"]) for name, column in columns.items()} == {
        "a": ("price", True),
        "b": ("idea", False),
    }


def test_the_params_of_the_report_name_the_compiled_groups_alone():
    assert featurize.list_groups(make_features([[1, 2]], [2])) == ["price"]
