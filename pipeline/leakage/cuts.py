"""Instants after which bars are cut off or altered: anywhere, and where a leak is likeliest to show or to hide."""

from collections import deque
from collections.abc import Mapping

import numpy as np
import pandas as pd

from pipeline.leakage.findings import ROWS_AT_ONCE

DAY_MS = 24 * 3600 * 1000
SLOW_SHARE = 0.9  # a column that changes in fewer rows than these is cut beside its steps

Kinds = dict[str, np.ndarray]  # positions in the table of bars, by what is special about them


def of_bars(bars: pd.DataFrame) -> Kinds:
    """Where a clean table of bars begins, ends, starts a day (UTC) or stands idle, and everywhere."""
    time, segment = bars["open_time"].to_numpy(), bars["segment"].to_numpy()
    first = np.flatnonzero(np.diff(segment, prepend=segment[:1] - 1))
    last = np.append(first[1:], len(bars)) - 1
    is_idle = (bars["volume"].to_numpy() == 0) | (bars["high"].to_numpy() == bars["low"].to_numpy())
    return {
        "anywhere": np.arange(len(bars)),
        "segment_end": near(last, len(bars), offsets=(-1, 0, 1)),
        "segment_start": near(first, len(bars), offsets=(0, 1, 2)),
        "day_end": near(np.flatnonzero(np.diff(time // DAY_MS)), len(bars), offsets=(-1, 0, 1)),
        "idle": np.flatnonzero(is_idle),
    }


def of_columns(
    positions: np.ndarray, x: np.ndarray, segment: np.ndarray, *, columns: int, rng: np.random.Generator
) -> Kinds:
    """Where warm-ups end, and one step and one run of equal values of up to `columns` columns that have such.

    `segment` is that of each row of `x`. A step is of a column that changes in few rows (a bucket, a longer bar, a
    fill), cut right at it, before or after; a run is of any column that repeats itself, cut somewhere inside.
    """
    same = segment[1:] == segment[:-1]  # (n - 1,)
    repeats = _repeats(x, same)
    is_slow = repeats > (1 - SLOW_SHARE) * np.count_nonzero(same)
    steps = [
        positions[_one(same & (x[1:, j] != x[:-1, j]), rng)] + rng.integers(-1, 2)
        for j in _some(is_slow & (repeats < np.count_nonzero(same)), columns, rng)
    ]
    runs = [positions[_one(same & (x[1:, j] == x[:-1, j]), rng) - 1] for j in _some(repeats > 0, columns, rng)]
    warm = positions[np.flatnonzero(np.diff(segment, prepend=segment[:1] - 1))]
    last = int(positions[-1]) + 1
    return {
        "warm_up_end": near(warm, last, offsets=(-1, 0, 1)),
        "step": near(np.array(steps, dtype=np.int64), last, offsets=(0,)),
        "run": np.array(runs, dtype=np.int64),
    }


def choose(kinds: Mapping[str, np.ndarray], *, cuts: int, rng: np.random.Generator) -> dict[int, str]:
    """Up to `cuts` of the instants in `kinds`, each with its kind: one of each kind in turn, at random within it."""
    picks = {kind: rng.choice(of, size=min(cuts, len(of)), replace=False).tolist() for kind, of in kinds.items()}
    waiting = deque((kind, iter(instants)) for kind, instants in picks.items())
    chosen: dict[int, str] = {}
    while waiting and len(chosen) < cuts:
        kind, instants = waiting.popleft()
        fresh = next((instant for instant in instants if instant not in chosen), None)
        if fresh is not None:
            chosen[fresh] = kind
            waiting.append((kind, instants))
    return chosen


def instants(kinds: Mapping[str, np.ndarray], time: np.ndarray, *, first_ms: int) -> Kinds:
    """The positions of each kind as instants, from `first_ms` on, that leave a bar after them."""
    last_ms, found = time.max(), {}
    for kind, positions in kinds.items():
        at = time[positions]
        found[kind] = at[(at >= first_ms) & (at < last_ms)]
    return found


def near(positions: np.ndarray, count: int, *, offsets: tuple[int, ...]) -> np.ndarray:
    """The positions so many bars away that exist in a table of `count` bars."""
    moved = (positions[:, None] + np.array(offsets)).ravel()
    return np.asarray(moved[(moved >= 0) & (moved < count)])


def _repeats(x: np.ndarray, same: np.ndarray) -> np.ndarray:
    """(F,) how many rows have the value of the row before them in their segment."""
    counts = np.zeros(x.shape[1], dtype=np.int64)
    for start in range(0, len(same), ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, len(same)))
        after = slice(rows.start + 1, rows.stop + 1)
        counts += ((x[after] == x[rows]) & same[rows, None]).sum(axis=0)
    return counts


def _some(is_fit: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    fit = np.flatnonzero(is_fit)
    return [int(column) for column in rng.choice(fit, size=min(count, len(fit)), replace=False)]


def _one(is_fit: np.ndarray, rng: np.random.Generator) -> int:
    """The row, counted from 1 as masks of differences are, of one true value."""
    return int(rng.choice(np.flatnonzero(is_fit))) + 1
