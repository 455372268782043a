"""An index of rows by cell of time, fast where rows are sorted by time, or by symbol and time.

Folds start and stop to use rows at few times: where a group begins, and where its labels and the embargo end. The rows
between two such edges are a cell. All rows of a cell are treated alike, except those whose label reaches a later group.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MAX_SORTED_RUNS = 1024  # runs of ascending time that are sliced one by one; a table with more is sorted
MAX_TIME_MS = 2**60  # sums of two times stay within int64
LONG_RANGE_ROWS = 512  # ranges that are shorter on average are written all at once, longer ones one by one
BLOCK = np.arange(2**15)  # fits a processor's cache while ranges are written from it


@dataclass(frozen=True, eq=False)
class RowIndex:
    """Rows by cell of time, and by the last group that their label reaches; embargo and holdout are the last cells.

    A position counts in the order of `order`; without one, positions are rows. It leaves out rows without a label, and
    is sorted by time where the table was not. A label reaches a group when it ends
    at the group's first time or later.
    """

    first_ms: np.ndarray  # (cells + 2,) int64, ascending; a cell ends where the next begins, the holdout has no end
    group: np.ndarray  # (cells,) the group of each cell
    label_end_ms: np.ndarray  # (groups,) int64, the latest label_end of a group's rows
    is_blocked: np.ndarray  # (groups, cells) bool: cells of the group, in reach of its labels, or in the embargo after
    start: np.ndarray  # (runs, cells + 3) the position where each cell starts, and where the sorted run ends
    rows: int  # N, with those that are not indexed
    order: np.ndarray | None  # (n,) the row at each position; None where positions are rows
    crossing: np.ndarray  # (K,) ascending positions of the rows whose label reaches a later group than their own
    crossing_code: np.ndarray  # (K,) cell · groups + the last group that the label reaches
    rows_ended: np.ndarray  # (cells, groups + 1) the number of rows whose label does not reach group g

    def __len__(self) -> int:
        """Return the number of cells, without the last two, embargo and holdout."""
        return len(self.group)

    @property
    def embargo_cell(self) -> np.ndarray:
        """The cell that is purged and embargoed, between the last group and the holdout."""
        return np.array([len(self)])

    @property
    def holdout_cell(self) -> np.ndarray:
        """The cell of the holdout, the last one."""
        return np.array([len(self) + 1])

    @property
    def group_sizes(self) -> np.ndarray:
        """(groups,) number of rows."""
        return np.add.reduceat(self.rows_ended[:, -1], np.searchsorted(self.group, np.arange(len(self.label_end_ms))))

    def select_rows(self, cells: np.ndarray) -> np.ndarray:
        """Return (n,) all rows, ascending, of the cells with these (ascending) numbers."""
        return self._list_rows(_concatenate_ranges(self.start[:, cells].ravel(), self.start[:, cells + 1].ravel()))

    def select_rows_ended(self, is_used: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """Return (n,) the rows, ascending, of the used cells whose label ends before the group `limit` begins.

        Args:
            is_used: (cells,) bool.
            limit: (cells,) a later group than the cell's own, or the number of groups.
        """
        reaches_limit = is_used[:, None] & (np.arange(len(self.label_end_ms)) >= limit[:, None])  # (cells, groups)
        dropped = self.crossing[reaches_limit.ravel()[self.crossing_code]]
        cells = np.flatnonzero(is_used)
        first, stop = self.start[:, cells].ravel(), self.start[:, cells + 1].ravel()
        positions = _concatenate_ranges(np.sort(np.append(first, dropped + 1)), np.sort(np.append(stop, dropped)))
        return self._list_rows(positions)

    def expand_to_rows(self, cell_values: np.ndarray) -> np.ndarray:
        """Return (N,) the value of each row's cell, from (cells + 2,) values; -1 for a row that is not indexed."""
        sizes = np.diff(self.start, axis=1)  # (runs, cells + 2)
        by_position = np.repeat(np.tile(cell_values, len(sizes)), sizes.ravel())
        if self.order is None:
            return by_position
        values = np.full(self.rows, -1, by_position.dtype)
        values[self.order] = by_position
        return values

    def _list_rows(self, positions: np.ndarray) -> np.ndarray:
        return positions if self.order is None else np.sort(self.order[positions], kind="stable")


def index_rows(
    time: np.ndarray,
    label_end: np.ndarray,
    is_labeled: np.ndarray,
    *,
    group_first_ms: np.ndarray,
    last_ms: int,
    embargo_ms: int,
) -> RowIndex:
    """Return the index of labeled rows with spans [time, label_end].

    Args:
        time: (N,) int64 ms, in any order.
        label_end: (N,) int64 ms.
        is_labeled: (N,) bool.
        group_first_ms: (groups,) the time of the first row of each group.
        last_ms: the time of the last row of the last group.
        embargo_ms: the time after a group's last label from which no split that tests the group trains.
    """
    rows = None if is_labeled.all() else np.flatnonzero(is_labeled)
    order, bounds = _find_sorted_runs(time if rows is None else time[rows])
    order = rows if order is None else order if rows is None else rows[order]
    if order is not None:
        time, label_end = time[order], label_end[order]
    group_start = _find_starts(time, bounds, np.append(group_first_ms, last_ms + 1))[:, :-1]
    label_end_ms, crossing = _scan_label_ends(label_end, group_start, group_first_ms)
    after_ms = label_end_ms + embargo_ms + 1  # (groups,)
    edges = np.unique(np.append(group_first_ms, after_ms[after_ms <= last_ms]))
    first_ms = np.append(edges, [last_ms + 1, after_ms.max()])
    start = _find_starts(time, bounds, first_ms)
    code = _encode_crossings(time[crossing], label_end[crossing], edges=edges, group_first_ms=group_first_ms)
    return RowIndex(
        first_ms=first_ms,
        group=np.searchsorted(group_first_ms, edges, side="right") - 1,
        label_end_ms=label_end_ms,
        is_blocked=(edges >= group_first_ms[:, None]) & (edges < after_ms[:, None]),
        start=start,
        rows=len(is_labeled),
        order=order,
        crossing=crossing,
        crossing_code=code,
        rows_ended=_count_rows_ended(start, code, shape=(len(edges), len(group_first_ms))),
    )


def check_spans(time: np.ndarray, label_end: np.ndarray) -> None:
    """Raise ValueError where [time, label_end] are not N spans in int64 milliseconds; name the first bad row."""
    if time.shape != label_end.shape or time.ndim != 1:
        raise ValueError(
            f"folds: time {time.shape} and label_end {label_end.shape} must be (N,), one span for each row"
        )
    for name, values in (("time", time), ("label_end", label_end)):
        if values.dtype != np.int64:
            raise ValueError(f"folds: {name} is {values.dtype}; give int64 milliseconds")
    reversed_rows = np.flatnonzero(label_end < time)
    if reversed_rows.size:
        row = reversed_rows[0]
        raise ValueError(
            f"folds: label_end lies before time in {len(reversed_rows)} rows, first in row {row} "
            f"({label_end[row]} < {time[row]}); correct the labels"
        )
    if len(time) and (time.min() < -MAX_TIME_MS or label_end.max() > MAX_TIME_MS):
        raise ValueError(
            f"folds: spans reach from {time.min()} to {label_end.max()}; give milliseconds since 1970, and leave out "
            f"rows whose label never ends"
        )


def sort_unique(values: np.ndarray) -> np.ndarray:
    """Return the distinct values, ascending. `numpy.unique` would build a hash table of several times their size."""
    ascending = values if (values[1:] >= values[:-1]).all() else np.sort(values)
    is_new = np.ones(len(values), dtype=bool)
    np.not_equal(ascending[1:], ascending[:-1], out=is_new[1:])
    return ascending[is_new]


def _find_sorted_runs(time: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Return the order to read rows in (None: as they are), and (runs + 1,) the starts of ascending runs, and N."""
    falls = np.flatnonzero(time[1:] < time[:-1]) + 1
    if len(falls) < MAX_SORTED_RUNS:
        return None, np.concatenate([[0], falls, [len(time)]])
    return np.argsort(time, kind="stable"), np.array([0, len(time)])


def _find_starts(time: np.ndarray, bounds: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return (runs, edges + 1) the position of the first row at or after each edge in each run, and the run's end."""
    return np.array(
        [[*(first + np.searchsorted(time[first:stop], edges)), stop] for first, stop in pairwise(bounds.tolist())]
    )


def _scan_label_ends(
    label_end: np.ndarray, group_start: np.ndarray, group_first_ms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (groups,) the latest label_end of each group, and the positions of rows whose label reaches a later one.

    One pass over the labels, by run and group, needs no temporary array as long as the table.
    """
    latest_ms, crossing = group_first_ms.copy(), []
    later_ms = [*group_first_ms[1:], np.iinfo(np.int64).max]
    for run in group_start.tolist():
        for group, (first, stop) in enumerate(pairwise(run)):
            if first < stop:
                latest_ms[group] = max(latest_ms[group], label_end[first:stop].max())
                crossing.append(first + np.flatnonzero(label_end[first:stop] >= later_ms[group]))
    return latest_ms, np.concatenate(crossing)


def _encode_crossings(
    time: np.ndarray, label_end: np.ndarray, *, edges: np.ndarray, group_first_ms: np.ndarray
) -> np.ndarray:
    """Return (K,) cell · groups + the last group that has begun when a row's label ends."""
    cell = np.searchsorted(edges, time, side="right") - 1
    reached = np.searchsorted(group_first_ms, label_end, side="right") - 1
    return (cell * len(group_first_ms) + reached).astype(np.int32)


def _count_rows_ended(start: np.ndarray, crossing_code: np.ndarray, *, shape: tuple[int, int]) -> np.ndarray:
    """Return (cells, groups + 1) the number of a cell's rows whose label does not reach group g; last, all rows."""
    cells, groups = shape
    sizes = np.diff(start, axis=1).sum(axis=0)[:cells]
    by_last_group = np.bincount(crossing_code, minlength=cells * groups).reshape(cells, groups)
    reaching = np.cumsum(by_last_group[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(sizes[:, None] - np.hstack([reaching, np.zeros((cells, 1), np.int64)]))


def _concatenate_ranges(first: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Return first[0], …, stop[0] - 1, first[1], … of ascending, disjoint ranges; some may be empty."""
    is_full = first < stop
    first, stop = first[is_full], stop[is_full]
    length = stop - first
    end = np.cumsum(length)
    total = int(length.sum())
    if total < LONG_RANGE_ROWS * len(first):
        steps = np.ones(total, np.int64)
        steps[end - length] = first - np.append(-1, stop[:-1] - 1)
        steps[:1] = first[:1]
        return np.cumsum(steps, out=steps)
    numbers = np.empty(total, np.int64)
    for at, to, value in zip((end - length).tolist(), end.tolist(), first.tolist(), strict=True):
        for begin in range(at, to, len(BLOCK)):
            block = numbers[begin : min(begin + len(BLOCK), to)]
            np.add(BLOCK[: len(block)], value + begin - at, out=block)
    return numbers
