"""Rows without a label: by their time they belong to a group or to the holdout, and are predicted there."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class UnlabeledRows:
    """The rows without a label, and the part that each lies in by its time; none is ever trained on."""

    rows: np.ndarray  # (U,) ascending
    group: np.ndarray  # (U,) int32; -1 before the first group, and beyond the development part
    is_holdout: np.ndarray  # (U,) bool

    def select_groups(self, groups: np.ndarray) -> np.ndarray:
        """Return the rows, ascending, of these groups."""
        return np.asarray(self.rows[np.isin(self.group, groups)])

    def select_holdout(self) -> np.ndarray:
        """Return the rows of the holdout, ascending."""
        return np.asarray(self.rows[self.is_holdout])


def locate_unlabeled(
    time: np.ndarray, is_labeled: np.ndarray, *, group_first_ms: np.ndarray, last_ms: int, holdout_ms: int
) -> UnlabeledRows:
    """Return the rows without a label, with their groups and whether they lie in the holdout.

    A row belongs to the group that began last at its time. The last group ends before the first labeled row after
    `last_ms`, and before the holdout. Where no labeled row follows, there is no holdout and the last group has no end.
    Rows from that end to `holdout_ms` are embargoed, as labeled ones are.

    Args:
        time: (N,) int64 ms, in any order.
        is_labeled: (N,) bool.
        group_first_ms: (groups,) the first labeled time of each group, ascending.
        last_ms: the last labeled time of the last group.
        holdout_ms: the first time that labels of the development part and the embargo leave to the holdout.
    """
    rows = np.flatnonzero(~is_labeled)
    if not rows.size:
        return UnlabeledRows(rows, np.empty(0, np.int32), np.empty(0, bool))
    later = time[is_labeled & (time > last_ms)]
    group = (np.searchsorted(group_first_ms, time[rows], side="right") - 1).astype(np.int32)
    if not later.size:
        return UnlabeledRows(rows, group, np.zeros(len(rows), bool))
    group[time[rows] >= min(int(later.min()), holdout_ms)] = -1
    return UnlabeledRows(rows, group, time[rows] >= holdout_ms)
