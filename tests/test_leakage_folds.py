from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.leakage.folds import duplicates, embargo, label_overlap, temporal_order
from pipeline.validation.folds import Folds, cpcv

BAR = 60_000


@dataclass(frozen=True)
class OneSplit:
    """One split with any rows on either side."""

    time: np.ndarray
    label_end: np.ndarray
    train_rows: np.ndarray
    test_rows: np.ndarray
    embargo_bars: int = 0
    n_splits: int = 1
    is_walk_forward: bool = False
    holdout_rows: np.ndarray | None = None  # without them the test rows

    @property
    def embargo_ms(self) -> int:
        return self.embargo_bars * BAR

    def train(self, split: int) -> np.ndarray:
        return self.train_rows

    def test(self, split: int) -> np.ndarray:
        return self.test_rows

    def development(self) -> np.ndarray:
        return self.train_rows

    def holdout(self) -> np.ndarray:
        return self.test_rows if self.holdout_rows is None else self.holdout_rows


def make_split(train_rows, test_rows, *, horizon: int = 2, embargo_bars: int = 0, count: int = 100) -> OneSplit:
    time = np.arange(count, dtype=np.int64) * BAR
    return OneSplit(time, time + horizon * BAR, np.array(train_rows), np.array(test_rows), embargo_bars)


SCHEME = {"groups": 6, "test_groups": 2, "embargo_pct": 0.02, "holdout_pct": 0.2}


def make_cpcv(count: int, *, horizon: int = 2, **changes: float) -> Folds:
    time = np.arange(count, dtype=np.int64) * BAR
    return cpcv(time, time + horizon * BAR, **{**SCHEME, **changes})


def test_temporal_order_is_ok_where_labels_and_embargo_end_before_the_holdout():
    found = temporal_order(make_split(range(50), range(55, 100), horizon=2, embargo_bars=3))
    assert (found.severity, found.measurements["early_holdout_rows"]) == ("ok", 0)
    assert temporal_order(make_cpcv(200)).severity == "ok"


@pytest.mark.parametrize(("first", "early"), [(54, 1), (51, 4), (40, 15)])
def test_temporal_order_counts_the_holdout_rows_that_begin_too_early(first: int, early: int):
    found = temporal_order(make_split(range(50), range(first, 100), horizon=2, embargo_bars=3))
    assert (found.severity, found.measurements["early_holdout_rows"]) == ("critical", early)


def test_temporal_order_warns_that_there_is_no_holdout():
    assert temporal_order(make_cpcv(200, holdout_pct=0.0)).severity == "warning"


@pytest.mark.parametrize(("last", "unfinished"), [(37, 0), (38, 1), (45, 8)])
def test_temporal_order_counts_the_labels_that_have_not_ended_when_a_walk_forward_tests(last: int, unfinished: int):
    folds = make_split(range(last + 1), range(40, 60), horizon=2)  # of row 37 the label ends at bar 39
    walk_forward = temporal_order(replace(folds, is_walk_forward=True))
    assert (
        walk_forward.measurements["unfinished_train_labels"],
        temporal_order(folds).measurements["unfinished_train_labels"],
    ) == (unfinished, 0)
    assert ("split 0: " in walk_forward.message) == (unfinished > 0)


def test_temporal_order_finds_a_walk_forward_that_trains_on_rows_after_its_test():
    folds = replace(make_split([*range(30), *range(70, 90)], range(40, 60)), is_walk_forward=True)
    assert temporal_order(folds).measurements["unfinished_train_labels"] == 20


def test_a_walk_forward_that_trains_on_later_rows_is_critical_without_a_holdout_too():
    folds = replace(make_split(range(50, 60), range(40, 50)), is_walk_forward=True, holdout_rows=np.empty(0, np.int64))
    found = temporal_order(folds)
    assert (found.severity, found.measurements) == ("critical", {"unfinished_train_labels": 10, "holdout_rows": 0})


def test_label_overlap_finds_nothing_in_purged_folds():
    found = label_overlap(make_cpcv(200))
    assert (found.severity, found.measurements) == ("ok", {"splits": 15, "overlapping_rows": 0})


PURGED = {  # test 40 to 59, label of two bars, embargo of three: (train, rows that overlap, rows within the embargo)
    "correctly": ([*range(38), *range(65, 100)], 0, 0),
    "one bar too few before the test": ([*range(39), *range(65, 100)], 1, 0),
    "one bar too few after it": ([*range(38), *range(61, 100)], 1, 3),
    "without an embargo": ([*range(38), *range(62, 100)], 0, 3),
    "with an embargo that is one bar short": ([*range(38), *range(64, 100)], 0, 1),
    "with the embargo before the test": ([*range(35), *range(62, 100)], 0, 3),
    "not at all": ([*range(40), *range(60, 100)], 4, 3),
    "except for a row on both sides": ([*range(38), 50, *range(65, 100)], 1, 0),
}


@pytest.mark.parametrize("how", PURGED)
def test_a_train_row_that_overlaps_the_test_is_an_overlap_and_one_soon_after_it_violates_the_embargo(how: str):
    train_rows, overlapping, embargoed = PURGED[how]
    folds = make_split(train_rows, range(40, 60), horizon=2, embargo_bars=3)
    overlap, violation = label_overlap(folds), embargo(folds, 3)
    assert (overlap.measurements["overlapping_rows"], violation.measurements["rows_within_embargo"]) == (
        overlapping,
        embargoed,
    )
    assert overlap.severity == ("critical" if overlapping else "ok")
    assert violation.severity == ("critical" if embargoed else "ok")


def test_label_overlap_checks_the_inner_edges_of_two_test_runs():
    outer_edges_only = [*range(17), *range(30, 60), *range(83, 100)]  # test 20 to 29 and 60 to 79
    found = label_overlap(make_split(outer_edges_only, [*range(20, 30), *range(60, 80)], horizon=2))
    assert found.measurements["overlapping_rows"] == 4  # 30 and 31 after the first run, 58 and 59 before the second


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_overlaps_and_embargo_violations_are_those_of_comparing_all_pairs(seed: int, embargo_bars: int):
    rng = np.random.default_rng(seed)
    time = rng.integers(0, 60, 40) * BAR
    label_end = time + rng.integers(0, 8, 40) * BAR
    train_rows, test_rows = np.flatnonzero(rng.random(40) < 0.4), np.flatnonzero(rng.random(40) < 0.2)
    if not test_rows.size:
        return
    folds = OneSplit(time, label_end, train_rows, test_rows, embargo_bars)
    starts, ends = time[test_rows], label_end[test_rows]

    def count_overlaps(extension: int) -> int:
        return sum(bool(((starts <= label_end[row]) & (ends + extension >= time[row])).any()) for row in train_rows)

    assert label_overlap(folds).measurements["overlapping_rows"] == count_overlaps(0)
    assert embargo(folds, 0).measurements["rows_within_embargo"] == count_overlaps(embargo_bars * BAR) - count_overlaps(
        0
    )


def test_an_embargo_shorter_than_the_look_back_is_a_warning_with_both_figures():
    folds = make_split([0], [50], embargo_bars=60)
    assert [embargo(folds, bars).severity for bars in (60, 61)] == ["ok", "warning"]
    assert embargo(folds, 200).measurements == {"embargo_bars": 60, "warm_up_bars": 200, "rows_within_embargo": 0}


# duplicates


def draw_noise(folds: Folds, *, columns: int = 3) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(len(folds.time), columns)).astype(np.float32)


def make_one_segment(folds: Folds) -> np.ndarray:
    return np.zeros(len(folds.time), dtype=np.int32)


def test_duplicates_finds_nothing_where_all_rows_differ():
    folds = make_cpcv(2_000)
    assert duplicates(draw_noise(folds), make_one_segment(folds), folds).severity == "ok"


@pytest.mark.parametrize("copies", [[(50, 900)], [(row, row + 700) for row in range(0, 200, 3)]])
def test_duplicates_finds_rows_copied_to_the_other_side(copies: list[tuple[int, int]]):
    folds = make_cpcv(2_000)
    x = draw_noise(folds)
    for source, copy in copies:
        x[copy] = x[source]
    found = duplicates(x, make_one_segment(folds), folds)
    assert (found.severity, found.measurements["crossing_duplicates"]) == ("critical", 2 * len(copies))


def test_duplicates_finds_development_rows_copied_into_the_holdout():
    folds = make_cpcv(2_000)
    x = draw_noise(folds)
    x[1_900] = x[100]
    found = duplicates(x, make_one_segment(folds), folds)
    assert (found.severity, found.measurements["crossing_duplicates"]) == ("critical", 1)


def test_duplicates_treats_zeros_of_both_signs_as_equal():
    folds = make_cpcv(2_000)
    x = draw_noise(folds)
    x[50, 0] = 0.0
    x[900] = x[50]
    x[900, 0] = -0.0
    assert duplicates(x, make_one_segment(folds), folds).measurements["crossing_duplicates"] == 2


def test_duplicates_accepts_a_flat_market():
    folds = make_cpcv(2_000)
    x = draw_noise(folds)
    x[300:380] = x[1_100:1_150] = 0.0
    found = duplicates(x, make_one_segment(folds), folds)
    assert (found.severity, found.measurements["flat_rows"], found.measurements["crossing_duplicates"]) == (
        "ok",
        130,
        0,
    )


def test_duplicates_accepts_rows_that_coarse_columns_make_equal():
    folds = make_cpcv(2_000)
    x = np.round(draw_noise(folds))
    found = duplicates(x, make_one_segment(folds), folds)
    assert found.severity == "ok"
    assert found.measurements["crossing_duplicates"] > 1_000


def test_duplicates_finds_a_repeated_bar():
    folds = make_cpcv(2_000)
    time, label_end = (np.append(span, span[70]) for span in (folds.time, folds.label_end))
    twice = cpcv(time, label_end, **SCHEME)
    found = duplicates(draw_noise(twice), make_one_segment(twice), twice)
    assert (found.severity, found.measurements["repeated_bars"]) == ("critical", 1)
    apart = np.append(make_one_segment(folds), np.int32(1))  # the same minute of another symbol
    assert duplicates(draw_noise(twice), apart, twice).severity == "ok"
