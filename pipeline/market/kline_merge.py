"""Several files of klines as one table: bars of overlapping files are used once, differing ones are refused."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.market.bars import OPTIONAL, concat_tables, find_interval_ms
from pipeline.market.checks import format_time

MIN_STEPS = 2  # a file with fewer does not say how long its bars are
MAX_LISTED_ROWS = 3

Indices = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]


class NamedTable(NamedTuple):
    """The klines of one file, with `symbol`; `name` is the file, for errors and notes."""

    name: str
    table: pd.DataFrame


class Order(NamedTuple):
    """Rows of concatenated files by symbol, time and file: their positions, symbols, times and files, (N,) each."""

    place: Indices
    symbol: Indices
    time: npt.NDArray[np.int64]
    file: Indices


def merge_tables(tables: list[NamedTable]) -> tuple[pd.DataFrame, list[str]]:
    """Return the bars of all files grouped by symbol, with `close_time`, and notes.

    Files may come in any order; several tables have no columns afterwards. Bars of several files that are equal in all
    columns are used once. Files whose own rows are out of order are only concatenated, so that validation finds the
    fault.

    Raises:
        ValueError: files have different columns or bar lengths, or differ in a bar that both have.
    """
    _check_columns(tables)
    _check_intervals(tables)
    tables = sorted(tables, key=lambda each: int(each.table["open_time"].iloc[0]))
    names, lengths = [each.name for each in tables], [len(each.table) for each in tables]
    table = concat_tables([each.table for each in tables])
    codes, _ = pd.factorize(table["symbol"])
    notes: list[str] = []
    order = _sort_rows(table, codes, lengths) if len(tables) > 1 else None
    if order is not None and _are_sorted(order):
        table, notes = _take_once(table, order, names)
    elif (np.diff(codes) < 0).any():
        table = table.iloc[np.argsort(codes, kind="stable")].reset_index(drop=True)
    if "close_time" not in table:
        notes.append("close_time is missing and is derived: open_time plus the bar length, less 1 ms")
        after = list(table.columns).index("volume") + 1
        table.insert(after, "close_time", table["open_time"] + (find_interval_ms(table) - 1))
    return table, notes


def fill_gaps(table: pd.DataFrame, *, max_bars: int) -> tuple[pd.DataFrame, list[str]]:
    """Return a table with bars in its gaps of at most `max_bars` bars, for sources that leave out bars without trades.

    Such a bar has the last close as its prices, and no volume or trades. `table` has `symbol` and `close_time`, and its
    rows are grouped by symbol; rows out of order, and steps that are no whole number of bars, stay as they are. The
    note has the number of bars and of gaps.
    """
    if not max_bars:
        return table, []
    time, interval = table["open_time"].to_numpy(np.int64), find_interval_ms(table)
    codes, _ = pd.factorize(table["symbol"])
    step = np.where(np.diff(codes) == 0, np.diff(time), interval)
    missing = np.append(np.where((step > interval) & (step % interval == 0), step // interval - 1, 0), 0)
    missing[missing > max_bars] = 0
    if not missing.any():
        return table, []
    place = np.repeat(np.arange(len(table)), missing + 1)
    bars_on = np.arange(len(place)) - np.repeat(np.cumsum(missing + 1) - missing - 1, missing + 1)
    filled, is_new = table.iloc[place].reset_index(drop=True), bars_on > 0
    filled["open_time"] += bars_on * interval
    filled.loc[is_new, "close_time"] = filled.loc[is_new, "open_time"] + interval - 1
    for column in ("open", "high", "low"):
        filled.loc[is_new, column] = filled.loc[is_new, "close"]
    for column in ("volume", *OPTIONAL):
        if column in filled:
            filled.loc[is_new, column] = 0
    count, gaps = int(missing.sum()), np.count_nonzero(missing)
    return filled, [
        f"{count:,} bars are filled with the last close and volume 0, in {gaps:,} gaps of at most {max_bars} bars"
    ]


def _check_columns(tables: list[NamedTable]) -> None:
    first = tables[0]
    for other in tables[1:]:
        if differing := sorted(set(first.table.columns) ^ set(other.table.columns)):
            having = [each.name for each in (first, other) if differing[0] in each.table.columns]
            raise ValueError(
                f"{first.name} and {other.name} have different columns: {', '.join(differing)} stand in one of them "
                f"only ({differing[0]} in {having[0]}); give all files the same columns"
            )


def _check_intervals(tables: list[NamedTable]) -> None:
    """Raise ValueError where the most common steps of two files differ, each being most of its file's steps."""
    known: tuple[str, int] | None = None
    for name, table in tables:
        interval_ms = find_clear_interval(table)
        if interval_ms is None:
            continue
        if known is not None and known[1] != interval_ms:
            raise ValueError(
                f"{known[0]} has bars of {known[1] / 60_000:g} minutes, and {name} of {interval_ms / 60_000:g}; "
                "use one dataset for each bar length"
            )
        known = known or (name, interval_ms)


def find_clear_interval(table: pd.DataFrame) -> int | None:
    """Return the step of most of the first rows, in ms; None where there is none, or fewer than MIN_STEPS steps."""
    step = np.diff(table["open_time"].to_numpy())[: 100 * MIN_STEPS]
    step = step[step > 0]
    if step.size < MIN_STEPS:
        return None
    values, counts = np.unique(step, return_counts=True)
    most = int(np.argmax(counts))
    return int(values[most]) if 2 * counts[most] > step.size else None


def _sort_rows(table: pd.DataFrame, codes: Indices, lengths: list[int]) -> Order:
    """Return the rows by symbol code, time and file; `lengths` are the rows of each file."""
    time, file = table["open_time"].to_numpy(np.int64), np.repeat(np.arange(len(lengths)), lengths)
    place = np.lexsort((np.arange(len(table)), time, codes))
    return Order(place, codes[place], time[place], file[place])


def _are_sorted(order: Order) -> bool:
    """Return whether the rows of each symbol in each file ascend in time."""
    by_file = np.lexsort((order.place, order.file, order.symbol))
    same = (np.diff(order.file[by_file]) == 0) & (np.diff(order.symbol[by_file]) == 0)
    return not (same & (np.diff(order.time[by_file]) <= 0)).any()


def _take_once(table: pd.DataFrame, order: Order, names: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows in time order, each bar once, and a note on those that several files have."""
    repeated = np.append(False, (np.diff(order.symbol) == 0) & (np.diff(order.time) == 0))
    if not repeated.any():
        in_order = (np.diff(order.place) == 1).all()
        return (table if in_order else table.iloc[order.place].reset_index(drop=True)), []
    later = np.flatnonzero(repeated)
    _refuse_differing(table, order, later, names)
    one, other = (names[order.file[i]] for i in (later[0] - 1, later[0]))
    note = f"{len(later):,} bars stand in several files, equal in all columns, and are used once: {one}, {other} …"
    return table.iloc[order.place[~repeated]].reset_index(drop=True), [note]


def _refuse_differing(table: pd.DataFrame, order: Order, later: Indices, names: list[str]) -> None:
    """Raise ValueError where a repeated bar differs from the one before it in any column."""
    first, second = (table.iloc[order.place[rows]].reset_index(drop=True) for rows in (later - 1, later))
    differs = (first != second) & ~(first.isna() & second.isna())
    bad = np.flatnonzero(differs.to_numpy().any(axis=1))
    if not bad.size:
        return
    one, other = (names[order.file[i]] for i in (later[bad[0]] - 1, later[bad[0]]))
    rows = []
    for i in bad[:MAX_LISTED_ROWS]:
        column = str(differs.columns[int(np.argmax(differs.iloc[i].to_numpy()))])
        when, symbol = format_time(int(first["open_time"].iloc[i])), first["symbol"].iloc[i]
        rows.append(f"{symbol} {when} {column} {first[column].iloc[i]} and {second[column].iloc[i]}")
    raise ValueError(
        f"{one} and {other} differ in bars that both have ({bad.size:,} in all files): {'; '.join(rows)}; "
        "remove the wrong file"
    )
