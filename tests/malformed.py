"""Files of klines that are malformed or unusual: the bytes of each, and the error or the note that it must give."""

import gzip
import io
import zipfile
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

START_MS = 1_704_067_200_000  # 2024-01-01
MINUTE_MS = 60_000
NAMES = ["open_time", "open", "high", "low", "close", "volume"]
NAMES += ["close_time", "quote_volume", "trades", "taker_buy_base", "taker_buy_quote"]
HEADER = ",".join(NAMES)
BARS = pd.DataFrame(
    {
        "open_time": START_MS + MINUTE_MS * np.arange(3),
        "open": [42283.58, 42298.62, 42320.0],
        "high": [42298.62, 42320.0, 42331.54],
        "low": [42261.02, 42298.61, 42319.99],
        "close": [42298.61, 42320.0, 42325.5],
        "volume": [35.92724, 21.16779, 21.60391],
        "close_time": START_MS + MINUTE_MS * np.arange(1, 4) - 1,
        "quote_volume": [1519032.35, 895580.71, 914371.14],
        "trades": [1327, 1348, 1019],
        "taker_buy_base": [23.18766, 13.60218, 11.28174],
        "taker_buy_quote": [980394.68, 575528.04, 477479.52],
    }
)
OHLCV = BARS.drop(columns=NAMES[7:])  # close_time is derived


class Case(NamedTuple):
    """A file: what is unusual about it, its name and bytes, and what reading it gives.

    `message` is part of the one error. Where it is empty the file is read as `bars`, with `note` among the notes.
    """

    fault: str
    file: str
    content: bytes
    message: str = ""
    note: str = ""
    bars: pd.DataFrame = BARS


def refuse(fault: str, content: bytes | str, message: str, *, file: str = "bars.csv") -> Case:
    return Case(fault, file, content.encode() if isinstance(content, str) else content, message)


def accept(
    fault: str, content: bytes | str, *, note: str = "", bars: pd.DataFrame = BARS, file: str = "bars.csv"
) -> Case:
    return Case(fault, file, content.encode() if isinstance(content, str) else content, "", note, bars)


def write_csv(table: pd.DataFrame = BARS, **options: object) -> str:
    return table.to_csv(**{"index": False, **options})


def write_parquet(table: pd.DataFrame, **options: object) -> bytes:
    stream = io.BytesIO()
    table.to_parquet(stream, **options)
    return stream.getvalue()


def write_zip(members: Mapping[str, bytes | str], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def encrypt(content: bytes) -> bytes:
    """Return a zip whose one member is flagged as encrypted, in both of its headers."""
    local, central = content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8
    flagged = bytearray(content)
    flagged[local] |= 1
    flagged[central] |= 1
    return bytes(flagged)


def set_times(times: object, **options: object) -> str:
    return write_csv(BARS.assign(open_time=times), **options)


def edit_cell(row: int, column: str, value: str) -> str:
    """Return the CSV with one cell as given; rows are counted from 1."""
    cells = BARS.astype(object)
    cells.loc[row - 1, column] = value
    return cells.to_csv(index=False)


def edit_row(row: int, change: Callable[[str], str]) -> str:
    """Return the CSV with one row changed; row 0 is the header."""
    rows = write_csv().splitlines()
    rows[row] = change(rows[row])
    return "\n".join(rows) + "\n"


def format_times(layout: str) -> list[str]:
    return [pd.Timestamp(time, unit="ms").strftime(layout) for time in BARS["open_time"]]


HALF_LATER = BARS.assign(open_time=BARS["open_time"] + 500)
MOMENTS = pd.to_datetime(BARS["open_time"], unit="ms")
HEADERLESS = write_csv(BARS.assign(ignore=0), header=False)
SPREADSHEET = write_csv(BARS, sep=";", decimal=",")

TEXT = [  # separators, headers, encodings
    accept("semicolons", write_csv(sep=";")),
    accept("tabs", write_csv(sep="\t"), file="bars.tsv"),
    accept("vertical bars", write_csv(sep="|"), file="bars.txt"),
    accept("blanks after the commas", write_csv().replace(",", ", ")),
    accept("CR LF", write_csv(lineterminator="\r\n")),
    accept("CR alone", write_csv(lineterminator="\r")),
    accept("blank rows", write_csv().replace("\n", "\n\n")),
    accept("quoted fields", write_csv(quoting=1)),
    accept("byte order mark, header", b"\xef\xbb\xbf" + write_csv().encode()),
    accept("byte order mark, no header", b"\xef\xbb\xbf" + HEADERLESS.encode(), note="12 columns have no header"),
    accept("UTF-16, as a spreadsheet's Unicode text", write_csv(sep="\t").encode("utf-16")),
    accept("no header, 11 columns", write_csv(header=False), note="11 columns have no header"),
    accept("no header, 6 columns", write_csv(BARS[NAMES[:6]], header=False), note="6 columns", bars=OHLCV),
    refuse("no header, 7 columns", write_csv(BARS[NAMES[:7]], header=False), "7 columns, separated by comma, and no"),
    refuse("no separator", write_csv(sep=" "), "no separator in 'open_time open high"),
    refuse("a row for spreadsheets", "sep=;\n" + write_csv(sep=";"), "'sep=;' is for spreadsheets alone; delete that"),
    refuse("a web page", "<!DOCTYPE html><html><body>login</body></html>", "is a web page and no CSV"),
    refuse("a pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "run `git lfs pull`"),
    refuse("a comment", "# exported by me\n" + write_csv(), "delete the row where it is a title or a comment"),
    refuse(
        "no header, low before open",
        write_csv(BARS[["open_time", "low", "high", "open", "close", "volume"]], header=False),
        "in 3 of 3 rows high and low do not bound open and close when read as open_time, open, high, low, close",
    ),
    refuse("empty", b"", "is empty"),
    refuse("blank", b" \n\r\n", "is empty"),
    refuse("header alone", HEADER + "\n", "has a header and no rows"),
    refuse("header alone, no end of line", HEADER, "has a header and no rows"),
    refuse("binary", b"\x07\x00\x00\x01" * 99, "is binary and no CSV: byte 1 is 0"),
    refuse("latin-1", edit_cell(2, "open", "42\u00a0298").encode("latin-1"), "row 2 is no UTF-8 text"),
    refuse("zip by another name", write_zip({"bars.csv": write_csv()}), "is a zip and no CSV"),
    refuse("gzip by another name", gzip.compress(write_csv().encode(), mtime=0), "is gzip and no CSV"),
]
WIDTHS = [
    refuse(
        "11 names over 12 columns",
        HEADER + "\n" + HEADERLESS,
        "row 1 has 12 fields and the first row of the file has 11",
    ),
    refuse(
        "12 names over 11 columns", write_csv().replace("_quote\n", "_quote,ignore\n", 1), "row 1 has 11 fields and"
    ),
    refuse("a row too short", edit_row(2, lambda row: row.rpartition(",")[0]), "row 2 has 10 fields"),
    refuse("a row too long", edit_row(3, lambda row: row + ",0"), "row 3 has 12 fields"),
    refuse("last row cut", write_csv()[:-30], "row 3 has"),
    refuse("thousands separators", edit_cell(1, "open", "42,283.58").replace('"', ""), "row 1 has 12 fields"),
    refuse("decimal commas between commas", write_csv(decimal=",").replace('"', ""), "fields"),
    refuse("open quote", edit_row(1, lambda row: row.replace(",1327,", ',"1327,')), "row 1 has 9 fields"),
    refuse(
        "open quote in an unused column",
        write_csv(BARS.assign(ignore=0)).replace(",0\n", ',"0\n', 1),
        "row 1: a quote is not closed",
    ),
    refuse("a title of two fields", "Bars, mine\n" + write_csv(), "it has 2 fields and row 1 has 11; delete it where"),
    refuse("a title above the header", "Bars of my venue\n" + write_csv(), "no separator in 'Bars of my venue'"),
]
NUMBERS = [
    accept("decimal commas", SPREADSHEET, note="decimal commas are read as decimal points"),
    accept("decimal commas in quotes", write_csv(decimal=","), note="decimal commas are read as decimal points"),
    accept("exponents", edit_cell(1, "volume", "3.592724E+1")),
    accept("plus signs and blanks", edit_cell(1, "volume", " +35.92724 ")),
    accept("whole numbers as decimals", write_csv(BARS.assign(trades=BARS["trades"].astype(float)))),
    refuse("text", edit_cell(2, "close", "n.a."), "column 'close', row 2: 'n.a.' is not a number (1 rows)"),
    refuse("currency", edit_cell(3, "open", "$42320"), "column 'open', row 3: '$42320' is not a number"),
    refuse("quoted thousands", edit_cell(1, "open", "42,283.58"), "row 1: '42,283.58' has a thousands separator"),
    refuse("points as thousands", edit_cell(1, "open", "42.283,58"), "row 1: '42.283,58' has a thousands separator"),
    refuse("millions", edit_cell(2, "quote_volume", "1,895,580"), "row 2: '1,895,580' has a thousands separator"),
    refuse("42,283 may be 42.283", edit_cell(1, "trades", "42,283").replace(".", ""), "a decimal comma or a thousands"),
    refuse(
        "commas beside points", edit_cell(1, "open", "42283,58"), "row 1: '42283,58' has a comma, and other numbers"
    ),
    refuse("apostrophes", edit_cell(1, "open", "42'283.58"), "column 'open', row 1"),
    refuse("half a trade", edit_cell(3, "trades", "1019.5"), "column 'trades', row 3: 1019.5 is no whole number"),
    refuse("no count of trades", edit_cell(2, "trades", ""), "column 'trades', row 2: nan is no whole number"),
    refuse("header again", write_csv() + write_csv(), "row 4: 'open_time' is no time like that of the first"),
]
COLUMNS = [
    accept(
        "futures header",
        write_csv(BARS.assign(ignore=0))
        .replace("trades,taker_buy_base,", "count,taker_buy_volume,", 1)
        .replace("taker_buy_quote", "taker_buy_quote_volume", 1),
    ),
    accept(
        "the API's documented names",
        "Open time,Open,High,Low,Close,Volume,Close time,Quote asset volume,Number of trades,"
        "Taker buy base asset volume,Taker buy quote asset volume,Ignore\n" + HEADERLESS,
    ),
    accept("other order", write_csv(BARS[NAMES[::-1]])),
    accept("OHLCV alone", write_csv(BARS[NAMES[:6]]), note="there is no column quote_volume", bars=OHLCV),
    accept("no close_time", write_csv(BARS.drop(columns="close_time")), note="close_time is missing and is derived"),
    accept("unknown column", write_csv(BARS.assign(vwap=1.0)), note="the column 'vwap' is unknown"),
    accept("an index without a name", write_csv(index=True), note="a column without a name is not used"),
    accept("a comma after each row", write_csv().replace("\n", ",\n"), note="a column without a name is not used"),
    accept(
        "Date", write_csv().replace("open_time", "Date", 1), note="'Date' is taken as the time at which a bar opens"
    ),
    accept(
        "numbered names",
        "timestamp,1. open,2. high,3. low,4. close,5. volume\n" + write_csv(BARS[NAMES[:6]], header=False),
        bars=OHLCV,
    ),
    accept(
        "window_start, transactions", write_csv().replace("open_time", "window_start").replace("trades", "transactions")
    ),
    accept("startTime", write_csv().replace("open_time", "startTime", 1)),
    accept("newest first, with a symbol", write_csv(BARS[::-1]).replace("open_time", "ts", 1), note="are reversed"),
    refuse(
        "a day and a time of day",
        write_csv(BARS.assign(**{"<DATE>": "2024.01.01", "<TIME>": "00:00:00"}).drop(columns="open_time")),
        "'<DATE>' and '<TIME>' both mean open_time: the day and the time of day; join them into one",
    ),
    refuse(
        "unix and date",
        write_csv(BARS.assign(date="2024-01-01").rename(columns={"open_time": "unix"})),
        "set sources.file.columns: {open_time: unix}, which has a unit and a zone",
    ),
    refuse(
        "volume of a currency",
        write_csv(OHLCV.rename(columns={"volume": "Volume BTC"})),
        "set sources.file.columns: {volume: Volume BTC} where that is meant",
    ),
    refuse(
        "a local time",
        write_csv(OHLCV.rename(columns={"open_time": "Local time"})),
        "set sources.file.columns: {open_time: Local time} where that is meant",
    ),
    refuse("three rows of names", "Price,Close,High,Low,Open,Volume\nTicker,B,B,B,B,B\n", "df.columns.droplevel(1)"),
    refuse("two times", write_csv(BARS.assign(date="2024-01-01")), "'open_time' and 'date' both mean open_time"),
    refuse("two volumes", write_csv(BARS.assign(Volume=1.0)), "columns 'volume' and 'Volume' both mean volume"),
    refuse("no volume", write_csv(BARS[NAMES[:5]]), "there is no column volume"),
    refuse(
        "other names", write_csv(BARS.rename(columns=lambda name: f"x_{name}")), "there is no column open_time, open"
    ),
    refuse("no time", write_csv(BARS.drop(columns="open_time"), index=True), "no open_time; the index, row 1: 0"),
]
TIMES = [
    accept("seconds", set_times(BARS["open_time"] // 1000), note="open_time is converted from s to ms"),
    accept("microseconds", set_times(BARS["open_time"] * 1000), note="open_time is converted from us to ms"),
    accept("nanoseconds", set_times(BARS["open_time"] * 10**6), note="open_time is converted from ns to ms"),
    accept("decimals of seconds", set_times(BARS["open_time"] / 1000), note="from s to ms"),
    accept("seconds and a half", set_times(BARS["open_time"] / 1000 + 0.5), note="from s to ms", bars=HALF_LATER),
    accept("ISO 8601, naive", set_times(MOMENTS), note="open_time has no time zone and is read as UTC"),
    accept("ISO 8601, Z", set_times(format_times("%Y-%m-%dT%H:%M:%SZ"))),
    accept("ISO 8601, UTC", set_times(format_times("%Y-%m-%d %H:%M:%S UTC"))),
    accept("ISO 8601, +00", set_times(format_times("%Y-%m-%d %H:%M:%S+00"))),
    accept("ISO 8601, an hour ahead", set_times(MOMENTS.dt.tz_localize("UTC").dt.tz_convert("Etc/GMT-1"))),
    accept("newest first", write_csv(BARS[::-1]), note="the rows are reversed"),
    refuse(
        "a zone in some rows", set_times(["2024-01-01 00:00Z", "2024-01-01 00:01", "2024-01-01 00:02Z"]), "rows 1 and 2"
    ),
    refuse(
        "day before month",
        set_times(["2024-01-02 23:57", "2024-01-02 23:58", "2024-01-02 23:59"]).rstrip("\n")
        + "\n"
        + set_times(["2024-02-02 00:00", "2024-02-02 00:01", "2024-02-02 00:02"]).split("\n", 1)[1],
        "have one day of the month and 2 months in a row, as YYYY-DD-MM",
    ),
    refuse("day first", set_times(format_times("%d/%m/%Y %H:%M")), "row 1: '01/01/2024 00:00' is no time"),
    refuse("time of day", set_times(format_times("%H:%M")), "row 1: '00:00' is no time"),
    refuse("no time", edit_cell(2, "open_time", ""), "column 'open_time', row 2: '' is no time like"),
    refuse("a spreadsheet's digits", set_times(["1.70407E+12"] * 3), "row 1: '1.70407E+12' has lost digits"),
    refuse(
        "minutes",
        set_times(BARS["open_time"] // 60_000),
        "28401120 is no time",
    ),
    refuse("minutes are named", set_times(BARS["open_time"] // 60_000), "it looks like minutes since 1970"),
    refuse("days", set_times([19_723, 19_724, 19_725]), "it looks like days since 1970, or Excel's days"),
    refuse("YYYYMMDD", set_times([20_240_101, 20_240_102, 20_240_103]), "it looks like YYYYMMDD: convert it"),
    refuse("YYYYMMDDHH", set_times([2_024_010_100, 2_024_010_101, 2_024_010_102]), "it looks like YYYYMMDDHH: "),
    refuse("YYYYMMDDHHMM", set_times(format_times("%Y%m%d%H%M")), "it looks like YYYYMMDDHHMM: "),
    refuse("YYYYMMDDHHMMSS", set_times(format_times("%Y%m%d%H%M%S")), "it looks like YYYYMMDDHHMMSS: "),
    refuse("row numbers", set_times([0, 1, 2]), "row 1: 0 is no time of the years 1990 to 2100"),
    refuse("years 1970", set_times(["1970-01-01 00:28:24"] * 3), "were perhaps converted in a wrong unit"),
    refuse(
        "s and ms",
        set_times([START_MS // 1000, START_MS + 60_000, START_MS + 120_000]),
        "mixes s and ms: row 1 is in s",
    ),
    refuse(
        "ms and us in 2024",
        set_times([START_MS, START_MS * 1000 + 6 * 10**7, START_MS * 1000 + 12 * 10**7]),
        "mixes ms and us",
    ),
]
ARCHIVES = [
    accept("zip", write_zip({"BTCUSDT-1m-2024-01-01.csv": HEADERLESS}), file="bars.zip", note="no header"),
    accept("zip of a Mac", write_zip({"bars.csv": write_csv(), "__MACOSX/._bars.csv": b"\0"}), file="bars.zip"),
    accept("gzip", gzip.compress(write_csv().encode(), mtime=0), file="bars.csv.gz"),
    accept("capitals", write_csv(), file="BARS.CSV"),
    refuse("two members", write_zip({"a.csv": "1", "b.csv": "2"}), "has 2 members (a.csv, b.csv)", file="bars.zip"),
    refuse("no member", write_zip({}), "has 0 members", file="bars.zip"),
    refuse("an empty member", write_zip({"a.csv": b""}), "bars.zip, a.csv is empty", file="bars.zip"),
    refuse(
        "a member upward", write_zip({"../a.csv": write_csv()}), "'../a.csv' outside of its folder", file="bars.zip"
    ),
    refuse("a member of another kind", write_zip({"a.json": "{}"}), "'a.json', which is no CSV", file="bars.zip"),
    refuse("encrypted", encrypt(write_zip({"a.csv": write_csv()})), "is encrypted", file="bars.zip"),
    refuse("zip bomb", write_zip({"a.csv": b"0" * (1 << 25)}), "holds 33,554,432 bytes", file="bars.zip"),
    refuse("half a zip", write_zip({"a.csv": write_csv()})[:200], "cannot be read as zip", file="bars.zip"),
    refuse("no zip", b"not a zip", "cannot be read as zip", file="bars.zip"),
    refuse("gzip bomb", gzip.compress(b"0" * (1 << 25), mtime=0), "times the compressed size", file="bars.csv.gz"),
    refuse(
        "half a gzip", gzip.compress(write_csv().encode(), mtime=0)[:-12], "cannot be read as gzip", file="a.csv.gz"
    ),
    refuse("no gzip", b"not gzip", "cannot be read as gzip", file="bars.csv.gz"),
    refuse("another kind", b"", "unknown suffix; allowed are .parquet", file="bars.xlsx"),
]
PARQUET = [
    accept("parquet", write_parquet(BARS), file="bars.parquet"),
    accept(
        "an index of times",
        write_parquet(BARS.set_index(MOMENTS).drop(columns="open_time")),
        file="a.parquet",
        note="open_time has no time zone",
    ),
    accept(
        "a time zone",
        write_parquet(BARS.assign(open_time=MOMENTS.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"))),
        file="a.parquet",
        note="open_time is converted from Asia/Tokyo to UTC",
    ),
    accept("nanoseconds", write_parquet(BARS.assign(open_time=MOMENTS.dt.as_unit("ns"))), file="a.parquet"),
    accept("text", write_parquet(BARS.astype("str")), file="a.parquet"),
    accept(
        "an index that was left",
        write_parquet(BARS.set_index(pd.Index([3, 5, 9]))),
        file="a.parquet",
        note="a column without a name is not used",
    ),
    accept(
        "dates",
        write_parquet(BARS[NAMES[:6]].assign(open_time=pd.date_range("2024-01-01", periods=3).date)),
        file="a.parquet",
        note="no time zone",
        bars=OHLCV.assign(
            open_time=START_MS + 86_400_000 * np.arange(3), close_time=START_MS + 86_400_000 * np.arange(1, 4) - 1
        ),
    ),
    refuse("cut", write_parquet(BARS)[:-40], "cannot be read as parquet", file="bars.parquet"),
    refuse("no parquet", b"not parquet", "cannot be read as parquet", file="bars.parquet"),
    refuse("no rows", write_parquet(BARS[:0]), "has no rows", file="bars.parquet"),
    refuse(
        "no time in a row",
        write_parquet(BARS.assign(open_time=MOMENTS.where(BARS.index != 1))),
        "row 2: there is no time",
        file="bars.parquet",
    ),
    refuse("truth values", write_parquet(BARS.assign(open=True)), "column 'open' has type bool", file="bars.parquet"),
    refuse(
        "float16",
        write_parquet(BARS.assign(low=BARS["low"].astype(np.float16))),
        "has type halffloat",
        file="a.parquet",
    ),
    refuse(
        "times as float32",
        write_parquet(BARS.assign(open_time=BARS["open_time"].astype("float32"))),
        "type float, which is too coarse",
        file="bars.parquet",
    ),
    refuse(
        "counts since midnight",
        write_parquet(BARS.assign(open_time=pd.to_timedelta(BARS["open_time"], unit="ms"))),
        "store it as int64 in ms UTC",
        file="bars.parquet",
    ),
    refuse(
        "a symbol is missing",
        write_parquet(BARS.assign(symbol=["A", None, "A"])),
        "row 2: there is no symbol",
        file="bars.parquet",
    ),
    refuse(
        "the symbol nan",
        write_parquet(BARS.assign(symbol=["A", "A", "nan"])),
        "row 3: there is no symbol",
        file="bars.parquet",
    ),
    refuse("a pointer", b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`", file="bars.parquet"),
    refuse(
        "yfinance",
        write_parquet(OHLCV.set_axis(pd.MultiIndex.from_product([OHLCV.columns, ["BTC"]]), axis=1)),
        "df.columns.droplevel(1)",
        file="bars.parquet",
    ),
]
CASES = [*TEXT, *WIDTHS, *NUMBERS, *COLUMNS, *TIMES, *ARCHIVES, *PARQUET]
