import json
import math
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skfolio.model_selection import CombinatorialPurgedCV
from sklearn.model_selection import KFold

from pipeline.folds import Folds, cpcv

BAR = 60_000


def bars(count: int, *, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` consecutive bars whose labels all end `horizon` bars later."""
    time = np.arange(count, dtype=np.int64) * BAR
    return time, time + horizon * BAR


def twelve(*, horizon: int = 1, **changes: float) -> Folds:
    scheme = {"groups": 4, "test_groups": 2, "embargo_pct": 0.0, "holdout_pct": 0.0}
    return cpcv(*bars(12, horizon=horizon), **{**scheme, **changes})


@st.composite
def markets(draw: st.DrawFn) -> Folds:
    """Folds of one to three symbols with holes, ties in time and labels of any length, in shuffled order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    symbols, longest = draw(st.integers(1, 3)), draw(st.sampled_from([0, 2, 5, 20]))
    kept = [np.flatnonzero(rng.random(80) < 0.8) for _ in range(symbols)]
    bar = rng.permutation(np.concatenate(kept)).astype(np.int64)
    groups = draw(st.integers(2, 6))
    return cpcv(
        bar * BAR,
        (bar + rng.integers(0, longest + 1, len(bar))) * BAR,
        groups=groups,
        test_groups=draw(st.integers(1, groups - 1)),
        embargo_pct=draw(st.sampled_from([0.0, 0.01, 0.05])),
        holdout_pct=draw(st.sampled_from([0.0, 0.4])),
    )


def slowly_purged(folds: Folds, split: int) -> np.ndarray:
    """The train rows by comparing every row with every test row, one group after another."""
    first, last = folds.time[:, None], folds.label_end[:, None]
    test = np.isin(folds.group(), folds.splits[split])
    meets = (first <= folds.label_end[test] + folds.embargo_ms) & (last >= folds.time[test])
    return np.flatnonzero((folds.group() >= 0) & ~meets.any(axis=1))


def test_purge_drops_the_rows_whose_label_reaches_the_test_and_those_the_test_labels_reach():
    folds = twelve(horizon=1)  # groups 0-2 3-5 6-8 9-11; the label of row i ends at bar i + 1
    assert folds.splits.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    trains = [folds.train(split).tolist() for split in range(6)]
    assert trains == [[7, 8, 9, 10, 11], [4, 10, 11], [4, 5, 6, 7], [0, 1, 10, 11], [0, 1, 7], [0, 1, 2, 3, 4]]
    assert folds.test(1).tolist() == [0, 1, 2, 6, 7, 8]


def test_embargo_drops_whole_bars_after_the_last_label_of_every_test_run():
    folds = twelve(horizon=1, test_groups=1, embargo_pct=0.1)  # 1.2 of 12 bars: 2 whole ones
    assert (folds.embargo_bars, folds.embargo_ms) == (2, 2 * BAR)
    trains = [folds.train(split).tolist() for split in range(4)]
    assert trains == [[6, 7, 8, 9, 10, 11], [0, 1, 9, 10, 11], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6, 7]]


def test_one_long_label_in_a_test_group_purges_as_far_as_it_reaches():
    time, label_end = bars(12, horizon=0)
    label_end[1] = 7 * BAR
    folds = cpcv(time, label_end, groups=4, test_groups=1, embargo_pct=0.0, holdout_pct=0.0)
    assert folds.train(0).tolist() == [8, 9, 10, 11]
    assert folds.train(2).tolist() == [0, 2, 3, 4, 5, 9, 10, 11]


def test_a_label_that_reaches_over_the_next_test_group_purges_behind_it():
    time, label_end = bars(12, horizon=0)
    label_end[1] = 7 * BAR
    folds = cpcv(time, label_end, groups=4, test_groups=2, embargo_pct=0.0, holdout_pct=0.0)
    assert folds.test(0).tolist() == [0, 1, 2, 3, 4, 5]
    assert folds.train(0).tolist() == [8, 9, 10, 11]


def test_the_holdout_begins_after_the_last_development_label_and_the_embargo():
    folds = twelve(horizon=2, holdout_pct=0.5, groups=2, test_groups=1, embargo_pct=0.01)
    assert folds.development().tolist() == [0, 1, 2, 3, 4, 5]  # the last label ends at bar 7, the embargo at bar 8
    assert folds.gap().tolist() == [6, 7, 8]
    assert folds.holdout().tolist() == [9, 10, 11]
    assert folds.group().tolist() == [0, 0, 0, 1, 1, 1, -1, -1, -1, -1, -1, -1]


def test_no_holdout_share_leaves_neither_holdout_nor_gap():
    folds = twelve(horizon=50, holdout_pct=0.0)
    assert [len(rows) for rows in (folds.development(), folds.gap(), folds.holdout())] == [12, 0, 0]


@pytest.mark.parametrize(("pct", "wanted"), [(0.07, 7), (0.29, 29), (0.071, 8), (0.0, 0), (0.0001, 1)])
def test_a_share_is_rounded_up_as_its_decimal_reads(pct: float, wanted: int):
    folds = cpcv(*bars(100, horizon=0), groups=2, test_groups=1, embargo_pct=pct, holdout_pct=0.0)
    assert folds.embargo_bars == wanted


def test_symbols_share_the_cuts_in_time_whatever_the_order_of_rows():
    time, label_end = bars(12, horizon=1)
    alone = twelve()
    late = slice(5, 12)  # the second symbol was listed later
    both = cpcv(
        np.concatenate([time, time[late]]),
        np.concatenate([label_end, label_end[late]]),
        **vars(alone.scheme),
    )
    for split in range(both.n_splits):
        train, test = alone.train(split), alone.test(split)
        assert both.train(split).tolist() == [*train, *(train[train >= 5] + 7)]
        assert both.test(split).tolist() == [*test, *(test[test >= 5] + 7)]


def test_groups_are_the_folds_that_scikit_learn_cuts():
    folds = cpcv(*bars(23, horizon=0), groups=5, test_groups=1, embargo_pct=0.0, holdout_pct=0.0)
    for split, (train, test) in enumerate(KFold(5).split(np.zeros(23))):
        assert folds.test(split).tolist() == test.tolist()
        assert folds.train(split).tolist() == train.tolist()


def test_paths_are_those_of_the_book():
    folds = twelve(groups=6)
    assert (folds.n_splits, folds.n_paths) == (15, 5)
    assert (folds.paths[1] + 1).tolist() == [2, 6, 6, 7, 8, 9]  # AFML 12.4.1: path 2, counted from 1


@pytest.mark.parametrize(("groups", "test_groups"), [(2, 1), (6, 2), (7, 3), (8, 7)])
def test_every_path_covers_every_group_once_and_every_test_block_lies_on_one_path(groups: int, test_groups: int):
    folds = cpcv(*bars(40, horizon=0), groups=groups, test_groups=test_groups, embargo_pct=0.0, holdout_pct=0.0)
    assert folds.n_splits == math.comb(groups, test_groups)
    assert folds.n_paths == math.comb(groups - 1, test_groups - 1)
    used = Counter((int(split), group) for path in folds.paths for group, split in enumerate(path))
    assert used == Counter((split, int(group)) for split, tested in enumerate(folds.splits) for group in tested)


@pytest.mark.parametrize("horizon", [1, 4])
@pytest.mark.parametrize("embargo_bars", [0, 3])
def test_folds_equal_skfolio_where_every_label_is_equally_long(horizon: int, embargo_bars: int):
    theirs = CombinatorialPurgedCV(n_folds=6, n_test_folds=2, purged_size=horizon, embargo_size=embargo_bars)
    ours = cpcv(*bars(120, horizon=horizon), groups=6, test_groups=2, embargo_pct=embargo_bars / 120, holdout_pct=0.0)
    assert ours.embargo_bars == embargo_bars
    for split, (train, tests) in enumerate(theirs.split(np.zeros((120, 1)))):
        assert ours.train(split).tolist() == train.tolist()
        assert ours.test(split).tolist() == np.concatenate(tests).tolist()
    assert ours.paths.T.tolist() == _skfolio_paths(theirs)


def _skfolio_paths(cv: CombinatorialPurgedCV) -> list[list[int]]:
    """The splits that test each group in the order of skfolio's own path numbers."""
    path_of = {
        (split, int(group)): int(path)
        for split, groups in enumerate(cv.test_set_index)
        for group, path in zip(groups, cv.get_path_ids()[split], strict=True)
    }
    return [sorted((s for s, g in path_of if g == group), key=lambda s: path_of[s, group]) for group in range(6)]


@settings(max_examples=500, deadline=None)
@given(markets())
def test_purge_is_safe_and_maximal(folds: Folds):
    for split in range(folds.n_splits):
        wanted = slowly_purged(folds, split)
        if wanted.size:
            np.testing.assert_array_equal(folds.train(split), wanted)
        else:
            with pytest.raises(ValueError, match=f"split {split}: .* leave no train row"):
                folds.train(split)


@settings(max_examples=50, deadline=None)
@given(markets())
def test_every_development_row_is_tested_once_on_every_path(folds: Folds):
    tested = np.bincount(np.concatenate([folds.test(s) for s in range(folds.n_splits)]), minlength=len(folds.time))
    assert (tested[folds.development()] == folds.n_paths).all()
    assert tested.sum() == folds.n_paths * len(folds.development())


@settings(max_examples=50, deadline=None)
@given(markets())
def test_development_gap_and_holdout_hold_every_row_once_and_in_that_order(folds: Folds):
    parts = [folds.development(), folds.gap(), folds.holdout()]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(folds.time)))
    if parts[2].size:
        assert folds.label_end[parts[0]].max() + folds.embargo_ms < folds.time[parts[2]].min()


@settings(max_examples=50, deadline=None)
@given(markets(), st.sampled_from([0.1, 0.3]))
def test_the_valid_part_lies_inside_train_and_no_fitted_label_comes_near_it(folds: Folds, valid_pct: float):
    for rows in (folds.development(), *(slowly_purged(folds, s) for s in range(folds.n_splits))):
        distinct = sorted(set(folds.time[rows].tolist()))
        first_ms = distinct[-math.ceil(valid_pct * len(distinct))] if distinct else 0
        may_fit = [row for row in rows if folds.label_end[row] + folds.embargo_ms < first_ms]
        if not may_fit:
            continue
        fit, valid = folds.early_stopping(rows, valid_pct)
        assert fit.tolist() == may_fit
        assert valid.tolist() == [row for row in rows if folds.time[row] >= first_ms]


def test_early_stopping_purges_and_embargoes_between_fit_and_valid():
    folds = twelve(horizon=2, embargo_pct=0.01)  # one bar
    fit, valid = folds.early_stopping(folds.development(), 0.25)
    assert valid.tolist() == [9, 10, 11]
    assert fit.tolist() == [0, 1, 2, 3, 4, 5]  # the label of row 5 ends at bar 7, the embargo covers bar 8


def test_early_stopping_without_a_share_fits_every_row():
    folds = twelve()
    fit, valid = folds.early_stopping(folds.train(0), 0.0)
    assert fit.tolist() == folds.train(0).tolist()
    assert valid.tolist() == []


def test_saved_folds_are_loaded_equal_with_their_segments_and_the_same_bytes(tmp_path):
    folds = cpcv(*bars(48, horizon=2), groups=6, test_groups=2, embargo_pct=0.01, holdout_pct=0.3)
    segment = np.repeat([0, 1], 24).astype(np.int32)
    folds.save(tmp_path / "a.parquet", segment)
    again, loaded_segment = Folds.load(tmp_path / "a.parquet")
    again.save(tmp_path / "b.parquet", loaded_segment)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert loaded_segment.tolist() == segment.tolist()
    assert (again.scheme, again.intervals, again.embargo_ms) == (folds.scheme, folds.intervals, folds.embargo_ms)
    for split in range(folds.n_splits):
        assert again.train(split).tolist() == folds.train(split).tolist()


def test_the_saved_table_names_its_columns_and_its_scheme(tmp_path):
    twelve().save(tmp_path / "folds.parquet", np.zeros(12, dtype=np.int32))
    schema = pq.read_schema(tmp_path / "folds.parquet")
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        "segment": "int32",
        "time": "int64",
        "label_end": "int64",
    }
    scheme = json.loads(schema.metadata[b"cpcv"])
    assert scheme == {"groups": 4, "test_groups": 2, "embargo_pct": 0.0, "holdout_pct": 0.0}


def test_a_table_that_holds_no_folds_is_refused(tmp_path):
    twelve().save(tmp_path / "folds.parquet", np.zeros(12, dtype=np.int32))
    bare = pq.read_table(tmp_path / "folds.parquet").replace_schema_metadata(None)
    pq.write_table(bare, tmp_path / "bare.parquet")
    with pytest.raises(ValueError, match=r"bare\.parquet: has no cpcv metadata"):
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
        ({"horizon": 6, "holdout_pct": 0.4}, "reach over the whole holdout"),
    ],
)
def test_a_scheme_that_cannot_be_cut_is_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        twelve(**changes)


@pytest.mark.parametrize(
    ("time", "label_end", "message"),
    [
        (np.arange(12), np.arange(11), r"time \(12,\) and label_end \(11,\)"),
        (np.arange(12), np.arange(12) - (np.arange(12) == 7), r"before time in 1 rows, first in row 7 \(6 < 7\)"),
        (np.arange(12.0), np.arange(12), "time is float64; give int64"),
    ],
)
def test_spans_that_make_no_sense_are_refused(time: np.ndarray, label_end: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        cpcv(time, label_end, groups=4, test_groups=2, embargo_pct=0.0, holdout_pct=0.0)


def test_a_split_that_has_nothing_left_to_learn_from_is_refused():
    folds = twelve(horizon=6)
    with pytest.raises(ValueError, match=r"split 1: .* beside test groups \[0, 2\]"):
        folds.train(1)


@pytest.mark.parametrize(("valid_pct", "message"), [(1.0, r"valid_pct is 1\.0"), (0.95, "lower valid_pct")])
def test_a_valid_part_that_leaves_nothing_to_fit_is_refused(valid_pct: float, message: str):
    folds = twelve()
    with pytest.raises(ValueError, match=message):
        folds.early_stopping(folds.development(), valid_pct)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"groups": "6"}, "groups is '6'; it is a whole number"),
        ({"embargo_pct": "0.01"}, "embargo_pct is '0.01'; it is a"),
    ],
)
def test_a_parameter_that_is_no_number_is_named(changes, complaint):
    time = np.arange(100, dtype=np.int64) * 60_000
    scheme = {"groups": 6, "test_groups": 2, "embargo_pct": 0.01, "holdout_pct": 0.15} | changes
    with pytest.raises(ValueError, match=complaint):
        cpcv(time, time, **scheme)
