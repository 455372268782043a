"""Columns from prices: against TA-Lib, and against slow second ways of computing them."""

import math

import numpy as np
import pandas as pd
import pytest
import talib

from pipeline.features import elementary
from tests.test_features import BLOCK, SHORT, assert_same, every_bar, made, real

BTC = "BTCUSDT_1m_2024-01-01_90d"


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return real(BTC, bars=20_000)


@pytest.fixture(scope="module")
def columns(bars: pd.DataFrame) -> pd.DataFrame:
    return every_bar(bars, BLOCK)


def from_talib(bars: pd.DataFrame) -> dict[str, np.ndarray]:
    high, low, close = (bars[name].to_numpy() for name in ("high", "low", "close"))
    macd, signal, hist = talib.MACD(close, 12, 26, 9)
    upper, middle, lower = talib.BBANDS(close, 20, 2.0, 2.0)
    return {
        **{f"rsi_{n}": talib.RSI(close, n) for n in (14, 28)},
        **{f"momentum_{n}": talib.MOM(close, n) / close for n in (14, 28)},
        **{f"sma_{n}": np.log(close / talib.SMA(close, n)) for n in (20, 50, 200)},
        **{f"ema_{n}": np.log(close / talib.EMA(close, n)) for n in (12, 26, 50)},
        "stoch_k_14": talib.STOCHF(high, low, close, 14, 1)[0],
        "macd_signal": signal / close,
        "macd_hist": hist / close,
        "bb_upper": upper / close - 1,
        "bb_lower": lower / close - 1,
        "bb_middle": (middle - close) / talib.STDDEV(close, 20),
        "bb_width": (upper - lower) / middle,
        "atr_14": talib.ATR(high, low, close, 14) / close,
        "adx_14": talib.ADX(high, low, close, 14),
        "plus_di": talib.PLUS_DI(high, low, close, 14),
        "minus_di": talib.MINUS_DI(high, low, close, 14),
    }


@pytest.mark.parametrize("name", sorted(from_talib(made(np.arange(1.0, 300.0)))))
def test_column_is_talibs_from_the_same_bar_on(name: str, bars: pd.DataFrame, columns: pd.DataFrame) -> None:
    # TA-Lib's own rolling variance and its EMAs' rounding limit what can be asked where values nearly cancel
    rough = name.startswith("bb_")
    assert_same(columns[name], from_talib(bars)[name], rtol=3e-5 if rough else 2e-6, atol=1e-9)


def test_macd_is_talibs_and_begins_when_its_slow_average_does(bars: pd.DataFrame, columns: pd.DataFrame) -> None:
    close = bars["close"].to_numpy()
    np.testing.assert_allclose(columns["macd"][33:], talib.MACD(close, 12, 26, 9)[0][33:] / close[33:], atol=1e-9)
    assert columns["macd"].first_valid_index() == 25
    assert columns["macd"][25] == pytest.approx((close[14:26].mean() - close[:26].mean()) / close[25], rel=1e-6)


@pytest.mark.parametrize("n", [1, 5, 15, 60])
def test_return_is_the_log_return_of_n_bars(n: int, bars: pd.DataFrame, columns: pd.DataFrame) -> None:
    assert_same(columns[f"return_{n}"], np.log(bars["close"] / bars["close"].shift(n)))


@pytest.mark.parametrize("n", [20, 60])
def test_realized_volatility_is_the_root_mean_square_return(n: int, bars: pd.DataFrame, columns: pd.DataFrame) -> None:
    returns = np.log(bars["close"]).diff()
    assert_same(columns[f"realized_vol_{n}"], np.sqrt((returns**2).rolling(n).mean()), atol=1e-8)


def test_range_volatilities_are_those_of_a_loop_over_windows(bars: pd.DataFrame, columns: pd.DataFrame) -> None:
    n, part = 20, bars[:2000]
    o, h, c, last = (np.log(part[name].to_numpy()) for name in ("open", "high", "close", "close"))
    low = np.log(part["low"].to_numpy())
    parkinson, garman_klass, yang_zhang = (np.full(len(part), np.nan) for _ in range(3))
    for t in range(n - 1, len(part)):
        w = slice(t - n + 1, t + 1)
        parkinson[t] = math.sqrt(np.sum((h[w] - low[w]) ** 2) / (4 * n * math.log(2)))
        garman_klass[t] = math.sqrt(np.mean((h[w] - low[w]) ** 2 / 2 - (2 * math.log(2) - 1) * (c[w] - o[w]) ** 2))
        if t >= n:
            gap = o[w] - last[t - n : t]
            inside = np.mean((h[w] - c[w]) * (h[w] - o[w]) + (low[w] - c[w]) * (low[w] - o[w]))
            k = 0.34 / (1.34 + (n + 1) / (n - 1))
            yang_zhang[t] = math.sqrt(gap.var(ddof=1) + k * (c[w] - o[w]).var(ddof=1) + (1 - k) * inside)
    assert_same(columns["parkinson_vol_20"][:2000], parkinson)
    assert_same(columns["garman_klass_vol_20"][:2000], garman_klass)
    assert_same(columns["yang_zhang_vol_20"][:2000], yang_zhang)


@pytest.mark.parametrize("price", [1e-8, 0.1, 59_999.99, 1e5])
def test_a_flat_market_says_nothing_at_any_price(price: float) -> None:
    flat = every_bar(made([price] * 40), SHORT).iloc[-1]
    zero = ["return_3", "realized_vol_3", "parkinson_vol_4", "garman_klass_vol_4", "yang_zhang_vol_4", "bb_upper"]
    zero += ["bb_middle", "bb_lower", "bb_width", "momentum_2", "atr_3", "adx_3", "plus_di", "minus_di"]
    assert (flat[zero] == 0.0).all()
    assert (flat[["rsi_3", "stoch_k_3"]] == 50.0).all()
    np.testing.assert_allclose(flat[["sma_5", "ema_3", "macd", "macd_hist"]].to_numpy(float), 0.0, atol=1e-15)


def test_a_window_forgets_the_turmoil_before_it() -> None:
    close = np.concatenate([np.random.default_rng(0).uniform(1e4, 9e4, 50), np.full(6, 60_000.0)])
    last = every_bar(made(close), SHORT).iloc[-1]
    assert last["bb_width"] == last["bb_middle"] == last["realized_vol_3"] == last["yang_zhang_vol_4"] == 0.0


def test_bands_of_a_hair_at_a_high_price_are_exact() -> None:
    close = 60_000.0 + 0.01 * np.array([0, 1, 0, 1, 0, 1, 0, 1, 1, 0, 1, 0, 0])
    width = every_bar(made(close), SHORT)["bb_width"].to_numpy()[3:]
    exact = [4 * np.std(np.round((close[t - 3 : t + 1] - 60_000) * 100)) / 100 / 60_000 for t in range(3, len(close))]
    np.testing.assert_allclose(width, exact, rtol=1e-6)


def test_sums_do_not_drift_over_a_long_run() -> None:
    bars = real(BTC, bars=129_600)
    ours = every_bar(bars, BLOCK)["sma_20"].iloc[-1]
    assert ours == np.float32(math.log(bars["close"].iloc[-1] / math.fsum(bars["close"][-20:]) * 20))


def test_rsi_and_stochastic_of_a_rise_are_100() -> None:
    rise = every_bar(made(np.arange(10.0, 30.0)), SHORT).iloc[-1]
    assert rise["rsi_3"] == rise["stoch_k_3"] == rise["plus_di"] == rise["adx_3"] == 100.0
    assert rise["minus_di"] == 0.0


def test_the_elementary_is_right_to_the_last_place() -> None:
    values = np.concatenate([np.exp(np.random.default_rng(0).normal(0, 20, 500)), 1 + np.linspace(-1e-3, 1e-3, 101)])
    result = np.empty_like(values)
    elementary.ln.py_func(values, result)
    exact = np.array([math.log(value) for value in values])
    assert (np.abs(result - exact) <= np.spacing(np.abs(exact))).all()


def test_the_exponential_is_right_to_the_last_place() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(0, 50, 500), np.linspace(-1e-3, 1e-3, 101)])
    result = np.empty_like(values)
    elementary.exp.py_func(values, result)
    exact = np.array([math.exp(value) for value in values])
    assert (np.abs(result - exact) <= np.spacing(exact)).all()
