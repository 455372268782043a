"""A live stream of a market with sessions has the features that the model was trained on, over closings and gaps."""

import json
import re

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from pipeline import digests
from pipeline.datasets.klines import contract, ingest
from pipeline.features import engine
from pipeline.market.sessions import list_bar_opens, list_sessions
from pipeline.market.stream_sessions import StreamSessions
from tests.test_features import SHORT, load_slice, make_bars
from tests.test_readme import ROOT
from tests.test_session_market import cut_hours
from tests.test_sessions import HOUR, MINUTE, NEW_YORK, THREE_BARS

SESSION = 390
GAPS = (
    range(600, 605),  # within a session
    range(2 * SESSION - 2, 2 * SESSION),  # a session's last bars
    range(3 * SESSION, 3 * SESSION + 1),  # a session's first bar
    range(4 * SESSION, 5 * SESSION),  # a whole session
)
CONTINUES, RESTARTS = (
    {"exchange": NEW_YORK, "features": features, "positions": "close"} for features in ("continue", "restart")
)


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    """Return real minutes of New York's hours, 2 to 10 January 2024, without those of GAPS."""
    cut = cut_hours(load_slice("BTCUSDT_1m_2024-01-01_90d", bars=14_400))
    return cut.drop(index=[row for gap in GAPS for row in gap]).reset_index(drop=True)


def start_stream(calendar: dict[str, object], *, interval_ms: int = MINUTE) -> engine.Stream:
    return engine.Stream(**SHORT, interval_ms=interval_ms, calendar=calendar)


def run_stream(stream: engine.Stream, bars: pd.DataFrame) -> bytes:
    values = [stream.update(bar) for bar in bars.to_dict("records")]
    return np.array([columns for columns in values if columns is not None]).tobytes()


@pytest.mark.parametrize(("calendar", "segments"), [(CONTINUES, 5), (RESTARTS, 7)])
def test_a_stream_has_the_features_of_the_clean_table_over_closings_and_gaps(bars, calendar, segments):
    clean = ingest.clean(bars, **calendar, off_grid="refuse")[0]
    assert clean["segment"].nunique() == segments
    expected = engine.compute(clean, **SHORT)
    assert run_stream(start_stream(calendar), bars) == expected.x.tobytes()


def test_a_stream_resumed_at_a_closing_or_a_gap_continues_identically(bars):
    expected, close = run_stream(start_stream(CONTINUES), bars), SESSION - 1
    for cut in (close, close + 1, 600, 601):
        first, second = start_stream(CONTINUES), start_stream(CONTINUES)
        head = run_stream(first, bars[:cut])
        second.restore(first.state())
        assert head + run_stream(second, bars[cut:]) == expected


def test_the_code_of_the_readme_has_the_features_that_the_model_was_trained_on(bars, tmp_path, monkeypatch):
    clean = ingest.clean(bars, **CONTINUES, off_grid="refuse")[0]
    trained, inputs = engine.compute(clean, **SHORT), []

    class Session:
        """A graph that stores its inputs."""

        def __init__(self, file: object) -> None:
            """Take a file and do not read it."""

        def run(self, outputs: list[str], values: dict[str, np.ndarray]) -> list[np.ndarray]:
            """Store the inputs."""
            inputs.append(values["inputs"])
            return [np.zeros((1, 1), np.float32)]

    described = contract.describe_bars(clean, fields=clean.columns, calendar=CONTINUES | {"off_grid": "refuse"})
    text = json.dumps({"features": SHORT, "columns": list(trained.columns), "bars": described})
    folder = tmp_path / "trained/onnx/lightgbm"
    folder.mkdir(parents=True)
    (folder / "contract.json").write_text(text)
    digests.write_sums(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    text = (ROOT / "pipeline/deployment/README.md").read_text().split("## One model alone")[1].split("## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(code, {"bars": bars.to_dict("records")})
    assert np.concatenate(inputs).tobytes() == trained.x.tobytes()


def test_bars_cut_short_by_the_close_continue_into_the_next_session():
    calendar = CONTINUES | {"positions": "hold"}
    sessions = list_sessions(*pd.to_datetime(["2024-07-01", "2024-07-12"]).date, exchange=NEW_YORK)
    opens = list_bar_opens(sessions, bar_ms=HOUR)  # 9:30, ..., 15:30: the last bar of a session has half an hour
    close = np.random.default_rng(0).uniform(9, 11, len(opens))
    bars = make_bars(close, open_time=opens, symbol="X").drop(columns="segment")
    closes_ms = opens + np.minimum(np.append(np.diff(opens), HOUR), HOUR) - 1
    clean = ingest.clean(bars.assign(close_time=closes_ms), **calendar, off_grid="refuse")[0]
    stream = start_stream(calendar, interval_ms=HOUR)
    assert run_stream(stream, bars) == engine.compute(clean, **SHORT).x.tobytes()
    end_ms = int(sessions.close_ms[-1])
    resumed = start_stream(calendar, interval_ms=HOUR)
    with pytest.raises(ValueError, match="update once the bar has closed"):
        resumed.update(bars.iloc[-1].to_dict(), now_ms=end_ms - 1)
    resumed.update(bars.iloc[-1].to_dict(), now_ms=end_ms)


def test_a_closing_is_no_warning_and_missing_bars_are_one(bars, caplog):
    run_stream(start_stream(CONTINUES), bars)
    found = [int(re.search(r"(\d+) bar\(s\) are missing", record.getMessage())[1]) for record in caplog.records]
    assert found == [5, 2, 1, 390]


@pytest.mark.parametrize("minutes", [SESSION, -1])
def test_a_bar_outside_of_the_sessions_is_refused_and_changes_nothing(minutes):
    open_ms = int(pd.Timestamp("2024-07-01 09:30", tz="America/New_York").timestamp() * 1000)
    bar = make_bars([9.0], open_time=open_ms).drop(columns="segment").iloc[0].to_dict()
    outside = bar | {"open_time": open_ms + minutes * MINUTE}
    with pytest.raises(ValueError, match=r"2024-07-01 .* UTC\), outside of the calendar's sessions.*sessions alone"):
        start_stream(CONTINUES).update(outside)
    stream = start_stream(CONTINUES)
    for minute in range(SESSION):
        stream.update(bar | {"open_time": open_ms + minute * MINUTE})
    before = stream.state()
    if minutes > 0:
        with pytest.raises(ValueError, match="outside of the calendar's sessions"):
            stream.update(outside)
    assert all((value == before[name]).all() for name, value in stream.state().items())


def test_a_segment_of_the_bar_itself_decides_and_no_session_is_looked_up():
    bar = make_bars([9.0]).iloc[0].to_dict() | {"segment": 3}
    start_stream(CONTINUES).update(bar)  # at midnight, when New York is closed


def test_sessions_of_two_years_are_adjacent_over_new_year():
    sessions = StreamSessions(exchange=NEW_YORK, restarts=False, bar_ms=MINUTE)
    days = ("2023-12-29 15:59", "2024-01-02 09:30", "2024-01-03 09:30", "2033-01-04 09:30")
    first, second, third, far = (int(pd.Timestamp(day, tz="America/New_York").timestamp() * 1000) for day in days)
    assert sessions.count_steps(first, second) == 1
    assert sessions.count_steps(second, third) == SESSION
    assert sessions.count_steps(second, second + SESSION * MINUTE) is None
    assert sessions.count_steps(third, far) > 8 * 250 * SESSION


def test_a_calendar_needs_an_interval_and_its_three_keys():
    with pytest.raises(ValueError, match="give Stream its interval_ms too"):
        engine.Stream(**SHORT, calendar=CONTINUES)
    with pytest.raises(ValueError, match="calendar: key 'features' is missing"):
        start_stream({"exchange": NEW_YORK, "positions": "hold"})
    with pytest.raises(ValueError, match="calendar.features is 'stay'"):
        start_stream(CONTINUES | {"features": "stay"})


def test_without_an_exchange_the_market_never_closes():
    calendar = {"exchange": None, "features": "continue", "positions": "hold"}
    bars = make_bars(np.random.default_rng(0).uniform(9, 11, 60)).drop(columns="segment")
    plain = engine.Stream(**SHORT, interval_ms=MINUTE)
    assert run_stream(start_stream(calendar), bars) == run_stream(plain, bars)


def test_times_of_receipt_change_no_feature_of_a_market_of_three_minutes_a_day():
    calendar = CONTINUES | {"exchange": THREE_BARS}
    opens = list_bar_opens(
        list_sessions(*pd.to_datetime(["2024-01-08", "2024-02-02"]).date, exchange=THREE_BARS), bar_ms=MINUTE
    )
    bars = make_bars(np.random.default_rng(0).uniform(9, 11, len(opens)), open_time=opens).drop(columns="segment")
    stream = start_stream(calendar)
    received = [stream.update(bar, now_ms=bar["open_time"] + MINUTE + 1) for bar in bars.to_dict("records")]
    values = np.array([columns for columns in received if columns is not None]).tobytes()
    assert values == engine.compute(bars.assign(segment=0), **SHORT).x.tobytes()
