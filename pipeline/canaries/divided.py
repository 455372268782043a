"""Rows on two sides as somebody might divide them: what to learn from, given the runs that are tested."""

from dataclasses import dataclass

import numpy as np

from pipeline.folds import Folds, Run

PURGED_ROWS = 10  # what is purged by count


@dataclass(frozen=True)
class Divided:
    """Rows on two sides of every split, as somebody has divided them."""

    time: np.ndarray  # (N,) ms
    label_end: np.ndarray  # (N,) ms
    embargo_bars: int
    embargo_ms: int
    trains: tuple[np.ndarray, ...]  # rows, by split
    tests: tuple[np.ndarray, ...]
    developed: np.ndarray  # rows
    held_out: np.ndarray
    is_walk_forward: bool

    @property
    def n_splits(self) -> int:
        """How many splits there are."""
        return len(self.trains)

    def train(self, split: int) -> np.ndarray:
        """The rows that a split learns from."""
        return self.trains[split]

    def test(self, split: int) -> np.ndarray:
        """The rows that a split tests."""
        return self.tests[split]

    def development(self) -> np.ndarray:
        """The rows before the holdout."""
        return self.developed

    def holdout(self) -> np.ndarray:
        """The rows that no split sees."""
        return self.held_out


def copied(folds: Folds) -> Divided:
    """The same sides, row by row."""
    splits = range(folds.n_splits)
    return Divided(
        time=folds.time,
        label_end=folds.label_end,
        embargo_bars=folds.embargo_bars,
        embargo_ms=folds.embargo_ms,
        trains=tuple(folds.train(split) for split in splits),
        tests=tuple(folds.test(split) for split in splits),
        developed=folds.development(),
        held_out=folds.holdout(),
        is_walk_forward=folds.is_walk_forward,
    )


def tested(folds: Folds, runs: list[Run]) -> np.ndarray:
    """(N,) whether a row stands in a test run."""
    return anywhere([(folds.time >= run.first_ms) & (folds.time <= run.last_ms) for run in runs])


def purged(folds: Folds, runs: list[Run]) -> np.ndarray:
    """(N,) whether a row's span meets a test run's."""
    return anywhere([(folds.label_end >= run.first_ms) & (folds.time <= run.label_end_ms) for run in runs])


def embargoed(folds: Folds, runs: list[Run]) -> np.ndarray:
    """(N,) whether a row begins within the embargo after a test run."""
    after = [folds.time - run.label_end_ms for run in runs]
    return anywhere([(since > 0) & (since <= folds.embargo_ms) for since in after])


def anywhere(masks: list[np.ndarray]) -> np.ndarray:
    """(N,) where any of the masks holds."""
    return np.asarray(np.any(masks, axis=0))


def purged_but_one_bar(folds: Folds, runs: list[Run]) -> np.ndarray:
    """Kept are rows whose label ends with the first bar tested: > was written for >=."""
    met = [purged(folds, [run]) & (folds.label_end != run.first_ms) for run in runs]
    return anywhere([*met, embargoed(folds, runs)])


def purged_outside(folds: Folds, runs: list[Run]) -> np.ndarray:
    """Purged are the rows before the first test run and after the last one, none in between."""
    before = purged(folds, runs[:1]) & (folds.time < runs[0].first_ms)
    after = purged(folds, runs[-1:]) & (folds.time > runs[-1].last_ms)
    return anywhere([before, after, embargoed(folds, runs)])


def purged_by_count(folds: Folds, runs: list[Run]) -> np.ndarray:
    """Purged are the PURGED_ROWS rows on each side of a test run."""
    order = np.argsort(folds.time, kind="stable")
    dropped = embargoed(folds, runs)
    for run in runs:
        first, last = np.searchsorted(folds.time[order], [run.first_ms, run.last_ms + 1])
        dropped[order[max(first - PURGED_ROWS, 0) : last + PURGED_ROWS]] = True
    return dropped


def embargoed_before(folds: Folds, runs: list[Run]) -> np.ndarray:
    """Purged are all that should be; embargoed are the rows before each test run."""
    distance = [run.first_ms - folds.label_end for run in runs]
    before = anywhere([(until > 0) & (until <= folds.embargo_ms) for until in distance])
    return anywhere([purged(folds, runs), before])


def embargoed_last(folds: Folds, runs: list[Run]) -> np.ndarray:
    """Purged are all that should be; embargoed are the rows after the last test run alone."""
    return anywhere([purged(folds, runs), embargoed(folds, runs[-1:])])


def as_should_be(folds: Folds, runs: list[Run]) -> np.ndarray:
    """Purged and embargoed are all that should be."""
    return anywhere([purged(folds, runs), embargoed(folds, runs)])
