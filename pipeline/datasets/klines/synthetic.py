"""Stretches of klines that no market made: the price moves without volume, or by equal steps, as interpolation does.

A quiet market is not synthetic: bars without volume whose price stays the same are ordinary.
"""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.scale import ROUNDING
from pipeline.volatility import count_neighbors, infer_tick

MIN_BARS = 20  # of a stretch: BTC and ARB of 2017-2025 have not even 10 such bars in succession
MIN_MOVING_SHARE = (
    0.1  # of the bars of a stretch without volume, in which the price moves: a slow line waits for a tick
)
MIN_STEP_TICKS = 4.0  # mean step of equal steps: smaller ones are equal in a quiet market too
MAX_STEP_ERROR_TICKS = 2.0  # of the difference of two steps, when three closes are rounded to the tick
MAX_LISTED = 20


def find_synthetic(bars: pd.DataFrame) -> dict[str, Any]:
    """Return the synthetic stretches of a clean table: the bars in all, the number of runs, and the first of them.

    A run has at least `MIN_BARS` bars of one segment. Its `kind` is `no_volume`, bars without volume whose price moves
    in at least `MIN_MOVING_SHARE` of them, or `equal_steps`, closes on a straight line or of constant growth but for
    rounding to the tick, with a mean step of at least `MIN_STEP_TICKS`. A stretch may be a run of both kinds; `bars`
    counts it once. At most `MAX_LISTED` runs are listed, in the order of the table.
    """
    is_synthetic, runs = np.zeros(len(bars), dtype=bool), []
    for kind, found in (("no_volume", find_moves_without_volume(bars)), ("equal_steps", find_equal_steps(bars))):
        for first, end in found:
            is_synthetic[first:end] = True
            runs.append((int(first), int(end), kind))
    listed = sorted(runs)[:MAX_LISTED]
    return {
        "bars": int(is_synthetic.sum()),
        "count": len(runs),
        "list": [
            {
                "symbol": str(bars["symbol"].iloc[first]),
                "kind": kind,
                "first_ms": int(bars["open_time"].iloc[first]),
                "last_ms": int(bars["open_time"].iloc[end - 1]),
                "bars": end - first,
            }
            for first, end, kind in listed
        ],
    }


def find_moves_without_volume(bars: pd.DataFrame) -> np.ndarray:
    """Return (runs, 2) the first bar, and the one after the last, of stretches whose price moves without volume."""
    age, _ = count_neighbors(bars)
    high, low, close = (bars[name].to_numpy(np.float64) for name in ("high", "low", "close"))
    step = np.diff(close, prepend=close[:1]) * (age > 0)
    moves = (np.abs(step) > ROUNDING * close) | (high - low > ROUNDING * high)
    runs = _find_runs(bars["volume"].to_numpy() == 0, bars["segment"].to_numpy())
    moving = np.concatenate([[0], np.cumsum(moves)])
    length = runs[:, 1] - runs[:, 0]
    share = (moving[runs[:, 1]] - moving[runs[:, 0]]) / np.maximum(length, 1)
    return np.asarray(runs[(length >= MIN_BARS) & (share >= MIN_MOVING_SHARE)])


def find_equal_steps(bars: pd.DataFrame) -> np.ndarray:
    """Return (runs, 2) the first bar, and the one after the last, of stretches on a line or of constant growth."""
    age, _ = count_neighbors(bars)
    close = bars["close"].to_numpy(np.float64)
    if len(close) < MIN_BARS:
        return np.zeros((0, 2), dtype=np.int64)
    tick = infer_tick(bars)
    is_equal, limit = age >= 2, MAX_STEP_ERROR_TICKS * tick[2:]
    before, two_before = close[1:-1], close[:-2]
    of_line = np.abs(close[2:] - 2 * before + two_before)  # difference of steps
    of_growth = np.abs(close[2:] - before * (before / two_before))
    is_equal[2:] &= np.minimum(of_line, of_growth, out=of_line) <= limit
    runs = _find_runs(is_equal, bars["segment"].to_numpy())
    runs[:, 0] -= 2  # the first two bars of a line have no difference of steps yet
    first, last = runs[:, 0], runs[:, 1] - 1
    step = np.abs(close[last] - close[first]) / np.maximum(last - first, 1)
    return np.asarray(runs[(last - first + 1 >= MIN_BARS) & (step >= MIN_STEP_TICKS * tick[last])])


def _find_runs(flags: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """Return (runs, 2) the first row, and the row after the last, of each run of true flags within a segment."""
    same = np.append(False, segment[1:] == segment[:-1])[: len(flags)]
    begins = np.flatnonzero(flags & ~(np.append(False, flags[:-1])[: len(flags)] & same))
    continues = np.append(flags[1:] & same[1:], False)[: len(flags)]
    ends = np.flatnonzero(flags & ~continues) + 1
    return np.column_stack([begins, ends]).astype(np.int64)
