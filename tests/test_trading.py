"""Score to position to net return, by hand, by a second slow method, and by properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import trading

COSTS = {"fee_bps": 8.0, "slippage_bps": 2.0}  # 10 bps: 0.001 of what is traded


def backtest_slowly(score, segment, move, *, band: float, cost: float) -> tuple[list[float], list[float], list[float]]:
    """Bar by bar: the return of the position, less the cost of every trade."""
    net, position, turnover = [], [], []
    for i, target in enumerate(score):
        opens = i == 0 or segment[i] != segment[i - 1]
        closes = i == len(score) - 1 or segment[i] != segment[i + 1]
        held = 0.0 if opens else position[-1]
        now = target if abs(target - held) > band else held
        traded = abs(now - held) + (abs(now) if closes else 0.0)
        position.append(now)
        turnover.append(traded)
        net.append(now * move[i] - traded * cost)
    return net, position, turnover


def test_net_return_is_position_times_move_less_the_cost_of_the_change() -> None:
    assert trading.net_return(0.5, -0.5, 0.02, **COSTS) == pytest.approx(0.5 * 0.02 - 1.0 * 0.001)


def test_a_short_position_earns_where_the_price_falls() -> None:
    assert trading.net_return(-1.0, -1.0, -0.03, **COSTS) == pytest.approx(0.03)


def test_entering_and_leaving_a_segment_both_cost() -> None:
    result = trading.run_backtest(
        np.array([1.0, 1.0, -0.5]), np.array([0, 0, 1]), np.array([0.01, 0.02, 0.04]), no_trade_band=0.0, **COSTS
    )
    np.testing.assert_array_equal(result.position, [1.0, 1.0, -0.5])
    np.testing.assert_allclose(result.turnover, [1.0, 1.0, 1.0])  # in; out; in and out in one bar
    np.testing.assert_allclose(result.net, [0.01 - 0.001, 0.02 - 0.001, -0.02 - 0.001])


def test_a_position_stays_while_the_score_is_within_the_band() -> None:
    score = np.array([0.1, 0.3, 0.45, 0.55, 0.5, 0.0, -0.1, -0.3])
    position = trading.hold_positions(score, np.zeros(8, dtype=np.int32), no_trade_band=0.2)
    np.testing.assert_array_equal(position, [0.0, 0.3, 0.3, 0.55, 0.55, 0.0, 0.0, -0.3])


def test_a_score_exactly_a_band_away_does_not_trade() -> None:
    np.testing.assert_array_equal(
        trading.hold_positions(np.array([0.25, -0.25]), np.array([0, 0]), no_trade_band=0.25), [0.0, 0.0]
    )


def test_a_band_of_zero_trades_every_score() -> None:
    score = np.random.default_rng(0).uniform(-1, 1, 50)
    np.testing.assert_array_equal(trading.hold_positions(score, np.zeros(50), no_trade_band=0.0), score)


def test_every_segment_starts_flat() -> None:
    score = np.array([0.9, 0.1, 0.1, 0.1])
    np.testing.assert_array_equal(
        trading.hold_positions(score, np.array([0, 0, 1, 1]), no_trade_band=0.5), [0.9, 0.1, 0.0, 0.0]
    )


def test_a_score_of_zero_means_no_trade_and_no_cost() -> None:
    result = trading.run_backtest(np.zeros(5), np.zeros(5), np.full(5, 0.1), no_trade_band=0.0, **COSTS)
    np.testing.assert_array_equal(result.net, np.zeros(5))
    np.testing.assert_array_equal(result.turnover, np.zeros(5))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.5]), st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_a_backtest_is_that_of_bar_by_bar_accounting(seed: int, band: float, lengths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    segment = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
    score, move = np.round(rng.uniform(-1, 1, len(segment)), 1), rng.normal(0, 0.01, len(segment))
    result = trading.run_backtest(score, segment, move, no_trade_band=band, **COSTS)
    net, position, turnover = backtest_slowly(score, segment, move, band=band, cost=0.001)
    np.testing.assert_array_equal(result.position, position)
    np.testing.assert_allclose(result.turnover, turnover, atol=1e-15)
    np.testing.assert_allclose(result.net, net, atol=1e-15)


def test_later_rows_change_no_earlier_position() -> None:
    score, segment = np.random.default_rng(1).uniform(-1, 1, 40), np.repeat([0, 1], 20)
    whole = trading.hold_positions(score, segment, no_trade_band=0.3)
    for end in range(1, 40):
        np.testing.assert_array_equal(
            trading.hold_positions(score[:end], segment[:end], no_trade_band=0.3), whole[:end]
        )


def test_higher_costs_never_earn_more() -> None:
    rng = np.random.default_rng(2)
    arguments = rng.uniform(-1, 1, 100), np.zeros(100), rng.normal(0, 0.01, 100)
    cheap = trading.run_backtest(*arguments, fee_bps=1.0, slippage_bps=0.5, no_trade_band=0.1)
    dear = trading.run_backtest(*arguments, fee_bps=2.0, slippage_bps=0.5, no_trade_band=0.1)
    assert (dear.net <= cheap.net).all()
    np.testing.assert_allclose((cheap.net - dear.net).sum(), cheap.turnover.sum() * 1e-4)


def test_symbols_are_averaged_with_equal_weights() -> None:
    times, net = trading.average_symbols(
        np.array([1, 2, 3, 2, 3, 4]), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), symbols=2
    )
    np.testing.assert_array_equal(times, [1, 2, 3, 4])
    np.testing.assert_allclose(net, [0.05, 0.3, 0.4, 0.3])  # alone at 1 and 4: the other half earns nothing


def test_the_average_of_one_symbol_is_its_own_return() -> None:
    net = np.array([0.1, -0.2, 0.3])
    np.testing.assert_array_equal(trading.average_symbols(np.array([1, 2, 3]), net, symbols=1)[1], net)


def backtest_rows(score=(0.5, 0.5), segment=(0, 0), move=(0.1, 0.1), fee_bps=1.0, band=0.0) -> trading.Backtest:
    rows = np.array(score), np.array(segment), np.array(move)
    return trading.run_backtest(*rows, fee_bps=fee_bps, slippage_bps=0.0, no_trade_band=band)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"score": (0.5, np.nan)}, "score: nan at row 1"),
        ({"score": (0.5, 1.5)}, "score: 1.5 at row 1"),
        ({"move": (np.inf, 0.1)}, "move: inf at row 0"),
        ({"move": (0.1,)}, "give equal lengths"),
        ({"fee_bps": -1.0}, "at least 0"),
        ({"fee_bps": np.nan}, "at least 0"),
        ({"band": 1.0}, "no_trade_band: 1.0"),
        ({"band": -0.1}, "no_trade_band: -0.1"),
        ({"score": (0.5,) * 3, "segment": (0, 1, 0), "move": (0.1,) * 3}, "segment 0 starts again at row 2"),
    ],
)
def test_invalid_backtest_inputs_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backtest_rows(**wrong)


def test_a_time_with_more_rows_than_symbols_is_refused() -> None:
    with pytest.raises(ValueError, match="time 2 has 2 rows"):
        trading.average_symbols(np.array([1, 2, 2]), np.zeros(3), symbols=1)
