"""Columns of an order book are standardized by what was known before a row, and by nothing else."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from pipeline.config import ParamsError
from pipeline.leakage.features import Part, truncation
from pipeline.orderbook.engine import BookFeatures
from pipeline.orderbook.normalization import Normalizer, normalize_parts, standardize_causally

DAYS = np.repeat([0, 1, 2], [400, 300, 350])
NAMES = ("ask_price_1", "ask_size_1", "time_regime", "spread")
METHODS = pytest.mark.parametrize(
    "normalization",
    [{"method": "running", "window": 150}, {"method": "running", "window": None}, {"method": "previous_day"}],
    ids=str,
)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    """Return a price that walks, a size, a category and a column that never changes."""
    rng = np.random.default_rng(1)
    price = 579.0 + 0.01 * rng.integers(-1, 2, len(DAYS)).cumsum()
    columns = [price, rng.exponential(100.0, len(DAYS)), rng.integers(0, 5, len(DAYS)), np.full(len(DAYS), 0.02)]
    return np.stack(columns, axis=1).astype(np.float32)


def make_clean(rows: int) -> pd.DataFrame:
    day = pd.Series(["2012-06-21", "2012-06-22", "2012-06-25"]).iloc[DAYS[:rows]]
    columns = {"open_time": np.arange(rows), "segment": DAYS[:rows], "symbol": "GOOG", "day": day.to_numpy()}
    return pd.DataFrame(columns | {"high": 2.0, "low": 1.0, "volume": 1.0})


def make_parts(x: np.ndarray, stops: list[int]) -> Iterator[BookFeatures]:
    """Yield the columns of all rows in parts that end before `stops`."""
    for start, stop in zip([0, *stops], stops, strict=False):
        rows = np.arange(start, stop)
        yield BookFeatures(
            columns=NAMES,
            x=x[start:stop],
            rows=rows,
            warm_up_bars=dict.fromkeys(NAMES, 0),
            lost_by_segment=dict.fromkeys(np.unique(DAYS[rows]).tolist(), 1),
            groups=dict.fromkeys(NAMES, "book"),
            lookback_bars=dict.fromkeys(NAMES, 5),
        )


def join(parts: Iterator[BookFeatures]) -> Part:
    found = list(parts)
    return np.concatenate([part.rows for part in found]), np.concatenate([part.x for part in found])


@pytest.mark.parametrize("window", [None, 150])
def test_running_statistics_are_those_of_pandas_shifted_by_one_row(x: np.ndarray, window: int | None) -> None:
    rows, scaled = standardize_causally(x, DAYS, method="running", window=window, excluded=[2])
    frame = pd.DataFrame(x.astype(np.float64))
    rolling = frame.groupby(DAYS).rolling(window or len(x), min_periods=100)
    mean, std = (each.droplevel(0).groupby(DAYS).shift() for each in (rolling.mean(), rolling.std(ddof=0)))
    expected = ((frame - mean) / std).to_numpy()
    assert rows.tolist() == [
        row for start, stop in ((0, 400), (400, 700), (700, 1050)) for row in range(start + 100, stop)
    ]
    assert_allclose(scaled[:, :2], expected[rows, :2], atol=1e-5)
    assert np.array_equal(scaled[:, 2], x[rows, 2])  # excluded
    assert (scaled[:, 3] == 0).all()  # never changes


def test_the_previous_day_gives_its_mean_and_deviation_and_the_first_day_has_none(x: np.ndarray) -> None:
    rows, scaled = standardize_causally(x, DAYS, method="previous_day", window=None, excluded=[2])
    assert rows.tolist() == list(range(400, 1050))
    for day in (1, 2):
        before, own = x[day - 1 == DAYS].astype(np.float64), x[day == DAYS]
        expected = (own[:, :2] - before[:, :2].mean(axis=0)) / before[:, :2].std(axis=0)
        assert_allclose(scaled[DAYS[rows] == day][:, :2], expected, rtol=1e-4, atol=1e-5)


def test_no_statistics_pass_from_one_symbol_to_another(x: np.ndarray) -> None:
    symbol = np.where(DAYS == 0, "AAPL", "GOOG")
    rows, _ = standardize_causally(x, DAYS, method="previous_day", window=None, symbol=symbol)
    assert rows.tolist() == list(range(700, 1050))  # the first day of each symbol has none


def test_a_day_of_too_few_rows_gives_no_statistics(x: np.ndarray) -> None:
    days = np.repeat([0, 1], [99, len(x) - 99])
    assert not len(standardize_causally(x, days, method="previous_day", window=None)[0])


@METHODS
def test_parts_and_single_rows_give_the_bits_of_the_whole(x: np.ndarray, normalization: dict[str, object]) -> None:
    clean = make_clean(len(x))
    rows, whole = join(normalize_parts(make_parts(x, [len(x)]), clean, normalization))
    parted = join(normalize_parts(make_parts(x, [1, 399, 401, 888, len(x)]), clean, normalization))
    assert len(rows) > 600
    assert np.array_equal(rows, parted[0])
    assert np.array_equal(whole, parted[1])
    stream = Normalizer(4, excluded=[2], **{"window": None, **normalization})
    starts = np.select([np.arange(len(x)) == 0, np.diff(DAYS, prepend=0) > 0], [2, 1], 0)
    streamed = [stream.advance(x[i : i + 1], starts[i : i + 1])[0][0] for i in range(len(x))]
    assert np.array_equal(np.stack(streamed)[rows], whole)


@METHODS
def test_rows_without_statistics_are_counted_and_columns_look_back_further(
    x: np.ndarray, normalization: dict[str, object]
) -> None:
    parts = list(normalize_parts(make_parts(x, [500, len(x)]), make_clean(len(x)), normalization))
    lost = {day: sum(part.lost_by_segment.get(day, 0) for part in parts) for day in range(3)}
    own = {day: count + 1 + (day == 1) for day, count in enumerate([400, 0, 0])}  # of the parts themselves: 1, 2, 1
    running = {0: 101, 1: 102, 2: 101}
    assert lost == (own if normalization["method"] == "previous_day" else running)
    further = normalization.get("window") or 100
    assert parts[0].lookback_bars == dict.fromkeys(NAMES, 5 + further) | {"time_regime": 5}
    assert len(parts[0].x) == len(parts[0].rows)


def test_without_normalization_parts_are_as_they_are(x: np.ndarray) -> None:
    (part,) = normalize_parts(make_parts(x, [len(x)]), make_clean(len(x)), None)
    assert np.array_equal(part.x, x)


def standardize_whole_days(bars: pd.DataFrame, x: np.ndarray) -> Part:
    """Return the columns standardized by their whole day, which is not known before it ends."""
    frame = pd.DataFrame(x[: len(bars)].astype(np.float64)).groupby(DAYS[: len(bars)])
    mean, std = frame.transform("mean"), frame.transform("std", ddof=0)
    scaled = (x[: len(bars)] - mean) / std.where(std > 1e-6, 1.0)
    return np.arange(len(bars)), scaled.to_numpy(np.float32)


def check_truncation(x: np.ndarray, compute: Callable[[pd.DataFrame], Part]) -> tuple[str, set[str]]:
    """Return the severity of the guard `truncation`, and the columns that it names."""
    bars = make_clean(len(x))
    found = truncation(bars, lambda cut: [compute(cut)], compute(bars), NAMES, cuts=12, seed=1)
    return found.severity, set(found.measurements["changed"])


@METHODS
def test_the_guard_truncation_finds_no_leak_in_causal_statistics(
    x: np.ndarray, normalization: dict[str, object]
) -> None:
    def compute(bars: pd.DataFrame) -> Part:
        return join(normalize_parts(make_parts(x[: len(bars)], [len(bars)]), bars, normalization))

    assert check_truncation(x, compute) == ("ok", set())


def test_the_guard_truncation_catches_statistics_of_the_whole_day_by_name(x: np.ndarray) -> None:
    severity, changed = check_truncation(x, lambda bars: standardize_whole_days(bars, x))
    assert severity == "critical"
    assert {"ask_price_1", "ask_size_1"} <= changed


@pytest.mark.parametrize(
    ("normalization", "message"),
    [
        ({"method": "whole_day"}, "normalization.method is 'whole_day'; it must be 'running' or 'previous_day'"),
        ({"method": "running", "window": 99}, "normalization.window is 99; it must be at least 100"),
        ({"method": "previous_day", "window": 500}, "window is 500; of previous_day it must be null"),
        ({"window": 500}, "key 'method' is missing"),
    ],
)
def test_a_normalization_that_is_not_allowed_is_named(
    x: np.ndarray, normalization: dict[str, object], message: str
) -> None:
    with pytest.raises(ParamsError, match=message):
        list(normalize_parts(make_parts(x, [len(x)]), make_clean(len(x)), normalization))
