"""Guards of folds: no train row shares information with a test row."""

from itertools import chain
from typing import Protocol

import numpy as np
import pandas as pd

from pipeline.feature_file import Matrix
from pipeline.leakage.findings import Finding, make_finding
from pipeline.leakage.spans import overlaps

CHANCE_FACTOR = 3.0  # up to so many times the duplicates expected by chance are accepted
MULTIPLIER = 0x9E3779B97F4A7C15  # odd, with well-mixed bits: 2^64 over the golden ratio (Knuth, TAOCP 3, 6.4)


class TrainTestSplits(Protocol):
    """Rows with spans [time, label_end], their train and test side in every split, and the holdout.

    `pipeline.validation.folds.Folds` is the pipeline's own. Canaries have deliberately wrong ones.
    """

    @property
    def time(self) -> np.ndarray:
        """(N,) int64 ms."""

    @property
    def label_end(self) -> np.ndarray:
        """(N,) int64 ms."""

    @property
    def embargo_bars(self) -> int:
        """Bars after a test label in which no train row may begin."""

    @property
    def embargo_ms(self) -> int:
        """The same in ms."""

    @property
    def n_splits(self) -> int:
        """Number of splits."""

    @property
    def is_walk_forward(self) -> bool:
        """Whether each split trains on the past of its test alone."""

    def train(self, split: int) -> np.ndarray:
        """Return the train rows of a split."""

    def test(self, split: int) -> np.ndarray:
        """Return the test rows of a split."""

    def development(self) -> np.ndarray:
        """Return the rows before the holdout."""

    def holdout(self) -> np.ndarray:
        """Return the rows that no split contains."""


def temporal_order(folds: TrainTestSplits) -> Finding:
    """Return a critical finding where the holdout begins before all development labels and the embargo have ended.

    In a walk-forward also where a split trains on a row whose label ends when its test has begun. A warning where there
    is no holdout.
    """
    wrong = _find_unfinished_labels(folds) if folds.is_walk_forward else {}
    problems = _describe_unfinished_labels(wrong)
    measurements = {"unfinished_train_labels": sum(rows for _, rows in wrong.values())}
    holdout = folds.holdout()
    if not holdout.size:
        message = "; ".join([*problems, "there is no holdout, so every row is in some fold: raise holdout_pct"])
        return Finding(
            "temporal_order", "critical" if problems else "warning", message, measurements | {"holdout_rows": 0}
        )
    last_ms = int(folds.label_end[folds.development()].max())
    first_ms = int(folds.time[holdout].min())
    early = int((folds.time[holdout] <= last_ms + folds.embargo_ms).sum())
    measured = f"the holdout begins at {first_ms}, the last label before it ends at {last_ms}"
    if early:
        problems.append(f"{measured}: begin it more than {folds.embargo_ms} ms after that ({early} rows too early)")
    measurements |= {
        "development_end_ms": last_ms,
        "embargo_ms": folds.embargo_ms,
        "holdout_start_ms": first_ms,
        "early_holdout_rows": early,
    }
    return make_finding("temporal_order", problems, ok_message=measured, measurements=measurements)


def _find_unfinished_labels(folds: TrainTestSplits) -> dict[int, tuple[int, int]]:
    """Return by split when its test begins and how many train labels have not ended by then, if any."""
    unfinished = {}
    for split in range(folds.n_splits):
        first_ms = int(folds.time[folds.test(split)].min())
        count = int((folds.label_end[folds.train(split)] >= first_ms).sum())
        if count:
            unfinished[split] = first_ms, count
    return unfinished


def _describe_unfinished_labels(unfinished: dict[int, tuple[int, int]]) -> list[str]:
    return [
        f"split {split}: {rows} train labels have not ended at {first_ms}, when its test begins: train on the past"
        for split, (first_ms, rows) in unfinished.items()
    ]


def label_overlap(folds: TrainTestSplits) -> Finding:
    """Return a critical finding where, in any split, the span [time, label_end] of a train row overlaps a test span."""
    overlapping = _find_overlaps(folds, extension_ms=0)
    problems = [
        f"split {split}: {len(rows)} train rows, first row {rows[0]} at {folds.time[rows[0]]}, overlap "
        f"a test span: purge by label_end at every edge of every test run"
        for split, rows in overlapping.items()
    ]
    measurements = {"splits": folds.n_splits, "overlapping_rows": sum(map(len, overlapping.values()))}
    ok_message = f"no train span overlaps a test span in {folds.n_splits} splits"
    return make_finding("label_overlap", problems, ok_message=ok_message, measurements=measurements)


def embargo(folds: TrainTestSplits, warm_up_bars: int) -> Finding:
    """Return a critical finding where a train row that overlaps no test span begins within the embargo after one.

    A warning where the embargo is shorter than the longest warm-up of a feature.
    """
    within = _find_overlaps(folds, excluded_ms=0, extension_ms=folds.embargo_ms)
    problems = [
        f"split {split}: {len(rows)} train rows, first row {rows[0]} at {folds.time[rows[0]]}, begin within the "
        f"embargo of {folds.embargo_bars} bars after a test label: drop them after every test range"
        for split, rows in within.items()
    ]
    measurements = {
        "embargo_bars": folds.embargo_bars,
        "warm_up_bars": warm_up_bars,
        "rows_within_embargo": sum(map(len, within.values())),
    }
    measured = f"the embargo has {folds.embargo_bars} bars, the longest warm-up of a feature {warm_up_bars}"
    if problems or folds.embargo_bars >= warm_up_bars:
        return make_finding("embargo", problems, ok_message=measured, measurements=measurements)
    message = f"{measured}: features of train rows read bars of a test range; set split.embargo_pct, "
    message += "embargo_bars and embargo_hours to null: the embargo then follows from warm-up and labels"
    return Finding("embargo", "warning", message, measurements)


def _find_overlaps(
    folds: TrainTestSplits, *, extension_ms: int, excluded_ms: int | None = None
) -> dict[int, np.ndarray]:
    """Return by split the train rows, if any, that overlap a test span extended by `extension_ms`.

    Rows that overlap one extended by `excluded_ms` are left out.
    """
    by_split = {}
    for split in range(folds.n_splits):
        rows, test = folds.train(split), folds.test(split)
        rows = rows[overlaps(folds.time, folds.label_end, rows=rows, others=test, extension_ms=extension_ms)]
        if excluded_ms is not None:
            rows = rows[~overlaps(folds.time, folds.label_end, rows=rows, others=test, extension_ms=excluded_ms)]
        if rows.size:
            by_split[split] = rows
    return by_split


def duplicates(x: Matrix, segment: np.ndarray, folds: TrainTestSplits) -> Finding:
    """Return a critical finding where a bar is repeated, or more test rows are copies of train rows than by chance.

    Duplicates have the same features. A row that equals its neighbor in time is a flat market, not a duplicate.
    Expected by chance is the number of rows times the product, over columns, of the share of values that recur.
    """
    repeated = np.flatnonzero(pd.DataFrame({"segment": segment, "time": folds.time}).duplicated())
    not_flat = np.flatnonzero(~_is_flat(x, segment))
    row_hash = _hash_rows(x)
    duplicated = not_flat[_find_recurring(row_hash[not_flat])]
    crossing = _find_crossing_duplicates(row_hash, duplicated, folds)
    expected = _estimate_chance_duplicates(x, not_flat) if crossing.size else 0.0
    problems = [f"the bar at {folds.time[row]} is repeated (row {row}): drop one of the two" for row in repeated]
    if len(crossing) > CHANCE_FACTOR * expected:
        problems.append(
            f"{len(crossing)} test rows, first row {crossing[0]} at {folds.time[crossing[0]]}, have the features of a "
            f"train row ({expected:.1f} expected by chance): drop the copies"
        )
    measurements = {
        "repeated_bars": len(repeated),
        "flat_rows": len(segment) - len(not_flat),
        "crossing_duplicates": len(crossing),
        "expected_by_chance": expected,
    }
    ok_message = (
        f"{len(crossing)} of {len(segment)} rows are both in train and in test, no more than expected by chance"
    )
    return make_finding("duplicates", problems, ok_message=ok_message, measurements=measurements)


def _is_flat(x: Matrix, segment: np.ndarray) -> np.ndarray:
    """Return (N,) whether a row equals the one before or after it in its segment."""
    as_before = segment[1:] == segment[:-1]
    for number in range(x.shape[1]):
        column = x[:, number]
        as_before &= column[1:] == column[:-1]
    return np.asarray(np.append(as_before, False) | np.append(False, as_before))


def _hash_rows(x: Matrix) -> np.ndarray:
    """Return (N,) uint64, the same for rows with the same features; zeros of both signs are equal."""
    row_hash = np.zeros(x.shape[0], dtype=np.uint64)
    for number in range(x.shape[1]):
        row_hash *= np.uint64(MULTIPLIER)
        row_hash += pd.util.hash_array(x[:, number] + np.float32(0.0))
    return row_hash


def _find_recurring(values: np.ndarray) -> np.ndarray:
    """Return (n,) whether another of the values is the same; by sorting, as a hash table takes several times more."""
    ordered = np.sort(values)
    recurring = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(recurring):
        return np.zeros(len(values), dtype=bool)
    place = np.searchsorted(recurring, values)
    np.minimum(place, len(recurring) - 1, out=place)
    return np.asarray(recurring[place] == values)


def _find_crossing_duplicates(row_hash: np.ndarray, duplicated: np.ndarray, folds: TrainTestSplits) -> np.ndarray:
    """Return the rows of any test, or of the holdout, that have a duplicate among the train rows of the same split."""
    if not duplicated.size:
        return duplicated
    is_duplicated, is_crossing = np.zeros((2, len(row_hash)), dtype=bool)
    is_duplicated[duplicated] = True
    splits = ((folds.train(split), folds.test(split)) for split in range(folds.n_splits))
    for train, test in chain(splits, [(folds.development(), folds.holdout())]):
        in_train, in_test = train[is_duplicated[train]], test[is_duplicated[test]]
        is_crossing[in_test[np.isin(row_hash[in_test], row_hash[in_train])]] = True
    return np.flatnonzero(is_crossing)


def _estimate_chance_duplicates(x: Matrix, rows: np.ndarray) -> float:
    """Return how many of the rows would share all values with another if the columns were independent."""
    recurring = [pd.Series(x[:, number][rows]).duplicated(keep=False).mean() for number in range(x.shape[1])]
    return float(len(rows) * np.prod(recurring))
