"""Guards of features: no column knows what comes after its bar."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.leakage import association
from pipeline.leakage import cuts as places
from pipeline.leakage.findings import ROWS_AT_ONCE, Finding, by_column, check_finite, verdict

Recompute = Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray]]


def truncation(
    bars: pd.DataFrame,
    recompute: Recompute,
    known: tuple[np.ndarray, np.ndarray],
    columns: Sequence[str],
    *,
    cuts: int,
    seed: int,
) -> Finding:
    """Critical where a feature changes, by a single bit, when the bars after an instant are cut off.

    `bars` is the clean table; `recompute` answers with the positions of the rows it keeps and their float32 features;
    `known` are the positions and features that were written, which must be what `bars` give. The instants are random
    and adversarial, of every kind in `cuts` in turn. The features are computed `cuts` + 1 times: the cost is linear in
    rows, and never more than one table of features is held beside the known one.
    """
    time = bars["open_time"].to_numpy()
    rows, x = known
    if x.dtype != np.float32 or not (time[rows] < time.max()).any():
        raise ValueError(f"truncation: {len(rows)} rows of {x.dtype}; float32 rows that end before the bars are wanted")
    unlike = {name: _at(row, time) for name, row in _after_cut(bars, recompute, known, time.max(), columns=columns)}
    instants = _instants(bars, rows, x, cuts=cuts, rng=np.random.default_rng(seed))
    changed: dict[str, dict[str, Any]] = {}
    for instant in instants:
        for name, row in _after_cut(bars, recompute, known, instant, columns=columns):
            if name not in unlike:
                changed.setdefault(name, {"cut_after_ms": instant, **_at(row, time)})
    problems = [
        f"{name} of {_place(at)} is not what its bars give: write it as computed" for name, at in unlike.items()
    ]
    problems += [
        f"{name} of {_place(at)} changes when the bars after {at['cut_after_ms']} are cut off: compute it from bars up "
        "to its own"
        for name, at in changed.items()
    ]
    fine = f"{len(columns)} columns are what their bars give and stay the same to the bit at {len(instants)} cuts"
    at_cuts = {"cuts": len(instants), "cut_after_ms": dict(sorted(instants.items()))}
    return verdict("truncation", problems, fine, {**at_cuts, "changed": changed, "unlike_bars": unlike})


def _at(row: int, time: np.ndarray) -> dict[str, int]:
    return {"row": row, "time_ms": int(time[row])}


def _place(at: dict[str, int]) -> str:
    return f"the bar at {at['time_ms']} (row {at['row']})"


def _instants(
    bars: pd.DataFrame, rows: np.ndarray, x: np.ndarray, *, cuts: int, rng: np.random.Generator
) -> dict[int, str]:
    """Times to cut after, with their kinds, that leave a feature before and a bar after."""
    time, segment = bars["open_time"].to_numpy(), bars["segment"].to_numpy()
    kinds = {**places.of_bars(bars), **places.of_columns(rows, x, segment[rows], columns=cuts, rng=rng)}
    return places.choose(places.instants(kinds, time, first_ms=int(time[rows].min())), cuts=cuts, rng=rng)


def _after_cut(
    bars: pd.DataFrame,
    recompute: Recompute,
    known: tuple[np.ndarray, np.ndarray],
    instant: int,
    *,
    columns: Sequence[str],
) -> Iterator[tuple[str, int]]:
    """The columns that differ from the known ones when the bars after `instant` are cut off, each with its first row.

    Where the rows themselves differ, only "rows kept".
    """
    rows, x = known
    time = bars["open_time"].to_numpy()
    position, before = np.flatnonzero(time <= instant), np.flatnonzero(time[rows] <= instant)
    is_first = position[-1] + 1 == len(position)  # then no bar need be copied
    cut_rows, cut_x = recompute(bars.iloc[: len(position)] if is_first else bars.iloc[position].reset_index(drop=True))
    wanted, kept = rows[before], position[cut_rows]
    if not np.array_equal(wanted, kept):
        yield "rows kept", _first_unlike(wanted, kept)
        return
    unlike = np.zeros(len(columns), dtype=bool)
    for start in range(0, len(before), ROWS_AT_ONCE):
        block = slice(start, start + ROWS_AT_ONCE)
        differs = _lines(x, before[block]).view(np.uint32) != cut_x[block].view(np.uint32)
        for column in np.flatnonzero(differs.any(axis=0) & ~unlike).tolist():
            unlike[column] = True
            yield columns[column], int(wanted[start + np.argmax(differs[:, column])])


def _lines(x: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """These ascending lines of `x`; not a copy where they stand together."""
    return x[lines[0] : lines[-1] + 1] if lines[-1] - lines[0] + 1 == len(lines) else x[lines]


def _first_unlike(left: np.ndarray, right: np.ndarray) -> int:
    """The first row of either that the other does not have in its place."""
    shared = min(len(left), len(right))
    place = int(np.argmax(np.append(left[:shared] != right[:shared], True)))
    return int(min([*left[place : place + 1], *right[place : place + 1]]))


def look_ahead(
    x: np.ndarray, columns: Sequence[str], move: np.ndarray, segment: np.ndarray, *, ratio: float, floor: float
) -> Finding:
    """Critical where what is new in a column goes with moves still to come, nearly as it does with moves gone by.

    That is: a correlation with the future (see `association.with_moves`) above `floor` and above `ratio` times the one
    with the past. A column known in time stays below √R² of the best forecast of one bar, 0.45 where a fifth of the
    next move's variance can be foreseen. Leaks of a few rows are for `truncation` to find.
    """
    check_finite(x, columns)
    check_finite(move[:, None], ["move"])
    rows = association.surrounded(segment)
    if len(rows) < association.FEWEST_ROWS:
        message = f"{len(rows)} rows have {association.BARS_AHEAD} bars on both sides, too few to judge: give more bars"
        return Finding("look_ahead", "warning", message, {"rows": len(rows)})
    future, past = association.with_moves(x, move, rows)  # (views, F)
    strongest = np.argmax(future, axis=0), np.arange(len(columns))
    ahead, behind = future[strongest], past[strongest]  # (F,)
    problems = [
        f"{columns[j]} goes with moves to come (correlation {ahead[j]:.2f}; {behind[j]:.2f} with those gone by): "
        f"compute it from bars up to its own"
        for j in np.flatnonzero((ahead > floor) & (ahead > ratio * behind)).tolist()
    ]
    figures = {"rows": len(rows), "future": by_column(columns, ahead), "past": by_column(columns, behind)}
    fine = f"no column goes with moves to come; nearest is {columns[int(ahead.argmax())]}, {ahead.max():.2f} of {floor}"
    return verdict("look_ahead", problems, fine, figures)


def feature_target(x: np.ndarray, columns: Sequence[str], y: np.ndarray, target: str, *, threshold: float) -> Finding:
    """Critical where a column is the `target` in disguise: an association (`association.with_target`) > `threshold`."""
    check_finite(x, columns)
    check_finite(y[:, None], [target])
    found = association.with_target(x, y)
    measures, values = list(found), np.array(list(found.values()))  # (measures, F)
    strongest, largest = values.argmax(axis=0).tolist(), values.max(axis=0)
    problems = [
        f"{columns[j]} is {target} in disguise ({measures[strongest[j]]} {largest[j]:.3f}): drop it"
        for j in np.flatnonzero(largest > threshold).tolist()
    ]
    figures = {"target": target, "rows": len(y), **{name: by_column(columns, found[name]) for name in measures}}
    nearest = columns[int(largest.argmax())]
    fine = f"no column is {target} in disguise; nearest is {nearest}, {largest.max():.2f} of {threshold}"
    return verdict("feature_target", problems, fine, figures)
