"""Round trips by hand, by a second slow method, and by properties of random backtests."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import trading
from pipeline.evaluation.portfolio import PortfolioResult
from pipeline.evaluation.round_trips import list_round_trips, summarize_round_trips
from pipeline.fills import CLOSES, FILLS, WAITS, Fills

MINUTE_MS = 60_000
AMOUNTS = ["gross", "cost", "interest"]


def make_result(target, move, *, outcome=None, crosses_gap=None, **terms) -> PortfolioResult:
    """Trade targets (T, S) at 10 bps."""
    target, move = np.asarray(target, float), np.asarray(move, float)
    none = np.zeros(target.shape, bool)
    fills = Fills(
        move=move,
        years=np.full(target.shape, 1e-3),
        quote_volume=np.full(target.shape, 2.0),
        outcome=np.full(target.shape, FILLS, np.int8) if outcome is None else outcome,
        crosses_gap=none if crosses_gap is None else crosses_gap,
    )
    result = trading.trade(target, fills, trading.make_terms(fee_bps=8.0, slippage_bps=2.0, **terms))
    names = tuple(f"S{s}" for s in range(target.shape[1]))
    times = MINUTE_MS * np.arange(len(target))
    return PortfolioResult(times, names, result, fills.crosses_gap, ~np.isnan(target).all(axis=1))


def make_random_result(seed: int, *, rows: int, symbols: int) -> PortfolioResult:
    """Trade random targets, some of them missing, at random moves, with orders that wait or lapse."""
    rng = np.random.default_rng(seed)
    shape = rows, symbols
    target = rng.choice([-1.0, -0.4, 0.0, 0.3, 1.0, np.nan], shape)
    outcome = rng.choice([FILLS, WAITS, CLOSES], shape, p=[0.8, 0.1, 0.1]).astype(np.int8)
    terms = {"borrow_rate": 0.1, "no_trade_band": float(rng.choice([0.0, 0.2])), "capital": 4.0}
    limit = {"max_participation": float(rng.choice([0.5, 1.0]))}
    move = rng.normal(0, 0.05, shape)
    return make_result(target, move, outcome=outcome, crosses_gap=rng.random(shape) < 0.1, **terms, **limit)


def list_slowly(result: PortfolioResult) -> list[dict[str, object]]:
    """Row by row and symbol by symbol: the rows of each trip, with its gross return and excursions."""
    trips = []
    for s, symbol in enumerate(result.symbols):
        side = 0
        for i in range(len(result.time)):
            now = int(np.sign(result.backtest.position[i, s]))
            if now not in (0, side):
                trips.append({"symbol": symbol, "entry_time": result.time[i], "side": now, "bars": 0, "gross": 0.0})
                trips[-1] |= {"adverse_excursion": 0.0, "favorable_excursion": 0.0, "crosses_gap": False}
            if now:
                trip = trips[-1]
                trip["bars"] += 1
                trip["gross"] += result.backtest.gross[i, s]
                trip["adverse_excursion"] = min(trip["adverse_excursion"], trip["gross"])
                trip["favorable_excursion"] = max(trip["favorable_excursion"], trip["gross"])
                trip["crosses_gap"] |= bool(result.crosses_gap[i, s])
            side = now
    return trips


def test_a_round_trip_has_the_costs_of_its_entry_and_its_exit() -> None:
    trips = list_round_trips(make_result([[0.0], [1.0], [1.0], [0.0]], [[0.0], [-0.5], [1.0], [0.0]]))
    # 1 is bought; the drift is 1 * 0.5 / (1 - 0.501), so that row 2 sells 0.00200 to be at 1; 1 * 2 / 2 - is sold.
    held = 0.5 / 0.499
    step = held - 1.0
    last = 2.0 / (1 + 1 - step * 0.001)
    (trip,) = trips.to_dict("records")
    assert trip["side"] == 1
    assert (trip["entry_time"], trip["exit_time"], trip["bars"]) == (MINUTE_MS, 3 * MINUTE_MS, 2)
    assert trip["gross"] == pytest.approx(-0.5 + 1.0)
    assert trip["cost"] == pytest.approx(0.001 * (1.0 + step + last))
    assert trip["net"] == pytest.approx(trip["gross"] - trip["cost"])
    assert (trip["adverse_excursion"], trip["favorable_excursion"]) == pytest.approx((-0.5, 0.5))


def test_the_cost_of_a_reversal_is_split_between_what_it_closes_and_what_it_opens() -> None:
    trips = list_round_trips(make_result([[0.5], [-0.25], [0.0]], np.zeros((3, 1))))
    # 0.0005 at entry; the drifted weight is 0.5 / (1 - 0.0005): the reversal closes it and opens 0.25
    closed = [0.5 / 0.9995, 0.25 / (1 - 0.001 * (0.5 / 0.9995 + 0.25))]
    np.testing.assert_allclose(trips["cost"], [0.0005 + 0.001 * closed[0], 0.00025 + 0.001 * closed[1]], rtol=1e-14)
    assert trips["side"].tolist() == [1, -1]
    assert trips["exit_time"].tolist() == [MINUTE_MS, 2 * MINUTE_MS]


def test_what_is_held_at_the_end_is_closed_a_step_after_the_last_row_and_bears_the_cost() -> None:
    trips = list_round_trips(make_result([[-1.0], [-1.0]], [[0.0], [0.1]], borrow_rate=0.1))
    (trip,) = trips.to_dict("records")
    assert (trip["exit_time"], trip["bars"]) == (2 * MINUTE_MS, 2)
    assert trip["interest"] == pytest.approx(2 * 0.1 * 1e-3)
    # In at 1; row 1 trades the drift from 1 / (1 - 0.0011) to 1; at the end 1.1 of the capital is bought back.
    assert trip["cost"] == pytest.approx(0.001 * (1.0 + (1 / 0.9989 - 1) + 1.1))


def test_a_trip_is_held_while_its_order_waits_and_ends_where_it_lapses() -> None:
    outcome = np.array([[FILLS], [WAITS], [CLOSES], [FILLS]], np.int8)
    gap = np.array([[False], [True], [False], [False]])
    result = make_result(np.ones((4, 1)), np.zeros((4, 1)), outcome=outcome, crosses_gap=gap)
    trips = list_round_trips(result)
    assert trips["bars"].tolist() == [2, 1]
    assert trips["crosses_gap"].tolist() == [True, False]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 3))
def test_the_amounts_of_all_trips_add_up_to_those_of_the_backtest(seed: int, rows: int, symbols: int) -> None:
    result = make_random_result(seed, rows=rows, symbols=symbols)
    trips = list_round_trips(result)
    for s, symbol in enumerate(result.symbols):
        own = trips[trips["symbol"] == symbol]
        for name in AMOUNTS:
            assert own[name].sum() == pytest.approx(getattr(result.backtest, name)[:, s].sum(), abs=1e-13)
    assert trips["net"].sum() == pytest.approx(result.backtest.net.sum(), abs=1e-12)
    assert (trips["cost"] > 0).all()
    assert (trips["adverse_excursion"] <= 0).all()
    assert (trips["favorable_excursion"] >= 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 3))
def test_trips_are_those_of_row_by_row_accounting(seed: int, rows: int, symbols: int) -> None:
    result = make_random_result(seed, rows=rows, symbols=symbols)
    trips, slow = list_round_trips(result), pd.DataFrame(list_slowly(result))
    assert len(trips) == len(slow)
    for name in slow:
        if slow[name].dtype.kind == "f":
            np.testing.assert_allclose(trips[name], slow[name], atol=1e-14)
        else:
            assert trips[name].tolist() == slow[name].tolist()


def test_a_backtest_without_a_trade_has_no_trip_and_says_so() -> None:
    trips = list_round_trips(make_result(np.zeros((3, 1)), np.zeros((3, 1))))
    metrics, reasons = summarize_round_trips(trips)
    assert metrics["round_trips"] == metrics["round_trips_across_gaps"] == 0
    assert set(reasons) == {name for name, value in metrics.items() if np.isnan(value)}
    assert set(reasons.values()) == {"no round trip"}
    assert "trade_win_rate" in reasons


def test_the_summary_is_that_of_three_trips_by_hand() -> None:
    trips = pd.DataFrame(
        {
            "net": [0.02, -0.01, 0.02],
            "bars": [1, 2, 6],
            "entry_time": [0, MINUTE_MS, 3 * MINUTE_MS],
            "exit_time": [MINUTE_MS, 3 * MINUTE_MS, 9 * MINUTE_MS],
            "adverse_excursion": [0.0, -0.03, -0.01],
            "crosses_gap": [False, True, False],
        }
    )
    metrics, reasons = summarize_round_trips(trips)
    assert metrics == pytest.approx(
        {
            "round_trips": 3,
            "trade_win_rate": 2 / 3,
            "trade_profit_factor": 4.0,
            "trade_average_bars": 3.0,
            "trade_average_hours": 0.05,
            "trade_average_net_bps": 100.0,
            "worst_adverse_excursion": -0.03,
            "round_trips_across_gaps": 1,
        }
    )
    assert reasons == {}


def test_trips_that_never_lose_have_no_profit_factor() -> None:
    trips = list_round_trips(make_result([[1.0], [0.0]], [[0.5], [0.0]]))
    metrics, reasons = summarize_round_trips(trips)
    assert np.isnan(metrics["trade_profit_factor"])
    assert reasons == {"trade_profit_factor": "no losing round trip"}
