import numpy as np
import pandas as pd
import pytest

from pipeline.leakage.findings import Finding
from pipeline.leakage.segments import segments, windows

BAR = 60_000


def walk(count: int, *, seed: int) -> pd.DataFrame:
    """A random walk of one symbol: prices and volumes that tell nothing about what comes."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.standard_t(4, count)) * 1e-3)
    return pd.DataFrame({"close": close, "volume": rng.lognormal(size=count) * (rng.random(count) > 0.1)})


def segmented(*lengths: int, hole: int = 10) -> pd.DataFrame:
    """A clean table of one symbol with a hole after each segment."""
    segment = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    time = (np.arange(len(segment)) + hole * segment.astype(np.int64)) * BAR
    return walk(len(segment), seed=3).assign(symbol="A", open_time=time, segment=segment)


def placed(bars: pd.DataFrame, rows: np.ndarray, *, horizon: int = 2, **changes: np.ndarray) -> Finding:
    """What the guard says to `rows` of `bars` whose labels end `horizon` bars later, but for the changes."""
    time = bars["open_time"].to_numpy()[rows]
    spans = {"time": time, "label_end": time + horizon * BAR, "segment": bars["segment"].to_numpy()[rows]} | changes
    return segments(**spans, bars=bars, bar_ms=BAR, warm_up_bars=3)


def test_segments_holds_where_warm_ups_and_labels_stay_inside():
    found = placed(segmented(20, 30), np.r_[3:18, 23:48])
    assert (found.severity, found.figures["segments"]) == ("ok", 2)


@pytest.mark.parametrize(
    ("rows", "horizon", "message"),
    [
        (np.r_[3:19, 23:48], 2, "1 labels end outside their segment, first row 15"),
        (np.r_[3:18, 21:48], 2, "2 rows use bars before their segment, first row 15"),
        (np.r_[3:10, 9:18], 2, "1 rows are out of order or off the grid, first row 7"),
        (np.r_[23:48, 3:18], 3, "2 labels end outside"),
    ],
)
def test_segments_names_what_crosses_a_border(rows: np.ndarray, horizon: int, message: str):
    found = placed(segmented(20, 30), rows, horizon=horizon)
    assert found.severity == "critical"
    assert message in found.message


def test_segments_lets_rows_be_left_out_within_a_segment():
    assert placed(segmented(20, 30), np.r_[3:10, 12:18]).severity == "ok"


def test_segments_sees_bars_that_run_over_a_hole_under_one_number():
    found = placed(segmented(20, 30).assign(segment=np.int32(0)), np.r_[3:18])
    assert "1 bars do not follow the one before, first row 20" in found.message


def test_segments_sees_two_symbols_woven_into_one_another():
    found = placed(segmented(20, 20), np.r_[3:10, 23:38, 10:18])
    assert "1 rows are out of order or off the grid, first row 22" in found.message


@pytest.mark.parametrize(
    ("run", "broken"),
    [
        ([0, 0, 1, 1, 2, 2], 0),
        ([0, 0, 0, 0, 2, 2], 1),  # over the bar left out
        ([0, 0, 1, 1, 1, 1], 1),  # into the next symbol
        ([0, 0, 1, 1, 0, 0], 1),  # a number that comes again
    ],
)
def test_a_window_crosses_neither_a_bar_left_out_nor_a_border(run: list[int], broken: int):
    time = np.array([0, 1, 3, 4, 5, 6]) * BAR
    found = windows(time, np.array([0, 0, 0, 0, 1, 1]), np.array(run), bar_ms=BAR)
    assert (found.figures["broken"], found.severity) == (broken, "critical" if broken else "ok")


def test_rows_of_a_segment_that_the_bars_do_not_have_are_refused():
    with pytest.raises(ValueError, match=r"segments \[7\] that the bars do not have"):
        placed(segmented(20), np.arange(3, 10), segment=np.full(7, 7, dtype=np.int32))
