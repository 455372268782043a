"""Folds of rows in time: combinatorial, k-fold or walk-forward; purged by label end, embargoed, before a holdout.

Folds are ranges of time; rows are listed on demand. The times at which any split starts or stops to use rows are few.
The rows between two of them are a cell, and a split is a choice of cells. AFML = López de Prado, Advances in Financial
Machine Learning (2018).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from annotated_types import Ge, Interval
from pydantic import PositiveInt

from pipeline.validation.row_index import RowIndex, check_spans, index_rows, sort_unique
from pipeline.validation.scheme import (
    EmbargoBars,
    EmbargoHours,
    EmbargoShare,
    Method,
    Scheme,
    check_fraction,
    check_scheme,
    choose_groups,
    count_embargo_bars,
    count_share,
    find_bar_ms,
    number_paths,
)
from pipeline.validation.unlabeled import UnlabeledRows, locate_unlabeled

METADATA_KEY = b"folds"
SPANS = ("time", "label_end")
TRADING_SPANS = ("trading_time", "trading_end")  # of a market with sessions: the same without its closings


class TimeRange(NamedTuple):
    """The rows with times from `first_ms` to `last_ms`, both included, whose labels end by `label_end_ms`."""

    first_ms: int
    last_ms: int
    label_end_ms: int


class RowCounts(NamedTuple):
    """(n_splits,) numbers of train rows, of test rows, and of train-group rows lost to purge and embargo."""

    train: np.ndarray
    test: np.ndarray
    purged_and_embargoed: np.ndarray


@dataclass(frozen=True, eq=False)
class Folds:
    """Every split of labeled rows into train and test, and the holdout that no split uses, as ranges of time.

    A row without a label is in no train, test or holdout part, but it is predicted where its time lies. Where a market
    has sessions, times are without its closings, see `save`: closed hours use up no embargo.
    """

    time: np.ndarray  # (N,) ms, in any order, of all rows
    label_end: np.ndarray  # (N,) ms
    is_labeled: np.ndarray  # (N,) bool
    scheme: Scheme
    group_ranges: tuple[TimeRange, ...]  # by group, in time order; the last one ends the development part
    embargo_bars: int
    embargo_ms: int
    splits: np.ndarray  # (n_splits, k), the groups that each split tests
    is_train_group: np.ndarray  # (n_splits, groups) bool, whether a split may train on a group
    paths: np.ndarray  # (n_paths, groups), the split that tests group g on path p; -1 where none does
    row_index: RowIndex  # of labeled rows
    unlabeled: UnlabeledRows

    @property
    def n_splits(self) -> int:
        """The number of splits: C(groups, test_groups), or groups, or groups - train_groups of walk-forward."""
        return len(self.splits)

    @property
    def n_paths(self) -> int:
        """The number of times that a tested row is tested: C(groups - 1, test_groups - 1) for cpcv, otherwise 1."""
        return len(self.paths)

    @property
    def is_walk_forward(self) -> bool:
        """Whether no split trains on rows later than its test rows."""
        return self.scheme.method.startswith("walk_forward")

    def test(self, split: int) -> np.ndarray:
        """Return the test rows of a split, ascending, all of them labeled."""
        return self._select_groups(self.splits[split])

    def predicted(self, split: int) -> np.ndarray:
        """Return the rows that a split predicts, ascending: its test rows, and the unlabeled ones of their times.

        A model must decide at such a row too: that a halt follows, and its label is lost, is not known in advance.
        """
        tested = self.splits[split]
        return np.union1d(self._select_groups(tested), self.unlabeled.select_groups(tested))

    def train(self, split: int) -> np.ndarray:
        """Return the train rows of a split, ascending: purged and embargoed at every edge of every test range.

        A row is dropped where its span [time, label_end] overlaps a test range [a, b], with a the range's first time
        and b its latest label_end (AFML 7.4.1). It is also dropped where its time lies in (b, b + embargo] (7.4.2).

        Raises:
            ValueError: no row is left.
        """
        is_used, limit = self._find_train_cells(np.array([split]))
        rows = self.row_index.select_rows_ended(is_used[0], limit[0])
        if not rows.size:
            raise ValueError(
                f"split {split}: purge and an embargo of {self.embargo_bars} bars leave no train row beside test "
                f"groups {self.splits[split].tolist()}; lower test_groups or {self.scheme.describe_embargo()}, or "
                "shorten the labels"
            )
        return rows

    def find_test_ranges(self, split: int) -> list[TimeRange]:
        """Return the contiguous time ranges that a split tests: adjacent groups are merged."""
        tested = self.splits[split]
        parts = np.split(tested, np.flatnonzero(np.diff(tested) > 1) + 1)
        runs = ([self.group_ranges[group] for group in part] for part in parts)
        return [TimeRange(run[0].first_ms, run[-1].last_ms, max(group.label_end_ms for group in run)) for run in runs]

    def find_train_ranges(self, split: int) -> list[TimeRange]:
        """Return the time ranges that a split trains on; purge may leave a range without rows."""
        is_used, limit = self._find_train_cells(np.array([split]))
        edges = np.flatnonzero(np.diff(is_used[0], prepend=False, append=False)).reshape(-1, 2)
        begins_ms = [*(group.first_ms for group in self.group_ranges), self.row_index.label_end_ms.max() + 1]
        first_ms = self.row_index.first_ms
        return [
            TimeRange(int(first_ms[at]), int(first_ms[to]) - 1, int(begins_ms[limit[0, at]]) - 1)
            for at, to in edges.tolist()
        ]

    def count_rows(self) -> RowCounts:
        """Return the row counts of every split, without listing any rows."""
        is_used, limit = self._find_train_cells(np.arange(self.n_splits))
        train = np.where(is_used, self.row_index.rows_ended[np.arange(len(self.row_index)), limit], 0).sum(axis=1)
        group_sizes = self.row_index.group_sizes
        return RowCounts(train, group_sizes[self.splits].sum(axis=1), self.is_train_group @ group_sizes - train)

    def development(self) -> np.ndarray:
        """Return all rows before the holdout's boundary, ascending, none of them purged."""
        return self.row_index.select_rows(np.arange(len(self.row_index)))

    def select_tested(self) -> np.ndarray:
        """Return the development rows, ascending, that any split tests: a walk-forward never tests its first groups."""
        return self._select_groups(self.splits)

    def select_predicted(self) -> np.ndarray:
        """Return the development rows, ascending, labeled or not, that any split predicts."""
        return np.union1d(self._select_groups(self.splits), self.unlabeled.select_groups(self.splits))

    def holdout(self) -> np.ndarray:
        """Return the labeled rows, ascending, that begin after all development labels have ended and the embargo."""
        return self.row_index.select_rows(self.row_index.holdout_cell)

    def predicted_holdout(self) -> np.ndarray:
        """Return the rows, ascending, labeled or not, that begin where those of `holdout` may."""
        return np.union1d(self.holdout(), self.unlabeled.select_holdout())

    def select_embargoed(self) -> np.ndarray:
        """Return the rows, ascending, that are purged and embargoed between development part and holdout."""
        return self.row_index.select_rows(self.row_index.embargo_cell)

    def number_groups(self) -> np.ndarray:
        """Return (N,) int32, the group of each row; -1 of the holdout, of the embargo before it, and without label."""
        return self.row_index.expand_to_rows(np.append(self.row_index.group, [-1, -1]).astype(np.int32))

    def number_all_groups(self) -> np.ndarray:
        """Return (N,) int32, the group of each row by its time, labeled or not; -1 outside the development part."""
        group = self.number_groups()
        group[self.unlabeled.rows] = self.unlabeled.group
        return group

    def split_validation(self, rows: np.ndarray, valid_pct: float) -> tuple[np.ndarray, np.ndarray]:
        """Return (train, valid): valid is the last `valid_pct` of the distinct times of `rows`, train the purged rest.

        Train is purged and embargoed as before the holdout: a row is used if its label has ended more than an embargo
        before the first valid time. With `valid_pct` 0 all rows are train rows.

        Raises:
            ValueError: `valid_pct` is outside [0, 1), or no train row is left.
        """
        check_fraction("valid_pct", valid_pct)
        times = sort_unique(self.time[rows])
        valid_times = count_share(valid_pct, len(times))
        if not valid_times:
            return rows, rows[:0]
        first_ms = times[-valid_times]
        train = rows[self.label_end[rows] + self.embargo_ms < first_ms]
        if not train.size:
            raise ValueError(
                f"validation: of {len(rows)} rows none has a label that ends more than {self.embargo_bars} bars "
                f"before the {valid_times} validation times; lower valid_pct ({valid_pct}) or "
                f"{self.scheme.describe_embargo()}"
            )
        return train, rows[self.time[rows] >= first_ms]

    def save(self, file: Path, rows: pd.DataFrame) -> None:
        """Write `file`, a parquet with the keys of all rows, such as segment, and the scheme as metadata.

        Where `rows` has TRADING_SPANS, the spans of the folds are these, and its columns SPANS the instants.
        """
        names = TRADING_SPANS if set(TRADING_SPANS) <= set(rows.columns) else SPANS
        spans = dict(zip(names, (self.time, self.label_end), strict=True))
        table = pa.Table.from_pandas(rows.assign(**spans, is_labeled=self.is_labeled), preserve_index=False)
        pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(self.scheme.list_settings())}), file)

    @classmethod
    def load(cls, file: Path) -> tuple["Folds", pd.DataFrame]:
        """Return the folds of a file of `save`, made again by `make_folds`, and the table of their rows."""
        table = pq.read_table(file)
        metadata = table.schema.metadata or {}
        if METADATA_KEY not in metadata:
            raise ValueError(
                f"{file}: has no {METADATA_KEY.decode()} metadata, so it is not a file of folds; run `dvc repro`"
            )
        names = TRADING_SPANS if set(TRADING_SPANS) <= set(table.column_names) else SPANS
        spans = (table.column(name).to_numpy() for name in (*names, "is_labeled"))
        return make_folds(*spans, **json.loads(metadata[METADATA_KEY])), table.to_pandas()

    def _select_groups(self, groups: np.ndarray) -> np.ndarray:
        """Return the labeled rows, ascending, of these groups."""
        return self.row_index.select_rows(np.flatnonzero(np.isin(self.row_index.group, groups)))

    def _find_train_cells(self, splits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (n, cells) whether a split trains on a cell, and (n, cells) the group before which labels must end.

        That is the next group that the split tests, or the number of groups: a label that reaches a later test group
        also reaches the next one. Test groups before a cell are covered by `is_blocked`.
        """
        groups = self.scheme.groups
        is_tested = np.zeros((len(splits), groups), dtype=bool)
        np.put_along_axis(is_tested, self.splits[splits], True, axis=1)
        is_used = self.is_train_group[splits][:, self.row_index.group] & ~(is_tested @ self.row_index.is_blocked)
        next_tested = np.minimum.accumulate(np.where(is_tested, np.arange(groups), groups)[:, ::-1], axis=1)[:, ::-1]
        return is_used, next_tested[:, self.row_index.group]


def make_folds(
    time: np.ndarray,
    label_end: np.ndarray,
    is_labeled: np.ndarray | None = None,
    *,
    method: Method,
    groups: Annotated[int, Ge(2)],
    test_groups: PositiveInt,
    train_groups: PositiveInt,
    embargo_pct: EmbargoShare = None,
    embargo_bars: EmbargoBars = None,
    embargo_hours: EmbargoHours = None,
    holdout_pct: Annotated[float, Interval(ge=0, lt=1)],
) -> Folds:
    """Return purged folds of rows with spans [time, label_end], before a holdout.

    The development part is all but the last `holdout_pct` of the distinct times. Its distinct times are divided into
    `groups` contiguous parts of equal size (the first ones may be one longer), so that symbols share the boundaries.
    One of the three embargoes is given, and rounded up to whole bars. A bar is the most common step between distinct
    times. Rows may be in any order; it is fastest where they are sorted by time, or by time within each symbol.

    Args:
        time: (N,) int64 ms, when a row's bar opens.
        label_end: (N,) int64 ms, not before `time`.
        is_labeled: (N,) bool, whether a row may be trained on and tested; the others are only predicted. None: all may.
        method: "cpcv" tests every choice of `test_groups` groups (AFML 12.4), "purged_kfold" each group once (7.4);
            both train on all others. The walk-forwards test each group from number `train_groups` on, and train
            on all groups before it ("walk_forward_expanding") or on the `train_groups` before it
            ("walk_forward_rolling"); they need no embargo.
        groups: parts of the development part.
        test_groups: of cpcv; validated but not used by the other methods.
        train_groups: of the walk-forwards; validated but not used by the other methods.
        embargo_pct: share of the development part's distinct times.
        embargo_bars: see `embargo.find_needed_embargo` for one that follows from features and labels.
        embargo_hours: of a clock in ms.
        holdout_pct: share of the distinct times.

    Raises:
        ValueError: an unknown method, a share outside [0, 1), no embargo, several or a negative one, test_groups or
            train_groups outside [1, groups - 1], spans of unequal shape or that end before they begin, fewer distinct
            times than groups, or a holdout that labels and embargo leave empty.
    """
    scheme = Scheme(method, groups, test_groups, train_groups, embargo_pct, holdout_pct, embargo_bars, embargo_hours)
    check_scheme(scheme)
    check_spans(time, label_end)
    is_labeled = np.ones(len(time), bool) if is_labeled is None else is_labeled
    all_times = sort_unique(time[is_labeled])
    times = all_times[: len(all_times) - count_share(holdout_pct, len(all_times))]
    if len(times) < groups:
        raise ValueError(
            f"folds: {len(times)} distinct times before the holdout cannot fill {groups} groups; "
            f"provide more rows, or lower groups or holdout_pct"
        )
    bar_ms = find_bar_ms(all_times)
    length = count_embargo_bars(scheme, times=len(times), bar_ms=bar_ms)
    parts = np.array_split(times, groups)
    first_ms, last_ms = (np.array([part[at] for part in parts]) for at in (0, -1))
    bounds = {"group_first_ms": first_ms, "last_ms": last_ms[-1], "embargo_ms": length * bar_ms}
    row_index = index_rows(time, label_end, is_labeled, **bounds)
    places = {"group_first_ms": first_ms, "last_ms": last_ms[-1], "holdout_ms": row_index.first_ms[-1]}
    splits, is_train_group = choose_groups(scheme)
    folds = Folds(
        time=time,
        label_end=label_end,
        is_labeled=is_labeled,
        scheme=scheme,
        group_ranges=tuple(map(TimeRange, first_ms.tolist(), last_ms.tolist(), row_index.label_end_ms.tolist())),
        embargo_bars=length,
        embargo_ms=length * bar_ms,
        splits=splits,
        is_train_group=is_train_group,
        paths=number_paths(splits, scheme.groups),
        row_index=row_index,
        unlabeled=locate_unlabeled(time, is_labeled, **places),
    )
    _check_holdout(folds)
    return folds


def cpcv(
    time: np.ndarray, label_end: np.ndarray, *, groups: int, test_groups: int, embargo_pct: float, holdout_pct: float
) -> Folds:
    """Return combinatorial purged folds: `make_folds` with the method of this name."""
    return make_folds(
        time,
        label_end,
        method="cpcv",
        groups=groups,
        test_groups=test_groups,
        train_groups=1,
        embargo_pct=embargo_pct,
        holdout_pct=holdout_pct,
    )


def _check_holdout(folds: Folds) -> None:
    if folds.scheme.holdout_pct and not folds.holdout().size:
        raise ValueError(
            f"folds: labels of the development part and an embargo of {folds.embargo_bars} bars cover the whole "
            f"holdout ({len(folds.select_embargoed())} rows); raise holdout_pct "
            f"({folds.scheme.holdout_pct}), lower {folds.scheme.describe_embargo()} or shorten the labels"
        )
