"""One phase of a prop firm's evaluation: hand-worked cases, and a slow second implementation on random ones."""

import doctest
from collections import Counter
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from pipeline.config import ParamsError, call_with
from pipeline.evaluation import prop_firm
from pipeline.evaluation.prop_firm import (
    PropFirmResult,
    PropFirmRules,
    estimate_daily_volatility,
    find_days,
    hold_between_trades,
    make_bars,
    make_terms,
    simulate,
)
from pipeline.evaluation.prop_firm_account import size_units, walk_account

HOUR_MS = 3_600_000
RULES = {
    "initial_balance": 100_000.0,
    "daily_loss": 0.05,
    "max_loss": 0.1,
    "target": 0.1,
    "min_days": 1,
    "trailing": False,
    "fee_bps": 0.0,
    "timezone": "Europe/Prague",
}


def to_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOON = to_ms("2024-01-10T12:00")  # 13:00 in Prague


def run(close, position, *, low=None, high=None, start=NOON, step_hours=1, **rules) -> PropFirmResult:
    """Simulate bars whose low and high are their close where nothing else is given."""
    close = np.array(close, float)
    low, high = (close if each is None else np.array(each, float) for each in (low, high))
    time_ms = start + step_hours * HOUR_MS * np.arange(len(close))
    return simulate(time_ms, high, low, close, np.array(position, float), **RULES | rules)


def test_equity_follows_the_units_and_fees_on_changes():
    result = run([100, 102, 102, 101], [0, 1, -0.5, 0], fee_bps=10)
    # buys 1,000 at 100 (fee 100), sells 1,000 + 101,900 / 204 at 102 (fee 152.95), buys the rest back (fee 50.95)
    np.testing.assert_allclose(result.equity, [100_000, 101_900, 101_747.05, 101_696.10], rtol=1e-12)
    assert (result.passed, result.breached, result.breach_time_ms, result.days) == (False, None, None, 1)


def test_units_are_held_while_the_position_stays_the_same():
    result = run([100, 101, 99, 103], [0, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(result.equity, [100_000, 100_500, 99_500, 101_500])


def test_the_first_bar_is_entered_at_its_own_close_and_its_worst_price_counts():
    assert run([100, 103], [1, 1]).equity.tolist() == [100_000, 103_000]
    assert run([100, 103], [1, 1], low=[94, 103]).breach_time_ms == NOON


def test_a_breach_inside_a_bar_that_ends_well_counts():
    result = run([100, 103, 120], [0, 1, 1], low=[100, 94.9, 103])
    assert (result.breached, result.breach_time_ms, result.passed) == ("daily", NOON + HOUR_MS, False)
    assert result.equity.tolist() == [100_000, 94_900, 94_900]


def test_the_high_is_the_worst_price_of_a_short():
    assert run([100, 98], [0, -1], low=[100, 90], high=[100, 105.1]).breached == "daily"
    assert run([100, 98], [0, 1], high=[100, 105.1]).breached is None


def test_equity_at_the_limit_is_allowed():
    assert run([100, 95, 95], [0, 1, 1]).breached is None
    assert run([100, 94.999, 95], [0, 1, 1]).breached == "daily"


def test_the_worst_price_comes_before_the_target_in_one_bar():
    assert run([100, 111], [0, 1]).passed
    both = run([100, 111], [0, 1], low=[100, 94])
    assert (both.passed, both.breached, both.pass_time_ms) == (False, "daily", None)


def test_of_both_limits_in_one_bar_the_higher_one_breaks():
    assert run([100, 80], [0, 1]).breached == "daily"  # 95,000 and 90,000
    days_of_loss = run([100, 96, 96, 92, 92, 80], [0, 1, 0, 1, 0, 1], step_hours=12)
    assert days_of_loss.breached == "max"  # 87,000 and 90,000


@pytest.mark.parametrize(
    ("date", "breached"),
    [("2024-03-30", "daily"), ("2024-03-31", None), ("2024-10-26", None), ("2024-10-27", "daily")],
)
def test_the_daily_limit_resets_at_22_utc_in_summer_and_at_23_utc_in_winter(date, breached):
    result = run([100, 97, 97, 94], [0, 1, 0, 1], start=to_ms(f"{date}T19:00"))  # loses 3 % at 20:00 and at 22:00
    assert result.breached == breached


def test_the_day_of_a_clock_change_has_23_or_25_hours():
    for date, hours in (("2024-03-30", 23), ("2024-10-26", 25)):
        first = find_days(to_ms(f"{date}T12:00") + HOUR_MS * np.arange(72), timezone="Europe/Prague")
        assert np.diff(first)[1] == hours


def test_a_loss_held_over_midnight_breaks_the_limit_of_the_new_day_without_a_move():
    """Balance 104,000 and equity 97,000 at midnight: the limit was 95,000 and is 99,000."""
    result = run([100, 104, 104, 97, 97], [0, 1, 0, 1, 1], start=to_ms("2024-01-10T19:00"))
    assert (result.breached, result.breach_time_ms, result.days) == ("daily", to_ms("2024-01-10T23:00"), 1)


def test_an_unrealized_profit_at_midnight_does_not_raise_the_daily_limit():
    close, position = [100, 104, 95.5], [0, 1, 1]
    assert run(close, position, start=to_ms("2024-01-10T21:00")).breached is None  # the limit is 95,000
    assert run([100, 104, 104, 98.9], [0, 1, 0, 1], start=to_ms("2024-01-10T20:00")).breached == "daily"


@pytest.mark.parametrize(("last", "trailing", "breached"), [(94, True, None), (93.9, True, "max"), (93.9, False, None)])
def test_a_trailing_maximum_loss_follows_the_highest_balance_at_midnights(last, trailing, breached):
    """Balances at midnights: 100,000, 104,000, 103,000, 98,500; the limit is 94,000."""
    close, position = [100, 104, 104, 103, 103, 98.5, 98.5, last], [0, 1, 0, 1, 0, 1, 0, 1]
    assert run(close, position, step_hours=12, trailing=trailing).breached == breached


def test_a_position_held_over_days_is_one_trading_day():
    close, position = [100, 112, 112, 112, 112, 112], [0, 1, 1, 1, 1, 0.5]
    result = run(close, position, step_hours=12, min_days=2)
    assert (result.days, result.passed) == (1, False)
    reopened = run(close, [0, 1, 1, 0, 1, 1], step_hours=12, min_days=2)
    assert (reopened.days, reopened.passed, reopened.pass_time_ms) == (2, True, NOON + 48 * HOUR_MS)


def test_the_target_is_met_after_the_fee_of_closing():
    assert not run([100, 110.2], [0, 1], fee_bps=10).passed  # 110,200 - 100 - 110.20
    result = run([100, 110.3, 90], [0, 1, 1], fee_bps=10)
    np.testing.assert_allclose(result.equity[1:], 110_089.7)
    assert result.passed


def simulate_slowly(time_ms, high, low, close, position, *, initial_balance, trailing, fee_bps, timezone, **rules):
    """Return passed, breached, breach_time_ms, days and equity, from single fills and the calendar of each bar."""
    fills, balance, best, before, dates, equity = [], initial_balance, initial_balance, 0.0, [], []
    trading_days = set()
    for i, ms in enumerate(time_ms):
        date = datetime.fromtimestamp(ms / 1000, UTC).astimezone(ZoneInfo(timezone)).date()
        if date not in dates:
            dates.append(date)
            best = max(best, balance)
            limits = {
                "daily": balance - rules["daily_loss"] * initial_balance,
                "max": (best if trailing else initial_balance) - rules["max_loss"] * initial_balance,
            }
        price = close[max(i - 1, 0)]

        def value(at, fills=fills):
            return sum(units * (at - entry) for units, entry in fills)

        if position[i] != before:
            before, held = position[i], sum(units for units, _ in fills)
            wanted = before * (balance + value(price)) / price
            balance -= abs(wanted - held) * price * fee_bps / 10_000
            left = wanted / held if held and 0 < wanted / held < 1 else float(held * wanted > 0)  # share not closed
            balance += (1 - left) * value(price)
            fills[:] = [(units * left, entry) for units, entry in fills if left]
            if wanted != sum(units for units, _ in fills) and not 0 < left < 1 and wanted:
                fills.append((wanted - sum(units for units, _ in fills), price))
                trading_days.add(date)
        worst = balance + min(value(each) for each in (price, low[i], high[i]))
        if broken := [name for name, limit in limits.items() if worst < limit]:
            name = max(broken, key=lambda each: limits[each])
            return False, name, ms, len(trading_days), equity + [worst] * (len(close) - i)
        held = sum(units for units, _ in fills)
        net = balance + value(close[i]) - abs(held) * close[i] * fee_bps / 10_000
        if len(trading_days) >= rules["min_days"] and net >= (1 + rules["target"]) * initial_balance:
            return True, None, None, len(trading_days), equity + [net] * (len(close) - i)
        equity.append(balance + value(close[i]))
    return False, None, None, len(trading_days), equity


def test_a_slow_second_implementation_has_the_same_results():
    rng, endings = np.random.default_rng(5), Counter()
    for case in range(300):
        bars, step = 60, int(rng.integers(1, 6)) * HOUR_MS
        time_ms = to_ms("2024-03-29T00:00") + rng.integers(0, 24) * HOUR_MS + np.sort(rng.permutation(90)[:bars]) * step
        close = 100 * np.exp(np.cumsum(rng.normal(0.0005, 0.008, bars)))
        low, high = close * (1 - rng.exponential(0.004, bars)), close * (1 + rng.exponential(0.004, bars))
        position = rng.choice([-1, -0.5, 0, 0, 0.5, 1, 2], bars)[np.cumsum(rng.random(bars) < 0.3)]
        rules = RULES | {
            "trailing": bool(case % 2),
            "fee_bps": float(rng.choice([0, 5])),
            "min_days": int(rng.integers(0, 5)),
            "target": float(rng.choice([0.03, 0.1])),
            "max_loss": float(rng.choice([0.04, 0.06])),
        }
        result = simulate(time_ms, high, low, close, position, **rules)
        passed, breached, breach_time_ms, days, equity = simulate_slowly(time_ms, high, low, close, position, **rules)
        found = (result.passed, result.breached, result.breach_time_ms, result.days)
        assert found == (passed, breached, breach_time_ms, days), case
        np.testing.assert_allclose(result.equity, equity, rtol=1e-10)
        endings[passed, breached] += 1
    assert min(endings[each] for each in ((True, None), (False, "daily"), (False, "max"), (False, None))) >= 20, endings


def test_sizes_are_cut_to_whole_lots_and_to_the_leverage():
    terms = make_terms(
        **{k: v for k, v in RULES.items() if k != "timezone"}, exposure=2, max_leverage=3.3, lot_size=0.01
    )
    assert size_units(1.0, 100_000.0, 43_000.0, terms) == pytest.approx(4.65)  # 200,000 / 43,000 = 4.651
    assert size_units(-1.0, 100_000.0, 43_000.0, terms) == pytest.approx(-4.65)
    assert size_units(2.0, 100_000.0, 43_000.0, terms) == pytest.approx(7.67)  # 330,000 / 43,000 = 7.674
    assert size_units(0.0001, 100_000.0, 43_000.0, terms) == 0.0
    assert size_units(0.15, 100_000.0, 30_000.0, terms) == pytest.approx(1.0)  # a whole lot in spite of rounding


def test_a_day_continues_at_the_close_of_the_day_before_it_in_the_sequence():
    close = np.array([100.0, 100, 102, 102, 101, 101])
    time_ms = to_ms("2024-01-10T00:00") + 12 * HOUR_MS * np.arange(6)
    position = np.array([0.0, 0, 1, 1, 1, 1])
    bars = make_bars(time_ms, high=close, low=close, close=close, position=position, timezone="UTC")
    terms = make_terms(**{k: v for k, v in RULES.items() if k != "timezone"})
    end = walk_account(bars, np.array([0, 1, 1, 2]), 0, 4, 100_000.0, 100_000.0, terms, np.empty(0))
    assert end.balance == pytest.approx(100_000 * 1.02 * 1.02 * 101 / 102)
    assert (end.status, end.step, end.days) == (0, 3, 1)


def test_positions_are_held_between_trades():
    held = hold_between_trades(np.array([0.3, 0.5, 0.51, 0.52, 0.0]), np.array([0.0, 0.5, 0.0, 0.0, 0.52]))
    assert held.tolist() == [0.0, 0.5, 0.5, 0.5, 0.0]


def test_daily_volatility_is_that_of_the_last_closes_of_local_days():
    close = np.exp([0.5, 0.0, 9.0, 0.1, 0.3, 0.3])
    time_ms = to_ms("2024-01-10T00:00") + 12 * HOUR_MS * np.arange(6)
    assert estimate_daily_volatility(time_ms, close, timezone="UTC") == pytest.approx(np.std([0.1, 0.2], ddof=1))
    with pytest.raises(ValueError, match="covers 2 days in UTC; a volatility needs at least 3"):
        estimate_daily_volatility(time_ms[:4], close[:4], timezone="UTC")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"daily_loss": 5_000}, "daily_loss is 5000; give a share of the initial balance between 0 and 1"),
        ({"target": 0}, "target is 0; give a share of the initial balance above 0"),
        ({"fee_bps": float("nan")}, "fee_bps is nan; give at least 0 and below 10,000"),
        ({"fee_bps": 20_000}, "fee_bps is 20000; give at least 0 and below 10,000"),
        ({"initial_balance": True}, "initial_balance is True; give a number: an amount above 0"),
        ({"max_loss": "0.1"}, "max_loss is '0.1'; give a number: a share of the initial balance between 0 and 1"),
        ({"min_days": 1.5}, "min_days is 1.5; give a whole number from 0 to 365"),
        ({"min_days": 366}, "min_days is 366; give a whole number from 0 to 365"),
        ({"trailing": "no"}, "trailing is 'no'; give True or False"),
        ({"timezone": None}, "timezone is None; give a name of the IANA database"),
        ({"position": [0, 1e308]}, r"position of bar 1 is 1e\+308; give a multiple of the equity from -1e6 to 1e6"),
        ({"position": [-1e6, -1.1e6]}, r"position of bar 1 is -1.1e\+06; give"),
        ({"timezone": "Prague"}, "timezone is 'Prague'; give a name of the IANA database"),
        ({"low": [100, 101]}, "bar 1 has low 101.0, close 100.0, high 100.0; give 0 < low <= close <= high"),
        ({"high": [100, np.nan]}, "high of bar 1 is nan; give finite numbers"),
        ({"position": [1]}, r"position has shape \(1,\), time_ms \(2,\); give both \(T,\)"),
        ({"step_hours": 0}, "time_ms of bar 1 is .* give ascending times"),
    ],
)
def test_inputs_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        run(**{"close": [100, 100], "position": [0, 1]} | change)


def run_at(time_ms, **rules) -> PropFirmResult:
    """Simulate bars at these times of a price that falls by 6 % in the last one."""
    close = np.append(np.full(len(time_ms) - 1, 100.0), 94.0)
    return simulate(time_ms, close, close, close, np.ones(len(close)), **RULES | rules)


@pytest.mark.parametrize(
    ("time_ms", "message"),
    [
        (np.array([0.0, np.nan]), "time_ms of bar 1 is nan; give whole milliseconds UTC from 1970 to 2100"),
        (np.array([0.0, np.inf]), "time_ms of bar 1 is inf; give whole milliseconds"),
        (np.array([0.5, 60_000.0]), "time_ms of bar 0 is 0.5; give whole milliseconds"),
        (np.array([-60_000, 0]), "time_ms of bar 0 is -60000; give whole milliseconds"),
        (np.array([60_000, 0], np.uint64), "time_ms of bar 1 is 0 after 60000; give ascending times"),
        (NOON * 1_000 + np.arange(2), "time_ms of bar 0 is 1704888000000000; give whole milliseconds"),
        (
            np.array(["2024-01-10", "2024-01-11"], "datetime64[ns]"),
            "bar 0 is 2024-01-10.* of type datetime64.ns.; give",
        ),
        (["2024-01-10", "2024-01-11"], "time_ms of bar 0 is 2024-01-10 of type <U10; give whole milliseconds"),
        ([False, True], "time_ms of bar 0 is False of type bool; give whole milliseconds"),
    ],
)
def test_times_that_are_not_ascending_whole_milliseconds_are_refused(time_ms, message):
    with pytest.raises(ValueError, match=message):
        run_at(time_ms)


@pytest.mark.parametrize(
    "time_ms", [[0, 60_000], np.array([0.0, 60_000.0]), pd.Series([0, 60_000], index=[7, 3]), np.uint64([0, 60_000])]
)
def test_times_of_any_type_of_number_are_read_in_their_order(time_ms):
    assert run_at(time_ms).breach_time_ms == 60_000


@pytest.mark.parametrize(
    ("timezone", "date", "hours"), [("Africa/Cairo", "2024-04-26", 23), ("America/Santiago", "2024-09-08", 23)]
)
def test_a_day_without_midnight_begins_at_its_first_hour(timezone, date, hours):
    """At midnight of these days the clocks go to 01:00."""
    time_ms = to_ms(date) + HOUR_MS * np.arange(-48, 72)
    local = [datetime.fromtimestamp(each / 1000, UTC).astimezone(ZoneInfo(timezone)).date() for each in time_ms]
    first = find_days(time_ms, timezone=timezone)
    assert first.tolist() == [local.index(each) for each in sorted(set(local))] + [120]
    days = dict(zip(map(str, sorted(set(local))), np.diff(first), strict=True))
    assert days[date] == hours


def test_equal_limits_count_as_the_maximum_loss():
    assert run([100, 94], [0, 1], daily_loss=0.05, max_loss=0.05).breached == "max"


def test_the_examples_of_the_docstrings_hold():
    results = doctest.testmod(prop_firm)
    assert (results.failed, results.attempted) == (0, 5)


def test_rules_are_read_from_params():
    block = {k: v for k, v in RULES.items() if k != "target"} | {
        "targets": [0.1, 0.05],
        "max_leverage": 3.3,
        "lot_size": 0.01,
        "challenge_fee": 540,
        "profit_split": 0.8,
        "payout_days": 14,
    }
    assert call_with(PropFirmRules, block=block, name="prop_firm").targets == [0.1, 0.05]
    with pytest.raises(ParamsError, match="prop_firm.daily_loss is 5; it must be below 1"):
        call_with(PropFirmRules, block=block | {"daily_loss": 5}, name="prop_firm")
