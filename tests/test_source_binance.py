import hashlib
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.market import archive, bars, binance
from tests.loopback_archive import BROKEN, DAY_MS, GARBLED, Server, encode_price, list_days


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(archive, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(archive, "MAX_WAIT_S", 0.01)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def block(server: Server, tmp_path: Path) -> dict[str, Any]:
    """Return a block of two days of hourly bars in the middle of a month."""
    return {
        "symbols": ["BTCUSDT"],
        "interval": "1h",
        "start": "2024-02-10",
        "days": 2,
        "market": "spot",
        "base_url": server.base_url,
        "archive": str(tmp_path / "archive"),
        "connections": 2,
        "retries": 3,
        "timeout_s": 30.0,
        "compare_daily": False,
        "offline": False,
    }


def load(**block: Any) -> pd.DataFrame:
    return binance.load(**block)[0]


def check_table(table: pd.DataFrame, days: list[date], *, symbols: tuple[str, ...] = ("BTCUSDT",)) -> None:
    """Assert that the table is clean, in order, and has each hour of the days with that hour's own price."""
    opened = [(day - date(1970, 1, 1)).days * DAY_MS + hour * 3_600_000 for day in days for hour in range(24)]
    assert bars.find_failed_checks(table) == []
    assert tuple(table.columns) == bars.COLUMNS
    assert table["symbol"].tolist() == list(np.repeat(symbols, len(opened)))
    assert table["open_time"].tolist() == opened * len(symbols)
    assert table["open"].tolist() == [encode_price(t) for t in opened] * len(symbols)
    assert (table["close_time"] - table["open_time"] == 3_599_999).all()


def test_a_month_is_one_file_and_its_rows_are_limited_to_the_range(server, block):
    path = server.add("BTCUSDT", "2024-02", list_days("2024-02-01", 29))
    check_table(load(**block), list_days("2024-02-10", 2))
    assert server.requests == [f"{path}.CHECKSUM", path]


def test_daily_files_replace_a_month_that_is_not_published(server, block):
    server.add("BTCUSDT", "2024-01", list_days("2024-01-01", 31))
    for day in list_days("2024-02-01", 3):
        server.add("BTCUSDT", f"{day}", [day])
    table = load(**{**block, "start": "2024-01-30", "days": 5})
    check_table(table, list_days("2024-01-30", 5))
    assert len(server.list_zips()) == 4


def test_several_symbols_are_concatenated(server, block):
    for symbol in ("BTCUSDT", "ARBUSDT"):
        server.add(symbol, "2024-02", list_days("2024-02-01", 29))
    table = load(**{**block, "symbols": ["BTCUSDT", "ARBUSDT"]})
    check_table(table, list_days("2024-02-10", 2), symbols=("BTCUSDT", "ARBUSDT"))


def test_microseconds_and_a_header_row_make_no_difference(server, block):
    server.add("BTCUSDT", "2024-12", list_days("2024-12-01", 31), header=True)
    server.add("BTCUSDT", "2025-01", list_days("2025-01-01", 31), unit=1000)
    check_table(load(**{**block, "start": "2024-12-31"}), list_days("2024-12-31", 2))


def test_verified_files_are_not_downloaded_again_but_their_checksums_are(server, block):
    path = server.add("BTCUSDT", "2024-02", list_days("2024-02-01", 29))
    first = load(**block)
    server.requests.clear()
    pd.testing.assert_frame_equal(load(**block), first)
    assert server.requests == [f"{path}.CHECKSUM"]


def test_an_interrupted_run_resumes(server, block):
    for day in list_days("2024-02-10", 4):
        server.add("BTCUSDT", f"{day}", [day])
    last = "/data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2024-02-13.zip"
    server.faults[last] = [(403, {})]
    with pytest.raises(ConnectionError, match=r"2024-02-13\.zip could not be downloaded in 1 attempt"):
        binance.load(**{**block, "days": 4, "connections": 1})
    server.requests.clear()
    check_table(load(**{**block, "days": 4}), list_days("2024-02-10", 4))
    assert server.list_zips() == [last]


def test_a_file_damaged_on_disk_is_downloaded_again(server, block):
    path = server.add("BTCUSDT", "2024-02", list_days("2024-02-01", 29))
    binance.load(**block)
    (local,) = Path(block["archive"]).rglob("*.zip")
    local.write_bytes(local.read_bytes()[:-1])
    check_table(load(**block), list_days("2024-02-10", 2))
    assert server.list_zips() == [path, path]


@pytest.mark.parametrize(
    "fault",
    [(429, {}), (500, {}), (503, {}), (BROKEN, {}), (GARBLED, {})],
    ids=["too many requests", "server error", "unavailable", "broken transfer", "garbled"],
)
@pytest.mark.parametrize("suffix", ["", ".CHECKSUM"])
def test_a_transient_fault_is_retried(server, block, fault, suffix):
    path = server.add("BTCUSDT", "2024-02", list_days("2024-02-01", 29))
    server.faults[path + suffix] = [fault, fault]
    check_table(load(**block), list_days("2024-02-10", 2))
    assert server.requests.count(path + suffix) == 3


def test_retry_after_is_respected(server, block):
    path = server.add("BTCUSDT", "2024-02", list_days("2024-02-01", 29))
    server.faults[path] = [(429, {"Retry-After": "1"})]
    started = time.monotonic()
    binance.load(**block)
    assert time.monotonic() - started >= 1


def test_retry_after_may_be_a_date(server, block):
    path = server.add("BTCUSDT", "2024-02", list_days("2024-02-01", 29))
    # HTTP dates have whole seconds: two seconds ahead leave at least one to wait.
    server.faults[path] = [
        (503, {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)})
    ]
    started = time.monotonic()
    binance.load(**block)
    assert time.monotonic() - started >= 0.9


def test_a_permanent_fault_stops_after_the_retries_and_names_the_file(server, block):
    path = server.add("BTCUSDT", "2024-02", list_days("2024-02-01", 29))
    server.faults[path] = [(500, {})] * 9
    with pytest.raises(ConnectionError, match=r"BTCUSDT-1h-2024-02\.zip could not be downloaded in 4 attempt"):
        binance.load(**block)
    assert server.list_zips() == [path] * 4


def test_a_wrong_checksum_is_refused_with_both_digests(server, block):
    path = server.add("BTCUSDT", "2024-02", list_days("2024-02-01", 29))
    server.files[f"{path}.CHECKSUM"] = b"0" * 64 + b"  BTCUSDT-1h-2024-02.zip\n"
    actual = hashlib.sha256(server.files[path]).hexdigest()
    with pytest.raises(ValueError, match=f"has sha256 {actual}, and its CHECKSUM is '0000.*no day .* has a file"):
        binance.load(**block)
    assert not list(Path(block["archive"]).rglob("*.zip"))


def test_a_day_without_a_file_is_named(server, block):
    server.add("BTCUSDT", "2024-02-10", list_days("2024-02-10", 1))
    with pytest.raises(ValueError, match="no bar on 2024-02-11; the last day that exists is 2024-02-10.*days to 1"):
        binance.load(**block)


def test_a_range_that_begins_before_the_first_bar_is_refused(server, block):
    server.add("BTCUSDT", "2024-02", list_days("2024-02-11", 19))
    with pytest.raises(ValueError, match="no bar on 2024-02-10; the first day that exists is 2024-02-11"):
        binance.load(**block)


def test_an_unreachable_server_is_named(block):
    with pytest.raises(ConnectionError, match=r"http://127\.0\.0\.1:1/"):
        binance.load(**{**block, "base_url": "http://127.0.0.1:1"})


def test_the_number_of_parallel_downloads_is_limited(server, block):
    server.pause_s = 0.02
    for day in list_days("2024-02-10", 8):
        server.add("BTCUSDT", f"{day}", [day])
    binance.load(**{**block, "days": 8, "connections": 4})
    assert 2 <= server.max_active <= 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"market": "futures"}, "market is 'futures'"),
        ({"interval": "1M"}, "interval is '1M'"),
        ({"symbols": []}, "at least one name"),
        ({"symbols": ["../BTCUSDT"]}, "symbols has '../BTCUSDT'"),
        ({"start": "2023-02-29"}, "start is '2023-02-29'; write a day that exists"),
        ({"base_url": "data.binance.vision"}, "base_url is 'data.binance.vision'; it begins with https://"),
        ({"market": "futures/um", "interval": "1s"}, "interval is '1s'; allowed in futures/um are 1m"),
    ],
)
def test_an_impossible_block_is_refused(block, change, message):
    with pytest.raises(ValueError, match=message):
        binance.load(**{**block, **change})
