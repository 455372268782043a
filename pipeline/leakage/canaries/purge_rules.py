"""Rules, correct and incorrect ones, of which rows a split must not train on, given the ranges that it tests."""

import numpy as np

from pipeline.validation.folds import Folds, TimeRange

PURGED_ROWS = 10  # on each side of a test range, where rows are purged by count


def mark_tested(folds: Folds, ranges: list[TimeRange]) -> np.ndarray:
    """Return (N,) whether a row is in a test range."""
    return mark_any([(folds.time >= tested.first_ms) & (folds.time <= tested.last_ms) for tested in ranges])


def mark_purged(folds: Folds, ranges: list[TimeRange]) -> np.ndarray:
    """Return (N,) whether a row's span overlaps that of a test range."""
    return mark_any([(folds.label_end >= tested.first_ms) & (folds.time <= tested.label_end_ms) for tested in ranges])


def mark_embargoed(folds: Folds, ranges: list[TimeRange]) -> np.ndarray:
    """Return (N,) whether a row begins within the embargo after a test range."""
    elapsed_ms = [folds.time - tested.label_end_ms for tested in ranges]
    return mark_any([(elapsed > 0) & (elapsed <= folds.embargo_ms) for elapsed in elapsed_ms])


def purge_and_embargo(folds: Folds, ranges: list[TimeRange]) -> np.ndarray:
    """Return (N,) whether a row is purged or embargoed, by the correct rules."""
    return mark_any([mark_purged(folds, ranges), mark_embargoed(folds, ranges)])


def mark_any(masks: list[np.ndarray]) -> np.ndarray:
    """Return (N,) where any of the masks is true."""
    return np.asarray(np.any(masks, axis=0))


def purge_all_but_one_bar(folds: Folds, ranges: list[TimeRange]) -> np.ndarray:
    """Mark all rows but those whose label ends with the first bar tested: > is written for >=."""
    purged = [mark_purged(folds, [tested]) & (folds.label_end != tested.first_ms) for tested in ranges]
    return mark_any([*purged, mark_embargoed(folds, ranges)])


def purge_outer_edges(folds: Folds, ranges: list[TimeRange]) -> np.ndarray:
    """Mark the rows before the first test range and after the last one, but none in between."""
    before = mark_purged(folds, ranges[:1]) & (folds.time < ranges[0].first_ms)
    after = mark_purged(folds, ranges[-1:]) & (folds.time > ranges[-1].last_ms)
    return mark_any([before, after, mark_embargoed(folds, ranges)])


def purge_by_count(folds: Folds, ranges: list[TimeRange]) -> np.ndarray:
    """Mark PURGED_ROWS rows on each side of a test range."""
    order = np.argsort(folds.time, kind="stable")
    is_dropped = mark_embargoed(folds, ranges)
    for tested in ranges:
        first, last = np.searchsorted(folds.time[order], [tested.first_ms, tested.last_ms + 1])
        is_dropped[order[max(first - PURGED_ROWS, 0) : last + PURGED_ROWS]] = True
    return is_dropped


def embargo_before_tests(folds: Folds, ranges: list[TimeRange]) -> np.ndarray:
    """Mark the purged rows, and those within an embargo before each test range instead of after it."""
    remaining_ms = [tested.first_ms - folds.label_end for tested in ranges]
    before = mark_any([(remaining > 0) & (remaining <= folds.embargo_ms) for remaining in remaining_ms])
    return mark_any([mark_purged(folds, ranges), before])


def embargo_last_test(folds: Folds, ranges: list[TimeRange]) -> np.ndarray:
    """Mark the purged rows, and those within the embargo after the last test range alone."""
    return mark_any([mark_purged(folds, ranges), mark_embargoed(folds, ranges[-1:])])
