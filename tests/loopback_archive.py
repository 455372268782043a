"""Binance's archive on loopback: monthly and daily zips of hourly bars, with faults."""

import hashlib
import io
import itertools
import sys
import threading
import time
import zipfile
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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
        self.pause_s = self.drip_s = 0.0  # before a response; between the bytes of `drip_path`
        self.drip_path = ""
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that leaves in the middle of a response, as one does at its time limit."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def add(self, symbol: str, period: str, days: list[date], *, market: str = "spot", **how: Any) -> str:
        """Add a zip of these days' hourly bars with its CHECKSUM; return its path."""
        name = f"{symbol}-1h-{period}.zip"
        kind = "monthly" if len(period) == 7 else "daily"
        path = f"/data/{market}/{kind}/klines/{symbol}/1h/{name}"
        return self.put(path, make_zip(name, days, **how))

    def put(self, path: str, content: bytes) -> str:
        """Add a file with its CHECKSUM; return its path."""
        name = path.rsplit("/", 1)[1]
        self.files[path] = content
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
        body = body[::-1] if status == GARBLED else body
        if self.path != self.server.drip_path:
            self.wfile.write(body)
            return
        for byte in body:
            try:
                self.wfile.write(bytes([byte]))
            except OSError:
                return
            time.sleep(self.server.drip_s)

    def do_HEAD(self) -> None:
        found = self.path in self.server.files
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Write no log."""


def make_zip(
    name: str, days: list[date], *, header: bool = False, unit: int = 1, hours: range = range(24), volume: float = 1.5
) -> bytes:
    """Return a zip of hourly bars, each with its own price."""
    return zip_text(name.replace(".zip", ".csv"), make_csv(days, header=header, unit=unit, hours=hours, volume=volume))


def make_csv(days: list[date], *, header: bool, unit: int, hours: range, volume: float) -> str:
    rows = [HEADER] if header else []
    for day, hour in itertools.product(days, hours):
        opened = (day - date(1970, 1, 1)).days * DAY_MS + hour * 3_600_000
        closed = (opened + 3_600_000) * unit - 1
        rows.append(
            f"{opened * unit},{encode_price(opened)},99999,0.01,42000.5,{volume},{closed},63000.1,7,0.5,21000.3,0"
        )
    return "\n".join(rows) + "\n"


def zip_text(*members: str) -> bytes:
    """Return a zip of members: name, text, name, text …."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in zip(members[::2], members[1::2], strict=True):
            archive.writestr(name, text)
    return target.getvalue()


def encode_price(time_ms: int) -> float:
    """Return a price that identifies its bar."""
    return time_ms // 3_600_000 % 10_000 + 0.25


def list_days(first: str, days: int) -> list[date]:
    return [date.fromisoformat(first) + timedelta(days=n) for n in range(days)]
