"""Guards of labels: a label reads no bar after its `label_end`, and is known only after its own bar."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import pandas as pd

from pipeline.leakage import cut_times
from pipeline.leakage.findings import Finding, make_finding

Relabel = Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray, np.ndarray]]

PRICES = ("open", "high", "low", "close", "ask_price_", "bid_price_")  # of bars, and the levels of order books
AMOUNTS = (
    "volume",
    "quote_volume",
    "trades",
    "taker_buy_base",
    "taker_buy_quote",
    "half_spread",
    "ask_size_",
    "bid_size_",
)
PRICE_LOG_SD = 0.3  # standard deviation of the log factor that scales the prices of an altered bar


def label_end(bars: pd.DataFrame, relabel: Relabel, target: str, *, cuts: int, seed: int) -> Finding:
    """Return a critical finding where a label changes, by a single bit, when bars after its `label_end` are altered.

    `bars` is the clean table. `relabel` returns the ascending positions of the rows that have a label, their y,
    (n,) or (n, horizons), and their label_end in ms. Rows whose label_end is not after a cut time must keep both, and
    none may disappear or appear. The labels are computed `cuts` times more, on as many bars of the same times: the cost
    is linear in rows.

    Raises:
        ValueError: no label ends before the last bar.
    """
    time, rng = bars["open_time"].to_numpy(), np.random.default_rng(seed)
    original = relabel(bars)  # positions, y, label_end
    if not len(original[0]) or original[2].min() >= time.max():
        raise ValueError(
            f"label_end: of {target} none of {len(original[0])} labels ends before the last bar: give more bars"
        )
    drawn, count = _draw_cut_times(bars, original[2], cuts=cuts, rng=rng), len(bars)
    altered, changes = AlteredBars(bars, rng=rng), dict[int, list[dict[str, Any]]]()
    del bars  # the copy is enough: where the caller has let go of them, their memory is free
    for cut_ms in sorted(drawn, reverse=True):  # so that each bar is altered once
        altered.alter(time > cut_ms)
        found = _find_changes(original, relabel(altered.make_table()), cut_ms=cut_ms, bars=count)
        changes[cut_ms] = [
            {"altered_after_ms": cut_ms, "change": change, "rows": len(rows), "first_row": int(rows[0])}
            for change, rows in found
        ]
    listed = [each for cut_ms in drawn for each in changes[cut_ms]]
    measurements = {
        "target": target,
        "rows": len(original[0]),
        "cuts": len(drawn),
        "altered_after_ms": dict(sorted(drawn.items())),
        "changes": listed,
    }
    ok_message = f"{target}: no label changes at {len(drawn)} cut times when the bars after its label_end are altered"
    problems = list(_describe_changes(target, listed, time=time))
    return make_finding("label_end", problems, ok_message=ok_message, measurements=measurements)


def _draw_cut_times(
    bars: pd.DataFrame, label_end_ms: np.ndarray, *, cuts: int, rng: np.random.Generator
) -> dict[int, str]:
    """Return times to alter bars after, with their kinds, by which a label has ended, and that leave a bar after."""
    time = bars["open_time"].to_numpy()
    ends = label_end_ms[label_end_ms < time.max()]
    times = cut_times.select_times(cut_times.find_bar_candidates(bars), time, first_ms=int(ends.min()))
    return cut_times.draw_cut_times({"label_end": ends, **times}, cuts=cuts, rng=rng)


def _describe_changes(target: str, changes: list[dict[str, Any]], *, time: np.ndarray) -> Iterator[str]:
    """Yield one message for each kind of change, with the first place where it was seen."""
    for change in dict.fromkeys(each["change"] for each in changes):
        alike = [each for each in changes if each["change"] == change]
        first, row = alike[0], alike[0]["first_row"]
        yield (
            f"{target}: {change} when the bars after {first['altered_after_ms']} are altered, in {first['rows']} rows "
            f"whose label_end is not later, first row {row} at {time[row]}; seen at {len(alike)} cut times: "
            "set label_end to the last bar that the label reads"
        )


class AlteredBars:
    """A copy of bars, some of which get other prices and amounts: prices scaled by one random factor a bar, amounts by
    it and permuted.

    High and low still bound open and close, and parts stay below their totals.
    """

    def __init__(self, bars: pd.DataFrame, *, rng: np.random.Generator) -> None:
        """Copy the bars, none of which is altered yet, and draw what they may become."""
        self._factor = np.exp(rng.normal(0.0, PRICE_LOG_SD, len(bars)))  # (N,)
        permutation, names = (
            rng.permutation(len(bars)),
            [name for name in map(str, bars) if is_any(name, (*PRICES, *AMOUNTS))],
        )
        amounts = [name for name in names if is_any(name, AMOUNTS)]
        self._amounts = {name: bars[name].to_numpy()[permutation] * self._factor for name in amounts}
        self._numbers = {name: bars[name].to_numpy(copy=True) for name in names}
        self._others = {name: bars[name].array for name in bars if name not in names}
        self._order, self._index, self._attributes = list(bars), bars.index, bars.attrs
        self._is_altered = np.zeros(len(bars), dtype=bool)

    def alter(self, is_wanted: np.ndarray) -> None:
        """Alter the bars where `is_wanted`, (N,), as far as they are not altered yet."""
        rows = np.flatnonzero(is_wanted & ~self._is_altered)
        self._is_altered[rows] = True
        for name, values in self._numbers.items():
            values[rows] = self._amounts[name][rows] if name in self._amounts else values[rows] * self._factor[rows]

    def make_table(self) -> pd.DataFrame:
        """Return the bars as they are now; what is altered later, is altered in this table too."""
        columns = self._numbers | self._others
        table = pd.DataFrame({name: columns[name] for name in self._order}, index=self._index, copy=False)
        table.attrs = self._attributes
        return table


def is_any(name: str, columns: Collection[str]) -> bool:
    """Return whether a column is one of these, or of those whose names begin with one that ends in `_`."""
    return name in columns or name.startswith(tuple(each for each in columns if each.endswith("_")))


def _find_changes(
    original: tuple[np.ndarray, ...], altered: tuple[np.ndarray, ...], *, cut_ms: int, bars: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each kind of difference among the labels that end by `cut_ms`, with its rows."""
    before, after = (positions[end <= cut_ms] for positions, _, end in (original, altered))
    in_original, in_altered = _mark_positions(original[0], bars), _mark_positions(altered[0], bars)
    if not in_altered[before].all():
        yield "a label disappears", before[~in_altered[before]]
    if not in_original[after].all():
        yield "a label appears", after[~in_original[after]]
    common = before[in_altered[before]]
    is_common = _mark_positions(common, bars)
    for change, part in (("y changes", 1), ("label_end changes", 2)):
        was, now = (_view_bits(table[part][is_common[table[0]]]) for table in (original, altered))
        differs = (was != now).reshape(len(common), -1).any(axis=1)
        if differs.any():
            yield change, common[differs]


def _mark_positions(positions: np.ndarray, bars: int) -> np.ndarray:
    """Return (bars,) whether each is one of the positions."""
    marked = np.zeros(bars, dtype=bool)
    marked[positions] = True
    return marked


def _view_bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def label_timing(bars: pd.DataFrame, positions: np.ndarray, label_end_ms: np.ndarray) -> Finding:
    """Return a critical finding where a label ends by its own bar or outside its segment.

    `positions` are the rows of the clean table `bars` that have the (n,) labels.
    """
    time, segment = (bars[name].to_numpy() for name in ("open_time", "segment"))
    last = np.append(np.flatnonzero(np.diff(segment)), len(bars) - 1)  # of each segment
    end = last[np.searchsorted(last, positions)]
    wrong = {
        "labels_ended_by_own_bar": (
            "labels end by their own bar: a label is known after its row",
            label_end_ms <= time[positions],
        ),
        "labels_outside_segment": ("labels end outside their segment: drop such rows", label_end_ms > time[end]),
        "rows_without_next_bar": ("rows have no next bar in their segment: drop them", positions >= end),
    }
    problems = [
        f"{np.count_nonzero(is_wrong)} {what} (first row {positions[is_wrong][0]} at {time[positions[is_wrong][0]]})"
        for what, is_wrong in wrong.values()
        if is_wrong.any()
    ]
    return make_finding(
        "label_timing",
        problems,
        ok_message=f"{len(positions)} labels end after their bar, within its segment",
        measurements={"rows": len(positions), **{name: int(is_wrong.sum()) for name, (_, is_wrong) in wrong.items()}},
    )
