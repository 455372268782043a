"""Rows of a table by cell of time, as slices: of the table itself where it is sorted by time, or so within each symbol.

Folds begin and cease to use rows at few times: where a group begins, and where its labels and the embargo end. The rows
between two such edges are a cell, and share their fate but for those whose label crosses into a later group.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MOST_STRETCHES = 1024  # of ascending time that are sliced one by one; a table in less order than that is sorted
LATEST_MS = 2**60  # what is added to a time stays within int64
LONG_ROWS = 512  # ranges that are shorter on average are written all at once, longer ones each by itself
BLOCK = np.arange(2**15)  # small enough to stay in a processor's cache while ranges are written from it


@dataclass(frozen=True, eq=False)
class Cells:
    """Rows by cell and, within it, by the last group that their label reaches; after the cells, gap and holdout.

    A place is a position in the order of `order`; without one, places are rows. A label reaches a group when it ends
    at the group's first time or later.
    """

    first_ms: np.ndarray  # (cells + 2,) int64, ascending; a cell ends where the next begins, the holdout never
    group: np.ndarray  # (cells,) the group that a cell is part of
    label_end_ms: np.ndarray  # (groups,) int64, the latest label_end of a group's rows
    shadow: np.ndarray  # (groups, cells) bool: the group itself, what its labels reach, and the embargo after them
    begin: np.ndarray  # (stretches, cells + 3) the place where each cell begins, and where the stretch ends
    order: np.ndarray | None  # (N,) the row at each place of a table that had to be sorted by time
    crossing: np.ndarray  # (K,) the places, ascending, of rows whose label reaches a later group than their own
    fate: np.ndarray  # (K,) the cell of each of them times groups, plus the last group that its label reaches
    ended: np.ndarray  # (cells, groups + 1) how many rows have a label that does not reach group g

    def __len__(self) -> int:
        """The number of cells, without gap and holdout."""
        return len(self.group)

    @property
    def gap(self) -> np.ndarray:
        """The cell between the last group and the holdout."""
        return np.array([len(self)])

    @property
    def holdout(self) -> np.ndarray:
        """The cell after the gap."""
        return np.array([len(self) + 1])

    @property
    def group_rows(self) -> np.ndarray:
        """(groups,) how many rows each group has."""
        return np.add.reduceat(self.ended[:, -1], np.searchsorted(self.group, np.arange(len(self.label_end_ms))))

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """(n,) all rows, ascending, of the cells of these (ascending) numbers."""
        return self._rows_at(_ranges(self.begin[:, chosen].ravel(), self.begin[:, chosen + 1].ravel()))

    def rows_before(self, kept: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """(n,) the rows, ascending, of the `kept` cells whose label does not reach the group `limit`.

        Args:
            kept: (cells,) bool.
            limit: (cells,) a later group than the cell's own, or the number of groups.
        """
        is_late = kept[:, None] & (np.arange(len(self.label_end_ms)) >= limit[:, None])  # (cells, groups)
        late = self.crossing[is_late.ravel()[self.fate]]
        chosen = np.flatnonzero(kept)
        first, stop = self.begin[:, chosen].ravel(), self.begin[:, chosen + 1].ravel()
        return self._rows_at(_ranges(np.sort(np.append(first, late + 1)), np.sort(np.append(stop, late))))

    def by_row(self, of_cell: np.ndarray) -> np.ndarray:
        """(N,) for each row the value of its cell, out of (cells + 2,)."""
        sizes = np.diff(self.begin, axis=1)  # (stretches, cells + 2)
        at_place = np.repeat(np.tile(of_cell, len(sizes)), sizes.ravel())
        if self.order is None:
            return at_place
        values = np.empty_like(at_place)
        values[self.order] = at_place
        return values

    def _rows_at(self, places: np.ndarray) -> np.ndarray:
        return places if self.order is None else np.sort(self.order[places])


def located(
    time: np.ndarray, label_end: np.ndarray, *, group_first_ms: np.ndarray, last_ms: int, embargo_ms: int
) -> Cells:
    """The rows with spans [time, label_end] by cell.

    Args:
        time: (N,) int64 ms, in any order.
        label_end: (N,) int64 ms.
        group_first_ms: (groups,) the time of the first row of each group.
        last_ms: the time of the last row of the last group.
        embargo_ms: how long after the last label of a group nothing may be learnt.
    """
    order, bounds = _stretches(time)
    if order is not None:
        time, label_end = time[order], label_end[order]
    group_begin = _begin(time, bounds, np.append(group_first_ms, last_ms + 1))[:, :-1]
    label_end_ms, crossing = _label_ends(label_end, group_begin, group_first_ms)
    after_ms = label_end_ms + embargo_ms + 1  # (groups,)
    edges = np.unique(np.append(group_first_ms, after_ms[after_ms <= last_ms]))
    first_ms = np.append(edges, [last_ms + 1, after_ms.max()])
    begin = _begin(time, bounds, first_ms)
    fate = _fate(time[crossing], label_end[crossing], edges=edges, group_first_ms=group_first_ms)
    return Cells(
        first_ms=first_ms,
        group=np.searchsorted(group_first_ms, edges, side="right") - 1,
        label_end_ms=label_end_ms,
        shadow=(edges >= group_first_ms[:, None]) & (edges < after_ms[:, None]),
        begin=begin,
        order=order,
        crossing=crossing,
        fate=fate,
        ended=_ended(begin, fate, shape=(len(edges), len(group_first_ms))),
    )


def check_spans(time: np.ndarray, label_end: np.ndarray) -> None:
    """Raises ValueError where [time, label_end] are not N spans of whole milliseconds; names the first that is none."""
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
            f"({label_end[row]} < {time[row]}); mend the labels"
        )
    if len(time) and (time.min() < -LATEST_MS or label_end.max() > LATEST_MS):
        raise ValueError(
            f"folds: spans reach from {time.min()} to {label_end.max()}; give milliseconds since 1970, and to a label "
            f"that never comes true no row"
        )


def distinct(values: np.ndarray) -> np.ndarray:
    """The values, ascending, once each. `numpy.unique` would build a hash table of them, several times their size."""
    ascending = values if (values[1:] >= values[:-1]).all() else np.sort(values)
    is_new = np.ones(len(values), dtype=bool)
    np.not_equal(ascending[1:], ascending[:-1], out=is_new[1:])
    return ascending[is_new]


def _stretches(time: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """The order in which to read the rows, None for their own, and (stretches + 1,) where time begins anew, and N."""
    falls = np.flatnonzero(time[1:] < time[:-1]) + 1
    if len(falls) < MOST_STRETCHES:
        return None, np.concatenate([[0], falls, [len(time)]])
    return np.argsort(time, kind="stable"), np.array([0, len(time)])


def _begin(time: np.ndarray, bounds: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(stretches, edges + 1): the place in each stretch of the first row at or after each edge; the stretch's end."""
    return np.array(
        [[*(first + np.searchsorted(time[first:stop], edges)), stop] for first, stop in pairwise(bounds.tolist())]
    )


def _label_ends(
    label_end: np.ndarray, group_begin: np.ndarray, group_first_ms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(groups,) the latest label_end of each group; the places, ascending, of rows whose label reaches a later group.

    One pass over the labels, a group of a stretch at a time, so that nothing as long as the table is held.
    """
    latest_ms, crossing = group_first_ms.copy(), []
    later_ms = [*group_first_ms[1:], np.iinfo(np.int64).max]
    for stretch in group_begin.tolist():
        for group, (first, stop) in enumerate(pairwise(stretch)):
            if first < stop:
                latest_ms[group] = max(latest_ms[group], label_end[first:stop].max())
                crossing.append(first + np.flatnonzero(label_end[first:stop] >= later_ms[group]))
    return latest_ms, np.concatenate(crossing)


def _fate(time: np.ndarray, label_end: np.ndarray, *, edges: np.ndarray, group_first_ms: np.ndarray) -> np.ndarray:
    """(K,) cell times groups plus reach, the last group that has begun when a row's label ends."""
    cell = np.searchsorted(edges, time, side="right") - 1
    reach = np.searchsorted(group_first_ms, label_end, side="right") - 1
    return (cell * len(group_first_ms) + reach).astype(np.int32)


def _ended(begin: np.ndarray, fate: np.ndarray, *, shape: tuple[int, int]) -> np.ndarray:
    """(cells, groups + 1) the rows of a cell less those whose label reaches group g; reaching no group costs none."""
    cells, groups = shape
    sizes = np.diff(begin, axis=1).sum(axis=0)[:cells]
    by_reach = np.bincount(fate, minlength=cells * groups).reshape(cells, groups)
    reached = np.cumsum(by_reach[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(sizes[:, None] - np.hstack([reached, np.zeros((cells, 1), np.int64)]))


def _ranges(first: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """The numbers first[0], …, stop[0] - 1, first[1], … of ascending ranges that do not overlap; some may be empty."""
    is_full = first < stop
    first, stop = first[is_full], stop[is_full]
    length = stop - first
    end = np.cumsum(length)
    total = int(length.sum())
    if total < LONG_ROWS * len(first):
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
