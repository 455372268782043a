import numpy as np
import pandas as pd
import pytest

from pipeline.datasets.klines.words import WORDS
from pipeline.datasets.orderbook.words import WORDS as EVENTS
from pipeline.leakage.folds import embargo
from pipeline.samples import make_keys
from pipeline.stages import split
from pipeline.validation.folds import Folds, make_folds

BAR = 60_000


def make_point_folds(minutes: np.ndarray, *, groups: int, test_groups: int = 1) -> Folds:
    """Return folds of rows whose labels end at their time; the last third of the times is held out."""
    time = minutes.astype(np.int64) * BAR
    return make_folds(
        time,
        time,
        method="cpcv",
        groups=groups,
        test_groups=test_groups,
        train_groups=1,
        embargo_pct=0.0,
        holdout_pct=1 / 3,
    )


def make_rows(symbols: list[str], segment: np.ndarray, folds: Folds) -> pd.DataFrame:
    """Return the rows of folds as the stage lists them; `symbols` has that of each segment."""
    keys = make_keys(segment, folds.time)
    return keys.assign(symbol=pd.Categorical(np.array(symbols)[segment]), label_end=folds.label_end)


def test_the_report_lists_the_gaps_inside_each_group_and_those_across_groups():
    first = np.setdiff1d(np.arange(18), [2, 3, 16])  # the groups are 0-5 and 6-11, the holdout 12-17
    second = np.setdiff1d(np.arange(18), [5, 6, 9])
    minutes, segment = np.concatenate([first, second]), np.repeat([0, 1], [len(first), len(second)])
    folds = make_point_folds(minutes, groups=2)
    rows = make_rows(["AAA", "BBB"], segment, folds)
    report = split.summarize_groups(folds, split.find_gaps(folds, rows), rows=rows)
    first_gap = {"symbol": "AAA", "after_ms": 1 * BAR, "before_ms": 4 * BAR, "missing_bars": 2}
    second_gap = {"symbol": "BBB", "after_ms": 8 * BAR, "before_ms": 10 * BAR, "missing_bars": 1}
    crossing = {"symbol": "BBB", "after_ms": 4 * BAR, "before_ms": 7 * BAR, "missing_bars": 2}
    assert report == {
        "groups": [
            {"rows": 9, "first_ms": 0, "last_ms": 5 * BAR, "gaps": [first_gap]},
            {"rows": 10, "first_ms": 6 * BAR, "last_ms": 11 * BAR, "gaps": [second_gap]},
        ],
        "gaps_across_groups": [crossing],
    }


def test_two_segments_of_a_symbol_have_a_gap_between_them_and_two_symbols_have_none():
    minutes, segment = np.array([0, 1, 4, 5, 0, 1, 2, 3, 4, 5, 6, 7, 8]), np.repeat([0, 1, 2], [2, 2, 9])
    folds = make_point_folds(minutes, groups=2)
    rows = make_rows(["AAA", "AAA", "BBB"], segment, folds)
    report = split.summarize_groups(folds, split.find_gaps(folds, rows), rows=rows)
    assert [group["gaps"] for group in report["groups"]] == [[], []]
    assert report["gaps_across_groups"] == [{"symbol": "AAA", "after_ms": BAR, "before_ms": 4 * BAR, "missing_bars": 2}]


def test_few_splits_are_listed_by_column():
    report = split.summarize_folds(make_point_folds(np.arange(18), groups=3))
    assert report["method"] == "cpcv"
    assert (report["rows"], report["development"], report["tested"], report["holdout"]) == (18, 12, 12, 6)
    listed = {name: column.tolist() for name, column in report["splits"].items()}
    assert listed == {
        "tested_groups": [[0], [1], [2]],
        "train_and_valid": [8] * 3,
        "test": [4] * 3,
        "purged_and_embargoed": [0] * 3,
    }


def test_many_splits_are_summarized_by_their_range():
    folds = make_point_folds(np.arange(18), groups=10, test_groups=3)  # of 2, 2, 1, 1 … rows
    assert split.summarize_folds(folds)["splits"] == {  # 56 splits test 3 rows, 56 test 4 and 8 test 5
        "train_and_valid": {"min": 7, "median": 8.0, "max": 9},
        "test": {"min": 3, "median": 4.0, "max": 5},
        "purged_and_embargoed": {"min": 0, "median": 0.0, "max": 0},
    }


@pytest.mark.parametrize("count", [30, 60])
def test_rows_that_their_embargo_covers_are_refused_with_both_lengths(count):
    time = BAR * np.arange(count)
    rows = pd.DataFrame({"segment": 0, "time": time, "label_end": time + 5 * BAR, "is_labeled": True})
    section = {"method": "cpcv", "groups": 2, "test_groups": 1, "train_groups": 1, "holdout_pct": 0.0}
    section |= {"embargo_pct": None, "embargo_bars": None, "embargo_hours": None}
    with pytest.raises(
        ValueError, match=rf"{count} rows before the holdout are no more than their embargo.*\(60 bars\)"
    ):
        split.choose_embargo(section, rows, warm_up_bars=60, unit="ms", words=WORDS)


def test_of_an_order_book_a_refusal_names_the_look_back_of_its_features_and_the_key_to_lower():
    time = np.arange(5000)
    rows = pd.DataFrame({"segment": 0, "time": time, "label_end": time + 50, "is_labeled": True})
    section = {"method": "purged_kfold", "groups": 2, "test_groups": 1, "train_groups": 1, "holdout_pct": 0.0}
    section |= {"embargo_pct": None, "embargo_bars": None, "embargo_hours": None}
    message = r"the longest look-back of a feature \(5000 events\).*set split.embargo_bars, or .*features.windows"
    with pytest.raises(ValueError, match=message), EVENTS.adapt_errors():
        split.choose_embargo(section, rows, warm_up_bars=5000, unit="events", words=EVENTS)
    assert split.choose_embargo(section, rows, warm_up_bars=500, unit="events", words=EVENTS)[1] == (
        "the longest look-back of a feature has 500 events, the longest label 50"
    )


def test_an_error_that_no_embargo_caused_does_not_name_the_embargo():
    rows = pd.DataFrame({"time": BAR * np.arange(9), "label_end": BAR * np.arange(9), "is_labeled": True})
    block = {"method": "cpcv", "groups": 2, "test_groups": 2, "train_groups": 1, "holdout_pct": 0.0, "embargo_bars": 1}
    with pytest.raises(ValueError, match="test_groups is 2 of 2 groups") as caught:
        block |= {"embargo_pct": None, "embargo_hours": None}
        split.divide(rows, block, reason="-", is_automatic=True, words=WORDS)
    assert "split.embargo_bars" not in str(caught.value)


def test_an_embargo_below_the_warm_up_is_logged(caplog):
    folds = make_point_folds(np.arange(18), groups=3)
    split.log_warnings([embargo(folds, 0)])
    assert caplog.messages == []
    finding = embargo(folds, 5)
    split.log_warnings([finding])
    assert caplog.messages == [f"split: {finding.guard}: {finding.message}"]
    assert finding.severity == "warning"


def test_an_embargo_spans_what_features_read_not_only_where_they_have_no_value():
    assert split.find_lookback_bars({"warm_up_bars": 60}) == 60
    assert split.find_lookback_bars({"warm_up_bars": 100, "lookback_bars": 5000}) == 5000
