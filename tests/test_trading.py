"""Orders, fills, positions, costs and net returns: by hand, by a second slow method, and on real halts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.trading_grid import make_grid
from pipeline.fills import CLOSES, FILLS, WAITS, Fills, find_fills
from pipeline.market import bars as klines
from pipeline.trading import backtest, earn_alone, make_terms, step_account, step_accounts, trade, trade_runs

DATA = Path(__file__).parents[1].parent / "shared" / "data"
MINUTE = 60_000
COSTS = {"fee_bps": 8.0, "slippage_bps": 2.0}  # 10 bps: 0.001 of what is traded


def make_bars(opens, *, close=None, volume=None, minutes=None, segment=None, symbol="AAA") -> pd.DataFrame:
    count = len(opens)
    close = [*opens[1:], opens[-1]] if close is None else close
    return pd.DataFrame(
        {
            "symbol": symbol,
            "segment": np.int32(segment or [0] * count),
            "open_time": np.int64(minutes or range(count)) * MINUTE,
            "open": np.float64(opens),
            "close": np.float64(close),
            "volume": np.float64(volume or [1.0] * count),
            "quote_volume": np.float64(volume or [1.0] * count) * 100,
        }
    )


def trade_slowly(score, bars, *, band, cost, delay) -> tuple[list[float], list[float], list[float]]:
    """By units and cash: the weight of the units held, and every trade at its own open."""
    opens, closes, volume, segment = (bars[name].tolist() for name in ("open", "close", "volume", "segment"))
    count = len(score)

    def find_instant(i):  # price, and whether the order can fill
        place, end = i + 1 + delay, max(k for k in range(count) if segment[k] == segment[i])
        return (opens[place], True) if place <= end and volume[place] > 0 else (closes[min(place, end)], False)

    cash, units = 1.0, 0.0
    net, position, turnover = [], [], []
    for i in range(count):
        (price, is_filled), following = find_instant(i), find_instant(min(i + 1, count - 1))[0]
        equity = cash + units * price
        held = units * price / equity
        wanted = 0.0 if np.isnan(score[i]) else score[i] if abs(score[i] - held) > band else held
        now = min(max(wanted, -1.0), 1.0) if is_filled else held
        if (is_filled and i > 0 and segment[i] != segment[i - 1]) or (not is_filled and i == count - 1):
            now = 0.0
        fee = abs(now - held) * equity * cost
        cash, units = equity - now * equity - fee, now * equity / price
        after, traded = cash + units * following, abs(now - held)
        if i == count - 1:
            traded += abs(units) * following / equity
            after -= abs(units) * following * cost
        net.append(after / equity - 1)
        position.append(now)
        turnover.append(traded)
    return net, position, turnover


def test_a_score_is_filled_at_the_next_open_and_earns_until_the_one_after_it() -> None:
    bars = make_bars([100.0, 110.0, 121.0, 121.0], close=[110.0, 121.0, 121.0, 133.1])
    result = backtest(np.array([1.0, np.nan, np.nan, np.nan]), bars, fee_bps=0.0, slippage_bps=0.0)
    np.testing.assert_allclose(result.net, [0.1, 0, 0, 0])  # from 110, the open of bar 1, to 121, that of bar 2
    np.testing.assert_array_equal(result.position, [1.0, 0, 0, 0])
    np.testing.assert_allclose(result.turnover, [1, 1, 0, 0])


def test_a_delay_moves_the_fill_by_as_many_bars() -> None:
    bars = make_bars([100.0, 110.0, 121.0, 151.25, 151.25])
    result = backtest(np.array([1.0, np.nan, np.nan, np.nan, np.nan]), bars, **COSTS | {"delay_bars": 1})
    np.testing.assert_allclose(result.net, [0.25 - 0.001, -(1.25 / 1.249) * 0.001, 0, 0, 0])


def test_what_is_open_at_the_end_is_closed_at_the_last_close() -> None:
    bars = make_bars([100.0, 100.0], close=[100.0, 125.0])
    result = backtest(np.array([1.0, 1.0]), bars, fee_bps=0.0, slippage_bps=0.0)
    np.testing.assert_allclose(result.net, [0.25, 0.0])  # the order of the last bar has no bar that fills it
    np.testing.assert_allclose(result.turnover, [1.0, 1.0])


def test_holding_units_costs_nothing_while_holding_a_weight_trades() -> None:
    bars = make_bars([100.0, 100.0, 110.0, 110.0, 110.0])
    score = np.array([-0.5, -0.5, np.nan, np.nan, np.nan])
    drifted = -0.5 * 1.1 / (1 - 0.05)  # short half: the price rises by a tenth, the capital falls by a twentieth
    units = backtest(score, bars, fee_bps=0.0, slippage_bps=0.0, no_trade_band=0.45)
    np.testing.assert_allclose(units.position[:2], [-0.5, drifted])
    np.testing.assert_allclose(units.turnover, [0.5, 0, -drifted, 0, 0])
    weight = backtest(score, bars, fee_bps=0.0, slippage_bps=0.0)
    np.testing.assert_allclose(weight.turnover, [0.5, -0.5 - drifted, 0.5, 0, 0])


def test_a_weight_that_drifts_beyond_one_is_cut_back() -> None:
    bars = make_bars([100.0, 100.0, 125.0, 125.0, 125.0])
    result = backtest(np.array([-1.0, -1.0, -1.0, np.nan, np.nan]), bars, **COSTS | {"no_trade_band": 0.9})
    drifted = 1.25 / (1 + result.net[0])
    assert result.position[1] == -1.0
    assert result.turnover[1] == pytest.approx(drifted - 1)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 3), st.lists(st.integers(1, 9), min_size=1)
)
def test_a_backtest_is_the_account_of_units_and_cash(seed: int, band: float, delay: int, lengths: list[int]) -> None:
    rng, count = np.random.default_rng(seed), sum(lengths)
    prices = 100 * np.exp(np.cumsum(rng.normal(0, 0.03, (count, 2)))).reshape(count, 2)
    volume = np.where(rng.random(count) < 0.2, 0.0, 1.0)
    segment = np.repeat(np.arange(len(lengths)), lengths)
    time = np.arange(count) + 10 * segment
    bars = make_bars(
        prices[:, 0], close=prices[:, 1], volume=volume.tolist(), minutes=time.tolist(), segment=segment.tolist()
    )
    score = np.where(rng.random(count) < 0.2, np.nan, np.round(rng.uniform(-1, 1, count), 1))
    result = backtest(score, bars, no_trade_band=band, delay_bars=delay, **COSTS)
    net, position, turnover = trade_slowly(score, bars, band=band, cost=0.001, delay=delay)
    np.testing.assert_allclose(result.position, position, atol=1e-12)
    np.testing.assert_allclose(result.turnover, turnover, atol=1e-12)
    np.testing.assert_allclose(result.net, net, atol=1e-12)


def test_an_order_waits_for_a_bar_with_trades_and_a_later_order_replaces_it() -> None:
    bars = make_bars([100.0, 100.0, 100.0, 120.0, 132.0], volume=[1.0, 0.0, 0.0, 1.0, 1.0])
    fills = find_fills(bars, delay_bars=0)
    assert fills.outcome.tolist() == [WAITS, WAITS, FILLS, FILLS, CLOSES]
    result = backtest(np.array([1.0, 1.0, 0.5, np.nan, np.nan]), bars, fee_bps=0.0, slippage_bps=0.0)
    np.testing.assert_allclose(result.position, [0, 0, 0.5, 0, 0])
    np.testing.assert_allclose(result.net, [0, 0, 0.05, 0, 0])


def test_a_move_over_idle_bars_is_earned_where_it_becomes_known() -> None:
    opens, volume = [100.0, 100.0, 100.0, 100.0, 300.0, 300.0], [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    bars = make_bars(opens, close=[100.0, 100.0, 100.0, 100.0, 300.0, 300.0], volume=volume)
    result = backtest(np.array([0.5, 0.5, 0.5, np.nan, np.nan, np.nan]), bars, no_trade_band=0.4, **COSTS)
    np.testing.assert_allclose(
        result.gross, [0, 0, 1.0, 0, 0, 0], atol=1e-3
    )  # from the row before the order that fills at 300


def test_what_is_held_when_bars_go_missing_is_held_through_them_and_then_closed() -> None:
    bars = make_bars(
        [100.0, 100.0, 100.0, 80.0, 90.0, 90.0],
        close=[100.0, 100.0, 110.0, 90.0, 90.0, 90.0],
        minutes=[0, 1, 2, 60, 61, 62],
        segment=[0] * 3 + [1] * 3,
    )
    fills = find_fills(bars, delay_bars=0)
    assert fills.outcome.tolist() == [FILLS, FILLS, WAITS, CLOSES, FILLS, CLOSES]
    assert fills.crosses_gap.tolist() == [False, False, True, False, False, False]
    result = backtest(np.ones(6), bars, fee_bps=0.0, slippage_bps=0.0)
    np.testing.assert_allclose(result.gross, [0, 0.1, 90 / 110 - 1, 0, 0, 0])  # from the last close, 110, to 90
    np.testing.assert_allclose(result.position, [1, 1, 1, 0, 1, 0])  # closed by the order of the first bar
    lapsed = backtest(np.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0]), bars, fee_bps=0.0, slippage_bps=0.0)
    assert not lapsed.turnover.any()  # an order that still waits when bars go missing lapses


def test_the_order_that_closes_after_a_gap_waits_like_any_other() -> None:
    opens = [100.0, 100.0, 100.0, 50.0, 50.0, 40.0]
    bars = make_bars(
        opens, close=opens, volume=[1, 1, 1, 0, 1, 1], minutes=[0, 1, 9, 10, 20, 21], segment=[0, 0, 1, 1, 2, 2]
    )
    fills = find_fills(bars, delay_bars=0)
    assert fills.outcome.tolist() == [FILLS, WAITS, WAITS, WAITS, CLOSES, CLOSES]


def test_a_halt_without_trades_before_missing_bars_fills_nothing() -> None:
    opens = [100.0, 100.0, 100.0, 100.0, 80.0, 90.0]
    bars = make_bars(
        opens, volume=[1, 1, 0, 0, 1, 1], minutes=[0, 1, 2, 3, 60, 61], segment=[0] * 4 + [1] * 2, close=opens
    )
    assert find_fills(bars, delay_bars=0).outcome.tolist() == [FILLS, WAITS, WAITS, WAITS, CLOSES, CLOSES]


def test_after_ruin_nothing_is_traded() -> None:
    bars = make_bars([100.0, 100.0, 300.0, 300.0, 900.0, 900.0])
    result = backtest(-np.ones(6), bars, **COSTS)
    assert result.net[0] < -1
    assert not result.turnover[1:].any()
    assert not result.gross[1:].any()


def test_shorts_bear_interest_for_the_time_between_fills() -> None:
    bars = make_bars([100.0] * 4, minutes=[0, 1440, 2880, 4320])
    result = backtest(np.array([-1.0, np.nan, np.nan, np.nan]), bars, fee_bps=0, slippage_bps=0, borrow_rate=0.0365)
    np.testing.assert_allclose(result.interest, [1e-4, 0, 0, 0])
    np.testing.assert_allclose(result.net, [-1e-4, 0, 0, 0])
    long = backtest(np.array([1.0, np.nan, np.nan, np.nan]), bars, fee_bps=0, slippage_bps=0, borrow_rate=0.0365)
    assert not long.interest.any()


def test_long_only_is_flat_where_the_target_is_negative() -> None:
    bars = make_bars([100.0, 101.0, 102.0, 103.0, 104.0])
    score = np.array([-1.0, 1.0, -1.0, np.nan, np.nan])
    result = backtest(score, bars, long_only=True, **COSTS)
    np.testing.assert_allclose(result.position, [0.0, 1.0, 0.0, 0.0, 0.0])


def test_an_order_takes_at_most_its_share_of_the_volume() -> None:
    bars = make_bars([100.0] * 5)  # each trades 100 in quote units
    score = np.array([1.0, 1.0, 1.0, np.nan, np.nan])
    result = backtest(score, bars, capital=50.0, max_participation=0.2, **COSTS)
    np.testing.assert_allclose(result.position[:3], [0.4, 0.8, 1.0], atol=2e-3)
    assert result.turnover.sum() == pytest.approx(2.0, abs=5e-3)  # closing is not limited


def test_costs_are_charged_on_what_is_traded() -> None:
    rng = np.random.default_rng(2)
    bars, score = make_bars(100 + rng.normal(size=100)), rng.uniform(-1, 1, 100)
    result = backtest(score, bars, fee_bps=1.0, slippage_bps=0.5, no_trade_band=0.1)
    np.testing.assert_allclose(result.cost, result.turnover * 1.5e-4)
    np.testing.assert_allclose(result.net, result.gross - result.cost, atol=1e-15)


def test_later_rows_change_no_earlier_position() -> None:
    rng = np.random.default_rng(1)
    score, bars = rng.uniform(-1, 1, 40), make_bars(100 + rng.normal(size=40))
    whole = backtest(score, bars, no_trade_band=0.3, **COSTS)
    for end in range(3, 40):
        part = backtest(score[:end], bars[:end], no_trade_band=0.3, **COSTS)
        np.testing.assert_array_equal(part.position[: end - 1], whole.position[: end - 1])


def test_a_portfolio_has_one_capital_and_its_weights_drift_with_it() -> None:
    first, second = make_bars([100.0, 100.0, 200.0, 200.0]), make_bars([100.0] * 4)
    fills = [find_fills(each, delay_bars=0) for each in (first, second)]
    both = type(fills[0])(*(np.stack(pair, axis=1) for pair in zip(*map(_list_fields, fills), strict=True)))
    target = np.array([[1.0, 1.0], [1.0, 1.0], [np.nan, np.nan], [np.nan, np.nan]])
    result = trade(target, both, make_terms(fee_bps=0.0, slippage_bps=0.0))
    np.testing.assert_allclose(result.net[:2], [0.5, 0.0])  # half of the capital doubles
    # then 2/3 and 1/3 of the capital are held: back to halves turns over 1/6 on either side
    np.testing.assert_allclose(result.turnover, [[0.5, 0.5], [1 / 6, 1 / 6], [0.5, 0.5], [0, 0]])
    alone = trade(target[:, 0], fills[0], make_terms(fee_bps=0.0, slippage_bps=0.0))
    one = trade(target[:, :1], both.take(np.s_[:, :1]), make_terms(fee_bps=0.0, slippage_bps=0.0))
    np.testing.assert_array_equal(alone.net, one.net)


def test_the_order_of_symbols_does_not_matter() -> None:
    fills = [find_fills(make_bars(opens), delay_bars=0) for opens in ([100.0, 100, 200, 200], [100.0, 100, 50, 50])]
    target, terms = np.array([[1.0, -1.0], [np.nan] * 2, [np.nan] * 2, [np.nan] * 2]), make_terms(**COSTS)
    nets = []
    for order in ([0, 1], [1, 0]):
        pair = zip(*(_list_fields(fills[s]) for s in order), strict=True)
        both = type(fills[0])(*(np.stack(each, axis=1) for each in pair))
        nets.append(trade(target[:, order], both, terms).net)
    np.testing.assert_allclose(nets[0], nets[1], rtol=1e-15)


@pytest.mark.parametrize("altered", [300.0, 20.0])
def test_a_price_that_is_not_known_yet_changes_no_other_symbol(altered: float) -> None:
    grids = []
    for price in (100.0, altered):
        idle = make_bars([100.0] * 6 + [price] * 2, close=[100.0] * 6 + [price] * 2, volume=[1, 1, 0, 0, 0, 0, 1, 1])
        both = pd.concat([idle, make_bars([100.0] * 8, symbol="BBB").assign(segment=1)])
        grids.append(
            make_grid(both, find_fills, time_column="open_time", symbols=["AAA", "BBB"], delay_bars=0, bar_ms=MINUTE)
        )
    terms = make_terms(no_trade_band=0.3, **COSTS)
    same, other = (trade(np.full((8, 2), 0.5), grid.fills, terms) for grid in grids)
    np.testing.assert_array_equal(same.position[:5], other.position[:5])
    np.testing.assert_array_equal(same.net[:4], other.net[:4])


def test_a_gap_of_one_symbol_is_earned_when_it_ends() -> None:
    gap = make_bars([100.0, 100.0, 50.0, 50.0], minutes=[0, 1, 6, 7], segment=[0, 0, 1, 1], close=[100.0, 100, 50, 50])
    both = pd.concat([gap, make_bars([100.0] * 8, symbol="BBB").assign(segment=2)])
    fills = make_grid(
        both, find_fills, time_column="open_time", symbols=["AAA", "BBB"], delay_bars=0, bar_ms=MINUTE
    ).fills
    np.testing.assert_allclose(fills.move[:, 0], [0, 0, 0, 0, 0, -0.5, 0, 0])
    assert fills.crosses_gap[:, 0].nonzero()[0].tolist() == [5]
    assert fills.outcome[:, 0].tolist() == [FILLS, WAITS, WAITS, WAITS, WAITS, WAITS, CLOSES, CLOSES]


def test_a_symbol_without_a_bar_holds_what_it_holds() -> None:
    first = make_bars([100.0] * 5, minutes=[0, 2, 4, 6, 8])
    both = pd.concat([first, make_bars([100.0] * 5, minutes=[1, 3, 5, 7, 9], symbol="BBB").assign(segment=1)])
    grid = make_grid(both, find_fills, time_column="open_time", symbols=["AAA", "BBB"], delay_bars=0, bar_ms=None)
    target = np.where(grid.fills.outcome == WAITS, np.nan, 1.0)
    result = trade(target, grid.fills, make_terms(fee_bps=0.0, slippage_bps=0.0))
    assert result.turnover.sum() == pytest.approx(2.0)  # each in and out once


def _list_fields(fills):
    return (fills.move, fills.years, fills.quote_volume, fills.outcome, fills.crosses_gap)


def test_an_account_stepped_row_by_row_is_the_backtest() -> None:
    rng = np.random.default_rng(5)
    bars = make_bars(
        100 * np.exp(np.cumsum(rng.normal(0, 0.02, 300))), volume=(rng.random(300) < 0.9).astype(float).tolist()
    )
    terms = make_terms(borrow_rate=0.1, no_trade_band=0.2, capital=100.0, max_participation=0.6, **COSTS)
    target, fills = rng.uniform(-1, 1, 300), find_fills(bars, delay_bars=1)
    run = np.repeat([0, 1, 2], 100)
    expected = trade_runs(target, fills, run, terms)
    held, unrealized, since = 0.0, 0.0, 0
    for i in range(300):
        fill = (fills.move[i], fills.years[i], fills.quote_volume[i], fills.outcome[i])
        step, held, unrealized, since = step_account(target[i], held, unrealized, since, fill, i % 100 == 99, terms)
        assert step.net == expected.net[i]
        assert step.position == expected.position[i]
        assert step.turnover == expected.turnover[i]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"score": np.array([0.5, 1.5])}, "score: 1.5 at row 1"),
        ({"score": np.array([0.5])}, "give one score for each bar"),
        ({"fee_bps": -1.0}, "at least 0"),
        ({"fee_bps": np.nan}, "at least 0"),
        ({"no_trade_band": 1.0}, "no_trade_band: 1.0"),
        ({"no_trade_band": -0.1}, "no_trade_band: -0.1"),
        ({"delay_bars": -1}, "delay_bars: -1"),
        ({"delay_bars": 1.5}, "delay_bars: 1.5"),
        ({"capital": 0.0, "max_participation": 0.5}, "capital: 0.0"),
        ({"max_participation": 0.5}, "capital: None"),
        ({"capital": 1.0, "max_participation": 0.0}, "max_participation: 0.0"),
        ({"bars": make_bars([100.0, 0.0])}, "open is 0.0 at row 1"),
        ({"bars": make_bars([100.0, 101.0], minutes=[1, 0])}, "not sorted by symbol and open_time"),
        ({"bars": make_bars([100.0, 101.0]).drop(columns="open")}, "bars lack open"),
        ({"bars": make_bars([100.0, 101.0])[:0], "score": np.empty(0)}, "bars: no rows"),
    ],
)
def test_invalid_backtest_inputs_are_refused(wrong: dict[str, object], message: str) -> None:
    arguments = {"score": np.array([0.5, 0.5]), "bars": make_bars([100.0, 101.0]), **COSTS} | wrong
    with pytest.raises(ValueError, match=message):
        backtest(arguments.pop("score"), arguments.pop("bars"), **arguments)


def test_bars_of_two_symbols_are_refused() -> None:
    bars = pd.concat([make_bars([100.0, 101.0]), make_bars([100.0, 101.0], symbol="BBB")])
    with pytest.raises(ValueError, match="give those of one symbol"):
        backtest(np.zeros(4), bars, **COSTS)


@pytest.mark.parametrize(
    ("file", "symbol", "move_bps"),
    [
        ("BTCUSDT_1m_2023-03-20_8d_halt", "BTCUSDT", -55.0),
        ("ARBUSDT_1m_2023-07-20_14d_gap", "ARBUSDT", -240.0),
    ],
)
def test_the_loss_over_a_real_halt_is_that_from_its_last_bar_to_the_first(file, symbol, move_bps) -> None:
    if not (path := DATA / f"{file}.parquet").exists():
        pytest.skip(f"no real market data: {path.name} is not in ../shared/data")
    raw = pd.read_parquet(path)
    raw["symbol"] = pd.Series([symbol] * len(raw), dtype="str")
    bars, _ = klines.clean(raw[list(klines.COLUMNS)])
    fills = find_fills(bars, delay_bars=0)
    (row,) = np.flatnonzero(fills.crosses_gap)
    assert fills.move[row] == pytest.approx(bars["open"][row + 2] / bars["close"][row] - 1)
    assert fills.move[row] * 1e4 == pytest.approx(move_bps, abs=1)
    result = backtest(np.ones(len(bars)), bars, no_trade_band=0.2, **COSTS)
    assert result.gross[row] == pytest.approx(fills.move[row] * result.position[row])
    assert result.position[row + 1] == 0


def test_every_trade_costs_the_half_spread_of_its_row_and_closing_at_the_end_too() -> None:
    zeros = np.zeros(3)
    half_spread = np.array([0.01, 0.002, 0.004])
    fills = Fills(zeros, zeros, zeros + 1, np.full(3, FILLS, np.int8), zeros > 0, half_spread=half_spread)
    terms = make_terms(fee_bps=10.0, slippage_bps=0.0)
    result = trade(np.array([1.0, 0.0, -1.0]), fills, terms)
    np.testing.assert_allclose(result.net[0], -0.011)
    held = 1.0 / (1 - 0.011)  # the value held, over what is left of the capital
    np.testing.assert_allclose(result.net[1], -held * 0.003)
    closed = 1.0 / (1 - 0.005)  # the short, after its own cost
    np.testing.assert_allclose(result.turnover[2], 1 + closed * (1 - 0.005))
    np.testing.assert_allclose(result.net[2], -0.005 - 0.005)
    np.testing.assert_allclose(result.cost, result.turnover * (0.001 + half_spread))


def test_accounts_alone_and_together_bear_half_spreads_as_the_backtest_does() -> None:
    rng, count = np.random.default_rng(3), 60
    bars, target = make_bars(100 * np.exp(np.cumsum(rng.normal(0, 0.02, count)))), rng.uniform(-1, 1, count)
    fills = replace(find_fills(bars, delay_bars=0), half_spread=rng.uniform(0, 1e-3, count))
    terms = make_terms(no_trade_band=0.2, **COSTS)
    expected = trade(target, fills, terms)
    one, many = (0.0, 0.0, 0), (np.zeros(1), np.zeros(1), np.zeros(1, np.int64))
    for i in range(count):
        at, is_last = np.array([i]), np.array([i == count - 1])
        alone = earn_alone(target[None, i : i + 1], many[0], fills.list_arrays(), at, terms)
        fill = tuple(each[i] for each in fills.list_arrays()[:4])
        step, *one = step_account(target[i], *one, fill, bool(is_last[0]), terms, fills.half_spread[i])
        _, net, many = step_accounts(target[i : i + 1], many, fills.list_arrays(), at, is_last, terms)
        assert step.net == net[0] == pytest.approx(expected.net[i], abs=1e-15)
        assert is_last[0] or alone[0, 0] == net[0]


def test_without_half_spreads_every_bit_is_as_before() -> None:
    rng, count = np.random.default_rng(4), 200
    bars, target = make_bars(100 * np.exp(np.cumsum(rng.normal(0, 0.02, count)))), rng.uniform(-1, 1, count)
    fills, terms = find_fills(bars, delay_bars=0), make_terms(no_trade_band=0.1, **COSTS)
    assert not fills.half_spread.any()
    result = trade(target, fills, terms)
    assert np.array_equal(result.cost, result.turnover * terms.cost)
    net = result.gross - result.turnover * terms.cost - result.interest
    assert np.array_equal(result.net[:-1], net[:-1])


def test_what_is_held_at_the_end_is_closed_at_the_half_spread_of_its_own_latest_row():
    events = pd.DataFrame({"symbol": list("AAABBB"), "event": [0, 2, 4, 1, 3, 5]})
    found = Fills(
        move=np.zeros(6),
        years=np.zeros(6),
        quote_volume=np.full(6, 1e9),
        outcome=np.zeros(6, np.int8),
        crosses_gap=np.zeros(6, bool),
        half_spread=np.array([1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4]),
    )
    grid = make_grid(events, lambda *_, **__: found, time_column="event", symbols=["A", "B"], delay_bars=0, bar_ms=None)
    assert grid.fills.half_spread[:, 0].tolist() == [1e-4, 1e-4, 2e-4, 2e-4, 3e-4, 3e-4]
    assert grid.fills.half_spread[1:, 1].tolist() == [4e-4, 4e-4, 5e-4, 5e-4, 6e-4]
