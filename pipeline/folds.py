"""Combinatorial purged cross-validation: groups cut in time, purge by label end, embargo, paths and a holdout.

A fold is a set of time intervals; rows are materialised when asked for. AFML = López de Prado, Advances in Financial
Machine Learning (2018).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Rows = npt.NDArray[np.int64]
Times = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
METADATA_KEY = b"cpcv"


class Run(NamedTuple):
    """Adjacent groups seen as one: first and last bar, and the latest end of a label, all in ms."""

    first_ms: int
    last_ms: int
    label_end_ms: int


@dataclass(frozen=True)
class Scheme:
    """The arguments that, with the spans of the rows, determine the folds."""

    groups: int
    test_groups: int
    embargo_pct: float
    holdout_pct: float


@dataclass(frozen=True, eq=False)
class Folds:
    """Every split of rows into train and test, and the holdout that no split sees, as intervals of time."""

    time: Times  # (N,) ms, in any order
    label_end: Times  # (N,) ms
    scheme: Scheme
    intervals: tuple[Run, ...]  # one for each group, in time order; the last one ends the development part
    embargo_bars: int
    embargo_ms: int
    splits: npt.NDArray[np.int64]  # (n_splits, test_groups), the groups that a split tests
    paths: npt.NDArray[np.int64]  # (n_paths, groups), the split that tests group g on path p

    @property
    def n_splits(self) -> int:
        """C(groups, test_groups)."""
        return len(self.splits)

    @property
    def n_paths(self) -> int:
        """C(groups - 1, test_groups - 1): how often every row of the development part is tested."""
        return len(self.paths)

    def test(self, split: int) -> Rows:
        """The rows that a split tests, ascending."""
        return np.flatnonzero(self._is_in(self.test_runs(split)))

    def train(self, split: int) -> Rows:
        """The rows that a split may learn from, ascending: purged and embargoed at every edge of every test run.

        A row is dropped when its span [time, label_end] meets a run's [a, b], a = its first time and b = its latest
        label_end (AFML 7.4.1), or when its time lies in (b, b + embargo] (7.4.2). Test rows themselves meet their run.

        Raises:
            ValueError: nothing is left.
        """
        kept = self.time <= self._last_ms
        for run in self.test_runs(split):
            kept &= (self.time > run.label_end_ms + self.embargo_ms) | (self.label_end < run.first_ms)
        rows = np.flatnonzero(kept)
        if not rows.size:
            raise ValueError(
                f"split {split}: purge and an embargo of {self.embargo_bars} bars leave no train row beside test "
                f"groups {self.splits[split].tolist()}; take fewer test_groups, a lower embargo_pct or shorter labels"
            )
        return rows

    def test_runs(self, split: int) -> list[Run]:
        """The contiguous runs that a split tests: adjacent groups are merged."""
        runs: list[Run] = []
        previous = -2
        for group in self.splits[split]:
            interval = self.intervals[group]
            runs.append(_merged(runs.pop(), interval) if group == previous + 1 else interval)
            previous = group
        return runs

    def development(self) -> Rows:
        """All rows before the holdout's boundary, ascending; nothing is removed from them."""
        return np.flatnonzero(self.time <= self._last_ms)

    def holdout(self) -> Rows:
        """The rows, ascending, that begin after every label of the development part has ended and the embargo too."""
        return np.flatnonzero(self.time > self._holdout_after_ms)

    def gap(self) -> Rows:
        """The rows, ascending, given up between development and holdout."""
        return np.flatnonzero((self.time > self._last_ms) & (self.time <= self._holdout_after_ms))

    def group(self) -> npt.NDArray[np.int32]:
        """(N,) the group of each row, -1 in the gap and in the holdout."""
        first = np.array([interval.first_ms for interval in self.intervals])
        number = np.searchsorted(first, self.time, side="right") - 1
        return np.where(self.time <= self._last_ms, number, -1).astype(np.int32)

    def early_stopping(self, rows: Rows, valid_pct: float) -> tuple[Rows, Rows]:
        """(fit, valid): valid is the last `valid_pct` of the distinct times of `rows`, fit what may be learnt from.

        Fit keeps the distance that the holdout keeps: a row stays when its label has ended more than an embargo before
        the first valid time. `valid_pct` 0 leaves all rows to fit and none to valid.

        Raises:
            ValueError: `valid_pct` is outside [0, 1), or nothing is left to fit.
        """
        _check_share("valid_pct", valid_pct)
        times = np.unique(self.time[rows])
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

    def save(self, file: Path, segment: npt.NDArray[np.int32]) -> None:
        """`file` is a parquet with segment, time and label_end of each row, and the scheme as metadata."""
        table = pa.table({"segment": segment.astype(np.int32), "time": self.time, "label_end": self.label_end})
        pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(asdict(self.scheme))}), file)

    @classmethod
    def load(cls, file: Path) -> tuple["Folds", npt.NDArray[np.int32]]:
        """The folds that `save` wrote, cut anew by `cpcv`, and the (N,) segment of their rows."""
        table = pq.read_table(file)
        metadata = table.schema.metadata or {}
        if METADATA_KEY not in metadata:
            raise ValueError(f"{file}: has no {METADATA_KEY.decode()} metadata, so it holds no folds; run `dvc repro`")
        segment, time, label_end = (table.column(name).to_numpy() for name in ("segment", "time", "label_end"))
        return cpcv(time, label_end, **json.loads(metadata[METADATA_KEY])), segment

    @property
    def _last_ms(self) -> int:
        return self.intervals[-1].last_ms

    @property
    def _holdout_after_ms(self) -> int:
        return max(interval.label_end_ms for interval in self.intervals) + self.embargo_ms

    def _is_in(self, runs: Sequence[Run]) -> Mask:
        inside = np.zeros(len(self.time), dtype=bool)
        for run in runs:
            inside |= (self.time >= run.first_ms) & (self.time <= run.last_ms)
        return inside


def cpcv(
    time: Times, label_end: Times, *, groups: int, test_groups: int, embargo_pct: float, holdout_pct: float
) -> Folds:
    """Combinatorial purged folds of rows with spans [time, label_end] (AFML 12.4), before a holdout.

    The development part is all but the last `holdout_pct` of the distinct times; its distinct times are cut into
    `groups` contiguous parts as equal as can be (the first ones are one longer), so that several symbols share the
    cuts. The embargo is `embargo_pct` of the development part's distinct times, rounded up to whole bars; a bar is
    the most common step between distinct times.

    Raises:
        ValueError: a share outside [0, 1), 1 <= test_groups < groups does not hold, spans that do not match or end
            before they begin, fewer distinct times than groups, or a holdout that labels and embargo leave empty.
    """
    _check_scheme(groups=groups, test_groups=test_groups, embargo_pct=embargo_pct, holdout_pct=holdout_pct)
    _check_spans(time, label_end)
    distinct = np.unique(time)
    times = distinct[: len(distinct) - _share(holdout_pct, len(distinct))]
    if len(times) < groups:
        raise ValueError(
            f"folds: {len(times)} distinct times before the holdout cannot fill {groups} groups; "
            f"give more rows, fewer groups or a lower holdout_pct"
        )
    splits = np.array(list(combinations(range(groups), test_groups)))
    embargo_bars = _share(embargo_pct, len(times))
    folds = Folds(
        time=time,
        label_end=label_end,
        scheme=Scheme(int(groups), int(test_groups), float(embargo_pct), float(holdout_pct)),
        intervals=_intervals(time, label_end, times=times, groups=groups),
        embargo_bars=embargo_bars,
        embargo_ms=embargo_bars * _bar_ms(distinct),
        splits=splits,
        paths=_paths(splits, groups),
    )
    _check_holdout(folds)
    return folds


def _intervals(time: Times, label_end: Times, *, times: Times, groups: int) -> tuple[Run, ...]:
    """The groups that `numpy.array_split` makes of the distinct times, with the latest label_end of their rows."""
    parts = np.array_split(times, groups)
    number = np.searchsorted([part[0] for part in parts], time, side="right") - 1
    inside = time <= times[-1]
    latest = times[[0] * groups]  # no label ends before the first time
    np.maximum.at(latest, number[inside], label_end[inside])
    return tuple(Run(int(part[0]), int(part[-1]), int(end)) for part, end in zip(parts, latest, strict=True))


def _paths(splits: npt.NDArray[np.int64], groups: int) -> npt.NDArray[np.int64]:
    """(n_paths, groups): path p tests group g in the p-th split that tests g (AFML 12.4.1)."""
    return np.array([np.flatnonzero((splits == group).any(axis=1)) for group in range(groups)]).T


def _merged(run: Run, following: Run) -> Run:
    return Run(run.first_ms, following.last_ms, max(run.label_end_ms, following.label_end_ms))


def _share(pct: float, count: int) -> int:
    """`pct` of `count`, rounded up, as the decimal reads: 0.07 of 100 is 7, though 0.07 * 100 is a little more."""
    return math.ceil(Fraction(str(float(pct))) * count)


def _bar_ms(distinct: Times) -> int:
    """The most common step between distinct times, the shortest of several."""
    steps, counts = np.unique(np.diff(distinct), return_counts=True)
    return int(steps[np.argmax(counts)])


def _check_scheme(*, groups: int, test_groups: int, embargo_pct: float, holdout_pct: float) -> None:
    for name, value in (("groups", groups), ("test_groups", test_groups)):
        if not isinstance(value, int | np.integer):
            raise ValueError(f"folds: {name} is {value!r}; it is a whole number of groups")
    if not 1 <= test_groups < groups:
        raise ValueError(f"folds: test_groups is {test_groups} of {groups} groups; 1 to groups - 1 can be tested")
    _check_share("embargo_pct", embargo_pct)
    _check_share("holdout_pct", holdout_pct)


def _check_share(name: str, value: float) -> None:
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"folds: {name} is {value!r}; it is a share of the distinct times, in [0, 1)")


def _check_spans(time: Times, label_end: Times) -> None:
    if time.shape != label_end.shape or time.ndim != 1:
        raise ValueError(
            f"folds: time {time.shape} and label_end {label_end.shape} must be (N,), one span for each row"
        )
    for name, values in (("time", time), ("label_end", label_end)):
        if values.dtype != np.int64:
            raise ValueError(f"folds: {name} is {values.dtype}; give int64 milliseconds")
    reversed_rows = np.flatnonzero(label_end < time)
    if reversed_rows.size:
        row = reversed_rows[0]
        raise ValueError(
            f"folds: label_end lies before time in {len(reversed_rows)} rows, first in row {row} "
            f"({label_end[row]} < {time[row]}); mend the labels"
        )


def _check_holdout(folds: Folds) -> None:
    if folds.scheme.holdout_pct and not folds.holdout().size:
        raise ValueError(
            f"folds: labels of the development part and an embargo of {folds.embargo_bars} bars reach over the whole "
            f"holdout ({len(folds.gap())} rows); raise holdout_pct ({folds.scheme.holdout_pct}), lower embargo_pct "
            f"({folds.scheme.embargo_pct}) or shorten the labels"
        )
