"""A large CSV is parsed block by block where it is plain; tables, notes and errors are those of the whole text."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.market import kline_files, plain_csv
from pipeline.market.kline_files import KlineFile, parse_csv, read_file
from tests import malformed
from tests.test_malformed_files import alter

TIMES = pd.to_datetime(malformed.BARS["open_time"], unit="ms")
CASES = [case for case in malformed.CASES if case.file.endswith(".csv")]
PLAIN = {
    "header": malformed.write_csv(),
    "no header": malformed.write_csv(header=False),
    "semicolons": malformed.write_csv(sep=";"),
    "symbols": malformed.write_csv(malformed.BARS.assign(symbol=["ETH", "ETH", "ETH"])),
    "ISO times": malformed.write_csv(malformed.BARS.assign(open_time=TIMES)),
    "newest first": malformed.write_csv(malformed.BARS.iloc[::-1]),
    "an unknown column": malformed.write_csv(malformed.BARS.assign(note="x")),
    "Windows": malformed.write_csv().replace("\n", "\r\n"),
    "blank rows": "\n" + malformed.write_csv().replace("\n", "\n\n"),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Take every file for a large one, with a row or two in a block."""
    monkeypatch.setattr(plain_csv, "LARGE_BYTES", 0)
    monkeypatch.setattr(plain_csv, "BLOCK_BYTES", 300)


def find_outcome(read: Callable[[], KlineFile]) -> tuple[pd.DataFrame, object]:
    """Return the table and the notes of a file, or its error."""
    try:
        found = read()
    except ValueError as error:
        return pd.DataFrame(), str(error)
    return found.table, found.notes


def assert_same_by_blocks(file: Path, content: bytes) -> None:
    """Assert that a file gives what its whole text does."""
    file.write_bytes(content)
    by_blocks, whole = find_outcome(lambda: read_file(file)), find_outcome(lambda: parse_csv(content, name=str(file)))
    assert by_blocks[1] == whole[1]
    pd.testing.assert_frame_equal(by_blocks[0], whole[0], check_exact=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fault)
def test_a_malformed_or_unusual_file_gives_the_same_by_blocks(case, tmp_path):
    assert_same_by_blocks(tmp_path / case.file, case.content)


def test_altered_bytes_give_the_same_by_blocks(tmp_path):
    rng = random.Random(2)
    for _ in range(150):
        assert_same_by_blocks(tmp_path / "bars.csv", alter(malformed.write_csv().encode(), rng))


@pytest.mark.parametrize("form", PLAIN)
def test_a_plain_file_is_read_by_blocks_alone(form, tmp_path, monkeypatch):
    assert_same_by_blocks(tmp_path / "bars.csv", PLAIN[form].encode())
    monkeypatch.delattr(kline_files, "parse_csv")
    assert len(read_file(tmp_path / "bars.csv").table) == 3


@pytest.mark.parametrize(("row", "cell"), [(0, ""), (299, ""), (150, "1,5"), (299, "?"), (7, '"8"')])
def test_a_file_that_ceases_to_be_plain_in_any_block_is_parsed_whole(row, cell, tmp_path):
    price = np.round(np.random.default_rng(1).uniform(9, 11, 300), 2)
    columns = {"open_time": malformed.START_MS + malformed.MINUTE_MS * np.arange(300), "volume": 1}
    table = pd.DataFrame(columns | dict.fromkeys(("open", "high", "low", "close"), price))
    lines = malformed.write_csv(table, sep=";").splitlines()
    lines[1 + row] = lines[1 + row].replace(";1;", f";{cell};")
    assert_same_by_blocks(tmp_path / "bars.csv", "\n".join(lines).encode())
