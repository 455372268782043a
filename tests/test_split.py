import numpy as np
import pandas as pd

from pipeline.folds import Folds, cut
from pipeline.samples import keyed
from pipeline.stages import split

BAR = 60_000


def cut_every(minutes: np.ndarray, *, groups: int, test_groups: int = 1) -> Folds:
    """Folds of rows whose labels are known at once; the last third of the times is held out."""
    time = minutes.astype(np.int64) * BAR
    return cut(
        time,
        time,
        method="cpcv",
        groups=groups,
        test_groups=test_groups,
        train_groups=1,
        embargo_pct=0.0,
        holdout_pct=1 / 3,
    )


def test_the_report_lists_the_holes_inside_each_group_and_those_from_one_to_the_next():
    first = np.setdiff1d(np.arange(18), [2, 3, 16])  # the groups are 0-5 and 6-11, the holdout 12-17
    second = np.setdiff1d(np.arange(18), [5, 6, 9])
    minutes, segment = np.concatenate([first, second]), np.repeat([0, 1], [len(first), len(second)])
    clean = pd.DataFrame({"symbol": ["AAA", "AAA", "BBB"], "segment": [0, 0, 1], "open_time": [0, BAR, 0]})
    folds = cut_every(minutes, groups=2)
    found = split.by_group(folds, keyed(segment, folds.time), clean)
    hole = {"symbol": "AAA", "after_ms": 1 * BAR, "before_ms": 4 * BAR, "missing_bars": 2}
    later = {"symbol": "BBB", "after_ms": 8 * BAR, "before_ms": 10 * BAR, "missing_bars": 1}
    across = {"symbol": "BBB", "after_ms": 4 * BAR, "before_ms": 7 * BAR, "missing_bars": 2}
    assert found == {
        "groups": [
            {"rows": 9, "first_ms": 0, "last_ms": 5 * BAR, "holes": [hole]},
            {"rows": 10, "first_ms": 6 * BAR, "last_ms": 11 * BAR, "holes": [later]},
        ],
        "holes_across_groups": [across],
    }


def test_rows_of_two_segments_of_a_symbol_have_a_hole_between_them_and_two_symbols_have_none():
    minutes, segment = np.array([0, 1, 4, 5, 0, 1, 2, 3, 4, 5, 6, 7, 8]), np.repeat([0, 1, 2], [2, 2, 9])
    clean = pd.DataFrame({"symbol": ["AAA", "AAA", "BBB"], "segment": [0, 1, 2], "open_time": [0, 4 * BAR, 0]})
    folds = cut_every(minutes, groups=2)
    found = split.by_group(folds, keyed(segment, folds.time), clean)
    assert [group["holes"] for group in found["groups"]] == [[], []]
    assert found["holes_across_groups"] == [{"symbol": "AAA", "after_ms": BAR, "before_ms": 4 * BAR, "missing_bars": 2}]


def test_few_splits_are_listed_column_by_column():
    report = split.report(cut_every(np.arange(18), groups=3))
    assert report["method"] == "cpcv"
    assert (report["rows"], report["development"], report["tested"], report["holdout"]) == (18, 12, 12, 6)
    listed = {name: column.tolist() for name, column in report["splits"].items()}
    assert listed == {
        "test_groups": [[0], [1], [2]],
        "train": [8] * 3,
        "test": [4] * 3,
        "purged_and_embargoed": [0] * 3,
    }


def test_of_many_splits_the_report_gives_the_range():
    folds = cut_every(np.arange(18), groups=10, test_groups=3)  # of 2, 2, 1, 1 … rows
    assert split.report(folds)["splits"] == {  # 56 splits test 3 rows, 56 test 4 and 8 test 5
        "train": {"min": 7, "median": 8.0, "max": 9},
        "test": {"min": 3, "median": 4.0, "max": 5},
        "purged_and_embargoed": {"min": 0, "median": 0.0, "max": 0},
    }
