from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.leakage import cut_times
from pipeline.row_groups import TableFile
from pipeline.stages.guard import read_clean

BAR = 60_000
DAY = 24 * 60  # bars


def make_bars(*lengths: int) -> pd.DataFrame:
    """Make traded bars of one symbol from midnight on, one segment after another."""
    count = sum(lengths)
    return pd.DataFrame(
        {
            "open_time": np.arange(count) * BAR,
            "high": np.full(count, 2.0),
            "low": np.full(count, 1.0),
            "volume": np.ones(count),
            "segment": np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        }
    )


def test_borders_and_day_ends_are_found_with_their_neighbors():
    found = cut_times.find_bar_candidates(make_bars(5, DAY))
    assert sorted(found["segment_end"]) == [3, 4, 5, DAY + 3, DAY + 4]
    assert sorted(found["segment_start"]) == [0, 1, 2, 5, 6, 7]
    assert sorted(found["day_end"]) == [DAY - 2, DAY - 1, DAY]


def test_the_numbers_of_events_have_no_days():
    events = make_bars(5, DAY)  # an exchange's messages may have a volume, and bars of some exchanges have none
    assert cut_times.find_bar_candidates(events.drop(columns="volume"))["day_end"].size == 3
    events.attrs[cut_times.UNIT] = "events"
    assert cut_times.find_bar_candidates(events)["day_end"].size == 0


@pytest.mark.parametrize(("time", "unit"), [("open_time", "ms"), ("event", "events")])
def test_the_guards_read_a_clean_table_with_the_unit_of_its_clock(tmp_path: Path, time: str, unit: str):
    make_bars(5).rename(columns={"open_time": time}).to_parquet(tmp_path / "clean.parquet")
    table = read_clean(TableFile(tmp_path / "clean.parquet"), time, unit, ["open_time", "segment"])
    assert (set(table.columns), table.attrs[cut_times.UNIT]) == ({"open_time", "segment"}, unit)


def test_bars_without_volume_or_without_a_range_are_idle():
    table = make_bars(10)
    table.loc[[2, 3], "volume"] = 0.0
    table.loc[[7], "high"] = 1.0
    assert cut_times.find_bar_candidates(table)["idle"].tolist() == [2, 3, 7]


def test_a_step_is_cut_at_or_beside_it_and_a_plateau_inside():
    x = np.zeros((40, 2), dtype=np.float32)
    x[:, 0] = np.arange(40)  # changes in every row
    x[20:, 1] = 1.0
    segment, positions = np.zeros(40, dtype=np.int32), 100 + np.arange(40)
    steps, plateaus = set(), set()
    for seed in range(300):
        found = cut_times.find_column_candidates(positions, x, segment, columns=5, rng=np.random.default_rng(seed))
        steps |= set(found["step"].tolist())
        plateaus |= set(found["plateau"].tolist())
    assert steps == {119, 120, 121}
    assert plateaus == set(range(100, 139)) - {119}  # the bar after each belongs to its plateau


def test_a_column_that_changes_in_most_rows_has_no_steps_but_may_have_plateaus():
    x = np.arange(100, dtype=np.float32)[:, None]
    x[50] = x[49]
    found = cut_times.find_column_candidates(np.arange(100), x, np.zeros(100), columns=5, rng=np.random.default_rng(0))
    assert (found["step"].size, found["plateau"].tolist()) == (0, [49])


def test_a_value_that_recurs_in_the_next_segment_is_no_plateau():
    x, segment = np.array([[0.0], [1.0], [1.0], [2.0]], dtype=np.float32), np.array([0, 0, 1, 1])
    found = cut_times.find_column_candidates(np.arange(4), x, segment, columns=5, rng=np.random.default_rng(0))
    assert found["plateau"].size == 0
    assert sorted(found["warm_up_end"]) == [0, 1, 1, 2, 3]


def test_kinds_take_turns_until_all_cuts_are_used():
    times = {"many": np.arange(100), "few": np.array([200, 201]), "none": np.array([], dtype=np.int64)}
    drawn = list(cut_times.draw_cut_times(times, cuts=7, rng=np.random.default_rng(0)).values())
    assert drawn == ["many", "few", "many", "few", "many", "many", "many"]


def test_no_time_is_drawn_twice():
    times = {"all": np.arange(5), "some": np.array([1, 2, 2])}
    drawn = cut_times.draw_cut_times(times, cuts=50, rng=np.random.default_rng(0))
    assert sorted(drawn) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("first", [0, 3])
def test_a_selected_time_leaves_a_bar_after_it_and_is_not_before_the_first(first: int):
    found = cut_times.select_times({"anywhere": np.arange(10)}, np.arange(10) * BAR, first_ms=first * BAR)
    assert found["anywhere"].tolist() == [i * BAR for i in range(first, 9)]
