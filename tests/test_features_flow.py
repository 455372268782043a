"""Columns of volume, order flow and liquidity, against slower second methods and values worked by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import talib

from tests.test_features import BLOCK, SHORT, assert_same, fill_every_bar, load_slice, make_bars


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return load_slice("ARBUSDT_1m_2024-01-01_90d", bars=6000)


@pytest.fixture(scope="module")
def columns(bars: pd.DataFrame) -> pd.DataFrame:
    return fill_every_bar(bars, BLOCK)


def take_last_row(bars: pd.DataFrame) -> pd.Series:
    return fill_every_bar(bars, SHORT).iloc[-1]


def test_activity_is_relative_to_its_own_means(bars: pd.DataFrame, columns: pd.DataFrame) -> None:
    volume, trades = bars["volume"], bars["trades"].astype(float)
    assert_same(columns["volume_sma_20"], volume.rolling(20).mean() / volume.rolling(200).mean())
    assert_same(columns["volume_ratio"], volume / volume.rolling(20).mean())
    assert_same(columns["trade_intensity"], trades / trades.rolling(20).mean())
    size = np.log(volume / trades) - np.log(volume.rolling(20).sum() / trades.rolling(20).sum())
    assert_same(columns["avg_trade_size"], size.where(volume > 0, 0.0).where(size.index >= 19), atol=1e-8)


def test_obv_is_the_change_of_talibs_obv_over_the_volume(bars: pd.DataFrame, columns: pd.DataFrame) -> None:
    obv = pd.Series(talib.OBV(bars["close"].to_numpy(), bars["volume"].to_numpy()))
    assert_same(columns["obv"], obv.diff(20) / bars["volume"].rolling(20).sum(), atol=1e-7)


def test_order_flow_imbalance_is_signed_volume_over_volume(bars: pd.DataFrame, columns: pd.DataFrame) -> None:
    signed = 2 * bars["taker_buy_base"] - bars["volume"]
    assert_same(columns["order_flow_imbalance"], signed.rolling(20).sum() / bars["volume"].rolling(20).sum(), atol=1e-7)
    assert_same(columns["taker_buy_ratio"], (bars["taker_buy_base"] / bars["volume"]).fillna(0.5))


def loop_over_buckets(bars: pd.DataFrame, *, buckets: int, bucket_bars: int, baseline: int) -> np.ndarray:
    """Return VPIN from a list of all buckets ever filled."""
    volume, bought = bars["volume"].to_numpy(), bars["taker_buy_base"].to_numpy()
    day = pd.to_datetime(bars["open_time"], unit="ms").dt.date.to_numpy()
    full, size, buy, sell = [], 0.0, 0.0, 0.0
    vpin = np.full(len(bars), np.nan)
    for t in range(baseline, len(bars)):
        left_buy, left_sell = bought[t], volume[t] - bought[t]
        if day[t] != day[t - 1]:
            size, buy, sell = 0.0, 0.0, 0.0
        while left_buy + left_sell > 0:
            size = size or math.fsum(volume[t - baseline : t]) / baseline * bucket_bars
            if size == 0:
                break
            free = size - buy - sell
            if left_buy + left_sell < free:
                buy, sell, left_buy, left_sell = buy + left_buy, sell + left_sell, 0.0, 0.0
            else:
                fraction = free / (left_buy + left_sell)
                full.append((abs(buy + fraction * left_buy - sell - fraction * left_sell), size))
                left_buy, left_sell, size, buy, sell = (
                    left_buy * (1 - fraction),
                    left_sell * (1 - fraction),
                    0.0,
                    0.0,
                    0.0,
                )
        imbalance, total = np.sum(full[-buckets:], axis=0) if full else (0.0, 1.0)
        vpin[t] = imbalance / total
    vpin[: baseline + buckets * bucket_bars - 1] = np.nan
    return vpin


def test_vpin_equals_that_of_a_list_of_all_buckets(bars: pd.DataFrame, columns: pd.DataFrame) -> None:
    assert_same(columns["vpin"], loop_over_buckets(bars, buckets=50, bucket_bars=5, baseline=200), rtol=1e-5)


def test_vpin_of_a_bar_that_fills_five_buckets_splits_it_pro_rata() -> None:
    bars = make_bars([100.0] * 8, volume=[1.0] * 7 + [5.0], taker_buy_base=[0.5] * 7 + [4.0])
    assert take_last_row(bars)["vpin"] == pytest.approx(0.6)  # each of the last three buckets: |0.8 - 0.2| of 1


def test_vpin_of_a_bar_that_fills_a_billion_buckets_is_its_own_imbalance() -> None:
    bars = make_bars([100.0] * 9, volume=[1e-6] * 8 + [1e6], taker_buy_base=[5e-7] * 8 + [7.5e5])
    assert take_last_row(bars)["vpin"] == pytest.approx(0.5)


def test_a_bucket_of_vpin_can_span_two_bars() -> None:
    block = SHORT | {"vpin_buckets": 1, "vpin_bucket_bars": 2}
    # five bars of 1: buckets of 2; then 1 bought, 1 half bought, half sold: |1.5 - 0.5| / 2
    bars = make_bars([100.0] * 7, volume=1.0, taker_buy_base=[0.5] * 5 + [1.0, 0.5])
    assert fill_every_bar(bars, block)["vpin"].iloc[-1] == pytest.approx(0.5)


def test_vpin_is_zero_before_the_first_trade() -> None:
    assert take_last_row(make_bars([100.0] * 30, volume=0.0, taker_buy_base=0.0))["vpin"] == 0.0


def test_vpin_does_not_change_while_nothing_is_traded() -> None:
    bars = make_bars([100.0] * 30, volume=[1.0] * 12 + [0.0] * 18, taker_buy_base=[0.9] * 12 + [0.0] * 18)
    assert take_last_row(bars)["vpin"] == pytest.approx(0.8)


def test_liquidity_equals_that_of_a_loop_over_windows(bars: pd.DataFrame, columns: pd.DataFrame) -> None:
    n, part = 60, bars[:1500]
    r = np.diff(np.log(part["close"].to_numpy()), prepend=np.nan)
    signed = (2 * part["taker_buy_base"] - part["volume"]).to_numpy()
    quote = part["quote_volume"].to_numpy()
    kyle, roll, amihud, autocorr = (np.full(len(part), np.nan) for _ in range(4))
    for t in range(n, len(part)):
        w, before = slice(t - n + 1, t + 1), slice(t - n, t)
        kyle[t] = np.polyfit(signed[w], r[w], 1)[0] * signed[w].std(ddof=1)
        autocorr[t] = np.corrcoef(signed[w], signed[before])[0, 1]
        traded = quote[w] > 0
        amihud[t] = math.log1p(np.mean(np.abs(r[w][traded]) / quote[w][traded]) * np.mean(quote[w][traded]))
        if t > n:
            roll[t] = 2 * math.sqrt(max(-np.cov(r[w], r[before])[0, 1], 0.0))
    assert_same(columns["kyle_lambda"][:1500], kyle, atol=1e-9)
    assert_same(columns["signed_volume_autocorr"][:1500], autocorr, atol=1e-7)
    assert_same(columns["amihud"][:1500], amihud)
    assert_same(columns["roll_spread"][:1500], roll, atol=1e-8)


def test_corwin_schultz_equals_the_papers_own_formula(bars: pd.DataFrame, columns: pd.DataFrame) -> None:
    high, low, k = bars["high"], bars["low"], 3 - 2 * math.sqrt(2)
    beta = (np.log(high / low) ** 2).rolling(2).sum()
    gamma = np.log(high.rolling(2).max() / low.rolling(2).min()) ** 2
    alpha = (np.sqrt(2 * beta) - np.sqrt(beta)) / k - np.sqrt(gamma / k)
    spread = (2 * (np.exp(alpha) - 1) / (1 + np.exp(alpha))).clip(lower=0)
    assert_same(columns["corwin_schultz_spread"], spread.rolling(60).mean(), rtol=1e-5)


def test_every_column_is_defined_without_trades() -> None:
    quiet = take_last_row(make_bars([100.0] * 30, volume=0.0, trades=0, taker_buy_base=0.0))
    assert (quiet[["volume_sma_3", "volume_ratio", "trade_intensity"]] == 1.0).all()
    assert quiet["taker_buy_ratio"] == 0.5
    zero = ["obv", "order_flow_imbalance", "avg_trade_size", "vpin", "kyle_lambda", "roll_spread", "amihud"]
    assert (quiet[[*zero, "corwin_schultz_spread", "signed_volume_autocorr"]] == 0.0).all()


def test_the_volume_before_a_window_without_trades_leaves_no_trace() -> None:
    volume = np.concatenate([np.random.default_rng(0).uniform(0, 1e9, 40), np.zeros(6)])
    quiet = take_last_row(make_bars(np.linspace(90.0, 100.0, 46), volume=volume, taker_buy_base=volume / 3))
    assert quiet["order_flow_imbalance"] == quiet["obv"] == quiet["amihud"] == quiet["kyle_lambda"] == 0.0
    assert quiet["volume_ratio"] == quiet["volume_sma_3"] == 1.0


def test_the_impact_of_constant_flow_is_zero() -> None:
    bars = make_bars(np.linspace(90.0, 100.0, 30), volume=3.0, taker_buy_base=2.0)
    assert take_last_row(bars)["kyle_lambda"] == take_last_row(bars)["signed_volume_autocorr"] == 0.0


def test_roll_spread_of_a_bounce_is_the_spread() -> None:
    # log prices +s/2, -s/2 in turn: every return is ±s, cov of successive ones -s² n/(n - 1) over n = 4 pairs
    s = 1e-3
    bounce = 100.0 * np.exp(s / 2 * (-1.0) ** np.arange(20))
    assert take_last_row(make_bars(bounce))["roll_spread"] == pytest.approx(2 * s * math.sqrt(4 / 3), rel=1e-6)
