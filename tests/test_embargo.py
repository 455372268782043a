import numpy as np
import pandas as pd
import pytest

from pipeline import config
from pipeline.datasets.klines.words import WORDS
from pipeline.leakage.folds import embargo
from pipeline.stages import split
from pipeline.validation.embargo import find_needed_embargo
from pipeline.validation.folds import Folds, make_folds

BAR = 60_000
SCHEME = {"method": "cpcv", "groups": 4, "test_groups": 1, "train_groups": 1, "holdout_pct": 0.0}
SECTION = {**SCHEME, "embargo_pct": None, "embargo_bars": None, "embargo_hours": None, "holdout_pct": 0.2}


def make_spans(count: int, *, horizon: int, bar_ms: int = BAR) -> tuple[np.ndarray, np.ndarray]:
    """Return (time, label_end) of consecutive bars whose labels end `horizon` bars later."""
    time = np.arange(count, dtype=np.int64) * bar_ms
    return time, time + horizon * bar_ms


def make_rows(count: int, *, horizon: int) -> pd.DataFrame:
    time, label_end = make_spans(count, horizon=horizon)
    return pd.DataFrame({"time": time, "label_end": label_end, "segment": 0, "is_labeled": True})


def choose(section: dict, rows: pd.DataFrame, *, unit: str = "ms") -> tuple[dict, str]:
    return split.choose_embargo({**SECTION, **section}, rows, warm_up_bars=7, unit=unit, words=WORDS)


@pytest.mark.parametrize(
    ("embargo_key", "bars"),
    [
        ({"embargo_bars": 3}, 3),
        ({"embargo_bars": 0}, 0),
        ({"embargo_hours": 0.05}, 3),  # three minutes
        ({"embargo_hours": 0.051}, 4),
        ({"embargo_hours": 0}, 0),
        ({"embargo_pct": 0.07}, 7),
    ],
)
def test_an_embargo_in_bars_hours_or_as_a_share_has_whole_bars(embargo_key: dict, bars: int):
    folds = make_folds(*make_spans(100, horizon=1), **SCHEME, **embargo_key)
    assert (folds.embargo_bars, folds.embargo_ms) == (bars, bars * BAR)
    assert folds.train(0)[0] == 26 + bars  # group 0 has bars 0 to 24, its last label ends at bar 25


def test_an_hour_has_fewer_bars_where_bars_are_longer():
    folds = make_folds(*make_spans(100, horizon=1, bar_ms=15 * BAR), **SCHEME, embargo_hours=1.1)
    assert (folds.embargo_bars, folds.embargo_ms) == (5, 75 * BAR)


@pytest.mark.parametrize(
    ("embargoes", "message"),
    [
        ({}, "of embargo_pct, embargo_bars, embargo_hours there is none; set one"),
        ({"embargo_pct": 0.01, "embargo_hours": 2}, r"there is embargo_pct: 0\.01 and embargo_hours: 2; set one"),
        ({"embargo_bars": -1}, "embargo_bars is -1; give a whole number of bars"),
        ({"embargo_bars": 2.5}, r"embargo_bars is 2\.5"),
        ({"embargo_bars": True}, "embargo_bars is True"),
        ({"embargo_hours": -0.5}, r"embargo_hours is -0\.5; give a finite number of hours"),
        ({"embargo_hours": float("inf")}, "embargo_hours is inf"),
    ],
)
def test_no_embargo_several_or_a_negative_one_is_refused(embargoes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_folds(*make_spans(100, horizon=1), **SCHEME, **embargoes)


def test_an_embargo_that_leaves_no_train_row_or_no_holdout_is_named_with_its_length():
    folds = make_folds(*make_spans(100, horizon=1), **SCHEME, embargo_bars=80)
    with pytest.raises(ValueError, match=r"leave no train row beside test groups \[0\].* or embargo_bars \(80\)"):
        folds.train(0)
    with pytest.raises(ValueError, match=r"lower valid_pct \(0\.2\) or embargo_bars \(80\)"):
        folds.split_validation(folds.development(), 0.2)
    with pytest.raises(ValueError, match=r"cover the whole holdout.* lower embargo_hours \(1\)"):
        make_folds(*make_spans(100, horizon=1), **{**SCHEME, "holdout_pct": 0.2}, embargo_hours=1)


def test_saved_folds_have_the_same_embargo(tmp_path):
    folds = make_folds(*make_spans(100, horizon=1), **SCHEME, embargo_hours=0.1)
    folds.save(tmp_path / "folds.parquet", pd.DataFrame({"segment": np.zeros(100, np.int32)}))
    loaded = Folds.load(tmp_path / "folds.parquet")[0]
    assert (loaded.scheme, loaded.embargo_bars) == (folds.scheme, 6)


def test_the_settings_of_a_scheme_name_only_the_embargo_that_is_set():
    folds = make_folds(*make_spans(100, horizon=1), **SCHEME, embargo_pct=0.01)
    assert folds.scheme.list_settings() == {**SCHEME, "embargo_pct": 0.01}  # a trial keeps its identity


def test_the_needed_embargo_is_the_longest_warm_up_plus_the_longest_label():
    time, label_end = make_spans(50, horizon=3)
    label_end[20] = time[25]
    found = find_needed_embargo(time, label_end, np.zeros(50, int), warm_up_bars=7)
    assert (found.bars, found.warm_up_bars, found.label_bars) == (12, 7, 5)
    assert found.reason == "the longest warm-up of a feature has 7 bars, the longest label 5"


def test_a_hole_and_other_symbols_do_not_lengthen_the_needed_embargo():
    first = np.setdiff1d(np.arange(60), np.arange(20, 45))
    second = np.arange(10, 50)
    time = np.concatenate([first, second]) * BAR
    segment = np.concatenate([first > 40, np.full(len(second), 2)]).astype(int)
    found = find_needed_embargo(time, time + 2 * BAR, segment, warm_up_bars=4)
    assert (found.bars, found.label_bars) == (6, 2)


def test_where_a_market_closes_overnight_the_needed_embargo_spans_the_night():
    time = np.concatenate([np.arange(10), 100 + np.arange(10)]) * BAR  # one segment of two days
    label_end = np.append(time[2:], [time[-1]] * 2)
    found = find_needed_embargo(time, label_end, np.zeros(20, int), warm_up_bars=3)
    assert (found.label_bars, found.bars) == (2, 95)  # from bar 5 of the first day to bar 0 of the second
    assert found.reason.endswith("; so many bars of one segment span up to 95 steps of the clock")


def test_the_label_of_an_event_has_as_many_bars_as_rows_of_its_own_symbol():
    time = np.array([3, 5, 7, 9, 11, 13, 4, 6, 8, 10], np.int64)  # two symbols take turns
    label_end = np.array([7, 9, 11, 13, 13, 13, 8, 10, 10, 10], np.int64)
    found = find_needed_embargo(time, label_end, np.repeat([0, 1], [6, 4]), warm_up_bars=1)
    assert (found.label_bars, found.bars) == (2, 6)  # three rows of a symbol are six events


@pytest.mark.parametrize("seed", range(5))
def test_with_the_needed_embargo_no_feature_of_a_later_train_row_reads_a_bar_of_a_test_label(seed: int):
    rng = np.random.default_rng(seed)
    time, _ = make_spans(300, horizon=0)
    label_end = time + rng.integers(1, 9, 300) * BAR
    found = find_needed_embargo(time, label_end, np.zeros(300, int), warm_up_bars=12)
    folds = make_folds(time, label_end, **{**SCHEME, "test_groups": 2}, embargo_bars=found.bars)
    for number in range(folds.n_splits):
        test, train = folds.test(number), folds.train(number)
        for row in train:
            earlier = test[time[test] < time[row]]
            assert not len(earlier) or label_end[earlier].max() < time[row] - 12 * BAR
    assert embargo(folds, 12).severity == "ok"


def test_without_an_embargo_in_params_the_one_that_is_needed_is_chosen_and_explained():
    block, reason = choose({}, make_rows(100, horizon=3))
    assert block == {**SECTION, "embargo_bars": 10}
    assert reason == "the longest warm-up of a feature has 7 bars, the longest label 3"
    assert config.call_with(make_folds, *make_spans(100, horizon=3), block=block, name="split").embargo_bars == 10


def test_an_embargo_of_params_is_used_as_it_is():
    assert choose({"embargo_hours": 2}, make_rows(9, horizon=3)) == (
        {**SECTION, "embargo_hours": 2},
        "split.embargo_hours (2)",
    )


def test_labels_of_the_holdout_do_not_change_the_embargo():
    rows = make_rows(100, horizon=3)
    rows.loc[85, "label_end"] += 9 * BAR  # the holdout begins at bar 80
    assert choose({}, rows)[0]["embargo_bars"] == 10


@pytest.mark.parametrize(
    ("section", "unit", "message"),
    [
        ({"embargo_pct": 0.01, "embargo_bars": 20}, "ms", r"embargo_pct \(0\.01\) and embargo_bars \(20\); set one of"),
        ({"embargo_hours": 2}, "events", r"embargo_hours \(2\); the clock of this dataset counts events: set embargo_"),
        ({"embargo_pct": 20}, "ms", "is 20; it must be below 1, a share of the times"),
        ({"embargo_bars": -2}, "ms", "split.embargo_bars is -2; it must be at least 0"),
        ({"embargo": 20}, "ms", "unknown key 'embargo'; its keys are .*embargo_pct, embargo_bars, embargo_hours"),
    ],
)
def test_a_wrong_embargo_of_params_is_explained(section: dict, unit: str, message: str):
    with pytest.raises(config.ParamsError, match=message):
        choose(section, make_rows(100, horizon=3), unit=unit)
