"""Columns of the calendar against `datetime` and `list_sessions`, streamed, ahead of time, and under the guard."""

from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from pipeline import config
from pipeline.features import engine
from pipeline.features.utc_offsets import tabulate_offsets
from pipeline.leakage.features import truncation
from pipeline.market.sessions import Hours, list_sessions
from tests.params import PARAMS
from tests.test_features import MINUTE_MS, SHORT, make_bars

WEEK = [0, 1, 2, 3, 4]
US: Hours = {
    **{"timezone": "America/New_York", "open": "09:30", "close": "16:00", "weekdays": WEEK},
    **{"holidays": ["2024-03-29"], "early_closes": {"2024-03-12": "13:00"}},
}
FUTURES: Hours = {  # opens on the day before; Chicago changes its clocks on 2024-03-10 and 2024-11-03
    **{"timezone": "America/Chicago", "open": "17:00", "close": "16:00", "weekdays": WEEK},
    **{"holidays": ["2024-11-04"], "early_closes": {"2024-03-13": "12:15"}},
}
LONDON: Hours = {
    **{"timezone": "Europe/London", "open": "00:30", "close": "24:00", "weekdays": [0, 6]},
    **{"holidays": [], "early_closes": {}},
}
SESSIONS = {"us": US, "futures": FUTURES, "london": LONDON}
SECTION = {"timezone": "America/New_York", "minutes_ahead": [0, 45], "sessions": SESSIONS}


def make_block(**changes: Any) -> dict[str, Any]:
    return {"groups": ["calendar"], "calendar_columns": SECTION | changes}


def list_times(first: str, *, days: int, minutes: int) -> np.ndarray:
    """Return the open times of bars from midnight UTC of a date on."""
    start = int(datetime.fromisoformat(first).replace(tzinfo=UTC).timestamp() * 1000)
    return start + MINUTE_MS * np.arange(0, days * 1440, minutes, dtype=np.int64)


TIMES = np.concatenate([list_times(first, days=21, minutes=15) for first in ("2024-03-04", "2024-10-25")])
BARS = make_bars(np.full(len(TIMES), 10.0), open_time=TIMES)


def compute(bars: pd.DataFrame = BARS, **changes: Any) -> pd.DataFrame:
    features = engine.compute(bars, **make_block(**changes))
    return pd.DataFrame(features.x, columns=list(features.columns))


@pytest.mark.parametrize("name", SESSIONS)
@pytest.mark.parametrize("minutes", [0, 45])
def test_sessions_are_those_of_the_hours_over_changes_of_clocks_holidays_and_early_closes(
    name: str, minutes: int
) -> None:
    sessions = list_sessions(date(2024, 1, 1), date(2024, 12, 31), exchange=SESSIONS[name])
    times, suffix, table = TIMES + minutes * MINUTE_MS, f"{name}_ahead_{minutes}m" if minutes else name, compute()
    place = np.searchsorted(sessions.open_ms, times, side="right") - 1
    is_open = times < sessions.close_ms[place]
    assert 0.1 < is_open.mean() < 0.9
    since, to_close = times - sessions.open_ms[place], sessions.close_ms[place] - times
    np.testing.assert_array_equal(table[f"session_{suffix}"], is_open)
    np.testing.assert_array_equal(table[f"minutes_since_open_{suffix}"], np.where(is_open, since / MINUTE_MS, 0))
    np.testing.assert_array_equal(table[f"minutes_to_close_{suffix}"], np.where(is_open, to_close / MINUTE_MS, 0))


def test_time_of_day_and_weekday_are_those_of_the_local_clock() -> None:
    table, zone = compute(), ZoneInfo("America/New_York")
    local = [datetime.fromtimestamp(ms / 1000, zone) for ms in TIMES.tolist()]
    day = np.array([(each.hour + each.minute / 60) / 24 for each in local])
    week = np.array([each.weekday() / 7 for each in local])
    for name, turns in (("hour", day), ("weekday", week)):
        np.testing.assert_allclose(table[f"{name}_sin"], np.sin(2 * np.pi * turns), atol=1e-7)
        np.testing.assert_allclose(table[f"{name}_cos"], np.cos(2 * np.pi * turns), atol=1e-7)


def test_quarters_of_a_day_have_exact_sines_and_no_negative_zero() -> None:
    table = compute(make_bars([1.0] * 4, open_time=list_times("2024-01-01", days=1, minutes=360)), timezone="UTC")
    assert table["hour_sin"].tolist() == [0.0, 1.0, 0.0, -1.0]
    assert table["hour_cos"].tolist() == [1.0, 0.0, -1.0, 0.0]
    assert not np.signbit(table[["hour_sin", "hour_cos"]].to_numpy()[table[["hour_sin", "hour_cos"]] == 0]).any()


@pytest.mark.parametrize("name", ["Asia/Kolkata", "Europe/London", "Africa/Casablanca", "Australia/Lord_Howe", "UTC"])
def test_the_offsets_of_a_zone_are_those_of_the_library(name: str) -> None:
    zone, (count, *cells) = ZoneInfo(name), tabulate_offsets(ZoneInfo(name))
    changes, local, offsets = np.split(np.array(cells), [int(count), 2 * int(count)])
    for time_s in np.random.default_rng(1).integers(0, 4_000_000_000, 2000).tolist():
        expected = datetime.fromtimestamp(time_s, zone).utcoffset()
        assert expected is not None
        assert offsets[np.searchsorted(changes, time_s * 1000, side="right")] == expected.total_seconds() * 1000
        wall = datetime.fromtimestamp(time_s, UTC).replace(tzinfo=zone)
        found = time_s * 1000 - offsets[np.searchsorted(local, time_s * 1000, side="right")]
        assert found == wall.timestamp() * 1000
    if count:  # the hours that a clock repeats and skips
        for wall_s in (local[-4:] / 1000 - 1).tolist() + (local[-4:] / 1000).tolist():
            wall = datetime.fromtimestamp(wall_s, UTC).replace(tzinfo=zone)
            found = wall_s * 1000 - offsets[np.searchsorted(local, wall_s * 1000, side="right")]
            assert found == wall.timestamp() * 1000


def test_columns_ahead_are_those_of_the_later_bar() -> None:
    table = compute(make_bars([1.0] * 288, open_time=list_times("2024-03-12", days=3, minutes=15)))
    names = [name for name in table if "_ahead_" not in name]
    later = table[[f"{name}_ahead_45m" for name in names]].to_numpy()
    np.testing.assert_array_equal(later[:-3], table[names].to_numpy()[3:])


def test_a_stream_has_the_bytes_of_the_table_beside_other_groups_and_after_a_restart() -> None:
    bars = make_bars(np.linspace(9, 10, 150), open_time=TIMES[:150], volume=np.arange(150.0) + 1)
    block = SHORT | {"groups": ["price", "calendar"], "calendar_columns": SECTION}
    whole, stream, streamed = engine.compute(bars, **block), engine.Stream(**block), []
    assert stream.columns == whole.columns
    assert {whole.groups[name] for name in whole.columns[-20:]} == {"calendar"}
    for number, bar in enumerate(bars.to_dict("records")):
        if number == 77:
            stream, state = engine.Stream(**block), stream.state()
            stream.restore(state)
        streamed.append(stream.update(bar))
    known = [values for values in streamed if values is not None]
    assert np.array(known).tobytes() == whole.x.tobytes()


def test_no_column_of_the_calendar_reads_a_later_bar() -> None:
    features = engine.compute(BARS, **make_block())

    def recompute(table: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
        found = engine.compute(table, **make_block())
        return [(found.rows, found.x)]

    found = truncation(BARS, recompute, (features.rows, features.x), features.columns, cuts=6, seed=1)
    assert found.severity == "ok"


def test_there_are_no_columns_without_the_section_and_the_group_by_its_name_needs_it() -> None:
    block = PARAMS["datasets"]["klines"]["features"]
    assert not [name for name, group in engine.Stream(**block).layout.groups.items() if group == "calendar"]
    with pytest.raises(config.ParamsError, match="groups has calendar, which has no columns without calendar_columns"):
        engine.Stream(groups=["calendar"])


def test_the_section_of_the_params_gives_the_columns_of_the_readme() -> None:
    block = {"groups": ["calendar"], **PARAMS["disabled_features"]}
    columns = engine.Stream(**block).layout.columns
    assert len(columns) == 2 * (4 + 3 * 3)
    assert all(column.warm_up_bars == 0 for column in columns)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timezone": "Mars"}, "features.calendar_columns.timezone is 'Mars'; give a name of the IANA database"),
        ({"minutes_ahead": []}, "features.calendar_columns.minutes_ahead is ..; it must be a list of at least 1"),
        ({"minutes_ahead": [-5]}, "features.calendar_columns.minutes_ahead.0 is -5; it must be at least 0"),
        ({"minutes_ahead": [5, 5]}, "calendar_columns.minutes_ahead is .5, 5.; it must be a list of distinct numbers"),
        ({"sessions": {"US": US}}, "calendar_columns.sessions.US: a name consists of a-z, 0-9 and _"),
        ({"sessions": {"us": US | {"open": "9:30"}}}, "calendar_columns.sessions.us.open is '9:30'; it must be HH:MM"),
        (
            {"sessions": {"us": US | {"early_closes": {"2024-03-12": "17:00"}}}},
            "features.calendar_columns.sessions.us.early_closes: 2024-03-12 .17:00. is not before the usual close",
        ),
        (
            {"minutes_ahead": [0, 5], "sessions": {"us": US, "us_ahead_5m": US}},
            "calendar_columns.sessions.us_ahead_5m: its column session_us_ahead_5m is also one of the session us, by "
            "minutes_ahead; rename us_ahead_5m",
        ),
        ({"sessions": {"us": US | {"timezone": "Mars"}}}, "calendar_columns.sessions.us.timezone is 'Mars'; give a"),
    ],
)
def test_a_wrong_section_is_refused_by_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(config.ParamsError, match=message):
        engine.Stream(**make_block(**changes))
