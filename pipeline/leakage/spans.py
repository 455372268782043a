"""Spans [time, label_end] of rows, and which of them overlap."""

import numpy as np


def overlaps(
    time: np.ndarray, label_end: np.ndarray, *, rows: np.ndarray, others: np.ndarray, extension_ms: int
) -> np.ndarray:
    """Return (rows,) whether a row's span overlaps that of any of `others`, whose ends are moved by `extension_ms`.

    Spans are compared with each other and not with groups: the check does not depend on how the folds were made.

    >>> time, label_end = np.array([0, 5, 9]), np.array([2, 7, 11])
    >>> overlaps(time, label_end, rows=np.array([0, 2]), others=np.array([1]), extension_ms=2).tolist()
    [False, True]
    """
    if not len(others):  # as the predicted rows of a model whose symbols are not listed yet
        return np.zeros(len(rows), dtype=bool)
    starts, ends = time[others], label_end[others]
    if (starts[1:] < starts[:-1]).any():
        order = np.argsort(starts)
        starts, ends = starts[order], ends[order]
    latest = np.maximum.accumulate(ends)  # of all spans that begin no later
    begun = np.searchsorted(starts, label_end[rows], side="right")
    return np.asarray((begun > 0) & (latest[begun - 1] + extension_ms >= time[rows]))
