"""Labels: tiny bars by hand, random bars by a second slow method, and no use of bars after the label's end."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import labels

REAL = Path(__file__).parents[1].parent / "shared" / "data" / "BTCUSDT_1m_2024-01-01_90d.parquet"
MINUTE = 60_000
BLOCKS: dict[str, dict[str, Any]] = {
    "return": {"kind": "return", "horizon": 5, "volatility_window": 8},
    "direction": {"kind": "direction", "horizon": 4},
    "barrier": {"kind": "barrier", "horizon": 6, "profit": 1.5, "stop": 1.0, "volatility_window": 8},
    "trend": {"kind": "trend", "horizon": 5},
    "position": {"kind": "position", "volatility_window": 8},
    "volatility": {"kind": "volatility", "horizon": 5, "volatility_window": 8},
    "range": {"kind": "range", "horizon": 5, "volatility_window": 8},
    "large_move": {"kind": "large_move", "horizon": 6, "threshold": 1.5, "volatility_window": 8},
}
every_kind = pytest.mark.parametrize("kind", list(BLOCKS))


def make_bars(close: list[float], *, high=None, low=None, segment=None) -> pd.DataFrame:
    n = len(close)
    columns = {
        "segment": np.zeros(n, dtype=np.int32) if segment is None else np.array(segment, dtype=np.int32),
        "open_time": np.arange(n, dtype=np.int64) * MINUTE,
        "high": np.array(close if high is None else high, dtype=np.float64),
        "low": np.array(close if low is None else low, dtype=np.float64),
        "open": np.array(close, dtype=np.float64),
        "close": np.array(close, dtype=np.float64),
    }
    return pd.DataFrame(columns)


def random_bars(*, seed: int, lengths: tuple[int, ...] = (60, 9, 3, 1, 80)) -> pd.DataFrame:
    """Return several segments with steps on a coarse grid, so that ties, flat runs and double touches occur."""
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    close = 100 * np.exp(np.cumsum(rng.choice([-0.002, 0.0, 0.002], n) * rng.choice([0, 1, 3], n)))
    high, low = close * (1 + rng.exponential(0.002, n)), close * (1 - rng.exponential(0.002, n))
    close[20:32] = high[20:32] = low[20:32] = close[20]  # a halt: flat bars, no volatility
    bars = make_bars(close, high=high, low=low, segment=np.repeat(np.arange(len(lengths)), lengths))
    return bars.assign(open=rng.uniform(low, high))


def drop_zeros(lost: dict[str, int]) -> dict[str, int]:
    return {cause: count for cause, count in lost.items() if count}


def estimate_volatility_slowly(bars: pd.DataFrame, t: int, window: int) -> float | None:
    """Return pandas' std of the log returns in the row's own segment; None while there are too few."""
    own = bars["close"][(bars["segment"] == bars["segment"][t]) & (bars.index <= t)]
    steps = np.log(own).diff().dropna().tail(window)
    return None if len(steps) < window else (0.0 if (steps == steps.iloc[0]).all() else float(steps.std()))


def measure_dispersion_slowly(bars: pd.DataFrame, kind: str) -> float:
    """Return the root of the sum of squared log returns after the first bar, or the log range of those bars."""
    if kind == "volatility":
        return float((np.log(bars["close"]).diff().dropna() ** 2).sum() ** 0.5)
    return float(np.log(bars["high"].iloc[1:].max() / bars["low"].iloc[1:].min()))


def label_slowly(bars: pd.DataFrame, t: int, block: dict[str, Any]) -> tuple[int, float, float] | str:
    """Return (last bar used, y, raw) of row t or the cause of its loss, one bar at a time as in the definition."""
    close, h = bars["close"].tolist(), block.get("horizon", 2)  # of a position: one bar from the next one's open
    sigma = estimate_volatility_slowly(bars, t, block["volatility_window"]) if "volatility_window" in block else 1.0
    if not sigma:
        return "warm_up" if sigma is None else "zero_volatility"
    if t + h >= len(bars) or bars["segment"][t + h] != bars["segment"][t]:
        return "label_horizon"
    prices, start = (bars["open"], t + 1) if block["kind"] == "position" else (bars["close"], t)
    raw = float(np.log(prices[t + h]) - np.log(prices[start]))
    if block["kind"] in ("return", "position"):
        return t + h, raw / sigma / (t + h - start) ** 0.5, raw
    if block["kind"] == "direction":
        return t + h, float(close[t + h] > close[t]), raw
    if block["kind"] == "trend":
        path = sum(abs(np.log(close[k + 1]) - np.log(close[k])) for k in range(t, t + h))
        return t + h, 0.5 + (0.5 * raw / path if path else 0.0), raw
    if block["kind"] in ("volatility", "range"):
        return t + h, measure_dispersion_slowly(bars.iloc[t : t + h + 1], block["kind"]) / sigma / h**0.5, raw
    if block["kind"] == "large_move":
        return label_large_move_slowly(bars, t, h, distance=block["threshold"] * sigma)
    return label_barrier_slowly(bars, t, h, stop=block["stop"] * sigma, profit=block["profit"] * sigma)


def label_barrier_slowly(bars: pd.DataFrame, t: int, h: int, *, stop: float, profit: float) -> tuple[int, float, float]:
    close = bars["close"].tolist()
    for bar in range(t + 1, t + h + 1):
        if bars["low"][bar] <= close[t] * (1 - stop):
            return bar, labels.DOWN, float(np.log(1 - stop))
        if bars["high"][bar] >= close[t] * (1 + profit):
            return bar, labels.UP, float(np.log(1 + profit))
    return t + h, labels.FLAT, float(np.log(close[t + h] / close[t]))


def label_large_move_slowly(bars: pd.DataFrame, t: int, h: int, *, distance: float) -> tuple[int, float, float]:
    """Return the first bar whose extremes are that far, relative to the close of t, 1, and the log return so far."""
    close = bars["close"][t]
    after = bars.iloc[t + 1 : t + h + 1]
    falls, rises = after["low"] / close - 1 <= -distance, after["high"] / close - 1 >= distance
    if not (falls | rises).any():
        return t + h, 0.0, float(np.log(bars["close"][t + h] / close))
    first = int((falls | rises).idxmax())
    return first, 1.0, float(np.log1p(-distance if falls[first] else distance))


@every_kind
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_labels_equal_the_slow_definition(kind: str, seed: int) -> None:
    bars = random_bars(seed=seed)
    result = labels.make_labels(bars, BLOCKS[kind])
    slow = [label_slowly(bars, t, BLOCKS[kind]) for t in range(len(bars))]
    rows = [t for t, label in enumerate(slow) if not isinstance(label, str)]
    table = result.table
    assert table["row"].tolist() == rows
    assert (table["label_end"] // MINUTE).tolist() == [slow[t][0] for t in rows]
    np.testing.assert_allclose(table["y"], [slow[t][1] for t in rows], atol=2e-6)
    np.testing.assert_allclose(table["raw"], [slow[t][2] for t in rows], atol=1e-12)
    assert {cause: slow.count(cause) for cause in result.lost} == result.lost


@pytest.mark.parametrize("kind", ["return", "volatility", "range"])
def test_several_horizons_have_the_labels_of_each_where_the_longest_has_one(kind: str) -> None:
    bars, block = random_bars(seed=1), {**BLOCKS[kind], "clip_sigma": 2.0}
    found = labels.make_labels(bars, {**block, "horizons": [1, 3, 5]})
    alone = labels.make_labels(bars, block)
    pd.testing.assert_frame_equal(found.table[list(alone.table)], alone.table)
    assert (found.lost, found.clipped) == (alone.lost, alone.clipped)
    assert list(found.table)[-2:] == ["y_1", "y_3"]
    for horizon in (1, 3):
        shorter = labels.make_labels(bars, {**block, "horizon": horizon}).table.set_index("row")["y"]
        assert found.table[f"y_{horizon}"].tolist() == shorter[found.table["row"]].tolist()


@every_kind
def test_every_bar_has_a_label_or_one_cause_of_its_loss(kind: str) -> None:
    bars = random_bars(seed=4)
    result = labels.make_labels(bars, BLOCKS[kind])
    assert len(result.table) + sum(result.lost.values()) == len(bars)


@every_kind
def test_bars_after_the_label_end_do_not_change_the_label(kind: str) -> None:
    bars = random_bars(seed=5, lengths=(90,))
    whole = labels.make_labels(bars, BLOCKS[kind]).table
    for cut in range(30, 90, 7):
        table = labels.make_labels(bars.head(cut), BLOCKS[kind]).table
        pd.testing.assert_frame_equal(table, whole.head(len(table)))
    for t in [0, 20, 40]:
        at = whole.index[whole["row"] >= t][0]
        after = (bars["open_time"] > whole["label_end"][at]) & (bars["open_time"] > whole["time"][at] + MINUTE)
        changed = bars.copy()
        changed.loc[after, ["high", "low", "close"]] *= 3.0
        pd.testing.assert_series_equal(labels.make_labels(changed, BLOCKS[kind]).table.loc[at], whole.loc[at])


@every_kind
def test_bars_of_other_segments_change_no_label(kind: str) -> None:
    bars = random_bars(seed=6, lengths=(40, 40, 40))
    middle = bars.iloc[40:80].reset_index(drop=True)
    alone = labels.make_labels(middle, BLOCKS[kind]).table
    table = labels.make_labels(bars, BLOCKS[kind]).table
    inside = table[table["segment"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(inside.assign(row=inside["row"] - 40), alone)


@every_kind
def test_no_label_crosses_a_segment(kind: str) -> None:
    bars = random_bars(seed=7)
    table = labels.make_labels(bars, BLOCKS[kind]).table
    segment = bars["segment"].to_numpy()
    assert (segment[table["label_end"] // MINUTE] == table["segment"]).all()
    assert (table["label_end"] > table["time"]).all()


@every_kind
def test_the_table_has_the_documented_columns_and_types(kind: str) -> None:
    table = labels.make_labels(random_bars(seed=8), BLOCKS[kind]).table
    output = labels.KINDS[kind].output
    coded = output.is_classification
    types = ["int64", "int32", "int64", "int64", "int32" if coded else "float32", "float64"]
    names = ["row", "segment", "time", "label_end", "y", "raw"]
    assert table.dtypes.astype(str).to_dict() == dict(zip(names, types, strict=True))
    assert np.isfinite(table.to_numpy(dtype=np.float64)).all()
    if coded:
        assert set(table["y"]) <= set(range(len(output.names)))


@every_kind
def test_segments_shorter_than_the_horizon_give_an_empty_table(kind: str) -> None:
    result = labels.make_labels(make_bars([1.0, 2.0, 3.0]), BLOCKS[kind])
    assert len(result.table) == 0
    assert sum(result.lost.values()) == 3


def test_every_kind_is_tested() -> None:
    assert set(labels.KINDS) == set(BLOCKS)


def test_a_position_is_labeled_from_its_fill_to_the_next_one() -> None:
    close = np.exp([0.0, 0.01, 0.0, 0.01, 0.03, 0.07])
    opened = np.exp([0.0, 0.0, 0.01, 0.02, 0.05, 0.06])
    bars = make_bars(close.tolist()).assign(open=opened)
    sigma = 0.01 * np.sqrt(2)  # of a step up and a step down of 1 %
    table = labels.position(bars, volatility_window=2).table
    assert table["row"].tolist() == [2, 3]
    assert (table["label_end"] // MINUTE).tolist() == [4, 5]
    np.testing.assert_allclose(table["raw"], [0.03, 0.01])
    np.testing.assert_allclose(table["y"], [0.03 / sigma, 0.01 / sigma], rtol=1e-6)
    delayed = labels.make_labels(bars, {"kind": "position", "volatility_window": 2}, delay_bars=1)
    assert delayed.table["row"].tolist() == [2]
    assert (delayed.table["label_end"] // MINUTE).tolist() == [5]
    np.testing.assert_allclose(delayed.table["y"], [0.01 / sigma], rtol=1e-6)
    assert delayed.lost == {
        "warm_up": 2,
        "zero_volatility": 0,
        "volatility_below_tick": 0,
        "volatility_below_usual": 0,
        "label_horizon": 3,
    }


def test_the_delay_of_orders_is_no_key_of_a_target_and_changes_no_other_kind() -> None:
    bars = random_bars(seed=4)
    with pytest.raises(ValueError, match="target: unknown key 'delay_bars'; its keys are volatility_window"):
        labels.make_labels(bars, BLOCKS["position"] | {"delay_bars": 1})
    for kind in set(BLOCKS) - {"position"}:
        both = (labels.make_labels(bars, BLOCKS[kind], delay_bars=delay).table for delay in (0, 3))
        pd.testing.assert_frame_equal(*both)


def test_return_is_in_units_of_the_volatility_label_timing_its_row() -> None:
    close = np.exp([0.0, 0.01, 0.0, 0.01, 0.03, 0.07])  # steps +1 -1 +1 +2 +4 percent
    table = labels.forward_return(make_bars(close.tolist()), horizon=2, volatility_window=2).table
    sigma = 0.01 * np.sqrt(2)  # of a step up and a step down of 1 %
    assert table["row"].tolist() == [2, 3]
    np.testing.assert_allclose(table["raw"], [0.03, 0.06])
    np.testing.assert_allclose(table["y"], [0.03 / (sigma * np.sqrt(2)), 0.06 / (sigma * np.sqrt(2))], rtol=1e-6)


def test_an_equal_close_is_not_up_and_is_counted() -> None:
    result = labels.direction(make_bars([5.0, 5.0, 6.0, 5.0]), horizon=1)
    assert result.table["y"].tolist() == [0, 1, 0]
    assert result.ties == 1
    assert result.lost == {"label_horizon": 1}


def label_third_bar(high: list[float], low: list[float], close: list[float]) -> tuple[labels.Labels, float]:
    """Return the barrier label of the third bar, whose close is 100, and its σ; the arguments are the bars after it."""
    past = [100.0, 101.0, 100.0]
    sigma = float(np.std(np.diff(np.log(past)), ddof=1))  # 1.407 %: +2σ is 102.81, -1σ is 98.59
    bars = make_bars(past + close, high=past + high, low=past + low)
    return labels.triple_barrier(bars, horizon=len(close), profit=2.0, stop=1.0, volatility_window=2), sigma


@pytest.mark.parametrize(
    ("high", "low", "close", "code", "end", "level"),
    [
        ([101.0, 103.0, 101.0], [99.5, 100.0, 90.0], [100.0, 101.0, 95.0], labels.UP, 4, 2.0),
        ([101.0, 102.0, 105.0], [99.5, 98.5, 100.0], [100.0, 100.0, 101.0], labels.DOWN, 4, -1.0),
        ([101.0, 102.0, 102.0], [99.5, 99.0, 99.0], [100.0, 100.0, 101.0], labels.FLAT, 5, None),
        ([103.0, 100.0, 100.0], [98.0, 100.0, 100.0], [100.0, 100.0, 100.0], labels.DOWN, 3, -1.0),
    ],
    ids=["profit first", "stop first", "neither", "both in one bar"],
)
def test_barrier_is_the_first_level_touched(high, low, close, code: int, end: int, level: float | None) -> None:
    result, sigma = label_third_bar(high, low, close)
    assert result.table["row"].tolist() == [2]
    assert result.table["y"].tolist() == [code]
    assert result.table["label_end"].tolist() == [end * MINUTE]
    raw = np.log(close[-1] / 100) if level is None else np.log(1 + level * sigma)
    np.testing.assert_allclose(result.table["raw"], [raw])
    assert result.ties == int(high[0] == 103.0)


def test_an_early_touch_does_not_label_a_row_without_its_whole_horizon() -> None:
    bars = make_bars([100.0, 101.0, 100.0, 120.0, 120.0])
    result = labels.triple_barrier(bars, horizon=3, profit=1.0, stop=1.0, volatility_window=2)
    assert len(result.table) == 0
    assert drop_zeros(result.lost) == {"warm_up": 2, "label_horizon": 3}


def test_flat_bars_have_no_volatility_and_are_counted() -> None:
    result = labels.forward_return(make_bars([5.0] * 6 + [6.0]), horizon=1, volatility_window=3)
    assert drop_zeros(result.lost) == {"warm_up": 3, "zero_volatility": 3, "label_horizon": 1}


@pytest.mark.parametrize("kind", ["return", "position", "volatility", "range"])
def test_clip_sigma_limits_y_and_leaves_all_else(kind: str) -> None:
    bars = random_bars(seed=10)
    whole = labels.make_labels(bars, BLOCKS[kind])
    limit = float(np.quantile(whole.table["y"].abs(), 0.9))
    clipped = labels.make_labels(bars, {**BLOCKS[kind], "clip_sigma": limit})
    np.testing.assert_array_equal(clipped.table["y"], whole.table["y"].clip(-limit, limit))
    assert clipped.table["y"].dtype == np.float32
    pd.testing.assert_frame_equal(clipped.table.drop(columns="y"), whole.table.drop(columns="y"))
    assert clipped.clipped == (whole.table["y"].abs() > limit).sum() > 0
    assert clipped.largest == whole.largest == whole.table["y"].abs().max()
    assert whole.clipped == 0


def test_closes_that_differ_by_rounding_alone_are_ties() -> None:
    noisy = make_bars([5.0, 5.0 * (1 + 3e-16), 5.0, 6.0])
    assert labels.direction(noisy, horizon=1).table["y"].tolist() == [0, 0, 1]
    assert labels.direction(noisy, horizon=1).ties == 2
    assert labels.trend(noisy, horizon=2).table["y"].tolist() == [0.5, 1.0]


def test_trend_is_one_straight_up_zero_straight_down_and_half_without_a_move() -> None:
    up, down, there_and_back, still = [1.0, 2.0, 4.0], [4.0, 2.0, 1.0], [1.0, 2.0, 1.0], [3.0, 3.0, 3.0]
    bars = make_bars(up + down + there_and_back + still, segment=np.repeat([0, 1, 2, 3], 3))
    result = labels.trend(bars, horizon=2)
    np.testing.assert_allclose(result.table["y"], [1.0, 0.0, 0.5, 0.5], atol=1e-7)
    assert result.ties == 1


def test_trend_of_three_steps_forward_and_one_back_is_three_quarters() -> None:
    close = np.exp([0.0, 0.01, 0.02, 0.01, 0.02])
    np.testing.assert_allclose(labels.trend(make_bars(close.tolist()), horizon=4).table["y"], [(1 + 0.5) / 2])


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {"kind": "returns", "horizon": 5},
            "target.kind is 'returns'; it must be one of return, direction",
        ),
        ({"horizon": 5}, "target.kind is None; it must be one of"),
        ({"kind": "direction", "length": 5}, "unknown key 'length'; its keys are horizon"),
        ({**BLOCKS["return"], "horizons": [3, 1]}, r"target.horizons is \[3, 1\]; its numbers must ascend"),
        (
            {**BLOCKS["return"], "horizons": [1, 3]},
            "must be the horizon, which is traded: set horizon to 3",
        ),
        ({**BLOCKS["return"], "horizons": [5]}, "target.horizons is .5.; a target with one has `horizon` alone"),
        ({**BLOCKS["return"], "horizons": [0, 5]}, "target.horizons.* is 0; it must be above 0"),
        ({**BLOCKS["direction"], "horizons": [1, 6]}, "kind direction has none, only those of kind return, volatility"),
        ({**BLOCKS["return"], "horizons": [1, 5], "quantiles": [0.5]}, "has quantiles and horizons"),
        (
            {"kind": "return", "horizon": 5},
            "'volatility_window' is missing; its keys are horizon, volatility_window, clip_sigma",
        ),
        ({"kind": "direction", "horizon": 0}, "target.horizon is 0; it must be at least 1"),
        ({"kind": "direction", "horizon": 2.5}, "target.horizon is 2.5; it must be a whole number"),
        ({**BLOCKS["return"], "volatility_window": 1}, "target.volatility_window is 1; it must be at least 2"),
        ({**BLOCKS["barrier"], "profit": 0}, "target.profit is 0; it must be above 0"),
        ({**BLOCKS["return"], "clip_sigma": 0}, "target.clip_sigma is 0; it must be above 0"),
        ({**BLOCKS["position"], "clip_sigma": "high"}, "target.clip_sigma is 'high'; it must be a number"),
        ({**BLOCKS["barrier"], "clip_sigma": 9.0}, "unknown key 'clip_sigma'; its keys are horizon, profit"),
        ({**BLOCKS["barrier"], "stop": -1.0}, "target.stop is -1.0; it must be above 0"),
    ],
)
def test_a_wrong_block_is_refused_with_its_key(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        labels.make_labels(random_bars(seed=9), block)


@pytest.mark.skipif(not REAL.exists(), reason="the shared real BTC file does not exist")
def test_labels_of_real_bars_are_balanced() -> None:
    bars = pd.read_parquet(REAL).assign(segment=np.int32(0))
    up = labels.make_labels(bars, {"kind": "direction", "horizon": 5}).table["y"].mean()
    assert 0.45 < up < 0.55
    barrier = {"kind": "barrier", "horizon": 20, "profit": 4.0, "stop": 4.0, "volatility_window": 60}
    share = labels.make_labels(bars, barrier).table["y"].value_counts(normalize=True)
    assert share.min() > 0.15
    y = labels.make_labels(bars, {"kind": "return", "horizon": 5, "volatility_window": 60}).table["y"]
    assert 0.7 < y.std() < 1.5
    assert abs(y.mean()) < 0.1
    trend = labels.make_labels(bars, {"kind": "trend", "horizon": 20}).table["y"]
    assert 0.45 < trend.mean() < 0.55
    assert trend.between(0, 1).all()


def test_a_large_move_is_a_touch_of_either_barrier_and_ends_there() -> None:
    close = [100.0, 101.0, 100.0, 101.0, 100.0, 100.0, 100.0, 100.0, 100.0]
    high, low = list(close), list(close)
    high[6], low[8] = 104.0, 96.0  # σ is about 1 %
    block = {"kind": "large_move", "horizon": 2, "threshold": 2.0, "volatility_window": 4}
    table = labels.make_labels(make_bars(close, high=high, low=low), block).table
    assert table["row"].tolist() == [4, 5, 6]
    assert table["y"].tolist() == [1, 1, 1]
    assert (table["label_end"] // MINUTE).tolist() == [6, 6, 8]
    assert np.sign(table["raw"]).tolist() == [1, 1, -1]
