"""Ingest reports stretches of bars that no market made, and drops none of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.datasets.klines import ingest
from pipeline.datasets.klines.synthetic import MIN_BARS, find_synthetic

DATA = Path(__file__).parents[1].parent / "shared" / "data"
MINUTE = 60_000
NEVER_CLOSES = {"exchange": None, "features": "continue", "positions": "hold", "off_grid": "refuse"}


def make_table(close: np.ndarray, *, volume: np.ndarray | None = None, symbol: str = "BTCUSDT") -> pd.DataFrame:
    """Return raw bars that open at the close before."""
    n = len(close)
    opened, time = np.concatenate([close[:1], close[:-1]]), np.arange(n, dtype=np.int64) * MINUTE + 1_700_000_040_000
    volume = np.ones(n) if volume is None else volume
    columns = {
        "symbol": pd.array([symbol] * n, dtype="str"),
        "open_time": time,
        "open": opened,
        "high": np.maximum(opened, close),
        "low": np.minimum(opened, close),
        "close": close,
        "volume": volume,
        "close_time": time + MINUTE - 1,
        "quote_volume": volume * close,
        "trades": np.ceil(volume).astype(np.int64),
        "taker_buy_base": volume / 2,
        "taker_buy_quote": volume * close / 2,
    }
    return pd.DataFrame(columns)


def walk(bars: int) -> np.ndarray:
    """Return (N,) closes of a random walk with a tick of 0.01."""
    return np.round(40_000 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 5e-4, bars))), 2)


def find(close: np.ndarray, *, volume: np.ndarray | None = None) -> dict:
    clean, report = ingest.clean(make_table(close, volume=volume), **NEVER_CLOSES)
    assert len(clean) == len(close)
    return report["synthetic"]


def test_an_ordinary_market_with_a_quiet_hour_is_not_synthetic() -> None:
    close, volume = walk(400), np.ones(400)
    close[100:160], volume[100:160] = close[99], 0.0
    assert find(close, volume=volume) == {"bars": 0, "count": 0, "list": []}


@pytest.mark.parametrize("decimals", [2, 12])
def test_an_interpolated_hour_without_volume_is_found_as_both_kinds(decimals: int, caplog) -> None:
    close, volume = walk(400), np.ones(400)
    close[100:161], volume[101:160] = np.round(np.linspace(close[100], close[160] + 40, 61), decimals), 0.0
    found = find(close, volume=volume)
    first = 1_700_000_040_000 + 100 * MINUTE
    assert found["bars"] == 61
    assert found["count"] == 2
    assert found["list"] == [
        {"symbol": "BTCUSDT", "kind": "equal_steps", "first_ms": first, "last_ms": first + 60 * MINUTE, "bars": 61},
        {
            "symbol": "BTCUSDT",
            "kind": "no_volume",
            "first_ms": first + MINUTE,
            "last_ms": first + 59 * MINUTE,
            "bars": 59,
        },
    ]
    assert "klines: 61 of 400 bars look synthetic, in 2 run(s); the first is 61 bars of BTCUSDT" in caplog.text


def test_constant_growth_is_of_equal_steps() -> None:
    found = find(100 * 1.0001 ** np.arange(300))
    assert (found["bars"], found["list"][0]["kind"]) == (300, "equal_steps")


def test_a_random_walk_without_volume_is_synthetic() -> None:
    found = find(walk(100), volume=np.append(np.zeros(99), 1.0))
    assert [(run["kind"], run["bars"]) for run in found["list"]] == [("no_volume", 99)]


def test_one_bar_less_than_the_least_is_not_a_run() -> None:
    close, volume = walk(200), np.ones(200)
    volume[50 : 50 + MIN_BARS - 1] = 0.0
    assert find(close, volume=volume)["count"] == 0
    volume[50 : 50 + MIN_BARS] = 0.0
    assert find(close, volume=volume)["count"] == 1


def test_small_equal_steps_of_a_quiet_market_are_ordinary() -> None:
    assert find(np.round(1.0 + 1e-4 * (np.arange(200) % 3), 4))["count"] == 0


def test_a_run_ends_with_its_segment() -> None:
    line = np.append(100 + 0.5 * np.arange(2 * MIN_BARS - 2), 200.0)  # the last bar trades, off the line
    table = make_table(line, volume=np.append(np.zeros(len(line) - 1), 1.0))
    table.loc[MIN_BARS - 1 :, ["open_time", "close_time"]] += 5 * MINUTE  # a gap: two segments, each too short
    assert ingest.clean(table, **NEVER_CLOSES)[1]["synthetic"]["count"] == 0


def test_long_lists_are_cut_and_say_how_many_there_are() -> None:
    volume = np.ones(30 * 60)
    for start in range(0, len(volume), 60):
        volume[start : start + 30] = 0.0
    found = find(walk(len(volume)), volume=volume)
    assert (found["bars"], found["count"], len(found["list"])) == (900, 30, 20)


@pytest.mark.skipif(not DATA.exists(), reason="the shared real bars do not exist")
@pytest.mark.parametrize("name", ["ARBUSDT_1m_2023-07-20_14d_gap", "BTCUSDT_1m_2023-03-20_8d_halt"])
def test_real_bars_with_gaps_and_a_halt_are_not_synthetic(name: str) -> None:
    table = pd.read_parquet(DATA / f"{name}.parquet").assign(symbol=pd.array([name[:7]], dtype="str")[0])
    cleaned, _ = ingest.bars.clean(table.astype({"symbol": "str"}))
    assert find_synthetic(cleaned)["count"] == 0
