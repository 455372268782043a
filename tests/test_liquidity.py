"""Liquidity: the estimators on prices worked by hand, and the order of thin and liquid markets."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import artifacts
from pipeline.config import ParamsError
from pipeline.evaluation.liquidity import (
    MIN_PAIRS,
    estimate_corwin_schultz,
    estimate_roll,
    find_half_spread,
    find_tick,
    find_uncovered,
    measure_liquidity,
)
from pipeline.market import bars, simulated
from pipeline.reporting.liquidity_plots import HalfSpreads, plot_half_spreads
from pipeline.stages import liquidity
from pipeline.trading_rules import Costs, read_costs

SHARED = Path(__file__).parents[2] / "shared/data"
MINUTE_MS, JANUARY_MS, FEBRUARY_MS = 60_000, 1_704_067_200_000, 1_706_745_600_000
COSTS = Costs(fee_bps=10.0, slippage_bps=1.0, borrow_rate=0.073)
MARKET = {"interval": "1m", "start": "2024-01-01", "signal": 0.005, "predictor": "flow", "half_life_bars": 30.0}


def make_bars(prices: list[list[float]], *, start_ms: int = JANUARY_MS, volume: list[float] | None = None):
    """Return a clean table of bars with these prices: open, high, low, close."""
    table = pd.DataFrame(prices, columns=["open", "high", "low", "close"], dtype=float)
    amount = np.ones(len(table)) if volume is None else np.array(volume)
    time = start_ms + MINUTE_MS * np.arange(len(table))
    return table.assign(symbol="A", segment=0, open_time=time, volume=amount, quote_volume=100 * amount)


def draw_bounces(*, rows: int = 400) -> list[list[float]]:
    """Return bars without volatility, whose trades alternate: opens at 101, closes at 99."""
    return [[101.0, 101.0, 99.0, 99.0]] * rows


def test_rolls_spread_of_a_series_worked_by_hand():
    log_price = np.array([0.0, 2.0, 1.0, 3.0, 2.0])
    # changes 2, -1, 2, -1; later -1, 2, -1 (mean 0), earlier 2, -1, 2 (mean 1); products -1, -4, -1, of mean -2
    spread, distance = estimate_roll(log_price, np.zeros(5, dtype=int))
    assert spread == pytest.approx(2 * np.sqrt(2))
    assert distance == pytest.approx(2 / (np.sqrt(2) / np.sqrt(3)))


def test_rolls_spread_is_zero_in_a_trend_of_trends_and_undefined_without_pairs():
    assert estimate_roll(np.array([0.0, 1.0, 3.0, 6.0, 10.0]), np.zeros(5, dtype=int))[0] == 0
    assert np.isnan(estimate_roll(np.array([0.0, 1.0, 3.0]), np.zeros(3, dtype=int))[0])


def test_rolls_pairs_lie_within_one_segment():
    log_price = np.array([0.0, 2.0, 1.0, 3.0, 2.0])
    apart = np.concatenate([log_price, log_price + 50.0])
    segment = np.repeat([0, 1], 5)
    assert estimate_roll(apart, segment)[0] == pytest.approx(2 * np.sqrt(2))


def test_corwin_and_schultz_on_two_bars_by_the_formulas_of_the_paper():
    high, low = np.array([102.0, 103.0]), np.array([100.0, 101.0])
    beta = np.log(102 / 100) ** 2 + np.log(103 / 101) ** 2
    gamma = np.log(103 / 100) ** 2
    alpha = (np.sqrt(2 * beta) - np.sqrt(beta)) / (3 - 2 * np.sqrt(2)) - np.sqrt(gamma / (3 - 2 * np.sqrt(2)))
    spread = 2 * (np.exp(alpha) - 1) / (1 + np.exp(alpha))
    assert alpha < 0
    assert estimate_corwin_schultz(high, low, np.array([True])) == 0
    low = np.array([100.0, 100.5])
    beta = np.log(102 / 100) ** 2 + np.log(103 / 100.5) ** 2
    alpha = (np.sqrt(2 * beta) - np.sqrt(beta)) / (3 - 2 * np.sqrt(2)) - np.sqrt(gamma / (3 - 2 * np.sqrt(2)))
    spread = 2 * (np.exp(alpha) - 1) / (1 + np.exp(alpha))
    assert alpha > 0
    assert estimate_corwin_schultz(high, low, np.array([True])) == pytest.approx(spread, rel=1e-12)


def test_bars_that_span_the_spread_alone_have_it_by_every_estimate():
    row = measure_liquidity(make_bars(draw_bounces())).iloc[0]
    spread = 1e4 * np.log(101 / 99)
    assert row["corwin_schultz_bps"] == pytest.approx(spread, rel=1e-4)
    assert row["bounce_bps"] == pytest.approx(2 * spread)  # sides alternate, where Roll's model draws them
    assert row["half_spread_bps"] == row["spread_bps"] / 2 == row["bounce_bps"] / 2


def test_the_tick_is_the_smallest_difference_of_prices():
    assert find_tick(np.array([[10.0, 10.25], [10.05, 9.9]])) == pytest.approx(0.05)
    assert find_tick(np.array([0.1 + 0.2, 0.3, 0.5])) == pytest.approx(0.2)  # a difference of rounding is none
    assert np.isnan(find_tick(np.full(4, 7.0)))


def test_the_tick_is_the_spread_where_trades_repeat_the_price():
    prices = [[100.0, 101.0, 100.0, 100.0], [100.0, 100.0, 99.0, 100.0]] * 200
    row = measure_liquidity(make_bars(prices)).iloc[0]
    assert row["spread_bps"] == row["tick_bps"] == pytest.approx(100.0)
    assert np.isnan(row["bounce_bps"])
    assert "opens repeat the closes" in row["reason"]


def test_where_opens_repeat_closes_rolls_spread_replaces_the_bounce_once_it_is_clear():
    rng = np.random.default_rng(0)
    close = 1000 + 0.1 * rng.integers(0, 2, 2000) * 20  # bid 1000, ask 1002
    opens = np.concatenate([close[:1], close[:-1]])
    prices = np.column_stack([opens, np.maximum(opens, close), np.minimum(opens, close), close])
    row = measure_liquidity(make_bars(prices.tolist())).iloc[0]
    assert row["spread_bps"] == pytest.approx(20, rel=0.1)


def test_idle_bars_are_counted_and_left_out_of_the_spread():
    prices = draw_bounces(rows=800)
    for i in range(3, 800, 4):
        prices[i] = [99.0] * 4
    volume = [0.0 if i % 4 == 3 else 1.0 for i in range(800)]
    row = measure_liquidity(make_bars(prices, volume=volume)).iloc[0]
    assert row["idle_share"] == 0.25
    assert (row["quote_volume_median"], row["quote_volume_low"]) == (100.0, 0.0)
    assert row["bounce_bps"] == pytest.approx(2e4 * np.log(101 / 99))


def test_months_are_rows_and_a_short_one_has_a_reason_in_place_of_a_spread():
    table = make_bars(draw_bounces(rows=500), start_ms=FEBRUARY_MS - 400 * MINUTE_MS)
    found = measure_liquidity(table)
    assert found["period"].tolist() == ["2024-01", "2024-02"]
    assert found["bars"].tolist() == [400, 100]
    assert np.isnan(found["spread_bps"].iloc[1])
    assert found["reason"].iloc[1] == f"99 pairs of consecutive traded bars; {MIN_PAIRS} are needed: take longer data"


def test_a_price_that_never_changes_has_a_reason_in_place_of_a_spread():
    row = measure_liquidity(make_bars([[5.0] * 4] * 300)).iloc[0]
    assert np.isnan(row["spread_bps"])
    assert "never changes" in row["reason"]


def test_the_half_spread_of_an_instant_is_that_of_its_month():
    table = measure_liquidity(make_bars(draw_bounces(rows=500), start_ms=FEBRUARY_MS - 400 * MINUTE_MS))
    time_ms = np.array([FEBRUARY_MS, FEBRUARY_MS - 1, JANUARY_MS])
    half = find_half_spread(table, symbol="A", time_ms=time_ms)
    assert np.isnan(half[0])
    assert half[1:] == pytest.approx([1e4 * np.log(101 / 99)] * 2)
    with pytest.raises(ValueError, match="'B' was not measured; the table has A"):
        find_half_spread(table, symbol="B", time_ms=time_ms)
    for outside in (JANUARY_MS - 1, 1_709_251_200_000):
        with pytest.raises(ValueError, match="no measured month"):
            find_half_spread(table, symbol="A", time_ms=np.array([outside]))


def test_a_table_without_highs_is_refused():
    with pytest.raises(ValueError, match="lacks high, low"):
        measure_liquidity(make_bars(draw_bounces()).drop(columns=["high", "low"]))


def draw_market(number: int, *, spread_bps: float, idle_share: float) -> pd.DataFrame:
    table, _ = simulated.load(
        **MARKET, symbols=[f"S{number}"], days=1, seed=number, spread_bps=spread_bps, idle_share=idle_share
    )
    return bars.clean(table)[0]


def test_ten_thin_markets_have_wider_spreads_than_ten_liquid_ones_and_in_their_order():
    thin = [{"spread_bps": 2.0 * i, "idle_share": 0.05 + 0.03 * i} for i in range(1, 11)]
    liquid = [{"spread_bps": i / 9, "idle_share": 0.0005} for i in range(10)]
    found = [measure_liquidity(draw_market(i, **each)).iloc[0] for i, each in enumerate([*thin, *liquid])]
    spreads = np.array([row["spread_bps"] for row in found])
    true = np.array([each["spread_bps"] for each in [*thin, *liquid]])
    assert spreads[:10].min() > 1.5 * spreads[10:].max()
    np.testing.assert_allclose(spreads[:10], true[:10], rtol=0.1)
    np.testing.assert_allclose(spreads[10:], true[10:], atol=0.12)  # a tick is up to 0.1 bps
    shares = np.array([row["idle_share"] for row in found[:10]])
    np.testing.assert_allclose(shares, [each["idle_share"] for each in thin], atol=0.04)


def read_real_bars(name: str) -> pd.DataFrame:
    file = SHARED / name
    if not file.exists():
        pytest.skip(f"{file} is not here")
    table = pd.read_parquet(file)
    return bars.clean(table.assign(symbol=pd.array(["BTCUSDT"] * len(table), dtype="str")))[0]


def test_bitcoin_in_2024_raises_no_warning():
    table = measure_liquidity(read_real_bars("BTCUSDT_1m_2024-01-01_90d.parquet"))
    assert len(table) == 3
    assert (table["spread_bps"] < 0.05).all()
    assert len(find_uncovered(table, slippage_bps=1.0)) == 0


def test_bitcoin_in_2017_has_wide_spreads_in_every_month():
    table = measure_liquidity(read_real_bars("BTCUSDT_1m_2017-08-17_106d_thin.parquet"))
    assert table["spread_bps"].round(1).tolist() == [40.9, 33.1, 17.3, 15.1]
    assert len(liquidity.list_warnings(table, COSTS, source="binance")) == 4


def test_a_warning_names_the_month_the_figures_and_the_remedy():
    table = measure_liquidity(make_bars(draw_bounces()))
    (warning,) = liquidity.list_warnings(table, COSTS, source="binance")
    assert warning == (
        "A in 2024-01: half the implied spread is 200.01 bps, the slippage charged is 1 bps; "
        "raise costs.binance.slippage_bps to it, or trade less"
    )
    assert liquidity.list_warnings(table.assign(half_spread_bps=np.nan), COSTS, source="binance") == []


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with params of this repository, in which the stage runs."""
    (tmp_path / "params.yaml").write_text(Path("params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_stage(clean: pd.DataFrame) -> tuple[dict, str]:
    artifacts.write_table(artifacts.CLEAN / "klines.parquet", clean)
    liquidity.main("klines")
    report = artifacts.REPORTS / "liquidity/klines.json"
    assert (artifacts.PLOTS / "liquidity_klines/half_spread.png").stat().st_size > 0
    return json.loads(report.read_text()), report.with_suffix(".md").read_text()


def test_the_stage_reports_every_month_beside_the_costs(folder):
    report, page = run_stage(draw_market(1, spread_bps=8.0, idle_share=0.1))
    (period,) = report["periods"]
    assert report["cost_bps"] == 3.5
    assert period["period"] == "2024-01" and period["reason"] is None
    assert period["half_spread_bps"] == pytest.approx(4.0, rel=0.1)
    assert len(report["warnings"]) == 1 and report["warnings"][0] in page
    assert "| S1 | 2024-01 | 1,440 |" in page


def test_the_default_simulated_market_raises_no_warning(folder):
    block = yaml.safe_load(Path("params.yaml").read_text())["sources"]["simulated"]
    block = {key: value for key, value in block.items() if key != "kind"} | {"days": 3}
    report, page = run_stage(bars.clean(simulated.load(**block)[0])[0])
    assert report["warnings"] == []
    assert "opens repeat the closes" in page


def test_rows_that_are_not_bars_have_a_reason_and_no_table(folder):
    report, page = run_stage(make_bars(draw_bounces()).drop(columns="volume"))
    assert report["periods"] == []
    assert "lacks volume" in report["reason"] and report["reason"] in page


def test_a_picture_without_a_defined_spread_says_so_and_one_of_many_symbols_counts_them():
    time_ms, undefined = np.array([JANUARY_MS]), np.array([np.nan])
    empty = plot_half_spreads({"A": HalfSpreads(time_ms, undefined)}, slippage_bps=1.0, title="x")
    assert "no period" in empty.axes[0].get_title(loc="left")
    many = {name: HalfSpreads(time_ms, np.array([float(i + 1)])) for i, name in enumerate("ABCDEF")}
    figure = plot_half_spreads(many, slippage_bps=1.0, title="x")
    assert figure.axes[0].get_title(loc="left") == "x; 4 of 6 symbols"


def test_costs_are_those_of_the_source_of_the_dataset():
    params = {
        "datasets": {"d": {"source": "binance"}, "e": {"source": "other"}},
        "costs": {"binance": {"fee_bps": 10.0, "slippage_bps": 1.0, "borrow_rate": 0.073}},
    }
    assert read_costs(params, "d") == COSTS
    with pytest.raises(ParamsError, match=r"there is no costs\.other for the source of datasets.e; costs has binance"):
        read_costs(params, "e")
    params["costs"]["binance"]["borrow_rate"] = 1.5
    with pytest.raises(ParamsError, match=r"costs\.binance\.borrow_rate is 1\.5; it must be below 1"):
        read_costs(params, "d")
