import hashlib
import io
import itertools
import threading
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.market import bars, binance

DAY_MS = 86_400_000
HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)
BROKEN, GARBLED = 206, 203  # successful statuses whose body is cut short, or is wrong


class Server(ThreadingHTTPServer):
    """An archive on loopback: files by path, the faults of the first responses, and the requested paths."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[tuple[int, dict[str, str]]]] = {}
        self.requests: list[str] = []
        self.active = self.max_active = 0
        self.pause_s = 0.0
        self.lock = threading.Lock()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def add(self, symbol: str, period: str, days: list[date], **how: Any) -> str:
        """Add a zip of these days' hourly bars with its CHECKSUM; return its path."""
        name = f"{symbol}-1h-{period}.zip"
        kind = "monthly" if len(period) == 7 else "daily"
        path = f"/data/spot/{kind}/klines/{symbol}/1h/{name}"
        self.files[path] = make_zip(name, days, **how)
        digest = hashlib.sha256(self.files[path]).hexdigest()
        self.files[f"{path}.CHECKSUM"] = f"{digest}  {name}\n".encode()
        return path

    def list_zips(self) -> list[str]:
        return [path for path in self.requests if path.endswith(".zip")]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests.append(self.path)
            self.server.active += 1
            self.server.max_active = max(self.server.max_active, self.server.active)
        time.sleep(self.server.pause_s)
        self.respond()
        with self.server.lock:
            self.server.active -= 1

    def respond(self) -> None:
        body = self.server.files.get(self.path, b"")
        faults = self.server.faults.get(self.path, [])
        status, headers = faults.pop(0) if faults else (200 if self.path in self.server.files else 404, {})
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if status == BROKEN:
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body[::-1] if status == GARBLED else body)

    def log_message(self, *_: object) -> None:
        """Write no log."""


def make_zip(name: str, days: list[date], *, header: bool = False, unit: int = 1) -> bytes:
    rows = [HEADER] if header else []
    for day, hour in itertools.product(days, range(24)):
        opened = (day - date(1970, 1, 1)).days * DAY_MS + hour * 3_600_000
        closed = (opened + 3_600_000) * unit - 1
        rows.append(f"{opened * unit},{encode_price(opened)},99999,0.01,42000.5,1.5,{closed},63000.1,7,0.5,21000.3,0")
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name.replace(".zip", ".csv"), "\n".join(rows) + "\n")
    return target.getvalue()


def encode_price(time_ms: int) -> float:
    """Return a price that identifies its bar."""
    return time_ms // 3_600_000 % 10_000 + 0.25


def list_days(first: str, days: int) -> list[date]:
    return [date.fromisoformat(first) + timedelta(days=n) for n in range(days)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(binance, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(binance, "MAX_WAIT_S", 0.01)
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
    }


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
    check_table(binance.load(**block), list_days("2024-02-10", 2))
    assert server.requests == [f"{path}.CHECKSUM", path]


def test_daily_files_replace_a_month_that_is_not_published(server, block):
    server.add("BTCUSDT", "2024-01", list_days("2024-01-01", 31))
    for day in list_days("2024-02-01", 3):
        server.add("BTCUSDT", f"{day}", [day])
    table = binance.load(**{**block, "start": "2024-01-30", "days": 5})
    check_table(table, list_days("2024-01-30", 5))
    assert len(server.list_zips()) == 4


def test_several_symbols_are_concatenated(server, block):
    for symbol in ("BTCUSDT", "ARBUSDT"):
        server.add(symbol, "2024-02", list_days("2024-02-01", 29))
    table = binance.load(**{**block, "symbols": ["BTCUSDT", "ARBUSDT"]})
    check_table(table, list_days("2024-02-10", 2), symbols=("BTCUSDT", "ARBUSDT"))


def test_microseconds_and_a_header_row_make_no_difference(server, block):
    server.add("BTCUSDT", "2024-12", list_days("2024-12-01", 31), header=True)
    server.add("BTCUSDT", "2025-01", list_days("2025-01-01", 31), unit=1000)
    check_table(binance.load(**{**block, "start": "2024-12-31"}), list_days("2024-12-31", 2))


def test_verified_files_are_not_downloaded_again(server, block):
    server.add("BTCUSDT", "2024-02", list_days("2024-02-01", 29))
    first = binance.load(**block)
    server.requests.clear()
    pd.testing.assert_frame_equal(binance.load(**block), first)
    assert server.requests == []


def test_an_interrupted_run_resumes(server, block):
    for day in list_days("2024-02-10", 4):
        server.add("BTCUSDT", f"{day}", [day])
    last = "/data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2024-02-13.zip"
    server.faults[last] = [(403, {})]
    with pytest.raises(ConnectionError, match=r"2024-02-13\.zip could not be downloaded in 1 attempt"):
        binance.load(**{**block, "days": 4, "connections": 1})
    server.requests.clear()
    check_table(binance.load(**{**block, "days": 4}), list_days("2024-02-10", 4))
    assert server.list_zips() == [last]


def test_a_file_damaged_on_disk_is_downloaded_again(server, block):
    path = server.add("BTCUSDT", "2024-02", list_days("2024-02-01", 29))
    binance.load(**block)
    (local,) = Path(block["archive"]).rglob("*.zip")
    local.write_bytes(local.read_bytes()[:-1])
    check_table(binance.load(**block), list_days("2024-02-10", 2))
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
    check_table(binance.load(**block), list_days("2024-02-10", 2))
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
    with pytest.raises(ValueError, match=f"has sha256 {actual}, and its CHECKSUM is '0000"):
        binance.load(**block)
    assert not list(Path(block["archive"]).rglob("*.zip"))


def test_a_day_without_a_file_is_named(server, block):
    server.add("BTCUSDT", "2024-02-10", list_days("2024-02-10", 1))
    with pytest.raises(ValueError, match="BTCUSDT 2024-02-11"):
        binance.load(**block)


def test_a_range_that_begins_before_the_first_bar_is_refused(server, block):
    server.add("BTCUSDT", "2024-02", list_days("2024-02-11", 19))
    with pytest.raises(ValueError, match="no bar of BTCUSDT on 2024-02-10"):
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
        ({"days": 0}, "days is 0"),
        ({"connections": 0}, "connections is 0"),
        ({"retries": -1}, "retries is -1"),
    ],
)
def test_an_impossible_block_is_refused(block, change, message):
    with pytest.raises(ValueError, match=message):
        binance.load(**{**block, **change})
