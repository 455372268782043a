"""The embargo that features and labels need: their longest look-back plus the longest label.

A test range ends with its latest `label_end` b. A train row after b whose features read bars up to b shares them with
test labels, so the embargo is at least the longest warm-up. Beyond it returns are still serially dependent: labels that
overlap have much of their y in common. The longest label is added, so that the label of a test row and the look-back of
a train row are more than a label apart (Lopez de Prado 2018, Advances in Financial Machine Learning, 7.4.2, which
leaves the length open, and 4.2 on overlapping labels). What slower dependence costs is measured by `sensitivity`.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.validation.scheme import find_bar_ms


@dataclass(frozen=True)
class NeededEmbargo:
    """The embargo that features and labels need, in bars, and what it consists of."""

    bars: int  # steps of the clock; more than the sum where a segment goes on over a closing of its market
    warm_up_bars: int
    label_bars: int

    @property
    def reason(self) -> str:
        """One sentence for the report."""
        text = f"the longest warm-up of a feature has {self.warm_up_bars} bars, the longest label {self.label_bars}"
        longer = f"; so many bars of one segment span up to {self.bars} steps of the clock"
        return text + (longer if self.bars > self.warm_up_bars + self.label_bars else "")


def find_needed_embargo(
    time: np.ndarray, label_end: np.ndarray, segment: np.ndarray, *, warm_up_bars: int
) -> NeededEmbargo:
    """Return the embargo for rows with spans [time, label_end], (N,) each, sorted by segment and time.

    A step of the clock is the most common one between distinct times, as for `make_folds`.

    Args:
        time: (N,) of every row whose features are known, on the dataset's clock.
        label_end: (N,) the latest one of any target; `time` of a row without a label.
        segment: (N,) the run of consecutive bars of each row.
        warm_up_bars: of the feature with the longest one.

    Raises:
        ValueError: there are no more rows than the embargo has bars.
    """
    label_bars = _find_longest_label(time, label_end, segment)
    needed = warm_up_bars + label_bars
    if len(time) <= needed:
        raise ValueError(
            f"split: {len(time)} rows before the holdout are no more than their embargo, the longest warm-up of a "
            f"feature ({warm_up_bars} bars) and the longest label ({label_bars})"
        )
    step = find_bar_ms(np.unique(time))
    is_whole = segment[needed:] == segment[: len(segment) - needed]  # both ends lie in one segment
    spans = (time[needed:] - time[: len(time) - needed])[is_whole]
    return NeededEmbargo(math.ceil(spans.max(initial=needed * step) / step), warm_up_bars, label_bars)


def _find_longest_label(time: np.ndarray, label_end: np.ndarray, segment: np.ndarray) -> int:
    """Return by how many rows of its segment the longest label ends after its own row."""
    longest = 0
    for rows in np.split(np.arange(len(time)), np.flatnonzero(np.diff(segment)) + 1):
        last = np.searchsorted(time[rows], label_end[rows], side="right") - 1
        longest = max(longest, int((last - np.arange(len(rows))).max(initial=0)))
    return longest
