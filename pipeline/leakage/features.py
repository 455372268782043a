"""Guards of features: no column knows what comes after its bar."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.leakage import association
from pipeline.leakage.findings import Finding, by_column, check_finite, verdict

Recompute = Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray]]


def truncation(bars: pd.DataFrame, recompute: Recompute, columns: Sequence[str], *, cuts: int, seed: int) -> Finding:
    """Critical where a feature changes, by a single bit, when the bars after an instant are cut off.

    `bars` is the clean table; `recompute` answers with the positions of the rows it keeps and their float32 features.
    Half of the `cuts` instants are random; the others stand at the borders of segments and of warm-ups. The features
    are computed `cuts` times more: the cost is linear in rows.
    """
    time, segment = bars["open_time"].to_numpy(), bars["segment"].to_numpy()
    rows, x = recompute(bars)
    if x.dtype != np.float32 or not (time[rows] < time.max()).any():
        raise ValueError(f"truncation: {len(rows)} rows of {x.dtype}; float32 rows that end before the bars are wanted")
    instants = _instants(time, segment, rows, cuts=cuts, rng=np.random.default_rng(seed))
    changes: dict[str, dict[str, Any]] = {}
    for instant in instants:
        position = np.flatnonzero(time <= instant)
        kept, cut_x = recompute(bars.iloc[position].reset_index(drop=True))
        is_before = time[rows] <= instant
        for name, row in _changes(rows[is_before], x[is_before], position[kept], cut_x, columns=columns):
            changes.setdefault(name, {"cut_after_ms": int(instant), "row": row, "time_ms": int(time[row])})
    problems = [
        f"{name} of the bar at {change['time_ms']} (row {change['row']}) changes when the bars after "
        f"{change['cut_after_ms']} are cut off: compute it from bars up to its own"
        for name, change in changes.items()
    ]
    figures = {"cuts": len(instants), "cut_after_ms": instants.tolist(), "changed": changes}
    fine = f"{len(columns)} columns stay the same to the bit at {len(instants)} cuts"
    return verdict("truncation", problems, fine, figures)


def _instants(
    time: np.ndarray, segment: np.ndarray, rows: np.ndarray, *, cuts: int, rng: np.random.Generator
) -> np.ndarray:
    """Times to cut after, at random and at borders, that leave a feature before and a bar after."""
    first = np.flatnonzero(np.diff(segment, prepend=segment[:1] - 1))
    last = np.append(first[1:], len(segment)) - 1
    warm = rows[np.flatnonzero(np.diff(segment[rows], prepend=segment[rows][:1] - 1))]
    near = np.concatenate([first - 1, first, first + 1, last - 1, last, warm, warm + 1])
    border = np.unique(time[near[(near >= 0) & (near < len(time))]])
    anywhere = np.unique(time)
    picks = []
    for candidates, count in ((border, cuts - cuts // 2), (anywhere, cuts // 2)):
        allowed = candidates[(candidates >= time[rows].min()) & (candidates < time.max())]
        picks.append(rng.choice(allowed, size=min(count, len(allowed)), replace=False))
    return np.unique(np.concatenate(picks))


def _changes(
    rows: np.ndarray, x: np.ndarray, cut_rows: np.ndarray, cut_x: np.ndarray, *, columns: Sequence[str]
) -> Iterator[tuple[str, int]]:
    """The columns that differ, each with its first row; "rows kept" where the rows themselves differ."""
    differing = np.setxor1d(rows, cut_rows)
    if differing.size:
        yield "rows kept", int(differing[0])
        return
    changed = x.view(np.uint32) != cut_x.view(np.uint32)
    for column in np.flatnonzero(changed.any(axis=0)).tolist():
        yield columns[column], int(rows[np.argmax(changed[:, column])])


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
