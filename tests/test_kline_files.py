"""One file of klines: Binance's own forms, types, times and names."""

import csv
import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.market import bars, kline_files
from pipeline.market.kline_files import parse_csv, read_file, read_zip
from tests.malformed import BARS, MINUTE_MS, NAMES, START_MS, write_csv

REAL = Path(__file__).parents[2] / "shared" / "data" / "BTCUSDT-1m-2025-03-01.csv"
SWITCH_MS = 1_735_689_600_000  # 2025-01-01


def write(folder: Path, name: str, table: pd.DataFrame) -> Path:
    file = folder / name
    table.to_parquet(file)
    return file


@pytest.fixture(scope="module")
def real() -> bytes:
    if not REAL.is_file():
        pytest.skip(f"no real market data: {REAL.name} is not in ../shared/data")
    return REAL.read_bytes()


@pytest.fixture(scope="module")
def plain(real) -> pd.DataFrame:
    """The rows of the real file as Python reads them, one by one, with times in ms."""
    rows = [row[:11] for row in csv.reader(io.StringIO(real.decode()))]
    table = pd.DataFrame(rows, columns=NAMES).astype({name: bars.SCHEMA[name] for name in NAMES})
    table[["open_time", "close_time"]] //= 1000
    return table


def make_forms(content: bytes) -> dict[str, bytes]:
    header = ",".join([*NAMES, "ignore"]).encode() + b"\n"
    futures = header.replace(b"trades,taker_buy_base,taker_buy_quote", b"count,taker_buy_volume,taker_buy_quote_volume")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(REAL.name, content)
    return {
        "as_is.csv": content,
        "mark.csv": b"\xef\xbb\xbf" + content,
        "header.csv": header + content,
        "mark_header.csv": b"\xef\xbb\xbf" + header + content,
        "futures.csv": futures + content,
        "semicolons.csv": content.replace(b",", b";"),
        "commas.csv": content.replace(b",", b";").replace(b".", b","),
        "gzip.csv.gz": gzip.compress(content, mtime=0),
        "zip.zip": zipped.getvalue(),
    }


@pytest.mark.parametrize("name", list(make_forms(b"")))
def test_a_day_of_binance_is_the_same_in_every_form(name, real, plain, tmp_path):
    (tmp_path / name).write_bytes(make_forms(real)[name])
    pd.testing.assert_frame_equal(read_file(tmp_path / name).table, plain, check_exact=True)


def test_a_table_has_the_types_of_the_schema(tmp_path):
    table = read_file(write(tmp_path, "bars.parquet", BARS.assign(symbol=pd.Categorical(["A", "A", "B"])))).table
    assert table.dtypes.astype(str).to_dict() == bars.SCHEMA
    assert list(table) == list(bars.COLUMNS)


def test_float32_becomes_the_number_of_its_shortest_decimals(tmp_path):
    prices = np.array([0.1, 42283.58, 1e-7], np.float32)
    read = read_file(write(tmp_path, "bars.parquet", BARS.assign(open=prices)))
    assert read.table["open"].tolist() == [0.1, 42283.58, 1e-7]
    assert read.notes == ("open is converted from float32 to the float64 of its shortest decimals",)


def test_text_keeps_every_digit(tmp_path):
    values = [0.1 + 0.2, 42_283.58, 1e-7]  # the first needs 17 digits
    content = write_csv(BARS.assign(volume=values)).encode()
    assert parse_csv(content, name="bars.csv").table["volume"].tolist() == values


def test_the_switch_from_ms_to_us_at_2025_is_converted_value_by_value():
    time_ms = SWITCH_MS + MINUTE_MS * np.arange(-2, 1)
    stored = np.where(time_ms >= SWITCH_MS, time_ms * 1000, time_ms)
    read = parse_csv(write_csv(BARS.assign(open_time=stored)).encode(), name="bars.csv")
    assert read.table["open_time"].tolist() == time_ms.tolist()
    assert read.notes == ("open_time is converted from ms and us to ms",)


def test_times_with_an_offset_are_those_of_utc():
    times = ["2024-01-01T02:00:00+02:00", "2023-12-31T19:01:00-05:00", "2024-01-01T00:02:00Z"]
    read = parse_csv(write_csv(BARS.assign(open_time=times)).encode(), name="bars.csv")
    assert read.table["open_time"].tolist() == [START_MS, START_MS + 60_000, START_MS + 120_000]


def test_times_of_less_than_a_millisecond_are_rounded_down():
    close = (BARS["close_time"] + 1) * 1000 - 1  # Binance's, in us
    table = parse_csv(write_csv(BARS.assign(close_time=close)).encode(), name="bars.csv").table
    assert table["close_time"].tolist() == BARS["close_time"].tolist()


def test_digits_of_a_symbol_stay_text(tmp_path):
    content = write_csv(BARS.assign(symbol=["007", "007", " 007"])).encode()
    assert parse_csv(content, name="bars.csv").table["symbol"].tolist() == ["007"] * 3


def test_missing_prices_are_nan_for_validation_to_refuse():
    content = write_csv(BARS.assign(open=[1.0, np.nan, 3.0])).encode()
    assert parse_csv(content, name="bars.csv").table["open"].isna().tolist() == [False, True, False]


def test_names_are_found_whatever_their_case_and_blanks():
    content = (
        "OPEN TIME,Open,HIGH,low,Close,Volume,Close_Time,Quote Volume,Count,TakerBuyVolume,taker-buy-quote-volume\n"
    )
    content += write_csv(header=False)
    read = parse_csv(content.encode(), name="bars.csv")
    pd.testing.assert_frame_equal(read.table, BARS)
    assert read.notes == ()


def test_a_zip_gives_the_name_and_the_bytes_of_its_csv(tmp_path):
    with zipfile.ZipFile(tmp_path / "bars.zip", "w") as archive:
        archive.writestr("day.csv", b"1,2\n")
    assert read_zip(tmp_path / "bars.zip") == ("day.csv", b"1,2\n")


def test_a_zip_beyond_the_bound_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bars.zip", "w") as archive:
        archive.writestr("day.csv", b"1,2\n")
    monkeypatch.setattr(kline_files, "MAX_BYTES", 3)
    with pytest.raises(ValueError, match=r"bars\.zip holds 4 bytes in 4; allowed are 3"):
        read_zip(tmp_path / "bars.zip")


def test_large_text_is_read_by_several_threads_in_order():
    count = 60_000
    table = pd.DataFrame({name: np.arange(count) + 0.25 for name in NAMES[:6]})
    table["open_time"] = START_MS + MINUTE_MS * np.arange(count)
    content = write_csv(pd.concat([table, table[NAMES[1:6]].add_prefix("x_")], axis=1)).encode()
    assert len(content) > 1 << 22
    read = parse_csv(content, name="bars.csv").table
    pd.testing.assert_frame_equal(read, table)
