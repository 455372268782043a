"""A features block, tables of bars to test it on, and properties of the whole catalogue."""

import inspect
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import config
from pipeline.features import chunks, engine
from tests.params import PARAMS

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
MINUTE_MS = 60_000
MIDNIGHT_MS = 1_704_067_200_000  # 2024-01-01 UTC
GROUPS = ["price", "momentum", "flow", "liquidity"]  # of these tests, whatever files are added
BLOCK = {
    "groups": GROUPS,
    "return_windows": [1, 5, 15, 60],
    "volatility_windows": [20, 60],
    "range_window": 20,
    "sma_windows": [20, 50, 200],
    "ema_windows": [12, 26, 50],
    "bollinger_window": 20,
    "bollinger_deviations": 2.0,
    "rsi_windows": [14, 28],
    "macd_windows": [12, 26, 9],
    "momentum_windows": [14, 28],
    "stochastic_window": 14,
    "trend_window": 14,
    "volume_window": 20,
    "baseline_window": 200,
    "flow_window": 20,
    "liquidity_window": 60,
    "vpin_buckets": 50,
    "vpin_bucket_bars": 5,
}
SHORT = {
    "groups": GROUPS,
    "return_windows": [1, 3],
    "volatility_windows": [3],
    "range_window": 4,
    "sma_windows": [2, 5],
    "ema_windows": [3],
    "bollinger_window": 4,
    "bollinger_deviations": 2.0,
    "rsi_windows": [3],
    "macd_windows": [2, 4, 3],
    "momentum_windows": [2],
    "stochastic_window": 3,
    "trend_window": 3,
    "volume_window": 3,
    "baseline_window": 5,
    "flow_window": 3,
    "liquidity_window": 4,
    "vpin_buckets": 3,
    "vpin_bucket_bars": 1,
}
CATALOGUE = """
    return_1 return_5 return_15 return_60
    realized_vol_20 realized_vol_60 parkinson_vol_20 garman_klass_vol_20 yang_zhang_vol_20
    rsi_14 rsi_28 macd macd_signal macd_hist momentum_14 momentum_28 stoch_k_14
    sma_20 sma_50 sma_200 ema_12 ema_26 ema_50 bb_upper bb_middle bb_lower bb_width
    atr_14 adx_14 plus_di minus_di
    volume_sma_20 volume_ratio obv trade_intensity avg_trade_size
    vpin kyle_lambda roll_spread amihud order_flow_imbalance taker_buy_ratio corwin_schultz_spread
    signed_volume_autocorr
"""


def load_slice(name: str, *, bars: int) -> pd.DataFrame:
    """Return the first `bars` bars of real market data; skip where the data are not there."""
    file = DATA / f"{name}.parquet"
    if not file.exists():
        pytest.skip(f"no real market data: {file.name} is not in ../shared/data")
    return pd.read_parquet(file)[:bars].assign(symbol=name[:7])


def make_bars(close: list[float] | np.ndarray, **fields: object) -> pd.DataFrame:
    """Return one segment of flat one-minute bars at `close`: volume 2 in 1 trade, half of it bought by takers."""
    close = np.asarray(close, dtype=float)
    table = pd.DataFrame({"segment": 0, "open_time": MIDNIGHT_MS + MINUTE_MS * np.arange(len(close))})
    table = table.assign(open=close, high=close, low=close, close=close, volume=2.0, trades=1, taker_buy_base=1.0)
    table = table.assign(**fields)
    return table.assign(quote_volume=table["volume"] * close)


def fill_every_bar(bars: pd.DataFrame, block: dict[str, object]) -> pd.DataFrame:
    """Return all columns of one segment, NaN during each column's own warm-up."""
    layout = engine.Stream(**block).layout
    out = np.empty((len(layout.columns), len(bars)), dtype=np.float32)
    matrix = np.stack([bars[name].to_numpy(np.float64) for name in chunks.FIELDS])
    chunk = chunks.allocate_chunk(len(bars), layout.lookback_bars)
    engine.advance(layout.plans, layout.memory.copy(), chunk, matrix, 0, len(bars), out, 0)
    for column, values in zip(layout.columns, out, strict=True):
        values[: column.warm_up_bars] = np.nan
    return pd.DataFrame(out.T.astype(float), columns=[column.name for column in layout.columns])


def assert_same(actual: pd.Series, expected: pd.Series | np.ndarray, *, rtol: float = 2e-6, atol: float = 1e-9) -> None:
    """Assert equality to float32's precision, and the same first defined bar."""
    expected = np.asarray(expected, dtype=float)
    first = np.flatnonzero(~np.isnan(expected))[0]
    assert np.flatnonzero(~np.isnan(actual))[0] == first
    np.testing.assert_allclose(actual.to_numpy()[first:], expected[first:], rtol=rtol, atol=atol)


def test_the_catalogue_has_its_44_names() -> None:
    assert sorted(column.name for column in engine.Stream(**BLOCK).layout.columns) == sorted(CATALOGUE.split())
    assert len(CATALOGUE.split()) == 44


def test_every_column_has_a_definition() -> None:
    assert all(len(column.meaning) > 10 for column in engine.Stream(**BLOCK).layout.columns)


def test_the_readme_lists_the_columns_of_the_params() -> None:
    columns = engine.Stream(**PARAMS["datasets"]["klines"]["features"]).layout.columns
    expected = [f"| `{c.name}` | {c.meaning.replace('|', chr(92) + '|')} | {c.warm_up_bars} |" for c in columns]
    readme = (ROOT / "pipeline/features/README.md").read_text(encoding="utf-8")
    lines = readme.split("## The columns")[1].splitlines()
    assert [line for line in lines if line.startswith("| `")] == expected


@pytest.mark.parametrize("function", [engine.compute, engine.Stream])
def test_the_keyword_only_arguments_are_the_keys_of_the_block(function: object) -> None:
    parameters = inspect.signature(function).parameters.values()
    keys = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    optional = {"in_pandas", "absent_fields", "interval_ms", "symbols", "calendar"}
    optional |= {"calendar_columns", "cross_section", "symbol_flags"}
    assert keys - optional == PARAMS["datasets"]["klines"]["features"].keys() - optional
    assert all(p.kind is p.KEYWORD_ONLY or p.name == "bars" for p in parameters)


def test_a_wrong_key_of_the_block_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="features: unknown key 'rsi_window'; its keys are groups, in_pandas, "):
        config.call_with(engine.Stream, block=BLOCK | {"rsi_window": 3}, name="features")
    with pytest.raises(ValueError, match="features: key 'rsi_windows' is missing; its keys are return_windows, "):
        config.call_with(
            engine.Stream, block={key: BLOCK[key] for key in BLOCK.keys() - {"rsi_windows"}}, name="features"
        )


def test_column_names_contain_their_windows() -> None:
    names = [column.name for column in engine.Stream(**SHORT).layout.columns]
    assert {"return_3", "realized_vol_3", "parkinson_vol_4", "sma_5", "ema_3", "rsi_3", "volume_sma_3"} <= set(names)


def test_all_columns_of_real_bars_are_finite_and_bounded() -> None:
    features = engine.compute(load_slice("BTCUSDT_1m_2024-01-01_90d", bars=20_000), **BLOCK)
    x = pd.DataFrame(features.x, columns=list(features.columns))
    assert np.isfinite(features.x).all()
    assert x[["rsi_14", "stoch_k_14", "adx_14", "plus_di", "minus_di"]].min().min() >= 0
    assert x[["rsi_14", "stoch_k_14", "adx_14", "plus_di", "minus_di"]].max().max() <= 100
    assert x[["vpin", "taker_buy_ratio"]].min().min() >= 0
    assert x[["vpin", "taker_buy_ratio", "obv", "order_flow_imbalance", "signed_volume_autocorr"]].max().max() <= 1


@pytest.mark.parametrize("unit", [1e-8, 1e-3, 1e3])
def test_no_column_depends_on_the_units_of_price_and_volume(unit: float) -> None:
    bars = load_slice("BTCUSDT_1m_2024-01-01_90d", bars=1500)
    scaled = bars.copy()
    scaled[["open", "high", "low", "close"]] *= unit
    scaled[["volume", "taker_buy_base"]] *= unit
    scaled["quote_volume"] *= unit * unit
    x, y = engine.compute(bars, **BLOCK).x, engine.compute(scaled, **BLOCK).x
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-7)
