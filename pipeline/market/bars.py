"""The kline table: its schema, its validation, and its segments (a segment = one symbol, no gap)."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from annotated_types import Interval

from pipeline.market import checks, table_checks
from pipeline.market.checks import AMOUNTS as AMOUNTS
from pipeline.market.checks import OPTIONAL as OPTIONAL
from pipeline.market.checks import PRICES as PRICES
from pipeline.market.checks import format_time

Days = Annotated[int, Interval(ge=1, le=36_525)]  # that a source gives: at most a century
YEAR_MS = 365 * 24 * 3600 * 1000
SCHEMA = {
    "symbol": "str",
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
}  # times are ms UTC; the columns of OPTIONAL may be absent
COLUMNS = tuple(SCHEMA)
HAS = f"{', '.join(c for c in COLUMNS if c not in OPTIONAL)}, and may have {', '.join(OPTIONAL)}"
MAX_LISTED_ROWS = 5

Mask = npt.NDArray[np.bool_]
Record = dict[str, Any]
OffGrid = Literal["refuse", "drop"]


def find_interval_ms(table: pd.DataFrame) -> int:
    """Return the bar length: the most common step of open_time within a symbol; rows must be grouped by symbol."""
    return table_checks.find_interval(_take_times(table), _encode_symbols(table))


def list_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns of the schema that a table has, in its order."""
    return [column for column in COLUMNS if column in table.columns]


def count_bars_per_year(table: pd.DataFrame) -> float:
    """Return the number of bars in a year of 365 days: of a market that never closes, or as its calendar has them.

    Raises:
        ValueError: the bars are those of a calendar, but the table has lost its attribute `bars_per_year`.
    """
    if "bar_number" not in table.columns:
        return YEAR_MS / find_interval_ms(table)
    if "bars_per_year" not in table.attrs:
        raise ValueError("bars: the table has a bar_number but no attribute bars_per_year; read it as ingest writes it")
    return float(table.attrs["bars_per_year"])


def number_segments(table: pd.DataFrame, *, at_closings: bool = False) -> npt.NDArray[np.int32]:
    """Return (N,) segment numbers 0, 1, 2 …: a new one at each new symbol and after each gap.

    Closed hours of a calendar, see `find_gaps`, are no gap; with `at_closings` a segment begins after them too.
    """
    places, step = (_take_times(table), find_interval_ms(table)) if at_closings else _find_places(table)
    breaks = _find_symbol_changes(table) | (np.diff(places) != step)
    return np.concatenate([[0], np.cumsum(breaks)]).astype(np.int32)


def find_gaps(table: pd.DataFrame) -> list[Record]:
    """Return each gap within a symbol: the open_time of the bars on both sides, and the number of missing bars.

    Where the table has a column `bar_number`, the number of each bar among all that a calendar has, bars are missing
    where that skips numbers, and not while the market is closed.
    """
    time, (places, step) = _take_times(table), _find_places(table)
    before_gap = np.flatnonzero(~_find_symbol_changes(table) & (np.diff(places) > step))
    return [
        {
            "symbol": str(table["symbol"].iloc[i]),
            "after_ms": int(time[i]),
            "before_ms": int(time[i + 1]),
            "missing_bars": int(-(-(places[i + 1] - places[i]) // step) - 1),
        }
        for i in before_gap
    ]


def find_failed_checks(table: pd.DataFrame, *, find_off_grid: table_checks.OffGrid | None = None) -> list[Record]:
    """Return every check that a raw table fails: name, count, first bad rows (numbered from 1) and remedy.

    Values are checked only where the schema holds. The time grid is checked only where times are in milliseconds and
    sorted: that of sessions by `find_off_grid`. One fault is therefore not reported as three.
    """
    failed = list(_check_schema(table))
    if failed:
        return failed
    grouped = _group_by_symbol(table)
    codes, symbols = _factorize_symbols(grouped)
    return [
        _record_failure(
            rule.name,
            count=int(bad.sum()),
            first_rows=tuple(_list_first_rows(grouped, bad, columns=list(rule.columns))),
            remedy=rule.remedy,
        )
        for rule, bad in table_checks.find_failed_rules(
            _take_numbers(grouped), codes, symbols=symbols, find_off_grid=find_off_grid
        )
    ]


def clean(
    table: pd.DataFrame, *, off_grid: OffGrid = "refuse", find_off_grid: table_checks.OffGrid | None = None
) -> tuple[pd.DataFrame, Record]:
    """Return the clean table, sorted by symbol and time, with `segment`; and its report (see `summarize`).

    Bars that open off the grid of most bars, or by `find_off_grid` off that of a market's sessions, are refused, or
    dropped: they become gaps, and the report has their count and the first of them under `off_grid`.

    Raises:
        ValueError: a check fails; lists every failed check with its count, first rows and remedy.
    """
    failed = find_failed_checks(table, find_off_grid=find_off_grid)
    dropped = _record_failure(table_checks.OFF_GRID.name, remedy="")
    if off_grid == "drop" and (found := [each for each in failed if each["name"] == dropped["name"]]):
        (dropped,) = found
        grouped = _group_by_symbol(table)
        find = find_off_grid or table_checks.find_other_phases
        table = grouped[~find(_take_times(grouped), find_interval_ms(grouped))]
        failed = find_failed_checks(table, find_off_grid=find_off_grid)
    if failed:
        raise ValueError(_format_failed_checks(failed, rows=len(table)))
    columns = list_columns(table)
    types = {column: SCHEMA[column] for column in columns}
    cleaned = _group_by_symbol(table)[columns].astype(types).reset_index(drop=True)
    cleaned["segment"] = number_segments(cleaned)
    return cleaned, summarize(cleaned) | {"off_grid": {key: dropped[key] for key in ("count", "first_rows")}}


def summarize(table: pd.DataFrame) -> Record:
    """Return the report of a clean table: sizes, the checks passed, and unusual but legitimate data such as gaps."""
    passed = [rule.name for rule in table_checks.list_rules(list_columns(table))]
    bar_ms, gaps = find_interval_ms(table), find_gaps(table)
    irregular = (table["close_time"] - table["open_time"] != bar_ms - 1).to_numpy()
    return {
        "rows": len(table),
        "interval_ms": bar_ms,
        "segments": int(table["segment"].iloc[-1]) + 1,
        "zero_volume_bars": int((table["volume"] == 0).sum()),
        "missing_bars": sum(gap["missing_bars"] for gap in gaps),
        "irregular_close_time": {
            "count": int(irregular.sum()),
            "first_rows": _list_first_rows(table, irregular, columns=["close_time"]),
        },
        "symbols": _summarize_symbols(table, gaps),
        "gaps": {"count": len(gaps), "list": gaps},
        "failed_rows": dict.fromkeys(["schema", *passed], 0),
    }


def list_jumps_across_gaps(table: pd.DataFrame) -> Record:
    """Return the `count` of bars of a clean table after a gap and a jump of the price, and a `list` of the first."""
    rows = table_checks.find_jumps_across_gaps(_take_numbers(table), _encode_symbols(table))
    bad = np.zeros(len(table), dtype=bool)
    bad[rows] = True
    return {"count": len(rows), "list": _list_first_rows(table, bad, columns=["close"])}


def _summarize_symbols(table: pd.DataFrame, gaps: list[Record]) -> dict[str, Record]:
    """Return, by symbol, rows, first and last open_time, segments, zero-volume bars and missing bars."""
    return {
        str(part["symbol"].iloc[0]): {
            "rows": len(part),
            "first_ms": int(part["open_time"].iloc[0]),
            "last_ms": int(part["open_time"].iloc[-1]),
            "segments": int(part["segment"].nunique()),
            "zero_volume_bars": int((part["volume"] == 0).sum()),
            "missing_bars": sum(gap["missing_bars"] for gap in gaps if gap["symbol"] == part["symbol"].iloc[0]),
        }
        for part in split_symbols(table)
    }


def split_symbols(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the rows of each symbol of a table that is grouped by symbol, without a copy."""
    starts = [0, *(np.flatnonzero(_find_symbol_changes(table)) + 1).tolist(), len(table)]
    for start, stop in pairwise(starts):
        yield table.iloc[start:stop]


def concat_tables(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of tables with the same columns, one after another; the list is empty afterwards.

    A single table is not copied. Of several, no more than one column is in memory twice, where each column has its own
    memory, as of `pd.DataFrame(columns, copy=False)`.
    """
    if len(tables) == 1:
        return tables.pop().reset_index(drop=True)
    names = list(tables[0].columns)
    columns = {name: pd.concat([table.pop(name) for table in tables], ignore_index=True) for name in names}
    tables.clear()
    return pd.DataFrame(columns, copy=False)


def repeat_symbol(symbol: str, rows: int) -> pd.Series:
    """Return (rows,) a column with one symbol."""
    return pd.Series([symbol], dtype="str").repeat(rows).reset_index(drop=True)


def _take_numbers(table: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of numbers of the schema that a table has."""
    return {name: table[name].to_numpy() for name in list_columns(table) if name != "symbol"}


def _take_times(table: pd.DataFrame) -> npt.NDArray[np.int64]:
    return table["open_time"].to_numpy(np.int64)


def _find_places(table: pd.DataFrame) -> tuple[npt.NDArray[np.int64], int]:
    """Return (N,) the places of bars on their grid, and its step: bar numbers of a calendar, or open times."""
    if "bar_number" in table.columns:
        return table["bar_number"].to_numpy(np.int64), 1
    return _take_times(table), find_interval_ms(table)


def _encode_symbols(table: pd.DataFrame) -> npt.NDArray[np.intp]:
    """Return (N,) symbol codes in alphabetical order; all 0 where the table has no symbol column."""
    return _factorize_symbols(table)[0]


def _factorize_symbols(table: pd.DataFrame) -> tuple[npt.NDArray[np.intp], list[str]]:
    """Return (N,) symbol codes, -1 for a missing symbol, and the symbols in alphabetical order."""
    if "symbol" not in table.columns:
        return np.zeros(len(table), dtype=np.intp), []
    codes, symbols = pd.factorize(table["symbol"], sort=True)
    return np.asarray(codes, dtype=np.intp), list(symbols)


def _find_symbol_changes(table: pd.DataFrame) -> Mask:
    """Return (N-1,) whether the next row belongs to another symbol."""
    return np.asarray(np.diff(_encode_symbols(table)) != 0)


def _group_by_symbol(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows grouped by symbol, in their order within each; the index is the original position."""
    table, codes = table.reset_index(drop=True), _encode_symbols(table)
    return table if (np.diff(codes) >= 0).all() else table.iloc[np.argsort(codes, kind="stable")]


def _check_schema(table: pd.DataFrame) -> Iterator[Record]:
    """Yield a record for each missing column and each wrong type, and for a table without rows."""
    for column in COLUMNS:
        if column not in table.columns and column in OPTIONAL:
            continue
        if column not in table.columns:
            yield _record_failure(f"missing column {column}", remedy=f"a kline table has {HAS}")
        elif not _is_castable(table[column].dtype, SCHEMA[column]):
            remedy = f"store it as {SCHEMA[column]}; integers are accepted for float64 too"
            yield _record_failure(f"{column} has type {table[column].dtype}", count=len(table), remedy=remedy)
    if not len(table):
        yield _record_failure("no rows", remedy="use a source that has at least two bars of a symbol")


def _is_castable(dtype: Any, expected: str) -> bool:
    """Return whether a column of this dtype converts to the expected type without loss."""
    if expected == "str":
        return isinstance(dtype, pd.StringDtype)
    if not isinstance(dtype, np.dtype):
        return False
    return dtype.kind in "iu" or (expected == "float64" and dtype == np.float64)


def _record_failure(name: str, *, remedy: str, count: int = 0, first_rows: tuple[Record, ...] = ()) -> Record:
    return {"name": name, "count": count, "first_rows": list(first_rows), "remedy": remedy}


def _list_first_rows(table: pd.DataFrame, bad: Mask, *, columns: list[str]) -> list[Record]:
    """Return the first few bad rows, numbered from 1 in the input table, with those of `columns` that it has."""
    names = [name for name in dict.fromkeys(["symbol", "open_time", *columns]) if name in table.columns]
    listed = table.loc[bad, names].iloc[:MAX_LISTED_ROWS]
    rows = listed.set_axis(listed.index + 1).reset_index(names="row").astype(object)
    return [{str(name): _convert_to_json(value) for name, value in row.items()} for row in rows.to_dict("records")]


def _convert_to_json(value: Any) -> Any:
    """Return the value as JSON can hold it: NaN and infinities become their names."""
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value


def _format_cell(name: str, value: Any) -> str:
    """Return a value as a message shows it; a time in ms with its ISO 8601 text."""
    is_time = name in ("open_time", "close_time") and checks.MIN_MS <= value < checks.MAX_MS
    return f"{value} ({format_time(int(value))})" if is_time else str(value)


def _format_failed_checks(failed: list[Record], *, rows: int) -> str:
    lines = [f"klines: {len(failed)} check(s) failed on {rows:,} rows; correct the source and fetch again"]
    for record in failed:
        count = f": {record['count']:,} row(s)" if record["count"] else ""
        lines.append(f"- {record['name']}{count}. {record['remedy']}")
        listed = record["first_rows"]
        lines += ["    " + ", ".join(f"{k}={_format_cell(k, v)}" for k, v in row.items()) for row in listed]
    return "\n".join(lines)
