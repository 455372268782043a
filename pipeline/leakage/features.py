"""Guards of features: no column depends on bars after its own."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.feature_file import Matrix, read_chunks
from pipeline.leakage import association, cut_times
from pipeline.leakage.findings import CHUNK_ROWS, Finding, check_finite, make_finding, round_by_column

Part = tuple[np.ndarray, np.ndarray]  # (n,) ascending positions of rows in the bars, and their (n, F) float32 features
Recompute = Callable[[pd.DataFrame], Iterable[Part]]  # the parts follow one another; one may have all rows

ROW_SELECTION = "row selection"  # stands for a column's name where the rows themselves differ


def truncation(
    bars: pd.DataFrame,
    recompute: Recompute,
    stored: tuple[np.ndarray, Matrix],
    columns: Sequence[str],
    *,
    cuts: int,
    seed: int,
) -> Finding:
    """Return a critical finding where a feature changes, by a single bit, when the bars after a cut time are removed.

    `bars` is the clean table. `recompute` returns the positions of the rows that it selects and their float32 features,
    in parts. `stored` are the positions and features on disk, which must equal those recomputed from `bars`. The cut
    times are random and adversarial, of every kind in `cut_times` in turn. The features are computed `cuts` + 1 times:
    the cost is linear in rows. One part, and as many rows of the stored features, are held at a time.

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
    bars: pd.DataFrame, rows: np.ndarray, x: Matrix, *, cuts: int, rng: np.random.Generator
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
    stored: tuple[np.ndarray, Matrix],
    *,
    columns: Sequence[str],
    cut_ms: int,
) -> list[tuple[str, int]]:
    """Return the columns that differ from the stored ones without the bars after `cut_ms`, each with its first row.

    Where the rows themselves differ, return only ROW_SELECTION.
    """
    rows, x = stored
    is_before = bars["open_time"].to_numpy() <= cut_ms
    count, selected = np.count_nonzero(is_before), list[np.ndarray]()
    position = None if is_before[:count].all() else np.flatnonzero(is_before)  # None: no bar need be copied
    cut_bars = bars.iloc[:count] if position is None else bars.iloc[position].reset_index(drop=True)

    def list_recomputed() -> Iterator[np.ndarray]:
        for cut_rows, cut_x in recompute(cut_bars):
            selected.append(cut_rows if position is None else position[cut_rows])
            yield cut_x

    expected, recomputed = rows[is_before[rows]], list_recomputed()
    first, place = dict[int, int](), 0
    for was, now in _pair_rows(_select_rows(x, is_before[rows]), recomputed):
        differs = (was.view(np.uint32) != now.view(np.uint32)).T
        for column in np.flatnonzero(differs.any(axis=1)).tolist():
            first.setdefault(column, place + int(np.argmax(differs[column])))
        place += len(was)
    deque(recomputed, maxlen=0)  # rows that are not stored
    found = np.concatenate([np.arange(0), *selected])
    if not np.array_equal(expected, found):
        return [(ROW_SELECTION, _find_first_difference(expected, found))]
    return [(columns[column], int(expected[row])) for column, row in sorted(first.items())]


def _select_rows(x: Matrix, is_selected: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the selected rows of `x`, some at a time, (n, F)."""
    start, stop = 0, int(np.flatnonzero(is_selected)[-1]) + 1 if is_selected.any() else 0
    for chunk in read_chunks(x, count=CHUNK_ROWS):
        if start >= stop:
            return
        own = is_selected[start : start + len(chunk)]
        start += len(chunk)
        yield chunk if own.all() else chunk[own]


def _pair_rows(left: Iterator[np.ndarray], right: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows of both beside each other, some at a time, until either ends; theirs may be of other numbers."""
    ours, theirs = (next(each, None) for each in (left, right))
    while ours is not None and theirs is not None:
        count = min(len(ours), len(theirs), CHUNK_ROWS)
        if count:
            yield ours[:count], theirs[:count]
        ours, theirs = ours[count:], theirs[count:]
        if not len(ours):
            ours = next(left, None)
        if not len(theirs):
            theirs = next(right, None)


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
    x: Matrix, columns: Sequence[str], move: np.ndarray, segment: np.ndarray, *, ratio: float, floor: float
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


def target_leakage(
    x: Matrix, columns: Sequence[str], targets: Mapping[str, np.ndarray], *, threshold: float
) -> Iterator[Finding]:
    """Yield for each of the `targets`, (N,), a finding that is critical where a column is nearly a function of it.

    That is where a measure of `association.measure_target_association` is above `threshold`. All targets are compared
    with a column before the next one is read.
    """
    check_finite(x, columns)
    for target, y in targets.items():
        check_finite(y[:, None], [target])
    for target, measured in association.measure_target_association(x, targets).items():
        yield _judge_association(measured, columns, target, rows=x.shape[0], threshold=threshold)


def _judge_association(
    measured: Mapping[str, np.ndarray], columns: Sequence[str], target: str, *, rows: int, threshold: float
) -> Finding:
    """Return the finding of the columns' association with a target; `measured` has (F,) by measure."""
    measures, values = list(measured), np.array(list(measured.values()))  # (measures, F)
    strongest, largest = values.argmax(axis=0).tolist(), values.max(axis=0)
    problems = [
        f"{columns[j]} contains the target {target} ({measures[strongest[j]]} {largest[j]:.3f}): drop it"
        for j in np.flatnonzero(largest > threshold).tolist()
    ]
    measurements = {"target": target, "rows": rows}
    measurements |= {name: round_by_column(columns, measured[name]) for name in measures}
    nearest = columns[int(largest.argmax())]
    ok_message = (
        f"no column's association with {target} exceeds {threshold}; the highest is {largest.max():.2f}, of {nearest}"
    )
    return make_finding("target_leakage", problems, ok_message=ok_message, measurements=measurements)
