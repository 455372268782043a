"""Columns of a symbol among all are those of pandas, bar by bar too, and use no later bar of any symbol."""

import numpy as np
import pandas as pd
import pytest

from pipeline import config
from pipeline.features import cross_section, engine
from pipeline.leakage.features import truncation
from pipeline.row_groups import TableFile, open_table
from tests.test_features import SHORT, make_bars

BLOCK = {"windows": [1, 5], "beta_window": 30}
PARAMS = cross_section.CrossSection(**BLOCK)
BAR_MS, BARS = 60_000, 160


@pytest.fixture(scope="module")
def table():
    """Four symbols whose closes are equal for a while: one has a gap, one is listed later, one ends earlier."""
    rng = np.random.default_rng(1)
    common, parts = rng.normal(0, 0.001, BARS), []
    present = {"A": slice(0, BARS), "B": slice(0, BARS), "C": slice(30, BARS), "D": slice(0, 120)}
    for load, (symbol, bars) in enumerate(present.items()):
        close = 100 * np.exp(np.cumsum(load * common + rng.normal(0, 0.001, BARS)))
        close[70:75] = close[69]
        part = make_bars(close, symbol=symbol, open_time=np.arange(BARS) * BAR_MS)
        parts.append(part.iloc[bars].drop(index=range(100, 110) if symbol == "B" else []))
    bars = pd.concat(parts, ignore_index=True)
    is_start = (bars["symbol"] != bars["symbol"].shift()) | (bars["open_time"].diff() != BAR_MS)
    return bars.assign(segment=is_start.cumsum() - 1)


def compute(table):
    starts = np.flatnonzero(table["segment"].diff().ne(0))
    time_ms, close = table["open_time"].to_numpy(), table["close"].to_numpy()
    return cross_section.compute_columns(PARAMS, time_ms=time_ms, close=close, segment_starts=starts)


def compute_in_pandas(table):
    """The same columns by groupby, rank and rolling covariances."""
    level, time, segment, columns = np.log(table["close"]), table["open_time"], table["segment"], {}
    for n in BLOCK["windows"]:
        move = level.groupby(segment).diff(n)
        by_time = move.groupby(time)
        others = by_time.transform("count") - 1
        columns[f"market_return_{n}"] = by_time.transform("mean").where(move.notna())
        columns[f"return_rank_{n}"] = ((by_time.rank() - 1) / others).where(others > 0, 0.5).where(move.notna())
    move = level.groupby(segment).diff()
    market = move.groupby(time).transform("mean").where(move.notna())
    slopes = [
        move[rows].rolling(30).cov(market[rows]) / market[rows].rolling(30).var()
        for rows in segment.groupby(segment).groups.values()
    ]
    return pd.DataFrame(columns | {"market_beta_30": pd.concat(slopes)})


def view_bits(values):
    return np.ascontiguousarray(values).view(np.uint32)


def test_market_return_rank_and_beta_are_those_of_pandas(table):
    expected = compute_in_pandas(table)
    assert tuple(expected) == tuple(PARAMS.warm_up_bars)
    assert np.isfinite(expected).all(axis=1).any()
    np.testing.assert_allclose(compute(table).T, expected, rtol=2e-6, atol=1e-8)


def test_a_symbol_that_is_alone_is_the_market(table):
    alone = table[table["symbol"] == "A"].reset_index(drop=True)
    warm = compute(alone)[:, 30:]
    move = np.diff(np.log(alone["close"]))[29:]
    np.testing.assert_allclose(warm[0], move, atol=1e-8)
    np.testing.assert_array_equal(warm[1], 0.5)
    np.testing.assert_allclose(warm[4], 1.0, rtol=1e-6)


def test_equal_moves_share_the_middle_of_their_ranks_and_a_market_that_stands_still_has_no_beta(table):
    same = pd.concat([table[table["symbol"] == "A"].assign(symbol=name, close=7.0) for name in "AB"], ignore_index=True)
    same["segment"] = same["symbol"].factorize()[0]
    warm = compute(same)[:, same["open_time"].to_numpy() >= 30 * BAR_MS]
    np.testing.assert_array_equal(warm, np.array([0.0, 0.5, 0.0, 0.5, 0.0], np.float32)[:, None].repeat(260, axis=1))


def test_columns_streamed_by_open_time_have_the_bits_of_the_table(table):
    stream = cross_section.Stream(PARAMS, symbols=["D", "B", "A", "C"])
    starts, expected = table["segment"].diff().ne(0), compute(table).T
    for _, part in table.groupby("open_time"):
        begin = part["symbol"][starts[part.index]]
        found = stream.update(dict(zip(part["symbol"], part["close"], strict=True)), begin=begin.tolist())
        values = np.array([found[symbol] for symbol in part["symbol"]])
        np.testing.assert_array_equal(view_bits(values), view_bits(expected[part.index]))
    with pytest.raises(ValueError, match="E is no symbol of this stream; it has A, B, C, D"):
        stream.update({"E": 1.0})
    with pytest.raises(ValueError, match="F is no symbol of this stream"):
        stream.update({"A": 1.0}, begin=["F"])


@pytest.mark.parametrize("cut", [40, 103, 125])
def test_no_column_changes_when_later_bars_of_all_symbols_are_removed(table, cut):
    is_before = (table["open_time"] <= cut * BAR_MS).to_numpy()
    cut_columns = compute(table[is_before].reset_index(drop=True))
    np.testing.assert_array_equal(view_bits(cut_columns), view_bits(compute(table)[:, is_before]))


@pytest.mark.parametrize(("lead_bars", "severity"), [(0, "ok"), (1, "critical")])
def test_the_guard_truncation_finds_a_column_that_uses_the_next_bar_of_another_symbol(table, lead_bars, severity):
    block = SHORT | {"groups": ["price"], "cross_section": BLOCK}

    def recompute(bars):
        features = engine.compute(bars, **block)
        x = features.x.copy()
        if lead_bars:
            other = bars[bars["symbol"] == "B"].set_index("open_time")["close"].shift(-lead_bars)
            x[:, -5] = other.reindex(bars["open_time"].iloc[features.rows]).fillna(0.0)
        return [(features.rows, x)]

    (stored,) = recompute(table)
    names = engine.compute(table, **block).columns
    finding = truncation(table, recompute, stored, names, cuts=6, seed=1)
    assert finding.severity == severity
    assert list(finding.measurements["changed"]) == ([] if lead_bars == 0 else ["market_return_1"])


def test_a_stream_resumes_from_its_state_and_refuses_that_of_other_windows(table):
    first, second = (cross_section.Stream(PARAMS, symbols=["A", "B"]) for _ in range(2))
    closes = table.pivot(index="open_time", columns="symbol", values="close")[["A", "B"]].dropna().to_dict("records")
    for each in closes[:60]:
        first.update(each)
    second.restore(first.state())
    for each in closes[60:70]:
        pair = [stream.update(each)["B"] for stream in (first, second)]
        np.testing.assert_array_equal(*map(view_bits, pair))
    other = cross_section.Stream(cross_section.CrossSection(**BLOCK | {"windows": [1, 9]}), symbols=["A", "B"])
    with pytest.raises(ValueError, match="state: levels of the columns among symbols are missing or of another shape"):
        other.restore(first.state())


def test_every_column_has_a_definition():
    assert list(PARAMS.meanings) == list(PARAMS.warm_up_bars)


def test_the_columns_stand_behind_the_others_and_parts_of_a_file_have_them(table, tmp_path):
    block = SHORT | {"groups": ["price"], "cross_section": BLOCK}
    whole, without = engine.compute(table, **block), engine.compute(table, **SHORT | {"groups": ["price"]})
    assert whole.columns == (*without.columns, *PARAMS.warm_up_bars)
    assert {whole.groups[name] for name in PARAMS.warm_up_bars} == {"cross_section"}
    np.testing.assert_array_equal(view_bits(whole.x[:, -5:]), view_bits(compute(table)[:, whole.rows].T))
    with open_table(tmp_path / "bars.parquet", group_rows=64) as writer:
        writer.append(table)
    parts = list(engine.compute_parts(TableFile(tmp_path / "bars.parquet"), **block))
    np.testing.assert_array_equal(view_bits(np.concatenate([part.x for part in parts])), view_bits(whole.x))
    np.testing.assert_array_equal(np.concatenate([part.rows for part in parts]), whole.rows)


def test_a_stream_of_one_symbol_refuses_them():
    with pytest.raises(ValueError, match="features.cross_section has market_return_1, .* need the bars of all symbols"):
        engine.Stream(**SHORT, cross_section=BLOCK)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (BLOCK | {"windows": [1, 1]}, r"features.cross_section.windows is \[1, 1\]; its values must differ"),
        (BLOCK | {"beta_window": 1}, "features.cross_section.beta_window"),
        (BLOCK | {"window": 1}, "window"),
    ],
)
def test_a_wrong_window_is_named(table, block, message):
    with pytest.raises(config.ParamsError, match=message):
        engine.compute(table, **SHORT, cross_section=block)
