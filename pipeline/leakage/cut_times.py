"""Instants after which bars are removed or altered: at random, and where a leak is likely to show or to hide."""

from collections import deque
from collections.abc import Mapping

import numpy as np
import pandas as pd

from pipeline.feature_file import Matrix

DAY_MS = 24 * 3600 * 1000
UNIT = "clock_unit"  # attribute of a table: the unit of its clock
COLUMNS = ("segment", "open_time", "high", "low", "volume", "close")  # as far as bars have them: cut times are by these
SLOW_FRACTION = 0.9  # a column that changes in a smaller fraction of rows has steps to cut at

Candidates = dict[str, np.ndarray]  # positions in the table of bars, by the kind of place


def find_bar_candidates(bars: pd.DataFrame) -> Candidates:
    """Return where a clean table of bars begins and ends a segment, ends a day (UTC) or is idle, and all its bars.

    A clock has days where its unit, the attribute UNIT of the table, is ms, as it is without the attribute.
    """
    time, segment = bars["open_time"].to_numpy(), bars["segment"].to_numpy()
    first = np.flatnonzero(np.diff(segment, prepend=segment[:1] - 1))
    last = np.append(first[1:], len(bars)) - 1
    day = time // DAY_MS if bars.attrs.get(UNIT, "ms") == "ms" else np.zeros_like(time)
    return {
        "anywhere": np.arange(len(bars)),
        "segment_end": add_offsets(last, len(bars), offsets=(-1, 0, 1)),
        "segment_start": add_offsets(first, len(bars), offsets=(0, 1, 2)),
        "day_end": add_offsets(np.flatnonzero(np.diff(day)), len(bars), offsets=(-1, 0, 1)),
        "idle": np.flatnonzero(_find_idle(bars)),
    }


def _find_idle(bars: pd.DataFrame) -> np.ndarray:
    """Return (N,) whether a bar has no trade or one price; of rows that are no bars, whether the price stays."""
    if "volume" in bars.columns:
        return np.asarray((bars["volume"].to_numpy() == 0) | (bars["high"].to_numpy() == bars["low"].to_numpy()))
    if "close" in bars.columns:
        return np.asarray(np.diff(bars["close"].to_numpy(), prepend=np.nan) == 0)
    return np.zeros(len(bars), dtype=bool)


def find_column_candidates(
    positions: np.ndarray, x: Matrix, segment: np.ndarray, *, columns: int, rng: np.random.Generator
) -> Candidates:
    """Return where warm-ups end, and one step and one plateau of up to `columns` columns that have them.

    `segment` is that of each row of `x`. A step is a change of a column that changes in few rows (a bucket, a longer
    bar, a fill). It is cut right at the change, before it or after it. A plateau is a run of equal values of any
    column, cut somewhere inside.
    """
    same = segment[1:] == segment[:-1]  # (n - 1,)
    repeats = np.array([np.count_nonzero(_find_repeats(x, j, same)) for j in range(x.shape[1])])
    is_slow = repeats > (1 - SLOW_FRACTION) * np.count_nonzero(same)
    steps = [
        positions[_draw_row(same & ~_find_repeats(x, j, same), rng)] + rng.integers(-1, 2)
        for j in _draw_columns(is_slow & (repeats < np.count_nonzero(same)), columns, rng=rng)
    ]
    plateaus = [
        positions[_draw_row(_find_repeats(x, j, same), rng) - 1] for j in _draw_columns(repeats > 0, columns, rng=rng)
    ]
    warm = positions[np.flatnonzero(np.diff(segment, prepend=segment[:1] - 1))]
    count = int(positions[-1]) + 1
    return {
        "warm_up_end": add_offsets(warm, count, offsets=(-1, 0, 1)),
        "step": add_offsets(np.array(steps, dtype=np.int64), count, offsets=(0,)),
        "plateau": np.array(plateaus, dtype=np.int64),
    }


def draw_cut_times(times: Mapping[str, np.ndarray], *, cuts: int, rng: np.random.Generator) -> dict[int, str]:
    """Return up to `cuts` of the times, each with its kind: one of each kind in turn, at random within it."""
    drawn = {kind: rng.choice(of, size=min(cuts, len(of)), replace=False).tolist() for kind, of in times.items()}
    waiting = deque((kind, iter(remaining)) for kind, remaining in drawn.items())
    chosen: dict[int, str] = {}
    while waiting and len(chosen) < cuts:
        kind, remaining = waiting.popleft()
        fresh = next((time for time in remaining if time not in chosen), None)
        if fresh is not None:
            chosen[fresh] = kind
            waiting.append((kind, remaining))
    return chosen


def select_times(candidates: Mapping[str, np.ndarray], time: np.ndarray, *, first_ms: int) -> dict[str, np.ndarray]:
    """Return the times of the candidates of each kind, from `first_ms` on, that leave a bar after them."""
    last_ms, selected = time.max(), {}
    for kind, positions in candidates.items():
        at = time[positions]
        selected[kind] = at[(at >= first_ms) & (at < last_ms)]
    return selected


def add_offsets(positions: np.ndarray, count: int, *, offsets: tuple[int, ...]) -> np.ndarray:
    """Return the positions at these offsets in bars, as far as a table of `count` bars has them."""
    moved = (positions[:, None] + np.array(offsets)).ravel()
    return np.asarray(moved[(moved >= 0) & (moved < count)])


def _find_repeats(x: Matrix, column: int, same: np.ndarray) -> np.ndarray:
    """Return (n - 1,) whether a row has the value of the row before it, in its segment."""
    values = x[:, column]
    return np.asarray(same & (values[1:] == values[:-1]))


def _draw_columns(is_eligible: np.ndarray, count: int, *, rng: np.random.Generator) -> list[int]:
    eligible = np.flatnonzero(is_eligible)
    return [int(column) for column in rng.choice(eligible, size=min(count, len(eligible)), replace=False)]


def _draw_row(is_eligible: np.ndarray, rng: np.random.Generator) -> int:
    """Return the row, counted from 1 as masks of differences are, of one true value."""
    return int(rng.choice(np.flatnonzero(is_eligible))) + 1
