from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from benchmarks.null_markets import (
    FREE,
    WITH_COSTS,
    Market,
    bound_probability,
    draw_bars,
    flag_markets_above,
    make_null_bars,
    make_params,
    measure_rate,
    set_costs,
    summarize_markets,
)
from pipeline.market import bars as klines
from pipeline.market import simulated

SLICE = Path(__file__).parents[2] / "shared" / "data" / "BTCUSDT_1m_2024-01-01_90d.parquet"
BLOCK = {"symbols": ["A"], "interval": "1m", "start": "2024-01-01", "predictor": "flow", "half_life_bars": 5.0}
BLOCK |= {"spread_bps": 0.0, "idle_share": 0.0005, "seed": 3}
BARS = simulated.load(**BLOCK, days=1, signal=0.2)[0]


def make_two_bars() -> pd.DataFrame:
    """A bar that rises from 100 to 110 (range 95 to 120), then one that falls from 200 to 150 (140 to 210)."""
    return pd.DataFrame(
        {
            "open_time": [0, 60_000],
            "open": [100.0, 200.0],
            "high": [120.0, 210.0],
            "low": [95.0, 140.0],
            "close": [110.0, 150.0],
            "volume": [10.0, 4.0],
            "close_time": [59_999, 119_999],
            "quote_volume": [1_050.0, 700.0],
            "trades": [3, 5],
            "taker_buy_base": [6.0, 1.0],
            "taker_buy_quote": [640.0, 190.0],
        }
    )


def take_moves(table: pd.DataFrame) -> np.ndarray:
    return (table["close"] / table["open"] - 1).to_numpy()


def test_a_bar_that_is_not_mirrored_keeps_its_shape_and_opens_where_the_last_one_closed():
    market = make_null_bars(make_two_bars(), np.array([1, 0]), np.array([False, False]))
    assert market["open"].to_numpy() == pytest.approx([200.0, 150.0])
    assert market["close"].to_numpy() == pytest.approx([150.0, 165.0])
    assert market["high"].to_numpy() == pytest.approx([210.0, 180.0])
    assert market["low"].to_numpy() == pytest.approx([140.0, 142.5])
    assert market["quote_volume"].to_numpy() == pytest.approx([700.0, 1_575.0])
    assert market["taker_buy_quote"].to_numpy() == pytest.approx([190.0, 960.0])
    assert market["taker_buy_base"].tolist() == [1.0, 6.0]
    assert market["open_time"].tolist() == [0, 60_000]


def test_a_mirrored_bar_is_upside_down_and_takers_sell_as_much_as_they_bought():
    market = make_null_bars(make_two_bars(), np.array([0]), np.array([True]))
    bar = market.iloc[0]
    assert [bar["open"], bar["high"], bar["low"], bar["close"]] == pytest.approx([100.0, 105.0, 80.0, 90.0])
    assert bar["volume"] == 10.0
    assert bar["quote_volume"] == pytest.approx(950.0)  # a mean price of 105, now 95
    assert bar["taker_buy_base"] == pytest.approx(4.0)
    assert bar["taker_buy_quote"] == pytest.approx(390.0)  # takers sold 4 for 410, at 102.5; now they buy at 97.5


@pytest.mark.parametrize("seed", range(3))
def test_a_null_world_passes_every_check_of_clean_bars(seed):
    rng = np.random.default_rng(seed)
    market = make_null_bars(BARS, *draw_bars(len(BARS), length=1200, block_bars=60, rng=rng))
    clean, report = klines.clean(market.assign(symbol="NULL").astype({"symbol": "str"}))
    assert len(clean) == 1200
    assert report["segments"] == 1


@pytest.mark.skipif(not SLICE.exists(), reason="the real slice is not in ../shared/data")
def test_real_bars_made_null_pass_every_check_of_clean_bars():
    bars = pd.read_parquet(SLICE)
    market = make_null_bars(bars, *draw_bars(len(bars), length=20_000, block_bars=60, rng=np.random.default_rng(1)))
    clean, _ = klines.clean(market.assign(symbol="NULL").astype({"symbol": "str"}))
    assert len(clean) == 20_000


@pytest.mark.parametrize("flipped_bar", [0, 700, 1199])
def test_a_world_with_one_coin_flipped_has_the_same_past_to_the_bit_and_the_opposite_move(flipped_bar):
    # Both markets are equally likely, so a position chosen from the past earns a move or its opposite: 0 on average.
    rows, mirrored = draw_bars(len(BARS), length=1200, block_bars=60, rng=np.random.default_rng(0))
    flipped = mirrored.copy()
    flipped[flipped_bar] = not flipped[flipped_bar]
    market, other = make_null_bars(BARS, rows, mirrored), make_null_bars(BARS, rows, flipped)
    pd.testing.assert_frame_equal(market[:flipped_bar], other[:flipped_bar], check_exact=True)
    assert take_moves(other)[flipped_bar] == pytest.approx(-take_moves(market)[flipped_bar], abs=1e-15)
    assert take_moves(other)[flipped_bar + 1 :] == pytest.approx(take_moves(market)[flipped_bar + 1 :], abs=1e-12)


def test_a_null_world_has_no_predictable_sign_of_the_next_bar():
    # signal 0.2: the flow, which shows in the takers' share, forecasts the next move
    def measure_forecast(table: pd.DataFrame) -> float:
        flow = (table["taker_buy_base"] / table["volume"].where(table["volume"] > 0)).fillna(0.5).to_numpy()
        return float(np.corrcoef(flow[:-1], np.sign(take_moves(table))[1:])[0, 1])

    many = simulated.load(**BLOCK, days=10, signal=0.2)[0]
    market = make_null_bars(many, *draw_bars(len(many), length=len(many), block_bars=60, rng=np.random.default_rng(5)))
    assert measure_forecast(many) > 0.1
    assert abs(measure_forecast(market)) < 3 / np.sqrt(len(many))


def test_volatility_still_clusters_within_blocks():
    many = simulated.load(**BLOCK, days=10, signal=0.0)[0]
    market = make_null_bars(many, *draw_bars(len(many), length=len(many), block_bars=60, rng=np.random.default_rng(5)))
    size = np.abs(take_moves(market))
    assert np.corrcoef(size[:-1], size[1:])[0, 1] > 0.2


def test_blocks_stay_whole_and_none_occurs_twice():
    rows, mirrored = draw_bars(100, length=35, block_bars=10, rng=np.random.default_rng(2))
    assert len(rows) == len(mirrored) == 35
    assert len(set(rows)) == 35
    assert all(np.diff(rows[start : start + 10]).tolist() == [1] * 9 for start in (0, 10, 20))
    assert set(rows[::10] % 10) == {0}


def test_more_bars_than_there_are_blocks_are_refused():
    with pytest.raises(ValueError, match="95 bars are needed, 99 given, in whole blocks of 10; lower --days"):
        draw_bars(99, length=95, block_bars=10, rng=np.random.default_rng(0))


def test_an_interval_leaves_two_and_a_half_percent_on_either_side():
    low, high = bound_probability(3, 40)
    assert binom.sf(2, 40, low) == pytest.approx(0.025)
    assert binom.cdf(3, 40, high) == pytest.approx(0.025)


def test_of_twenty_markets_without_an_event_the_interval_reaches_to_seventeen_percent():
    low, high = bound_probability(0, 20)
    assert low == 0.0
    assert high == pytest.approx(1 - 0.025 ** (1 / 20))  # 0.168


def test_a_rate_without_events_to_count_has_no_interval():
    assert measure_rate([]) == {"count": 0, "of": 0, "low": None, "high": None}


def test_free_of_costs_nothing_is_charged_at_the_venue_and_there_is_no_band():
    blocks = make_params(Market("simulated", seed=2, days=3, spread_bps=4.0, idle_share=0.2), models=["lightgbm"])
    assert set_costs(blocks, WITH_COSTS) == blocks
    free = set_costs(blocks, FREE)
    assert set(free["costs"]["simulated"].values()) == {0.0}
    assert free["costs"]["simulated"].keys() == blocks["costs"]["simulated"].keys()
    assert free["costs"]["binance"] == blocks["costs"]["binance"]
    assert free["trading"] == {**blocks["trading"], "no_trade_band": 0.0}


def test_a_simulated_market_has_the_spread_and_the_idle_bars_that_are_planted():
    market = Market("simulated", seed=2, days=3, spread_bps=4.0, idle_share=0.2)
    source = make_params(market, models=["lightgbm"])["sources"]["simulated"]
    assert (source["spread_bps"], source["idle_share"], source["seed"], source["days"]) == (4.0, 0.2, 2, 3)
    assert market.name == "simulated, signal 0, spread 4 bps, 20% idle bars"
    assert Market("simulated", seed=2, days=3).name == "simulated, signal 0"


def make_outcome(
    *dsr: float | None, pbo: float | None, alarms: tuple[str, ...] = (), warnings: tuple[str, ...] = ()
) -> dict:
    names = ("psr", "dsr", "dsr_effective")
    models = {f"m{i}": {**dict.fromkeys(names), "dsr": value, "ic": 0.1 * i} for i, value in enumerate(dsr)}
    return {"alarms": list(alarms), "warnings": list(warnings), **({} if alarms else {"pbo": pbo, "models": models})}


def test_a_world_counts_once_for_any_number_of_models_above_95_percent_and_never_where_none_trades():
    completed = [
        make_outcome(0.99, 0.97, pbo=0.1),
        make_outcome(0.5, None, pbo=None),
        make_outcome(None, None, pbo=None),
    ]
    assert flag_markets_above(completed, "dsr") == [True, False]


def test_a_summary_counts_markets_models_alarms_and_markets_without_pbo():
    alarmed = make_outcome(pbo=None, alarms=("truncation", "embargo"))
    suspected = make_outcome(0.2, pbo=0.6, warnings=("embargo_sensitivity",))
    metrics = summarize_markets(
        [make_outcome(0.99, 0.97, pbo=0.02), make_outcome(0.5, None, pbo=None), suspected, alarmed]
    )
    assert metrics["markets"] == 4
    assert (metrics["alarm"]["count"], metrics["alarm"]["of"]) == (1, 4)
    assert metrics["named"] == {"embargo": 1, "embargo_sensitivity": 1, "truncation": 1}
    assert (metrics["suspected"]["count"], metrics["suspected"]["of"]) == (1, 3)
    assert (metrics["any_dsr"]["count"], metrics["any_dsr"]["of"]) == (1, 3)
    assert (metrics["model_dsr"]["count"], metrics["model_dsr"]["of"]) == (2, 4)
    assert metrics["without_pbo"] == 1
    assert (metrics["pbo_at_most_0.05"]["count"], metrics["pbo_at_least_0.5"]["count"]) == (1, 1)
    assert metrics["ic"] == pytest.approx((0.05 + 0.05 + 0.0) / 3)
