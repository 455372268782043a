"""The kline table: its schema, what is wrong with one, and its segments (a segment = one symbol, no hole)."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

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
# Decades that a count since 1970 falls into between 1973 and 5138, by its unit.
UNITS = {"seconds": (-np.inf, 1e11), "microseconds": (1e14, 1e17), "nanoseconds": (1e17, np.inf)}
ROUNDING = 1e-9  # relative; a taker part and its total are rounded to decimals apart from each other
SHOWN_ROWS = 5

Mask = npt.NDArray[np.bool_]
Record = dict[str, Any]


class Check(NamedTuple):
    """One thing that may be wrong: `offends` maps a table, each symbol's rows together, to a mask of bad rows."""

    name: str
    columns: list[str]
    remedy: str
    offends: Callable[[pd.DataFrame], Mask]


def interval_ms(table: pd.DataFrame) -> int:
    """The bar length: the most common step of open_time within a symbol, whose rows must lie together."""
    step = np.diff(_times(table))[~_symbol_changes(table)]
    step = step[step > 0]
    if not step.size:
        raise ValueError(f"bars: no symbol has two bars one after the other in {len(table)} rows; give a longer table")
    if (step == step[0]).all():
        return int(step[0])
    values, counts = np.unique(step, return_counts=True)
    return int(values[np.argmax(counts)])


def bars_per_year(table: pd.DataFrame) -> float:
    """How many bars a year of 365 days has, for a market that never closes."""
    return YEAR_MS / interval_ms(table)


def segments(table: pd.DataFrame) -> npt.NDArray[np.int32]:
    """(N,) 0, 1, 2 …: a new one where the symbol changes or open_time does not advance by exactly one bar."""
    breaks = _symbol_changes(table) | (np.diff(_times(table)) != interval_ms(table))
    return np.concatenate([[0], np.cumsum(breaks)]).astype(np.int32)


def holes(table: pd.DataFrame) -> list[Record]:
    """Each gap within a symbol: the open_time of the bars on its two sides, and how many bars are missing."""
    time, bar_ms = _times(table), interval_ms(table)
    before_hole = np.flatnonzero(~_symbol_changes(table) & (np.diff(time) > bar_ms))
    return [
        {
            "symbol": str(table["symbol"].iloc[i]),
            "after_ms": int(time[i]),
            "before_ms": int(time[i + 1]),
            "missing_bars": int(-(-(time[i + 1] - time[i]) // bar_ms) - 1),
        }
        for i in before_hole
    ]


def findings(table: pd.DataFrame) -> list[Record]:
    """Everything wrong with a raw table: name, count, first offending rows (by position) and what to do about it.

    Values are judged only where the schema holds, times off the grid only where the times are in milliseconds and in
    order: one mistake is not reported as three.
    """
    wrong = list(_schema_findings(table))
    if wrong:
        return wrong
    grouped = _grouped(table)
    wrong = _failed(grouped, VALUE_CHECKS)
    wrong_time = _failed(grouped, UNIT_CHECKS) or _failed(grouped, TIME_CHECKS)
    return wrong + (wrong_time or _failed(grouped, GRID_CHECKS))


def clean(table: pd.DataFrame) -> tuple[pd.DataFrame, Record]:
    """The one clean table, sorted by symbol and time, with `segment`; and the report of what is legitimate in it.

    Raises one ValueError that lists every thing that is wrong: how many rows, the first of them, what to do.
    """
    wrong = findings(table)
    if wrong:
        raise ValueError(_complaint(wrong, rows=len(table)))
    kept = _grouped(table)[list(COLUMNS)].astype(SCHEMA).reset_index(drop=True)
    kept["segment"] = segments(kept)
    return kept, report(kept)


def report(table: pd.DataFrame) -> Record:
    """What a clean table holds, what was asked of it, and what is unusual but legitimate: holes, zero volume …"""
    asked = [check.name for check in (*VALUE_CHECKS, *UNIT_CHECKS, *TIME_CHECKS, *GRID_CHECKS)]
    bar_ms, gaps = interval_ms(table), holes(table)
    odd = (table["close_time"] - table["open_time"] != bar_ms - 1).to_numpy()
    return {
        "rows": len(table),
        "interval_ms": bar_ms,
        "segments": int(table["segment"].iloc[-1]) + 1,
        "zero_volume_bars": int((table["volume"] == 0).sum()),
        "missing_bars": sum(gap["missing_bars"] for gap in gaps),
        "odd_close_time": {"count": int(odd.sum()), "first_rows": _first_rows(table, odd, columns=["close_time"])},
        "symbols": _by_symbol(table, gaps),
        "holes": {"count": len(gaps), "list": gaps},
        "offending_rows": dict.fromkeys(["schema", *asked], 0),
    }


def _by_symbol(table: pd.DataFrame, gaps: list[Record]) -> dict[str, Record]:
    """Rows, first and last open_time, segments, zero-volume bars and missing bars of each symbol."""
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


def _times(table: pd.DataFrame) -> npt.NDArray[np.int64]:
    return table["open_time"].to_numpy(np.int64)


def _codes(table: pd.DataFrame) -> npt.NDArray[np.intp]:
    """(N,) 0, 1 … by symbol in alphabetical order; all 0 for a table of one symbol, which may leave the column out."""
    if "symbol" not in table.columns:
        return np.zeros(len(table), dtype=np.intp)
    codes, _ = pd.factorize(table["symbol"], sort=True)
    return np.asarray(codes, dtype=np.intp)


def _symbol_changes(table: pd.DataFrame) -> Mask:
    """(N-1,) whether the next row belongs to another symbol."""
    return np.asarray(np.diff(_codes(table)) != 0)


def _grouped(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with each symbol's together, their order within a symbol kept; the index is the original position."""
    table, codes = table.reset_index(drop=True), _codes(table)
    return table if (np.diff(codes) >= 0).all() else table.iloc[np.argsort(codes, kind="stable")]


def _schema_findings(table: pd.DataFrame) -> Iterator[Record]:
    """Missing columns, columns of a wrong type, or no rows at all."""
    for column in COLUMNS:
        if column not in table.columns:
            yield _finding(f"missing column {column}", remedy=f"a kline table has {', '.join(COLUMNS)}")
        elif not _fits(table[column].dtype, SCHEMA[column]):
            remedy = f"store it as {SCHEMA[column]}; whole numbers are taken for float64 too"
            yield _finding(f"{column} has type {table[column].dtype}", count=len(table), remedy=remedy)
    if not len(table):
        yield _finding("no rows", remedy="give a source that holds at least two bars of a symbol")


def _fits(dtype: Any, wanted: str) -> bool:
    """Whether the column turns into the wanted type without losing anything."""
    if wanted == "str":
        return isinstance(dtype, pd.StringDtype)
    if not isinstance(dtype, np.dtype):
        return False
    return dtype.kind in "iu" or (wanted == "float64" and dtype == np.float64)


def _finding(name: str, *, remedy: str, count: int = 0, first_rows: tuple[Record, ...] = ()) -> Record:
    return {"name": name, "count": count, "first_rows": list(first_rows), "remedy": remedy}


def _failed(grouped: pd.DataFrame, checks: list[Check]) -> list[Record]:
    wrong = []
    for check in checks:
        bad = check.offends(grouped)
        if bad.any():
            rows = tuple(_first_rows(grouped, bad, columns=check.columns))
            wrong.append(_finding(check.name, count=int(bad.sum()), first_rows=rows, remedy=check.remedy))
    return wrong


def _first_rows(table: pd.DataFrame, bad: Mask, *, columns: list[str]) -> list[Record]:
    """The first few bad rows, by their position in the table that was given, with the columns that show it."""
    shown = table.loc[bad, list(dict.fromkeys(["symbol", "open_time", *columns]))].iloc[:SHOWN_ROWS]
    plain = shown.reset_index(names="row").astype(object)
    return [{str(name): _plain(value) for name, value in row.items()} for row in plain.to_dict("records")]


def _plain(value: Any) -> Any:
    """The value as JSON knows it: what is not finite becomes its name."""
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value


def _complaint(wrong: list[Record], *, rows: int) -> str:
    lines = [f"klines: {len(wrong)} check(s) failed on {rows:,} rows; put the source right and fetch again"]
    for finding in wrong:
        count = f": {finding['count']:,} row(s)" if finding["count"] else ""
        lines.append(f"- {finding['name']}{count}. {finding['remedy']}")
        lines += ["    " + ", ".join(f"{k}={v}" for k, v in row.items()) for row in finding["first_rows"]]
    return "\n".join(lines)


def _not_finite(column: str) -> Callable[[pd.DataFrame], Mask]:
    if SCHEMA[column] == "str":
        return lambda t: (t[column].isna() | (t[column] == "")).to_numpy(bool)
    return lambda t: ~np.isfinite(t[column].to_numpy())


def _in_unit(column: str, unit: str) -> Callable[[pd.DataFrame], Mask]:
    low, high = UNITS[unit]
    return lambda t: ((t[column] >= low) & (t[column] < high)).to_numpy()


def _any_below(columns: list[str], floor: float, *, included: bool) -> Callable[[pd.DataFrame], Mask]:
    return lambda t: np.any([(t[c] <= floor) if included else (t[c] < floor) for c in columns], axis=0)


def _above(part: str, total: str) -> Callable[[pd.DataFrame], Mask]:
    return lambda t: (t[part] > t[total] * (1 + ROUNDING)).to_numpy()


def _outside_range(t: pd.DataFrame) -> Mask:
    """Bars whose high or low does not bound open and close. A NaN is another check's business."""
    top, bottom = np.maximum(t["open"], t["close"]), np.minimum(t["open"], t["close"])
    return ((t["high"] < top) | (t["low"] > bottom) | (t["high"] < t["low"])).to_numpy()


def _backwards(t: pd.DataFrame) -> Mask:
    goes_back = ~_symbol_changes(t) & (np.diff(_times(t)) < 0)
    return np.concatenate([[False], goes_back])


def _closed_early(t: pd.DataFrame) -> Mask:
    return (t["close_time"] < t["open_time"]).to_numpy()


def _repeated(t: pd.DataFrame) -> Mask:
    return pd.DataFrame({"symbol": _codes(t), "time": _times(t)}).duplicated().to_numpy()


def _off_grid(t: pd.DataFrame) -> Mask:
    """Bars that do not open where most bars of the table do, counted modulo the bar length."""
    phase = _times(t) % interval_ms(t)
    if (phase == phase[0]).all():
        return np.zeros(len(t), dtype=bool)
    values, counts = np.unique(phase, return_counts=True)
    return np.asarray(phase != values[np.argmax(counts)])


def _other_interval(t: pd.DataFrame) -> Mask:
    """Rows of symbols whose bars are of another length than the table's."""
    changes = np.flatnonzero(_symbol_changes(t)) + 1
    bad, bar_ms = np.zeros(len(t), dtype=bool), interval_ms(t)
    for first, last in zip([0, *changes], [*changes, len(t)], strict=True):
        bad[first:last] = last - first > 1 and interval_ms(t.iloc[first:last]) != bar_ms
    return bad


UNIT_FACTOR = {"seconds": "multiply by 1,000", "microseconds": "divide by 1,000", "nanoseconds": "divide by 1,000,000"}

VALUE_CHECKS = [
    *[Check(f"{c} is missing or not finite", [c], "drop or restore these rows", _not_finite(c)) for c in COLUMNS],
    Check("high and low do not bound open and close", PRICES, "restore these bars", _outside_range),
    Check("price not above zero", PRICES, "drop or restore these bars", _any_below(PRICES, 0.0, included=True)),
    Check("negative volume or trades", AMOUNTS, "restore these bars", _any_below(AMOUNTS, 0.0, included=False)),
    *[
        Check(f"{part} above {total}", [part, total], "restore the part or its total", _above(part, total))
        for part, total in [("taker_buy_base", "volume"), ("taker_buy_quote", "quote_volume")]
    ],
]
UNIT_CHECKS = [
    Check(f"{column} in {unit}", [column], f"milliseconds are wanted: {UNIT_FACTOR[unit]}", _in_unit(column, unit))
    for column in ["open_time", "close_time"]
    for unit in UNITS
]
TIME_CHECKS = [
    Check("open_time goes back", ["open_time"], "sort each symbol's rows by open_time", _backwards),
    Check("duplicate symbol and open_time", ["close"], "keep one row of each", _repeated),
    Check("close_time before open_time", ["close_time"], "restore these bars", _closed_early),
]
GRID_CHECKS = [
    Check("open_time off the bar grid", ["close_time"], "keep bars that open on whole intervals", _off_grid),
    Check("bars of another length", ["close_time"], "give each interval a dataset of its own", _other_interval),
]
