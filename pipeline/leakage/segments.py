"""Guards of segments: nothing crosses a gap in time or the border of a symbol."""

import numpy as np
import pandas as pd

from pipeline.leakage.findings import MAX_SHOWN, Finding, make_finding


def segments(
    time: np.ndarray,
    label_end: np.ndarray,
    segment: np.ndarray,
    *,
    bars: pd.DataFrame,
    bar_ms: int | None,
    warm_up_bars: int,
) -> Finding:
    """Return a critical finding where a bar, a row, a label or a warm-up crosses a gap or the border of a symbol.

    `bars` is the clean table (open_time, segment). The other arrays are the rows that have features and a label. These
    may skip bars: a market without volatility has no scale for a label. Where the clock is no grid, `bar_ms` is None;
    then times must ascend within a segment.

    Raises:
        ValueError: rows belong to segments that the bars do not have.
    """
    extent = bars.groupby("segment")["open_time"].agg(["min", "max"])
    own = np.unique(segment)
    if missing := sorted(set(own.tolist()) - set(extent.index)):
        raise ValueError(
            f"segments: rows belong to segments {missing[:MAX_SHOWN]} that the bars do not have; rerun the stage label"
        )
    warm_up_ends = _find_warm_up_ends(bars, extent["min"], bar_ms=bar_ms, warm_up_bars=warm_up_bars)
    place = np.searchsorted(own, segment)
    last, earliest = (each.loc[own].to_numpy()[place] for each in (extent["max"], warm_up_ends))
    step, bar_step = np.diff(time), np.diff(bars["open_time"])
    wrong = {
        "gaps_within_segments": (
            "bars do not follow the bar before them",
            _find_breaks(bars["segment"].to_numpy(), bar_step == bar_ms if bar_ms else bar_step > 0),
        ),
        "misplaced_rows": (
            "rows are out of order or off the grid of bars",
            _find_breaks(segment, (step > 0) & (step % (bar_ms or 1) == 0)),
        ),
        "labels_outside_segment": (
            "labels end outside their segment",
            np.flatnonzero((label_end > last) | (label_end < time)),
        ),
        "warm_ups_outside_segment": (
            "rows use bars before their segment",
            np.flatnonzero(time < earliest),
        ),
    }
    problems = [f"{len(rows)} {what}, first row {rows[0]}: split at gaps" for what, rows in wrong.values() if rows.size]
    counts = {name: len(rows) for name, (_, rows) in wrong.items()}
    return make_finding(
        "segments",
        problems,
        ok_message=f"nothing crosses a border of {len(extent)} segments",
        measurements={"segments": len(extent), "rows": len(time), **counts},
    )


def _find_warm_up_ends(bars: pd.DataFrame, first: pd.Series, *, bar_ms: int | None, warm_up_bars: int) -> pd.Series:
    """Return the earliest time of a row with features by segment; `first` is that of any bar."""
    if bar_ms:
        return first + warm_up_bars * bar_ms
    is_end = bars.groupby("segment").cumcount() == warm_up_bars
    return bars[is_end].set_index("segment")["open_time"].reindex(first.index, fill_value=np.iinfo(np.int64).max)


def check_window_runs(time: np.ndarray, segment: np.ndarray, run: np.ndarray, *, bar_ms: int) -> Finding:
    """Return a critical finding where a run, from which windows are taken, is not of consecutive bars of one segment.

    `time`, `segment` and `run`, the number of each row's run, are (N,).
    """
    broken = _find_breaks(run, (np.diff(time) == bar_ms) & (np.diff(segment) == 0))
    return make_finding(
        "segments",
        [f"windows cross a gap or a border at row {row}: begin a new run there" for row in broken],
        ok_message="every run is of consecutive bars of one segment",
        measurements={"runs": len(np.unique(run)), "rows": len(time), "broken_runs": len(broken)},
    )


def _find_breaks(part: np.ndarray, is_next: np.ndarray) -> np.ndarray:
    """Return the rows that neither follow the row before them, in its part, nor begin a part that is new."""
    begins = ~pd.Series(part).duplicated().to_numpy()
    return np.flatnonzero(~begins[1:] & ~((np.diff(part) == 0) & is_next)) + 1
