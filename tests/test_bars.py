import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.market import bars

DATA = Path(__file__).parents[1].parent / "shared" / "data"
MINUTE = 60_000
NOON = 1_704_110_400_000  # 2024-01-01 12:00 UTC


def make_klines(minutes: list[int], *, symbol: str = "BTCUSDT") -> pd.DataFrame:
    """Return valid bars that open at these minutes."""
    time = NOON + np.array(minutes, dtype=np.int64) * MINUTE
    bar = {"open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 4.0, "close_time": time + MINUTE - 1}
    amounts = {"quote_volume": 40.0, "trades": 3, "taker_buy_base": 1.0, "taker_buy_quote": 10.0}
    return pd.DataFrame({"symbol": symbol, "open_time": time, **bar, **amounts})


def make_klines_with(column: str, value: object, *, row: int = 3) -> pd.DataFrame:
    table = make_klines(list(range(8)))
    table.loc[row, column] = value
    return table


def read_real(name: str) -> pd.DataFrame:
    file = DATA / name
    if not file.is_file():
        pytest.skip(f"{file} does not exist")
    table = pd.read_parquet(file)
    table.insert(0, "symbol", name.split("_")[0])
    return table


def list_failures(table: pd.DataFrame) -> list[tuple[str, int]]:
    return [(record["name"], record["count"]) for record in bars.find_failed_checks(table)]


def test_interval_is_the_most_common_step_within_a_symbol():
    both = pd.concat([make_klines([0, 1, 2, 7, 8]), make_klines([0, 5, 6], symbol="ETHUSDT")])
    assert bars.find_interval_ms(both) == MINUTE


def test_interval_of_single_bars_is_refused():
    with pytest.raises(ValueError, match="no symbol has two consecutive bars"):
        bars.find_interval_ms(pd.concat([make_klines([0]), make_klines([1], symbol="ETHUSDT")]))


def test_segments_begin_at_a_new_symbol_and_after_a_gap():
    both = pd.concat([make_klines([0, 1, 2, 4, 5]), make_klines([6, 7], symbol="ETHUSDT")])
    assert bars.number_segments(both).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert bars.number_segments(both).dtype == np.int32


def test_segments_of_a_table_without_a_symbol_column_depend_on_time_alone():
    table = make_klines([0, 1, 3, 4]).drop(columns="symbol")
    assert bars.number_segments(table).tolist() == [0, 0, 1, 1]


def test_a_gap_is_reported_with_the_bars_around_it_and_its_missing_bars():
    both = pd.concat([make_klines([0, 1, 2, 6]), make_klines([7, 8], symbol="ETHUSDT")])
    assert bars.find_gaps(both) == [
        {"symbol": "BTCUSDT", "after_ms": NOON + 2 * MINUTE, "before_ms": NOON + 6 * MINUTE, "missing_bars": 3}
    ]


def test_a_valid_table_fails_no_check():
    assert bars.find_failed_checks(make_klines(list(range(8)))) == []


@pytest.mark.parametrize(
    ("column", "value", "name"),
    [
        ("close", np.nan, "close is missing or not finite"),
        ("volume", np.inf, "volume is missing or not finite"),
        ("symbol", None, "symbol is missing or not finite"),
        ("symbol", "", "symbol is missing or not finite"),
        ("high", 10.5, "high and low do not bound open and close"),
        ("low", 10.5, "high and low do not bound open and close"),
        ("low", 0.0, "price not above zero"),
        ("trades", -1, "negative volume or trades"),
        ("taker_buy_quote", -1.0, "negative volume or trades"),
        ("taker_buy_base", 4.1, "taker_buy_base above volume"),
        ("taker_buy_quote", 40.1, "taker_buy_quote above quote_volume"),
        ("open_time", NOON + 3 * MINUTE + 500, "open_time off the bar grid"),
        ("open_time", NOON + 2 * MINUTE, "duplicate symbol and open_time"),
        ("open_time", NOON - MINUTE, "open_time not ascending"),
        ("close_time", NOON + 3 * MINUTE - 1, "close_time before open_time"),
        ("open_time", NOON // 1000, "open_time in seconds"),
        ("open_time", NOON * 1000, "open_time in microseconds"),
        ("close_time", NOON * 10**6, "close_time in nanoseconds"),
    ],
)
def test_one_wrong_value_fails_one_check_that_lists_its_row(column, value, name):
    failed = bars.find_failed_checks(make_klines_with(column, value))
    assert [(record["name"], record["count"]) for record in failed] == [(name, 1)]
    assert [row["row"] for row in failed[0]["first_rows"]] == [4]
    json.dumps(failed, allow_nan=False)


def test_a_missing_column_and_a_wrong_type_fail():
    table = make_klines([0, 1]).drop(columns="volume").astype({"open": "float32", "close_time": "float64"})
    assert [name for name, _ in list_failures(table)] == [
        "open has type float32",
        "missing column volume",
        "close_time has type float64",
    ]


def test_a_table_without_rows_fails():
    assert list_failures(make_klines([0]).iloc[:0]) == [("no rows", 0)]


def test_a_taker_amount_may_exceed_its_total_by_a_rounding_error():
    assert bars.find_failed_checks(make_klines_with("taker_buy_quote", 40.0 * (1 + 5e-10))) == []


def test_a_symbol_of_another_interval_fails():
    both = pd.concat([make_klines([0, 1, 2, 3, 4]), make_klines([0, 5, 10], symbol="ETHUSDT")])
    assert list_failures(both) == [("bars of another interval", 3)]


def test_bars_may_open_off_the_whole_minute_if_all_do():
    table = make_klines(list(range(8)))
    table[["open_time", "close_time"]] += 500
    assert bars.find_failed_checks(table) == []


def test_clean_lists_every_failed_check_in_one_message():
    table = make_klines_with("close", np.nan)
    table.loc[5, "trades"] = -1
    with pytest.raises(ValueError, match="2 check") as caught:
        bars.clean(table)
    message = str(caught.value)
    assert "close is missing or not finite: 1 row(s)" in message
    time = f"open_time={NOON + 5 * MINUTE} (2024-01-01T12:05:00Z)"
    assert f"row=6, symbol=BTCUSDT, {time}, volume=4.0, quote_volume=40.0, trades=-1" in message


def test_failures_list_rows_by_their_position_in_the_input_table():
    both = pd.concat([make_klines(list(range(4))), make_klines(list(range(4)), symbol="ADAUSDT")], ignore_index=True)
    both = both.sort_values("open_time", kind="stable")
    both["low"] = np.where(np.arange(8) == 5, 0.0, both["low"])
    assert bars.find_failed_checks(both)[0]["first_rows"][0]["row"] == 6


def test_interleaved_and_stacked_symbols_give_the_same_clean_table():
    stacked = pd.concat([make_klines([0, 1, 2, 5]), make_klines([0, 1, 2, 3], symbol="ADAUSDT")], ignore_index=True)
    interleaved = stacked.sort_values("open_time", kind="stable")
    table, report = bars.clean(stacked)
    pd.testing.assert_frame_equal(table, bars.clean(interleaved)[0])
    assert report == bars.clean(interleaved)[1]
    assert table["symbol"].tolist() == ["ADAUSDT"] * 4 + ["BTCUSDT"] * 4
    assert table["segment"].tolist() == [0, 0, 0, 0, 1, 1, 1, 2]


def test_clean_keeps_the_schema_and_nothing_else():
    table, _ = bars.clean(make_klines([0, 1, 2]).assign(ignore=0, open=10))
    assert table.dtypes.astype(str).to_dict() == {**bars.SCHEMA, "segment": "int32"}


def test_the_report_counts_what_is_unusual_but_legitimate():
    table = make_klines([0, 1, 2, 6, 7])
    table.loc[1, bars.AMOUNTS] = 0
    table.loc[2, "close_time"] -= 1000
    _, report = bars.clean(table)
    failed_rows = report.pop("failed_rows")
    assert {"schema", "high and low do not bound open and close", "duplicate symbol and open_time"} <= set(failed_rows)
    assert set(failed_rows.values()) == {0}
    assert json.loads(json.dumps(report, allow_nan=False)) == {
        "rows": 5,
        "interval_ms": MINUTE,
        "segments": 2,
        "zero_volume_bars": 1,
        "missing_bars": 3,
        "irregular_close_time": {
            "count": 1,
            "first_rows": [
                {
                    "row": 3,
                    "symbol": "BTCUSDT",
                    "open_time": NOON + 2 * MINUTE,
                    "close_time": NOON + 3 * MINUTE - 1001,
                }
            ],
        },
        "symbols": {
            "BTCUSDT": {
                "rows": 5,
                "first_ms": NOON,
                "last_ms": NOON + 7 * MINUTE,
                "segments": 2,
                "zero_volume_bars": 1,
                "missing_bars": 3,
            }
        },
        "gaps": {"count": 1, "list": bars.find_gaps(table)},
        "off_grid": {"count": 0, "first_rows": []},
    }


def test_ninety_real_days_are_one_segment():
    table, report = bars.clean(read_real("BTCUSDT_1m_2024-01-01_90d.parquet"))
    assert (report["rows"], report["segments"], report["gaps"]["count"]) == (129_600, 1, 0)
    assert report["irregular_close_time"]["count"] == report["zero_volume_bars"] == 0
    assert set(table["segment"]) == {0}


def test_the_real_halt_is_a_gap_after_flat_bars_and_one_irregular_close():
    _, report = bars.clean(read_real("BTCUSDT_1m_2023-03-20_8d_halt.parquet"))
    assert (report["segments"], report["zero_volume_bars"], report["missing_bars"]) == (2, 72, 80)
    assert report["irregular_close_time"]["count"] == 1
    # The irregular bar is the last before the gap: it closed when trading stopped.
    assert report["irregular_close_time"]["first_rows"][0]["open_time"] == report["gaps"]["list"][0]["after_ms"]


def test_the_real_outage_is_one_gap_of_1210_bars():
    _, report = bars.clean(read_real("ARBUSDT_1m_2023-07-20_14d_gap.parquet"))
    assert [gap["missing_bars"] for gap in report["gaps"]["list"]] == [1_210]
    assert (report["rows"], report["segments"]) == (18_950, 2)


def test_two_real_symbols_share_one_table():
    both = pd.concat([read_real(f"{symbol}_1m_2024-01-01_90d.parquet") for symbol in ("BTCUSDT", "ARBUSDT")])
    table, report = bars.clean(both)
    assert table.groupby("symbol")["segment"].unique().map(list).to_dict() == {"ARBUSDT": [0], "BTCUSDT": [1]}
    assert {symbol: part["rows"] for symbol, part in report["symbols"].items()} == dict.fromkeys(
        ("ARBUSDT", "BTCUSDT"), 129_600
    )


def shift_bars(table: pd.DataFrame, rows: slice, ms: int) -> pd.DataFrame:
    """Return a table some of whose bars open and close so many ms later."""
    table.loc[rows, ["open_time", "close_time"]] += ms
    return table


def test_bars_off_the_grid_are_refused_and_the_remedy_is_named():
    with pytest.raises(ValueError, match=r"off the bar grid: 3 row\(s\).*calendar.off_grid=drop"):
        bars.clean(shift_bars(make_klines(list(range(300))), slice(5, 7), 7_123))


def test_bars_off_the_grid_become_gaps_where_they_are_dropped():
    both = pd.concat([make_klines(list(range(20))), make_klines(list(range(9)), symbol="ETHUSDT")], ignore_index=True)
    table, report = bars.clean(shift_bars(both, slice(5, 7), 7_123), off_grid="drop")
    times = [NOON + MINUTE * i for i in range(20) if i not in (5, 6, 7)]
    assert table.loc[table["symbol"] == "BTCUSDT", "open_time"].tolist() == times
    assert table["segment"].tolist() == [0] * 5 + [1] * 12 + [2] * 9
    assert (report["off_grid"]["count"], report["missing_bars"]) == (3, 3)
    assert [row["open_time"] for row in report["off_grid"]["first_rows"]] == [
        NOON + MINUTE * i + 7_123 for i in (5, 6, 7)
    ]


@pytest.mark.parametrize("off_grid", ["refuse", "drop"])
def test_a_table_on_its_grid_is_the_same_whatever_is_done_off_it(off_grid):
    table, report = bars.clean(make_klines(list(range(9))), off_grid=off_grid)
    assert len(table) == 9
    assert report["off_grid"] == {"count": 0, "first_rows": []}


def test_dropping_bars_off_the_grid_excuses_no_other_fault():
    table = shift_bars(make_klines(list(range(20))), slice(5, 7), 7_123)
    table.loc[12, "high"] = 1.0
    with pytest.raises(ValueError, match="high and low do not bound open and close: 1 row"):
        bars.clean(table, off_grid="drop")
