"""Bulk and stream, the two callers of one update, agree in every bit: over gaps, restarts, cuts, degenerate bars."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.features import engine
from pipeline.market import bars as klines
from tests.test_features import BLOCK, MIDNIGHT_MS, MINUTE_MS, SHORT, load_slice, make_bars

BTC = "BTCUSDT_1m_2024-01-01_90d"
WARM_UP = 449  # of BLOCK: 200 bars of volume, then 50 buckets of 5 bars, less the current bar


def run_stream(bars: pd.DataFrame, stream: engine.Stream) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns of the bars for which the stream has a value, and the positions of these bars."""
    values = [stream.update(bar) for bar in bars.to_dict("records")]
    rows = [i for i, value in enumerate(values) if value is not None]
    columns = len(stream.layout.columns)
    return np.array([values[i] for i in rows], dtype=np.float32).reshape(-1, columns), np.array(rows, dtype=np.int64)


def assert_streams_as_bulk(bars: pd.DataFrame, block: dict[str, object]) -> engine.Features:
    """Return the bulk features; assert that the streamed ones have the same bytes."""
    features = engine.compute(bars, **block)
    x, rows = run_stream(bars, engine.Stream(**block))
    np.testing.assert_array_equal(rows, features.rows)
    assert x.tobytes() == features.x.tobytes()
    return features


@st.composite
def draw_degenerate_bars(draw: st.DrawFn) -> pd.DataFrame:
    """Draw extreme valid bars: ticks as large as the price, gaps, no or huge volume."""
    bar = st.tuples(
        st.integers(-3, 3),  # ticks from close to close
        st.integers(0, 2),  # ticks above and below
        st.sampled_from([0.0, 0.0, 1e-8, 0.3, 1.0, 7.0, 1e3, 1e9]),
        st.sampled_from([0.0, 0.1, 0.5, 1.0]),  # the fraction that takers bought
        st.integers(1, 3),  # trades, where there is volume
        st.sampled_from([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 5]),  # minutes since the last bar
    )
    drawn = draw(st.lists(bar, min_size=12, max_size=80))
    moves, range_ticks, volume, taker_fraction, trades, minutes = map(np.array, zip(*drawn, strict=True))
    trades = np.where(volume > 0, trades, 0)
    tick = draw(st.sampled_from([1e-8, 0.01, 1e3]))
    close = np.maximum(draw(st.integers(4, 100)) + moves.cumsum(), 3)
    start = np.concatenate([close[:1], close[:-1]])
    table = pd.DataFrame({"symbol": "X", "open_time": MIDNIGHT_MS + MINUTE_MS * (minutes.cumsum() + 1)})
    prices = {
        "open": start,
        "high": np.maximum(start, close) + range_ticks,
        "low": np.minimum(start, close) - range_ticks,
    }
    table = table.assign(**{name: tick * price for name, price in prices.items()}, close=tick * close)
    table = table.assign(
        volume=volume, quote_volume=volume * tick * close, trades=trades, taker_buy_base=volume * taker_fraction
    )
    return table.assign(segment=(table["open_time"].diff() > MINUTE_MS).cumsum())


@given(draw_degenerate_bars())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_degenerate_bars_stream_as_in_bulk_and_have_finite_columns(bars: pd.DataFrame) -> None:
    assert np.isfinite(assert_streams_as_bulk(bars, SHORT).x).all()


@given(draw_degenerate_bars(), st.integers(0, 80))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_later_bars_change_no_earlier_value(bars: pd.DataFrame, cut: int) -> None:
    whole, part = engine.compute(bars, **SHORT), engine.compute(bars[:cut], **SHORT)
    assert part.x.tobytes() == whole.x[whole.rows < cut].tobytes()


@given(draw_degenerate_bars(), st.integers(0, 80))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_a_stream_restored_at_any_bar_continues_identically(bars: pd.DataFrame, cut: int) -> None:
    first, second = engine.Stream(**SHORT), engine.Stream(**SHORT)
    bars = bars.drop(columns="segment")
    run_stream(bars[:cut], first)
    second.restore({name: np.array(array.tolist(), array.dtype) for name, array in first.state().items()})
    assert run_stream(bars[cut:], first)[0].tobytes() == run_stream(bars[cut:], second)[0].tobytes()


def test_real_bars_stream_as_in_bulk() -> None:
    features = assert_streams_as_bulk(load_slice(BTC, bars=4000), BLOCK)
    np.testing.assert_array_equal(features.rows, np.arange(WARM_UP, 4000))
    assert features.lost_by_segment == {0: WARM_UP}


@pytest.mark.parametrize("name", ["BTCUSDT_1m_2023-03-20_8d_halt", "ARBUSDT_1m_2023-07-20_14d_gap"])
def test_real_bars_with_gaps_stream_as_in_bulk(name: str) -> None:
    bars = load_slice(name, bars=20_000)
    gaps = np.flatnonzero(bars["open_time"].diff() > MINUTE_MS)
    part = bars[max(gaps[0] - 1000, 0) : gaps[0] + 1000].reset_index(drop=True)
    features = assert_streams_as_bulk(part, BLOCK)
    assert len(features.lost_by_segment) >= 2
    assert sum(features.lost_by_segment.values()) + len(features.rows) == len(part)
    assert np.isfinite(features.x).all()


def test_a_stream_restored_in_warm_up_or_within_a_bucket_continues_identically() -> None:
    bars = load_slice(BTC, bars=1200)
    features = engine.compute(bars, **BLOCK)
    for cut in (1, 150, 321, 449, 777):
        first, second = engine.Stream(**BLOCK), engine.Stream(**BLOCK)
        head, _ = run_stream(bars[:cut], first)
        second.restore(first.state())
        tail, _ = run_stream(bars[cut:], second)
        assert np.concatenate([head, tail]).tobytes() == features.x.tobytes()


def test_segments_do_not_influence_each_other() -> None:
    rng = np.random.default_rng(0)
    one, two = (make_bars(rng.uniform(9, 11, 40), volume=rng.exponential(1, 40), taker_buy_base=0.01) for _ in range(2))
    two = two.assign(segment=1, open_time=two["open_time"] + 10**9)
    both = engine.compute(pd.concat([one, two], ignore_index=True), **SHORT)
    alone = [engine.compute(part, **SHORT).x for part in (one, two)]
    assert both.x.tobytes() == np.concatenate(alone).tobytes()
    assert both.lost_by_segment == {0: max(both.warm_up_bars.values()), 1: max(both.warm_up_bars.values())}


def test_a_segment_shorter_than_the_warm_up_is_lost_whole_and_counted() -> None:
    bars = pd.concat([make_bars(np.full(3, 9.0)), make_bars(np.full(40, 9.0)).assign(segment=1)], ignore_index=True)
    features = engine.compute(bars, **SHORT)
    assert features.lost_by_segment == {0: 3, 1: max(features.warm_up_bars.values())}
    assert features.rows[0] == 3 + max(features.warm_up_bars.values())


def test_segments_are_found_where_the_table_has_none() -> None:
    bars = load_slice("ARBUSDT_1m_2023-07-20_14d_gap", bars=20_000)
    with_segments = bars.assign(segment=klines.number_segments(bars))
    assert engine.compute(bars, **BLOCK).x.tobytes() == engine.compute(with_segments, **BLOCK).x.tobytes()


def test_the_length_of_a_chunk_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = load_slice(BTC, bars=3000)
    expected = engine.compute(bars, **BLOCK).x.tobytes()
    monkeypatch.setattr(engine, "CHUNK_BARS", 7)
    assert engine.compute(bars, **BLOCK).x.tobytes() == expected


def test_a_changed_segment_key_starts_a_segment_even_back_in_time() -> None:
    close = np.random.default_rng(0).uniform(9, 11, 30)
    both = pd.concat([make_bars(close), make_bars(close).assign(segment=1)], ignore_index=True)
    x, rows = run_stream(both, engine.Stream(**SHORT))
    assert x[rows < 30].tobytes() == x[rows >= 30].tobytes()


def test_a_step_shorter_than_all_before_shows_that_those_were_gaps() -> None:
    bars = make_bars(np.random.default_rng(0).uniform(9, 11, 40)).drop(columns="segment")
    bars["open_time"] += 3_600_000
    sparse = bars[:3].assign(open_time=np.array([2_700_000, 3_000_000, 3_300_000]) + MIDNIGHT_MS)
    x, _ = run_stream(pd.concat([sparse, bars]), engine.Stream(**SHORT))
    assert x.tobytes() == run_stream(bars, engine.Stream(**SHORT))[0].tobytes()


def test_a_bar_that_is_repeated_or_goes_back_in_time_is_refused_and_changes_nothing() -> None:
    bars = make_bars(np.random.default_rng(0).uniform(9, 11, 30)).to_dict("records")
    stream, clean = engine.Stream(**SHORT), engine.Stream(**SHORT)
    for i, bar in enumerate(bars):
        actual, expected = stream.update(bar), clean.update(bar)
        assert (actual is None and expected is None) or actual.tobytes() == expected.tobytes()
        with pytest.raises(ValueError, match=f"open_time is {bar['open_time']} .*already processed: skip it"):
            stream.update(bar)
        if i:
            with pytest.raises(ValueError, match="allowed is one after"):
                stream.update(bars[i - 1])


@pytest.mark.parametrize(
    ("field", "value", "got"),
    [("close", np.nan, "missing or NaN"), ("low", 0.0, "0.0"), ("volume", -1.0, "-1.0"), ("trades", np.inf, "inf")],
)
def test_an_invalid_value_is_refused_by_name(field: str, value: float, got: str) -> None:
    bars = make_bars(np.full(20, 9.0)).astype({"trades": float})
    bars.loc[13, field] = value
    with pytest.raises(ValueError, match=f"row 13: {field} is {value}"):
        engine.compute(bars, **SHORT)
    with pytest.raises(ValueError, match=f"{field} is {got}"):
        engine.Stream(**SHORT).update(bars.loc[13].to_dict())


def test_a_missing_column_is_refused_by_name() -> None:
    bars = make_bars(np.full(20, 9.0)).drop(columns=["low", "volume"])
    with pytest.raises(ValueError, match=r"\['low', 'volume'\] are missing"):
        engine.compute(bars, **SHORT)
    with pytest.raises(ValueError, match="'low', 'volume' are missing"):
        engine.Stream(**SHORT).update(bars.loc[0].to_dict())


def test_bars_out_of_order_are_refused() -> None:
    bars = make_bars(np.full(20, 9.0))
    with pytest.raises(ValueError, match="row 7 does not follow row 6"):
        engine.compute(bars.assign(open_time=bars["open_time"].where(bars.index != 7, 0)), **SHORT)
    with pytest.raises(ValueError, match="segment 0 are not adjacent"):
        engine.compute(bars.assign(segment=[0] * 9 + [1] * 2 + [0] * 9), **SHORT)


@pytest.mark.parametrize("name", [name for name, value in BLOCK.items() if isinstance(value, int)])
@pytest.mark.parametrize("value", [0, -1, 2.0, "20", True, None])
def test_an_invalid_window_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"features.{name} is {value!r}; it must be"):
        engine.Stream(**BLOCK | {name: value})


@pytest.mark.parametrize("name", [name for name in BLOCK if name.endswith("_windows")])
@pytest.mark.parametrize("value", [[], [5, 5], [0, 3, 4], [1.5, 2, 3], 20, None])
def test_an_invalid_list_of_windows_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"features.{name}"):
        engine.Stream(**BLOCK | {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("macd_windows", [26, 12, 9]),
        ("macd_windows", [12, 26]),
        ("bollinger_deviations", 0.0),
        ("bollinger_deviations", "2"),
        ("baseline_window", 20),
        ("liquidity_window", 1),
        ("range_window", 1),
    ],
)
def test_a_parameter_out_of_its_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"features.{name}"):
        engine.Stream(**BLOCK | {name: value})


def test_a_misspelt_parameter_is_refused() -> None:
    with pytest.raises(TypeError, match="rsi_window"):
        engine.compute(make_bars(np.full(20, 9.0)), **BLOCK, rsi_window=3)


def test_the_state_of_a_stream_with_other_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="memory has"):
        engine.Stream(**BLOCK).restore(engine.Stream(**SHORT).state())


def test_two_days_after_its_first_bar_a_stream_no_longer_depends_on_where_it_started() -> None:
    bars = load_slice("BTCUSDT_1m_2024-01-01_90d", bars=8_000)
    whole = engine.compute(bars, **BLOCK)
    spread = whole.x.std(axis=0)
    for start in (1, 777, 1_500, 3_000):
        features = engine.compute(bars[start:], **BLOCK)
        difference = np.abs(features.x[2_880:] - whole.x[start + 2_880 :]) / spread
        assert difference.max() < 1e-3, features.columns[int(difference.max(axis=0).argmax())]
