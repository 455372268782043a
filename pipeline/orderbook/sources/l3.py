"""Order events of a market that never closes (L3), as crypto exchanges publish them, in parquet or CSV.

A row has `time`, `order_id`, `side`, `price`, `size` and `action`: add, change (to what is left), delete, or trade (of
a resting order, by its size). `symbol` is a column, or in the name of the file. Ids are numbers or texts, sizes may be
fractions. The ten levels are rebuilt from the events; they begin with an empty book, so that a stream has to start with
adds of what rests. Days are those of UTC.

Updates of levels (L2) are refused: they do not say which order changes, so that no order has a place in a queue or an
age.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from pipeline.orderbook.book import count_units, rebuild
from pipeline.orderbook.columns import LEVELS
from pipeline.orderbook.order_states import CHANGE, NEW, REMOVE, TRADE, Messages, convert_messages
from pipeline.orderbook.raw_table import ASK, BID, Arrays, join_days
from pipeline.orderbook.source_files import Paths, check_pin, list_files, read_name

COLUMNS = ("time", "order_id", "side", "price", "size", "action")
ACTIONS = {"add": NEW, "change": CHANGE, "delete": REMOVE, "trade": TRADE}
SIDES = {"buy": BID, "bid": BID, "b": BID, "1": BID, "sell": ASK, "ask": ASK, "s": ASK, "a": ASK, "-1": ASK}
NS_PER_UNIT = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
NS_PER_DAY = 86_400 * 10**9
L2_REMEDY = (
    "updates of levels (L2) are no order events: no order has a place in a queue or an age; give the events of orders"
)

Units = Literal["s", "ms", "us", "ns"]


def load(
    *, path: Paths, sha256: str | None, time_unit: Units = "ns", symbol: str | None = None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the raw table of a stream of order events, and a report: rows by day, and messages that do not fit.

    Args:
        path: a file or folder of parquet or CSV, or a list of these; files of one symbol follow one another by name.
        sha256: of the files, see `check_pin`.
        time_unit: of times that are whole numbers since 1970, UTC; texts and timestamps are read as they are.
        symbol: of all rows; None: that of the column `symbol`, or of names such as BTCUSD_2024-01-01_l3.parquet.

    Raises:
        ValueError: a file is missing, unreadable or has levels in place of orders; a value is not allowed; a time is
            earlier than the one before; or the digest is not the pinned one.
    """
    files = list_files(path, suffixes=(".csv", ".parquet"), source="l3")
    check_pin(files, sha256, source="l3")
    tables = [_read_file(file, time_unit=time_unit, symbol=symbol) for file in files]
    events = tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)
    parts: list[tuple[str, str, Arrays]] = []
    faults: dict[str, dict[str, int]] = {}
    for name, own in events.groupby("symbol", sort=True):
        arrays, faults[str(name)] = _rebuild_symbol(own, symbol=str(name))
        parts += _split_days(str(name), arrays)
    days = {f"{name} {day}": len(arrays["time_ns"]) for name, day, arrays in parts}
    return join_days(parts), {"days": days, "faults": faults}


def _read_file(file: Path, *, time_unit: Units, symbol: str | None) -> pd.DataFrame:
    """Return the events of a file with `symbol`, times in ns, and codes of sides and actions."""
    table = _read_columns(file)
    if "symbol" in table.columns and symbol is not None:
        raise ValueError(f"l3: {file} has a symbol column, and sources.l3.symbol is {symbol}; set it to null")
    if "symbol" not in table.columns:
        table["symbol"] = symbol if symbol is not None else read_name(file, source="l3").symbol
    found = {"symbol": table["symbol"].astype("str"), "order_id": table["order_id"]}
    found["time_ns"] = pd.Series(_read_times(table["time"], file, time_unit=time_unit))
    for name, codes in (("side", SIDES), ("action", ACTIONS)):
        found[name] = pd.Series(_read_codes(table[name], codes, file))
    for name in ("price", "size"):
        found[name] = pd.Series(_read_amounts(table[name], found["action"].to_numpy(), file))
    return pd.DataFrame(found)


def _read_columns(file: Path) -> pd.DataFrame:
    try:
        if file.suffix == ".parquet":
            names = pq.read_schema(file).names
            table = pq.read_table(file, columns=[name for name in names if name in (*COLUMNS, "symbol")])
        else:
            options = pc.ConvertOptions(column_types={name: pa.string() for name in ("time", "side", "action")})
            table = pc.read_csv(file, convert_options=options)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"l3: {file} cannot be read ({error}); export it again") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing == ["order_id"] or missing == ["order_id", "action"]:
        raise ValueError(f"l3: {file} has no order_id; {L2_REMEDY}")
    if missing:
        raise ValueError(f"l3: {file} lacks {', '.join(missing)}; name its columns {', '.join(COLUMNS)}")
    if null := [name for name in COLUMNS if table.column(name).null_count and name not in ("price", "size")]:
        raise ValueError(f"l3: {file} has empty values in {', '.join(null)}; remove these rows or fill them")
    events: pd.DataFrame = table.to_pandas()
    return events


def _read_times(column: pd.Series, file: Path, *, time_unit: Units) -> npt.NDArray[np.int64]:
    """Return times in ns since 1970, UTC, in whole numbers; ValueError where one is earlier than that before."""
    numbers = column
    if pd.api.types.is_string_dtype(column.dtype) and column.str.fullmatch(r"\d+").all():
        numbers = column.astype("int64")
    try:
        if pd.api.types.is_integer_dtype(numbers.dtype):
            time_ns = numbers.to_numpy(np.int64) * NS_PER_UNIT[time_unit]
        elif pd.api.types.is_float_dtype(numbers.dtype):
            raise ValueError("times are fractions, which float64 cannot hold to the ns")
        else:
            time_ns = pd.DatetimeIndex(pd.to_datetime(column, utc=True, format="ISO8601")).as_unit("ns").asi8
    except ValueError as error:
        raise ValueError(f"l3: {file}: time cannot be read ({error}); give whole numbers or ISO 8601") from error
    if (is_wrong := np.diff(time_ns) < 0).any():
        row = int(np.argmax(is_wrong)) + 1
        raise ValueError(f"l3: {file} row {row + 1}: time {column.iloc[row]} is before that of the row above; sort it")
    return np.asarray(time_ns, dtype=np.int64)


def _read_codes(column: pd.Series, codes: dict[str, int], file: Path) -> npt.NDArray[np.int64]:
    """Return the code of each word; ValueError names the first that is unknown."""
    words = column.astype("str").str.lower()
    found = words.map(codes)
    if (is_unknown := found.isna().to_numpy()).any():
        row = int(np.argmax(is_unknown))
        raise ValueError(
            f"l3: {file} row {row + 1}: {column.name} is {column.iloc[row]!r}; allowed are {', '.join(codes)}"
        )
    return np.asarray(found, dtype=np.int64)


def _read_amounts(column: pd.Series, action: npt.NDArray[np.int64], file: Path) -> npt.NDArray[np.float64]:
    """Return prices or sizes, 0 where a delete has none; ValueError names the first that is not allowed."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, copy=True)
    values[(action == REMOVE) & ~(values > 0)] = 0.0
    is_wrong = ~np.isfinite(values) | (values < 0) | ((values == 0) & np.isin(action, (NEW, TRADE)))
    if is_wrong.any():
        row = int(np.argmax(is_wrong))
        raise ValueError(f"l3: {file} row {row + 1}: {column.name} is {column.iloc[row]}; it must be above 0")
    return values


def _rebuild_symbol(events: pd.DataFrame, *, symbol: str) -> tuple[Arrays, dict[str, int]]:
    """Return the arrays of a symbol's events with the book after each, and the number of messages by fault."""
    time_ns = events["time_ns"].to_numpy()
    if (is_wrong := np.diff(time_ns) < 0).any():
        row = int(np.argmax(is_wrong)) + 1
        raise ValueError(f"l3: {symbol}: time {time_ns[row]} comes after {time_ns[row - 1]}; name files in time order")
    price, price_scale = _count(events["price"].to_numpy(), name="price")
    units, size_scale = _count(events["size"].to_numpy(), name="size")
    order, ids = pd.factorize(events["order_id"])
    coded = (events[name].to_numpy(np.int64) for name in ("action", "side"))
    action, side = coded
    taken, faults = convert_messages(Messages(action, order.astype(np.int64), units, price, side), orders=len(ids))
    if not len(taken.row):
        raise ValueError(f"l3: {symbol}: no event changes an order that was added; start with adds of what rests")
    has_numbers = pd.api.types.is_integer_dtype(events["order_id"].dtype)
    numbers = events["order_id"].to_numpy() if has_numbers else order + 1
    arrays: Arrays = {
        "time_ns": time_ns[taken.row],
        "action": taken.action.astype(np.int8),
        "order_id": numbers[taken.row].astype(np.int64),
        "size": taken.units / size_scale,
        "price": taken.price / price_scale,
        "side": taken.side.astype(np.int8),
    }
    arrays.update(rebuild(arrays, levels=LEVELS).columns)
    return arrays, faults


def _count(values: npt.NDArray[np.float64], *, name: str) -> tuple[npt.NDArray[np.int64], float]:
    """Return amounts, some of which may be 0, in whole units, and the units in 1."""
    is_there = values > 0
    units = np.zeros(len(values), np.int64)
    units[is_there], scale = count_units(values[is_there], name=name)
    return units, scale


def _split_days(symbol: str, arrays: Arrays) -> list[tuple[str, str, Arrays]]:
    """Return the arrays of each day, of UTC."""
    day = arrays["time_ns"] // NS_PER_DAY
    bounds = [0, *(np.flatnonzero(np.diff(day)) + 1).tolist(), len(day)]
    return [
        (
            symbol,
            str(np.datetime64(int(day[start]), "D")),
            {name: values[start:stop] for name, values in arrays.items()},
        )
        for start, stop in zip(bounds, bounds[1:], strict=False)
    ]
