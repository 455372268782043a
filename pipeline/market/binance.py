"""Klines from Binance's public archive: verified monthly zips, and daily ones for months that are not published yet."""

import hashlib
import io
import logging
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import httpx
import numpy as np
import pandas as pd
import tenacity
from annotated_types import MinLen
from pydantic import NonNegativeInt, PositiveInt
from tqdm import tqdm

from pipeline.market.bars import Days

log = logging.getLogger(__name__)

# The columns of the archive's CSV, in order; the last one is unused.
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
MIN_MICROSECONDS = 10**14  # a time this large is in microseconds: in milliseconds it would be the year 5138
DAY_MS = 86_400_000
FIRST_WAIT_S, MAX_WAIT_S, TIMEOUT_S = 1.0, 60.0, 30.0
CHUNK_BYTES = 1 << 20


class ChecksumError(ValueError):
    """The error of a file whose digest differs from its CHECKSUM."""


class Archive(NamedTuple):
    """A local copy of the server's files, stored once verified; `fetch` is thread-safe for distinct names."""

    client: httpx.Client
    folder: Path
    retries: int

    def fetch(self, name: str) -> Path | None:
        """Return the verified local file, downloaded if needed; None where the server has no such file.

        Raises:
            ConnectionError: the server cannot be reached, or fails on every attempt.
        """
        file = self.folder / name
        if _is_verified(file):
            return file
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_transient),
            wait=_choose_wait_s,
            stop=tenacity.stop_after_attempt(self.retries + 1),
            before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
            reraise=True,
        )
        try:
            return retrying(self._download, name)
        except httpx.HTTPError as error:
            attempts = retrying.statistics["attempt_number"]
            raise ConnectionError(
                f"binance: {self.client.base_url}{name} could not be downloaded in {attempts} attempt(s): {error!r}; "
                "run again to resume, or check sources.binance.base_url and retries"
            ) from error

    def _download(self, name: str) -> Path | None:
        checksum = self.client.get(f"{name}.CHECKSUM")
        if checksum.status_code == httpx.codes.NOT_FOUND:
            return None
        checksum.raise_for_status()
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.part")
        digest = self._stream_to(name, part)
        if digest != _parse_digest(checksum.text):
            raise ChecksumError(
                f"binance: {name} has sha256 {digest}, and its CHECKSUM is {checksum.text.strip()!r}; "
                "the server's files disagree: try later, or use another base_url"
            )
        _locate_checksum(file).write_text(checksum.text)
        return part.replace(file)

    def _stream_to(self, name: str, part: Path) -> str:
        """Write the server's response to `part` and return its sha256."""
        digest = hashlib.sha256()
        with self.client.stream("GET", name) as response, part.open("wb") as target:
            response.raise_for_status()
            for chunk in response.iter_bytes(CHUNK_BYTES):
                digest.update(chunk)
                target.write(chunk)
        return digest.hexdigest()


def load(
    *,
    symbols: Annotated[list[str], MinLen(1)],
    interval: str,
    start: str,
    days: Days,
    market: str,
    base_url: str,
    archive: str,
    connections: PositiveInt,
    retries: NonNegativeInt,
) -> pd.DataFrame:
    """Return the klines of all symbols, concatenated, from midnight UTC of `start` for `days` days; times in ms.

    `retries` is the number of further attempts for a file, with growing waits, after 429, 5xx, a broken transfer or a
    wrong checksum.

    Raises:
        ValueError: the server has no file for one of the days.
        ConnectionError: the server cannot be reached.
    """
    _check(symbols=symbols, interval=interval, days=days, market=market, connections=connections, retries=retries)
    first = date.fromisoformat(str(start))
    range_days = [first + timedelta(days=n) for n in range(days)]
    limits = httpx.Limits(max_connections=connections)
    root = f"{base_url.rstrip('/')}/data/{market}/"
    with httpx.Client(base_url=root, limits=limits, timeout=TIMEOUT_S, follow_redirects=True) as client:
        local = Archive(client, Path(archive) / market, retries)
        files = _fetch_all(local, symbols, range_days, interval=interval, connections=connections)
    return pd.concat([_read_symbol(symbol, files[symbol], range_days) for symbol in symbols], ignore_index=True)


def _check(*, symbols: list[str], interval: str, days: int, market: str, connections: int, retries: int) -> None:
    if market not in MARKETS:
        raise ValueError(f"binance: market is {market!r}; allowed is {', '.join(MARKETS)}")
    if interval not in INTERVALS:
        raise ValueError(f"binance: interval is {interval!r}; allowed are {', '.join(INTERVALS)}")
    if not symbols or len(set(symbols)) != len(symbols):
        raise ValueError(f"binance: symbols is {symbols}; give a list of at least one name, without repeats")
    for name, value, least in [("days", days, 1), ("connections", connections, 1), ("retries", retries, 0)]:
        if value < least:
            raise ValueError(f"binance: {name} is {value}; at least {least} is allowed")


def _fetch_all(
    archive: Archive, symbols: list[str], days: list[date], *, interval: str, connections: int
) -> dict[str, list[Path]]:
    """Return each symbol's files: whole months where the server has them, single days for the rest."""
    months = [(symbol, month) for symbol in symbols for month in dict.fromkeys(f"{day:%Y-%m}" for day in days)]
    names = [_format_path(*key, interval=interval, period="monthly") for key in months]
    monthly = dict(
        zip(months, _map_concurrently(archive.fetch, names, connections=connections, label="months"), strict=True)
    )
    rest = [(symbol, f"{day}") for symbol in symbols for day in days if monthly[symbol, f"{day:%Y-%m}"] is None]
    names = [_format_path(*key, interval=interval, period="daily") for key in rest]
    daily = dict(zip(rest, _map_concurrently(archive.fetch, names, connections=connections, label="days"), strict=True))
    absent = [f"{symbol} {day}" for (symbol, day), file in daily.items() if file is None]
    if absent:
        raise ValueError(
            f"binance: {archive.client.base_url} has no {interval} file for {len(absent)} day(s), first "
            f"{', '.join(absent[:5])}; a day is published after it ends: choose symbols, start and days that exist"
        )
    return {
        symbol: [file for (s, _), file in (monthly | daily).items() if s == symbol and file is not None]
        for symbol in symbols
    }


def _format_path(symbol: str, period_start: str, *, interval: str, period: str) -> str:
    return f"{period}/klines/{symbol}/{interval}/{symbol}-{interval}-{period_start}.zip"


def _map_concurrently(
    fetch: Callable[[str], Path | None], names: list[str], *, connections: int, label: str
) -> list[Path | None]:
    """Return `fetch(name)` for each name, in order, from several threads with a progress bar; the first error stops."""
    with ThreadPoolExecutor(connections) as pool:
        return list(
            tqdm(pool.map(fetch, names), total=len(names), desc=f"binance {label}", unit="file", disable=not names)
        )


def _is_verified(file: Path) -> bool:
    """Return whether the file exists and its digest equals the CHECKSUM beside it."""
    checksum = _locate_checksum(file)
    if not file.is_file() or not checksum.is_file():
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == _parse_digest(checksum.read_text())


def _locate_checksum(file: Path) -> Path:
    return file.with_name(f"{file.name}.CHECKSUM")


def _parse_digest(checksum: str) -> str:
    """Return the digest in a line of sha256sum's format: digest, blanks, file name."""
    return (checksum.split() or [""])[0].lower()


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == httpx.codes.TOO_MANY_REQUESTS or error.response.is_server_error
    return isinstance(error, httpx.TransportError | ChecksumError)


def _choose_wait_s(state: tenacity.RetryCallState) -> float:
    """Return the seconds to wait: exponential backoff with full jitter, and at least the server's Retry-After."""
    backoff = tenacity.wait_random_exponential(multiplier=FIRST_WAIT_S, max=MAX_WAIT_S)(state)
    error = state.outcome.exception() if state.outcome else None
    minimum = _parse_retry_after_s(error.response) if isinstance(error, httpx.HTTPStatusError) else 0.0
    return max(backoff, minimum)


def _parse_retry_after_s(response: httpx.Response) -> float:
    """Return the seconds of a Retry-After header, a number or a date; 0 without one (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "0").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return 0.0


def _read_symbol(symbol: str, files: list[Path], days: list[date]) -> pd.DataFrame:
    """Return one symbol's bars that open on `days`, in time order; ValueError where the first or last day has none."""
    table = pd.concat([_read_zip(file) for file in files], ignore_index=True)
    table = table[table["open_time"].between(_convert_to_ms(days[0]), _convert_to_ms(days[-1]) + DAY_MS - 1)]
    table = table.sort_values("open_time", kind="stable", ignore_index=True)
    present = set((table["open_time"] // DAY_MS).tolist())
    for day in (days[0], days[-1]):
        if _convert_to_ms(day) // DAY_MS not in present:
            raise ValueError(f"binance: the archive has no bar of {symbol} on {day}; choose start and days that exist")
    table.insert(0, "symbol", pd.Series(symbol, index=table.index, dtype="str"))
    return table


def _convert_to_ms(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY_MS


def _read_zip(file: Path) -> pd.DataFrame:
    """Return the rows of one archive file, with or without a header row; times are converted to ms."""
    with zipfile.ZipFile(file) as archive:
        text = archive.read(archive.namelist()[0])
    header_rows = 0 if text[:1].isdigit() else 1
    table = pd.read_csv(io.BytesIO(text), names=list(FIELDS), dtype=FIELDS, skiprows=header_rows).drop(columns="ignore")
    for column in ("open_time", "close_time"):
        time = table[column].to_numpy()
        table[column] = np.where(time >= MIN_MICROSECONDS, time // 1000, time)
    return table
