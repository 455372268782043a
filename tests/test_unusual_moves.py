"""Moves of bars that bad prints, unadjusted splits and a second instrument make: counted, listed, logged."""

import pandas as pd
import pytest

from pipeline.datasets.klines import ingest
from pipeline.datasets.klines.unusual_moves import find_unusual_moves
from pipeline.market.bars import OPTIONAL
from tests.test_bars import MINUTE, make_klines

PRICES = ["open", "high", "low", "close"]
OPEN = {"exchange": None, "features": "continue", "positions": "hold", "off_grid": "refuse"}


def make_bars(count: int = 8) -> pd.DataFrame:
    return make_klines(list(range(count))).drop(columns=list(OPTIONAL))


def multiply(table: pd.DataFrame, rows: slice, factor: float, columns: list[str] = PRICES) -> pd.DataFrame:
    table.loc[rows, columns] *= factor
    return table


@pytest.mark.parametrize(
    ("table", "kinds"),
    [
        (make_bars(), {"open": 0, "high": 0, "low": 0}),
        (multiply(make_bars(), slice(4, None), 0.1), {"open": 1, "high": 0, "low": 0}),  # a split
        (multiply(make_bars(), slice(4, 4), 0.06), {"open": 2, "high": 0, "low": 0}),  # a bad bar
        (multiply(make_bars(), slice(4, 4), 1e6, ["high"]), {"open": 0, "high": 1, "low": 0}),
        (multiply(make_bars(), slice(4, 4), 1e-9, ["low"]), {"open": 0, "high": 0, "low": 1}),
        (multiply(make_bars(), slice(4, None), 1.64), {"open": 0, "high": 0, "low": 0}),  # 16.4 from 11: 1.49
        (multiply(make_bars(), slice(4, None), 1.66), {"open": 1, "high": 0, "low": 0}),  # 16.6 from 11: 1.51
    ],
)
def test_moves_beyond_the_limit_are_counted_by_kind(table, kinds):
    found = find_unusual_moves(table)
    assert found["kinds"] == kinds
    assert found["count"] == sum(kinds.values())


def test_a_move_over_missing_bars_counts_and_one_to_another_symbol_does_not():
    second = multiply(make_klines([0, 1, 9, 10], symbol="X"), slice(2, None), 1 / 18)
    both = pd.concat([make_klines([0, 1]), multiply(second, slice(None), 100.0)], ignore_index=True)
    found = find_unusual_moves(both)
    (move,) = found["list"]
    assert (move["symbol"], move["time"], move["kind"]) == ("X", "2024-01-01T12:09:00Z", "open")
    assert (move["price"], move["from"]) == (pytest.approx(1000 / 18), 1100)


def test_the_first_three_moves_are_logged_with_their_times_and_no_bar_is_dropped(caplog):
    table = make_bars(20)
    for row in (2, 5, 9, 15):
        multiply(table, slice(row, row), 100.0, ["high"])
    cleaned, report = ingest.clean(table, **OPEN)
    assert len(cleaned) == 20
    assert report["unusual_moves"]["count"] == 4
    (message,) = caplog.messages
    assert "prices move by more than a factor 1.5 (4 of high from open and close)" in message
    assert message.count("high 1200 from 11") == 3
    assert "BTCUSDT 2024-01-01T12:09:00Z" in message
    assert "T12:15:00Z" not in message


def test_missing_bars_are_logged_with_their_number_and_that_of_gaps(caplog):
    table = make_bars(20).drop(index=[3, 4, 9])
    ingest.clean(table, **OPEN)
    (message,) = caplog.messages
    assert message.startswith("klines: 3 bars are missing, in 2 gap(s) beside 17 bars;")
    assert message.endswith("sources.file.fill_gaps_bars; where the market closes, set calendar.exchange")
    assert (table["open_time"].diff().dropna() > MINUTE).sum() == 2
