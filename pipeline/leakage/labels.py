"""Guards of labels: nothing after `label_end` has a say in a label, and nothing up to its own bar is what came true."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from pipeline.leakage import cuts as places
from pipeline.leakage.findings import Finding, verdict

Relabel = Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray, np.ndarray]]

PRICES = ["open", "high", "low", "close"]
AMOUNTS = ["volume", "quote_volume", "trades", "taker_buy_base", "taker_buy_quote"]
JOLT = 0.3  # standard deviation of the log factor that an altered bar's prices are scaled by


def label_end(bars: pd.DataFrame, relabel: Relabel, target: str, *, cuts: int, seed: int) -> Finding:
    """Critical where a label changes, by a single bit, when bars after its `label_end` are altered.

    `bars` is the clean table; `relabel` answers with the ascending positions of the rows that have a label, their y,
    and their label_end in ms. Rows whose label_end is not after an instant must keep both, and none may vanish or
    appear. The labels are computed `cuts` times more, on as many bars of the same times: the cost is linear in rows.
    """
    time, rng = bars["open_time"].to_numpy(), np.random.default_rng(seed)
    known = relabel(bars)  # positions, y, label_end
    ends = known[2][known[2] < time.max()]
    if not len(ends):
        raise ValueError(
            f"label_end: of {target} none of {len(known[0])} labels ends before the last bar: give more bars"
        )
    kinds = places.instants(places.of_bars(bars), time, first_ms=int(ends.min()))
    instants = places.choose({"label_end": ends, **kinds}, cuts=cuts, rng=rng)
    jolt, changes = jolted(bars, rng=rng), list[dict[str, Any]]()
    for instant in instants:
        altered = relabel(_spliced(bars, jolt, time > instant))
        changes += [
            {"altered_after_ms": instant, "what": what, "rows": len(rows), "row": int(rows[0])}
            for what, rows in _changes(known, altered, instant=instant, bars=len(bars))
        ]
    figures = {
        "target": target,
        "rows": len(known[0]),
        "cuts": len(instants),
        "altered_after_ms": dict(sorted(instants.items())),
        "changed": changes,
    }
    fine = f"{target}: no label changes at {len(instants)} instants when the bars after its label_end are altered"
    return verdict("label_end", list(_problems(target, changes, time)), fine, figures)


def _problems(target: str, changes: list[dict[str, Any]], time: np.ndarray) -> Iterator[str]:
    """One for each kind of change, with the first place where it was seen."""
    for what in dict.fromkeys(change["what"] for change in changes):
        alike = [change for change in changes if change["what"] == what]
        first, row = alike[0], alike[0]["row"]
        yield (
            f"{target} {what} when the bars after {first['altered_after_ms']} are altered, in {first['rows']} rows "
            f"whose label_end is not after it, first row {row} at {time[row]}, and so at {len(alike)} instants: "
            "let label_end be the last bar that the label reads"
        )


def jolted(bars: pd.DataFrame, *, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Other prices and amounts for every bar: its prices scaled by one factor, and amounts by it and exchanged.

    High and low go on bounding open and close, and parts stay below their totals.
    """
    factor, exchanged = np.exp(rng.normal(0.0, JOLT, len(bars))), rng.permutation(len(bars))
    prices = {name: bars[name].to_numpy() * factor for name in PRICES if name in bars}
    return prices | {name: bars[name].to_numpy()[exchanged] * factor for name in AMOUNTS if name in bars}


def _spliced(bars: pd.DataFrame, jolt: dict[str, np.ndarray], is_later: np.ndarray) -> pd.DataFrame:
    """The bars, and other ones of the same times where `is_later`."""
    columns = {name: np.where(is_later, values, bars[name].to_numpy()) for name, values in jolt.items()}
    return bars.assign(**{name: values.astype(bars[name].to_numpy().dtype) for name, values in columns.items()})


def _changes(
    known: tuple[np.ndarray, ...], altered: tuple[np.ndarray, ...], *, instant: int, bars: int
) -> Iterator[tuple[str, np.ndarray]]:
    """What differs among the labels that end by `instant`, and the rows that do."""
    before, after = (positions[end <= instant] for positions, _, end in (known, altered))
    in_known, in_altered = _marked(known[0], bars), _marked(altered[0], bars)
    if not in_altered[before].all():
        yield "vanishes", before[~in_altered[before]]
    if not in_known[after].all():
        yield "appears", after[~in_known[after]]
    kept = before[in_altered[before]]
    is_kept = _marked(kept, bars)
    for what, part in (("has another y", 1), ("has another label_end", 2)):
        was, now = (_bits(table[part][is_kept[table[0]]]) for table in (known, altered))
        if (was != now).any():
            yield what, kept[was != now]


def _marked(positions: np.ndarray, bars: int) -> np.ndarray:
    """(bars,) whether each is one of the positions."""
    marked = np.zeros(bars, dtype=bool)
    marked[positions] = True
    return marked


def _bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def known_at(bars: pd.DataFrame, positions: np.ndarray, label_end_ms: np.ndarray, move: np.ndarray) -> Finding:
    """Critical where a label ends by its row's own bar or outside its segment, or a move is not that of the next bar.

    `positions` are the rows of the clean table `bars` that have the (n,) labels; a move is close[i+1]/close[i] - 1,
    to the bit.
    """
    time, segment, close = (bars[name].to_numpy() for name in ("open_time", "segment", "close"))
    last = np.append(np.flatnonzero(np.diff(segment)), len(bars) - 1)  # of each run of bars
    end = last[np.searchsorted(last, positions)]
    following = np.minimum(positions + 1, len(bars) - 1)
    wrong = {
        "labels end by the bar they belong to: a label is known after its row": label_end_ms <= time[positions],
        "labels end outside their segment: drop such rows": label_end_ms > time[end],
        "rows have no next bar in their segment: drop them": positions >= end,
        "moves are not close[i+1]/close[i] - 1 of the bars": (close[following] / close[positions] - 1 != move)
        & (positions < end),
    }
    problems = [
        f"{np.count_nonzero(is_wrong)} {what} (first row {positions[is_wrong][0]} at {time[positions[is_wrong][0]]})"
        for what, is_wrong in wrong.items()
        if is_wrong.any()
    ]
    figures = {"rows": len(positions), **{what.split(":")[0]: int(bad.sum()) for what, bad in wrong.items()}}
    return verdict("known_at", problems, f"{len(positions)} labels end after their bar, within its segment", figures)
