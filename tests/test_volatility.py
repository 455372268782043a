"""The volatility that scales labels: its estimate, and the bars at which it is too small to be a scale."""

import numpy as np
import pandas as pd
import pytest

from pipeline import labels, volatility
from pipeline.leakage.labels import label_end
from tests.test_labels import REAL, drop_zeros, make_bars

WINDOW = 20


def walk(*, seed: int, bars: int, price: float = 40_000.0, sigma: float = 5e-4, decimals: int = 2) -> np.ndarray:
    """Return (N,) closes of a random walk, rounded to a tick."""
    steps = np.random.default_rng(seed).normal(0.0, sigma, bars)
    return np.round(price * np.exp(np.cumsum(steps)), decimals)


def label(close: np.ndarray, **keys: object) -> labels.Labels:
    """Return the forward returns over five bars."""
    return labels.forward_return(make_bars(close.tolist()), horizon=5, volatility_window=WINDOW, **keys)


def interpolate(close: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return the closes with a straight line from one bar to another."""
    line = np.linspace(close[start], close[stop], stop - start + 1)
    return np.concatenate([close[:start], line, close[stop + 1 :]])


def estimate_usual_level_slowly(close: np.ndarray, t: int) -> float:
    """Return the median root mean square of the windows that end at WINDOW, 2 · WINDOW … up to t."""
    steps = np.diff(np.log(close))
    found = [np.sqrt(np.mean(steps[end - WINDOW : end] ** 2)) for end in range(WINDOW, t + 1, WINDOW)]
    moving = [level for level in found if level > 0][-volatility.USUAL_WINDOWS :]
    return float(np.median(moving)) if moving else np.nan


def test_equal_steps_have_a_volatility_of_exactly_zero() -> None:
    doubling = make_bars([2.0**k for k in range(32)])
    np.testing.assert_array_equal(
        volatility.estimate_volatility(doubling, window=26)[26:], 0.0
    )  # their mean has a rounding error


def test_an_ordinary_market_loses_no_row() -> None:
    assert drop_zeros(label(walk(seed=1, bars=2000)).lost) == {"warm_up": WINDOW, "label_horizon": 5}


@pytest.mark.parametrize("decimals", [None, 2])
def test_an_interpolated_stretch_loses_its_rows_and_leaves_no_huge_label(decimals: int | None) -> None:
    close = interpolate(walk(seed=2, bars=2000), 1000, 1300)
    close = close if decimals is None else np.round(close, decimals)
    result = label(close)
    lost = set(range(1000 + WINDOW, 1300)) - set(result.table["row"])
    assert lost == set(range(1000 + WINDOW, 1300))
    low = result.lost["volatility_below_tick"] + result.lost["volatility_below_usual"]
    assert len(lost) <= low <= len(lost) + 2
    assert result.largest < 40
    assert len(result.table) + sum(result.lost.values()) == len(close)


def test_a_straight_path_from_the_first_bar_has_no_label() -> None:
    assert len(label(40_000.0 + 3.7 * np.arange(400)).table) == 0


def test_constant_growth_has_no_label_although_its_deviations_are_not_exactly_zero() -> None:
    close = 100 * 1.0001 ** np.arange(400)
    sigma = volatility.estimate_volatility(make_bars(close.tolist()), window=WINDOW)[WINDOW:]
    assert 0 < sigma.max() < 1e-15
    result = label(close)
    assert len(result.table) == 0
    assert drop_zeros(result.lost).keys() <= {"warm_up", "zero_volatility", "volatility_below_tick", "label_horizon"}


def test_a_pegged_pair_has_a_label_only_where_it_moves_often_enough() -> None:
    close = np.full(200, 1.0)
    close[100] = 1.0001
    tick = volatility.infer_tick(make_bars(close.tolist()))
    np.testing.assert_allclose(tick[[50, 99, 100, 150]], [2.0**-23, 2.0**-23, 1e-4, 1e-4])
    # one step up and one down in 20 bars: σ is √(2/19) = 0.324 ticks; one alone: √(0.95/19) = 0.224 < 0.289
    result = label(close)
    assert result.table["row"].tolist() == list(range(101, 120))
    assert drop_zeros(result.lost) == {"warm_up": 20, "zero_volatility": 80 + 79, "volatility_below_tick": 2}


def test_the_tick_is_that_of_most_closes_up_to_the_bar() -> None:
    close = walk(seed=3, bars=500)
    close[::25] += 0.001234567  # one in 25 is off the tick
    tick = volatility.infer_tick(make_bars(close.tolist()))
    np.testing.assert_array_equal(tick[50:], 0.01)
    np.testing.assert_allclose(
        volatility.infer_tick(make_bars((close * np.pi).tolist())), close * np.pi * 2.0**-23, rtol=1e-12
    )


def test_decimals_are_those_of_the_shortest_text_of_a_price() -> None:
    rng = np.random.default_rng(4)
    texts = [f"{rng.uniform(1, 9):.{count}f}" for count in rng.integers(0, 6, 300)]
    expected = [len(text.partition(".")[2].rstrip("0")) for text in texts]
    assert volatility.count_decimals(np.array(texts, dtype=np.float64)).tolist() == expected
    assert volatility.count_decimals(np.array([1.2e-7, 43210.99, 2.0**0.5])).tolist() == [8, 2, 13]


def test_the_usual_level_equals_the_slow_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volatility, "USUAL_WINDOWS", 4)
    close = walk(seed=5, bars=260)
    close[90:135] = close[90]  # a whole window without a move does not count
    found = volatility.estimate_usual_level(make_bars(close.tolist()), window=WINDOW)
    expected = [estimate_usual_level_slowly(close, t) for t in range(len(close))]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_later_bars_and_other_segments_change_no_cause() -> None:
    close = interpolate(walk(seed=6, bars=900), 500, 600)
    bars = make_bars(close.tolist())
    _, whole = volatility.estimate_scale(bars, window=WINDOW)
    for cut in range(480, 700, 23):
        later = bars.copy()
        later.loc[cut:, ["high", "low", "close"]] *= np.pi
        for changed in (bars.head(cut), later):
            _, causes = volatility.estimate_scale(changed, window=WINDOW)
            for cause, applies in causes.items():
                np.testing.assert_array_equal(applies[:cut], whole[cause][:cut])
    other = make_bars(walk(seed=7, bars=300, sigma=1e-7, decimals=9).tolist()).assign(segment=np.int32(9))
    _, causes = volatility.estimate_scale(pd.concat([other, bars], ignore_index=True), window=WINDOW)
    for cause, applies in causes.items():
        np.testing.assert_array_equal(applies[300:], whole[cause])


def test_the_guard_of_labels_holds_on_interpolated_bars() -> None:
    close = interpolate(walk(seed=8, bars=700), 300, 420)
    bars = make_bars(close.tolist()).assign(open=close, volume=1.0)

    def relabel(changed: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        table = labels.forward_return(changed, horizon=5, volatility_window=WINDOW, clip_sigma=10.0).table
        return tuple(table[name].to_numpy() for name in ("row", "y", "label_end"))

    finding = label_end(bars, relabel, "it", cuts=12, seed=3)
    assert finding.severity == "ok", finding.message
    assert finding.measurements["rows"] < 700 - WINDOW - 5 - 90


@pytest.mark.skipif(not REAL.exists(), reason="the shared real BTC file does not exist")
def test_real_liquid_minutes_lose_no_row() -> None:
    bars = pd.read_parquet(REAL).assign(segment=np.int32(0))
    _, causes = volatility.estimate_scale(bars, window=60)
    assert {cause: int(applies.sum()) for cause, applies in causes.items()} == {
        "warm_up": 60,
        "zero_volatility": 0,
        "volatility_below_tick": 0,
        "volatility_below_usual": 0,
    }


def infer_tick_slowly(table: pd.DataFrame) -> np.ndarray:
    """Return (N,) ticks, from running sums of the moves with at most 12, 11 … 0 decimals."""
    close, rows = table["close"].to_numpy(), np.arange(len(table))
    age = table.groupby("segment").cumcount().to_numpy()
    first = rows - np.minimum(age, volatility.TICK_BARS - 1)
    moves = (age > 0) & (close != np.append(close[:1], close[:-1]))
    decimals, tick = volatility.count_decimals(close), np.zeros(len(table))

    def count_latest(is_counted: np.ndarray) -> np.ndarray:
        running = np.append(0, np.cumsum(is_counted))
        return np.asarray(running[rows + 1] - running[first])

    for count in range(volatility.MAX_DECIMALS, -1, -1):
        share = count_latest(moves & (decimals <= count)) >= volatility.TICK_SHARE * count_latest(moves)
        tick[share & (count_latest(moves) > 0)] = 10.0**-count
    return np.maximum(tick, close * np.finfo(np.float32).eps)


def test_the_tick_is_that_of_the_latest_bars_of_the_segment_alone() -> None:
    bars = volatility.TICK_BARS
    parts = [walk(seed=n, bars=length, decimals=n) for n, length in ((1, bars // 2), (2, 3 * bars // 2), (0, 40))]
    table = make_bars(np.concatenate(parts).tolist())
    table["segment"] = np.repeat([0, 1], [bars // 2 + 10, len(table) - bars // 2 - 10])
    found = volatility.infer_tick(table)
    np.testing.assert_array_equal(found, infer_tick_slowly(table))
    assert {0.1, 0.01} <= set(found)
