"""Malformed bars of a live feed: each stops the stream by one error that names the fault, and changes nothing."""

import datetime

import numpy as np
import pandas as pd
import pytest

from pipeline.features import engine
from pipeline.market.bar_reader import CLOSED
from tests.test_features import MIDNIGHT_MS, MINUTE_MS, SHORT

BEFORE = 3  # valid bars before the malformed one
TIME = MIDNIGHT_MS + BEFORE * MINUTE_MS


def make_bar(number: int, **changes: object) -> dict[str, object]:
    """Return a valid one-minute bar with all kline fields, with changes; a field of ... is removed."""
    time = MIDNIGHT_MS + number * MINUTE_MS
    bar = {"symbol": "BTCUSDT", "open_time": time, "open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0}
    bar |= {"volume": 4.0, "close_time": time + MINUTE_MS - 1, "quote_volume": 40.0, "trades": 3}
    bar |= {"taker_buy_base": 1.0, "taker_buy_quote": 10.0} | changes
    return {name: value for name, value in bar.items() if value is not ...}


def start_stream(**arguments: object) -> engine.Stream:
    """Return a stream of one-minute bars that has had the valid bars."""
    stream = engine.Stream(**SHORT, **{"interval_ms": MINUTE_MS} | arguments)
    for number in range(BEFORE):
        stream.update(make_bar(number))
    return stream


def scale(factor: float, *fields: str) -> dict[str, float]:
    return {name: make_bar(0)[name] * factor for name in fields}


PRICES, ALL_PRICES = (
    ("open", "high", "low", "close"),
    ("open", "high", "low", "close", "quote_volume", "taker_buy_quote"),
)
MALFORMED = [  # class of fault, changes of a valid bar, message
    ("missing", {"low": ...}, "'low' is missing"),
    ("missing", {"open_time": ...}, "'open_time' is missing"),
    ("missing", {"trades": ...}, r"'trades' is missing.*absent_fields=\['trades'\]"),
    ("missing", {"high": ..., "open_time": ...}, "'high', 'open_time' are missing"),
    (
        "missing",
        {"quote_volume": ..., "trades": ..., "taker_buy_base": ...},
        r"'quote_volume', 'trades', 'taker_buy_base' are missing.*absent_fields=\['quote_volume', 'trades', 'taker_buy",
    ),
    ("type", {"open": None}, r"open is None \(NoneType\)"),
    ("type", {"volume": True}, r"volume is True \(bool\)"),
    ("type", {"close": np.True_}, r"close is .*True.* \(bool"),
    ("type", {"high": "12,5"}, r"high is '12,5' \(str\)"),
    ("type", {"close": ""}, r"close is '' \(str\)"),
    ("type", {"close": "1_1"}, r"close is '1_1' \(str\)"),
    ("type", {"trades": [3]}, r"trades is \[3\] \(list\)"),
    ("type", {"taker_buy_quote": None}, r"taker_buy_quote is None"),
    ("type", {"close_time": None}, r"close_time is None"),
    ("time type", {"open_time": pd.Timestamp(TIME, unit="ms")}, r"open_time is Timestamp.*milliseconds since 1970"),
    ("time type", {"open_time": datetime.datetime(2024, 1, 1)}, r"open_time is datetime.*milliseconds since 1970"),
    ("time type", {"open_time": np.datetime64("2024-01-01")}, r"open_time is .*datetime64.*milliseconds since 1970"),
    ("time type", {"open_time": TIME + 0.5}, "open_time is .*allowed are whole milliseconds"),
    ("not finite", {"close": np.nan}, "close is missing or NaN; allowed is a finite number"),
    ("not finite", {"high": np.inf}, "high is inf; allowed is a finite number"),
    ("not finite", {"trades": "1e999"}, "trades is inf; allowed is a finite number"),
    ("not finite", {"volume": 10**400}, "volume is 1000.*finite number|too large"),
    ("unit of time", {"open_time": TIME // 1000}, "open_time in seconds"),
    ("unit of time", {"open_time": TIME // 60_000}, "open_time in minutes"),
    ("unit of time", {"open_time": TIME * 1000}, "open_time in microseconds"),
    ("unit of time", {"open_time": TIME * 10**6}, "open_time in nanoseconds"),
    ("unit of time", {"open_time": 20_240_101}, r"open_time in digits of a date \(YYYYMMDD\)"),
    ("unit of time", {"open_time": 0}, "open_time outside the years 1990 to 2100"),
    ("unit of time", {"close_time": (TIME + 59_999) * 1000}, "close_time in microseconds"),
    ("range", {"low": 0.0}, "low is 0.0; allowed is a finite number, above 0"),
    ("range", {"open": -1.0}, "open is -1.0; allowed is a finite number, above 0"),
    ("range", {"taker_buy_base": -1.0}, "taker_buy_base is -1.0; allowed is a finite number, 0 or more"),
    ("range", {"high": 1e300}, "price outside 1e-12 to 1e12"),
    ("range", {"low": 5e-324}, "price outside 1e-12 to 1e12"),
    ("range", {"volume": 1e300}, "amount outside 1e-24 to 1e18"),
    ("range", {"volume": 5e-324}, "amount outside 1e-24 to 1e18"),
    ("high and low", {"high": 8.0}, "high and low do not bound open and close"),
    ("high and low", {"low": 10.5}, "high and low do not bound open and close"),
    ("amounts", {"taker_buy_base": 4.1}, "taker_buy_base above volume"),
    ("amounts", {"taker_buy_quote": 40.1}, "taker_buy_quote above quote_volume"),
    ("amounts", {"trades": 0}, "volume without trades"),
    ("amounts", {"volume": 0.0, "taker_buy_base": 0.0, "quote_volume": 0.0, "taker_buy_quote": 0.0}, "trades without"),
    ("amounts", {"quote_volume": 0.0, "taker_buy_quote": 0.0}, "volume without quote_volume"),
    ("amounts", {"quote_volume": 40_000.0}, "quote_volume outside low and high times volume"),
    ("amounts", {"quote_volume": 30.0}, "quote_volume outside low and high times volume"),
    ("jump", scale(1000, *ALL_PRICES), "jumps by more than a factor 20"),
    ("jump", scale(0.01, *ALL_PRICES), "jumps by more than a factor 20"),
    ("symbol", {"symbol": "ARBUSDT"}, "symbol is 'ARBUSDT'; the bars so far have 'BTCUSDT'"),
    ("symbol", {"symbol": ...}, "symbol is None; the bars so far have 'BTCUSDT'"),
    ("symbol", {"symbol": "btcusdt"}, "symbol is 'btcusdt'; the bars so far have 'BTCUSDT'"),
    *(("not closed", {name: False}, f"{name} is False: the bar is still forming; feed it") for name in CLOSED),
    *(("not closed", {name: "0"}, f"{name} is '0': the bar is still forming") for name in CLOSED),
    ("not closed", {"is_closed": None}, "is_closed is None: the bar is still forming"),
    ("not closed", {"confirm": 0}, "confirm is 0: the bar is still forming"),
    ("not closed", {"isFinal": "False"}, "isFinal is 'False': the bar is still forming"),
    ("not closed", {"closed": np.False_}, "closed is .*False.*: the bar is still forming"),
    ("not closed", {"is_closed": True, "x": "false"}, "x is 'false': the bar is still forming"),
    ("not closed", {"k": {"x": False}}, "k.x is False: the bar is still forming"),
    ("grid", {"open_time": TIME + 500, "close_time": TIME + 60_499}, "multiples of the stream's interval, 60000 ms"),
    ("grid", {"open_time": TIME - 30_000}, "multiples of the stream's interval, 60000 ms"),
    ("interval", {"close_time": TIME + 299_999}, "it is 300000 ms long; the bars of this stream have 60000 ms"),
    ("order", {"open_time": TIME - MINUTE_MS}, "that of the last bar, which is already processed: skip it"),
    ("order", {"open_time": TIME - 2 * MINUTE_MS}, "allowed is one after the last bar's, .*2024-01-01 00:02:00 UTC"),
    ("close before open", {"close_time": TIME - 1}, "close_time before open_time"),
    ("segment", {"segment": None}, "segment is None; allowed is a whole number"),
    ("segment", {"segment": 0.5}, "segment is 0.5; allowed is a whole number"),
]


@pytest.mark.parametrize(("fault", "changes", "message"), MALFORMED)
def test_a_malformed_bar_is_refused_by_name_and_changes_nothing(fault, changes, message):
    stream = start_stream()
    before = stream.state()
    with pytest.raises(ValueError, match=message) as caught:
        stream.update(make_bar(BEFORE, **changes))
    assert "\n" not in str(caught.value)
    assert all((value == before[name]).all() for name, value in stream.state().items())
    assert stream.clock.time_ms == TIME - MINUTE_MS


def test_the_malformed_bars_are_of_many_classes():
    assert len(MALFORMED) >= 35
    assert len({fault for fault, _, _ in MALFORMED}) >= 12


def test_text_numpy_scalars_and_integers_are_read_as_the_same_numbers():
    expected, texts, scalars = start_stream(), start_stream(), start_stream()
    for number in range(BEFORE, 40):
        bar = make_bar(number)
        text = {name: value if name == "symbol" else str(value) for name, value in bar.items()}
        scalar = {name: value if name == "symbol" else np.asarray(value)[()] for name, value in bar.items()}
        columns = expected.update(bar), texts.update(text), scalars.update(scalar)
    assert columns[0].tobytes() == columns[1].tobytes() == columns[2].tobytes()


@pytest.mark.parametrize("bar", [None, [1, 2, 3], 5, "bar", np.zeros(3)])
def test_a_bar_that_is_no_mapping_is_refused(bar):
    with pytest.raises(ValueError, match=r"bar is .* \(\w+\); allowed is a mapping with the fields"):
        start_stream().update(bar)


@pytest.mark.parametrize("flag", [{name: value} for name in CLOSED for value in (True, 1, "1", "true", np.True_)])
def test_a_bar_that_its_feed_marks_as_closed_is_accepted(flag):
    start_stream().update(make_bar(BEFORE, **flag))


def test_a_series_of_pandas_is_read_as_a_mapping():
    expected, stream = start_stream(), engine.Stream(**SHORT, interval_ms=MINUTE_MS)
    for number in range(40):
        columns = stream.update(pd.Series(make_bar(number)))
        if number >= BEFORE:
            assert np.array_equal(columns, expected.update(make_bar(number)))


def test_a_bar_that_has_not_closed_by_now_is_refused():
    stream, bar = start_stream(), make_bar(BEFORE)
    with pytest.raises(ValueError, match="update once the bar has closed"):
        stream.update(bar, now_ms=bar["close_time"])
    stream.update(bar, now_ms=bar["close_time"] + 1)


@pytest.mark.parametrize("now_ms", ["1704067500000", pd.Timestamp(TIME, unit="ms"), True, np.nan, TIME // 1000])
def test_a_time_of_receipt_in_another_unit_or_type_is_refused(now_ms):
    with pytest.raises(ValueError, match=r"now_ms is .*\(\w+\); allowed are milliseconds since 1970"):
        start_stream().update(make_bar(BEFORE), now_ms=now_ms)


def test_bars_received_more_than_two_bars_after_their_close_are_one_warning(caplog):
    stream = start_stream()
    for number, bars_behind in enumerate([2, 3, 4, 0, 3], start=BEFORE):
        bar = make_bar(number)
        stream.update(bar, now_ms=bar["close_time"] + max(bars_behind * MINUTE_MS, 1))
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == 2
    assert "BTCUSDT: the bar at open_time 1704067440000 (2024-01-01 00:04:00 UTC) is received at" in found[0]
    assert "more than 2 bars after its close" in found[0]


def test_missing_bars_that_start_a_segment_are_a_warning_with_what_they_cost(caplog):
    stream = start_stream()
    for number in (BEFORE + 60, BEFORE + 61, BEFORE + 70):
        stream.update(make_bar(number))
    assert [record.getMessage() for record in caplog.records] == [
        f"BTCUSDT: {missing} bar(s) are missing from {first} UTC) to {last} UTC): a segment starts, and "
        f"{stream.layout.warm_up_bars} bars from the start of a segment have no features; feed all bars, or wait"
        for missing, first, last in (
            (60, "1704067320000 (2024-01-01 00:02:00", "1704070980000 (2024-01-01 01:03:00"),
            (8, "1704071040000 (2024-01-01 01:04:00", "1704071580000 (2024-01-01 01:13:00"),
        )
    ]


def test_a_feed_of_longer_bars_is_a_warning_and_then_no_more(caplog):
    stream = engine.Stream(**SHORT, interval_ms=MINUTE_MS)
    for number in range(0, 200, 5):
        assert stream.update(make_bar(number, close_time=...)) is None
    found = [record.getMessage() for record in caplog.records]
    assert ["4 bar(s) are missing" in text for text in found] == [True, True, False]
    assert "BTCUSDT: 3 bars in a row came 300000 ms after the one before, from 1704067200000 (2024-" in found[2]
    assert "the bars of this stream have 60000 ms" in found[2]
    assert found[2].endswith("feed bars of the interval that the model was trained on")


def test_five_minute_bars_are_refused_without_a_declared_interval_too():
    stream = start_stream(interval_ms=None)
    time = MIDNIGHT_MS + 10 * MINUTE_MS
    with pytest.raises(ValueError, match="300000 ms long; the bars of this stream have 60000 ms"):
        stream.update(make_bar(10, close_time=time + 299_999))


def test_three_equal_long_steps_without_close_times_are_a_warning(caplog):
    stream = engine.Stream(**SHORT)
    for number in (0, 1, 6, 11, 16):
        stream.update(make_bar(number, close_time=...))
    assert "3 bars in a row came 300000 ms after the one before" in caplog.text


def test_a_jump_across_missing_bars_is_a_warning(caplog):
    stream = start_stream()
    stream.update(make_bar(BEFORE + 5, **scale(1000, *ALL_PRICES)))
    assert "across missing bars" in caplog.text


def test_a_bar_that_closed_early_is_accepted():
    start_stream().update(make_bar(BEFORE, close_time=TIME + 30_000))


@pytest.mark.parametrize("interval_ms", [0, -1, 1.5, True, "60000"])
def test_an_interval_that_is_no_whole_number_above_zero_is_refused(interval_ms):
    with pytest.raises(ValueError, match="interval_ms is"):
        engine.Stream(**SHORT, interval_ms=interval_ms)


def test_only_declared_symbols_are_accepted():
    stream = engine.Stream(**SHORT, symbols=["ETHUSDT", "BTCUSDT"])
    with pytest.raises(ValueError, match="this stream is for ETHUSDT, BTCUSDT"):
        stream.update(make_bar(0, symbol="ARBUSDT"))
    stream.update(make_bar(0))
    with pytest.raises(ValueError, match="one Stream for each symbol"):
        stream.update(make_bar(1, symbol="ETHUSDT"))


def test_a_state_of_another_symbol_or_interval_is_refused():
    state = start_stream().state()
    with pytest.raises(ValueError, match="this stream is for ETHUSDT"):
        engine.Stream(**SHORT, symbols=["ETHUSDT"]).restore(state)
    with pytest.raises(ValueError, match="its bars have 60000 ms, those of this stream 300000 ms"):
        engine.Stream(**SHORT, interval_ms=300_000).restore(state)
    resumed = engine.Stream(**SHORT)
    resumed.restore(state)
    with pytest.raises(ValueError, match="the bars so far have 'BTCUSDT'"):
        resumed.update(make_bar(BEFORE, symbol="ARBUSDT"))
    with pytest.raises(ValueError, match="multiples of the stream's interval"):
        resumed.update(make_bar(BEFORE, open_time=TIME + 500, close_time=TIME + 60_000))


@pytest.mark.parametrize("absent", [["trades"], ["quote_volume", "trades", "taker_buy_base", "taker_buy_quote"]])
def test_bars_without_optional_fields_stream_as_in_bulk_and_leave_the_other_columns_as_they_were(absent):
    rng = np.random.default_rng(0)
    table = pd.DataFrame([make_bar(number) for number in range(60)]).assign(segment=0)
    close = 10 * np.exp(rng.normal(0, 0.02, 60).cumsum())
    table = table.assign(open=close, close=close, high=close * 1.01, low=close * 0.99, volume=rng.uniform(2, 4, 60))
    table = table.assign(quote_volume=table["volume"] * close, taker_buy_quote=close)
    whole, part = engine.compute(table, **SHORT), engine.compute(table.drop(columns=absent), **SHORT)
    assert set(part.columns) | set(part.left_out) == set(whole.columns)
    assert {"trade_intensity", "avg_trade_size"} <= set(part.left_out)
    assert {"volume_sma_3", "volume_ratio", "obv"} <= set(part.columns)
    common = np.isin(whole.rows, part.rows)
    for i, name in enumerate(part.columns):
        values = part.x[np.isin(part.rows, whole.rows), i]
        assert values.tobytes() == whole.x[common, whole.columns.index(name)].tobytes()
    stream = engine.Stream(**SHORT, absent_fields=absent)
    bars = table.drop(columns=[*absent, "segment"]).to_dict("records")
    streamed = [columns for columns in map(stream.update, bars) if columns is not None]
    assert np.array(streamed).tobytes() == part.x.tobytes()
    assert stream.columns == part.columns
