"""Features of a file of bars, part by part: the values and bytes of the whole table, wherever the parts end."""

import numpy as np
import pandas as pd
import pytest

from pipeline.features import engine
from pipeline.row_groups import TableFile, open_table
from tests.test_features import SHORT, make_bars
from tests.test_features_groups import IN_PANDAS, MEAN_GAP, draw_bars, write_idea

__all__ = ["write_idea"]  # a fixture

LENGTHS = [20, 3, 31, 1, 12]  # of the segments; two have no row after the warm-up


def make_table():
    """Return bars of two symbols in segments of LENGTHS."""
    parts = [draw_bars(length, seed=seed) for seed, length in enumerate(LENGTHS)]
    for number, part in enumerate(parts):
        part["segment"], part["symbol"] = np.int32(number), "A" if number < 2 else "B"
    return pd.concat(parts, ignore_index=True)


def write_clean(folder, bars, *, group_rows):
    """Return the file of a table of bars."""
    with open_table(folder / "clean.parquet", group_rows=group_rows) as writer:
        writer.append(bars)
    return TableFile(folder / "clean.parquet")


def assert_parts_are_the_whole(folder, bars, block, *, group_rows):
    """Assert that the parts of a file with these row groups are together the features of the table."""
    whole = engine.compute(bars, **block)
    parts = list(engine.compute_parts(write_clean(folder, bars, group_rows=group_rows), **block))
    assert len(parts) == -(-len(bars) // group_rows)
    full = [part for part in parts if len(part.rows)]
    assert np.concatenate([part.x for part in full]).tobytes() == np.ascontiguousarray(whole.x).tobytes()
    np.testing.assert_array_equal(np.concatenate([part.rows for part in full]), whole.rows)
    lost = pd.concat([pd.Series(part.lost_by_segment) for part in parts]).groupby(level=0).sum().to_dict()
    assert lost == whole.lost_by_segment
    for part in full:
        assert (part.columns, part.groups, part.in_pandas) == (whole.columns, whole.groups, whole.in_pandas)


@pytest.mark.parametrize("group_rows", range(1, 35))
def test_parts_have_the_bytes_of_the_whole_wherever_row_groups_end(tmp_path, group_rows):
    assert_parts_are_the_whole(tmp_path, make_table(), SHORT, group_rows=group_rows)


@pytest.mark.parametrize("group_rows", [1, 2, 7, 20, 23, 24, 67])
def test_columns_in_pandas_see_their_whole_segment_wherever_row_groups_end(tmp_path, write_idea, group_rows):
    write_idea(MEAN_GAP)
    assert_parts_are_the_whole(tmp_path, make_table(), SHORT | IN_PANDAS, group_rows=group_rows)


@pytest.mark.parametrize("part_bars", [1, 7, 20, 34, 67, 68])
def test_parts_of_a_table_in_memory_are_those_of_a_file_with_the_same_row_groups(
    tmp_path, monkeypatch, write_idea, part_bars
):
    write_idea(MEAN_GAP)
    monkeypatch.setattr(engine, "PART_BARS", part_bars)
    bars, block = make_table(), SHORT | IN_PANDAS
    of_file = engine.compute_parts(write_clean(tmp_path, bars, group_rows=part_bars), **block)
    for part, expected in zip(engine.compute_parts(bars, **block), of_file, strict=True):
        assert (part.x.tobytes(), part.rows.tolist()) == (expected.x.tobytes(), expected.rows.tolist())
        assert (part.columns, part.lost_by_segment) == (expected.columns, expected.lost_by_segment)


def test_parts_longer_than_a_chunk_have_the_bytes_of_the_whole(tmp_path):
    bars = draw_bars(3 * engine.CHUNK_BARS + 7).assign(segment=0)
    assert_parts_are_the_whole(tmp_path, bars, SHORT, group_rows=engine.CHUNK_BARS + 100)


def test_a_wrong_bar_is_named_by_its_row_in_the_table(tmp_path):
    bars = make_bars([10.0] * 9).assign(segment=0, symbol="A")
    bars.loc[7, "close"] = -1.0
    with pytest.raises(ValueError, match="bars: row 7: close is -1.0; allowed is a finite number, above 0"):
        list(engine.compute_parts(write_clean(tmp_path, bars, group_rows=4), **SHORT))
