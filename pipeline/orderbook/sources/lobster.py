"""LOBSTER's files: a day's messages and the book after each, as pairs of CSV, or both in one parquet file.

Times are seconds since the midnight of the exchange's day, read from their decimal text as whole nanoseconds. Prices
are in units of 1/10,000. Levels beyond the tenth are dropped, missing ones are empty. Names of files are such as
`GOOG_2012-06-21_34200000_57600000_message_10.csv`, with `..._orderbook_10.csv`; or `GOOG_2012-06-21_L10.parquet`.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.csv as pc
import pyarrow.parquet as pq

from pipeline.market.time_zones import load_zone
from pipeline.orderbook.columns import BOOK, LEVELS
from pipeline.orderbook.raw_table import HALT, Arrays, join_days
from pipeline.orderbook.settings import FIRST_NS, FIRST_YEAR, LAST_NS, LAST_YEAR
from pipeline.orderbook.source_files import NamedFile, Paths, check_pin, describe_error, list_files, read_name

UNITS_PER_PRICE = 10_000
EMPTY_PRICE = 9_999_999_999  # of an ask level that is empty; of a bid with a minus
DIGITS = 12  # of seconds behind the point, that are read
PS_PER_NS, NS_PER_DAY, SECONDS_PER_WEEK = 1000, 86_400 * 10**9, 7 * 86_400
MESSAGE_COLUMNS = ("time", "type", "order_id", "size", "price", "direction")
WHOLE = re.compile(r"-?\d+")
CODES = {"type": (0, 127), "direction": (-128, 127)}  # the range of int8; which of them are allowed, `checks` knows
MESSAGES, BOOKS = "_message_", "_orderbook_"


def load(*, path: Paths, sha256: str | None, timezone: str = "America/New_York") -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the raw table of LOBSTER's days and a report of what was read.

    Args:
        path: a file or folder of CSV or parquet, or a list of these; the book of a message file is that of its name.
        sha256: of the files, see `check_pin`.
        timezone: IANA name, of the exchange, whose midnight times count from.

    Raises:
        ValueError: a file is missing, unreadable, without a symbol and day in its name, or contradicts its pair; a time
            is earlier than the one before; or the digest is not the pinned one.
    """
    days = _find_days(path)
    check_pin([file for _, files in days for file in files], sha256, source="lobster")
    parts: list[tuple[str, str, Arrays]] = []
    listed: dict[str, int] = {}
    empty: dict[str, int] = {}
    for named, files in days:
        arrays, count = _read_day(files, midnight_ns=_find_midnight(named, timezone))
        parts.append((named.symbol, named.day, arrays))
        empty[f"{named.symbol} {named.day}"] = count
        listed[f"{named.symbol} {named.day}"] = len(arrays["time_ns"])
    table = join_days(parts)
    return table, {"days": listed, "empty_levels": empty, "timezone": timezone}


def _find_days(path: Paths) -> list[tuple[NamedFile, list[Path]]]:
    """Return each day with its files, a parquet file or the messages and the book; ValueError on a day given twice."""
    found: dict[tuple[str, str], tuple[NamedFile, list[Path]]] = {}
    for file in list_files(path, suffixes=(".csv", ".parquet"), source="lobster"):
        is_pair = file.suffix == ".csv"
        if is_pair and MESSAGES not in file.name and BOOKS not in file.name:
            raise ValueError(f"lobster: {file} is neither a ..{MESSAGES}.. nor a ..{BOOKS}.. file; remove or rename it")
        named = read_name(file, source="lobster")
        files = [file.with_name(file.name.replace(*each)) for each in ((BOOKS, MESSAGES), (MESSAGES, BOOKS))]
        files = files if is_pair else [file]
        for each in files:
            if not each.is_file():
                raise ValueError(f"lobster: {file} lacks the other file of its pair, {each.name}; put it beside")
        known = found.setdefault((named.symbol, named.day), (named, files))[1]
        if known != files:
            raise ValueError(f"lobster: {named.symbol} {named.day} is in {known[0]} and {files[0]}; give one of them")
    return list(found.values())


def _find_midnight(named: NamedFile, timezone: str) -> int:
    """Return the ns since 1970 (UTC) at which the exchange's day begins."""
    zone = load_zone(timezone, key="sources.lobster.timezone")
    try:
        midnight_ns = int(pd.Timestamp(named.day, tz=zone).as_unit("ns").value)
    except ValueError as error:
        raise ValueError(
            f"lobster: {named.path} has no day in its name: {named.day} ({describe_error(error)}); rename it"
        ) from error
    if not FIRST_NS <= midnight_ns < LAST_NS:
        raise ValueError(f"lobster: {named.path} is of {named.day}; days are from {FIRST_YEAR} to {LAST_YEAR - 1}")
    return midnight_ns


def _read_day(files: list[Path], *, midnight_ns: int) -> tuple[Arrays, int]:
    """Return the arrays of a day's events, and the number of its levels that are empty, missing ones included."""
    table = _read_parquet(files[0]) if len(files) == 1 else _read_pair(*files)
    action, time = table.pop("type"), table.pop("time_ns")
    _check_times(time, files[0])
    price = table.pop("price").astype(np.float64)
    arrays: Arrays = {
        "time_ns": time + midnight_ns,
        "action": action.astype(np.int8),
        "order_id": table.pop("order_id").astype(np.int64),
        "size": table.pop("size").astype(np.float64),
        "price": np.where(action == HALT, price, price / UNITS_PER_PRICE),
        "side": table.pop("direction").astype(np.int8),
    }
    empty = 0
    for side in ("ask", "bid"):
        for level in range(1, LEVELS + 1):
            count = _take_level(table, arrays, side=side, level=level)
            empty += count
    return arrays, empty


def _take_level(table: Arrays, arrays: Arrays, *, side: str, level: int) -> int:
    """Put a level into the arrays, 0 where it is empty; return the number of these rows."""
    price_name, size_name = f"{side}_price_{level}", f"{side}_size_{level}"
    rows = len(arrays["time_ns"])
    price, size = (table.pop(name, np.zeros(rows)).astype(np.float64) for name in (price_name, size_name))
    price[np.abs(price) == EMPTY_PRICE] = 0.0
    arrays[price_name], arrays[size_name] = price / UNITS_PER_PRICE, size
    return int(np.count_nonzero(price == 0))


def _check_times(time_ns: npt.NDArray[np.int64], file: Path) -> None:
    """Raise ValueError where a time is earlier than the one before, or not within a day."""
    is_wrong = np.append(False, np.diff(time_ns) < 0)[: len(time_ns)]
    is_beyond = (time_ns < 0) | (time_ns > NS_PER_DAY * 25 // 24)  # a day has 25 hours where the clock goes back
    if is_wrong.any() or is_beyond.any():
        row = int(np.argmax(is_wrong | is_beyond))
        what = (
            "is not within a day" if is_beyond[row] else f"is earlier than {time_ns[row - 1]}, that of the row before"
        )
        raise ValueError(
            f"lobster: {file} row {row + 1}: time is {time_ns[row]} ns since midnight, which {what}; export it again"
        )


def _read_pair(messages: Path, books: Path) -> Arrays:
    """Return the columns of a pair of CSV files, their prices as LOBSTER has them."""
    options = pc.ConvertOptions(column_types={"f0": pa.decimal128(2 * DIGITS, DIGITS)})
    table, book = _read_csv(messages, options), _read_csv(books, pc.ConvertOptions())
    levels, odd = divmod(book.num_columns, 4)
    named = books.stem.rpartition("_")[2]
    if odd or table.num_columns < len(MESSAGE_COLUMNS) or (named.isdecimal() and int(named) != levels):
        raise ValueError(
            f"lobster: {messages} has {table.num_columns} columns and {books.name} {book.num_columns}; allowed are at "
            f"least 6, and 4 for each of the levels that its name ends with; export the day again"
        )
    if table.num_rows != book.num_rows:
        raise ValueError(
            f"lobster: {messages} has {table.num_rows} rows and {books.name} {book.num_rows}; each message has one row "
            "of the book: export the day again"
        )
    columns: Arrays = {"time_ns": _read_times(table.column(0), messages)}
    for i, name in enumerate(MESSAGE_COLUMNS[1:], start=1):
        columns[name] = _take_numbers(table.column(i), name, messages)
    for i in range(4 * min(levels, LEVELS)):
        level, place = divmod(i, 4)
        name = f"{('ask_price', 'ask_size', 'bid_price', 'bid_size')[place]}_{level + 1}"
        columns[name] = _take_numbers(book.column(i), name, books)
    return columns


def _read_csv(file: Path, options: pc.ConvertOptions) -> pa.Table:
    try:
        return pc.read_csv(file, read_options=pc.ReadOptions(autogenerate_column_names=True), convert_options=options)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"lobster: {file} cannot be read as CSV without a header ({describe_error(error)}); export it again"
        ) from error


def _read_times(column: pa.ChunkedArray, file: Path) -> npt.NDArray[np.int64]:
    """Return seconds as decimals in whole ns, digits beyond them rounded; ValueError where one is missing."""
    if column.null_count:
        raise ValueError(f"lobster: {file}: time is empty in {column.null_count} rows; export it again")
    extremes = compute.min_max(column).as_py()
    if any(abs(each) > SECONDS_PER_WEEK for each in extremes.values() if each is not None):
        raise ValueError(
            f"lobster: {file}: times are from {extremes['min']} to {extremes['max']} s since midnight, which are not "
            "within a day; export it again"
        )
    buffers = [chunk.buffers()[1] for chunk in column.chunks]
    ps = [  # of a 128-bit integer the lower half: a week has less than 2 ** 60 ps
        np.frombuffer(buffer, np.int64)[0::2][chunk.offset : chunk.offset + len(chunk)]
        for buffer, chunk in zip(buffers, column.chunks, strict=True)
    ]
    return np.asarray((np.concatenate([*ps, np.empty(0, np.int64)]) + PS_PER_NS // 2) // PS_PER_NS)


def _take_numbers(column: pa.ChunkedArray, name: str, file: Path) -> npt.NDArray[Any]:
    """Return a column of whole numbers; ValueError names the file, and the first row that is none."""
    if not len(column):
        return np.empty(0, np.int64)
    if column.null_count or not pa.types.is_integer(column.type):
        cells = column.cast(pa.string()).to_pylist()
        row, cell = next(((i, cell) for i, cell in enumerate(cells) if not WHOLE.fullmatch(cell or "")), (0, cells[0]))
        raise ValueError(
            f"lobster: {file}: {name} is {'empty' if cell is None else repr(cell)} in row {row + 1}; allowed are "
            f"whole numbers, and the column is of {column.type}: correct it, or export the file again"
        )
    values: npt.NDArray[Any] = np.asarray(column.to_numpy())
    low, high = CODES.get(name, (None, None))
    if low is not None and (is_wrong := (values < low) | (values > high)).any():
        row = int(np.argmax(is_wrong))
        raise ValueError(f"lobster: {file}: {name} is {values[row]} in row {row + 1}, which is no code; correct it")
    return values


def _read_parquet(file: Path) -> Arrays:
    """Return the columns of a day in parquet: `time_ns` or `time` since midnight, the message and the levels."""
    wanted = {"time_ns", *MESSAGE_COLUMNS, *BOOK}
    try:
        names = pq.read_schema(file).names
        table = pq.read_table(file, columns=[name for name in names if name in wanted and names.count(name) == 1])
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"lobster: {file} cannot be read as parquet ({describe_error(error)}); export it again"
        ) from error
    if double := sorted(name for name in wanted if names.count(name) > 1):
        raise ValueError(f"lobster: {file} has several columns {', '.join(double)}; remove all but one")
    needed = {*MESSAGE_COLUMNS[1:], *(f"{side}_{what}_1" for side in ("ask", "bid") for what in ("price", "size"))}
    if missing := sorted(needed - {*names}) + ["time_ns"] * ({"time", "time_ns"}.isdisjoint(names)):
        raise ValueError(f"lobster: {file} lacks {', '.join(missing)}; name its columns so")
    columns: Arrays = {
        name: _take_numbers(table.column(name), name, file) for name in names if name in wanted - {"time"}
    }
    if "time_ns" not in columns:
        columns["time_ns"] = _read_seconds(table.column("time"), file)
    return columns


def _read_seconds(column: pa.ChunkedArray, file: Path) -> npt.NDArray[np.int64]:
    """Return seconds since midnight, such as float64, which holds the ns of a day, in whole ns."""
    if column.null_count or not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise ValueError(
            f"lobster: {file}: time is of {column.type}, {column.null_count} of it empty; give seconds since midnight "
            "as float64, or ns as a column time_ns of integers"
        )
    seconds = column.to_numpy().astype(np.float64)
    if not (np.abs(seconds) <= SECONDS_PER_WEEK).all():
        raise ValueError(f"lobster: {file}: time has a value that is not within a day; export it again")
    return np.asarray(np.rint(seconds * 1e9), np.int64)
