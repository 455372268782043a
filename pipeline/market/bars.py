"""The kline table: its schema, its validation, and its segments (a segment = one symbol, no gap)."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from annotated_types import Interval

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
}  # times are ms UTC
COLUMNS = tuple(SCHEMA)

PRICES = ["open", "high", "low", "close"]
AMOUNTS = ["volume", "quote_volume", "trades", "taker_buy_base", "taker_buy_quote"]
# Ranges of a timestamp since 1970, by its unit, for the years 1973 to 5138.
UNITS = {"seconds": (-np.inf, 1e11), "microseconds": (1e14, 1e17), "nanoseconds": (1e17, np.inf)}
ROUNDING = 1e-9  # relative: a taker amount and its total are rounded separately
MAX_LISTED_ROWS = 5

Mask = npt.NDArray[np.bool_]
Record = dict[str, Any]


class Check(NamedTuple):
    """One validation rule: `find_bad_rows` maps a table, grouped by symbol, to a mask of the rows that break it."""

    name: str
    columns: list[str]
    remedy: str
    find_bad_rows: Callable[[pd.DataFrame], Mask]


def find_interval_ms(table: pd.DataFrame) -> int:
    """Return the bar length: the most common step of open_time within a symbol; rows must be grouped by symbol."""
    step = np.diff(_take_times(table))[~_find_symbol_changes(table)]
    step = step[step > 0]
    if not step.size:
        raise ValueError(f"bars: no symbol has two consecutive bars in {len(table)} rows; provide a longer table")
    if (step == step[0]).all():
        return int(step[0])
    values, counts = np.unique(step, return_counts=True)
    return int(values[np.argmax(counts)])


def count_bars_per_year(table: pd.DataFrame) -> float:
    """Return the number of bars in a year of 365 days, for a market that never closes."""
    return YEAR_MS / find_interval_ms(table)


def number_segments(table: pd.DataFrame) -> npt.NDArray[np.int32]:
    """Return (N,) segment numbers 0, 1, 2 …: a new one at each new symbol and after each gap."""
    breaks = _find_symbol_changes(table) | (np.diff(_take_times(table)) != find_interval_ms(table))
    return np.concatenate([[0], np.cumsum(breaks)]).astype(np.int32)


def find_gaps(table: pd.DataFrame) -> list[Record]:
    """Return each gap within a symbol: the open_time of the bars on both sides, and the number of missing bars."""
    time, bar_ms = _take_times(table), find_interval_ms(table)
    before_gap = np.flatnonzero(~_find_symbol_changes(table) & (np.diff(time) > bar_ms))
    return [
        {
            "symbol": str(table["symbol"].iloc[i]),
            "after_ms": int(time[i]),
            "before_ms": int(time[i + 1]),
            "missing_bars": int(-(-(time[i + 1] - time[i]) // bar_ms) - 1),
        }
        for i in before_gap
    ]


def find_failed_checks(table: pd.DataFrame) -> list[Record]:
    """Return every check that a raw table fails: name, count, first bad rows (by position) and remedy.

    Values are checked only where the schema holds. The time grid is checked only where times are in milliseconds and
    sorted. One fault is therefore not reported as three.
    """
    failed = list(_check_schema(table))
    if failed:
        return failed
    grouped = _group_by_symbol(table)
    failed = _run_checks(grouped, VALUE_CHECKS)
    failed_times = _run_checks(grouped, UNIT_CHECKS) or _run_checks(grouped, TIME_CHECKS)
    return failed + (failed_times or _run_checks(grouped, GRID_CHECKS))


def clean(table: pd.DataFrame) -> tuple[pd.DataFrame, Record]:
    """Return the clean table, sorted by symbol and time, with `segment`; and its report (see `summarize`).

    Raises:
        ValueError: a check fails; lists every failed check with its count, first rows and remedy.
    """
    failed = find_failed_checks(table)
    if failed:
        raise ValueError(_format_failed_checks(failed, rows=len(table)))
    cleaned = _group_by_symbol(table)[list(COLUMNS)].astype(SCHEMA).reset_index(drop=True)
    cleaned["segment"] = number_segments(cleaned)
    return cleaned, summarize(cleaned)


def summarize(table: pd.DataFrame) -> Record:
    """Return the report of a clean table: sizes, the checks passed, and unusual but legitimate data such as gaps."""
    passed = [check.name for check in (*VALUE_CHECKS, *UNIT_CHECKS, *TIME_CHECKS, *GRID_CHECKS)]
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


def _summarize_symbols(table: pd.DataFrame, gaps: list[Record]) -> dict[str, Record]:
    """Return, by symbol, rows, first and last open_time, segments, zero-volume bars and missing bars."""
    parts = table.groupby("symbol", sort=False)
    return {
        str(symbol): {
            "rows": len(part),
            "first_ms": int(part["open_time"].iloc[0]),
            "last_ms": int(part["open_time"].iloc[-1]),
            "segments": int(part["segment"].nunique()),
            "zero_volume_bars": int((part["volume"] == 0).sum()),
            "missing_bars": sum(gap["missing_bars"] for gap in gaps if gap["symbol"] == symbol),
        }
        for symbol, part in parts
    }


def _take_times(table: pd.DataFrame) -> npt.NDArray[np.int64]:
    return table["open_time"].to_numpy(np.int64)


def _encode_symbols(table: pd.DataFrame) -> npt.NDArray[np.intp]:
    """Return (N,) symbol codes in alphabetical order; all 0 where the table has no symbol column."""
    if "symbol" not in table.columns:
        return np.zeros(len(table), dtype=np.intp)
    codes, _ = pd.factorize(table["symbol"], sort=True)
    return np.asarray(codes, dtype=np.intp)


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
        if column not in table.columns:
            yield _record_failure(f"missing column {column}", remedy=f"a kline table has {', '.join(COLUMNS)}")
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


def _run_checks(grouped: pd.DataFrame, checks: list[Check]) -> list[Record]:
    failed = []
    for check in checks:
        bad = check.find_bad_rows(grouped)
        if bad.any():
            rows = tuple(_list_first_rows(grouped, bad, columns=check.columns))
            failed.append(_record_failure(check.name, count=int(bad.sum()), first_rows=rows, remedy=check.remedy))
    return failed


def _list_first_rows(table: pd.DataFrame, bad: Mask, *, columns: list[str]) -> list[Record]:
    """Return the first few bad rows, by their position in the input table, with the columns concerned."""
    listed = table.loc[bad, list(dict.fromkeys(["symbol", "open_time", *columns]))].iloc[:MAX_LISTED_ROWS]
    rows = listed.reset_index(names="row").astype(object)
    return [{str(name): _convert_to_json(value) for name, value in row.items()} for row in rows.to_dict("records")]


def _convert_to_json(value: Any) -> Any:
    """Return the value as JSON can hold it: NaN and infinities become their names."""
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value


def _format_failed_checks(failed: list[Record], *, rows: int) -> str:
    lines = [f"klines: {len(failed)} check(s) failed on {rows:,} rows; correct the source and fetch again"]
    for record in failed:
        count = f": {record['count']:,} row(s)" if record["count"] else ""
        lines.append(f"- {record['name']}{count}. {record['remedy']}")
        lines += ["    " + ", ".join(f"{k}={v}" for k, v in row.items()) for row in record["first_rows"]]
    return "\n".join(lines)


def _flag_not_finite(column: str) -> Callable[[pd.DataFrame], Mask]:
    if SCHEMA[column] == "str":
        return lambda t: (t[column].isna() | (t[column] == "")).to_numpy(bool)
    return lambda t: ~np.isfinite(t[column].to_numpy())


def _flag_unit(column: str, unit: str) -> Callable[[pd.DataFrame], Mask]:
    low, high = UNITS[unit]
    return lambda t: ((t[column] >= low) & (t[column] < high)).to_numpy()


def _flag_any_below(columns: list[str], minimum: float, *, inclusive: bool) -> Callable[[pd.DataFrame], Mask]:
    return lambda t: np.any([(t[c] <= minimum) if inclusive else (t[c] < minimum) for c in columns], axis=0)


def _flag_above(part: str, total: str) -> Callable[[pd.DataFrame], Mask]:
    return lambda t: (t[part] > t[total] * (1 + ROUNDING)).to_numpy()


def _flag_outside_range(t: pd.DataFrame) -> Mask:
    """Return the bars whose high or low does not bound open and close; NaN is left to another check."""
    top, bottom = np.maximum(t["open"], t["close"]), np.minimum(t["open"], t["close"])
    return ((t["high"] < top) | (t["low"] > bottom) | (t["high"] < t["low"])).to_numpy()


def _flag_unsorted(t: pd.DataFrame) -> Mask:
    is_earlier = ~_find_symbol_changes(t) & (np.diff(_take_times(t)) < 0)
    return np.concatenate([[False], is_earlier])


def _flag_closed_early(t: pd.DataFrame) -> Mask:
    return (t["close_time"] < t["open_time"]).to_numpy()


def _flag_duplicates(t: pd.DataFrame) -> Mask:
    return pd.DataFrame({"symbol": _encode_symbols(t), "time": _take_times(t)}).duplicated().to_numpy()


def _flag_off_grid(t: pd.DataFrame) -> Mask:
    """Return the bars whose open_time, modulo the bar length, differs from that of most bars."""
    phase = _take_times(t) % find_interval_ms(t)
    if (phase == phase[0]).all():
        return np.zeros(len(t), dtype=bool)
    values, counts = np.unique(phase, return_counts=True)
    return np.asarray(phase != values[np.argmax(counts)])


def _flag_other_interval(t: pd.DataFrame) -> Mask:
    """Return the rows of symbols whose bar length differs from the table's."""
    changes = np.flatnonzero(_find_symbol_changes(t)) + 1
    bad, bar_ms = np.zeros(len(t), dtype=bool), find_interval_ms(t)
    for first, last in zip([0, *changes], [*changes, len(t)], strict=True):
        bad[first:last] = last - first > 1 and find_interval_ms(t.iloc[first:last]) != bar_ms
    return bad


UNIT_FACTOR = {"seconds": "multiply by 1,000", "microseconds": "divide by 1,000", "nanoseconds": "divide by 1,000,000"}

VALUE_CHECKS = [
    *[Check(f"{c} is missing or not finite", [c], "drop or restore these rows", _flag_not_finite(c)) for c in COLUMNS],
    Check("high and low do not bound open and close", PRICES, "restore these bars", _flag_outside_range),
    Check("price not above zero", PRICES, "drop or restore these bars", _flag_any_below(PRICES, 0.0, inclusive=True)),
    Check("negative volume or trades", AMOUNTS, "restore these bars", _flag_any_below(AMOUNTS, 0.0, inclusive=False)),
    *[
        Check(f"{part} above {total}", [part, total], "restore the part or its total", _flag_above(part, total))
        for part, total in [("taker_buy_base", "volume"), ("taker_buy_quote", "quote_volume")]
    ],
]
UNIT_CHECKS = [
    Check(f"{column} in {unit}", [column], f"convert to milliseconds: {UNIT_FACTOR[unit]}", _flag_unit(column, unit))
    for column in ["open_time", "close_time"]
    for unit in UNITS
]
TIME_CHECKS = [
    Check("open_time not ascending", ["open_time"], "sort each symbol's rows by open_time", _flag_unsorted),
    Check("duplicate symbol and open_time", ["close"], "keep one row of each", _flag_duplicates),
    Check("close_time before open_time", ["close_time"], "restore these bars", _flag_closed_early),
]
GRID_CHECKS = [
    Check("open_time off the bar grid", ["close_time"], "keep bars that open on whole intervals", _flag_off_grid),
    Check("bars of another interval", ["close_time"], "use one dataset for each interval", _flag_other_interval),
]
