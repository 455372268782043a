"""The rules for bars: malformed tables are refused by name, a bar and a row of a table by the same function."""

import numpy as np
import pandas as pd
import pytest

from pipeline.datasets.klines import ingest
from pipeline.features import chunks
from pipeline.market import bars, checks
from tests.test_bars import MINUTE, NOON, make_klines

ALL_PRICES = ("open", "high", "low", "close", "quote_volume", "taker_buy_quote")
ROW = 3


def change(**values: object) -> pd.DataFrame:
    """Return eight valid bars of which one has other values."""
    table = make_klines(list(range(8)))
    for name, value in values.items():
        table[name] = table[name].astype(object)
        table.loc[ROW, name] = value
        table[name] = table[name].astype(bars.SCHEMA[name])
    return table


def scale_from(row: int, factor: float) -> pd.DataFrame:
    table = make_klines(list(range(8)))
    table.loc[row:, list(ALL_PRICES)] *= factor
    return table


def name_symbols(*names: str) -> pd.DataFrame:
    return pd.concat([make_klines([0, 1, 2], symbol=name) for name in names], ignore_index=True)


def move(shift_ms: int) -> pd.DataFrame:
    """Return eight valid bars whose times are later."""
    table = make_klines(list(range(8)))
    return table.assign(open_time=table["open_time"] + shift_ms, close_time=table["close_time"] + shift_ms)


TIME = NOON + ROW * MINUTE
NO_LENGTH = "close_time equals open_time in every bar"
IDLE = make_klines(list(range(8))).assign(**dict.fromkeys(checks.AMOUNTS, 0)).astype({"volume": "float64"})
MALFORMED = [  # class of fault, table, name of the one rule that it breaks, number of rows
    ("not finite", change(close=np.nan), "close is missing or not finite", 1),
    ("not finite", change(volume=np.inf), "volume is missing or not finite", 1),
    ("not finite", change(taker_buy_quote=-np.inf), "taker_buy_quote is missing or not finite", 1),
    ("price", change(low=0.0), "price not above zero", 1),
    ("price", change(open=-10.0), "price not above zero", 1),
    ("plausible price", change(high=1e300), "price outside 1e-12 to 1e12", 1),
    ("plausible price", change(low=5e-324), "price outside 1e-12 to 1e12", 1),
    ("amount", change(volume=-1.0), "negative volume or trades", 1),
    ("plausible amount", change(volume=1e300), "amount outside 1e-24 to 1e18", 1),
    ("plausible amount", change(taker_buy_base=5e-324), "amount outside 1e-24 to 1e18", 1),
    ("high and low", change(high=10.5), "high and low do not bound open and close", 1),
    ("high and low", change(low=11.5), "high and low do not bound open and close", 1),
    ("takers", change(taker_buy_base=4.1), "taker_buy_base above volume", 1),
    ("takers", change(taker_buy_quote=40.1), "taker_buy_quote above quote_volume", 1),
    ("trades", change(trades=0), "volume without trades", 1),
    (
        "trades",
        change(volume=0.0, quote_volume=0.0, taker_buy_base=0.0, taker_buy_quote=0.0),
        "trades without volume",
        1,
    ),
    ("quote volume", change(quote_volume=0.0, taker_buy_quote=0.0), "volume without quote_volume", 1),
    ("quote volume", change(quote_volume=50.0), "quote_volume outside low and high times volume", 1),
    ("quote volume", change(quote_volume=30.0), "quote_volume outside low and high times volume", 1),
    ("jump", scale_from(4, 1000.0), "price jumps by more than a factor 20 from the bar before", 1),
    ("jump", scale_from(4, 0.01), "price jumps by more than a factor 20 from the bar before", 1),
    ("unit", change(open_time=TIME // 1000), "open_time in seconds", 1),
    ("unit", change(open_time=TIME // 60_000), "open_time in minutes", 1),
    ("unit", change(open_time=TIME // 86_400_000), "open_time in days", 1),
    ("unit", change(open_time=TIME * 1000), "open_time in microseconds", 1),
    ("unit", change(close_time=TIME * 10**6), "close_time in nanoseconds", 1),
    ("unit", change(open_time=20_240_101), "open_time in digits of a date (YYYYMMDD)", 1),
    ("years", change(open_time=0), "open_time outside the years 1990 to 2100", 1),
    ("years", change(close_time=10**13), "close_time outside the years 1990 to 2100", 1),
    ("order", change(open_time=TIME - 4 * MINUTE), "open_time not ascending", 1),
    ("order", change(open_time=TIME - MINUTE), "duplicate symbol and open_time", 1),
    ("order", change(close_time=TIME - 1), "close_time before open_time", 1),
    ("grid", change(open_time=TIME + 500), "open_time off the bar grid", 1),
    ("grid", change(close_time=TIME + 5 * MINUTE - 1), "bar longer than the interval", 1),
    ("grid", move(MINUTE - 1), "open_time is the last instant of an interval", 8),
    ("grid", move(MINUTE - 1000), "open_time is the last instant of an interval", 8),
    ("length", make_klines(list(range(8))).assign(close_time=NOON + MINUTE * np.arange(8)), NO_LENGTH, 8),
    ("volume", pd.concat([make_klines([0, 1]), IDLE.assign(symbol="X")]), "volume is 0 in every bar of a symbol", 8),
    ("symbol", name_symbols("BTCUSDT", "btcusdt"), "symbols differ only by case or blanks", 6),
    ("symbol", name_symbols("BTCUSDT "), "symbol has blanks around it", 3),
    ("symbol", name_symbols(" "), "symbol is missing or not finite", 3),
]


@pytest.mark.parametrize(("fault", "table", "name", "count"), MALFORMED)
def test_a_malformed_table_breaks_one_rule_that_is_named_with_its_rows(fault, table, name, count):
    failed = bars.find_failed_checks(table)
    assert [(record["name"], record["count"]) for record in failed] == [(name, count)]
    with pytest.raises(ValueError, match="1 check"):
        bars.clean(table)


def test_the_malformed_tables_are_of_many_classes():
    assert len(MALFORMED) >= 25
    assert len({fault for fault, *_ in MALFORMED}) >= 12


def test_a_jump_across_missing_bars_is_a_warning_that_the_report_has(caplog):
    table = scale_from(4, 1000.0)
    table.loc[4:, ["open_time", "close_time"]] += 60 * MINUTE
    _, report = ingest.clean(table, exchange=None, features="continue", positions="hold", off_grid="refuse")
    assert report["jumps_across_gaps"]["count"] == 1
    assert report["jumps_across_gaps"]["list"][0]["row"] == 5
    assert "the price jumps across 1 gap(s)" in caplog.text


def test_a_move_by_a_factor_of_twenty_five_within_a_bar_is_no_jump():
    table = make_klines(list(range(8)))
    table.loc[4:, ["open", "high", "low", "close"]] *= 25
    table.loc[4:, ["quote_volume", "taker_buy_quote"]] *= 25
    table.loc[4, ["open", "low"]] = 11.0
    assert bars.find_failed_checks(table) == []


@pytest.mark.parametrize("absent", [["trades"], ["quote_volume"], list(bars.OPTIONAL)])
def test_a_table_may_lack_optional_columns(absent):
    table, report = bars.clean(make_klines(list(range(8))).drop(columns=absent))
    assert [name for name in bars.COLUMNS if name not in table] == [name for name in bars.COLUMNS if name in absent]
    assert not {rule.name for rule in checks.RULES if set(rule.columns) == set(absent)} & set(report["failed_rows"])


def test_amounts_rounded_to_two_digits_are_accepted():
    assert bars.find_failed_checks(change(volume=0.10, quote_volume=1.205, taker_buy_base=0, taker_buy_quote=0)) == []


def test_fields_of_features_lead_those_of_the_rules():
    assert checks.FIELDS[: len(chunks.FIELDS)] == chunks.FIELDS


def test_every_rule_has_one_bit_and_the_mask_of_all_fields_is_full():
    assert len(set(checks.NAMES)) == len(checks.RULES) == checks.JUMP + 1 < 63
    assert checks.mask_rules([]) == (1 << len(checks.RULES)) - 1


@pytest.mark.parametrize("block_bars", [2, 3, 5, 9, 10, 11])
def test_bars_break_the_same_rules_wherever_a_block_of_them_ends(monkeypatch, block_bars):
    table = make_klines(list(range(20)))
    for row in (4, 5, 9, 10, 18):
        table.loc[row:, list(ALL_PRICES)] *= 30.0  # a jump at each of them
    table.loc[7, "volume"] = -1.0
    columns = {name: table[name].to_numpy() for name in checks.FIELDS}
    whole = checks.check_columns(columns)
    assert np.flatnonzero(whole >> checks.JUMP & 1).tolist() == [4, 5, 9, 10, 18]
    monkeypatch.setattr(checks, "BLOCK_BARS", block_bars)
    np.testing.assert_array_equal(checks.check_columns(columns), whole)


def test_a_fault_of_bars_without_optional_columns_is_listed_with_those_that_they_have():
    table = change(volume=-1.0).drop(columns=list(bars.OPTIONAL))
    (failed,) = bars.find_failed_checks(table)
    assert failed["first_rows"] == [{"row": ROW + 1, "symbol": "BTCUSDT", "open_time": TIME, "volume": -1.0}]


def test_a_missing_value_of_an_optional_column_may_be_remedied_by_removing_the_column():
    remedies = {
        name: bars.find_failed_checks(change(**{name: np.nan}))[0]["remedy"] for name in ("open", "quote_volume")
    }
    assert remedies == {
        "open": "drop or restore these rows",
        "quote_volume": "drop or restore these rows, or remove the column",
    }


def test_a_clock_that_goes_back_by_an_hour_is_named_as_that_of_a_time_zone():
    minutes = [*range(120), *range(60, 180)]  # 01:00 to 01:59 stand twice
    unsorted, duplicate = bars.find_failed_checks(make_klines(minutes))
    assert (unsorted["count"], duplicate["count"]) == (1, 60)
    assert unsorted["remedy"] == duplicate["remedy"]
    assert "60 bars stand twice, all of them real: set sources.file.timezone" in unsorted["remedy"]


def test_many_bars_off_the_grid_are_not_to_be_dropped():
    months = pd.date_range("2000-01-01", periods=36, freq="MS").as_unit("ms").asi8
    table = make_klines(list(range(36))).assign(open_time=months, close_time=months + 27 * 24 * 60 * MINUTE)
    (failed,) = bars.find_failed_checks(table)
    assert failed["name"] == "open_time off the bar grid"
    assert f"{failed['count'] / 36:.0%} of the bars do, too many to drop" in failed["remedy"]
    assert "off_grid=drop" not in failed["remedy"]
