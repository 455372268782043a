"""Bars that a live feed has missed, fetched from Binance's REST interface before the next live bar is taken."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import httpx

from pipeline.deployment.feeds.runner import Bar, PastBar, find_last_ms, read_time
from pipeline.deployment.feeds.tally import Tally
from pipeline.deployment.hot_path import HotPath
from pipeline.market.kline_columns import BINANCE

PATH = "/api/v3/klines"
MAX_ROWS = 1_000  # of a response
TIMEOUT_S = 10.0
BACKFILL = "backfill"

Fetch = Callable[[str, int, int], list[dict[str, object]]]


def fill_gaps(bars: Iterable[Bar], *, hot_path: HotPath, fetch: Fetch, max_bars: int, tally: Tally) -> Iterator[Bar]:
    """Yield the bars of a live feed, before each those that are missing since the last one that a hot path has taken.

    At most `max_bars` are fetched before a bar. They are as if they had come in time where they fill the gap; where it
    is longer, or nothing is before it, they are history, and nothing is decided at their closes.
    `fetch(symbol, from_ms, to_ms)` returns the bars that open from one time to another; where it fails, that is counted
    and the gap remains.
    """
    interval_ms = hot_path.contract.bars.interval_ms
    for bar in bars:
        symbol, time_ms = bar.get("symbol"), read_time(bar)
        if isinstance(symbol, str) and symbol in hot_path.lanes and time_ms is not None:
            earliest, last_ms = time_ms - max_bars * interval_ms, find_last_ms(hot_path, symbol)
            fills = last_ms is not None and last_ms + interval_ms >= earliest
            start = last_ms + interval_ms if last_ms is not None and fills else earliest
            if start < time_ms:
                missing = _fetch(fetch, symbol, start, time_ms - interval_ms, tally=tally)
                yield from missing if fills else map(PastBar, missing)
        yield bar


def _fetch(fetch: Fetch, symbol: str, from_ms: int, to_ms: int, *, tally: Tally) -> list[dict[str, object]]:
    try:
        found = fetch(symbol, from_ms, to_ms)
    except (httpx.HTTPError, ValueError) as error:
        tally.refuse(BACKFILL, f"{symbol}, bars from {from_ms} to {to_ms}: {error}; they stay missing")
        return []
    tally.connection["fetched_bars"] += len(found)
    return found


@contextmanager
def open_fetch(base_url: str, *, interval: str) -> Iterator[Fetch]:
    """Yield the function by which `fill_gaps` fetches bars of `interval`, such as 1m, from `base_url` + PATH.

    It raises httpx.HTTPError where a response fails, and ValueError where it has no klines.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # below, it logs a line for each request
    with httpx.Client(base_url=base_url, timeout=TIMEOUT_S) as client:
        yield lambda symbol, from_ms, to_ms: fetch_klines(
            client, symbol=symbol, interval=interval, from_ms=from_ms, to_ms=to_ms
        )


def fetch_klines(
    client: httpx.Client, *, symbol: str, interval: str, from_ms: int, to_ms: int
) -> list[dict[str, object]]:
    """Return the bars of a symbol that open from `from_ms` to `to_ms`, in as many requests as they need.

    Raises:
        httpx.HTTPError: a request failed.
        ValueError: a response is no list of klines.
    """
    bars: list[dict[str, object]] = []
    while from_ms <= to_ms:
        query: dict[str, str | int] = {"symbol": symbol, "interval": interval, "limit": MAX_ROWS}
        response = client.get(PATH, params={**query, "startTime": from_ms, "endTime": to_ms}).raise_for_status()
        rows = response.json()
        if not isinstance(rows, list) or any(not isinstance(row, list) or len(row) < len(BINANCE) - 1 for row in rows):
            raise ValueError(f"{response.url}: the response is no list of klines: {response.text[:60]!r}")
        found = [{"symbol": symbol, **dict(zip(BINANCE[:-1], row, strict=False))} for row in rows]
        bars += [bar for bar in found if from_ms <= (read_time(bar) or 0) <= to_ms]  # never one that still forms
        latest = max((read_time(bar) or 0 for bar in found), default=0)
        if len(rows) < MAX_ROWS or latest < from_ms:
            break
        from_ms = latest + 1
    return bars
