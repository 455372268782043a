"""Text of separated columns: its separator, its header and its rows, none of which may shift silently."""

import codecs
import csv
import re
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipeline.market.kline_times import is_time_text, shorten

SEPARATORS = {"\t": "tab", ";": "semicolon", "|": "vertical bar", ",": "comma"}  # by precedence
NUMBERED = r"\d+\. +[A-Za-z]"  # a name such as `1. open`
LFS_POINTER = "version https://git-lfs"
MIN_FIELDS = 6  # open_time, open, high, low, close, volume
NOT_BLANK = re.compile(rb"\S")
LARGE_BYTES = 1 << 22  # from here on several threads parse faster than one
SIGNATURES = {b"PK\x03\x04": "a zip", b"\x1f\x8b": "gzip", b"PAR1": "parquet", b"\xd0\xcf\x11\xe0": "a spreadsheet"}


class Head(NamedTuple):
    """The beginning of a CSV: the width of its rows, the names of a header, its separator, and where the rows begin."""

    width: int
    header: tuple[str, ...] | None
    separator: str
    body: int  # the first byte of the rows


class TextTable(NamedTuple):
    """Columns of text, named "0", "1" …, and the head of their file."""

    table: pa.Table
    head: Head


def parse_text(content: bytes, *, name: str) -> TextTable:
    """Return the columns of a CSV file as text, with every row as wide as the first.

    The separator is the tab, semicolon, vertical bar or comma of the first row. That row is a header unless most of its
    cells begin as numbers do. Blank rows are skipped. `name` is the file, for errors.

    Raises:
        ValueError: the content is empty, no text, has no known separator or no rows, or a row has another width.
    """
    content = decode(content, name=name)
    head = read_head(content, name=name)
    table = _parse_rows(content, head, name=name)
    if not table.num_rows:
        raise ValueError(f"{name} has a header and no rows; a file of klines has one row for each bar")
    return TextTable(table, head)


def read_head(content: bytes, *, name: str) -> Head:
    """Return how a CSV in UTF-8 begins, which may have a byte order mark; `name` is the file, for errors.

    Raises:
        ValueError: the content is blank, or its first row has no known separator or is that of another kind of file.
    """
    start, end = _find_first_row(content, name=name)
    row = content[start:end].decode("utf-8", errors="replace")
    _refuse_other_content(row, name=name)
    separator = _find_separator(row, name=name)
    fields = _split(row, separator)
    if _is_data(fields):
        return Head(len(fields), None, separator, start)
    return Head(len(fields), tuple(field.strip() for field in fields), separator, end)


def decode(content: bytes, *, name: str) -> bytes:
    """Return the content as UTF-8 without a byte order mark."""
    for signature, kind in SIGNATURES.items():
        if content.startswith(signature):
            raise ValueError(f"{name} is {kind} and no CSV; rename it, or export a CSV")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is no UTF-16 text, which its first bytes announce; save it as UTF-8") from error
    content = content.removeprefix(codecs.BOM_UTF8)
    if b"\0" in content:
        raise ValueError(f"{name} is binary and no CSV: byte {content.index(0)} is 0; export a CSV, or parquet")
    return content


def _find_first_row(content: bytes, *, name: str) -> tuple[int, int]:
    """Return where the first row that is not blank begins and ends."""
    found = re.search(rb"[^\s][^\r\n]*", content)
    if not found:
        raise ValueError(f"{name} is empty; a file of klines has one row for each bar")
    start = max(content.rfind(b"\n", 0, found.start()), content.rfind(b"\r", 0, found.start())) + 1
    return start, found.end()


def _split(row: str, separator: str) -> list[str]:
    return next(csv.reader([row], delimiter=separator, skipinitialspace=True))


def _refuse_other_content(row: str, *, name: str) -> None:
    """Raise ValueError where the first row is that of another kind of file, or for a spreadsheet alone."""
    text = row.strip().strip('"').lower()
    if text.startswith(LFS_POINTER):
        raise ValueError(f"{name} is a pointer of Git LFS and no CSV; run `git lfs pull`")
    if text.startswith(("<!doctype", "<html", "<?xml")):
        raise ValueError(f"{name} is a web page and no CSV, as a login page; download the file itself")
    if re.fullmatch(r"sep=.?", text):
        raise ValueError(f"{name}, first row: {shorten(row)} is for spreadsheets alone; delete that row")


def _find_separator(row: str, *, name: str) -> str:
    counts = {separator: len(_split(row, separator)) for separator in SEPARATORS}
    wide = [separator for separator, count in counts.items() if count >= MIN_FIELDS]
    separator = wide[0] if wide else max(counts, key=lambda each: counts[each])
    if counts[separator] < 2:
        raise ValueError(
            f"{name}, first row: no separator in {shorten(row)}; allowed are {', '.join(SEPARATORS.values())}; "
            "delete the row where it is a title or a comment"
        )
    return separator


def _is_data(fields: list[str]) -> bool:
    """Return whether at least half of the cells of a row, but for empty ones, begin as numbers do."""
    filled = [field for field in fields if field.strip()]
    if any(re.match(NUMBERED, field.strip()) for field in filled):
        return False
    return 2 * sum(is_time_text(field) for field in filled) >= max(len(filled), 1)


def _parse_rows(content: bytes, head: Head, *, name: str) -> pa.Table:
    names = [str(i) for i in range(head.width)]
    if not NOT_BLANK.search(content, head.body):
        return pa.table({column: pa.array([], pa.string()) for column in names})
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(pa.py_buffer(content).slice(head.body)),
            read_options=pyarrow.csv.ReadOptions(column_names=names, use_threads=len(content) > LARGE_BYTES),
            parse_options=pyarrow.csv.ParseOptions(delimiter=head.separator),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except pa.ArrowInvalid as error:
        fault = _find_fault(content[head.body :], width=head.width, separator=head.separator)
        raise ValueError(f"{name}{fault or f' cannot be read as CSV: {str(error).splitlines()[0]}'}") from error
    if b'"' in content:
        _refuse_open_quotes(table, name=name)
    return table


def _refuse_open_quotes(table: pa.Table, *, name: str) -> None:
    """Raise ValueError where a cell holds the end of a row: a quote that is not closed has taken in the next rows."""
    for column in table.column_names:
        broken = pc.match_substring_regex(table[column], r"[\r\n]")
        if pc.any(broken).as_py():
            row = pc.index(broken, True).as_py() + 1
            raise ValueError(f"{name}, row {row}: a quote is not closed; close it or remove it")


def _find_fault(body: bytes, *, width: int, separator: str) -> str | None:
    """Return which row is not text or has another width than the first, and what to do; None where no row has."""
    lines = [line for line in re.split(rb"\r\n|\r|\n", body) if line]
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return f", row {number} is no UTF-8 text; save the file as UTF-8"
        count = len(_split(text, separator))
        if count != width:
            if width < MIN_FIELDS:
                return (
                    f", first row: it has {width} fields and row {number} has {count}; delete it where it is a title "
                    f"above the header; a file of klines has at least {MIN_FIELDS} columns"
                )
            return (
                f", row {number} has {count} fields and the first row of the file has {width}, separated by "
                f"{SEPARATORS[separator]}: {shorten(text)}; write one field for each column, and numbers without "
                "thousands separators"
            )
    return None
