"""Large CSV files of plain numbers, parsed one block after another: neither the text nor its rows are in memory whole.

A file is plain where it is UTF-8 without quotes, and each cell of its columns of numbers is one. Of such a file the
columns are those of `kline_csv.parse_text`, but with the numbers as float64. Any other file is left to `parse_text`,
which has all of it: to name a fault, or since what a cell means depends on others, as with decimal commas.
"""

import io
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from pipeline.market.kline_csv import LARGE_BYTES, Head, decode, read_head

BLOCK_BYTES = 1 << 20


def read_plain_head(file: Path) -> Head | None:
    """Return the head of a file of more than LARGE_BYTES in UTF-8; None of another, or one with a very long row.

    Raises:
        OSError: the file cannot be read.
        ValueError: it does not begin as a CSV does.
    """
    if file.stat().st_size <= LARGE_BYTES:
        return None
    with file.open("rb") as stream:
        content = stream.read(BLOCK_BYTES)
    is_whole = len(content.lstrip().splitlines()) > 1  # the first row
    return read_head(content, name=str(file)) if is_whole and decode(content, name=str(file)) == content else None


def parse_plain_rows(file: Path, head: Head, *, numbers: Collection[int]) -> list[pa.ChunkedArray] | None:
    """Return the columns of a file, those at the places `numbers` as float64; None where it is not plain, or no CSV."""
    names = [str(place) for place in range(head.width)]
    parts: list[pa.RecordBatch] = []
    try:
        with _PlainFile(file) as stream:
            stream.seek(head.body)
            reader = pyarrow.csv.open_csv(
                stream,
                read_options=pyarrow.csv.ReadOptions(column_names=names, use_threads=False, block_size=BLOCK_BYTES),
                parse_options=pyarrow.csv.ParseOptions(delimiter=head.separator),
                convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
            )
            for batch in reader:
                columns = [
                    column.cast(pa.float64()) if place in numbers else column
                    for place, column in enumerate(batch.columns)
                ]
                parts.append(pa.record_batch(columns, names=names))
    except pa.ArrowInvalid:
        return None
    return pa.Table.from_batches(parts).columns if stream.is_plain and parts else None


class _PlainFile(io.FileIO):
    """A file that knows whether what was read of it has neither quotes nor zeros."""

    is_plain = True

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes."""
        content = super().read(size)
        self.is_plain &= b'"' not in content and b"\0" not in content
        return content
