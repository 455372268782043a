"""Columns of prices, against TA-Lib and slower second methods."""

import math

import numpy as np
import pandas as pd
import pytest
import talib

from pipeline.features import elementary
from tests.test_features import BLOCK, SHORT, assert_same, fill_every_bar, load_slice, make_bars

BTC = "BTCUSDT_1m_2024-01-01_90d"


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return load_slice(BTC, bars=20_000)


@pytest.fixture(scope="module")
def columns(bars: pd.DataFrame) -> pd.DataFrame:
    return fill_every_bar(bars, BLOCK)


def call_talib(bars: pd.DataFrame) -> dict[str, np.ndarray]:
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


@pytest.mark.parametrize("name", sorted(call_talib(make_bars(np.arange(1.0, 300.0)))))
def test_a_column_equals_talibs_from_the_same_bar_on(name: str, bars: pd.DataFrame, columns: pd.DataFrame) -> None:
    # TA-Lib's own rolling variance loses digits where values nearly cancel
    assert_same(columns[name], call_talib(bars)[name], rtol=3e-5 if name.startswith("bb_") else 2e-6, atol=1e-9)


def test_macd_equals_talibs_and_starts_with_its_slow_average(bars: pd.DataFrame, columns: pd.DataFrame) -> None:
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


def test_range_volatilities_equal_those_of_a_loop_over_windows(bars: pd.DataFrame, columns: pd.DataFrame) -> None:
    n, part = 20, bars[:2000]
    o, h, c, last = (np.log(part[name].to_numpy()) for name in ("open", "high", "close", "close"))
    low = np.log(part["low"].to_numpy())
    parkinson, garman_klass, yang_zhang = (np.full(len(part), np.nan) for _ in range(3))
    for t in range(n - 1, len(part)):
        w = slice(t - n + 1, t + 1)
        parkinson[t] = math.sqrt(np.sum((h[w] - low[w]) ** 2) / (4 * n * math.log(2)))
        garman_klass[t] = math.sqrt(np.mean((h[w] - low[w]) ** 2 / 2 - (2 * math.log(2) - 1) * (c[w] - o[w]) ** 2))
        if t >= n:
            overnight = o[w] - last[t - n : t]
            inside = np.mean((h[w] - c[w]) * (h[w] - o[w]) + (low[w] - c[w]) * (low[w] - o[w]))
            k = 0.34 / (1.34 + (n + 1) / (n - 1))
            yang_zhang[t] = math.sqrt(overnight.var(ddof=1) + k * (c[w] - o[w]).var(ddof=1) + (1 - k) * inside)
    assert_same(columns["parkinson_vol_20"][:2000], parkinson)
    assert_same(columns["garman_klass_vol_20"][:2000], garman_klass)
    assert_same(columns["yang_zhang_vol_20"][:2000], yang_zhang)


@pytest.mark.parametrize("price", [1e-8, 0.1, 59_999.99, 1e5])
def test_every_indicator_is_neutral_in_a_flat_market_at_any_price(price: float) -> None:
    flat = fill_every_bar(make_bars([price] * 40), SHORT).iloc[-1]
    zero = ["return_3", "realized_vol_3", "parkinson_vol_4", "garman_klass_vol_4", "yang_zhang_vol_4", "bb_upper"]
    zero += ["bb_middle", "bb_lower", "bb_width", "momentum_2", "atr_3", "adx_3", "plus_di", "minus_di"]
    assert (flat[zero] == 0.0).all()
    assert (flat[["rsi_3", "stoch_k_3"]] == 50.0).all()
    np.testing.assert_allclose(flat[["sma_5", "ema_3", "macd", "macd_hist"]].to_numpy(float), 0.0, atol=1e-15)


def test_the_volatility_before_a_flat_window_leaves_no_trace() -> None:
    close = np.concatenate([np.random.default_rng(0).uniform(1e4, 9e4, 50), np.full(6, 60_000.0)])
    last = fill_every_bar(make_bars(close), SHORT).iloc[-1]
    assert last["bb_width"] == last["bb_middle"] == last["realized_vol_3"] == last["yang_zhang_vol_4"] == 0.0


def test_narrow_bands_at_a_high_price_are_exact() -> None:
    close = 60_000.0 + 0.01 * np.array([0, 1, 0, 1, 0, 1, 0, 1, 1, 0, 1, 0, 0])
    width = fill_every_bar(make_bars(close), SHORT)["bb_width"].to_numpy()[3:]
    exact = [4 * np.std(np.round((close[t - 3 : t + 1] - 60_000) * 100)) / 100 / 60_000 for t in range(3, len(close))]
    np.testing.assert_allclose(width, exact, rtol=1e-6)


def test_sums_do_not_drift_over_a_long_run() -> None:
    bars = load_slice(BTC, bars=129_600)
    actual = fill_every_bar(bars, BLOCK)["sma_20"].iloc[-1]
    assert actual == np.float32(math.log(bars["close"].iloc[-1] / math.fsum(bars["close"][-20:]) * 20))


def test_rsi_and_stochastic_of_a_steady_rise_are_100() -> None:
    rise = fill_every_bar(make_bars(np.arange(10.0, 30.0)), SHORT).iloc[-1]
    assert rise["rsi_3"] == rise["stoch_k_3"] == rise["plus_di"] == rise["adx_3"] == 100.0
    assert rise["minus_di"] == 0.0


def test_the_logarithm_is_right_to_the_last_place() -> None:
    values = np.concatenate([np.exp(np.random.default_rng(0).normal(0, 20, 500)), 1 + np.linspace(-1e-3, 1e-3, 101)])
    result = np.empty_like(values)
    elementary.fill_log.py_func(values, result)
    exact = np.array([math.log(value) for value in values])
    assert (np.abs(result - exact) <= np.spacing(np.abs(exact))).all()


def test_the_exponential_is_right_to_the_last_place() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(0, 50, 500), np.linspace(-1e-3, 1e-3, 101)])
    result = np.empty_like(values)
    elementary.fill_exp.py_func(values, result)
    exact = np.array([math.exp(value) for value in values])
    assert (np.abs(result - exact) <= np.spacing(exact)).all()
