"""Columns of klines under their usual names and types, converted to those of `bars.SCHEMA`."""

import re
from collections.abc import Mapping
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.market.bars import OPTIONAL, SCHEMA
from pipeline.market.kline_times import convert_times, find_row, shorten

BINANCE = (*[column for column in SCHEMA if column != "symbol"], "ignore")  # the order of the archive's columns
HEADERLESS = {6: BINANCE[:6], 11: BINANCE[:11], 12: BINANCE}  # by the number of columns
REQUIRED = tuple(c for c in SCHEMA if c not in (*OPTIONAL, "symbol", "close_time"))  # the last two can be derived
TIMES = ("open_time", "close_time")
UNNAMED = ("", "index", "indexlevel0", "unnamed0")  # an index that was stored without a name, simplified
ALIASES = {  # simplified, see `simplify`
    "symbol": "symbol ticker pair instrument",
    "open_time": "opentime opentimestamp opendatetime timestamp date datetime time unix unixtime unixtimestamp "
    "starttime windowstart ts gmttime",
    "open": "open openprice",
    "high": "high highprice",
    "low": "low lowprice",
    "close": "close closeprice",
    "volume": "volume vol basevolume volumebase baseassetvolume",
    "close_time": "closetime closetimestamp closedatetime",
    "quote_volume": "quotevolume volumequote quoteassetvolume quotevol quoteav qav turnover",
    "trades": "trades count tradecount tradescount numberoftrades numtrades ntrades transactions",
    "taker_buy_base": "takerbuybase takerbuyvolume takerbuybasevolume takerbuybaseassetvolume tbbaseav tbbav",
    "taker_buy_quote": "takerbuyquote takerbuyquotevolume takerbuyquoteassetvolume tbquoteav tbqav",
    "ignore": "ignore",
}
MEANINGS = {alias: column for column, aliases in ALIASES.items() for alias in aliases.split()}
NO_SYMBOLS = ("", "nan", "NaN", "NaT", "None", "null", "<NA>", "N/A")  # text that stands for a missing symbol
MISSING = r"(?i)^(nan|na|n/a|null|none)?$"
NUMBER = r"(?i)^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|^[-+]?inf(inity)?$"
DECIMAL_COMMA = r"^[-+]?\d*,\d+([eE][-+]?\d+)?$"
GROUPED = r"^[-+]?\d{1,3},\d{3}$"  # 42,283 is 42.283 or 42283

Floats = npt.NDArray[np.float64]


class Fields(NamedTuple):
    """The columns of a file: `places` has the position of each column of SCHEMA, `dropped` the names of others."""

    places: dict[str, int]
    dropped: tuple[str, ...]
    unnamed: int | None


class Source(NamedTuple):
    """One column of a file: its name there, and its place in the file for messages."""

    column: pa.ChunkedArray
    title: str
    place: str


def match_names(names: tuple[str, ...], *, name: str, columns: Mapping[str, str] | None = None) -> Fields:
    """Return which columns of a file are which of `bars.SCHEMA`, whatever their case, blanks and underscores.

    `columns` has the file's names of columns of SCHEMA, which then have no other name.

    Raises:
        ValueError: two columns mean the same, one that every file needs is missing, or one of `columns` is. `name` is
            the file.
    """
    given = {column: _find_title(names, title, key=column, name=name) for column, title in (columns or {}).items()}
    found = dict(given)
    dropped, unnamed = [], None
    for place, title in enumerate(names):
        simple = simplify(title)
        column = MEANINGS.get(simple)
        if place in given.values():
            continue
        if column in given:
            dropped.append(title)
        elif column is None and simple in UNNAMED and unnamed is None:
            unnamed = place
        elif column is None:
            dropped.append(title)
        elif column in found:
            raise ValueError(f"{name}: columns {_describe_double(names[found[column]], title, column)}")
        else:
            found[column] = place
    found.pop("ignore", None)
    missing = [c for c in REQUIRED if c not in found and not (c == "open_time" and unnamed is not None)]
    if missing:
        raise ValueError(
            f"{name}: there is no column {', '.join(missing)}; it has {', '.join(map(repr, names))}; "
            f"{_suggest_names(missing, names, dropped)}a file of klines needs {', '.join(REQUIRED)}"
        )
    return Fields({column: found[column] for column in SCHEMA if column in found}, tuple(dropped), unnamed)


def simplify(title: str) -> str:
    """Return the name of a column in lower case, without all but letters and digits, and without a number before it."""
    return re.sub(r"^\d+\. +|[^a-z0-9]", "", title.lower())


def _find_title(names: tuple[str, ...], title: str, *, key: str, name: str) -> int:
    """Return the place of the column that `sources.file.columns` names."""
    if title not in names:
        raise ValueError(
            f"{name}: there is no column {title!r}, which sources.file.columns.{key} names; it has "
            f"{', '.join(map(repr, names))}"
        )
    return names.index(title)


def _describe_double(first: str, second: str, column: str) -> str:
    """Return which two columns of a file mean the same, and what to do."""
    both = f"{first!r} and {second!r} both mean {column}"
    if {simplify(first), simplify(second)} == {"date", "time"}:
        return f"{both}: the day and the time of day; join them into one, such as '2024-01-31 23:59'"
    unix = [title for title in (first, second) if simplify(title).startswith("unix")]
    used = unix[0] if unix else first
    reason = ", which has a unit and a zone" if unix else ""
    return f"{both}; remove one, or set sources.file.columns: {{{column}: {used}}}{reason}"


def _suggest_names(missing: list[str], names: tuple[str, ...], dropped: list[str]) -> str:
    """Return what to do about missing columns: which unknown ones are perhaps meant."""
    if names[0].lower() == "price" or any(title.startswith("('") for title in names):
        return (
            "a table of yfinance has several rows of names: df.columns = df.columns.droplevel(1) before it is saved; "
        )
    parts = {column: ("time", "date") if column == "open_time" else (column,) for column in missing}
    likely = {
        column: [title for title in dropped if any(word in simplify(title) for word in words)]
        for column, words in parts.items()
    }
    chosen = ", ".join(f"{column}: {titles[0]}" for column, titles in likely.items() if titles)
    return f"set sources.file.columns: {{{chosen}}} where that is meant; " if chosen else "rename or add columns: "


def convert_columns(
    columns: list[pa.ChunkedArray],
    fields: Fields,
    *,
    names: tuple[str, ...],
    name: str,
    zone: ZoneInfo | None = None,
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the table with SCHEMA's columns, order and types, as far as the file has them, and notes on conversions.

    `columns` are those of the file, named `names`; the list is empty afterwards, and a column is released once it is
    converted. `name` is the file, for errors. Times without a time zone are those of `zone`, or UTC.

    Raises:
        ValueError: a value is not a time, a number or a symbol; names the column, the row from 1 and the value.
    """
    sources = {
        c: Source(_decode(columns[i]), names[i], f"{name}: column {names[i]!r}") for c, i in fields.places.items()
    }
    if "open_time" not in sources:
        assert fields.unnamed is not None
        sources["open_time"] = Source(_decode(columns[fields.unnamed]), "the index", f"{name}: no open_time; the index")
    columns.clear()
    arrays: dict[str, object] = {}
    notes = _describe_names(fields, sources)
    for column in [c for c in sources if c in (*TIMES, "symbol")]:
        source = sources.pop(column)
        if column == "symbol":
            arrays[column] = _convert_symbols(source)
        else:
            arrays[column], times = convert_times(source.column, place=source.place, label=column, zone=zone)
            notes += times
    del source
    numbers, converted = _convert_numbers(sources)
    arrays |= numbers
    table = pd.DataFrame({column: arrays[column] for column in SCHEMA if column in arrays}, copy=False)
    notes += converted
    if _is_newest_first(table):
        table = table.iloc[::-1].reset_index(drop=True)
        notes.append("the rows are reversed: the newest came first")
    return table, tuple(notes)


def _is_newest_first(table: pd.DataFrame) -> bool:
    """Return whether the times of every symbol descend; a table without symbols has one."""
    time = table["open_time"].to_numpy()
    if "symbol" not in table:
        return len(time) > 1 and bool((np.diff(time) < 0).all())
    codes, _ = pd.factorize(table["symbol"])
    order = np.argsort(codes, kind="stable")
    step = np.diff(time[order])[np.diff(codes[order]) == 0]
    return len(step) > 0 and bool((step < 0).all())


def _describe_names(fields: Fields, sources: Mapping[str, Source]) -> list[str]:
    """Return notes on the columns that are missing, unknown or taken for another."""
    title = sources["open_time"].title
    notes = [f"{title!r} is taken as the time at which a bar opens"] if simplify(title) != "opentime" else []
    missing = [column for column in BINANCE[:-1] if column not in sources and column != "close_time"]
    notes += [f"there is no column {', '.join(missing)}"] if missing else []
    notes += [f"the column {each!r} is unknown and is not used" for each in fields.dropped]
    if fields.unnamed is not None and "open_time" in fields.places:
        notes.append("a column without a name is not used")
    return notes


def _decode(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of plain values in place of a categorical one."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_text(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _convert_symbols(source: Source) -> pd.Series:
    column = source.column
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    if not _is_text(column):
        raise ValueError(f"{source.place} has type {column.type}; store symbols as text")
    column = pc.utf8_trim_whitespace(column)
    missing = pc.or_(pc.is_null(column), pc.is_in(column, pa.array(NO_SYMBOLS, column.type)))
    if pc.any(missing).as_py():
        raise ValueError(f"{source.place}, row {find_row(missing)}: there is no symbol; name the row, or drop it")
    return pd.Series(column.to_pandas(), dtype="str")


def _convert_numbers(sources: dict[str, Source]) -> tuple[dict[str, npt.NDArray[np.generic]], list[str]]:
    """Return the columns of prices and amounts in SCHEMA's types, and notes; `sources` is empty afterwards."""
    text = {c: s for c, s in sources.items() if _is_text(s.column)}
    parsed, notes = _parse_texts(text)
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    text.clear()
    for column in list(sources):
        source = sources.pop(column)
        values = parsed.pop(column) if column in parsed else _convert_typed(source)
        if source.column.type == pa.float32() and column != "trades":
            notes.append(f"{column} is converted from float32 to the float64 of its shortest decimals")
        arrays[column] = _round_whole(values, source) if SCHEMA[column] == "int64" else values
    return arrays, notes


def _convert_typed(source: Source) -> Floats:
    """Return a column of numbers as float64; float32 by its shortest decimals, so that 0.1f becomes 0.1."""
    column, kind = source.column, source.column.type
    is_decimal = pa.types.is_decimal(kind)
    if not (is_decimal or pa.types.is_integer(kind) or kind in (pa.float32(), pa.float64())):
        raise ValueError(f"{source.place} has type {kind}; store it as float64, float32, a decimal, integers or text")
    try:
        if is_decimal or kind == pa.float32():
            column = column.cast(pa.string())
        return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{source.place} has integers beyond 2^53, which float64 cannot hold; correct them") from error


def _round_whole(values: Floats, source: Source) -> npt.NDArray[np.int64]:
    bad = ~(np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) <= 2**53))
    if bad.any():
        row = find_row(bad)
        raise ValueError(
            f"{source.place}, row {row}: {values[row - 1]} is no whole number ({int(bad.sum()):,} rows); "
            "correct it, or remove the column, which a file may lack"
        )
    return values.astype(np.int64)


def _parse_texts(sources: Mapping[str, Source]) -> tuple[dict[str, Floats], list[str]]:
    """Return columns of text as float64; empty cells and the usual words for them become NaN."""
    try:
        return {c: _cast_text(s.column) for c, s in sources.items()}, []
    except pa.ArrowInvalid:
        pass
    trimmed = {c: s._replace(column=_mark_missing(s.column)) for c, s in sources.items()}
    has_commas = any(pc.any(pc.match_substring(s.column, ",")).as_py() for s in trimmed.values())
    if has_commas:
        _check_decimal_commas(trimmed)
        trimmed = {c: s._replace(column=pc.replace_substring(s.column, ",", ".")) for c, s in trimmed.items()}
    for source in trimmed.values():
        _refuse_words(source)
    arrays = {c: _cast_text(s.column) for c, s in trimmed.items()}
    return arrays, ["decimal commas are read as decimal points"] if has_commas else []


def _cast_text(column: pa.ChunkedArray) -> Floats:
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


def _mark_missing(column: pa.ChunkedArray) -> pa.ChunkedArray:
    column = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.match_substring_regex(column, MISSING), pa.scalar(None, column.type), column)


def _check_decimal_commas(sources: Mapping[str, Source]) -> None:
    """Raise ValueError where commas are, or may be, thousands separators, or stand beside decimal points."""
    commas = {c: _match(s.column, ",") for c, s in sources.items()}
    for column, source in sources.items():
        bad = pc.and_not(commas[column], _match(source.column, DECIMAL_COMMA))
        _refuse_cell(source, bad, "has a thousands separator, or is not a number; write numbers as 42283.58")
    if any(pc.any(_match(s.column, r"\.")).as_py() for s in sources.values()):
        for column, source in sources.items():
            _refuse_cell(source, commas[column], "has a comma, and other numbers of the file have decimal points")
    grouped = {c: _match(s.column, GROUPED) for c, s in sources.items()}
    if all(pc.all(pc.or_(grouped[c], pc.invert(commas[c]))).as_py() for c in sources):
        for column, source in sources.items():
            _refuse_cell(
                source, grouped[column], "has a decimal comma or a thousands separator; write a point, or none"
            )


def _match(column: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    """Return whether each cell matches; a missing one does not."""
    return pc.fill_null(pc.match_substring_regex(column, pattern), False)


def _refuse_cell(source: Source, bad: pa.ChunkedArray, fault: str) -> None:
    """Raise ValueError at the first bad cell, if there is one."""
    if pc.any(bad).as_py():
        row = find_row(bad)
        raise ValueError(f"{source.place}, row {row}: {shorten(source.column[row - 1].as_py())} {fault}")


def _refuse_words(source: Source) -> None:
    """Raise ValueError at the first cell that is neither a number nor empty."""
    bad = pc.fill_null(pc.invert(pc.match_substring_regex(source.column, NUMBER)), False)
    count = int(np.sum(np.asarray(bad)))
    _refuse_cell(source, bad, f"is not a number ({count:,} rows); correct or remove the row, such as a repeated header")
