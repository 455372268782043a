"""Guards of segments: nothing reaches over a hole or into another symbol."""

import numpy as np
import pandas as pd

from pipeline.leakage.findings import SHOWN, Finding, verdict


def segments(
    time: np.ndarray, label_end: np.ndarray, segment: np.ndarray, *, bars: pd.DataFrame, bar_ms: int, warm_up_bars: int
) -> Finding:
    """Critical where a bar, a row, a label or a warm-up reaches over a hole or into another symbol.

    `bars` is the clean table (open_time, segment); the other arrays are the rows that have features and a label, which
    need not be all: a flat market has no volatility to scale a label by.
    """
    extent = bars.groupby("segment")["open_time"].agg(["min", "max"])
    if missing := sorted(set(segment.tolist()) - set(extent.index)):
        raise ValueError(f"segments: rows stand in segments {missing[:SHOWN]} that the bars do not have; relabel them")
    first, last = (extent.loc[segment, side].to_numpy() for side in ("min", "max"))
    step, bar_step = np.diff(time), np.diff(bars["open_time"])
    wrong = {
        "bars do not follow the one before": _misplaced(bars["segment"].to_numpy(), bar_step == bar_ms),
        "rows are out of order or off the grid": _misplaced(segment, (step > 0) & (step % bar_ms == 0)),
        "labels end outside their segment": np.flatnonzero((label_end > last) | (label_end < time)),
        "rows use bars before their segment": np.flatnonzero(time < first + warm_up_bars * bar_ms),
    }
    problems = [f"{len(rows)} {what}, first row {rows[0]}: cut at holes" for what, rows in wrong.items() if rows.size]
    figures = {"segments": len(extent), "rows": len(time), **{what: len(rows) for what, rows in wrong.items()}}
    return verdict("segments", problems, f"nothing crosses a border of {len(extent)} segments", figures)


def windows(time: np.ndarray, segment: np.ndarray, run: np.ndarray, *, bar_ms: int) -> Finding:
    """Critical where a run, within which any window may be cut, is not of consecutive bars of one segment."""
    broken = _misplaced(run, (np.diff(time) == bar_ms) & (np.diff(segment) == 0))
    problems = [f"windows cross a hole or a border at row {row}: begin a run there" for row in broken]
    figures = {"runs": len(np.unique(run)), "rows": len(time), "broken": len(broken)}
    return verdict("segments", problems, "every run is of consecutive bars of one segment", figures)


def _misplaced(part: np.ndarray, is_next: np.ndarray) -> np.ndarray:
    """The rows that neither are next to the row before them, in its part, nor begin a part never seen before."""
    begins = ~pd.Series(part).duplicated().to_numpy()
    return np.flatnonzero(~begins[1:] & ~((np.diff(part) == 0) & is_next)) + 1
