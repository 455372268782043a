"""Spans of time [time, label_end] of rows, and which of them meet others."""

import numpy as np


def meets(
    time: np.ndarray, label_end: np.ndarray, *, rows: np.ndarray, others: np.ndarray, reach_ms: int
) -> np.ndarray:
    """(rows,) whether a row's span meets the span of any of `others`, prolonged by `reach_ms`.

    Spans are compared with each other and not with groups, so this owes nothing to the way that folds were cut.
    """
    starts, ends = time[others], label_end[others]
    if (starts[1:] < starts[:-1]).any():
        order = np.argsort(starts)
        starts, ends = starts[order], ends[order]
    latest = np.maximum.accumulate(ends)  # of all spans that begin no later
    begun = np.searchsorted(starts, label_end[rows], side="right")
    return np.asarray((begun > 0) & (latest[begun - 1] + reach_ms >= time[rows]))
