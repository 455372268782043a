import numpy as np
import pandas as pd
import pytest

from pipeline.leakage import cuts

BAR = 60_000
DAY = 24 * 60  # bars


def bars(*lengths: int) -> pd.DataFrame:
    """Lively bars of one symbol from midnight on, one segment after another."""
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


def test_borders_and_day_ends_are_found_with_their_neighbours():
    found = cuts.of_bars(bars(5, DAY))
    assert sorted(found["segment_end"]) == [3, 4, 5, DAY + 3, DAY + 4]
    assert sorted(found["segment_start"]) == [0, 1, 2, 5, 6, 7]
    assert sorted(found["day_end"]) == [DAY - 2, DAY - 1, DAY]


def test_idle_are_bars_without_volume_and_bars_without_a_range():
    table = bars(10)
    table.loc[[2, 3], "volume"] = 0.0
    table.loc[[7], "high"] = 1.0
    assert cuts.of_bars(table)["idle"].tolist() == [2, 3, 7]


def test_a_step_is_cut_right_at_it_or_beside_it_and_a_run_inside():
    x = np.zeros((40, 2), dtype=np.float32)
    x[:, 0] = np.arange(40)  # changes always
    x[20:, 1] = 1.0
    segment, positions = np.zeros(40, dtype=np.int32), 100 + np.arange(40)
    steps, runs = set(), set()
    for seed in range(300):
        found = cuts.of_columns(positions, x, segment, columns=5, rng=np.random.default_rng(seed))
        steps |= set(found["step"].tolist())
        runs |= set(found["run"].tolist())
    assert steps == {119, 120, 121}
    assert runs == set(range(100, 139)) - {119}  # the bar after each stands in its run


def test_a_column_that_changes_in_most_rows_has_no_steps_but_may_have_runs():
    x = np.arange(100, dtype=np.float32)[:, None]
    x[50] = x[49]
    found = cuts.of_columns(np.arange(100), x, np.zeros(100), columns=5, rng=np.random.default_rng(0))
    assert (found["step"].size, found["run"].tolist()) == (0, [49])


def test_a_value_that_comes_again_in_the_next_segment_is_no_run():
    x, segment = np.array([[0.0], [1.0], [1.0], [2.0]], dtype=np.float32), np.array([0, 0, 1, 1])
    found = cuts.of_columns(np.arange(4), x, segment, columns=5, rng=np.random.default_rng(0))
    assert found["run"].size == 0
    assert sorted(found["warm_up_end"]) == [0, 1, 1, 2, 3]


def test_kinds_take_turns_until_all_cuts_are_spent():
    kinds = {"many": np.arange(100), "few": np.array([200, 201]), "none": np.array([], dtype=np.int64)}
    chosen = list(cuts.choose(kinds, cuts=7, rng=np.random.default_rng(0)).values())
    assert chosen == ["many", "few", "many", "few", "many", "many", "many"]


def test_no_instant_is_chosen_twice():
    kinds = {"all": np.arange(5), "some": np.array([1, 2, 2])}
    chosen = cuts.choose(kinds, cuts=50, rng=np.random.default_rng(0))
    assert sorted(chosen) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("first", [0, 3])
def test_an_instant_leaves_a_bar_after_it_and_what_is_asked_before(first: int):
    found = cuts.instants({"anywhere": np.arange(10)}, np.arange(10) * BAR, first_ms=first * BAR)
    assert found["anywhere"].tolist() == [i * BAR for i in range(first, 9)]
