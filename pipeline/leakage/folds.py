"""Guards of folds: no train row knows of a test row."""

from typing import Protocol

import numpy as np
import pandas as pd

from pipeline.leakage.findings import Finding, verdict

CHANCE_FACTOR = 3.0  # as many times the duplicates that chance explains are still called chance


class _Folds(Protocol):
    """What the guards ask of `pipeline.folds.Folds`."""

    @property
    def time(self) -> np.ndarray: ...
    @property
    def label_end(self) -> np.ndarray: ...
    @property
    def embargo_bars(self) -> int: ...
    @property
    def embargo_ms(self) -> int: ...
    @property
    def n_splits(self) -> int: ...
    def train(self, split: int) -> np.ndarray: ...
    def test(self, split: int) -> np.ndarray: ...
    def development(self) -> np.ndarray: ...
    def holdout(self) -> np.ndarray: ...


def temporal_order(folds: _Folds) -> Finding:
    """Critical where a holdout row begins before all labels of the development part have ended, and the embargo."""
    holdout = folds.holdout()
    if not holdout.size:
        message = "there is no holdout: nothing is left that no fold has seen; raise holdout_pct"
        return Finding("temporal_order", "warning", message, {"holdout_rows": 0})
    known_ms = int(folds.label_end[folds.development()].max())
    first_ms = int(folds.time[holdout].min())
    early = int((folds.time[holdout] <= known_ms + folds.embargo_ms).sum())
    measured = f"the holdout begins at {first_ms}, the last label before it ends at {known_ms}"
    problem = f"{measured}: begin the holdout over {folds.embargo_ms} ms later than that ({early} rows too early)"
    figures = {"label_end_ms": known_ms, "embargo_ms": folds.embargo_ms, "holdout_begins_ms": first_ms}
    return verdict("temporal_order", [problem] if early else [], measured, {**figures, "early_rows": early})


def label_overlap(folds: _Folds) -> Finding:
    """Critical where, in any split, the span [time, label_end] of a train row meets that of a test row.

    Also where a train row begins within the embargo after a test label. Spans are compared with each other, not with
    groups, so the check owes nothing to the way the folds were cut.
    """
    overlaps, embargoed = {}, {}
    for split in range(folds.n_splits):
        train, test = folds.train(split), folds.test(split)
        meets = _meets(folds, train, test, reach_ms=0)
        overlaps[split] = train[meets]
        embargoed[split] = train[_meets(folds, train, test, reach_ms=folds.embargo_ms) & ~meets]
    problems = [
        f"split {split}: {len(rows)} train rows, first row {rows[0]} at {folds.time[rows[0]]}, {what}: {remedy}"
        for found, what, remedy in (
            (overlaps, "have a span that meets a test span", "purge by label_end at every edge of every test run"),
            (embargoed, "begin within the embargo after a test label", "drop them after every test run"),
        )
        for split, rows in found.items()
        if rows.size
    ]
    counts = {"overlapping_rows": sum(map(len, overlaps.values())), "embargoed_rows": sum(map(len, embargoed.values()))}
    fine = f"no train span meets a test span or its embargo in {folds.n_splits} splits"
    return verdict("label_overlap", problems, fine, {"splits": folds.n_splits, **counts})


def _meets(folds: _Folds, train: np.ndarray, test: np.ndarray, *, reach_ms: int) -> np.ndarray:
    """(train,) whether a row's span meets the span of any test row, prolonged by `reach_ms`."""
    order = test[np.argsort(folds.time[test])]
    latest = np.maximum.accumulate(folds.label_end[order])  # of all test spans that begin no later
    begun = np.searchsorted(folds.time[order], folds.label_end[train], side="right")
    return np.asarray((begun > 0) & (latest[begun - 1] + reach_ms >= folds.time[train]))


def duplicates(x: np.ndarray, segment: np.ndarray, folds: _Folds) -> Finding:
    """Critical where a bar stands twice in the table, or more test rows have a twin in train than chance explains.

    Twins have the same features. A row that equals its neighbour in time is a flat market, not a twin. Chance: the
    rows, times the share of values that are not alone in their column, over all columns.
    """
    repeated = np.flatnonzero(pd.DataFrame({"segment": segment, "time": folds.time}).duplicated())
    lively = np.flatnonzero(~_is_flat(x, segment))
    identity = pd.util.hash_pandas_object(pd.DataFrame(x), index=False).to_numpy()
    twins = lively[pd.Series(identity[lively]).duplicated(keep=False)]
    crossing = _twins_across(identity, twins, folds)
    chance = _twins_by_chance(x[lively]) if crossing.size else 0.0
    problems = [f"the bar at {folds.time[row]} stands twice (row {row}): keep one" for row in repeated]
    if len(crossing) > CHANCE_FACTOR * chance:
        problems.append(
            f"{len(crossing)} test rows, first row {crossing[0]} at {folds.time[crossing[0]]}, have the features of a "
            f"train row ({chance:.1f} by chance): drop the copies"
        )
    figures = {"repeated_bars": len(repeated), "flat_rows": len(x) - len(lively), "twins_across": len(crossing)}
    fine = f"no more rows stand on both sides than chance explains ({len(crossing)} of {len(x)})"
    return verdict("duplicates", problems, fine, {**figures, "twins_by_chance": chance})


def _is_flat(x: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """(N,) whether a row equals the one before or after it in its segment."""
    as_before = (x[1:] == x[:-1]).all(axis=1) & (segment[1:] == segment[:-1])
    return np.asarray(np.append(as_before, False) | np.append(False, as_before))


def _twins_across(identity: np.ndarray, twins: np.ndarray, folds: _Folds) -> np.ndarray:
    """The rows of any test or of the holdout that have a twin in the train that goes with it."""
    if not twins.size:
        return twins
    sides = [(folds.train(split), folds.test(split)) for split in range(folds.n_splits)]
    found = []
    for train, test in [*sides, (folds.development(), folds.holdout())]:
        learnt, asked = np.intersect1d(twins, train), np.intersect1d(twins, test)
        found.append(asked[np.isin(identity[asked], identity[learnt])])
    return np.unique(np.concatenate(found))


def _twins_by_chance(x: np.ndarray) -> float:
    """How many rows would share all their values with another if the columns were independent."""
    shared = [pd.Series(column).duplicated(keep=False).mean() for column in x.T]
    return float(len(x) * np.prod(shared))


def embargo(folds: _Folds, lookback_bars: int) -> Finding:
    """A warning where the embargo is shorter than the longest look-back of a feature."""
    figures = {"embargo_bars": folds.embargo_bars, "lookback_bars": lookback_bars}
    measured = f"the embargo has {folds.embargo_bars} bars, the longest look-back {lookback_bars}"
    if folds.embargo_bars >= lookback_bars:
        return Finding("embargo", "ok", measured, figures)
    return Finding("embargo", "warning", f"{measured}: train rows see bars of a test; raise embargo_pct", figures)
