"""Markets with sessions: their hours, bars over closings, fills, labels, and the bars of a year."""

import re
import sys
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest

from pipeline import artifacts, config, fills, labels, trading
from pipeline.config import ParamsError
from pipeline.datasets.klines import clock, closings, ingest
from pipeline.datasets.klines.words import WORDS
from pipeline.evaluation.liquidity import measure_liquidity
from pipeline.evaluation.performance import aggregate_days, count_days_per_year
from pipeline.evaluation.trading_grid import make_grid
from pipeline.fills import CLOSES, FILLS, WAITS, find_fills
from pipeline.leakage.canaries.canary_market import remove_closings
from pipeline.market import bars
from pipeline.market.sessions import (
    OUTSIDE,
    count_bars_per_year,
    list_bar_opens,
    list_sessions,
    list_years,
    number_bars,
)
from pipeline.models.agents.engine.market_fills import read_fills
from pipeline.stages import split
from pipeline.validation.folds import Folds
from tests.params import PARAMS

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NEW_YORK = {
    "timezone": "America/New_York",
    "open": "09:30",
    "close": "16:00",
    "weekdays": [0, 1, 2, 3, 4],
    "holidays": ["2024-01-01", "2024-01-15", "2024-02-19", "2024-03-29", "2024-05-27", "2024-06-19", "2024-07-04"]
    + ["2024-09-02", "2024-11-28", "2024-12-25"],
    "early_closes": {"2024-07-03": "13:00", "2024-11-29": "13:00", "2024-12-24": "13:00"},
}
FUTURES = {
    "timezone": "America/Chicago",
    "open": "17:00",  # of the day before
    "close": "16:00",
    "weekdays": [0, 1, 2, 3, 4],
    "holidays": [],
    "early_closes": {},
}
THREE_BARS = {  # a market that opens for three minutes a day
    "timezone": "UTC",
    "open": "12:00",
    "close": "12:03",
    "weekdays": [0, 1, 2, 3, 4],
    "holidays": [],
    "early_closes": {},
}
HOLD = {"features": "continue", "positions": "hold", "off_grid": "refuse"}
CLOSE = {**HOLD, "positions": "close"}
RESTART = {**HOLD, "features": "restart"}

LIBRARY_WARNS = pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")  # of its own use of pandas


def to_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def show(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}"


def show_sessions(first: str, last: str, exchange: object) -> list[tuple[str, str]]:
    found = list_sessions(date.fromisoformat(first), date.fromisoformat(last), exchange=exchange)
    return [(show(opened), show(closed)) for opened, closed in zip(found.open_ms, found.close_ms, strict=True)]


def make_klines(time: np.ndarray, *, symbol: str = "AAA", seed: int = 0, volume: float = 4.0) -> pd.DataFrame:
    """Return raw one-minute bars that open at these times, of a random walk; a bar opens at the close before."""
    close = np.round(100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 1e-3, len(time)))), 2)
    opened = np.append(100.0, close[:-1])
    prices = {"open": opened, "high": np.maximum(opened, close), "low": np.minimum(opened, close), "close": close}
    amounts = {"quote_volume": volume * close, "trades": 3, "taker_buy_base": volume / 2}
    amounts |= {"taker_buy_quote": volume / 2 * close}
    table = pd.DataFrame({"open_time": time, **prices, "volume": volume, "close_time": time + MINUTE - 1, **amounts})
    table.insert(0, "symbol", pd.array([symbol] * len(time), dtype="str"))
    return table


def list_opens(first: str, last: str, exchange: object) -> np.ndarray:
    sessions = list_sessions(date.fromisoformat(first), date.fromisoformat(last), exchange=exchange)
    return list_bar_opens(sessions, bar_ms=MINUTE)


def clean_days(days: int, *, drop: tuple[int, ...] = (), **calendar: str) -> pd.DataFrame:
    """Return clean bars of the market of three minutes, from Monday 2024-01-08 on, without the rows `drop`."""
    raw = make_klines(list_opens("2024-01-08", "2024-02-08", THREE_BARS)[: 3 * days])
    return ingest.clean(raw.drop(index=list(drop)), exchange=THREE_BARS, **calendar)[0]


def test_new_york_opens_an_hour_earlier_in_utc_while_daylight_saving_lasts():
    assert show_sessions("2024-03-08", "2024-03-11", NEW_YORK) == [
        ("2024-03-08 14:30", "2024-03-08 21:00"),
        ("2024-03-11 13:30", "2024-03-11 20:00"),
    ]
    assert show_sessions("2024-11-01", "2024-11-04", NEW_YORK) == [
        ("2024-11-01 13:30", "2024-11-01 20:00"),
        ("2024-11-04 14:30", "2024-11-04 21:00"),
    ]


def test_a_session_closes_early_and_a_holiday_has_none():
    assert show_sessions("2024-07-03", "2024-07-05", NEW_YORK) == [
        ("2024-07-03 13:30", "2024-07-03 17:00"),
        ("2024-07-05 13:30", "2024-07-05 20:00"),
    ]


def test_a_session_of_futures_opens_on_the_day_before_its_own():
    assert show_sessions("2024-03-08", "2024-03-12", FUTURES) == [
        ("2024-03-07 23:00", "2024-03-08 22:00"),  # Friday
        ("2024-03-10 22:00", "2024-03-11 21:00"),  # Monday opens on Sunday, with daylight saving since that morning
        ("2024-03-11 22:00", "2024-03-12 21:00"),
    ]


def test_a_session_of_a_whole_day_ends_at_midnight():
    hours = FUTURES | {"timezone": "UTC", "open": "00:00", "close": "24:00"}
    assert show_sessions("2024-01-05", "2024-01-08", hours) == [
        ("2024-01-05 00:00", "2024-01-06 00:00"),
        ("2024-01-08 00:00", "2024-01-09 00:00"),
    ]


@LIBRARY_WARNS
def test_hours_are_those_of_the_library_for_the_same_exchange():
    ours, theirs = (
        list_sessions(date(2024, 1, 1), date(2024, 12, 31), exchange=exchange) for exchange in (NEW_YORK, "XNYS")
    )
    assert ours.open_ms.tolist() == theirs.open_ms.tolist()
    assert ours.close_ms.tolist() == theirs.close_ms.tolist()
    assert theirs.ends_session.all()


@LIBRARY_WARNS
def test_a_break_divides_a_session_into_two_intervals_of_which_the_second_ends_it():
    found = list_sessions(date(2024, 1, 4), date(2024, 1, 5), exchange="XHKG")
    assert [show(ms)[-5:] for ms in found.open_ms[:2]] == ["01:30", "05:00"]
    assert [show(ms)[-5:] for ms in found.close_ms[:2]] == ["04:00", "08:00"]
    assert found.ends_session.tolist() == [False, True, False, True]


@LIBRARY_WARNS
def test_an_unknown_exchange_is_named_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"calendar\.exchange is 'NOWHERE'; give hours, or one of .*XNYS"):
        list_sessions(date(2024, 1, 1), date(2024, 1, 9), exchange="NOWHERE")


def test_without_the_library_a_code_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "exchange_calendars", None)
    with pytest.raises(ValueError, match=r"exchange is 'XNYS'.*pip install -c .ci/constraints.txt -e '.\[calendars\]'"):
        list_sessions(date(2024, 1, 1), date(2024, 1, 9), exchange="XNYS")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timezone": "America/Nowhere"}, r"timezone is 'America/Nowhere'; give a name"),
        ({"timezone": "America"}, r"timezone is 'America'; give a name"),
        ({"early_closes": {"2024-01-09": "09:00"}}, "as that from 2024-01-09T14:30:00Z to 2024-01-09T14:00:00Z"),
        ({"early_closes": {"2024-01-09": "18:00"}}, r"2024-01-09 \(18:00\) is not before the usual close, 16:00"),
        ({"early_closes": {"2024-01-06": "13:00"}}, r"2024-01-06 \(13:00\) is of a date without a session"),
        ({"early_closes": {"2024-01-15": "13:00"}}, r"2024-01-15 \(13:00\) is of a date without a session"),
    ],
)
def test_hours_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        list_sessions(date(2024, 1, 8), date(2024, 1, 12), exchange=NEW_YORK | change)


def test_the_last_bar_of_an_interval_may_be_cut_short_by_the_close():
    opens = list_sessions(date(2024, 1, 8), date(2024, 1, 9), exchange=NEW_YORK)
    hourly = list_bar_opens(opens, bar_ms=HOUR)
    assert [show(ms)[-5:] for ms in hourly[:7]] == [f"{hour}:30" for hour in range(14, 21)]
    assert len(hourly) == 14


def test_every_bar_of_the_sessions_is_numbered_and_no_other():
    opens = list_sessions(date(2024, 7, 2), date(2024, 7, 5), exchange=NEW_YORK)
    time = list_bar_opens(opens, bar_ms=MINUTE)
    number, ends = number_bars(time, opens, bar_ms=MINUTE)
    assert number.tolist() == list(range(390 + 210 + 390))
    assert np.flatnonzero(ends).tolist() == [389, 599, 989]
    outside = np.array([to_ms("2024-07-02T13:29"), to_ms("2024-07-02T20:00"), time[0] + 1, to_ms("2024-07-06T14:00")])
    assert number_bars(outside, opens, bar_ms=MINUTE)[0].tolist() == [OUTSIDE] * 4
    assert not number_bars(outside, opens, bar_ms=MINUTE)[1].any()


def test_a_year_has_the_bars_of_its_sessions_wherever_the_table_lies_in_it():
    bars_2024 = 249 * 390 + 3 * 210  # 252 sessions, three of which close early
    for first, last in (("2024-02-01", "2024-02-02"), ("2024-01-02", "2024-12-31")):
        sessions = list_years(to_ms(first), to_ms(last), exchange=NEW_YORK)
        found = count_bars_per_year(to_ms(first), to_ms(last), sessions, bar_ms=MINUTE)
        assert found == pytest.approx(bars_2024 * 365 / 366)


def test_segments_continue_over_closings_or_restart_after_them():
    assert clean_days(3, **HOLD)["segment"].tolist() == [0] * 9
    assert clean_days(3, **RESTART)["segment"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_bar_that_is_missing_inside_a_session_is_a_hole():
    table = clean_days(3, drop=(4,), **HOLD)
    assert table["segment"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    (gap,) = bars.find_gaps(table)
    assert gap["missing_bars"] == 1
    assert (show(gap["after_ms"]), show(gap["before_ms"])) == ("2024-01-09 12:00", "2024-01-09 12:02")


def test_a_session_without_bars_is_a_hole_of_its_bars_and_a_weekend_is_none():
    raw = make_klines(list_opens("2024-01-08", "2024-01-17", THREE_BARS)).drop(index=[3, 4, 5])
    table, report = ingest.clean(raw, exchange=THREE_BARS, **HOLD)
    assert report["missing_bars"] == 3
    assert report["gaps"]["count"] == 1
    assert table["segment"].tolist() == [0] * 3 + [1] * 18
    assert report["sessions"]["symbols"] == {
        "AAA": {"sessions": 8, "without_bars": 1, "without_first_bar": 1, "without_last_trade": 1}
    }


def test_symbols_of_one_calendar_share_the_numbers_of_bars():
    time = list_opens("2024-01-08", "2024-01-09", THREE_BARS)
    raw = pd.concat([make_klines(time), make_klines(time[1:], symbol="BBB")])
    table = ingest.clean(raw, exchange=THREE_BARS, **HOLD)[0]
    assert table["segment"].tolist() == [0] * 6 + [1] * 5
    of_first, of_second = (table.loc[table["symbol"] == name, "bar_number"].tolist() for name in ("AAA", "BBB"))
    assert of_first[1:] == of_second


@pytest.mark.parametrize("minutes", [45, 120, 195, 240, 1440])
def test_the_grid_of_a_calendar_begins_at_each_open_whatever_the_season_and_the_length(minutes):
    sessions = list_sessions(date(2024, 3, 4), date(2024, 3, 15), exchange=NEW_YORK)  # daylight saving begins
    time = list_bar_opens(sessions, bar_ms=minutes * MINUTE)
    raw = make_klines(time)
    raw["close_time"] = time + minutes * MINUTE - 1
    table, report = ingest.clean(raw, exchange=NEW_YORK, **HOLD)
    assert len(table) == 10 * -(-390 // minutes)
    assert (report["interval_ms"], report["segments"], report["missing_bars"]) == (minutes * MINUTE, 1, 0)


def test_a_bar_off_the_grid_of_its_session_is_refused_or_dropped():
    time = list_opens("2024-03-08", "2024-03-11", NEW_YORK)
    raw = make_klines(time)
    raw.loc[400, ["open_time", "close_time"]] += 30_000
    with pytest.raises(ValueError, match=r"off the bar grid: 1 row\(s\).*calendar.off_grid=drop"):
        ingest.clean(raw, exchange=NEW_YORK, **HOLD)
    _, report = ingest.clean(raw, exchange=NEW_YORK, **HOLD | {"off_grid": "drop"})
    assert (report["rows"], report["missing_bars"], report["off_grid"]["count"]) == (779, 1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda time: time + MINUTE, "stamped by their close: subtract 60000 ms from open_time; to remove some would"),
        (lambda time: time - 5 * HOUR, "local ones of America/New_York: set sources.file.timezone=America/New_York"),
        (lambda time: time + MINUTE - 5 * HOUR, "set sources.file.timezone=America/New_York; and by their close"),
        (lambda time: time - 90 * MINUTE, "Set calendar.exchange to hours that contain them"),
    ],
)
def test_times_that_fit_the_sessions_when_read_otherwise_are_refused_with_that_reading(change, message):
    time = change(list_opens("2024-01-08", "2024-01-10", NEW_YORK))
    with pytest.raises(ValueError, match=re.escape(message)):
        ingest.clean(make_klines(time), exchange=NEW_YORK, **HOLD)


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_bars_of_days_that_open_at_midnight_are_refused_with_the_hours_to_set(zone):
    days = pd.bdate_range("2024-03-04", "2024-03-15", tz=zone).tz_convert("UTC").tz_localize(None)
    raw = make_klines(days.as_unit("ms").asi8)
    with pytest.raises(ValueError, match=rf'timezone: {zone}, open: "00:00", close: "24:00"'):
        ingest.clean(raw, exchange=NEW_YORK, **HOLD)
    hours = NEW_YORK | {"timezone": zone, "open": "00:00", "close": "24:00", "early_closes": {}}
    assert ingest.clean(raw, exchange=hours, **HOLD)[1]["segments"] == 1


def test_sessions_that_lack_their_first_bar_are_a_warning(caplog):
    time = list_opens("2024-01-08", "2024-01-12", THREE_BARS)
    raw = make_klines(time).drop(index=np.arange(0, len(time), 3))
    ingest.clean(raw, exchange=THREE_BARS, **HOLD)
    assert "4 of 5 sessions of AAA lack their first bar: bars are perhaps stamped by their close" in caplog.text
    assert "4 bars are missing, in 4 gap(s) beside 10 bars" in caplog.text


def test_bars_outside_of_the_sessions_are_refused_with_their_count_and_what_to_set():
    time = np.append(
        list_opens("2024-01-08", "2024-01-09", THREE_BARS), to_ms("2024-01-09T12:03") + MINUTE * np.arange(2)
    )
    with pytest.raises(ValueError, match=r"2 of 8 bars open outside.*2024-01-09 12:03:00 UTC.*Set calendar\.exchange"):
        ingest.clean(make_klines(time), exchange=THREE_BARS, **HOLD)


def test_without_a_calendar_the_clean_table_and_its_report_are_those_of_bars():
    raw = make_klines(list_opens("2024-01-08", "2024-01-09", THREE_BARS))
    table, report = ingest.clean(raw, exchange=None, **HOLD)
    expected, described = bars.clean(raw)
    pd.testing.assert_frame_equal(table, expected)
    del report["synthetic"], report["jumps_across_gaps"], report["unusual_moves"]
    assert report == described
    with pytest.raises(ValueError, match="exchange is null, a market that never closes"):
        ingest.clean(raw, exchange=None, **CLOSE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exchange": 5}, r"exchange is 5"),
        ({"exchange": NEW_YORK | {"open": "9:30"}}, r"open is '9:30'"),
        ({"exchange": NEW_YORK | {"weekdays": [7]}}, r"weekdays.* is 7"),
        ({"exchange": NEW_YORK | {"closes": "16:00"}}, r"unknown key 'closes'"),
        ({"positions": "sell"}, r"positions is 'sell'; it must be 'hold' or 'close'"),
    ],
)
def test_a_wrong_calendar_is_named_by_its_key(change, message):
    block = {"exchange": None, "features": "continue", "positions": "hold"} | change
    with pytest.raises(ParamsError, match=message):
        config.call_with(closings.make_calendar, block=block, name="datasets.klines.calendar")


def test_the_bars_of_a_year_come_from_the_calendar_and_the_days_from_the_bars():
    sessions = list_sessions(date(2024, 1, 1), date(2024, 1, 31), exchange=NEW_YORK)
    time = list_bar_opens(sessions, bar_ms=MINUTE)
    table = ingest.clean(make_klines(time), exchange=NEW_YORK, **HOLD)[0]
    year = clock.count_rows_per_year(table)
    assert year == pytest.approx((249 * 390 + 3 * 210) * 365 / 366)
    assert count_days_per_year(time, bars_per_year=year) == pytest.approx(year / 390)
    assert len(aggregate_days(time, np.full(len(time), 1e-4))[0]) == 21  # the weekends and holidays are no days
    with pytest.raises(ValueError, match="no attribute bars_per_year"):
        clock.count_rows_per_year(pd.DataFrame(dict(table)))


def test_what_is_held_earns_the_move_over_a_closing_and_pays_interest_for_its_time():
    table, opened = clean_days(2, **HOLD), clean_days(2, **HOLD)["open"].to_numpy()
    found = find_fills(table, delay_bars=0)
    assert found.outcome.tolist() == [FILLS] * 5 + [CLOSES]
    assert not found.crosses_gap.any()
    assert found.move[1] == pytest.approx(
        opened[3] / opened[2] - 1
    )  # from the last open of a day to the next one's first
    assert found.years[1] * fills.YEAR_MS == pytest.approx(DAY - 2 * MINUTE)
    terms = trading.make_terms(fee_bps=0, slippage_bps=0, borrow_rate=0.1)
    result = trading.trade(np.full(6, -1.0), found, terms)
    assert result.interest[1] == pytest.approx(0.1 * found.years[1] * -result.position[1])


def test_the_order_at_the_open_of_a_sessions_last_bar_closes_so_that_nothing_is_held_overnight():
    table, opened = clean_days(2, **CLOSE), clean_days(2, **CLOSE)["open"].to_numpy()
    found = find_fills(table, delay_bars=0)
    assert found.outcome.tolist() == [FILLS, CLOSES, FILLS, FILLS, CLOSES, CLOSES]
    result = trading.trade(np.ones(6), found, trading.make_terms(fee_bps=10, slippage_bps=0))
    assert result.position.tolist() == [1, 0, 1, 1, 0, 0]
    assert result.gross[:3] == pytest.approx([opened[2] / opened[1] - 1, 0, opened[4] / opened[3] - 1])
    assert result.cost[1] == pytest.approx(10e-4, rel=1e-2)


def test_with_a_delay_the_order_that_reaches_the_last_bar_closes():
    assert find_fills(clean_days(2, **CLOSE), delay_bars=1).outcome.tolist() == [
        CLOSES,
        FILLS,
        FILLS,
        CLOSES,
        WAITS,
        CLOSES,
    ]


def test_a_last_bar_that_does_not_trade_leaves_what_is_held_over_the_closing():
    raw = make_klines(list_opens("2024-01-08", "2024-01-09", THREE_BARS))
    amounts = ["volume", "quote_volume", "trades", "taker_buy_base", "taker_buy_quote"]
    raw.loc[2, amounts] = 0
    table, report = ingest.clean(raw, exchange=THREE_BARS, **CLOSE)
    assert find_fills(table, delay_bars=0).outcome.tolist()[:3] == [FILLS, WAITS, FILLS]
    assert report["sessions"]["symbols"]["AAA"]["without_last_trade"] == 1


def test_where_segments_restart_a_closing_is_still_no_gap_for_a_position():
    held, restarted = (find_fills(clean_days(3, **calendar), delay_bars=0) for calendar in (HOLD, RESTART))
    for name in ("move", "years", "outcome", "crosses_gap", "lag", "mark"):
        assert getattr(held, name).tolist() == getattr(restarted, name).tolist()


def test_a_hole_inside_a_session_is_a_gap_for_a_position():
    found = find_fills(clean_days(2, drop=(1,), **HOLD), delay_bars=0)
    assert found.crosses_gap.tolist() == [True, False, False, False, False]
    assert found.outcome.tolist() == [CLOSES if i in (1, 4) else WAITS if i == 0 else FILLS for i in range(5)]


def test_a_label_that_spans_a_closing_at_which_positions_close_is_lost():
    held, closed = (
        labels.make_labels(clean_days(4, **calendar), {"kind": "direction", "horizon": 1}) for calendar in (HOLD, CLOSE)
    )
    assert held.table["row"].tolist() == list(range(11))
    assert held.lost == {"label_horizon": 1, "closing": 0}
    assert closed.table["row"].tolist() == [0, 1, 3, 4, 6, 7, 9, 10]  # 2, 5 and 8 end in the next session
    assert closed.lost == {"label_horizon": 1, "closing": 3}


def test_the_label_of_a_position_is_lost_where_its_own_move_spans_the_closing():
    block = {"kind": "position", "volatility_window": 2}
    made = labels.make_labels(clean_days(4, **CLOSE), block)
    # row 4 (the second bar of a day) fills at row 5, which closes; row 5 fills at the next day's first bar, row 6
    assert made.table["row"].tolist() == [2, 3, 5, 6, 8, 9]
    assert made.lost["closing"] == 2
    assert made.lost["label_horizon"] == 2


def test_the_split_counts_the_rows_lost_at_closings():
    clean = clean_days(4, **CLOSE)
    rows = pd.DataFrame({"segment": clean["segment"], "time": clean["open_time"], "is_labeled": True})
    rows.loc[[1, 2, 4, 5, 9, 10, 11], "is_labeled"] = False  # row 4 is followed by no label of its session but row 3 is
    rows.loc[6, "is_labeled"] = False
    counts = split.count_unlabeled(rows, split.find_closings(clean, time="open_time"))
    assert counts == {"label_horizon": 3, "closing": 4, "volatility_too_low": 1}
    without = split.count_unlabeled(rows)
    assert without == {"label_horizon": 3, "volatility_too_low": 5}


def divide_days(days: int, **embargo: float) -> tuple[pd.DataFrame, Folds]:
    """Return the rows of days of three bars, with labels of one bar, and their folds."""
    clean = clean_days(days, **HOLD)
    time = clean["open_time"].to_numpy()
    spans = {"time": time, "label_end": np.append(time[1:], time[-1]), "is_labeled": True, "segment": clean["segment"]}
    rows = split.remove_closings(pd.DataFrame(spans), clean, number_times=clock.number_times)
    block = {"method": "purged_kfold", "groups": 2, "test_groups": 1, "train_groups": 1, "holdout_pct": 0.0}
    block, reason = split.choose_embargo({**block, **embargo}, rows, warm_up_bars=2, unit="ms", words=WORDS)
    return rows, split.divide(rows, block, reason=reason, is_automatic=not embargo, words=WORDS)


@pytest.mark.parametrize(("embargo", "bars"), [({"embargo_bars": 4}, 4), ({"embargo_hours": 0.1}, 6), ({}, 3)])
def test_closed_hours_use_up_no_embargo(embargo, bars):
    rows, folds = divide_days(8, **embargo)
    assert folds.embargo_bars == bars  # without a key: a warm-up of two bars and a label of one
    assert folds.train(0)[0] == 13 + bars  # the first group has the bars 0 to 11, its last label ends at bar 12
    assert folds.split_validation(np.arange(24), 0.25)[0][-1] == 16 - bars  # valid from bar 18 on
    assert rows["time"].to_numpy()[12] - rows["time"].to_numpy()[11] > 6 * MINUTE


def test_the_report_of_a_market_with_sessions_has_instants_though_folds_have_none():
    rows, folds = divide_days(8, embargo_bars=0)
    groups = split.summarize_groups(folds, [], rows=rows)["groups"]
    time = rows["time"].to_numpy()
    assert [(group["first_ms"], group["last_ms"]) for group in groups] == [(time[0], time[11]), (time[12], time[23])]


def test_folds_of_a_market_with_sessions_are_read_as_they_were_made(tmp_path):
    rows, folds = divide_days(8, embargo_bars=4)
    folds.save(tmp_path / "folds.parquet", rows)
    loaded, table = Folds.load(tmp_path / "folds.parquet")
    assert loaded.train(0).tolist() == folds.train(0).tolist()
    assert table["time"].tolist() == rows["time"].tolist()
    loaded.save(tmp_path / "again.parquet", table)
    assert Folds.load(tmp_path / "again.parquet")[0].train(1).tolist() == folds.train(1).tolist()


def test_an_automatic_embargo_that_leaves_no_holdout_is_named_as_automatic():
    rows, _ = divide_days(8)
    block = {"method": "purged_kfold", "groups": 2, "test_groups": 1, "train_groups": 1, "holdout_pct": 0.1}
    block |= {"embargo_bars": 3}
    with pytest.raises(
        ValueError, match=r"cover the whole holdout.*the automatic one \(the longest.*: set split.embargo"
    ):
        split.divide(rows, block, reason="the longest warm-up", is_automatic=True, words=WORDS)


def test_the_grid_of_a_backtest_has_no_row_while_the_market_is_closed():
    table = clean_days(2, **HOLD)
    grid = make_grid(
        table, find_fills, time_column="open_time", symbols=["AAA"], delay_bars=0, bar_ms=clock.find_step(table)
    )
    assert grid.time.tolist() == table["open_time"].tolist()


def test_canaries_are_planted_in_the_same_bars_on_a_grid_without_closings():
    table = clean_days(3, drop=(4,), **CLOSE)
    moved = remove_closings(table)
    minutes = (moved["open_time"] - moved["open_time"].iloc[0]) // MINUTE
    assert minutes.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert moved["segment"].tolist() == table["segment"].tolist()
    assert moved["close"].tolist() == table["close"].tolist()
    assert bars.find_failed_checks(moved.drop(columns="segment")) == []


def test_the_move_over_a_closing_is_no_part_of_the_spread():
    time = list_opens("2024-01-08", "2024-01-12", NEW_YORK)
    raw = make_klines(time)
    close = np.where(np.arange(len(time)) // 390 % 2 == 0, 100.0, 110.0)  # 10 % from day to day
    opened = close * (1 + 1e-4 * np.where(np.arange(len(time)) % 2, 1, -1))  # a bounce of 1 bp on either side
    high, low = np.maximum(opened, close), np.minimum(opened, close)
    amounts = {"quote_volume": close * raw["volume"], "taker_buy_quote": close * raw["taker_buy_base"]}
    prices = {**amounts, "open": opened, "close": close, "high": high, "low": low}
    table = ingest.clean(raw.assign(**prices), exchange=NEW_YORK, **HOLD)[0]
    assert measure_liquidity(table)["bounce_bps"].tolist() == pytest.approx([2.0], rel=1e-3)


def test_the_fills_of_agents_know_closings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = clean_days(2, **CLOSE)
    artifacts.write_table(artifacts.CLEAN / "klines.parquet", table)
    rows = pd.DataFrame({"segment": table["segment"], "time": table["open_time"]})
    found = read_fills({"trading": PARAMS["trading"]}, "klines", rows)
    assert found.outcome.tolist() == find_fills(table, delay_bars=0).outcome.tolist()
    assert CLOSES in found.outcome[:-1]
