"""Order events of a market that never closes (L3), as crypto exchanges publish them, in parquet or CSV.

A row has `time`, `order_id`, `side`, `price`, `size` and `action`: add, change (to what is left), delete, or trade (of
a resting order, by its size). `symbol` is a column, or in the name of the file. Ids are whole numbers or texts, sizes
may be fractions. The ten levels are rebuilt from the events; they begin with an empty book, so that a stream has to
start with adds of what rests. Days are those of UTC.

Updates of levels (L2) are refused: they do not say which order changes, so that no order has a place in a queue or an
age.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.csv as pc
import pyarrow.parquet as pq

from pipeline.orderbook.book import count_units, rebuild
from pipeline.orderbook.columns import LEVELS
from pipeline.orderbook.order_states import CHANGE, NEW, REMOVE, TRADE, Messages, convert_messages
from pipeline.orderbook.raw_table import ASK, BID, Arrays, join_days
from pipeline.orderbook.settings import FIRST_NS, FIRST_YEAR, LAST_NS, LAST_YEAR
from pipeline.orderbook.source_files import Paths, check_pin, describe_error, list_files, read_name

COLUMNS = ("time", "order_id", "side", "price", "size", "action")
ACTIONS = {"add": NEW, "change": CHANGE, "delete": REMOVE, "trade": TRADE}
SIDES = {"buy": BID, "bid": BID, "b": BID, "1": BID, "sell": ASK, "ask": ASK, "s": ASK, "a": ASK, "-1": ASK}
NS_PER_UNIT = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
NS_PER_DAY = 86_400 * 10**9
WHOLE_NUMBER = r"^(0|-?[1-9][0-9]{0,17})$"  # as int64 writes it, so that two texts are two ids
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
    if not len(events):
        raise ValueError(f"l3: {files[0]} has no events; give files with at least one")
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
    if (found["symbol"].str.strip() == "").any():
        raise ValueError(f"l3: {file} has empty values in symbol; remove these rows or fill them")
    found["time_ns"] = pd.Series(_read_times(table["time"], file, time_unit=time_unit))
    for name, codes in (("side", SIDES), ("action", ACTIONS)):
        found[name] = pd.Series(_read_codes(table[name], codes, file))
    for name in ("price", "size"):
        found[name] = pd.Series(_read_amounts(table[name], found["action"].to_numpy(), file))
    return pd.DataFrame(found)


def _read_columns(file: Path) -> pd.DataFrame:
    """Return the columns of a file that events have, its rows numbered from 0; ValueError where one is not as it is."""
    wanted = (*COLUMNS, "symbol")
    try:
        if file.suffix == ".parquet":
            names = pq.read_schema(file).names
            table = pq.read_table(file, columns=[name for name in wanted if names.count(name) == 1])
        else:
            texts = dict.fromkeys(("time", "side", "action", "order_id", "symbol"), pa.string())
            options = pc.ConvertOptions(column_types=texts, null_values=[""], strings_can_be_null=True)
            table = pc.read_csv(file, convert_options=options)
            names = table.column_names
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"l3: {file} cannot be read ({describe_error(error)}); export it again") from error
    _check_columns(table, names, file)
    table = table.select([name for name in wanted if name in names])
    events: pd.DataFrame = _read_ids(table, file).to_pandas().reset_index(drop=True)  # an index may be stored as well
    return events


def _check_columns(table: pa.Table, names: list[str], file: Path) -> None:
    """Raise ValueError where a column is missing, stands twice, or has empty values."""
    missing = [name for name in COLUMNS if name not in names]
    if missing == ["order_id"] or missing == ["order_id", "action"]:
        raise ValueError(f"l3: {file} has no order_id; {L2_REMEDY}")
    if missing:
        raise ValueError(f"l3: {file} lacks {', '.join(missing)}; name its columns {', '.join(COLUMNS)}")
    if double := [name for name in (*COLUMNS, "symbol") if names.count(name) > 1]:
        raise ValueError(f"l3: {file} has several columns {', '.join(double)}; remove all but one")
    filled = [name for name in (*COLUMNS, "symbol") if name in names and name not in ("price", "size")]
    if null := [name for name in filled if table.column(name).null_count]:
        raise ValueError(f"l3: {file} has empty values in {', '.join(null)}; remove these rows or fill them")


def _read_ids(table: pa.Table, file: Path) -> pa.Table:
    """Return the table with order ids as int64 where all are such numbers in text; ValueError where they are float."""
    ids = table.column("order_id")
    if pa.types.is_floating(ids.type):
        raise ValueError(f"l3: {file}: order_id is of {ids.type}, in which ids run together; give integers or texts")
    is_text = pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)
    if is_text and compute.all(compute.match_substring_regex(ids, WHOLE_NUMBER)).as_py():
        return table.set_column(table.schema.get_field_index("order_id"), "order_id", ids.cast(pa.int64()))
    return table


def _read_times(column: pd.Series, file: Path, *, time_unit: Units) -> npt.NDArray[np.int64]:
    """Return times in ns since 1970, UTC, in whole numbers; ValueError where one is earlier than that before."""
    numbers = column
    try:
        if pd.api.types.is_string_dtype(column.dtype) and column.str.fullmatch(r"-?\d+").all():
            numbers = column.astype("int64")
        if pd.api.types.is_integer_dtype(numbers.dtype):
            time_ns = _scale_times(numbers.to_numpy(), time_unit=time_unit)
        elif pd.api.types.is_float_dtype(numbers.dtype):
            raise ValueError("times are fractions, which float64 cannot hold to the ns")
        else:
            instants = pd.DatetimeIndex(pd.to_datetime(column, utc=True, format="ISO8601")).as_unit("ns")
            if instants.hasnans:
                raise ValueError(f"row {int(np.argmax(instants.isna())) + 1} has none")
            time_ns = _scale_times(instants.asi8, time_unit="ns")
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"l3: {file}: time cannot be read ({describe_error(error)}); give whole numbers or ISO 8601"
        ) from error
    if (is_wrong := np.diff(time_ns) < 0).any():
        row = int(np.argmax(is_wrong)) + 1
        raise ValueError(f"l3: {file} row {row + 1}: time {column.iloc[row]} is before that of the row above; sort it")
    return time_ns


def _scale_times(times: npt.NDArray[np.integer[Any]], *, time_unit: Units) -> npt.NDArray[np.int64]:
    """Return times in ns; ValueError where one is out of the years in which offsets of time zones are known."""
    scale = NS_PER_UNIT[time_unit]
    is_wrong = (times < FIRST_NS // scale) | (times >= LAST_NS // scale)
    if is_wrong.any():
        row = int(np.argmax(is_wrong))
        raise ValueError(
            f"row {row + 1} has {times[row]} {time_unit}, which is not within {FIRST_YEAR} to {LAST_YEAR - 1}: "
            "sources.l3.time_unit is another one"
        )
    return times.astype(np.int64) * scale


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
    price, price_scale = _count(events["price"].to_numpy(), name="price", symbol=symbol)
    units, size_scale = _count(events["size"].to_numpy(), name="size", symbol=symbol)
    order, ids = pd.factorize(events["order_id"])
    action, side = (events[name].to_numpy(np.int64) for name in ("action", "side"))
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


def _count(values: npt.NDArray[np.float64], *, name: str, symbol: str) -> tuple[npt.NDArray[np.int64], float]:
    """Return amounts, some of which may be 0, in whole units, and the units in 1."""
    is_there = values > 0
    units = np.zeros(len(values), np.int64)
    try:
        units[is_there], scale = count_units(values[is_there], name=name)
    except ValueError as error:
        raise ValueError(f"l3: {symbol}: {error}") from error
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
