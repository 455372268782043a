import json
import math
import tracemalloc
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from skfolio.model_selection import CombinatorialPurgedCV
from sklearn.model_selection import KFold, TimeSeriesSplit

from pipeline.validation import row_index
from pipeline.validation.folds import Folds, TimeRange, cpcv, make_folds
from pipeline.validation.scheme import METHODS, Scheme

BAR = 60_000
SEGMENT = pd.DataFrame({"segment": np.zeros(12, np.int32)})


def make_spans(count: int, *, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (time, label_end) of `count` consecutive bars whose labels end `horizon` bars later."""
    time = np.arange(count, dtype=np.int64) * BAR
    return time, time + horizon * BAR


def make_small_folds(*, horizon: int = 1, **changes: float) -> Folds:
    scheme = {"groups": 4, "test_groups": 2, "embargo_pct": 0.0, "holdout_pct": 0.0}
    return cpcv(*make_spans(12, horizon=horizon), **{**scheme, **changes})


def draw_listings(rng: np.random.Generator, symbols: int) -> list[np.ndarray]:
    """Return the bars, of 80, that each symbol has: with different listing and delisting times, all with gaps."""
    first, last = rng.integers(0, 40, symbols), rng.integers(20, 80, symbols)
    first[0], last[0] = 0, 80  # one symbol trades all the time
    return [np.flatnonzero(rng.random(80) < 0.8)[lo : max(hi, lo + 1)] for lo, hi in zip(first, last, strict=True)]


@st.composite
def draw_folds(draw: st.DrawFn, *, methods: tuple[str, ...] = METHODS) -> Folds:
    """Return folds, by any method, of one to four symbols with equal times, labels of any length, rows in any order."""
    bar_ms = draw(st.sampled_from([1, BAR]))  # with bars of 1 ms every edge may be a row's time
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bar = np.concatenate(draw_listings(rng, draw(st.integers(1, 4)))).astype(np.int64)  # by symbol
    order = draw(st.sampled_from(["by symbol", "by time", "none"]))
    bar = {"by symbol": bar, "by time": np.sort(bar), "none": rng.permutation(bar)}[order]
    longest = draw(st.sampled_from([0, 2, 5, 20, 100]))
    length = rng.integers(0, longest + 1, len(bar)) * (rng.random(len(bar)) < draw(st.sampled_from([0.05, 1.0])))
    groups = draw(st.integers(2, 6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_index, "MAX_SORTED_RUNS", draw(st.sampled_from([0, row_index.MAX_SORTED_RUNS])))
        return make_folds(
            bar * bar_ms,
            (bar + length) * bar_ms,
            method=draw(st.sampled_from(methods)),
            groups=groups,
            test_groups=draw(st.integers(1, groups - 1)),
            train_groups=draw(st.integers(1, groups - 1)),
            embargo_pct=draw(st.sampled_from([0.0, 0.01, 0.05])),
            holdout_pct=draw(st.sampled_from([0.0, 0.4])) if longest <= 20 else 0.0,
        )


def number_groups_slowly(folds: Folds) -> np.ndarray:
    """Return (N,) the group of each row, -1 after the development part, with a dictionary of the distinct times."""
    distinct = sorted(set(folds.time.tolist()))
    development = distinct[: len(distinct) - math.ceil(round(folds.scheme.holdout_pct * len(distinct), 9))]
    parts = np.array_split(development, folds.scheme.groups)
    number = {time: group for group, part in enumerate(parts) for time in part.tolist()}
    return np.array([number.get(time, -1) for time in folds.time.tolist()])


def choose_groups_slowly(scheme: Scheme) -> list[tuple[set[int], set[int]]]:
    """Return the groups that each split tests, and those that it may train on."""
    groups, window = range(scheme.groups), scheme.train_groups
    if scheme.method == "cpcv":
        return [(set(tested), set(groups) - set(tested)) for tested in combinations(groups, scheme.test_groups)]
    if scheme.method == "purged_kfold":
        return [({tested}, set(groups) - {tested}) for tested in groups]
    oldest = {"walk_forward_expanding": lambda tested: 0, "walk_forward_rolling": lambda tested: tested - window}
    return [({tested}, set(range(oldest[scheme.method](tested), tested))) for tested in groups[window:]]


def purge_slowly(folds: Folds) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the train and test rows of every split, from a comparison of the spans of all pairs of rows."""
    group, first, last = number_groups_slowly(folds), folds.time, folds.label_end
    overlaps = (first[:, None] <= last + folds.embargo_ms) & (last[:, None] >= first)  # (N, N): row, test row
    splits = []
    for tested, trained in choose_groups_slowly(folds.scheme):
        test = np.isin(group, list(tested))
        train = np.isin(group, list(trained)) & ~overlaps[:, test].any(axis=1)
        splits.append((np.flatnonzero(train), np.flatnonzero(test)))
    return splits


def select_rows(folds: Folds, ranges: list[TimeRange]) -> list[int]:
    """Return the rows that begin in any of the ranges and whose label ends by the end of it."""
    time, label_end = folds.time[:, None], folds.label_end[:, None]
    first, last, end = np.array(ranges).reshape(-1, 3).T
    return np.flatnonzero(((time >= first) & (time <= last) & (label_end <= end)).any(axis=1)).tolist()


def test_purge_drops_rows_whose_label_reaches_the_test_and_rows_that_test_labels_reach():
    folds = make_small_folds(horizon=1)  # groups 0-2 3-5 6-8 9-11; the label of row i ends at bar i + 1
    assert folds.splits.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    trains = [folds.train(split).tolist() for split in range(6)]
    assert trains == [[7, 8, 9, 10, 11], [4, 10, 11], [4, 5, 6, 7], [0, 1, 10, 11], [0, 1, 7], [0, 1, 2, 3, 4]]
    assert folds.test(1).tolist() == [0, 1, 2, 6, 7, 8]


def test_embargo_drops_whole_bars_after_the_last_label_of_every_test_range():
    folds = make_small_folds(horizon=1, test_groups=1, embargo_pct=0.1)  # 1.2 of 12 bars: 2 whole ones
    assert (folds.embargo_bars, folds.embargo_ms) == (2, 2 * BAR)
    trains = [folds.train(split).tolist() for split in range(4)]
    assert trains == [[6, 7, 8, 9, 10, 11], [0, 1, 9, 10, 11], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6, 7]]


def test_one_long_label_in_a_test_group_purges_every_row_that_it_reaches():
    time, label_end = make_spans(12, horizon=0)
    label_end[1] = 7 * BAR
    folds = cpcv(time, label_end, groups=4, test_groups=1, embargo_pct=0.0, holdout_pct=0.0)
    assert folds.train(0).tolist() == [8, 9, 10, 11]
    assert folds.train(2).tolist() == [0, 2, 3, 4, 5, 9, 10, 11]


def test_a_label_that_outlasts_the_next_test_group_purges_after_it():
    time, label_end = make_spans(12, horizon=0)
    label_end[1] = 7 * BAR
    folds = cpcv(time, label_end, groups=4, test_groups=2, embargo_pct=0.0, holdout_pct=0.0)
    assert folds.test(0).tolist() == [0, 1, 2, 3, 4, 5]
    assert folds.train(0).tolist() == [8, 9, 10, 11]


def test_the_holdout_begins_after_the_last_development_label_and_the_embargo():
    folds = make_small_folds(horizon=2, holdout_pct=0.5, groups=2, test_groups=1, embargo_pct=0.01)
    assert folds.development().tolist() == [0, 1, 2, 3, 4, 5]  # the last label ends at bar 7, the embargo at bar 8
    assert folds.select_embargoed().tolist() == [6, 7, 8]
    assert folds.holdout().tolist() == [9, 10, 11]
    assert folds.number_groups().tolist() == [0, 0, 0, 1, 1, 1, -1, -1, -1, -1, -1, -1]


def test_the_holdout_begins_after_a_label_of_the_first_group_that_ends_last():
    time, label_end = make_spans(12, horizon=0)
    label_end[1] = 8 * BAR
    folds = cpcv(time, label_end, groups=2, test_groups=1, embargo_pct=0.0, holdout_pct=0.5)
    assert folds.select_embargoed().tolist() == [6, 7, 8]
    assert folds.holdout().tolist() == [9, 10, 11]


def test_a_holdout_share_of_zero_leaves_no_holdout_and_no_embargoed_rows():
    folds = make_small_folds(horizon=50, holdout_pct=0.0)
    assert [len(rows) for rows in (folds.development(), folds.select_embargoed(), folds.holdout())] == [12, 0, 0]


@pytest.mark.parametrize(("pct", "expected"), [(0.07, 7), (0.29, 29), (0.071, 8), (0.0, 0), (0.0001, 1)])
def test_a_share_is_rounded_up_in_decimal_arithmetic(pct: float, expected: int):
    folds = cpcv(*make_spans(100, horizon=0), groups=2, test_groups=1, embargo_pct=pct, holdout_pct=0.0)
    assert folds.embargo_bars == expected


def test_symbols_share_the_group_boundaries_in_any_order_of_rows():
    time, label_end = make_spans(12, horizon=1)
    alone = make_small_folds()
    listed = slice(5, 12)  # the second symbol was listed later
    both = make_folds(
        np.concatenate([time, time[listed]]),
        np.concatenate([label_end, label_end[listed]]),
        **vars(alone.scheme),
    )
    for split in range(both.n_splits):
        train, test = alone.train(split), alone.test(split)
        assert both.train(split).tolist() == [*train, *(train[train >= 5] + 7)]
        assert both.test(split).tolist() == [*test, *(test[test >= 5] + 7)]


def test_purged_k_fold_is_the_k_fold_of_scikit_learn_where_labels_are_label_timing_once():
    scheme = {"groups": 5, "test_groups": 1, "train_groups": 1, "embargo_pct": 0.0, "holdout_pct": 0.0}
    folds = make_folds(*make_spans(23, horizon=0), method="purged_kfold", **scheme)
    for split, (train, test) in enumerate(KFold(5).split(np.zeros(23))):
        assert folds.test(split).tolist() == test.tolist()
        assert folds.train(split).tolist() == train.tolist()


def test_paths_are_those_of_the_book():
    folds = make_small_folds(groups=6)
    assert (folds.n_splits, folds.n_paths) == (15, 5)
    assert (folds.paths[1] + 1).tolist() == [2, 6, 6, 7, 8, 9]  # AFML 12.4.1: path 2, counted from 1


def test_walk_forward_tests_each_group_after_its_train_groups():
    time, label_end = make_spans(12, horizon=1)  # groups 0-2 3-5 6-8 9-11; the label of row i ends at bar i + 1
    scheme = {"groups": 4, "test_groups": 1, "train_groups": 2, "embargo_pct": 0.1, "holdout_pct": 0.0}
    expanding, rolling = (
        make_folds(time, label_end, method=f"walk_forward_{way}", **scheme) for way in ("expanding", "rolling")
    )
    for folds in (expanding, rolling):
        assert [folds.test(split).tolist() for split in range(2)] == [[6, 7, 8], [9, 10, 11]]
        assert folds.paths.tolist() == [[-1, -1, 0, 1]]
        assert folds.select_tested().tolist() == [6, 7, 8, 9, 10, 11]
    assert [expanding.train(split).tolist() for split in range(2)] == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert [rolling.train(split).tolist() for split in range(2)] == [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7]]


def test_purged_k_fold_is_cpcv_that_tests_one_group():
    time, label_end = make_spans(12, horizon=1)
    scheme = {"groups": 4, "train_groups": 1, "embargo_pct": 0.1, "holdout_pct": 0.0}
    folds = make_folds(time, label_end, method="purged_kfold", test_groups=3, **scheme)
    single = make_folds(time, label_end, method="cpcv", test_groups=1, **scheme)
    assert (folds.n_splits, folds.paths.tolist()) == (4, [[0, 1, 2, 3]])
    for split in range(4):
        assert folds.train(split).tolist() == single.train(split).tolist()


@pytest.mark.parametrize("horizon", [0, 3])
@pytest.mark.parametrize(("method", "train_groups"), [("expanding", 1), ("rolling", 1), ("rolling", 3)])
def test_walk_forward_is_the_series_split_of_scikit_learn(method: str, train_groups: int, horizon: int):
    theirs = TimeSeriesSplit(
        6 - train_groups,
        test_size=20,
        gap=horizon,  # the number of bars before the test whose label has not ended
        max_train_size=20 * train_groups - horizon if method == "rolling" else None,
    )
    ours = make_folds(
        *make_spans(120, horizon=horizon),
        method=f"walk_forward_{method}",
        groups=6,
        test_groups=1,
        train_groups=train_groups,
        embargo_pct=0.0,
        holdout_pct=0.0,
    )
    assert ours.n_splits == 6 - train_groups
    for split, (train, test) in enumerate(theirs.split(np.zeros(120))):
        assert ours.train(split).tolist() == train.tolist()
        assert ours.test(split).tolist() == test.tolist()


def test_thousands_of_splits_of_many_rows_are_counted_without_listing_their_rows():
    bar = np.repeat(np.arange(25_000), 8)  # of eight symbols
    spans = bar * BAR, (bar + np.random.default_rng(0).integers(1, 240, len(bar))) * BAR
    tracemalloc.start()
    folds = cpcv(*spans, groups=16, test_groups=8, embargo_pct=0.001, holdout_pct=0.15)
    used_bytes = tracemalloc.get_traced_memory()[0]
    counts = folds.count_rows()
    tracemalloc.stop()
    assert (folds.n_splits, folds.n_paths) == (12_870, 6_435)
    assert used_bytes < 4e6  # splits and paths; the development part alone has 170,000 rows of 8 bytes for each split
    for split in (0, 4321, 12_869):
        train, test = folds.train(split), folds.test(split)
        assert (len(train), len(test)) == (counts.train[split], counts.test[split])
        assert train.tolist() == select_rows(folds, folds.find_train_ranges(split))
        assert test.tolist() == select_rows(folds, folds.find_test_ranges(split))


@pytest.mark.parametrize("horizon", [1, 4])
@pytest.mark.parametrize("embargo_bars", [0, 3])
def test_folds_equal_skfolio_where_all_labels_have_one_length(horizon: int, embargo_bars: int):
    theirs = CombinatorialPurgedCV(n_folds=6, n_test_folds=2, purged_size=horizon, embargo_size=embargo_bars)
    ours = cpcv(
        *make_spans(120, horizon=horizon), groups=6, test_groups=2, embargo_pct=embargo_bars / 120, holdout_pct=0.0
    )
    assert ours.embargo_bars == embargo_bars
    for split, (train, tests) in enumerate(theirs.split(np.zeros((120, 1)))):
        assert ours.train(split).tolist() == train.tolist()
        assert ours.test(split).tolist() == np.concatenate(tests).tolist()
    assert ours.paths.T.tolist() == _read_skfolio_paths(theirs)


def _read_skfolio_paths(cv: CombinatorialPurgedCV) -> list[list[int]]:
    """Return the splits that test each group in the order of skfolio's own path numbers."""
    path_of = {
        (split, int(group)): int(path)
        for split, groups in enumerate(cv.test_set_index)
        for group, path in zip(groups, cv.get_path_ids()[split], strict=True)
    }
    return [sorted((s for s, g in path_of if g == group), key=lambda s: path_of[s, group]) for group in range(6)]


@settings(max_examples=1000, deadline=None)
@given(draw_folds())
def test_purge_is_safe_and_maximal_and_the_row_counts_are_right(folds: Folds):
    counts, expected = folds.count_rows(), purge_slowly(folds)
    assert folds.n_splits == len(expected)
    for split, (train, test) in enumerate(expected):
        assert (counts.train[split], counts.test[split]) == (len(train), len(test))
        assert folds.test(split).tolist() == test.tolist()
        if train.size:
            assert folds.train(split).tolist() == train.tolist()
        else:
            with pytest.raises(ValueError, match=f"split {split}: .* leave no train row"):
                folds.train(split)


@settings(max_examples=100, deadline=None)
@given(draw_folds())
def test_long_ranges_of_rows_equal_short_ones(folds: Folds):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_index, "LONG_RANGE_ROWS", 0)
        patch.setattr(row_index, "BLOCK", np.arange(3))
        for split, (train, test) in enumerate(purge_slowly(folds)):
            assert folds.test(split).tolist() == test.tolist()
            if train.size:
                assert folds.train(split).tolist() == train.tolist()


@settings(max_examples=200, deadline=None)
@given(draw_folds())
def test_time_ranges_select_exactly_the_rows_of_their_split(folds: Folds):
    for split, (train, test) in enumerate(purge_slowly(folds)):
        assert select_rows(folds, folds.find_train_ranges(split)) == train.tolist()
        assert select_rows(folds, folds.find_test_ranges(split)) == test.tolist()


@settings(max_examples=200, deadline=None)
@given(draw_folds())
def test_train_group_rows_that_no_split_trains_on_are_counted_as_purged_and_embargoed(folds: Folds):
    group = number_groups_slowly(folds)
    for lost, (train, _), (_, trained) in zip(
        folds.count_rows().purged_and_embargoed, purge_slowly(folds), choose_groups_slowly(folds.scheme), strict=True
    ):
        assert lost == np.isin(group, list(trained)).sum() - len(train)


@settings(max_examples=200, deadline=None)
@given(draw_folds())
def test_every_row_has_the_group_of_its_time(folds: Folds):
    assert folds.number_groups().tolist() == number_groups_slowly(folds).tolist()
    assert folds.development().tolist() == np.flatnonzero(number_groups_slowly(folds) >= 0).tolist()


@settings(max_examples=200, deadline=None)
@given(draw_folds())
def test_every_tested_row_is_tested_once_on_every_path_and_others_never(folds: Folds):
    times = np.bincount(np.concatenate([folds.test(s) for s in range(folds.n_splits)]), minlength=len(folds.time))
    assert folds.select_tested().tolist() == np.flatnonzero(times).tolist()
    assert set(times[folds.select_tested()].tolist()) == {folds.n_paths}
    first_tested = folds.scheme.train_groups if folds.is_walk_forward else 0
    assert folds.select_tested().tolist() == np.flatnonzero(number_groups_slowly(folds) >= first_tested).tolist()


@settings(max_examples=100, deadline=None)
@given(draw_folds(methods=("cpcv",)))
def test_every_row_of_cpcv_is_tested_once_on_each_of_the_books_number_of_paths(folds: Folds):
    groups, test_groups = folds.scheme.groups, folds.scheme.test_groups
    assert folds.n_splits == math.comb(groups, test_groups)
    assert folds.n_paths == test_groups * folds.n_splits // groups  # AFML 12.3: phi


@settings(max_examples=200, deadline=None)
@given(draw_folds())
def test_every_path_covers_every_tested_group_once_and_every_test_block_lies_on_one_path(folds: Folds):
    used = [(int(split), group) for path in folds.paths for group, split in enumerate(path) if split >= 0]
    assert sorted(used) == [(split, int(group)) for split, tested in enumerate(folds.splits) for group in tested]
    tested = np.isin(np.arange(folds.scheme.groups), folds.splits)
    assert ((folds.paths >= 0) == tested).all()


@settings(max_examples=200, deadline=None)
@given(draw_folds(methods=("walk_forward_expanding", "walk_forward_rolling")))
def test_walk_forward_trains_on_labels_that_end_before_its_test_begins(folds: Folds):
    for split, trained in enumerate(folds.count_rows().train):
        if trained:
            assert folds.label_end[folds.train(split)].max() < folds.time[folds.test(split)].min()


@settings(max_examples=50, deadline=None)
@given(draw_folds())
def test_development_embargoed_and_holdout_rows_partition_the_rows_in_this_order(folds: Folds):
    parts = [folds.development(), folds.select_embargoed(), folds.holdout()]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(folds.time)))
    if parts[2].size:
        assert folds.label_end[parts[0]].max() + folds.embargo_ms < folds.time[parts[2]].min()


@settings(max_examples=50, deadline=None)
@given(draw_folds(), st.sampled_from([0.1, 0.3]))
def test_valid_rows_are_train_rows_and_fit_labels_end_an_embargo_before_them(folds: Folds, valid_pct: float):
    for rows in (folds.development(), *(train for train, _ in purge_slowly(folds))):
        distinct = sorted(set(folds.time[rows].tolist()))
        first_ms = distinct[-math.ceil(valid_pct * len(distinct))] if distinct else 0
        may_fit = [row for row in rows if folds.label_end[row] + folds.embargo_ms < first_ms]
        if not may_fit:
            continue
        fit, valid = folds.split_validation(rows, valid_pct)
        assert fit.tolist() == may_fit
        assert valid.tolist() == [row for row in rows if folds.time[row] >= first_ms]


def test_split_validation_purges_and_embargoes_between_fit_and_valid():
    folds = make_small_folds(horizon=2, embargo_pct=0.01)  # one bar
    fit, valid = folds.split_validation(folds.development(), 0.25)
    assert valid.tolist() == [9, 10, 11]
    assert fit.tolist() == [0, 1, 2, 3, 4, 5]  # the label of row 5 ends at bar 7, the embargo covers bar 8


def test_split_validation_with_a_share_of_zero_fits_every_row():
    folds = make_small_folds()
    fit, valid = folds.split_validation(folds.train(0), 0.0)
    assert fit.tolist() == folds.train(0).tolist()
    assert valid.tolist() == []


@pytest.mark.parametrize("method", METHODS)
def test_loaded_folds_equal_the_saved_ones_and_have_their_segments_and_bytes(method: str, tmp_path):
    scheme = {"groups": 6, "test_groups": 2, "train_groups": 3, "embargo_pct": 0.01, "holdout_pct": 0.3}
    folds = make_folds(*make_spans(48, horizon=2), method=method, **scheme)
    rows = pd.DataFrame({"segment": np.repeat([0, 1], 24).astype(np.int32)})
    folds.save(tmp_path / "a.parquet", rows)
    loaded, loaded_rows = Folds.load(tmp_path / "a.parquet")
    loaded.save(tmp_path / "b.parquet", loaded_rows)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert loaded_rows["segment"].equals(rows["segment"])
    assert (loaded.scheme, loaded.group_ranges, loaded.embargo_ms) == (
        folds.scheme,
        folds.group_ranges,
        folds.embargo_ms,
    )
    for split in range(folds.n_splits):
        assert loaded.train(split).tolist() == folds.train(split).tolist()


def test_the_saved_table_has_the_documented_columns_and_scheme(tmp_path):
    make_small_folds().save(tmp_path / "folds.parquet", SEGMENT)
    schema = pq.read_schema(tmp_path / "folds.parquet")
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        "segment": "int32",
        "time": "int64",
        "label_end": "int64",
        "is_labeled": "bool",
    }
    scheme = {"groups": 4, "test_groups": 2, "train_groups": 1, "embargo_pct": 0.0, "holdout_pct": 0.0}
    assert json.loads(schema.metadata[b"folds"]) == {"method": "cpcv", **scheme}


def test_a_table_without_folds_is_refused(tmp_path):
    make_small_folds().save(tmp_path / "folds.parquet", SEGMENT)
    bare = pq.read_table(tmp_path / "folds.parquet").replace_schema_metadata(None)
    pq.write_table(bare, tmp_path / "bare.parquet")
    with pytest.raises(ValueError, match=r"bare\.parquet: has no folds metadata"):
        Folds.load(tmp_path / "bare.parquet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_groups": 4}, "test_groups is 4 of 4 groups"),
        ({"test_groups": 0}, "test_groups is 0 of 4 groups"),
        ({"embargo_pct": 1.0}, r"embargo_pct is 1\.0"),
        ({"holdout_pct": -0.1}, r"holdout_pct is -0\.1"),
        ({"groups": 13}, "12 distinct times before the holdout cannot fill 13 groups"),
        ({"groups": 4, "holdout_pct": 0.8}, "2 distinct times before the holdout cannot fill 4 groups"),
        ({"horizon": 6, "holdout_pct": 0.4}, "cover the whole holdout"),
    ],
)
def test_an_impossible_scheme_is_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_small_folds(**changes)


@pytest.mark.parametrize(
    ("time", "label_end", "message"),
    [
        (np.arange(12), np.arange(11), r"time \(12,\) and label_end \(11,\)"),
        (np.arange(12), np.arange(12) - (np.arange(12) == 7), r"before time in 1 rows, first in row 7 \(6 < 7\)"),
        (np.arange(12.0), np.arange(12), "time is float64; give int64"),
        (np.arange(12), np.full(12, np.iinfo(np.int64).max), "spans reach from 0 to 9223372036854775807"),
    ],
)
def test_invalid_spans_are_refused(time: np.ndarray, label_end: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        cpcv(time, label_end, groups=4, test_groups=2, embargo_pct=0.0, holdout_pct=0.0)


def test_a_split_without_train_rows_is_refused():
    folds = make_small_folds(horizon=6)
    with pytest.raises(ValueError, match=r"split 1: .* beside test groups \[0, 2\]"):
        folds.train(1)


@pytest.mark.parametrize(("valid_pct", "message"), [(1.0, r"valid_pct is 1\.0"), (0.95, "lower valid_pct")])
def test_a_valid_part_that_leaves_no_fit_rows_is_refused(valid_pct: float, message: str):
    folds = make_small_folds()
    with pytest.raises(ValueError, match=message):
        folds.split_validation(folds.development(), valid_pct)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": "6"}, "groups is '6'; give an integer number"),
        ({"embargo_pct": "0.01"}, "embargo_pct is '0.01'; give a"),
        ({"train_groups": 6}, "train_groups is 6 of 6 groups"),
        ({"method": "kfold"}, "method is 'kfold'; allowed are cpcv, purged_kfold, walk_forward_expanding, walk"),
    ],
)
def test_an_invalid_parameter_is_named_even_where_the_method_does_not_use_it(changes: dict, message: str):
    scheme = {
        "method": "cpcv",
        "groups": 6,
        "test_groups": 2,
        "train_groups": 2,
        "embargo_pct": 0.0,
        "holdout_pct": 0.0,
    }
    with pytest.raises(ValueError, match=message):
        make_folds(*make_spans(100, horizon=0), **{**scheme, **changes})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("is_sorted", [True, False])
def test_rows_without_a_label_are_in_no_part_and_change_none(method: str, is_sorted: bool):
    scheme = {"groups": 6, "test_groups": 2, "train_groups": 3, "embargo_pct": 0.01, "holdout_pct": 0.3}
    rng = np.random.default_rng(3)
    time, label_end = make_spans(96, horizon=2)
    is_labeled = rng.random(96) < 0.7
    order = np.arange(96) if is_sorted else rng.permutation(96)
    time, label_end, is_labeled = time[order], label_end[order], is_labeled[order]
    with_all = make_folds(time, np.where(is_labeled, label_end, time), is_labeled, method=method, **scheme)
    alone = make_folds(time[is_labeled], label_end[is_labeled], method=method, **scheme)
    rows = np.flatnonzero(is_labeled)
    assert with_all.group_ranges == alone.group_ranges
    for split in range(alone.n_splits):
        assert with_all.train(split).tolist() == rows[alone.train(split)].tolist()
        assert with_all.test(split).tolist() == rows[alone.test(split)].tolist()
    assert with_all.holdout().tolist() == rows[alone.holdout()].tolist()
    assert with_all.number_groups()[rows].tolist() == alone.number_groups().tolist()
    assert set(with_all.number_groups()[~is_labeled]) == {-1}


def make_folds_with_a_halt(*, halt_after: int, halt_bars: int, bars: int, horizon: int, **scheme: float) -> Folds:
    """Return folds of two segments around a halt; the last `horizon` bars of each have no label."""
    bar = np.delete(np.arange(bars + halt_bars), np.arange(halt_after, halt_after + halt_bars)).astype(np.int64)
    is_labeled = np.ones(bars, bool)
    is_labeled[halt_after - horizon : halt_after] = is_labeled[bars - horizon :] = False
    label_end = np.where(is_labeled, bar + horizon, bar)
    all_of_it = {"method": "cpcv", "groups": 4, "test_groups": 2, "train_groups": 1, "embargo_pct": 0.0}
    return make_folds(bar * BAR, label_end * BAR, is_labeled, **{**all_of_it, "holdout_pct": 0.0, **scheme})


def test_the_bars_before_a_halt_are_predicted_although_their_label_is_lost():
    folds = make_folds_with_a_halt(halt_after=10, halt_bars=5, bars=24, horizon=2)  # labeled: rows 0-7 and 10-21
    assert [group.last_ms // BAR for group in folds.group_ranges] == [4, 14 + 2, 19 + 2, 24 + 2]
    assert folds.test(0).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 10, 11]  # groups 0 and 1
    assert folds.predicted(0).tolist() == list(range(12))
    assert folds.number_groups()[[8, 9, 22, 23]].tolist() == [-1] * 4
    assert folds.number_all_groups()[[8, 9, 22, 23]].tolist() == [1, 1, 3, 3]
    assert folds.select_predicted().tolist() == list(range(24))
    assert folds.select_tested().tolist() == [*range(8), *range(10, 22)]


def test_a_halt_at_the_end_of_the_development_part_is_predicted_by_its_last_group_alone():
    folds = make_folds_with_a_halt(halt_after=10, halt_bars=5, bars=24, horizon=2, holdout_pct=0.6)
    assert folds.development().tolist() == list(range(8))
    assert folds.select_embargoed().tolist() == []
    assert folds.number_all_groups().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3, *[-1] * 14]
    assert folds.holdout().tolist() == list(range(10, 22))
    assert folds.predicted_holdout().tolist() == list(range(10, 24))  # the last two have no label


def test_unlabeled_rows_of_the_embargo_before_the_holdout_are_in_no_part():
    time, label_end = make_spans(20, horizon=2)
    is_labeled = ~np.isin(np.arange(20), [12, 13, 19])
    scheme = {"method": "cpcv", "groups": 2, "test_groups": 1, "train_groups": 1, "embargo_pct": 0.1}
    folds = make_folds(time, np.where(is_labeled, label_end, time), is_labeled, **scheme, holdout_pct=0.4)
    assert folds.development().tolist() == list(range(10))  # its labels end at bar 11, an embargo of 1 bar is bar 12
    assert folds.select_embargoed().tolist() == [10, 11]
    assert folds.number_all_groups()[10:].tolist() == [-1] * 10
    assert folds.holdout().tolist() == [14, 15, 16, 17, 18]
    assert folds.predicted_holdout().tolist() == [13, 14, 15, 16, 17, 18, 19]


@st.composite
def draw_folds_with_unlabeled_rows(draw: st.DrawFn) -> Folds:
    """Return folds of `draw_folds` of which some rows have lost their label."""
    folds = draw(draw_folds())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    is_labeled = rng.random(len(folds.time)) < draw(st.sampled_from([0.5, 0.95]))
    label_end = np.where(is_labeled, folds.label_end, folds.time)
    try:
        return make_folds(folds.time, label_end, is_labeled, **asdict(folds.scheme))
    except ValueError:  # too few labeled times are left
        assume(False)
        raise


def number_unlabeled_slowly(folds: Folds, row: int) -> int:
    """Return the group whose times contain that of an unlabeled row; -1 for none."""
    time = int(folds.time[row])
    began = [number for number, group in enumerate(folds.group_ranges) if group.first_ms <= time]
    later = folds.time[np.append(folds.select_embargoed(), folds.holdout()).astype(int)].tolist()
    if not began or (later and (time >= min(later) or row in folds.predicted_holdout())):
        return -1
    return began[-1]


@settings(max_examples=200, deadline=None)
@given(draw_folds_with_unlabeled_rows())
def test_predicted_rows_are_the_test_rows_and_the_unlabeled_ones_of_their_times(folds: Folds):
    unlabeled = np.flatnonzero(~folds.is_labeled)
    number = {int(row): number_unlabeled_slowly(folds, row) for row in unlabeled}
    assert folds.number_all_groups()[unlabeled].tolist() == list(number.values())
    labeled = np.flatnonzero(folds.is_labeled)
    assert folds.number_all_groups()[labeled].tolist() == folds.number_groups()[labeled].tolist()
    for split, tested in enumerate(folds.splits):
        added = [row for row, group in number.items() if group in tested.tolist()]
        assert folds.predicted(split).tolist() == sorted([*folds.test(split).tolist(), *added])


@settings(max_examples=200, deadline=None)
@given(draw_folds_with_unlabeled_rows())
def test_no_predicted_row_is_trained_on_or_predicted_in_two_groups_or_in_the_holdout(folds: Folds):
    group, holdout = folds.number_all_groups(), folds.predicted_holdout()
    assert set(folds.holdout()) <= set(holdout)
    assert not np.isin(holdout, np.flatnonzero(group >= 0)).any()
    assert folds.select_predicted().tolist() == np.flatnonzero(np.isin(group, folds.splits)).tolist()
    for split, trained in enumerate(folds.count_rows().train):
        assert np.isin(group[folds.predicted(split)], folds.splits[split]).all()
        if trained:
            train = folds.train(split)
            assert folds.is_labeled[train].all()
            assert not np.isin(folds.predicted(split), train).any()


@settings(max_examples=100, deadline=None)
@given(draw_folds_with_unlabeled_rows())
def test_no_train_span_contains_the_time_of_a_predicted_row(folds: Folds):
    for split, trained in enumerate(folds.count_rows().train):
        for row in folds.train(split) if trained else []:
            time = folds.time[folds.predicted(split)]
            assert not ((time >= folds.time[row]) & (time <= folds.label_end[row])).any()
    if len(holdout := folds.predicted_holdout()):
        assert folds.label_end[folds.development()].max() + folds.embargo_ms < folds.time[holdout].min()
