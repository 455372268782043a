"""Weights of train rows: by the average uniqueness of their labels, and by their age (López de Prado 2018, chapter 4).

Labels whose spans overlap share information: a row of a crowded time says less than a row of its own.
"""

import numpy as np

from pipeline.samples import Samples


def make_sample_weights(
    samples: Samples, rows: np.ndarray, *, label_uniqueness: bool, time_decay: float
) -> np.ndarray | None:
    """Return the weights of `rows`, (n,) float64 of mean 1; None where every row counts the same."""
    if not label_uniqueness and time_decay == 1.0:
        return None
    uniqueness = measure_uniqueness(rows, time=samples.time, label_end=samples.label_end[rows], segment=samples.segment)
    weight = uniqueness if label_uniqueness else np.ones(len(rows))
    weight = weight * decay_by_age(uniqueness, samples.time[rows], time_decay=time_decay)
    return np.asarray(weight / weight.mean())


def measure_uniqueness(rows: np.ndarray, *, time: np.ndarray, label_end: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """Return the average uniqueness of the labels of `rows`, (n,) float64 in (0, 1].

    It is the mean, over the bars of a label's span, of one over the number of labels whose spans hold that bar (AFML
    4.3 and 4.4). A span runs from the row to its label's end, both included, and ends with its segment at the latest.
    Only the labels of `rows` count, and only those of the same segment: labels of two symbols share no returns.

    >>> end = np.array([2, 3, 5])
    >>> measure_uniqueness(np.array([0, 2, 4]), time=np.arange(6), label_end=end, segment=np.zeros(6, int)).round(4)
    array([0.8333, 0.75  , 1.    ])

    Args:
        rows: (n,) positions of the labeled rows among all bars.
        time: (N,) the clock of all bars, ascending within a segment.
        label_end: (n,) the time at which each label of `rows` ends.
        segment: (N,) the number of each bar's segment; the bars of a segment stand together.
    """
    stop = _find_stops(rows, time=time, label_end=label_end, segment=segment)
    change = np.bincount(rows, minlength=len(time) + 1) - np.bincount(stop, minlength=len(time) + 1)
    concurrent = np.cumsum(change)[:-1]  # (N,) labels whose spans hold each bar
    share = np.divide(1.0, concurrent, out=np.zeros(len(time)), where=concurrent > 0)
    total = np.concatenate([[0.0], np.cumsum(share)])
    return np.asarray((total[stop] - total[rows]) / (stop - rows))


def decay_by_age(uniqueness: np.ndarray, time: np.ndarray, *, time_decay: float) -> np.ndarray:
    """Return factors (n,) in [0, 1] that fall linearly in the sum of uniqueness from the newest row, 1, backwards.

    AFML 4.7: with `time_decay` above 0 the oldest factor tends to it. With one below 0 that share of the oldest
    information counts nothing. Rows of the same time have the same factor.

    >>> decay_by_age(np.ones(4), np.arange(4), time_decay=0.2).round(4)
    array([0.4, 0.6, 0.8, 1. ])
    >>> decay_by_age(np.ones(4), np.arange(4), time_decay=-0.5).round(4)
    array([0. , 0. , 0.5, 1. ])
    """
    instants, place = np.unique(time, return_inverse=True)
    so_far = np.cumsum(np.bincount(place, weights=uniqueness, minlength=len(instants)))[place]
    whole = so_far.max()
    slope = (1.0 - time_decay) / whole if time_decay >= 0 else 1.0 / ((time_decay + 1.0) * whole)
    return np.asarray(np.maximum(1.0 + slope * (so_far - whole), 0.0))


def _find_stops(rows: np.ndarray, *, time: np.ndarray, label_end: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """Return (n,) the position after the last bar of each label's span."""
    begins = np.flatnonzero(np.diff(segment, prepend=segment[:1] - 1))
    ends = np.append(begins[1:], len(segment))
    run, stop = np.searchsorted(begins, rows, side="right") - 1, np.empty(len(rows), dtype=np.int64)
    for each in np.unique(run):
        own, begin = run == each, begins[each]
        stop[own] = begin + np.searchsorted(time[begin : ends[each]], label_end[own], side="right")
    return np.maximum(stop, rows + 1)
