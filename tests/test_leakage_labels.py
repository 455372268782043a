from functools import partial

import numpy as np
import pandas as pd
import pytest

from pipeline import labels
from pipeline.leakage.findings import Finding
from pipeline.leakage.labels import PRICE_LOG_SD, AlteredBars, label_end, label_timing

BAR = 60_000
KINDS = {
    "return": {"kind": "return", "horizon": 5, "volatility_window": 20},
    "direction": {"kind": "direction", "horizon": 3},
    "barrier": {"kind": "barrier", "horizon": 10, "profit": 2.0, "stop": 2.0, "volatility_window": 20},
    "trend": {"kind": "trend", "horizon": 7},
}


def simulate_market(*lengths: int, seed: int = 1) -> pd.DataFrame:
    """Simulate a clean table of one symbol, a random walk with idle bars, and a gap after each segment."""
    rng, count = np.random.default_rng(seed), sum(lengths)
    segment = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    is_traded = rng.random(count) > 0.1
    close = 100 * np.exp(np.cumsum(rng.standard_t(4, count) * 1e-3 * is_traded))
    opened = np.append(100.0, close[:-1])
    spread = rng.exponential(5e-4, (2, count)) * is_traded
    volume = rng.lognormal(size=count) * is_traded
    return pd.DataFrame(
        {
            "open_time": (np.arange(count) + 10 * segment.astype(np.int64)) * BAR,
            "open": opened,
            "high": np.maximum(opened, close) * (1 + spread[0]),
            "low": np.minimum(opened, close) * (1 - spread[1]),
            "close": close,
            "volume": volume,
            "taker_buy_base": volume * rng.random(count),
            "trades": rng.poisson(30, count) * is_traded,
            "segment": segment,
        }
    )


def make_relabel(block: dict):
    def relabel(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        table = labels.make_labels(bars, block).table
        return table["row"].to_numpy(), table["y"].to_numpy(), table["label_end"].to_numpy()

    return relabel


def check_labels(relabel, *, cuts: int = 24) -> Finding:
    return label_end(simulate_market(400, 30, 300), relabel, "target", cuts=cuts, seed=1)


def test_a_shorter_horizon_that_reads_bars_after_the_longest_is_caught():
    block = {"kind": "return", "horizon": 5, "volatility_window": 20}

    def relabel(bars: pd.DataFrame, *, shift: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        table = labels.make_labels(bars, block | {"horizons": [1, 5]}).table
        y = np.column_stack([table["y_1"].shift(-shift, fill_value=0.0), table["y"]])
        return table["row"].to_numpy(), y, table["label_end"].to_numpy()

    assert check_labels(partial(relabel, shift=0)).severity == "ok"
    found = check_labels(partial(relabel, shift=5))
    assert (found.severity, found.measurements["changes"][0]["change"]) == ("critical", "y changes")


@pytest.mark.parametrize("kind", KINDS)
def test_correct_labels_keep_every_bit(kind: str):
    found = check_labels(make_relabel(KINDS[kind]), cuts=60)
    assert (found.severity, found.measurements["changes"], found.measurements["cuts"]) == ("ok", [], 60)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bars", [1, 2])
def test_a_label_end_that_is_understated_by_a_bar_is_found(kind: str, bars: int):
    correct = make_relabel(KINDS[kind])

    def relabel(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, y, end = correct(table)
        return rows, y, end - bars * BAR

    found = check_labels(relabel)
    assert (found.guard, found.severity) == ("label_end", "critical")
    assert found.message.startswith("target: y changes when the bars after ")


def label_next_return(bars: pd.DataFrame, *, horizon: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return correct rows, log returns over `horizon` bars of a segment, and label ends."""
    close = bars.groupby("segment")["close"]
    ahead = np.log(close.shift(-horizon) / bars["close"]).to_numpy()
    rows = np.flatnonzero(~np.isnan(ahead))
    return rows, ahead[rows], bars["open_time"].to_numpy()[rows + horizon]


def label_by_quantile_of_file(bars: pd.DataFrame):
    rows, ahead, end = label_next_return(bars)
    return rows, np.digitize(ahead, np.quantile(ahead, [1 / 3, 2 / 3])).astype(np.int32), end


def label_by_scale_of_file(bars: pd.DataFrame):
    rows, ahead, end = label_next_return(bars)
    return rows, (ahead / ahead.std()).astype(np.float32), end


def label_by_future_volatility(bars: pd.DataFrame):
    rows, ahead, end = label_next_return(bars)
    volatility = np.log(bars["close"]).diff()[::-1].rolling(20, min_periods=1).std(ddof=0)[::-1].to_numpy()
    return rows, (ahead / volatility[rows]).astype(np.float32), end


def select_by_later_volume(bars: pd.DataFrame):
    rows, ahead, end = label_next_return(bars)
    much = bars["volume"].shift(-10, fill_value=0.0).to_numpy()[rows] > 1.0
    return rows[much], ahead[much], end[much]


PLANTED = {
    label_by_quantile_of_file: "y changes",
    label_by_scale_of_file: "y changes",
    label_by_future_volatility: "y changes",
    select_by_later_volume: "a label disappears",
}


@pytest.mark.parametrize("relabel", PLANTED)
def test_a_label_that_reads_more_than_its_own_bars_is_found(relabel):
    found = check_labels(relabel)
    assert found.severity == "critical"
    assert PLANTED[relabel] in {change["change"] for change in found.measurements["changes"]}


def test_the_rows_and_the_cut_time_of_a_change_are_named():
    def relabel(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        time, close = (bars[name].to_numpy() for name in ("open_time", "close"))
        return np.arange(4), np.where(np.arange(4) == 2, close[-1], 1.0), time[:4]

    found = label_end(simulate_market(30), relabel, "target", cuts=5, seed=1)
    assert found.measurements["changes"][0]["first_row"] == 2
    assert f"first row 2 at {2 * BAR}; seen at {len(found.measurements['changes'])} cut times" in found.message


def test_a_label_end_that_moves_is_found():
    def relabel(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        time = bars["open_time"].to_numpy()
        is_higher = bars["close"].to_numpy()[-1] > simulate_market(30)["close"].to_numpy()[-1]
        return np.arange(20), np.zeros(20), time[1:21] - BAR * is_higher

    changes = label_end(simulate_market(30), relabel, "target", cuts=8, seed=1).measurements["changes"]
    assert {change["change"] for change in changes} == {"label_end changes"}


def test_labels_that_never_end_are_rejected():
    with pytest.raises(ValueError, match="label_end: of target none of 0 labels ends before the last bar"):
        check_labels(lambda bars: (np.arange(0), np.zeros(0), np.arange(0)))


def test_bars_are_altered_after_the_cut_time_alone_and_stay_valid():
    bars, seen = simulate_market(300), []

    def relabel(other: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        seen.append(other)
        return np.arange(100), np.zeros(100), other["open_time"].to_numpy()[1:101]

    found = label_end(bars, relabel, "target", cuts=12, seed=1)
    assert len(seen) == 13
    for other in seen[1:]:
        differs = (other["close"] != bars["close"]).to_numpy()
        cut_ms = bars["open_time"][np.argmax(differs) - 1]
        assert cut_ms in found.measurements["altered_after_ms"]
        is_later = bars["open_time"] > cut_ms
        assert np.array_equal(differs, is_later)
        pd.testing.assert_frame_equal(other[~is_later], bars[~is_later])
        assert (other[["open_time", "segment"]] == bars[["open_time", "segment"]]).all(axis=None)
        assert (other["high"] >= other[["open", "close"]].max(axis=1)).all()
        assert (other["low"] <= other[["open", "close"]].min(axis=1)).all()
        assert (other["taker_buy_base"] <= other["volume"]).all()
        assert other.dtypes.equals(bars.dtypes)


# label_timing


def check_placement(bars: pd.DataFrame, rows: np.ndarray, *, horizon: int = 2) -> Finding:
    return label_timing(bars, rows, bars["open_time"].to_numpy()[rows] + horizon * BAR)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_every_kind_are_known_after_their_bar(kind: str):
    bars = simulate_market(400, 30, 300)
    table = labels.make_labels(bars, KINDS[kind]).table
    found = label_timing(bars, *(table[name].to_numpy() for name in ("row", "label_end")))
    assert (found.guard, found.severity, found.measurements["rows"]) == ("label_timing", "ok", len(table))


@pytest.mark.parametrize(
    ("rows", "horizon", "message"),
    [
        (np.arange(10), 0, r"^10 labels end by their own bar: .* \(first row 0 at 0\)$"),
        (np.arange(10), -1, r"^10 labels end by their own bar"),
        (np.r_[3:29, 30:40], 2, r"^1 labels end outside their segment: .* \(first row 28 at 1680000\)$"),
        (np.r_[3:30, 30:40], 0, r"; 1 rows have no next bar in their segment: drop them \(first row 29 at"),
    ],
)
def test_a_label_known_too_early_or_never_is_found(rows: np.ndarray, horizon: int, message: str):
    found = check_placement(simulate_market(30, 30), rows, horizon=horizon)
    assert found.severity == "critical"
    assert pd.Series([found.message]).str.contains(message).all(), found.message


def test_bars_are_altered_once_and_the_others_and_the_originals_stay():
    bars = simulate_market(6, 4)
    before, altered, rng = bars.copy(), AlteredBars(bars, rng=np.random.default_rng(1)), np.random.default_rng(1)
    factor, permutation = np.exp(rng.normal(0.0, PRICE_LOG_SD, 10)), rng.permutation(10)
    expected = bars.copy()
    for start in (7, 3, 5):
        altered.alter(np.arange(10) >= start)
        is_altered = np.arange(10) >= min(start, 3 if start == 5 else start)
        for name in ("open", "high", "low", "close"):
            expected[name] = np.where(is_altered, before[name] * factor, before[name])
        for name in ("volume", "taker_buy_base", "trades"):
            other = before[name].to_numpy()[permutation] * factor
            expected[name] = np.where(is_altered, other, before[name]).astype(before[name].dtype)
        pd.testing.assert_frame_equal(altered.make_table(), expected, check_exact=True)
    pd.testing.assert_frame_equal(bars, before)
