"""The simulated order flow: a book that fits its messages, a null that is a martingale, an effect that is found."""

import hashlib
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import config
from pipeline.orderbook import book, flow_messages, order_flow, raw_table
from pipeline.orderbook.simulated_facts import correlate, find_imbalance, find_mid, find_standard_error, measure_signal
from pipeline.orderbook.sources import simulated_book

EVENTS = 6_000
BLOCK: dict[str, Any] = {
    "symbols": ["A", "B"],
    "start": "2024-01-05",
    "days": 2,
    "events_per_day": EVENTS,
    "opens": "09:30",
    "hours": 6.5,
    "timezone": "America/New_York",
    "price": 100.0,
    "tick": 0.01,
    "sizes": "lots",
    "arrivals": "hawkes",
    "imbalance_effect": 0.7,
    "seed": 1,
}
CRYPTO = BLOCK | {
    "symbols": ["COIN"],
    "opens": "00:00",
    "hours": 24,
    "timezone": "UTC",
    "price": 42_000.0,
    "tick": 0.5,
    "sizes": "fractions",
    "arrivals": "poisson",
}


def load(block: dict[str, Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
    return config.call_with(simulated_book.load, block=block, name="sources.simulated_book")


@pytest.fixture(scope="module")
def market() -> tuple[pd.DataFrame, dict[str, Any]]:
    return load(BLOCK)


@pytest.fixture(scope="module")
def coin() -> tuple[pd.DataFrame, dict[str, Any]]:
    return load(CRYPTO)


def simulate(effect: float, *, events: int, seed: int = 7) -> flow_messages.Tape:
    """Return a session with self-excitation."""
    return order_flow.simulate_session(
        np.random.default_rng(seed), flow_messages.Terms(effect, True, False), events=events
    )


@pytest.mark.parametrize("name", ["market", "coin"])
def test_snapshots_are_those_of_the_book_rebuilt_from_the_messages(name: str, request: pytest.FixtureRequest):
    table, _ = request.getfixturevalue(name)
    assert tuple(table.columns) == raw_table.COLUMNS
    for _, day in table.groupby(["symbol", "day"]):
        rebuilt = book.rebuild(day)
        assert not any(rebuilt.faults.values())
        for column, values in rebuilt.columns.items():
            np.testing.assert_array_equal(day[column], values)


def test_executions_take_the_oldest_order_at_the_best_price(market: tuple[pd.DataFrame, dict[str, Any]]):
    day = next(part for _, part in market[0].groupby(["symbol", "day"]))
    queues, executed = dict[tuple[int, float], list[int]](), 0
    before = day[["ask_price_1", "bid_price_1"]].shift().to_numpy()
    columns = day[["action", "order_id", "price", "side"]].itertuples(index=False)
    left = dict[int, float]()
    for i, ((action, order, price, side), size) in enumerate(zip(columns, day["size"], strict=True)):
        queue = queues.setdefault((side, price), [])
        if action == raw_table.ADD:
            queue.append(order)
            left[order] = size
        elif action != raw_table.EXECUTE_HIDDEN:
            if action == raw_table.EXECUTE:
                assert queue[0] == order
                assert price == before[i, 0 if side == raw_table.ASK else 1]
                executed += 1
            left[order] -= size
            if left[order] == 0:
                queue.remove(order)
            assert (action == raw_table.DELETE) <= (left[order] == 0)
    assert executed > 100


def test_the_clock_numbers_all_symbols_in_time_order(market: tuple[pd.DataFrame, dict[str, Any]]):
    table = market[0].sort_values("event")
    np.testing.assert_array_equal(table["event"], np.arange(4 * EVENTS))
    assert table["time_ns"].is_monotonic_increasing
    assert list(table["day"].unique()) == ["2024-01-05", "2024-01-08"]  # no weekend
    opening, closing = pd.to_datetime(table["time_ns"].iloc[[0, -1]], utc=True).dt.tz_convert("America/New_York")
    assert (opening.hour, opening.minute, closing.hour, closing.minute) == (9, 30, 15, 59)


def test_a_market_of_24_hours_trades_fractions_every_day(coin: tuple[pd.DataFrame, dict[str, Any]]):
    table, _ = coin
    assert list(table["day"].unique()) == ["2024-01-05", "2024-01-06"]
    assert (table["size"] % 1 != 0).mean() > 0.9
    np.testing.assert_array_equal(table["price"] * 2 % 1, 0)
    assert {int(ns // (86_400 * 10**9)) for ns in table["time_ns"]} == {19727, 19728}


def test_sessions_of_24_hours_follow_one_another_where_the_clock_changes():
    for start, hours in (("2024-03-09", [24, 23, 24]), ("2024-11-02", [24, 24, 24])):
        sessions = simulated_book.list_sessions(
            start=start, days=3, opens="00:00", hours=24, timezone="America/New_York"
        )
        assert [session.length_ns / 3600e9 for session in sessions] == hours
        ends = [session.open_ns + session.length_ns for session in sessions]
        assert all(end <= session.open_ns for end, session in zip(ends, sessions[1:], strict=False))


def test_the_same_parameters_give_the_same_bytes_and_a_longer_market_begins_with_the_shorter(
    market: tuple[pd.DataFrame, dict[str, Any]],
):
    shorter, _ = load(BLOCK | {"days": 1, "symbols": ["B"]})
    first = market[0].query("symbol == 'B' and day == '2024-01-05'").reset_index(drop=True)
    pd.testing.assert_frame_equal(first.drop(columns="event"), shorter.drop(columns="event"))


def test_messages_have_the_bytes_that_they_have_on_every_processor():
    tape = simulate(0.7, events=3_000)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in tape)).hexdigest()
    assert digest[:16] == "553deb076f66b5d3"


@pytest.mark.parametrize(("up", "down"), [(1.0, 1.0), (3.0, 1.0), (1.0, 4.0)])
def test_the_mean_move_is_zero_without_tilt_and_has_the_sign_of_a_tilt(up: float, down: float):
    uniform = (np.arange(4000) + 0.5) / 4000
    for tilt, sign in ((0.0, 0), (0.6, 1), (-0.6, -1)):
        is_up = np.array([flow_messages.draw_direction(u, up, down, tilt) for u in uniform])
        mean = np.where(is_up, up, -down).mean()
        assert np.sign(np.round(mean, 3)) == sign


def test_nothing_in_the_book_predicts_the_mid_of_a_null_market():
    """The sum of (what is known) x (next move) has mean 0 and a known variance: the mid is a martingale."""
    tape = simulate(0.0, events=60_000)
    mid = find_mid(tape)
    start, move = len(tape.time) - len(mid), np.diff(mid)
    asks, bids = (tape.book[start:, column].astype(float) for column in (10, 30))
    momentum = np.concatenate([np.zeros(20), mid[20:] - mid[:-20]])
    known = {
        "signal": tape.signal[start:],
        "imbalance": find_imbalance(tape)[start:],
        "best_imbalance": (bids - asks) / (bids + asks),
        "momentum": momentum,
        "last_side": tape.side[start:] - 0.5,
    }
    for name, values in known.items():
        products = values[:-1] * move
        assert abs(products.sum()) < 4 * np.sqrt(np.sum(products**2)), name
    for horizon in (10, 50):
        found = measure_signal([tape], horizon=horizon)
        assert abs(found["signal"]) < 4 * found["standard_error"]


def test_a_planted_effect_is_found_in_the_imbalance_and_more_of_it_in_the_signal():
    tapes = [simulate(0.7, events=40_000, seed=seed) for seed in (1, 2)]
    found = measure_signal(tapes, horizon=50)
    assert found["imbalance"] > 0.1 > 4 * found["standard_error"]
    assert found["signal"] > found["imbalance"] + 0.03
    assert found["signal"] > 0.25


def test_the_standard_error_of_a_martingale_is_that_of_many_markets():
    rng = np.random.default_rng(5)
    signal = np.cumsum(rng.normal(size=2_000)) % 30  # slow, and independent of the moves
    ics = []
    for _ in range(400):
        mid = np.cumsum(np.append(0, rng.normal(size=2_019)))
        ics.append(correlate(signal, mid[20:] - mid[:-20]))
    assert np.std(ics) == pytest.approx(find_standard_error(signal, horizon=20), rel=0.15)


def test_the_report_has_the_facts_of_a_book(market: tuple[pd.DataFrame, dict[str, Any]]):
    table, report = market
    facts = report["simulated"]["A"]
    own = table[table["symbol"] == "A"]
    assert facts["messages"] == 2 * EVENTS
    assert facts["action_shares"]["adds"] == np.mean(own["action"] == 1)
    spread = np.rint((own["ask_price_1"] - own["bid_price_1"])[own["bid_price_1"] * own["ask_price_1"] > 0] * 100)
    assert facts["spread_ticks"]["shares"]["1"] == pytest.approx(np.mean(spread == 1))
    assert 0.25 < facts["spread_ticks"]["shares"]["1"] < 0.75
    assert 0.03 < facts["action_shares"]["executions"] < 0.12


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"symbols": ["A", "A"]}, "without repeats"),
        (
            {"price": 100.005},
            r"^sources.simulated_book: price is 100.005, which is 10,000.5 times the tick of 0.01; it must be a whole "
            r"number of ticks, more than 8,192: set price to 100, or change tick$",
        ),
        ({"price": 10.0}, "price is 10.0, which is 1,000 times .*: set price to 81.93, or change tick$"),
        ({"tick": 1e-13}, "price is 100.0 and tick 1e-13; .* at most 15 digits are allowed, 12 of them decimals"),
        ({"timezone": "Nowhere"}, "IANA"),
        ({"imbalance_effect": 1.5}, "imbalance_effect"),
        ({"arrivals": "uniform"}, "arrivals"),
        ({"events_per_day": 10}, "events_per_day"),
        ({"price": float("inf")}, "price is inf; it must be a finite number"),
        ({"start": "9999-12-31"}, "2 days from 9999-12-31 on reach 9999-12-31; they must lie within 1990 to 2059"),
    ],
)
def test_parameters_out_of_range_are_refused(changes: dict[str, Any], error: str):
    with pytest.raises(ValueError, match=error):
        load(BLOCK | changes)


def test_the_price_that_the_error_proposes_is_allowed():
    assert simulated_book.find_scales(price=81.93, tick=0.01, sizes="lots").start == 8193
