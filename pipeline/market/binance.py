"""Klines of Binance's public archive: its monthly files, repaired by its daily ones; pipeline/market/README.md."""

import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from annotated_types import Gt, MinLen
from pydantic import NonNegativeInt, PositiveInt
from tqdm import tqdm

from pipeline.market.archive import Archive, Fetched, open_client
from pipeline.market.bars import SCHEMA, Days, concat_tables, repeat_symbol
from pipeline.market.binance_files import (
    DAY_MS,
    FIELDS,
    convert_to_ms,
    format_path,
    list_days_of,
    read_bars,
    repair_month,
)
from pipeline.market.checks import format_time
from pipeline.market.kline_files import KlineFile

log = logging.getLogger(__name__)

INTERVAL_MS = {
    **{"1s": 1_000, "1m": 60_000, "3m": 180_000, "5m": 300_000, "15m": 900_000, "30m": 1_800_000},
    **{f"{hours}h": hours * 3_600_000 for hours in (1, 2, 4, 6, 8, 12)},
    "1d": DAY_MS,
}
MARKETS = {"spot": tuple(INTERVAL_MS), "futures/um": tuple(INTERVAL_MS)[1:]}  # and their intervals
MAX_LISTED = 5
REMEDY = "try later, use another base_url, or choose symbols, start and days without it"

FetchAll = Callable[[list[str]], list[Fetched[KlineFile]]]
Record = dict[str, Any]


@dataclass
class Findings:
    """Repairs, unusable files and notes of one symbol, as the report lists them."""

    repairs: list[Record] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unresolved: list[tuple[date, str]] = field(default_factory=list)  # days without a file, of months with a fault

    def take(self, files: list[Fetched[KlineFile]]) -> None:
        """Add the faults and notes of files."""
        for each in files:
            self.unusable += [each.fault] if each.fault else []
            self.notes += [each.note] if each.note else []
            self.notes += each.content.notes if each.content else ()


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
    timeout_s: Annotated[float, Gt(0)],
    compare_daily: bool,
    offline: bool,
) -> tuple[pd.DataFrame, Record]:
    """Return the klines of all symbols, concatenated, and a report.

    The bars are those from midnight UTC of `start` for `days` days, with times in ms. The report has, by symbol, the
    first and last bar and the missing days; the `repairs` of months by their daily files; the `unusable` files; and
    `notes`. `retries` is the number of further attempts for a file, with growing waits, after 429, 5xx, a broken
    transfer or a wrong checksum; `timeout_s` limits all of them. With `compare_daily` all daily files are compared with
    their months, else only those of months that lack bars. With `offline` only local files are used.

    Raises:
        ValueError: a symbol has no file, no symbol has the first or the last day, or a file that cannot be used has no
            substitute.
        ConnectionError: the server cannot be reached.
        OSError: a file cannot be stored.
    """
    first = _check(symbols=symbols, interval=interval, start=start, market=market, base_url=base_url)
    range_days = [first + timedelta(days=n) for n in range(days)]
    root, folder = f"{base_url.rstrip('/')}/data/{market}/", Path(archive) / market
    with ExitStack() as stack:
        client = None if offline else stack.enter_context(open_client(root, connections=connections))
        local = Archive(client=client, folder=folder, read=read_bars, retries=retries, timeout_s=timeout_s)
        pool = stack.enter_context(ThreadPoolExecutor(connections))
        loaded = {
            symbol: _load_symbol(
                symbol,
                fetch_all=partial(_fetch_all, symbol=symbol, interval=interval, archive=local, pool=pool),
                days=range_days,
                bars_a_day=DAY_MS // INTERVAL_MS[interval],
                compare_daily=compare_daily,
            )
            for symbol in symbols
        }
    place = str(folder) if offline else root
    _check_range({symbol: list_days_of(table) for symbol, (table, _) in loaded.items()}, range_days, place=place)
    report = _summarize(loaded, range_days)
    for symbol, (table, _) in loaded.items():
        table.insert(0, "symbol", repeat_symbol(symbol, len(table)))
    return concat_tables([loaded.pop(symbol)[0] for symbol in symbols]), report


def _check(*, symbols: list[str], interval: str, start: str, market: str, base_url: str) -> date:
    """Return the first day; ValueError where an argument is not allowed."""
    if market not in MARKETS:
        raise ValueError(f"binance: market is {market!r}; allowed are {', '.join(MARKETS)}")
    if interval not in MARKETS[market]:
        raise ValueError(f"binance: interval is {interval!r}; allowed in {market} are {', '.join(MARKETS[market])}")
    if not symbols or len(set(symbols)) != len(symbols):
        raise ValueError(f"binance: symbols is {symbols}; give a list of at least one name, without repeats")
    if wrong := [symbol for symbol in symbols if not re.fullmatch(r"\w+", symbol)]:
        raise ValueError(f"binance: symbols has {wrong[0]!r}; a symbol has letters, digits and _, such as BTCUSDT")
    if not re.match(r"https?://[^/]", base_url):
        raise ValueError(f"binance: base_url is {base_url!r}; it begins with https:// or http:// and a host")
    try:
        return date.fromisoformat(str(start))
    except ValueError as error:
        raise ValueError(f"binance: start is {start!r}; write a day that exists as 2024-01-31") from error


def _fetch_all(
    periods: list[str], *, symbol: str, interval: str, archive: Archive[KlineFile], pool: ThreadPoolExecutor
) -> list[Fetched[KlineFile]]:
    """Return a symbol's files of some months or days, from several threads; the first error stops."""
    return list(pool.map(archive.fetch, [format_path(symbol, each, interval=interval) for each in periods]))


def _load_symbol(
    symbol: str, *, fetch_all: FetchAll, days: list[date], bars_a_day: int, compare_daily: bool
) -> tuple[pd.DataFrame, Findings]:
    """Return one symbol's bars that open on `days`, in time order, and the findings."""
    months: dict[str, list[date]] = {}
    for day in days:
        months.setdefault(f"{day:%Y-%m}", []).append(day)
    findings, tables = Findings(), []
    monthly = fetch_all(list(months))
    findings.take(monthly)
    for month_days in tqdm(months.values(), desc=f"binance {symbol}", unit="month"):
        file = monthly.pop(0)  # so that a month is not in memory longer than its bars
        table = _limit(file.content.table if file.content else pd.DataFrame(columns=FIELDS), month_days)
        if compare_daily or len(table) < bars_a_day * len(month_days):
            daily = fetch_all([f"{day}" for day in month_days])
            findings.take(daily)
            table = _add_days(symbol, table, daily, month=file, days=month_days, findings=findings)
        tables += [table] if len(table) else []
    if not tables:
        return pd.DataFrame(columns=FIELDS), findings
    return join_months(tables), findings


def join_months(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the bars of tables with FIELDS, one after another; the list is empty afterwards.

    Each table is released once it is copied: its columns share one block of memory.
    """
    rows = sum(map(len, tables))
    columns = {name: np.empty(rows, dtype=SCHEMA[name]) for name in FIELDS}
    stop = rows
    while tables:
        table = tables.pop()
        for name, column in columns.items():
            column[stop - len(table) : stop] = table[name].to_numpy()
        stop -= len(table)
    return pd.DataFrame(columns, copy=False)


def _limit(table: pd.DataFrame, days: list[date]) -> pd.DataFrame:
    """Return the bars that open on consecutive days."""
    return table[table["open_time"].between(convert_to_ms(days[0]), convert_to_ms(days[-1]) + DAY_MS - 1)]


def _add_days(
    symbol: str,
    table: pd.DataFrame,
    daily: list[Fetched[KlineFile]],
    *,
    month: Fetched[KlineFile],
    days: list[date],
    findings: Findings,
) -> pd.DataFrame:
    """Return a month's bars with those of its daily files.

    Raises:
        ValueError: a daily file cannot be used and the month lacks its day, or the month and all days lack a file.
    """
    present = set(list_days_of(table))
    for day, file in zip(days, daily, strict=True):
        if file.fault and day not in present:
            other = month.fault or "the month's file lacks the day, or does not exist"
            raise ValueError(f"binance: {symbol} has no bars of {day}: {file.fault}; {other}; {REMEDY}")
    found = [file.content.table for file in daily if file.content]
    if month.fault:
        if not found:
            raise ValueError(f"binance: {month.fault}; no day from {days[0]} to {days[-1]} has a file; {REMEDY}")
        findings.unresolved += [(d, month.fault) for d, file in zip(days, daily, strict=True) if not file.content]
    if not found:
        return table
    if not len(table):
        table = found[0].iloc[:0]
    table, repairs = repair_month(table, pd.concat(found, ignore_index=True))
    if month.content or month.fault:
        findings.repairs += [{"symbol": symbol, **each} for each in repairs]
    return table


def _check_range(present: dict[str, list[date]], days: list[date], *, place: str) -> None:
    """Raise ValueError where a symbol has no bar, or the first or the last day has none of any symbol."""
    if absent := [symbol for symbol, found in present.items() if not found]:
        raise ValueError(
            f"binance: {place} has no file of {', '.join(absent)} from {days[0]} to {days[-1]}; "
            "choose symbols, interval, start and days that exist"
        )
    first, last = min(found[0] for found in present.values()), max(found[-1] for found in present.values())
    bounds = [("first", days[0], first), ("last", days[-1], last)]
    if faults := [
        f"no bar on {day}; the {name} day that exists is {found}" for name, day, found in bounds if day != found
    ]:
        raise ValueError(
            f"binance: {place} has {', and '.join(faults)}; a day is published after it ends: "
            f"set start to {first} and days to {(last - first).days + 1}"
        )


def _summarize(loaded: dict[str, tuple[pd.DataFrame, Findings]], days: list[date]) -> Record:
    """Return the report, and log each symbol's range, repairs and holes.

    Raises:
        ValueError: a month's file cannot be used, and a day between the symbol's first and last has no file.
    """
    symbols = {}
    for symbol, (table, findings) in loaded.items():
        present = list_days_of(table)
        between = [day for day in days if present[0] <= day <= present[-1]]
        for day, fault in findings.unresolved:
            if day in between:
                raise ValueError(f"binance: {fault}; {day} has no daily file; {REMEDY}")
        first_ms, last_ms = int(table["open_time"].iloc[0]), int(table["open_time"].iloc[-1])
        holes = [f"{day}" for day in sorted(set(between) - set(present))]
        symbols[symbol] = {
            **{"rows": len(table), "first_ms": first_ms, "last_ms": last_ms},
            "days_before_first": (present[0] - days[0]).days,
            "days_after_last": (days[-1] - present[-1]).days,
            "missing_days": holes,
        }
        log.info(f"binance: {symbol} has {len(table):,} bars, {format_time(first_ms)} to {format_time(last_ms)}")
        if holes:
            log.warning(f"binance: {symbol} has no file of {len(holes)} day(s), {_list_first(holes)}: they are holes")
    found = [findings for _, findings in loaded.values()]
    report = {
        "symbols": symbols,
        "repairs": [each for one in found for each in one.repairs],
        "unusable": [each for one in found for each in one.unusable],
        "notes": _count_notes([each for one in found for each in one.notes]),
    }
    _warn(report)
    return report


def _warn(report: Record) -> None:
    if repairs := report["repairs"]:
        listed = [f"{each['symbol']} {each['day']}" for each in repairs]
        log.warning(
            f"binance: {len(repairs)} day(s) of monthly files are repaired from daily files, "
            f"{sum(each['added'] for each in repairs):,} bars added and "
            f"{sum(each['replaced'] for each in repairs):,} replaced: {_list_first(listed)}"
        )
    for fault in report["unusable"][:MAX_LISTED]:
        log.warning(f"binance: passed over: {fault}")


def _list_first(names: list[str]) -> str:
    return ", ".join(names[:MAX_LISTED]) + (f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else "")


def _count_notes(notes: list[str]) -> list[str]:
    """Return each note once, with the number of files that it is of."""
    return [f"{note}: {notes.count(note):,} file(s)" for note in dict.fromkeys(notes)]
