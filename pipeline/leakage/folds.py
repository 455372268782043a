"""Guards of folds: no train row knows of a test row."""

from itertools import chain
from typing import Protocol

import numpy as np
import pandas as pd

from pipeline.leakage.findings import Finding, verdict
from pipeline.leakage.spans import meets

CHANCE_FACTOR = 3.0  # as many times the duplicates that chance explains are still called chance
MULTIPLIER = 0x9E3779B97F4A7C15  # odd, its bits as if thrown: 2^64 over the golden ratio (Knuth, TAOCP 3, 6.4)


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
    @property
    def is_walk_forward(self) -> bool: ...
    def train(self, split: int) -> np.ndarray: ...
    def test(self, split: int) -> np.ndarray: ...
    def development(self) -> np.ndarray: ...
    def holdout(self) -> np.ndarray: ...


def temporal_order(folds: _Folds) -> Finding:
    """Critical where a holdout row begins before all labels of the development part have ended, and the embargo.

    In a walk-forward also where a split learns from a row whose label ends when its test has begun.
    """
    backward = _backward(folds) if folds.is_walk_forward else {}
    figures, problems = {"backward_rows": sum(rows for _, rows in backward.values())}, _of_backward(backward)
    holdout = folds.holdout()
    if not holdout.size:
        message = "; ".join([*problems, "there is no holdout, nothing that no fold has seen: raise holdout_pct"])
        return Finding("temporal_order", "critical" if problems else "warning", message, figures | {"holdout_rows": 0})
    known_ms = int(folds.label_end[folds.development()].max())
    first_ms = int(folds.time[holdout].min())
    early = int((folds.time[holdout] <= known_ms + folds.embargo_ms).sum())
    measured = f"the holdout begins at {first_ms}, the last label before it ends at {known_ms}"
    if early:
        remedy = f"begin the holdout over {folds.embargo_ms} ms later than that ({early} rows too early)"
        problems.append(f"{measured}: {remedy}")
    figures |= {"label_end_ms": known_ms, "embargo_ms": folds.embargo_ms, "holdout_begins_ms": first_ms}
    return verdict("temporal_order", problems, measured, {**figures, "early_rows": early})


def _backward(folds: _Folds) -> dict[int, tuple[int, int]]:
    """By split, when its test begins and how many train labels have not ended by then, if any."""
    found = {}
    for split in range(folds.n_splits):
        first_ms = int(folds.time[folds.test(split)].min())
        late = int((folds.label_end[folds.train(split)] >= first_ms).sum())
        if late:
            found[split] = first_ms, late
    return found


def _of_backward(backward: dict[int, tuple[int, int]]) -> list[str]:
    return [
        f"split {split}: {rows} train labels have not ended at {first_ms}, when its test begins: learn from the past"
        for split, (first_ms, rows) in backward.items()
    ]


def label_overlap(folds: _Folds) -> Finding:
    """Critical where, in any split, the span [time, label_end] of a train row meets that of a test row."""
    overlaps = _met(folds, reach_ms=0)
    problems = [
        f"split {split}: {len(rows)} train rows, first row {rows[0]} at {folds.time[rows[0]]}, have a span that meets "
        f"a test span: purge by label_end at every edge of every test run"
        for split, rows in overlaps.items()
    ]
    figures = {"splits": folds.n_splits, "overlapping_rows": sum(map(len, overlaps.values()))}
    return verdict("label_overlap", problems, f"no train span meets a test span in {folds.n_splits} splits", figures)


def embargo(folds: _Folds, lookback_bars: int) -> Finding:
    """Critical where a train row begins within the embargo after a test label that it does not meet already.

    A warning where the embargo is shorter than the longest look-back of a feature.
    """
    within = _met(folds, beyond_ms=0, reach_ms=folds.embargo_ms)
    problems = [
        f"split {split}: {len(rows)} train rows, first row {rows[0]} at {folds.time[rows[0]]}, begin within the "
        f"embargo of {folds.embargo_bars} bars after a test label: drop them after every test run"
        for split, rows in within.items()
    ]
    figures = {
        "embargo_bars": folds.embargo_bars,
        "lookback_bars": lookback_bars,
        "embargoed_rows": sum(map(len, within.values())),
    }
    measured = f"the embargo has {folds.embargo_bars} bars, the longest look-back {lookback_bars}"
    if problems or folds.embargo_bars >= lookback_bars:
        return verdict("embargo", problems, measured, figures)
    return Finding("embargo", "warning", f"{measured}: train rows see bars of a test; raise embargo_pct", figures)


def _met(folds: _Folds, *, reach_ms: int, beyond_ms: int | None = None) -> dict[int, np.ndarray]:
    """By split, the train rows, if any, whose span meets a test span prolonged by `reach_ms` but not by `beyond_ms`."""
    found = {}
    for split in range(folds.n_splits):
        train, test = folds.train(split), folds.test(split)
        met = train[meets(folds.time, folds.label_end, rows=train, others=test, reach_ms=reach_ms)]
        if beyond_ms is not None:
            met = met[~meets(folds.time, folds.label_end, rows=met, others=test, reach_ms=beyond_ms)]
        if met.size:
            found[split] = met
    return found


def duplicates(x: np.ndarray, segment: np.ndarray, folds: _Folds) -> Finding:
    """Critical where a bar stands twice in the table, or more test rows have a twin in train than chance explains.

    Twins have the same features. A row that equals its neighbour in time is a flat market, not a twin. Chance: the
    rows, times the share of values that are not alone in their column, over all columns.
    """
    repeated = np.flatnonzero(pd.DataFrame({"segment": segment, "time": folds.time}).duplicated())
    lively = np.flatnonzero(~_is_flat(x, segment))
    identity = _identity(x)
    twins = lively[pd.Series(identity[lively]).duplicated(keep=False)]
    crossing = _twins_across(identity, twins, folds)
    chance = _twins_by_chance(x, lively) if crossing.size else 0.0
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
    as_before = segment[1:] == segment[:-1]
    for column in x.T:
        as_before &= column[1:] == column[:-1]
    return np.asarray(np.append(as_before, False) | np.append(False, as_before))


def _identity(x: np.ndarray) -> np.ndarray:
    """(N,) uint64, the same for rows with the same features; zeros of both signs are the same."""
    identity = np.zeros(len(x), dtype=np.uint64)
    for column in x.T:
        identity = identity * np.uint64(MULTIPLIER) + pd.util.hash_array(column + np.float32(0.0))
    return identity


def _twins_across(identity: np.ndarray, twins: np.ndarray, folds: _Folds) -> np.ndarray:
    """The rows of any test or of the holdout that have a twin in the train that goes with it."""
    if not twins.size:
        return twins
    is_twin, is_across = np.zeros((2, len(identity)), dtype=bool)
    is_twin[twins] = True
    splits = ((folds.train(split), folds.test(split)) for split in range(folds.n_splits))
    for train, test in chain(splits, [(folds.development(), folds.holdout())]):
        learnt, asked = train[is_twin[train]], test[is_twin[test]]
        is_across[asked[np.isin(identity[asked], identity[learnt])]] = True
    return np.flatnonzero(is_across)


def _twins_by_chance(x: np.ndarray, rows: np.ndarray) -> float:
    """How many of the rows would share all their values with another if the columns were independent."""
    shared = [pd.Series(column[rows]).duplicated(keep=False).mean() for column in x.T]
    return float(len(rows) * np.prod(shared))
