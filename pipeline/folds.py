"""Folds of rows in time: combinatorial, k-fold or walking forward; purged by label end, embargoed, before a holdout.

Folds are intervals of time until somebody asks for rows. The times at which any split begins or ceases to use rows are
few; the rows between two of them are a cell, and a split is a choice of cells. AFML = López de Prado, Advances in
Financial Machine Learning (2018).
"""

import json
import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain, combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.cells import Cells, check_spans, distinct, located

METHODS = ("cpcv", "purged_kfold", "walk_forward_expanding", "walk_forward_rolling")
METADATA_KEY = b"folds"


class Run(NamedTuple):
    """Rows that begin from `first_ms` to `last_ms`, both included, and whose labels end by `label_end_ms`."""

    first_ms: int
    last_ms: int
    label_end_ms: int


class Counts(NamedTuple):
    """(n_splits,) rows that are learnt from, tested, and lost to purge and embargo in the groups learnt from."""

    train: np.ndarray
    test: np.ndarray
    purged_and_embargoed: np.ndarray


@dataclass(frozen=True)
class Scheme:
    """The arguments that, with the spans of the rows, determine the folds."""

    method: str
    groups: int
    test_groups: int
    train_groups: int
    embargo_pct: float
    holdout_pct: float


@dataclass(frozen=True, eq=False)
class Folds:
    """Every split of rows into train and test, and the holdout that no split sees, as intervals of time."""

    time: np.ndarray  # (N,) ms, in any order
    label_end: np.ndarray  # (N,) ms
    scheme: Scheme
    intervals: tuple[Run, ...]  # one for each group, in time order; the last one ends the development part
    embargo_bars: int
    embargo_ms: int
    splits: np.ndarray  # (n_splits, k), the groups that a split tests
    learnt: np.ndarray  # (n_splits, groups), whether a split may learn from a group
    paths: np.ndarray  # (n_paths, groups), the split that tests group g on path p; -1 where none ever does
    cells: Cells

    @property
    def n_splits(self) -> int:
        """C(groups, test_groups) of cpcv, groups of purged_kfold, groups - train_groups of walk-forward."""
        return len(self.splits)

    @property
    def n_paths(self) -> int:
        """How often a row is tested, if it ever is: C(groups - 1, test_groups - 1) of cpcv, 1 of the others."""
        return len(self.paths)

    @property
    def is_walk_forward(self) -> bool:
        """No split learns from rows later than those it tests."""
        return self.scheme.method.startswith("walk_forward")

    def test(self, split: int) -> np.ndarray:
        """The rows that a split tests, ascending."""
        return self.cells.rows(np.flatnonzero(np.isin(self.cells.group, self.splits[split])))

    def train(self, split: int) -> np.ndarray:
        """The rows that a split may learn from, ascending: purged and embargoed at every edge of every test run.

        A row is dropped when its span [time, label_end] meets a run's [a, b], a = its first time and b = its latest
        label_end (AFML 7.4.1), or when its time lies in (b, b + embargo] (7.4.2). Test rows themselves meet their run.

        Raises:
            ValueError: nothing is left.
        """
        kept, limit = self._uses(np.array([split]))
        rows = self.cells.rows_before(kept[0], limit[0])
        if not rows.size:
            raise ValueError(
                f"split {split}: purge and an embargo of {self.embargo_bars} bars leave no train row beside test "
                f"groups {self.splits[split].tolist()}; take fewer test_groups, a lower embargo_pct or shorter labels"
            )
        return rows

    def test_runs(self, split: int) -> list[Run]:
        """The contiguous runs that a split tests: adjacent groups are merged."""
        tested = self.splits[split]
        parts = np.split(tested, np.flatnonzero(np.diff(tested) > 1) + 1)
        runs = ([self.intervals[group] for group in part] for part in parts)
        return [Run(run[0].first_ms, run[-1].last_ms, max(group.label_end_ms for group in run)) for run in runs]

    def train_runs(self, split: int) -> list[Run]:
        """The runs whose rows a split learns from, as far as there are any: purge may have left a run without one."""
        kept, limit = self._uses(np.array([split]))
        edges = np.flatnonzero(np.diff(kept[0], prepend=False, append=False)).reshape(-1, 2)
        begins_ms = [*(interval.first_ms for interval in self.intervals), self.cells.label_end_ms.max() + 1]
        return [
            Run(int(self.cells.first_ms[at]), int(self.cells.first_ms[to]) - 1, int(begins_ms[limit[0, at]]) - 1)
            for at, to in edges.tolist()
        ]

    def counts(self) -> Counts:
        """How many rows every split learns from, tests and loses; none is materialised."""
        kept, limit = self._uses(np.arange(self.n_splits))
        train = np.where(kept, self.cells.ended[np.arange(len(self.cells)), limit], 0).sum(axis=1)
        group_rows = self.cells.group_rows
        return Counts(train, group_rows[self.splits].sum(axis=1), self.learnt @ group_rows - train)

    def development(self) -> np.ndarray:
        """All rows before the holdout's boundary, ascending; nothing is removed from them."""
        return self.cells.rows(np.arange(len(self.cells)))

    def tested(self) -> np.ndarray:
        """The development rows, ascending, that some split tests: all but those before a walk-forward's first test."""
        return self.cells.rows(np.flatnonzero(np.isin(self.cells.group, self.splits)))

    def holdout(self) -> np.ndarray:
        """The rows, ascending, that begin after every label of the development part has ended and the embargo too."""
        return self.cells.rows(self.cells.holdout)

    def gap(self) -> np.ndarray:
        """The rows, ascending, given up between development and holdout."""
        return self.cells.rows(self.cells.gap)

    def group(self) -> np.ndarray:
        """(N,) int32, the group of each row, -1 in the gap and in the holdout."""
        return self.cells.by_row(np.append(self.cells.group, [-1, -1]).astype(np.int32))

    def early_stopping(self, rows: np.ndarray, valid_pct: float) -> tuple[np.ndarray, np.ndarray]:
        """(fit, valid): valid is the last `valid_pct` of the distinct times of `rows`, fit what may be learnt from.

        Fit keeps the distance that the holdout keeps: a row stays when its label has ended more than an embargo before
        the first valid time. `valid_pct` 0 leaves all rows to fit and none to valid.

        Raises:
            ValueError: `valid_pct` is outside [0, 1), or nothing is left to fit.
        """
        _check_share("valid_pct", valid_pct)
        times = distinct(self.time[rows])
        valid_times = _share(valid_pct, len(times))
        if not valid_times:
            return rows, rows[:0]
        first_ms = times[-valid_times]
        fit = rows[self.label_end[rows] + self.embargo_ms < first_ms]
        if not fit.size:
            raise ValueError(
                f"early stopping: of {len(rows)} rows none has a label that ends more than {self.embargo_bars} bars "
                f"before the valid part of {valid_times} times; lower valid_pct ({valid_pct}) or embargo_pct"
            )
        return fit, rows[self.time[rows] >= first_ms]

    def save(self, file: Path, segment: np.ndarray) -> None:
        """`file` is a parquet with segment, time and label_end of each row, and the scheme as metadata."""
        table = pa.table({"segment": segment.astype(np.int32), "time": self.time, "label_end": self.label_end})
        pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(asdict(self.scheme))}), file)

    @classmethod
    def load(cls, file: Path) -> tuple["Folds", np.ndarray]:
        """The folds that `save` wrote, cut anew by `cut`, and the (N,) segment of their rows."""
        table = pq.read_table(file)
        metadata = table.schema.metadata or {}
        if METADATA_KEY not in metadata:
            raise ValueError(f"{file}: has no {METADATA_KEY.decode()} metadata, so it holds no folds; run `dvc repro`")
        segment, time, label_end = (table.column(name).to_numpy() for name in ("segment", "time", "label_end"))
        return cut(time, label_end, **json.loads(metadata[METADATA_KEY])), segment

    def _uses(self, splits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, cells) whether a split learns from a cell, and the group before which labels must end there.

        That is the next group that the split tests, or the number of groups: a label that reaches a later test reaches
        the next one first. What the tests before a cell do to it is in the cells' shadow.
        """
        groups = self.scheme.groups
        tested = np.zeros((len(splits), groups), dtype=bool)
        np.put_along_axis(tested, self.splits[splits], True, axis=1)
        kept = self.learnt[splits][:, self.cells.group] & ~(tested @ self.cells.shadow)
        following = np.minimum.accumulate(np.where(tested, np.arange(groups), groups)[:, ::-1], axis=1)[:, ::-1]
        return kept, following[:, self.cells.group]


def cut(
    time: np.ndarray,
    label_end: np.ndarray,
    *,
    method: str,
    groups: int,
    test_groups: int,
    train_groups: int,
    embargo_pct: float,
    holdout_pct: float,
) -> Folds:
    """Purged folds of rows with spans [time, label_end], before a holdout.

    The development part is all but the last `holdout_pct` of the distinct times; its distinct times are cut into
    `groups` contiguous parts as equal as can be (the first ones are one longer), so that several symbols share the
    cuts. The embargo is `embargo_pct` of the development part's distinct times, rounded up to whole bars; a bar is
    the most common step between distinct times. Rows may stand in any order: it costs least where they are sorted by
    time, or by time within each symbol.

    Args:
        time: (N,) int64 ms, when a row's bar opens.
        label_end: (N,) int64 ms, not before `time`.
        method: "cpcv" tests every choice of `test_groups` groups (AFML 12.4), "purged_kfold" each group once (7.4);
            both learn from all others. The walk-forwards test each group from number `train_groups` on, and learn
            from all groups before it ("walk_forward_expanding") or the `train_groups` before it
            ("walk_forward_rolling"); nothing is embargoed there, since nothing after a test is learnt.
        groups: parts of the development part.
        test_groups: of cpcv; checked, and otherwise ignored, by the other methods.
        train_groups: of the walk-forwards; checked, and otherwise ignored, by the other methods.
        embargo_pct: share of the development part's distinct times.
        holdout_pct: share of the distinct times.

    Raises:
        ValueError: an unknown method, a share outside [0, 1), test_groups or train_groups outside [1, groups - 1],
            spans that do not match or end before they begin, fewer distinct times than groups, or a holdout that
            labels and embargo leave empty.
    """
    scheme = Scheme(method, groups, test_groups, train_groups, embargo_pct, holdout_pct)
    _check_scheme(scheme)
    check_spans(time, label_end)
    all_times = distinct(time)
    times = all_times[: len(all_times) - _share(holdout_pct, len(all_times))]
    if len(times) < groups:
        raise ValueError(
            f"folds: {len(times)} distinct times before the holdout cannot fill {groups} groups; "
            f"give more rows, fewer groups or a lower holdout_pct"
        )
    embargo_bars = _share(embargo_pct, len(times))
    embargo_ms = embargo_bars * _bar_ms(all_times)
    parts = np.array_split(times, groups)
    first_ms, last_ms = (np.array([part[at] for part in parts]) for at in (0, -1))
    cells = located(time, label_end, group_first_ms=first_ms, last_ms=last_ms[-1], embargo_ms=embargo_ms)
    splits, learnt = _splits(scheme)
    folds = Folds(
        time=time,
        label_end=label_end,
        scheme=scheme,
        intervals=tuple(map(Run, first_ms.tolist(), last_ms.tolist(), cells.label_end_ms.tolist())),
        embargo_bars=embargo_bars,
        embargo_ms=embargo_ms,
        splits=splits,
        learnt=learnt,
        paths=_paths(splits, scheme.groups),
        cells=cells,
    )
    _check_holdout(folds)
    return folds


def cpcv(
    time: np.ndarray, label_end: np.ndarray, *, groups: int, test_groups: int, embargo_pct: float, holdout_pct: float
) -> Folds:
    """Combinatorial purged folds: `cut` by its method of this name."""
    return cut(
        time,
        label_end,
        method="cpcv",
        groups=groups,
        test_groups=test_groups,
        train_groups=1,
        embargo_pct=embargo_pct,
        holdout_pct=holdout_pct,
    )


def _splits(scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """(n_splits, k) the groups that every split tests, and (n_splits, groups) whether it may learn from each."""
    first = scheme.train_groups if scheme.method.startswith("walk_forward") else 0
    size = scheme.test_groups if scheme.method == "cpcv" else 1
    chosen = chain.from_iterable(combinations(range(first, scheme.groups), size))
    splits = np.fromiter(chosen, np.int64).reshape(-1, size)
    group = np.arange(scheme.groups)
    if scheme.method == "walk_forward_expanding":
        return splits, group < splits
    if scheme.method == "walk_forward_rolling":
        return splits, (group < splits) & (group >= splits - scheme.train_groups)
    return splits, ~(splits[:, :, None] == group).any(axis=1)


def _paths(splits: np.ndarray, groups: int) -> np.ndarray:
    """(n_paths, groups): path p tests group g in the p-th split that tests g (AFML 12.4.1), -1 where none does."""
    tested = [np.flatnonzero((splits == group).any(axis=1)) for group in range(groups)]
    n_paths = max(map(len, tested))
    return np.array([where if len(where) else np.full(n_paths, -1) for where in tested]).T


def _share(pct: float, count: int) -> int:
    """`pct` of `count`, rounded up, as the decimal reads: 0.07 of 100 is 7, though 0.07 * 100 is a little more."""
    return math.ceil(Fraction(str(float(pct))) * count)


def _bar_ms(times: np.ndarray) -> int:
    """The most common step between distinct times, the shortest of several."""
    steps, counts = np.unique(np.diff(times), return_counts=True)
    return int(steps[np.argmax(counts)])


def _check_scheme(scheme: Scheme) -> None:
    if scheme.method not in METHODS:
        raise ValueError(f"folds: method is {scheme.method!r}; the methods are {', '.join(METHODS)}")
    for name in ("groups", "test_groups", "train_groups"):
        value = getattr(scheme, name)
        if not isinstance(value, int):
            raise ValueError(f"folds: {name} is {value!r}; it is a whole number of groups")
        if name != "groups" and not 1 <= value < scheme.groups:
            raise ValueError(f"folds: {name} is {value} of {scheme.groups} groups; 1 to groups - 1 are possible")
    _check_share("embargo_pct", scheme.embargo_pct)
    _check_share("holdout_pct", scheme.holdout_pct)


def _check_share(name: str, value: float) -> None:
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"folds: {name} is {value!r}; it is a share of the distinct times, in [0, 1)")


def _check_holdout(folds: Folds) -> None:
    if folds.scheme.holdout_pct and not folds.holdout().size:
        raise ValueError(
            f"folds: labels of the development part and an embargo of {folds.embargo_bars} bars reach over the whole "
            f"holdout ({len(folds.gap())} rows); raise holdout_pct ({folds.scheme.holdout_pct}), lower embargo_pct "
            f"({folds.scheme.embargo_pct}) or shorten the labels"
        )
