# ruff: noqa: F811  # fixtures are imported
import socket
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.market import bars, binance
from pipeline.market.binance_files import FIELDS, repair_month
from tests.loopback_archive import DAY_MS, list_days
from tests.test_source_binance import block, check_table, load, server  # noqa: F401  # fixtures

WRONG = "0" * 64
FEBRUARY = list_days("2024-02-01", 29)


def add_wrong(server: Any, period: str, days: list[date]) -> None:
    """Add a file whose CHECKSUM is wrong for good."""
    path = server.add("BTCUSDT", period, days)
    server.files[f"{path}.CHECKSUM"] = f"{WRONG}  BTCUSDT-1h-{period}.zip\n".encode()


def list_repairs(*days: tuple[str, int, int]) -> list[dict[str, Any]]:
    return [{"symbol": "BTCUSDT", "day": day, "added": added, "replaced": replaced} for day, added, replaced in days]


@pytest.mark.parametrize("compare_daily", [True, False])
def test_days_that_a_month_lacks_are_added_from_daily_files(server, block, compare_daily):
    server.add("BTCUSDT", "2024-02", [day for day in FEBRUARY if day.day not in (11, 12)])
    for day in FEBRUARY:
        server.add("BTCUSDT", f"{day}", [day])
    table, report = binance.load(**{**block, "days": 4, "compare_daily": compare_daily})
    check_table(table, list_days("2024-02-10", 4))
    assert report["repairs"] == list_repairs(("2024-02-11", 24, 0), ("2024-02-12", 24, 0))
    assert report["unusable"] == []


def test_hours_that_a_month_lacks_are_added_from_daily_files(server, block):
    server.add("BTCUSDT", "2024-02", FEBRUARY, hours=range(20))
    for day in list_days("2024-02-10", 2):
        server.add("BTCUSDT", f"{day}", [day])
    table, report = binance.load(**block)
    check_table(table, list_days("2024-02-10", 2))
    assert report["repairs"] == list_repairs(("2024-02-10", 4, 0), ("2024-02-11", 4, 0))


def test_a_stale_month_is_found_only_where_all_daily_files_are_compared(server, block):
    server.add("BTCUSDT", "2024-02", FEBRUARY, volume=1.5)
    server.add("BTCUSDT", "2024-02-10", list_days("2024-02-10", 1), volume=2.5)
    table, report = binance.load(**block)
    assert (table["volume"].unique().tolist(), report["repairs"]) == ([1.5], [])
    table, report = binance.load(**{**block, "compare_daily": True})
    check_table(table, list_days("2024-02-10", 2))
    assert table["volume"].tolist() == [2.5] * 24 + [1.5] * 24
    assert report["repairs"] == list_repairs(("2024-02-10", 0, 24))


def test_hours_that_a_daily_file_lacks_stay_as_the_month_has_them(server, block):
    server.add("BTCUSDT", "2024-02", FEBRUARY)
    server.add("BTCUSDT", "2024-02-10", list_days("2024-02-10", 1), hours=range(3))
    table, report = binance.load(**{**block, "compare_daily": True})
    check_table(table, list_days("2024-02-10", 2))
    assert report["repairs"] == []


def test_a_daily_file_with_a_wrong_checksum_is_passed_over_where_the_month_has_the_day(server, block):
    server.add("BTCUSDT", "2024-02", FEBRUARY)
    add_wrong(server, "2024-02-10", list_days("2024-02-10", 1))
    table, report = binance.load(**{**block, "compare_daily": True})
    check_table(table, list_days("2024-02-10", 2))
    (reason,) = report["unusable"]
    assert "BTCUSDT-1h-2024-02-10.zip has sha256" in reason


def test_a_daily_file_with_a_wrong_checksum_is_an_error_where_the_month_lacks_the_day(server, block):
    server.add("BTCUSDT", "2024-02", FEBRUARY[10:])
    add_wrong(server, "2024-02-10", list_days("2024-02-10", 1))
    with pytest.raises(ValueError, match=r"BTCUSDT has no bars of 2024-02-10: .*2024-02-10\.zip has sha256.*the month"):
        binance.load(**block)


def test_a_faulty_month_without_one_of_its_daily_files_is_an_error(server, block):
    add_wrong(server, "2024-02", FEBRUARY)
    for day in list_days("2024-02-10", 5):
        server.add("BTCUSDT", f"{day}", [day])
    server.files.pop("/data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2024-02-12.zip.CHECKSUM")
    server.files.pop("/data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2024-02-12.zip")
    with pytest.raises(ValueError, match=r"2024-02\.zip has sha256 .*; 2024-02-12 has no daily file"):
        binance.load(**{**block, "days": 5})


def test_only_what_neither_month_nor_day_has_is_a_hole(server, block, caplog):
    server.add("BTCUSDT", "2024-02", [day for day in FEBRUARY if day.day not in (12, 13)])
    server.add("BTCUSDT", "2024-02-12", list_days("2024-02-12", 1))
    table, report = binance.load(**{**block, "days": 6})
    check_table(table, [day for day in list_days("2024-02-10", 6) if day.day != 13])
    assert report["symbols"]["BTCUSDT"]["missing_days"] == ["2024-02-13"]
    assert "BTCUSDT has no file of 1 day(s), 2024-02-13: they are holes" in caplog.text


def test_each_symbol_has_its_own_first_and_last_bar(server, block, caplog):
    server.add("BTCUSDT", "2024-02", FEBRUARY)
    server.add("NEWUSDT", "2024-02", FEBRUARY[11:])
    server.add("OLDUSDT", "2024-02", FEBRUARY[:11])
    with caplog.at_level("INFO"):
        table, report = binance.load(**{**block, "symbols": ["NEWUSDT", "BTCUSDT", "OLDUSDT"], "days": 4})
    days = {"NEWUSDT": ("2024-02-12", 2), "BTCUSDT": ("2024-02-10", 4), "OLDUSDT": ("2024-02-10", 2)}
    for symbol, (first, count) in days.items():
        part = table[table["symbol"] == symbol].reset_index(drop=True)
        check_table(part, list_days(first, count), symbols=(symbol,))
    edges = {s: (e["days_before_first"], e["days_after_last"], e["missing_days"]) for s, e in report["symbols"].items()}
    assert edges == {"NEWUSDT": (2, 0, []), "BTCUSDT": (0, 0, []), "OLDUSDT": (0, 2, [])}
    assert "NEWUSDT has 48 bars, 2024-02-12T00:00:00Z to 2024-02-13T23:00:00Z" in caplog.text
    assert [e["segments"] for e in bars.clean(table)[1]["symbols"].values()] == [1, 1, 1]


def test_days_that_no_symbol_has_are_an_error_with_both_bounds(server, block):
    server.add("BTCUSDT", "2024-02", FEBRUARY[10:13])
    server.add("ETHUSDT", "2024-02", FEBRUARY[11:14])
    with pytest.raises(ValueError, match="first day that exists is 2024-02-11.*last.* is 2024-02-14.*days to 4"):
        binance.load(**{**block, "symbols": ["BTCUSDT", "ETHUSDT"], "days": 9})


def test_a_symbol_without_any_file_is_named(server, block):
    server.add("BTCUSDT", "2024-02", FEBRUARY)
    with pytest.raises(ValueError, match="has no file of BTCUSD, ETHUSD from 2024-02-10 to 2024-02-11"):
        binance.load(**{**block, "symbols": ["BTCUSD", "BTCUSDT", "ETHUSD"]})


def test_a_file_that_was_uploaded_again_is_downloaded_again_and_reported(server, block):
    path = server.add("BTCUSDT", "2024-02", FEBRUARY, volume=1.5)
    assert load(**block)["volume"].unique().tolist() == [1.5]
    server.add("BTCUSDT", "2024-02", FEBRUARY, volume=2.5)
    table, report = binance.load(**block)
    assert table["volume"].unique().tolist() == [2.5]
    assert any("2024-02.zip was replaced on the server: it is downloaded again" in note for note in report["notes"])
    assert server.list_zips() == [path, path]


def test_a_file_that_is_no_longer_on_the_server_is_used_and_reported(server, block):
    server.add("BTCUSDT", "2024-02", FEBRUARY)
    first = load(**block)
    server.files.clear()
    table, report = binance.load(**block)
    pd.testing.assert_frame_equal(table, first)
    assert any("2024-02.zip is no longer on the server" in note for note in report["notes"])


def test_offline_the_local_archive_suffices_and_no_socket_is_opened(server, block, monkeypatch):
    server.add("BTCUSDT", "2024-01", list_days("2024-01-01", 31))
    for day in list_days("2024-02-01", 3):
        server.add("BTCUSDT", f"{day}", [day])
    wanted = {**block, "start": "2024-01-30", "days": 5}
    first = load(**wanted)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket is opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    pd.testing.assert_frame_equal(load(**{**wanted, "offline": True}), first)
    with pytest.raises(
        ValueError, match="archive/spot has no bar on 2024-02-04; the last day that exists is 2024-02-03"
    ):
        load(**{**wanted, "days": 6, "offline": True})


def test_offline_a_damaged_local_month_is_replaced_by_its_daily_files_or_named(server, block):
    server.add("BTCUSDT", "2024-02", FEBRUARY)
    for day in list_days("2024-02-10", 2):
        server.add("BTCUSDT", f"{day}", [day])
    load(**{**block, "compare_daily": True})
    folder = Path(block["archive"])
    (month,) = folder.rglob("*-2024-02.zip")
    month.write_bytes(b"damaged")
    table, report = binance.load(**{**block, "offline": True})
    check_table(table, list_days("2024-02-10", 2))
    assert "2024-02.zip differs from its CHECKSUM" in report["unusable"][0]
    for file in folder.rglob("*-02-1?.zip"):
        file.unlink()
    with pytest.raises(ValueError, match=r"2024-02\.zip differs from its CHECKSUM in .*; fetch it with offline: false"):
        binance.load(**{**block, "offline": True})


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("month", [True, False])
def test_futures_have_their_own_paths_and_header(server, block, header, month):
    for symbol in ("BTCUSDT", "BTCUSDT_240628"):
        for day in list_days("2024-02-10", 2):
            server.add(symbol, f"{day}", [day], header=header, market="futures/um")
        if month:
            server.add(symbol, "2024-02", FEBRUARY, header=header, market="futures/um")
    symbols = ["BTCUSDT", "BTCUSDT_240628"]
    table = load(**{**block, "market": "futures/um", "symbols": symbols, "compare_daily": True})
    check_table(table, list_days("2024-02-10", 2), symbols=tuple(symbols))
    assert {path.split("/klines")[0].rsplit("/", 1)[0] for path in server.requests} == {"/data/futures/um"}


@pytest.mark.parametrize(
    ("start", "days"),
    [
        pytest.param("2024-02-29", 2, id="from a leap day"),
        pytest.param("2023-02-27", 4, id="a February of 28 days"),
        pytest.param("2024-03-30", 3, id="the switch to daylight saving in Europe"),
        pytest.param("2024-11-02", 3, id="the switch back in America"),
        pytest.param("2024-12-30", 4, id="the turn of a year, and from ms to us"),
        pytest.param("2024-04-29", 34, id="months of 30 and 31 days"),
    ],
)
def test_every_day_of_a_range_has_all_its_hours(server, block, start, days, monkeypatch):
    wanted = list_days(start, days)
    for month in dict.fromkeys(f"{day:%Y-%m}" for day in wanted):
        whole = [day for day in list_days(f"{month}-01", 31) if f"{day:%Y-%m}" == month]
        server.add("BTCUSDT", month, whole, unit=1000 if month >= "2025" else 1)
    table, report = binance.load(**{**block, "start": start, "days": days})
    check_table(table, wanted)
    assert report["symbols"]["BTCUSDT"]["missing_days"] == []


def make_part(rng: np.random.Generator, times: np.ndarray) -> pd.DataFrame:
    """Return bars whose few values often agree with those of another part."""
    values = {name: rng.integers(0, 2, size=len(times)).astype(float) for name in FIELDS}
    values["close"][rng.random(len(times)) < 0.1] = np.nan
    return pd.DataFrame({**values, "open_time": times})[FIELDS]


@pytest.mark.parametrize("seed", range(20))
def test_a_repair_equals_that_by_a_dictionary_of_rows(seed):
    rng = np.random.default_rng(seed)
    grid = 1_706_745_600_000 + DAY_MS // 4 * np.arange(20)
    month, daily = (make_part(rng, grid[rng.random(20) < share]) for share in rng.choice([0, 0.5, 0.9, 1], size=2))
    rows: dict[int, tuple[Any, ...]] = {row.open_time: tuple(row)[1:] for row in month.itertuples()}
    counts: dict[str, list[int]] = {}
    for row in daily.itertuples():
        new, day = tuple(row)[1:], f"{pd.Timestamp(row.open_time, unit='ms'):%Y-%m-%d}"
        place = 1 if row.open_time in rows else 0
        if place == 0 or not np.array_equal(rows[row.open_time], new, equal_nan=True):
            counts.setdefault(day, [0, 0])[place] += 1
        rows[row.open_time] = new
    table, repairs = repair_month(month, daily)
    np.testing.assert_array_equal(
        table.to_numpy(float).reshape(-1, len(FIELDS)),
        np.array([rows[t] for t in sorted(rows)]).reshape(-1, len(FIELDS)),
    )
    assert repairs == [{"day": day, "added": a, "replaced": r} for day, (a, r) in counts.items()]
