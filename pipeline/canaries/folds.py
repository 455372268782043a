"""Canaries of folds: a row on one side knows of a row on the other."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from pipeline.canaries import divided as rules
from pipeline.canaries.canary import Canary, Outcome
from pipeline.canaries.divided import Divided, copied, tested
from pipeline.canaries.ground import Ground
from pipeline.folds import Folds, Run, cut
from pipeline.leakage.findings import Finding
from pipeline.leakage.folds import duplicates, embargo, label_overlap, temporal_order

GROUPS, TEST_GROUPS, HOLDOUT_PCT = 4, 2, 0.15
LONG_LABEL_BARS = 60  # where ten rows are purged by count
LISTED_LATE = 0.3  # share of the first symbol's time that passes before the second is listed
COPIED_ROWS = 200


class Division(NamedTuple):
    """A table of rows, and how it is divided."""

    folds: Folds | Divided
    x: np.ndarray  # (N, F)
    segment: np.ndarray  # (N,)


Dividing = Callable[[Ground], Division]
Drop = Callable[[Folds, list[Run]], np.ndarray]  # (N,) whether a row is not learnt from, given the runs tested


def asked(divide: Dividing, *, ground: Ground) -> list[Finding]:
    """What the guards of folds say."""
    folds, x, segment = divide(ground)
    return [
        temporal_order(folds),
        label_overlap(folds),
        embargo(folds, ground.warm_up_bars),
        duplicates(x, segment, folds),
    ]


def questioned(ground: Ground) -> Iterator[Outcome]:
    """What the guards say of every canary of this room."""
    for canary in CANARIES:
        leak, twin = (asked(side, ground=ground) for side in (canary.leak, canary.twin))
        yield canary.outcome(leak, twin)


def honest(ground: Ground, *, method: str = "cpcv", label_bars: int | None = None) -> Division:
    """The rows as the pipeline divides them."""
    return Division(folds_of(ground, method=method, label_bars=label_bars), ground.samples.x, ground.samples.segment)


def folds_of(ground: Ground, *, method: str, label_bars: int | None = None) -> Folds:
    """The rows cut by the pipeline; with labels of another length where one is given."""
    time = ground.samples.time
    label_end = time + label_bars * ground.bar_ms if label_bars else ground.samples.label_end
    return cut_in_time(time, label_end, ground, method=method)


def cut_in_time(
    time: np.ndarray, label_end: np.ndarray, ground: Ground, *, method: str, holdout_pct: float = HOLDOUT_PCT
) -> Folds:
    """Rows with these spans, cut by the pipeline, with an embargo as long as the longest look-back."""
    development_times = int(len(np.unique(time)) * (1 - holdout_pct))
    return cut(
        time,
        label_end,
        method=method,
        groups=GROUPS,
        test_groups=TEST_GROUPS,
        train_groups=1,
        embargo_pct=ground.warm_up_bars / development_times,
        holdout_pct=holdout_pct,
    )


def learning_from(ground: Ground, *, dropped: Drop, method: str = "cpcv", label_bars: int | None = None) -> Division:
    """The pipeline's tests, with other rows to learn from."""
    folds = folds_of(ground, method=method, label_bars=label_bars)
    in_development = np.isin(np.arange(len(folds.time)), folds.development())
    runs = [folds.test_runs(split) for split in range(folds.n_splits)]
    trains = tuple(np.flatnonzero(in_development & ~tested(folds, of) & ~dropped(folds, of)) for of in runs)
    return Division(replace(copied(folds), trains=trains), ground.samples.x, ground.samples.segment)


def shuffled(ground: Ground) -> Division:
    """Rows dealt out to the groups at random."""
    folds = folds_of(ground, method="purged_kfold")
    development = folds.development()
    hands = np.array_split(np.random.default_rng(ground.seed).permutation(development), GROUPS)
    tests = tuple(np.sort(hand) for hand in hands)
    trains = tuple(np.setdiff1d(development, test) for test in tests)
    dealt = replace(copied(folds), tests=tests, trains=trains)
    return Division(dealt, ground.samples.x, ground.samples.segment)


def held_out_at_once(ground: Ground) -> Division:
    """A holdout that begins with the bar after the last of the development part."""
    folds = folds_of(ground, method="cpcv")
    rest = np.setdiff1d(np.arange(len(folds.time)), folds.development())
    return Division(replace(copied(folds), held_out=rest), ground.samples.x, ground.samples.segment)


def listed_late(ground: Ground, *, each_its_own: bool) -> Division:
    """All symbols but the first are listed later; groups are cut in time, or in each symbol's own time."""
    samples = ground.samples
    symbol = ground.bars["symbol"].to_numpy()[ground.rows]
    listed_ms = np.quantile(samples.time, LISTED_LATE)
    rows = np.flatnonzero((symbol == symbol[0]) | (samples.time >= listed_ms))
    time, label_end, x, segment = (part[rows] for part in (samples.time, samples.label_end, samples.x, samples.segment))
    whole = cut_in_time(time, label_end, ground, method="purged_kfold")
    if not each_its_own:
        return Division(whole, x, segment)
    developed = whole.development()
    parts = [developed[symbol[rows[developed]] == name] for name in dict.fromkeys(symbol)]
    own = [cut_in_time(time[part], label_end[part], ground, method="purged_kfold", holdout_pct=0.0) for part in parts]
    sides = [
        [
            np.concatenate([part[side(folds, split)] for part, folds in zip(parts, own, strict=True)])
            for split in range(GROUPS)
        ]
        for side in (Folds.train, Folds.test)
    ]
    trains, tests = (tuple(side) for side in sides)
    return Division(replace(copied(whole), trains=trains, tests=tests), x, segment)


def with_rows_copied(ground: Ground) -> Division:
    """Rows of the third group are a copy of rows of the first."""
    folds, x = folds_of(ground, method="cpcv"), ground.samples.x.copy()
    source, copy = (np.flatnonzero(folds.group() == number)[:COPIED_ROWS] for number in (0, 2))
    x[copy] = x[source]
    return Division(folds, x, ground.samples.segment)


def with_bars_twice(ground: Ground) -> Division:
    """Two files that overlap, one after the other."""
    samples = ground.samples
    rows = np.append(np.arange(len(samples.time)), np.arange(COPIED_ROWS))
    time, label_end = samples.time[rows], samples.label_end[rows]
    return Division(cut_in_time(time, label_end, ground, method="cpcv"), samples.x[rows], samples.segment[rows])


def learnt(name: str, guard: str, dropped: Drop, *, mistake: str, instead: str) -> Canary[Dividing]:
    """A canary that learns from other rows than the pipeline's combinatorial splits do."""
    return Canary(name, guard, partial(learning_from, dropped=dropped), honest, mistake, instead)


CANARIES: tuple[Canary[Dividing], ...] = (
    learnt(
        "no_purge",
        "label_overlap",
        rules.embargoed,
        mistake="nothing is purged, so that labels reach over the split",
        instead="rows are purged by the end of their labels",
    ),
    learnt(
        "purge_off_by_one",
        "label_overlap",
        rules.purged_but_one_bar,
        mistake="a row is kept whose label ends with the first bar tested",
        instead="it is purged: spans are closed",
    ),
    learnt(
        "purge_at_outer_edges_only",
        "label_overlap",
        rules.purged_outside,
        mistake="of several test runs only the first one's beginning and the last one's end are purged",
        instead="every edge of every run is",
    ),
    Canary(
        "purge_by_row_count",
        "label_overlap",
        partial(learning_from, dropped=rules.purged_by_count, label_bars=LONG_LABEL_BARS),
        partial(honest, label_bars=LONG_LABEL_BARS),
        "ten rows are purged beside each test run, where labels are sixty bars long",
        "rows are purged by the end of their labels",
    ),
    Canary(
        "groups_cut_by_symbol",
        "label_overlap",
        partial(listed_late, each_its_own=True),
        partial(listed_late, each_its_own=False),
        "each symbol's rows are cut into groups by themselves, where one was listed later than the other",
        "all symbols share the cuts in time",
    ),
    Canary(
        "shuffled_k_fold",
        "label_overlap",
        shuffled,
        partial(honest, method="purged_kfold"),
        "rows are dealt out to the folds at random",
        "a fold is a stretch of time, purged and embargoed",
    ),
    learnt(
        "embargo_before_test",
        "embargo",
        rules.embargoed_before,
        mistake="the embargo lies before the test instead of after it",
        instead="it lies after it",
    ),
    learnt(
        "embargo_after_last_run_only",
        "embargo",
        rules.embargoed_last,
        mistake="of several test runs only the last is followed by an embargo",
        instead="every one is",
    ),
    Canary(
        "holdout_at_once",
        "temporal_order",
        held_out_at_once,
        honest,
        "the holdout begins with the next bar, without waiting for the labels before it",
        "it begins when they have ended, and an embargo",
    ),
    Canary(
        "walk_forward_learns_later_rows",
        "temporal_order",
        partial(learning_from, dropped=rules.as_should_be, method="walk_forward_expanding"),
        partial(honest, method="walk_forward_expanding"),
        "a walk-forward learns from rows after its test too, purged and embargoed as they may be",
        "it learns from the past",
    ),
    Canary(
        "rows_copied_to_both_sides",
        "duplicates",
        with_rows_copied,
        honest,
        "missing rows are made up of rows of another group",
        "every row is its own",
    ),
    Canary(
        "bars_twice",
        "duplicates",
        with_bars_twice,
        honest,
        "two files that overlap are put one after the other",
        "every bar stands once",
    ),
)
