"""The columns of the real day, where it is present."""

import numpy as np
import pytest

from pipeline.orderbook import engine
from tests.orderbook_events import needs_real_day, read_real_day
from tests.test_orderbook_columns import COLUMNS, fill_columns, fill_slowly

pytestmark = needs_real_day
EVENTS, SLOW_EVENTS = 20_000, 2_000


@pytest.fixture(scope="module")
def events():
    return read_real_day(EVENTS)


@pytest.fixture(scope="module")
def filled(events):
    return fill_columns(events)


def test_every_column_of_the_first_events_equals_that_of_a_slow_book(events, filled):
    slow = fill_slowly(events[:SLOW_EVENTS], windows=(5, 500, 5000))
    differs = ~np.isclose(filled[:SLOW_EVENTS], slow, rtol=1e-9, atol=1e-12)
    assert {COLUMNS[j]: int(np.argmax(differs[:, j])) for j in np.flatnonzero(differs.any(axis=0))} == {}


def test_columns_of_the_book_agree_with_its_invariants(filled):
    column = dict(zip(COLUMNS, filled.T, strict=True))
    assert (column["spread"] > 0).all()
    assert (column["bid_price_1"] < column["microprice"]).all() and (column["microprice"] < column["ask_price_1"]).all()
    for name in ("size_imbalance", "net_order_flow", "net_cancel_flow", "net_trade_flow", "large_order_imbalance"):
        assert np.abs(column[name]).max() <= 1
    assert (column["mean_fill_ratio"] <= 1).all() and (column["mean_order_age_s"] >= 0).all()
    assert np.isfinite(filled).all()


def test_176_rows_of_the_day_wait_for_a_hundred_changes(events):
    features = engine.compute(events)
    assert features.lost_by_segment == {0: 176}
    assert features.rows[0] == 176
    counts = features.orders_by_segment[0]
    assert counts["censored_deletes"] > 0 and counts["censored_executions"] > 0 and counts["replaced"] == 0
