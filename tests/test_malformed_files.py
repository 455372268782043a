"""A malformed file of klines gives one error that names it; an unusual one gives the same bars as an ordinary one."""

import gzip
import hashlib
import random
import re
from pathlib import Path

import pandas as pd
import pytest

from pipeline.market.file import load
from pipeline.market.kline_files import read_file
from tests import malformed

REFUSED = [case for case in malformed.CASES if case.message]
ACCEPTED = [case for case in malformed.CASES if not case.message]
THIRD_PARTY = ("Traceback", "ArrowInvalid", "pandas", "codec can't")


def write(case: malformed.Case, folder: Path) -> Path:
    file = folder / case.file
    file.write_bytes(case.content)
    return file


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.fault)
def test_a_malformed_file_gives_one_error_that_names_it_and_the_key(case, tmp_path):
    file = write(case, tmp_path)
    symbol = None if "symbol" in case.message else "BTCUSDT"
    with pytest.raises(ValueError, match=re.escape(case.message)) as caught:
        load(path=str(file), sha256=hashlib.sha256(case.content).hexdigest(), symbol=symbol)
    message = str(caught.value)
    assert type(caught.value) is ValueError
    assert len(message.splitlines()) == 1
    assert message.startswith("file: ")
    assert case.file in message
    assert not any(word in message for word in THIRD_PARTY)


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.fault)
def test_an_unusual_file_gives_the_same_bars_and_a_note(case, tmp_path):
    file = write(case, tmp_path)
    table, report = load(path=str(file), sha256=hashlib.sha256(case.content).hexdigest(), symbol="BTCUSDT")
    assert (table.pop("symbol") == "BTCUSDT").all()
    pd.testing.assert_frame_equal(table, case.bars, check_exact=True)
    assert case.note in "\n".join(report["notes"])


def test_the_notes_of_ordinary_bars_are_empty(tmp_path):
    (tmp_path / "bars.csv").write_text(malformed.write_csv())
    assert read_file(tmp_path / "bars.csv").notes == ()


def test_the_faults_are_of_many_classes():
    classes = [malformed.TEXT, malformed.WIDTHS, malformed.NUMBERS, malformed.COLUMNS, malformed.TIMES]
    assert all(len(each) >= 9 for each in [*classes, malformed.ARCHIVES, malformed.PARQUET])
    assert len(REFUSED) >= 45


def alter(content: bytes, rng: random.Random) -> bytes:
    """The bytes with one of them replaced, some removed, or one added."""
    place, mark = rng.randrange(len(content)), rng.choice([b",", b";", b'"', b"\n", b".", b"0", b"x", b"\x00", b"\xff"])
    removed = rng.choice([0, 1, 1, 5, 50])
    return content[:place] + (b"" if removed > 1 else mark) + content[place + removed :]


@pytest.mark.parametrize("file", ["bars.csv", "bars.zip", "bars.csv.gz", "bars.parquet"])
def test_altered_bytes_give_bars_or_one_error(file, tmp_path):
    text, rng = malformed.write_csv(), random.Random(1)
    content = {
        "bars.csv": text.encode(),
        "bars.zip": malformed.write_zip({"day.csv": text}),
        "bars.csv.gz": gzip.compress(text.encode(), mtime=0),
        "bars.parquet": malformed.write_parquet(malformed.BARS),
    }[file]
    for _ in range(100):
        (tmp_path / file).write_bytes(alter(content, rng))
        try:
            table = read_file(tmp_path / file).table
        except ValueError as error:
            assert type(error) is ValueError
            assert "\n" not in str(error)
        else:
            assert len(table) == 3
