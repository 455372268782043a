import numpy as np
import pandas as pd
import pytest

from pipeline.leakage.findings import Finding
from pipeline.leakage.segments import check_window_runs, segments

BAR = 60_000


def simulate_walk(count: int, *, seed: int) -> pd.DataFrame:
    """Simulate a random walk of one symbol: prices and volumes without predictive power."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.standard_t(4, count)) * 1e-3)
    return pd.DataFrame({"close": close, "volume": rng.lognormal(size=count) * (rng.random(count) > 0.1)})


def make_segments(*lengths: int, gap: int = 10) -> pd.DataFrame:
    """Make a clean table of one symbol with a gap after each segment."""
    segment = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    time = (np.arange(len(segment)) + gap * segment.astype(np.int64)) * BAR
    return simulate_walk(len(segment), seed=3).assign(symbol="A", open_time=time, segment=segment)


def check_rows(bars: pd.DataFrame, rows: np.ndarray, *, horizon: int = 2, **changes: np.ndarray) -> Finding:
    """Return the finding for `rows` of `bars` whose labels end `horizon` bars later, except for the changes."""
    time = bars["open_time"].to_numpy()[rows]
    spans = {"time": time, "label_end": time + horizon * BAR, "segment": bars["segment"].to_numpy()[rows]} | changes
    return segments(**spans, bars=bars, bar_ms=BAR, warm_up_bars=3)


def test_rows_whose_warm_ups_and_labels_stay_inside_segments_are_ok():
    found = check_rows(make_segments(20, 30), np.r_[3:18, 23:48])
    assert (found.severity, found.measurements["segments"]) == ("ok", 2)


@pytest.mark.parametrize(
    ("rows", "horizon", "message"),
    [
        (np.r_[3:19, 23:48], 2, "1 labels end outside their segment, first row 15"),
        (np.r_[3:18, 21:48], 2, "2 rows use bars before their segment, first row 15"),
        (np.r_[3:10, 9:18], 2, "1 rows are out of order or off the grid of bars, first row 7"),
        (np.r_[23:48, 3:18], 3, "2 labels end outside"),
    ],
)
def test_what_crosses_a_border_is_named(rows: np.ndarray, horizon: int, message: str):
    found = check_rows(make_segments(20, 30), rows, horizon=horizon)
    assert found.severity == "critical"
    assert message in found.message


def test_rows_may_be_missing_within_a_segment():
    assert check_rows(make_segments(20, 30), np.r_[3:10, 12:18]).severity == "ok"


def test_bars_on_both_sides_of_a_gap_under_one_segment_number_are_found():
    found = check_rows(make_segments(20, 30).assign(segment=np.int32(0)), np.r_[3:18])
    assert "1 bars do not follow the bar before them, first row 20" in found.message


def test_two_interleaved_symbols_are_found():
    found = check_rows(make_segments(20, 20), np.r_[3:10, 23:38, 10:18])
    assert "1 rows are out of order or off the grid of bars, first row 22" in found.message


@pytest.mark.parametrize(
    ("run", "broken"),
    [
        ([0, 0, 1, 1, 2, 2], 0),
        ([0, 0, 0, 0, 2, 2], 1),  # over the missing bar
        ([0, 0, 1, 1, 1, 1], 1),  # into the next symbol
        ([0, 0, 1, 1, 0, 0], 1),  # a number that recurs
    ],
)
def test_a_run_that_crosses_a_missing_bar_or_a_border_is_found(run: list[int], broken: int):
    time = np.array([0, 1, 3, 4, 5, 6]) * BAR
    found = check_window_runs(time, np.array([0, 0, 0, 0, 1, 1]), np.array(run), bar_ms=BAR)
    assert (found.measurements["broken_runs"], found.severity) == (broken, "critical" if broken else "ok")


def test_rows_of_a_segment_that_the_bars_do_not_have_are_rejected():
    with pytest.raises(ValueError, match=r"segments \[7\] that the bars do not have"):
        check_rows(make_segments(20), np.arange(3, 10), segment=np.full(7, 7, dtype=np.int32))
