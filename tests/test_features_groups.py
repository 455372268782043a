"""Groups of columns that are switched off, and columns in pandas, which are switched on."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import config
from pipeline.features import catalogue, engine, in_pandas, pandas_file, registry
from pipeline.leakage.features import truncation
from tests.params import PARAMS
from tests.test_features import BLOCK, MINUTE_MS, SHORT, make_bars

MEAN_GAP = """
import pandas as pd

def compute(bars: pd.DataFrame, *, window: int) -> pd.DataFrame:
    mean = bars["close"].rolling(window).mean()
    return pd.DataFrame({f"mean_gap_{window}": bars["close"] / mean - 1})

def count_warm_up_bars(*, window: int) -> int:
    return window - 1
"""
IN_PANDAS = {"in_pandas": {"idea": {"window": 5}}}


def draw_bars(bars: int, *, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return make_bars(rng.uniform(9, 11, bars), volume=rng.exponential(1, bars), taker_buy_base=0.01)


@pytest.fixture
def write_idea(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """A function that writes `idea.py`, the only file in pandas."""
    module = f"{in_pandas.__name__}.idea"
    monkeypatch.setattr(pandas_file, "FOLDER", tmp_path)
    monkeypatch.setattr(in_pandas, "__path__", [str(tmp_path)])

    def write(code: str) -> None:
        (tmp_path / "idea.py").write_text(code)
        importlib.invalidate_caches()

    yield write
    sys.modules.pop(module, None)


def test_every_file_is_a_group_that_is_on_where_calendar_and_flags_of_symbols_are_given() -> None:
    files = {file.stem for file in registry.FOLDER.glob("[!_]*.py")}
    block = PARAMS["datasets"]["klines"]["features"] | PARAMS["disabled_features"] | {"symbol_flags": ["BTCUSDT"]}
    features = engine.compute(draw_bars(500).assign(symbol="BTCUSDT"), **block)
    assert set(features.groups.values()) == files
    assert list(features.groups) == list(features.columns)


def test_the_first_groups_keep_their_order_and_others_follow_by_alphabet(tmp_path: Path) -> None:
    for name in ("zeta", "flow", "alpha", "price", "__init__"):
        (tmp_path / f"{name}.py").touch()
    assert registry.list_files(tmp_path) == ["price", "flow", "alpha", "zeta"]


def test_presets_name_groups() -> None:
    assert {name for groups in catalogue.PRESETS.values() for name in groups} <= registry.GROUPS.keys()
    assert not catalogue.PRESETS.keys() & registry.GROUPS.keys()


@pytest.mark.parametrize("groups", [["price"], ["momentum", "price"], ["flow", "liquidity"], ["liquidity"]])
def test_columns_of_the_groups_that_are_on_have_the_same_bytes_without_the_others(groups: list[str]) -> None:
    bars = draw_bars(60)
    whole, part = engine.compute(bars, **SHORT), engine.compute(bars, **SHORT | {"groups": groups})
    assert part.columns == tuple(name for name in whole.columns if whole.groups[name] in groups)
    positions = [whole.columns.index(name) for name in part.columns]
    assert part.x[-len(whole.x) :].tobytes() == np.ascontiguousarray(whole.x[:, positions]).tobytes()
    stream = engine.Stream(**SHORT | {"groups": groups})
    streamed = [values for bar in bars.to_dict("records") if (values := stream.update(bar)) is not None]
    assert np.array(streamed).tobytes() == part.x.tobytes()


def test_the_keys_of_a_group_that_is_off_may_be_absent() -> None:
    bars, block = draw_bars(30), {"groups": ["liquidity"], "liquidity_window": 4}
    features = config.call_with(engine.compute, bars, block=block, name="features")
    assert features.x.tobytes() == engine.compute(bars, **SHORT | {"groups": ["liquidity"]}).x.tobytes()
    with pytest.raises(ValueError, match="features: key 'rsi_windows' is missing; its keys are rsi_windows, macd"):
        engine.compute(bars, **block | {"groups": ["momentum"]})


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["prise"], "features.groups: there is no 'prise'; pipeline/features/groups has price, momentum, flow, liq"),
        ([], "features.groups is \\[\\]; it must be a list of at least 1"),
        ("price", "features.groups is 'price'; it must be a list"),
        ([1], "features.groups.0 is 1; it must be text"),
    ],
)
def test_groups_that_do_not_exist_are_refused(groups: object, message: str) -> None:
    with pytest.raises(config.ParamsError, match=message):
        engine.Stream(**BLOCK | {"groups": groups})


def test_two_files_with_the_same_key_or_column_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda name: registry.GROUPS["price"])
    with pytest.raises(ValueError, match=r"price.py and momentum.py declare return_windows; rename one"):
        registry._import_groups()
    owners = {"rsi_14": "momentum"}
    with pytest.raises(ValueError, match="features momentum and idea both have a column rsi_14; rename one of them"):
        catalogue.add_owners(owners, ["rsi_14"], owner="idea")


def test_columns_in_pandas_stand_behind_the_compiled_ones_and_change_no_byte_of_them(write_idea) -> None:
    write_idea(MEAN_GAP)
    bars = draw_bars(40)
    features, compiled = engine.compute(bars, **SHORT, **IN_PANDAS), engine.compute(bars, **SHORT)
    assert features.columns == (*compiled.columns, "mean_gap_5")
    assert features.x.dtype == np.float32
    assert features.x[:, :-1].tobytes() == np.ascontiguousarray(compiled.x).tobytes()
    expected = bars["close"] / bars["close"].rolling(5).mean() - 1
    np.testing.assert_array_equal(features.x[:, -1], expected[features.rows].to_numpy(np.float32))
    assert (features.in_pandas, features.groups["mean_gap_5"]) == (("mean_gap_5",), "idea")
    assert features.warm_up_bars == compiled.warm_up_bars | {"mean_gap_5": 4}


def test_the_warm_up_of_an_idea_is_cut_from_every_segment(write_idea) -> None:
    write_idea(MEAN_GAP)
    bars = pd.concat([draw_bars(n, seed=n).assign(segment=n) for n in (40, 12, 25)], ignore_index=True)
    features = engine.compute(bars, **SHORT, in_pandas={"idea": {"window": 20}})
    assert features.lost_by_segment == {40: 19, 12: 12, 25: 19}
    assert np.isfinite(features.x).all()


def test_no_value_in_pandas_depends_on_the_segment_before(write_idea) -> None:
    write_idea(MEAN_GAP)
    one, two = draw_bars(40), draw_bars(30, seed=1).assign(segment=1)
    both = engine.compute(pd.concat([one, two], ignore_index=True), **SHORT, **IN_PANDAS)
    alone = engine.compute(two, **SHORT, **IN_PANDAS)
    assert both.x[-len(alone.x) :].tobytes() == alone.x.tobytes()


def test_segments_shorter_than_the_warm_up_give_no_rows(write_idea) -> None:
    write_idea(MEAN_GAP)
    assert engine.compute(draw_bars(3), **SHORT, **IN_PANDAS).x.shape[0] == 0


LEAKS = {
    "shifted": MEAN_GAP.replace("mean - 1", "mean.shift(-1).ffill() - 1"),
    "centered": MEAN_GAP.replace("rolling(window)", "rolling(window, center=True, min_periods=1)"),
    "of the whole segment": MEAN_GAP.replace('["close"].rolling(window)', '["close"]'),
}


def check_truncation(bars: pd.DataFrame) -> object:
    def recompute(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        features = engine.compute(table, **SHORT, **IN_PANDAS)
        return features.rows, features.x

    columns = engine.compute(bars, **SHORT, **IN_PANDAS).columns
    return truncation(bars, lambda table: [recompute(table)], recompute(bars), columns, cuts=12, seed=1)


def test_the_guard_finds_an_idea_that_reads_no_later_bar_clean(write_idea) -> None:
    write_idea(MEAN_GAP)
    assert check_truncation(draw_bars(300)).severity == "ok"


@pytest.mark.parametrize("leak", LEAKS)
def test_the_guard_catches_an_idea_that_looks_ahead(leak: str, write_idea) -> None:
    write_idea(LEAKS[leak])
    bars = draw_bars(300)
    later = bars.assign(segment=1, open_time=bars["open_time"] + 10**6 * MINUTE_MS)
    found = check_truncation(pd.concat([bars, later], ignore_index=True))
    assert found.severity == "critical"
    assert list(found.measurements["changed"]) == ["mean_gap_5"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return pd.DataFrame(", "return list(", "compute returned a list; allowed is a DataFrame with the index"),
        ("- 1})", "- 1}).dropna()", "compute returned another index, of 36 rows for 40 bars"),
        ("/ mean - 1", ".astype(str)", "compute returned columns of str"),
        ('f"mean_gap_{window}"', "5", r"compute returned the columns \[5\]"),
        ('f"mean_gap_{window}"', "'rsi_3'", "features momentum and idea both have a column rsi_3"),
        (
            'f"mean_gap_{window}"',
            'f"{bars.open_time[0]}"',
            r"the columns \['1704076200000'\] after \['1704067200000'\]",
        ),
    ],
)
def test_a_result_that_is_no_table_of_columns_is_refused(old: str, new: str, message: str, write_idea) -> None:
    write_idea(MEAN_GAP.replace(old, new))
    later = draw_bars(30).assign(segment=1, open_time=lambda table: table["open_time"] + 9_000_000)
    with pytest.raises(ValueError, match=message):
        engine.compute(pd.concat([draw_bars(40), later], ignore_index=True), **SHORT, **IN_PANDAS)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"ideal": {"window": 5}}, "features.in_pandas: there is no 'ideal'; pipeline/features/in_pandas has idea"),
        ({"idea": {"window": "5"}}, "features.in_pandas.idea.window is '5'; it must be a whole number"),
        ({"idea": {}}, "features.in_pandas.idea: key 'window' is missing; its keys are window"),
        ({"idea": {"window": 5, "n": 1}}, "features.in_pandas.idea: unknown key 'n'; its keys are window"),
        ({"idea": 5}, "features.in_pandas.idea is 5; it must be a section of keys and values"),
        (["idea"], "features.in_pandas is .'idea'.; it must be a section of keys and values"),
    ],
)
def test_a_wrong_block_of_an_idea_is_refused_by_name(block: object, message: str, write_idea) -> None:
    write_idea(MEAN_GAP)
    with pytest.raises(config.ParamsError, match=message):
        engine.compute(draw_bars(40), **SHORT, in_pandas=block)


@pytest.mark.usefixtures("write_idea")
def test_the_folder_of_ideas_may_be_empty() -> None:
    with pytest.raises(config.ParamsError, match="there is no 'idea'; pipeline/features/in_pandas has no file"):
        engine.compute(draw_bars(40), **SHORT, **IN_PANDAS)
    assert engine.compute(draw_bars(40), **SHORT, in_pandas={}).in_pandas == ()


def test_a_stream_refuses_columns_in_pandas(write_idea) -> None:
    write_idea(MEAN_GAP)
    with pytest.raises(ValueError, match="in_pandas has idea: columns in pandas cannot be streamed; leave them out"):
        engine.Stream(**SHORT, **IN_PANDAS)
