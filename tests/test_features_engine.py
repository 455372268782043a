"""The two callers of one update: bulk and stream agree in every bit, over holes, restarts, cuts and ugly bars."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import bars as klines
from pipeline.features import engine
from tests.test_features import BLOCK, MINUTE_MS, SHORT, made, real

BTC = "BTCUSDT_1m_2024-01-01_90d"
WARM_UP = 449  # of BLOCK: 200 bars of volume, then 50 buckets of 5 bars, less the one that is known


def streamed(bars: pd.DataFrame, stream: engine.Stream) -> tuple[np.ndarray, np.ndarray]:
    """What the stream says of each bar, and the positions of the bars of which it says something."""
    answers = [stream.update(bar) for bar in bars.to_dict("records")]
    rows = [i for i, answer in enumerate(answers) if answer is not None]
    columns = len(stream.layout.columns)
    return np.array([answers[i] for i in rows], dtype=np.float32).reshape(-1, columns), np.array(rows, dtype=np.int64)


def assert_streams_as_bulk(bars: pd.DataFrame, block: dict[str, object]) -> engine.Features:
    """Returns the bulk features once the streamed ones have the same bytes."""
    features = engine.compute(bars, **block)
    x, rows = streamed(bars, engine.Stream(**block))
    np.testing.assert_array_equal(rows, features.rows)
    assert x.tobytes() == features.x.tobytes()
    return features


@st.composite
def ugly_bars(draw: st.DrawFn) -> pd.DataFrame:
    """Valid bars of the worst kind: ticks as large as the price, holes, no volume, much, volume without trades."""
    bar = st.tuples(
        st.integers(-3, 3),  # ticks from close to close
        st.integers(0, 2),  # ticks above and below
        st.sampled_from([0.0, 0.0, 1e-8, 0.3, 1.0, 7.0, 1e3, 1e9]),
        st.sampled_from([0.0, 0.1, 0.5, 1.0]),  # the share that takers bought
        st.integers(0, 2),  # trades
        st.sampled_from([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 5]),  # minutes since the last bar
    )
    drawn = draw(st.lists(bar, min_size=12, max_size=80))
    moves, reach, volume, share, trades, minutes = map(np.array, zip(*drawn, strict=True))
    tick = draw(st.sampled_from([1e-8, 0.01, 1e3]))
    close = np.maximum(draw(st.integers(4, 100)) + moves.cumsum(), 3)
    start = np.concatenate([close[:1], close[:-1]])
    table = pd.DataFrame({"symbol": "X", "open_time": MINUTE_MS * (minutes.cumsum() + 1)})
    prices = {"open": start, "high": np.maximum(start, close) + reach, "low": np.minimum(start, close) - reach}
    table = table.assign(**{name: tick * price for name, price in prices.items()}, close=tick * close)
    table = table.assign(
        volume=volume, quote_volume=volume * tick * close, trades=trades, taker_buy_base=volume * share
    )
    return table.assign(segment=(table["open_time"].diff() > MINUTE_MS).cumsum())


@given(ugly_bars())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_ugly_bars_stream_as_in_bulk_and_are_finite(bars: pd.DataFrame) -> None:
    assert np.isfinite(assert_streams_as_bulk(bars, SHORT).x).all()


@given(ugly_bars(), st.integers(0, 80))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_what_comes_later_changes_nothing_earlier(bars: pd.DataFrame, cut: int) -> None:
    whole, part = engine.compute(bars, **SHORT), engine.compute(bars[:cut], **SHORT)
    assert part.x.tobytes() == whole.x[whole.rows < cut].tobytes()


@given(ugly_bars(), st.integers(0, 80))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_a_stream_restored_anywhere_goes_on_as_if_nothing_had_happened(bars: pd.DataFrame, cut: int) -> None:
    first, second = engine.Stream(**SHORT), engine.Stream(**SHORT)
    bars = bars.drop(columns="segment")
    streamed(bars[:cut], first)
    second.restore({name: np.array(array.tolist(), array.dtype) for name, array in first.state().items()})
    assert streamed(bars[cut:], first)[0].tobytes() == streamed(bars[cut:], second)[0].tobytes()


def test_the_real_slice_streams_as_in_bulk() -> None:
    features = assert_streams_as_bulk(real(BTC, bars=4000), BLOCK)
    np.testing.assert_array_equal(features.rows, np.arange(WARM_UP, 4000))
    assert features.dropped == {0: WARM_UP}


@pytest.mark.parametrize("name", ["BTCUSDT_1m_2023-03-20_8d_halt", "ARBUSDT_1m_2023-07-20_14d_gap"])
def test_the_slices_with_holes_stream_as_in_bulk(name: str) -> None:
    bars = real(name, bars=20_000)
    holes = np.flatnonzero(bars["open_time"].diff() > MINUTE_MS)
    part = bars[max(holes[0] - 1000, 0) : holes[0] + 1000].reset_index(drop=True)
    features = assert_streams_as_bulk(part, BLOCK)
    assert len(features.dropped) >= 2
    assert sum(features.dropped.values()) + len(features.rows) == len(part)
    assert np.isfinite(features.x).all()


def test_a_stream_restored_in_warm_up_and_in_a_bucket_of_the_real_slice_goes_on() -> None:
    bars = real(BTC, bars=1200)
    features = engine.compute(bars, **BLOCK)
    for cut in (1, 150, 321, 449, 777):
        first, second = engine.Stream(**BLOCK), engine.Stream(**BLOCK)
        head, _ = streamed(bars[:cut], first)
        second.restore(first.state())
        tail, _ = streamed(bars[cut:], second)
        assert np.concatenate([head, tail]).tobytes() == features.x.tobytes()


def test_each_segment_is_as_if_it_were_alone() -> None:
    rng = np.random.default_rng(0)
    one, two = (made(rng.uniform(9, 11, 40), volume=rng.exponential(1, 40), taker_buy_base=0.01) for _ in range(2))
    two = two.assign(segment=1, open_time=two["open_time"] + 10**9)
    both = engine.compute(pd.concat([one, two], ignore_index=True), **SHORT)
    alone = [engine.compute(part, **SHORT).x for part in (one, two)]
    assert both.x.tobytes() == np.concatenate(alone).tobytes()
    assert both.dropped == {0: max(both.warm_up.values()), 1: max(both.warm_up.values())}


def test_a_segment_shorter_than_the_warm_up_is_dropped_whole_and_counted() -> None:
    bars = pd.concat([made(np.full(3, 9.0)), made(np.full(40, 9.0)).assign(segment=1)], ignore_index=True)
    features = engine.compute(bars, **SHORT)
    assert features.dropped == {0: 3, 1: max(features.warm_up.values())}
    assert features.rows[0] == 3 + max(features.warm_up.values())


def test_segments_are_found_where_the_table_has_none() -> None:
    bars = real("ARBUSDT_1m_2023-07-20_14d_gap", bars=20_000)
    with_segments = bars.assign(segment=klines.segments(bars))
    assert engine.compute(bars, **BLOCK).x.tobytes() == engine.compute(with_segments, **BLOCK).x.tobytes()


def test_the_length_of_a_stretch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = real(BTC, bars=3000)
    expected = engine.compute(bars, **BLOCK).x.tobytes()
    monkeypatch.setattr(engine, "STRETCH_BARS", 7)
    assert engine.compute(bars, **BLOCK).x.tobytes() == expected


def test_a_segment_key_that_changes_starts_afresh_even_back_in_time() -> None:
    close = np.random.default_rng(0).uniform(9, 11, 30)
    both = pd.concat([made(close), made(close).assign(segment=1)], ignore_index=True)
    x, rows = streamed(both, engine.Stream(**SHORT))
    assert x[rows < 30].tobytes() == x[rows >= 30].tobytes()


def test_a_step_shorter_than_all_before_shows_that_those_were_holes() -> None:
    bars = made(np.random.default_rng(0).uniform(9, 11, 40)).drop(columns="segment")
    bars["open_time"] += 3_600_000
    early = bars[:3].assign(open_time=[2_700_000, 3_000_000, 3_300_000])
    x, _ = streamed(pd.concat([early, bars]), engine.Stream(**SHORT))
    assert x.tobytes() == streamed(bars, engine.Stream(**SHORT))[0].tobytes()


def test_a_bar_that_is_repeated_or_goes_back_in_time_is_refused_and_changes_nothing() -> None:
    bars = made(np.random.default_rng(0).uniform(9, 11, 30)).to_dict("records")
    stream, clean = engine.Stream(**SHORT), engine.Stream(**SHORT)
    for i, bar in enumerate(bars):
        answer = stream.update(bar)
        expected = clean.update(bar)
        assert (answer is None and expected is None) or answer.tobytes() == expected.tobytes()
        with pytest.raises(ValueError, match=f"open_time is {bar['open_time']}"):
            stream.update(bar)
        with pytest.raises(ValueError, match="allowed is one after"):
            stream.update(bars[max(i - 1, 0)])


@pytest.mark.parametrize(("field", "value"), [("close", np.nan), ("low", 0.0), ("volume", -1.0), ("trades", np.inf)])
def test_an_invalid_value_is_refused_by_name(field: str, value: float) -> None:
    bars = made(np.full(20, 9.0)).astype({"trades": float})
    bars.loc[13, field] = value
    with pytest.raises(ValueError, match=f"row 13: {field} is {value}"):
        engine.compute(bars, **SHORT)
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        engine.Stream(**SHORT).update(bars.loc[13].to_dict())


def test_a_missing_column_is_refused_by_name() -> None:
    bars = made(np.full(20, 9.0)).drop(columns=["low", "trades"])
    with pytest.raises(ValueError, match=r"\['low', 'trades'\] are missing"):
        engine.compute(bars, **SHORT)
    with pytest.raises(ValueError, match="'low' is missing"):
        engine.Stream(**SHORT).update(bars.loc[0].to_dict())


def test_bars_out_of_order_are_refused() -> None:
    bars = made(np.full(20, 9.0))
    with pytest.raises(ValueError, match="row 7 does not follow row 6"):
        engine.compute(bars.assign(open_time=bars["open_time"].where(bars.index != 7, 0)), **SHORT)
    with pytest.raises(ValueError, match="segment 0 do not stand together"):
        engine.compute(bars.assign(segment=[0] * 9 + [1] * 2 + [0] * 9), **SHORT)


@pytest.mark.parametrize("name", [name for name, value in BLOCK.items() if isinstance(value, int)])
@pytest.mark.parametrize("value", [0, -1, 2.0, "20", True, None])
def test_a_window_that_is_none_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"features.{name}: got {value!r}; allowed"):
        engine.Stream(**BLOCK | {name: value})


@pytest.mark.parametrize("name", [name for name, value in BLOCK.items() if isinstance(value, list)])
@pytest.mark.parametrize("value", [[], [5, 5], [0, 3, 4], [1.5, 2, 3], 20, None])
def test_a_list_of_windows_that_is_none_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"features.{name}: got"):
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
def test_a_window_that_does_not_fit_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"features.{name}: got"):
        engine.Stream(**BLOCK | {name: value})


def test_a_misspelt_parameter_is_refused() -> None:
    with pytest.raises(TypeError, match="rsi_window"):
        engine.compute(made(np.full(20, 9.0)), **BLOCK, rsi_window=3)


def test_a_state_of_other_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="memory has"):
        engine.Stream(**BLOCK).restore(engine.Stream(**SHORT).state())


def test_a_stream_that_starts_two_days_late_gives_the_same_columns_as_bulk_over_all() -> None:
    bars = real("BTCUSDT_1m_2024-01-01_90d", bars=8_000)
    whole = engine.compute(bars, **BLOCK)
    spread = whole.x.std(axis=0)
    for late in (1, 777, 1_500, 3_000):
        features = engine.compute(bars[late:], **BLOCK)
        apart = np.abs(features.x[2_880:] - whole.x[late + 2_880 :]) / spread
        assert apart.max() < 1e-3, features.columns[int(apart.max(axis=0).argmax())]
