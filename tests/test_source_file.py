import gzip
import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.market import file

PRICES = [0.1 + 0.2, 42_283.58, 1e-7]  # the first needs 17 digits


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame({"open_time": np.arange(3) * 60_000, "close": PRICES, "ignore": 0})


@pytest.fixture
def parquet(table: pd.DataFrame, tmp_path: Path) -> Path:
    path = tmp_path / "bars.parquet"
    table.to_parquet(path)
    return path


def hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz"])
def test_every_format_gives_the_same_rows_to_the_last_digit(table, tmp_path, suffix):
    path = tmp_path / f"bars{suffix}"
    table.to_parquet(path) if suffix == ".parquet" else table.to_csv(path, index=False)
    loaded = file.load(path=str(path), sha256=hash_file(path), symbol="BTCUSDT")
    table.insert(0, "symbol", pd.Series("BTCUSDT", index=table.index, dtype="str"))
    pd.testing.assert_frame_equal(loaded, table, check_exact=True)


def test_times_stay_in_the_unit_of_the_file(table, tmp_path):
    path = tmp_path / "bars.csv"
    table.assign(open_time=[1_704_067_200, 1_704_067_260, 1_704_067_320]).to_csv(path, index=False)
    loaded = file.load(path=str(path), sha256=hash_file(path), symbol="BTCUSDT")
    assert loaded["open_time"].tolist() == [1_704_067_200, 1_704_067_260, 1_704_067_320]


def test_several_files_are_concatenated_each_with_its_symbol(table, tmp_path):
    paths = [tmp_path / "btc.csv", tmp_path / "arb.parquet"]
    table.to_csv(paths[0], index=False)
    table.to_parquet(paths[1])
    block = {"path": [str(p) for p in paths], "sha256": [hash_file(p) for p in paths], "symbol": ["BTCUSDT", "ARBUSDT"]}
    assert file.load(**block)["symbol"].tolist() == ["BTCUSDT"] * 3 + ["ARBUSDT"] * 3


def test_a_symbol_column_of_the_file_is_preserved(table, tmp_path):
    path = tmp_path / "bars.csv"
    table.assign(symbol=["007", "BTCUSDT", "BTCUSDT"]).to_csv(path, index=False)
    loaded = file.load(path=str(path), sha256=hash_file(path), symbol=None)
    assert loaded["symbol"].tolist() == ["007", "BTCUSDT", "BTCUSDT"]
    assert loaded.columns[0] == "symbol"


@pytest.mark.parametrize("pin", [None, "0" * 64])
def test_a_wrong_or_missing_pin_is_refused_with_the_command_that_pins_the_file(parquet, pin):
    with pytest.raises(ValueError, match="sha256 is empty|sha256 is 000") as caught:
        file.load(path=str(parquet), sha256=pin, symbol="BTCUSDT")
    command = re.search(r"dvc exp run -S sources\.file\.sha256=(\w+)$", str(caught.value))
    assert command is not None
    file.load(path=str(parquet), sha256=command[1], symbol="BTCUSDT")


def test_the_command_for_several_files_pins_them_all(parquet):
    with pytest.raises(
        ValueError, match=re.escape(f"'sources.file.sha256=[{hash_file(parquet)},{hash_file(parquet)}]'")
    ):
        file.load(path=[str(parquet)] * 2, sha256=[hash_file(parquet), "0" * 64], symbol=["A", "B"])


def test_two_names_for_the_same_rows_are_refused(table, tmp_path):
    path = tmp_path / "bars.csv"
    table.assign(symbol="BTCUSDT").to_csv(path, index=False)
    with pytest.raises(ValueError, match="symbol=null"):
        file.load(path=str(path), sha256=hash_file(path), symbol="BTCUSDT")


def test_rows_without_a_name_are_refused(parquet):
    with pytest.raises(ValueError, match="-S sources.file.symbol=BTCUSDT"):
        file.load(path=str(parquet), sha256=hash_file(parquet), symbol=None)


def test_lists_of_unequal_length_are_refused(parquet):
    with pytest.raises(ValueError, match=r"symbol has 1 value\(s\) for 2 path"):
        file.load(path=[str(parquet)] * 2, sha256=[hash_file(parquet)] * 2, symbol="BTCUSDT")


@pytest.mark.parametrize(
    ("name", "message"),
    [(None, "path is empty"), ("nowhere.csv", "does not exist"), ("bars.xlsx", "unknown suffix")],
)
def test_an_unusable_path_is_refused(name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        file.load(path=name and str(tmp_path / name), sha256=None, symbol=None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bars.parquet", b"not a parquet file"),
        ("bars.csv", b""),
        ("bars.csv", b"\xff\xfe\x00"),
        ("bars.csv.gz", b"not gzip"),
        ("bars.csv.gz", gzip.compress(b"open_time,close\n1,2\n" * 99, mtime=0)[:-12]),
    ],
    ids=["no parquet", "nothing", "no text", "no gzip", "half a gzip"],
)
def test_an_unreadable_file_is_named(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        file.load(path=str(path), sha256=hash_file(path), symbol="BTCUSDT")
