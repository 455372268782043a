"""Klines from Binance's public archive: monthly zips, daily ones for what no month covers yet, each verified."""

import hashlib
import io
import logging
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pandas as pd
import tenacity
from tqdm import tqdm

log = logging.getLogger(__name__)

# A row of the archive's CSV, in order. The last one means nothing.
FIELDS = {
    "open_time": "int64",
    "open": "float64",
    "high": "float64",
    "low": "float64",
    "close": "float64",
    "volume": "float64",
    "close_time": "int64",
    "quote_volume": "float64",
    "trades": "int64",
    "taker_buy_base": "float64",
    "taker_buy_quote": "float64",
    "ignore": "str",
}
INTERVALS = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d")
MARKETS = ("spot",)
MICROSECONDS_FROM = 10**14  # a time this large is in microseconds: as milliseconds it would be the year 5138
DAY_MS = 86_400_000
FIRST_WAIT_S, LONGEST_WAIT_S, TIMEOUT_S = 1.0, 60.0, 30.0
CHUNK_BYTES = 1 << 20


class ChecksumError(ValueError):
    """A file does not hash to what its CHECKSUM says."""


class Archive(NamedTuple):
    """The server's files, kept below a folder once they are verified. `fetch` may be called from several threads."""

    client: httpx.Client
    folder: Path
    retries: int

    def fetch(self, name: str) -> Path | None:
        """The verified file on disk, downloaded unless it is there already; None where the server has no such file."""
        file = self.folder / name
        if _is_verified(file):
            return file
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_transient),
            wait=_wait_s,
            stop=tenacity.stop_after_attempt(self.retries + 1),
            before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
            reraise=True,
        )
        try:
            return retrying(self._download, name)
        except httpx.HTTPError as error:
            attempts = retrying.statistics["attempt_number"]
            raise ConnectionError(
                f"binance: {self.client.base_url}{name} could not be had in {attempts} attempt(s): {error!r}; "
                "run again to go on where this stopped, or look at sources.binance.base_url and retries"
            ) from error

    def _download(self, name: str) -> Path | None:
        checksum = self.client.get(f"{name}.CHECKSUM")
        if checksum.status_code == httpx.codes.NOT_FOUND:
            return None
        checksum.raise_for_status()
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.part")
        digest = self._stream(name, part)
        if digest != _pinned(checksum.text):
            raise ChecksumError(
                f"binance: {name} has sha256 {digest}, and its CHECKSUM says {checksum.text.strip()!r}; "
                "the server holds a broken pair: try later, or another base_url"
            )
        _checksum_file(file).write_text(checksum.text)
        return part.replace(file)

    def _stream(self, name: str, part: Path) -> str:
        """The sha256 of what the server sent, which now lies in `part`."""
        digest = hashlib.sha256()
        with self.client.stream("GET", name) as answer, part.open("wb") as target:
            answer.raise_for_status()
            for chunk in answer.iter_bytes(CHUNK_BYTES):
                digest.update(chunk)
                target.write(chunk)
        return digest.hexdigest()


def load(
    *,
    symbols: list[str],
    interval: str,
    start: str,
    days: int,
    market: str,
    base_url: str,
    archive: str,
    connections: int,
    retries: int,
) -> pd.DataFrame:
    """The klines of each symbol, one after another, from midnight UTC of `start` for `days` days; times in ms.

    `retries` is how often a file is asked for again, with growing waits, after 429, 5xx, a broken transfer or a wrong
    checksum. Raises ValueError for a day that the server does not have, ConnectionError where it cannot be reached.
    """
    _check(symbols=symbols, interval=interval, days=days, market=market, connections=connections, retries=retries)
    first = date.fromisoformat(str(start))
    range_days = [first + timedelta(days=n) for n in range(days)]
    limits = httpx.Limits(max_connections=connections)
    root = f"{base_url.rstrip('/')}/data/{market}/"
    with httpx.Client(base_url=root, limits=limits, timeout=TIMEOUT_S, follow_redirects=True) as client:
        kept = Archive(client, Path(archive) / market, retries)
        files = _fetch_all(kept, symbols, range_days, interval=interval, connections=connections)
    return pd.concat([_bars(symbol, files[symbol], range_days) for symbol in symbols], ignore_index=True)


def _check(*, symbols: list[str], interval: str, days: int, market: str, connections: int, retries: int) -> None:
    if market not in MARKETS:
        raise ValueError(f"binance: market is {market!r}; {', '.join(MARKETS)} is what this source reads")
    if interval not in INTERVALS:
        raise ValueError(f"binance: interval is {interval!r}; one of {', '.join(INTERVALS)} is wanted")
    if not symbols or len(set(symbols)) != len(symbols):
        raise ValueError(f"binance: symbols is {symbols}; give a list of at least one name, each once")
    for name, value, least in [("days", days, 1), ("connections", connections, 1), ("retries", retries, 0)]:
        if value < least:
            raise ValueError(f"binance: {name} is {value}; at least {least} is wanted")


def _fetch_all(
    archive: Archive, symbols: list[str], days: list[date], *, interval: str, connections: int
) -> dict[str, list[Path]]:
    """The files that hold each symbol's days: whole months where the server has them, single days where it has not."""
    months = [(symbol, month) for symbol in symbols for month in dict.fromkeys(f"{day:%Y-%m}" for day in days)]
    names = [_name(*key, interval=interval, period="monthly") for key in months]
    monthly = dict(zip(months, _each(archive.fetch, names, connections=connections, label="months"), strict=True))
    rest = [(symbol, f"{day}") for symbol in symbols for day in days if monthly[symbol, f"{day:%Y-%m}"] is None]
    names = [_name(*key, interval=interval, period="daily") for key in rest]
    daily = dict(zip(rest, _each(archive.fetch, names, connections=connections, label="days"), strict=True))
    absent = [f"{symbol} {day}" for (symbol, day), file in daily.items() if file is None]
    if absent:
        raise ValueError(
            f"binance: {archive.client.base_url} has no {interval} file for {len(absent)} day(s), first "
            f"{', '.join(absent[:5])}; days come out after they end: choose symbols, start and days that it has"
        )
    return {
        symbol: [file for (s, _), file in (monthly | daily).items() if s == symbol and file is not None]
        for symbol in symbols
    }


def _name(symbol: str, period_start: str, *, interval: str, period: str) -> str:
    return f"{period}/klines/{symbol}/{interval}/{symbol}-{interval}-{period_start}.zip"


def _each(fetch: Callable[[str], Path | None], names: list[str], *, connections: int, label: str) -> list[Path | None]:
    """What `fetch` answers for each name, in order, several at once, with a progress bar; the first error stops all."""
    with ThreadPoolExecutor(connections) as pool:
        return list(
            tqdm(pool.map(fetch, names), total=len(names), desc=f"binance {label}", unit="file", disable=not names)
        )


def _is_verified(file: Path) -> bool:
    """Whether the file lies there and hashes to the CHECKSUM that lies beside it."""
    checksum = _checksum_file(file)
    if not file.is_file() or not checksum.is_file():
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == _pinned(checksum.read_text())


def _checksum_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.CHECKSUM")


def _pinned(checksum: str) -> str:
    """The digest in a line as sha256sum writes it: digest, blanks, file name."""
    return (checksum.split() or [""])[0].lower()


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == httpx.codes.TOO_MANY_REQUESTS or error.response.is_server_error
    return isinstance(error, httpx.TransportError | ChecksumError)


def _wait_s(state: tenacity.RetryCallState) -> float:
    """Exponential backoff with full jitter, and no less than the server asked for."""
    backoff = tenacity.wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)(state)
    error = state.outcome.exception() if state.outcome else None
    asked = _retry_after_s(error.response) if isinstance(error, httpx.HTTPStatusError) else 0.0
    return max(backoff, asked)


def _retry_after_s(response: httpx.Response) -> float:
    """Seconds that a Retry-After header asks for, given as a number or as a date; 0 without one (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "0").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return 0.0


def _bars(symbol: str, files: list[Path], days: list[date]) -> pd.DataFrame:
    """One symbol's bars that open on the days asked for, in time order."""
    table = pd.concat([_read(file) for file in files], ignore_index=True)
    table = table[table["open_time"].between(_midnight_ms(days[0]), _midnight_ms(days[-1]) + DAY_MS - 1)]
    table = table.sort_values("open_time", kind="stable", ignore_index=True)
    held = set((table["open_time"] // DAY_MS).tolist())
    for day in (days[0], days[-1]):
        if _midnight_ms(day) // DAY_MS not in held:
            raise ValueError(f"binance: the archive has no bar of {symbol} on {day}; choose start and days that it has")
    table.insert(0, "symbol", pd.Series(symbol, index=table.index, dtype="str"))
    return table


def _midnight_ms(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY_MS


def _read(file: Path) -> pd.DataFrame:
    """The rows of one archive file, with or without a header row; times in ms whichever unit they came in."""
    with zipfile.ZipFile(file) as archive:
        text = archive.read(archive.namelist()[0])
    header_rows = 0 if text[:1].isdigit() else 1
    table = pd.read_csv(io.BytesIO(text), names=list(FIELDS), dtype=FIELDS, skiprows=header_rows).drop(columns="ignore")
    for column in ("open_time", "close_time"):
        time = table[column].to_numpy()
        table[column] = np.where(time >= MICROSECONDS_FROM, time // 1000, time)
    return table
