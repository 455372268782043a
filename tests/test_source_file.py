"""The source `file`: entries, pins, symbols, and several files as one table."""

import hashlib
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import artifacts
from pipeline.market import file
from pipeline.stages import fetch
from tests.malformed import BARS, NAMES, START_MS

YEAR = Path(__file__).parents[2] / "shared" / "data" / "BTCUSDT_1m_2023-04-01_365d.parquet"
DAY_MS = 86_400_000


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    path = tmp_path / "bars.parquet"
    BARS.to_parquet(path)
    return path


def hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(path: object, symbol: object = None) -> tuple[pd.DataFrame, dict]:
    """The table and the report of entries that are pinned as the first run says."""
    with pytest.raises(ValueError, match="sha256 is empty") as caught:
        file.load(path=path, sha256=None, symbol=symbol)
    pins = re.search(r"sources\.file\.sha256=\[?([\w,]+)\]?'?$", str(caught.value))[1].split(",")
    return file.load(path=path, sha256=pins if isinstance(path, list) else pins[0], symbol=symbol)


def shift(bars: pd.DataFrame, count: int) -> pd.DataFrame:
    """The bars, opening so many bars later."""
    return bars.assign(open_time=bars["open_time"] + 60_000 * count, close_time=bars["close_time"] + 60_000 * count)


def write(folder: Path, **tables: pd.DataFrame) -> Path:
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        table.to_csv(folder / f"{name.replace('_', '-')}.csv", index=False)
    return folder


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz"])
def test_every_format_gives_the_same_rows_to_the_last_digit(tmp_path, suffix):
    path = tmp_path / f"bars{suffix}"
    BARS.to_parquet(path) if suffix == ".parquet" else BARS.to_csv(path, index=False)
    loaded, report = file.load(path=str(path), sha256=hash_file(path), symbol="BTCUSDT")
    expected = BARS.copy()
    expected.insert(0, "symbol", pd.Series("BTCUSDT", index=BARS.index, dtype="str"))
    pd.testing.assert_frame_equal(loaded, expected, check_exact=True)
    times = {"rows": 3, "first_ms": START_MS, "last_ms": START_MS + 120_000}
    assert report == {"files": 1, "notes": [], "symbols": {"BTCUSDT": times}}


def test_several_files_are_concatenated_each_with_its_symbol(tmp_path):
    paths = [tmp_path / "btc.csv", tmp_path / "arb.parquet"]
    BARS.to_csv(paths[0], index=False)
    BARS.to_parquet(paths[1])
    table, _ = load([str(path) for path in paths], ["BTCUSDT", "ARBUSDT"])
    assert table["symbol"].tolist() == ["BTCUSDT"] * 3 + ["ARBUSDT"] * 3


def test_a_symbol_column_of_the_file_is_preserved(tmp_path):
    path = tmp_path / "bars.csv"
    BARS.assign(symbol=["007", "BTCUSDT", "BTCUSDT"]).to_csv(path, index=False)
    loaded, _ = load(str(path))
    assert loaded["symbol"].tolist() == ["007", "BTCUSDT", "BTCUSDT"]
    assert loaded.columns[0] == "symbol"


@pytest.mark.parametrize("pin", [None, "0" * 64])
def test_a_wrong_or_missing_pin_is_refused_with_the_command_that_pins_the_file(parquet, pin):
    with pytest.raises(ValueError, match="sha256 is empty|sha256 is 000") as caught:
        file.load(path=str(parquet), sha256=pin, symbol="BTCUSDT")
    command = re.search(r"dvc exp run -S sources\.file\.sha256=(\w+)$", str(caught.value))
    assert command is not None
    assert command[1] == hash_file(parquet)


def test_the_command_for_several_files_pins_them_all(parquet):
    pins = f"'sources.file.sha256=[{hash_file(parquet)},{hash_file(parquet)}]'"
    with pytest.raises(ValueError, match=re.escape(pins)):
        file.load(path=[str(parquet)] * 2, sha256=[hash_file(parquet), "0" * 64], symbol=["A", "B"])


@pytest.mark.parametrize("pattern", ["", "/*.csv", "/**/*.csv"])
def test_the_digest_of_a_folder_or_glob_is_that_of_the_printed_command(tmp_path, pattern):
    folder = write(tmp_path / "my bars", b=BARS, a=shift(BARS, 3), C=shift(BARS, 6))
    (folder / "README.txt.md").write_text("not read")
    with pytest.raises(ValueError, match="3 files; computed as") as caught:
        file.load(path=f"{folder}{pattern}", sha256=None, symbol="BTCUSDT")
    command = re.search(r"computed as: (.*)\)\n", str(caught.value))[1]
    printed = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert printed.split()[0] in str(caught.value)


def test_the_digest_of_a_folder_changes_with_a_name_and_with_a_byte(tmp_path):
    digests = [
        file.hash_names_and_digests(files)
        for files in ([("a", "1"), ("b", "2")], [("a", "2"), ("b", "1")], [("b", "2"), ("a", "1")])
    ]
    assert digests[0] == digests[2] != digests[1]


def test_a_folder_of_several_symbols_takes_them_from_the_names(tmp_path):
    folder = write(tmp_path / "bars", BTCUSDT_1m_2024_01_01=BARS, ETHUSDT_1m_2024_01_01=BARS)
    write(folder, BTCUSDT_1m_2024_01=shift(BARS, 3))
    table, report = load(str(folder))
    assert table["symbol"].tolist() == ["BTCUSDT"] * 6 + ["ETHUSDT"] * 3
    assert report["symbols"]["BTCUSDT"]["rows"] == 6
    with pytest.raises(
        ValueError, match=r"has files of BTCUSDT, ETHUSDT by their names, and sources\.file\.symbol is BTCUSDT"
    ):
        load(str(folder), "BTCUSDT")


def test_files_are_put_in_the_order_of_their_times(tmp_path):
    folder = write(tmp_path / "bars", a=shift(BARS, 3), b=BARS)
    table, _ = load(str(folder), "BTCUSDT")
    assert np.diff(table["open_time"]).tolist() == [60_000] * 5


def test_bars_of_a_monthly_and_a_daily_file_are_used_once_where_they_are_equal(tmp_path):
    month = pd.concat([BARS, shift(BARS, 3)], ignore_index=True)
    folder = write(tmp_path / "bars", month=month, day=shift(BARS, 3), next_day=shift(BARS, 6))
    table, report = load(str(folder), "BTCUSDT")
    assert np.diff(table["open_time"]).tolist() == [60_000] * 8
    (note,) = report["notes"]
    assert note.startswith("3 bars stand in several files")
    assert "month.csv" in note
    assert "/day.csv" in note


def test_differing_bars_of_two_files_are_refused_with_both_names(tmp_path):
    stale = shift(BARS, 0).assign(volume=[35.92724, 99.0, 21.60391])
    folder = write(tmp_path / "bars", month=BARS, day=stale)
    with pytest.raises(
        ValueError, match=r"2024-01-01T00:01:00Z volume 99\.0 and 21\.16779; remove the wrong"
    ) as caught:
        load(str(folder), "BTCUSDT")
    assert all(name in str(caught.value) for name in ("month.csv", "day.csv", "(1 in all files)"))


def test_missing_values_of_two_files_are_equal(tmp_path):
    gap = BARS.assign(quote_volume=[1.0, np.nan, 3.0])
    table, _ = load(str(write(tmp_path / "bars", month=gap, day=gap)), "BTCUSDT")
    assert len(table) == 3


@pytest.mark.parametrize("rows", [[2, 0, 1], [0, 1, 1]], ids=["disorder", "duplicates"])
def test_faults_within_a_file_are_left_to_validation(tmp_path, rows):
    folder = write(tmp_path / "bars", a=BARS.iloc[rows], b=shift(BARS, 3))
    table, _ = load(str(folder), "BTCUSDT")
    assert table["open_time"].head(3).tolist() == BARS["open_time"].iloc[rows].tolist()


def test_files_of_different_columns_are_refused_by_name(tmp_path):
    folder = write(tmp_path / "bars", a=BARS, b=shift(BARS, 3)[NAMES[:7]])
    with pytest.raises(ValueError, match="different columns: quote_volume, taker_buy_base") as caught:
        load(str(folder), "BTCUSDT")
    assert "(quote_volume in " in str(caught.value)
    assert "a.csv and" in str(caught.value)


def test_files_of_different_bar_lengths_are_refused_by_name(tmp_path):
    longer = BARS.assign(
        open_time=START_MS + 3_600_000 * np.arange(1, 4), close_time=START_MS + 3_600_000 * np.arange(2, 5)
    )
    folder = write(tmp_path / "bars", a=BARS, b=longer)
    with pytest.raises(ValueError, match=r"a\.csv has bars of 1 minutes, and .*b\.csv of 60"):
        load(str(folder), "BTCUSDT")


def test_close_times_are_derived_over_all_files(tmp_path):
    days = {f"day{i}": BARS[:1].assign(open_time=START_MS + i * DAY_MS)[NAMES[:6]] for i in range(3)}
    table, report = load(str(write(tmp_path / "bars", **days)), "BTCUSDT")
    assert (table["close_time"] - table["open_time"]).tolist() == [DAY_MS - 1] * 3
    assert any("close_time is missing and is derived" in note for note in report["notes"])


def test_rows_of_symbols_in_turn_are_grouped(tmp_path):
    both = pd.concat([BARS.assign(symbol="B"), BARS.assign(symbol="A")]).sort_values("open_time", kind="stable")
    table, _ = load(str(write(tmp_path / "bars", both=both.drop(columns="close_time"))))
    assert table["symbol"].tolist() == ["B", "B", "B", "A", "A", "A"]
    assert table["close_time"].tolist() == 2 * BARS["close_time"].tolist()


def test_a_note_of_many_files_is_given_once(tmp_path):
    parts = {f"part{i}": shift(BARS, 3 * i).assign(vwap=1.0) for i in range(5)}
    _, report = load(str(write(tmp_path / "bars", **parts)), "BTCUSDT")
    names = "part0.csv, part1.csv, part2.csv and 2 more files"
    assert report["notes"] == [f"the column 'vwap' is unknown and is not used: {names}"]


def test_two_names_for_the_same_rows_are_refused(tmp_path):
    folder = write(tmp_path, bars=BARS.assign(symbol="BTCUSDT"))
    with pytest.raises(ValueError, match="symbol=null"):
        load(str(folder), "BTCUSDT")


def test_rows_without_a_name_are_refused(parquet):
    with pytest.raises(ValueError, match=r"-S sources\.file\.symbol=BTCUSDT"):
        file.load(path=str(parquet), sha256=hash_file(parquet), symbol=None)


def test_lists_of_unequal_length_are_refused(parquet):
    with pytest.raises(ValueError, match=r"symbol has 1 value\(s\) for 2 path"):
        file.load(path=[str(parquet)] * 2, sha256=[hash_file(parquet)] * 2, symbol=["BTCUSDT"])


def test_one_symbol_is_that_of_all_entries(tmp_path):
    folder = write(tmp_path, a=BARS, b=shift(BARS, 3))
    table, _ = load([str(folder / "a.csv"), str(folder / "b.csv")], "BTCUSDT")
    assert table["symbol"].tolist() == ["BTCUSDT"] * 6


@pytest.mark.parametrize("symbol", ["ETHUSDT", "BTCUSD"])
def test_a_symbol_that_contradicts_the_name_of_a_file_is_refused(tmp_path, symbol):
    folder = write(tmp_path, BTCUSDT_1m_2024_01_01=BARS)
    path = folder / "BTCUSDT-1m-2024-01-01.csv"
    with pytest.raises(
        ValueError, match=rf"files of BTCUSDT by their names, and sources\.file\.symbol is {symbol}; take"
    ):
        file.load(path=str(path), sha256=hash_file(path), symbol=symbol)


def test_a_symbol_may_be_written_with_a_slash_where_the_name_of_a_file_has_none(tmp_path):
    folder = write(tmp_path, BTCUSDT_1m_2024_01_01=BARS)
    assert load(str(folder), "BTC/USDT")[0]["symbol"].tolist() == ["BTC/USDT"] * 3


def test_a_name_with_another_bar_length_than_the_rows_is_refused(tmp_path):
    folder = write(tmp_path, BTCUSDT_5m_2024_01_01=BARS)
    with pytest.raises(ValueError, match="has bars of 5m by its name, and of 1 minutes by its rows"):
        load(str(folder))


@pytest.mark.parametrize("layout", ["{}", "{}  bars.parquet", " {} "])
def test_a_pin_may_be_in_capitals_with_blanks_or_with_the_name_of_the_file(parquet, layout):
    pin = layout.format(hash_file(parquet).upper())
    assert len(file.load(path=str(parquet), sha256=pin, symbol="BTCUSDT")[0]) == 3


@pytest.mark.parametrize("path", ["https://x.org/a.csv", "s3://bucket/a.parquet"])
def test_an_address_is_to_be_downloaded_first(path):
    with pytest.raises(ValueError, match="is an address; sources.file.path is a local file: download it first"):
        file.load(path=path, sha256=None, symbol=None)


def test_symbols_whose_newest_bars_come_first_are_reversed(tmp_path):
    both = pd.concat([BARS.assign(symbol="B"), BARS.assign(symbol="A")]).sort_values("open_time", ascending=False)
    table, report = load(str(write(tmp_path / "bars", both=both)))
    assert sorted(table["symbol"]) == ["A"] * 3 + ["B"] * 3
    assert all((np.diff(part["open_time"]) == 60_000).all() for _, part in table.groupby("symbol"))
    assert "the rows are reversed: the newest came first: both.csv" in report["notes"]


@pytest.mark.parametrize("step", [1, -1], ids=["oldest first", "newest first"])
def test_times_of_a_zone_are_those_of_its_clock_also_in_the_hour_that_it_repeats(tmp_path, step):
    instants = pd.date_range("2024-10-27T00:00Z", periods=180, freq="min")  # Berlin's clock goes back at 01:00 UTC
    local = instants.tz_convert("Europe/Berlin").tz_localize(None)
    path = tmp_path / "bars.csv"
    bars = pd.DataFrame({"open_time": local, "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0})
    bars[::step].to_csv(path, index=False)
    table, report = file.load(path=str(path), sha256=hash_file(path), symbol="A", timezone="Europe/Berlin")
    assert table["open_time"].tolist() == [int(each.timestamp() * 1000) for each in instants]
    assert "open_time is converted from Europe/Berlin to UTC: bars.csv" in report["notes"]


def test_a_zone_is_refused_where_times_are_numbers_or_it_does_not_exist(parquet):
    given = {"path": str(parquet), "sha256": hash_file(parquet), "symbol": "A"}
    with pytest.raises(ValueError, match=r"its times are numbers or have a time zone, and sources\.file\.timezone is"):
        file.load(**given, timezone="Europe/Berlin")
    for name in ("America", "Nowhere", ""):
        with pytest.raises(ValueError, match=f"timezone is '{name}'; give a name of the IANA database"):
            file.load(**given, timezone=name)


def test_columns_are_found_by_the_names_that_are_given(tmp_path):
    path = tmp_path / "bars.csv"
    BARS.rename(columns={"open_time": "unix", "volume": "Volume BTC"}).assign(date="-", volume=9).to_csv(
        path, index=False
    )
    given = {"path": str(path), "sha256": hash_file(path), "symbol": "A"}
    table, report = file.load(**given, columns={"open_time": "unix", "volume": "Volume BTC"})
    pd.testing.assert_frame_equal(table.drop(columns="symbol"), BARS)
    assert "the column 'date' is unknown and is not used: bars.csv" in report["notes"]
    with pytest.raises(ValueError, match=r"no column 'Vol', which sources\.file\.columns\.volume names; it has 'unix'"):
        file.load(**given, columns={"volume": "Vol"})


def test_gaps_of_a_few_bars_are_filled_with_the_last_close(tmp_path):
    path, minutes = tmp_path / "bars.parquet", [0, 1, 2, 5, 6, 10]
    bars = pd.concat([BARS, BARS], ignore_index=True)
    bars = bars.assign(open_time=START_MS + 60_000 * np.array(minutes)).assign(
        close_time=START_MS + 60_000 * (np.array(minutes) + 1) - 1
    )
    bars.to_parquet(path)
    given = {"path": str(path), "sha256": hash_file(path), "symbol": "A"}
    table, report = file.load(**given, fill_gaps_bars=2)
    assert ((table["open_time"] - START_MS) // 60_000).tolist() == [0, 1, 2, 3, 4, 5, 6, 10]
    assert (table["close_time"] - table["open_time"]).eq(59_999).all()
    new = table.iloc[[3, 4]]
    assert new[["open", "high", "low", "close"]].eq(42325.5).all(axis=None)
    assert new[NAMES[5:6] + NAMES[7:]].eq(0).all(axis=None)
    assert report["notes"] == ["2 bars are filled with the last close and volume 0, in 1 gaps of at most 2 bars"]
    pd.testing.assert_frame_equal(table.drop(index=[3, 4], columns="symbol").reset_index(drop=True), bars)
    assert len(file.load(**given)[0]) == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "path is empty"),
        ("nowhere.csv", "does not exist"),
        ("empty", "the folder has none of .parquet"),
        ("*.csv", "the glob matches none of .parquet"),
    ],
)
def test_an_unusable_path_is_refused(name, message, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        file.load(path=name and str(tmp_path / name), sha256=None, symbol=None)


def test_fetch_writes_the_table_and_the_report_and_logs_its_notes(tmp_path, monkeypatch, caplog):
    parquet = tmp_path / "bars.parquet"
    BARS.assign(vwap=1.0).to_parquet(parquet)
    caplog.set_level("INFO")
    source = {"kind": "file", "path": str(parquet), "sha256": hash_file(parquet), "symbol": "BTCUSDT"}
    dataset = {"kind": "klines", "source": "file", "calendar": {}, "features": {}, "targets": {"next": {}}}
    params = {"sources": {"file": source}, "datasets": {"klines": dataset}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    fetch.main("klines")
    assert caplog.messages == ["file: the column 'vwap' is unknown and is not used: bars.parquet"]
    assert len(pd.read_parquet(artifacts.RAW / "klines.parquet")) == 3
    report = artifacts.read_json(artifacts.report_path("fetch", "klines"))
    assert report["symbols"] == {"BTCUSDT": {"rows": 3, "first_ms": START_MS, "last_ms": START_MS + 120_000}}


@pytest.mark.skipif(not YEAR.is_file(), reason=f"no real market data: {YEAR.name} is not in ../shared/data")
def test_daily_files_are_the_same_table_as_the_parquet_of_their_bars(tmp_path):
    year = pd.read_parquet(YEAR)[: 40 * 1440]
    for day, part in year.groupby(year["open_time"] // DAY_MS):
        name = pd.Timestamp(day * DAY_MS, unit="ms").strftime("BTCUSDT-1m-%Y-%m-%d.csv")
        part.assign(ignore=0).to_csv(tmp_path / name, index=False, header=False)
    table, report = load(str(tmp_path))
    assert report["files"] == 40
    assert (table.pop("symbol") == "BTCUSDT").all()
    pd.testing.assert_frame_equal(table, year, check_exact=True)
