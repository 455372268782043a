"""Tables in parquet by row groups: their bytes do not depend on how they are written, nor rows on how they are read."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline import artifacts, digests
from pipeline.row_groups import TableFile, open_table

ROWS = 11
TABLE = pd.DataFrame(
    {
        "symbol": pd.Series(["A"] * 6 + ["B"] * 5, dtype="str"),
        "time": np.arange(ROWS),
        "price": [np.nan if i in (2, 9) else i / 3 for i in range(ROWS)],
        "x": np.arange(ROWS, dtype=np.float32),
        "closes": np.arange(ROWS) % 3 == 0,
    }
)
TABLE.attrs["bars_per_year"] = 98_280.0


def write_parts(folder, borders, *, group_rows=4):
    """Return the file of TABLE, appended in the parts between these rows."""
    path = folder / "table.parquet"
    with open_table(path, group_rows=group_rows) as writer:
        for start, stop in zip([0, *borders], [*borders, ROWS], strict=True):
            writer.append(TABLE.iloc[start:stop])
        assert writer.rows == ROWS
    return path


def test_bytes_do_not_depend_on_the_parts_in_which_a_table_is_appended(tmp_path):
    expected = tmp_path / "expected.parquet"
    TABLE.to_parquet(expected, index=False, compression="zstd", row_group_size=4)
    digests.add_table_digest(expected)
    for borders in [[], *([border] for border in range(ROWS + 1)), [1, 2], [3, 5, 8], list(range(1, ROWS))]:
        assert write_parts(tmp_path, borders).read_bytes() == expected.read_bytes(), borders
    assert TableFile(expected).group_stops.tolist() == [4, 8, 11]


def test_a_table_of_one_group_has_the_bytes_of_the_same_table_written_at_once(tmp_path):
    expected = tmp_path / "expected.parquet"
    artifacts.write_table(expected, TABLE)
    assert write_parts(tmp_path, [5], group_rows=ROWS).read_bytes() == expected.read_bytes()


def test_a_table_without_rows_has_its_columns_and_types(tmp_path):
    with open_table(tmp_path / "table.parquet") as writer:
        writer.append(TABLE.iloc[:0])
    assert pq.read_schema(tmp_path / "table.parquet").names == list(TABLE.columns)
    pd.testing.assert_frame_equal(TableFile(tmp_path / "table.parquet").read(), TABLE.iloc[:0])


def test_every_range_of_rows_is_read_as_it_stands_in_the_table(tmp_path):
    file = TableFile(write_parts(tmp_path, [5]))
    for start in range(ROWS):
        for stop in range(start, ROWS + 1):
            found = file.read(start=start, stop=stop)
            pd.testing.assert_frame_equal(found, TABLE.iloc[start:stop])
            assert found.attrs == TABLE.attrs
    assert file.rows == ROWS


def test_columns_come_in_the_order_of_the_file_as_far_as_it_has_them(tmp_path):
    file = TableFile(write_parts(tmp_path, []))
    pd.testing.assert_frame_equal(file.read({"x", "time", "absent"}), TABLE[["time", "x"]])


def test_a_file_whose_table_fails_is_not_replaced(tmp_path):
    path = write_parts(tmp_path, [])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="no table was appended"), open_table(path):
        pass
    with pytest.raises(RuntimeError), open_table(path) as writer:
        writer.append(TABLE.iloc[:9])
        raise RuntimeError
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
