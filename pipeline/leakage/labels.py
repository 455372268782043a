"""Guards of labels: a label reads no bar after its `label_end`, and is known only after its own bar."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.leakage import cut_times
from pipeline.leakage.findings import Finding, make_finding

Relabel = Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray, np.ndarray]]

PRICES = ["open", "high", "low", "close"]
AMOUNTS = ["volume", "quote_volume", "trades", "taker_buy_base", "taker_buy_quote"]
PRICE_LOG_SD = 0.3  # standard deviation of the log factor that scales the prices of an altered bar


def label_end(bars: pd.DataFrame, relabel: Relabel, target: str, *, cuts: int, seed: int) -> Finding:
    """Return a critical finding where a label changes, by a single bit, when bars after its `label_end` are altered.

    `bars` is the clean table. `relabel` returns the ascending positions of the rows that have a label, their y, and
    their label_end in ms. Rows whose label_end is not after a cut time must keep both, and none may disappear or
    appear. The labels are computed `cuts` times more, on as many bars of the same times: the cost is linear in rows.

    Raises:
        ValueError: no label ends before the last bar.
    """
    time, rng = bars["open_time"].to_numpy(), np.random.default_rng(seed)
    original = relabel(bars)  # positions, y, label_end
    if not len(original[0]) or original[2].min() >= time.max():
        raise ValueError(
            f"label_end: of {target} none of {len(original[0])} labels ends before the last bar: give more bars"
        )
    drawn = _draw_cut_times(bars, original[2], cuts=cuts, rng=rng)
    perturbation, changes = draw_perturbation(bars, rng=rng), list[dict[str, Any]]()
    for cut_ms in drawn:
        changes += [
            {"altered_after_ms": cut_ms, "change": change, "rows": len(rows), "first_row": int(rows[0])}
            for change, rows in _find_changes(
                original, relabel(perturbation.apply(bars, time > cut_ms)), cut_ms=cut_ms, bars=len(bars)
            )
        ]
    measurements = {
        "target": target,
        "rows": len(original[0]),
        "cuts": len(drawn),
        "altered_after_ms": dict(sorted(drawn.items())),
        "changes": changes,
    }
    ok_message = f"{target}: no label changes at {len(drawn)} cut times when the bars after its label_end are altered"
    problems = list(_describe_changes(target, changes, time=time))
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


@dataclass(frozen=True)
class Perturbation:
    """Other prices and amounts of bars: prices scaled by one factor a bar, amounts by it and permuted.

    High and low still bound open and close, and parts stay below their totals.
    """

    factor: np.ndarray  # (N,)
    amounts: dict[str, np.ndarray]  # (N,) each, already scaled

    def apply(self, bars: pd.DataFrame, is_later: np.ndarray) -> pd.DataFrame:
        """Return the bars, with other prices and amounts where `is_later`, (N,)."""
        columns = {name: bars[name].array for name in bars}
        for name in (*PRICES, *self.amounts):
            if name in columns:
                values = bars[name].to_numpy(copy=True)
                later = self.amounts[name] if name in self.amounts else values * self.factor
                np.copyto(values, later, where=is_later, casting="unsafe")
                columns[name] = values
        altered = pd.DataFrame(columns, index=bars.index, copy=False)
        altered.attrs = bars.attrs
        return altered


def draw_perturbation(bars: pd.DataFrame, *, rng: np.random.Generator) -> Perturbation:
    """Return other prices and amounts of the bars, at random."""
    factor, permutation = np.exp(rng.normal(0.0, PRICE_LOG_SD, len(bars))), rng.permutation(len(bars))
    return Perturbation(factor, {name: bars[name].to_numpy()[permutation] * factor for name in AMOUNTS if name in bars})


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
        if (was != now).any():
            yield change, common[was != now]


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
