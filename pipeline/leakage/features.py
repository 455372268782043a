"""Guards of features: no column depends on bars after its own."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.leakage import association, cut_times
from pipeline.leakage.findings import CHUNK_ROWS, Finding, check_finite, make_finding, round_by_column

Recompute = Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray]]

ROW_SELECTION = "row selection"  # stands for a column's name where the rows themselves differ


def truncation(
    bars: pd.DataFrame,
    recompute: Recompute,
    stored: tuple[np.ndarray, np.ndarray],
    columns: Sequence[str],
    *,
    cuts: int,
    seed: int,
) -> Finding:
    """Return a critical finding where a feature changes, by a single bit, when the bars after a cut time are removed.

    `bars` is the clean table. `recompute` returns the positions of the rows that it selects and their float32 features.
    `stored` are the positions and features on disk, which must equal those recomputed from `bars`. The cut times are
    random and adversarial, of every kind in `cut_times` in turn. The features are computed `cuts` + 1 times: the cost
    is linear in rows, and at most one table of features is held beside the stored one.

    Raises:
        ValueError: the stored features are not float32, or no row ends before the last bar.
    """
    time = bars["open_time"].to_numpy()
    rows, x = stored
    if x.dtype != np.float32 or not (time[rows] < time.max()).any():
        raise ValueError(
            f"truncation: got {len(rows)} rows of {x.dtype}; give float32 features, with a row before the last bar"
        )
    changed: dict[str, dict[str, Any]] = {}
    differs = _find_differences(bars, recompute, stored, columns=columns, cut_ms=time.max())
    not_reproduced = {name: _locate_row(row, time) for name, row in differs}
    drawn = _draw_cut_times(bars, rows, x, cuts=cuts, rng=np.random.default_rng(seed))
    for cut_ms in drawn:
        for name, row in _find_differences(bars, recompute, stored, columns=columns, cut_ms=cut_ms):
            if name not in not_reproduced:
                changed.setdefault(name, {"cut_after_ms": cut_ms, **_locate_row(row, time)})
    ok_message = f"{len(columns)} columns are reproduced to the bit from their bars, also at {len(drawn)} cut times"
    measurements = {
        "cuts": len(drawn),
        "cut_after_ms": dict(sorted(drawn.items())),
        "changed": changed,
        "not_reproduced": not_reproduced,
    }
    problems = _describe_differences(not_reproduced, changed)
    return make_finding("truncation", problems, ok_message=ok_message, measurements=measurements)


def _locate_row(row: int, time: np.ndarray) -> dict[str, int]:
    return {"row": row, "time_ms": int(time[row])}


def _describe_differences(not_reproduced: dict[str, dict[str, int]], changed: dict[str, dict[str, int]]) -> list[str]:
    return [
        f"{name}, bar at {at['time_ms']} (row {at['row']}): not reproduced from the bars; store it as computed"
        for name, at in not_reproduced.items()
    ] + [
        f"{name}, bar at {at['time_ms']} (row {at['row']}): changes when the bars after {at['cut_after_ms']} are "
        "removed; compute it from bars up to its own"
        for name, at in changed.items()
    ]


def _draw_cut_times(
    bars: pd.DataFrame, rows: np.ndarray, x: np.ndarray, *, cuts: int, rng: np.random.Generator
) -> dict[int, str]:
    """Return times to cut after, with their kinds, that leave a feature before and a bar after."""
    time, segment = bars["open_time"].to_numpy(), bars["segment"].to_numpy()
    of_columns = cut_times.find_column_candidates(rows, x, segment[rows], columns=cuts, rng=rng)
    candidates = cut_times.find_bar_candidates(bars) | of_columns
    times = cut_times.select_times(candidates, time, first_ms=int(time[rows].min()))
    return cut_times.draw_cut_times(times, cuts=cuts, rng=rng)


def _find_differences(
    bars: pd.DataFrame,
    recompute: Recompute,
    stored: tuple[np.ndarray, np.ndarray],
    *,
    columns: Sequence[str],
    cut_ms: int,
) -> Iterator[tuple[str, int]]:
    """Yield the columns that differ from the stored ones without the bars after `cut_ms`, each with its first row.

    Where the rows themselves differ, yield only ROW_SELECTION.
    """
    rows, x = stored
    time = bars["open_time"].to_numpy()
    position, before = np.flatnonzero(time <= cut_ms), np.flatnonzero(time[rows] <= cut_ms)
    is_head = position[-1] + 1 == len(position)  # then no bar need be copied
    cut_rows, cut_x = recompute(bars.iloc[: len(position)] if is_head else bars.iloc[position].reset_index(drop=True))
    expected, selected = rows[before], position[cut_rows]
    if not np.array_equal(expected, selected):
        yield ROW_SELECTION, _find_first_difference(expected, selected)
        return
    is_reported = np.zeros(len(columns), dtype=bool)
    for start in range(0, len(before), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        differs = _take_rows(x, before[chunk]).view(np.uint32) != cut_x[chunk].view(np.uint32)
        for column in np.flatnonzero(differs.any(axis=0) & ~is_reported).tolist():
            is_reported[column] = True
            yield columns[column], int(expected[start + np.argmax(differs[:, column])])


def _take_rows(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return these ascending rows of `x`, without a copy where they are consecutive."""
    return x[rows[0] : rows[-1] + 1] if rows[-1] - rows[0] + 1 == len(rows) else x[rows]


def _find_first_difference(left: np.ndarray, right: np.ndarray) -> int:
    """Return the first row of either that the other does not have at the same place."""
    shared = min(len(left), len(right))
    place = int(np.argmax(np.append(left[:shared] != right[:shared], True)))
    return int(min([*left[place : place + 1], *right[place : place + 1]]))


def take_next_moves(bars: pd.DataFrame, positions: np.ndarray) -> np.ndarray:
    """Return (n,) close[i + 1] / close[i] - 1 of the bars at these positions, none of them the last of the table."""
    close = bars["close"].to_numpy(np.float64)
    return np.asarray(close[positions + 1] / close[positions] - 1)


def look_ahead(
    x: np.ndarray, columns: Sequence[str], move: np.ndarray, segment: np.ndarray, *, ratio: float, floor: float
) -> Finding:
    """Return a critical finding where a column's innovation is correlated with future moves as with past ones.

    That is a correlation with the future (see `association.correlate_with_moves`) above `floor`, and above `ratio`
    times that with the past. A column known in time stays below √R² of the best forecast of one bar: 0.45 where a fifth
    of the next move's variance is predictable. A leak in few rows is left to `truncation`. `move` (n,) is the return of
    the bar after each row, see `take_next_moves`.
    """
    check_finite(x, columns)
    check_finite(move[:, None], ["move"])
    rows = association.find_inner_rows(segment)
    if len(rows) < association.MIN_ROWS:
        message = (
            f"{len(rows)} rows have {association.MAX_LAG_BARS} bars on both sides; {association.MIN_ROWS} are needed: "
            "give more bars"
        )
        return Finding("look_ahead", "warning", message, {"rows": len(rows)})
    of_future, of_past = association.correlate_with_moves(x, move, rows=rows)  # (views, F)
    strongest = np.argmax(of_future, axis=0), np.arange(len(columns))
    future, past = of_future[strongest], of_past[strongest]  # (F,)
    problems = [
        f"{columns[j]} is correlated with future returns ({future[j]:.2f}; {past[j]:.2f} with past ones): "
        f"compute it from bars up to its own"
        for j in np.flatnonzero((future > floor) & (future > ratio * past)).tolist()
    ]
    measurements = {
        "rows": len(rows),
        "future_correlation": round_by_column(columns, future),
        "past_correlation": round_by_column(columns, past),
    }
    nearest = columns[int(future.argmax())]
    ok_message = (
        f"no column's correlation with future returns exceeds {floor}; the highest is {future.max():.2f}, of {nearest}"
    )
    return make_finding("look_ahead", problems, ok_message=ok_message, measurements=measurements)


def target_leakage(x: np.ndarray, columns: Sequence[str], y: np.ndarray, target: str, *, threshold: float) -> Finding:
    """Return a critical finding where a column is nearly a function of the target.

    That is where a measure of `association.measure_target_association` is above `threshold`.
    """
    check_finite(x, columns)
    check_finite(y[:, None], [target])
    measured = association.measure_target_association(x, y)
    measures, values = list(measured), np.array(list(measured.values()))  # (measures, F)
    strongest, largest = values.argmax(axis=0).tolist(), values.max(axis=0)
    problems = [
        f"{columns[j]} contains the target {target} ({measures[strongest[j]]} {largest[j]:.3f}): drop it"
        for j in np.flatnonzero(largest > threshold).tolist()
    ]
    measurements = {"target": target, "rows": len(y)}
    measurements |= {name: round_by_column(columns, measured[name]) for name in measures}
    nearest = columns[int(largest.argmax())]
    ok_message = (
        f"no column's association with {target} exceeds {threshold}; the highest is {largest.max():.2f}, of {nearest}"
    )
    return make_finding("target_leakage", problems, ok_message=ok_message, measurements=measurements)
