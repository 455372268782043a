"""The 98 columns of an order book: their values, in bulk and event by event, and what they may read."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import config
from pipeline.orderbook import columns as names
from pipeline.orderbook import engine, order_flow, state
from pipeline.orderbook.columns import COLUMNS, PRESETS
from pipeline.orderbook.event_table import read_events
from pipeline.orderbook.settings import read_settings
from pipeline.row_groups import TableFile
from tests.orderbook_events import BOOK, MIDNIGHT_NS, draw_events
from tests.slow_orderbook import SlowOrderBook

WINDOWS = [5, 60, 200]
INDEX = {name: i for i, name in enumerate(COLUMNS)}
FOLDER = Path(engine.__file__).parent
HOUR_NS = 3600 * 10**9


def fill_columns(events, **params):
    """Return (N, 98) float64 of every row, those too that the gates leave out."""
    out = np.empty((len(events), len(COLUMNS)))
    engine.advance_all(state.allocate(read_settings(**params)), read_events(events), 0, out)
    return out


def fill_slowly(events, *, windows):
    numbers, amounts = (array.tolist() for array in read_events(events))
    book = SlowOrderBook(windows=windows)
    return np.array([book.update(*n, *a[:2], a[2:]) for n, a in zip(numbers, amounts, strict=True)])


def make_events(*rows, asks=((10.02, 5.0), (10.03, 7.0)), bids=((10.0, 4.0), (9.99, 6.0)), start_ns=MIDNIGHT_NS):
    """Return a table of rows (second, id, action, side, size, price), beside a book of (price, size) by level.

    A row may have a seventh item: `asks` and `bids` after it and from then on.
    """
    table = []
    for second, order_id, action, side, size, price, *book in rows:
        asks, bids = book[0] if book else (asks, bids)
        levels = [
            [*[level[i] for level in levels], *[0.0] * (10 - len(levels))] for levels in (asks, bids) for i in (0, 1)
        ]
        time_ns = start_ns + int(second * 1e9)
        table.append([time_ns, order_id, side, action, size, price, *sum(levels, [])])
    return pd.DataFrame(table, columns=["time_ns", "order_id", "side", "action", "size", "price", *BOOK])


def take(out, *names):
    """Return the values of columns in the last row."""
    return [out[-1, INDEX[name]] for name in names]


@pytest.fixture(scope="module")
def events():
    """Events with a crossed, a locked and a one-sided book among them, of sizes that are no integers."""
    table = draw_events(1500, seed=3, unit=0.001)
    table.loc[700:702, "bid_price_1"] = table.loc[700:702, "ask_price_1"] + 0.01
    table.loc[800, "bid_price_1"] = table.loc[800, "ask_price_1"]
    table.loc[900, [name for name in BOOK if name.startswith("ask")]] = 0.0
    return table


@pytest.fixture(scope="module")
def filled(events):
    return fill_columns(events, windows=WINDOWS)


@pytest.fixture(scope="module")
def bulk(events):
    return engine.compute(events, windows=WINDOWS)


def test_there_are_98_columns_at_the_indices_of_the_contract():
    assert len(COLUMNS) == len(set(COLUMNS)) == 98
    at = {
        0: "ask_price_1",
        10: "ask_size_1",
        20: "bid_price_1",
        39: "bid_size_10",
        40: "mid_price",
        47: "microprice_distance",
    }
    at |= {48: "bid_adds_per_s", 56: "net_trade_flow", 60: "size_p25", 68: "mean_queue_position_orders"}
    at |= {
        74: "large_orders_per_s",
        78: "mean_order_age_s",
        84: "order_flow_imbalance",
        92: "book_valid",
        97: "schema_version",
    }
    assert {i: COLUMNS[i] for i in at} == at
    assert names.GATES == {92: 1.0, 94: 1.0, 96: 0.0}
    assert names.CATEGORICAL == (92, 93, 94, 97)


def test_presets_are_those_of_the_contract():
    ranges = {"lob_only": (0, 40), "lob_derived": (0, 48), "full": (0, 98), "signals_core": (84, 92)}
    ranges |= {"signals_full": (84, 98), "no_meta": (0, 92), "deeplob_extended": (0, 48)}
    assert {name: COLUMNS[start:stop] for name, (start, stop) in ranges.items()} == {
        name: PRESETS[name] for name in ranges
    }
    assert PRESETS["lob_signals"] == COLUMNS[:40] + COLUMNS[84:92]


def test_every_column_equals_that_of_a_slow_book(events, filled):
    slow = fill_slowly(events, windows=WINDOWS)
    differs = ~np.isclose(filled, slow, rtol=1e-9, atol=1e-12)
    assert {COLUMNS[j]: int(np.argmax(differs[:, j])) for j in np.flatnonzero(differs.any(axis=0))} == {}
    constant = {COLUMNS[j] for j in range(98) if np.ptp(slow[:, j]) == 0}
    assert constant == {"schema_version"}  # so that every other column was compared at more than one value


def test_the_same_quantity_has_the_same_bits_at_both_of_its_indices(filled):
    for left, right in ((45, 91), (55, 89), (56, 88)):
        assert filled[:, left].tobytes() == filled[:, right].tobytes()


def test_streamed_columns_are_those_of_bulk_bit_for_bit(events, bulk):
    numbers, amounts = read_events(events)
    stream = engine.Stream(windows=WINDOWS)
    rows, x = [], []
    for i in range(len(events)):
        values = stream.update(engine.Event(numbers[i], amounts[i]))
        if stream.passes_gates:
            rows.append(i)
            x.append(values)
    assert np.array(x).tobytes() == bulk.x.tobytes()
    assert rows == bulk.rows.tolist()
    assert bulk.x.dtype == np.float32


def test_an_event_may_be_a_mapping(events):
    stream = engine.Stream(columns="lob_only")
    values = stream.update(engine.make_event(events.iloc[0].to_dict()))
    assert stream.columns == COLUMNS[:40]
    assert values.tolist() == events.iloc[0][list(BOOK_ORDER)].astype(np.float32).tolist()


BOOK_ORDER = COLUMNS[:40]


def test_parts_of_a_file_are_those_of_a_table(events, bulk, tmp_path):
    table = pd.concat([events, draw_events(400, seed=5, segment=7)], ignore_index=True)
    table.to_parquet(tmp_path / "clean.parquet", row_group_size=270)
    parts = list(engine.compute_parts(TableFile(tmp_path / "clean.parquet"), windows=WINDOWS))
    assert len(parts) == 8
    whole, own = engine.compute(table, windows=WINDOWS), engine.compute(table[1500:], windows=WINDOWS)
    assert np.concatenate([part.x for part in parts]).tobytes() == whole.x.tobytes()
    assert np.concatenate([part.rows for part in parts]).tolist() == whole.rows.tolist()
    assert whole.x.tobytes() == bulk.x.tobytes() + own.x.tobytes()  # the state begins anew
    assert whole.lost_by_segment == {0: 1500 - len(bulk.x), 7: 400 - len(own.x)}
    for segment in (0, 7):
        found = [part.orders_by_segment.get(segment, {}) for part in parts]
        assert {name: sum(each.get(name, 0) for each in found) for name in state.COUNT_NAMES} == (
            whole.orders_by_segment[segment]
        )


@pytest.mark.parametrize("cut", [1, 205, 701, 702, 1207])
def test_no_column_changes_when_later_events_are_removed(events, filled, cut):
    assert fill_columns(events[:cut], windows=WINDOWS).tobytes() == filled[:cut].tobytes()


def test_no_column_reads_further_back_than_it_declares(events):
    lookbacks = engine.compute(events, windows=WINDOWS).lookback_bars
    unbounded = {"mean_queue_position_orders", "mean_size_ahead", "orders_per_level", "active_orders", "mbo_ready"}
    unbounded |= {"mean_modifications", "iceberg_proxy", "mean_order_age_s", "median_order_lifetime_s"}
    unbounded |= {"mean_fill_ratio", "mean_time_to_first_fill_s", "invalidity_delta"}
    assert max(lookbacks.values()) == WINDOWS[-1]
    quiet = events[950:].query("action < 6")  # auctions and halts are no events of windows
    whole = fill_columns(quiet, windows=WINDOWS)
    for name in COLUMNS:
        if name not in unbounded:
            back, j = lookbacks[name], INDEX[name]
            later = fill_columns(quiet[100:], windows=WINDOWS)[back:, j]
            assert later.tobytes() == whole[100 + back :, j].tobytes(), name
    assert {name for name in unbounded if lookbacks[name] != WINDOWS[-1]} == set()


def test_no_value_depends_on_the_room_that_the_state_had(events, filled, monkeypatch):
    monkeypatch.setattr(state, "FIRST_ORDERS", 2)
    assert fill_columns(events, windows=WINDOWS).tobytes() == filled.tobytes()


@pytest.mark.parametrize(
    ("first", "compiled", "others"),  # others: what is run before anything is compiled
    [("update", engine.COMPILED, {"settings"}), ("order_flow", order_flow.COMPILED, {"compiling"})],
)
def test_the_cache_of_a_compiled_function_knows_every_file_that_it_runs(first, compiled, others):
    files, pending = set(), [first]
    while pending:
        name = pending.pop()
        files.add(name)
        imported = re.findall(
            r"^from pipeline\.orderbook(?:\.(\w+))? import (.*)", (FOLDER / f"{name}.py").read_text(), re.M
        )
        found = {module or names.split(" ")[0] for module, names in imported}
        pending += found - files
    assert files - others <= set(compiled)


def test_rows_that_fail_a_gate_have_no_features(events, filled, bulk):
    gates = {92: 1.0, 94: 1.0, 96: 0.0}
    passes = np.all([filled[:, i] == value for i, value in gates.items()], axis=0)
    assert bulk.rows.tolist() == np.flatnonzero(passes).tolist()
    assert filled[[699, 700, 701, 702, 703, 704], 96].tolist() == [0, 1, 2, 3, 3, 0]
    assert filled[[699, 700, 702, 703, 800, 900], 92].tolist() == [1, 0, 0, 1, 0, 0]  # crossed, locked, one-sided
    assert {700, 703, 800, 801, 900}.isdisjoint(bulk.rows) and {704, 802, 901} <= set(bulk.rows.tolist())
    assert not passes[:100].any() and set(bulk.warm_up_bars.values()) == {100}


def test_trades_at_the_ask_are_buying_pressure():
    bought = make_events((0, 0, 1, 1, 5.0, 9.99), (1, 0, 4, -1, 2.0, 10.02), (2, 0, 5, -1, 2.0, 10.01))
    sold = make_events((0, 0, 1, 1, 5.0, 9.99), (1, 0, 4, 1, 2.0, 10.0), (2, 0, 5, 1, 2.0, 10.01))
    flow = "net_trade_flow", "trade_asymmetry", "net_trades_per_s", "ask_trades_per_s", "bid_trades_per_s"
    assert take(fill_columns(bought), *flow) == pytest.approx([1, 1, 1, 1, 0], rel=1e-7)
    assert take(fill_columns(sold), *flow) == pytest.approx([-1, -1, -1, 0, 1], rel=1e-7)


def test_the_microprice_and_its_distance_are_worked_by_hand():
    one = make_events((0, 1, 1, 1, 4.0, 10.0))  # 4 at 10.00, 5 at 10.02
    two = make_events((0, 1, 1, 1, 4.0, 10.0), asks=[(10.02, 4.0)], bids=[(10.0, 5.0)])
    assert take(fill_columns(one), "microprice") == pytest.approx([(10.0 * 5 + 10.02 * 4) / 9])
    distance = (take(fill_columns(each), "microprice_distance")[0] for each in (one, two))
    assert list(distance) == pytest.approx([0.01 / 9, 0.01 / 9])  # below the mid and above it: no sign


@pytest.mark.parametrize(
    ("asks", "bids", "flow"),
    [
        ([(10.02, 5.0)], [(10.0, 6.0)], 2.0),  # demand of 4 has become 6
        ([(10.02, 2.0)], [(10.0, 4.0)], 3.0),  # supply of 5 has become 2
        ([(10.02, 5.0)], [(10.01, 3.0)], 3.0),  # a better bid
        ([(10.02, 5.0)], [(9.99, 9.0)], -4.0),  # the best bid is gone
        ([(10.01, 2.0)], [(10.0, 4.0)], -2.0),  # a better ask
        ([(10.03, 9.0)], [(10.0, 4.0)], 5.0),  # the best ask is gone
    ],
)
def test_order_flow_imbalance_is_worked_by_hand(asks, bids, flow):
    before = [(10.02, 5.0)], [(10.0, 4.0)]
    out = fill_columns(make_events((0, 1, 1, 1, 1.0, 9.0, before), (1, 2, 6, 1, 1.0, 9.0, (asks, bids))))
    depth = sum(size for _, size in [*asks, *bids])
    assert take(out, "order_flow_imbalance", "order_flow_imbalance_over_depth") == pytest.approx([flow, flow / depth])


def test_queue_positions_and_sizes_ahead_count_censored_orders():
    """At 10.00 rest 4 of unknown orders, then 2 of order 1 and 3 of order 2; 3 of the unknown ones are executed."""
    asks = [(10.02, 5.0)]
    rows = [
        (0, 1, 1, 1, 2.0, 10.0, (asks, [(10.0, 6.0)])),
        (1, 2, 1, 1, 3.0, 10.0, (asks, [(10.0, 9.0)])),
        (2, 99, 4, 1, 3.0, 10.0, (asks, [(10.0, 6.0)])),
        (3, 1, 2, 1, 1.0, 10.0, (asks, [(10.0, 5.0)])),
        (4, 1, 3, 1, 1.0, 10.0, (asks, [(10.0, 4.0)])),
    ]
    out = fill_columns(make_events(*rows))
    assert out[:, INDEX["mean_queue_position_orders"]].tolist() == [0, 0.5, 0.5, 0.5, 0]
    assert out[:, INDEX["mean_size_ahead"]].tolist() == [4, (4 + 6) / 2, (1 + 3) / 2, (1 + 2) / 2, 1]
    assert out[:, INDEX["mean_order_age_s"]].tolist() == [0, 0.5, 1.5, 2.5, 3]
    counts = engine.compute(make_events(*rows).assign(segment=0)).orders_by_segment[0]
    assert counts == dict.fromkeys(counts, 0) | {"added": 2, "completed": 1, "censored_executions": 1}


def test_ends_of_orders_are_worked_by_hand():
    bids = ([(10.02, 5.0)], [(10.0, 9.0)])
    out = fill_columns(
        make_events(
            (0, 1, 1, 1, 4.0, 10.0, bids),
            (1, 2, 1, 1, 5.0, 10.0, bids),
            (2, 77, 3, 1, 5.0, 10.0, bids),  # was there before: it has no age
            (3, 1, 4, 1, 1.0, 10.0, bids),
            (4, 1, 2, 1, 1.0, 10.0, bids),
            (6, 1, 3, 1, 2.0, 10.0, bids),
            (9, 2, 4, 1, 5.0, 10.0, bids),
        )
    )
    filling = out[:, INDEX["mean_time_to_first_fill_s"]].tolist()
    assert filling == [0, 0, 0, 3, 3, 0, 0]  # of active orders: order 1 until it is deleted
    lifetimes, fills = out[:, INDEX["median_order_lifetime_s"]], out[:, INDEX["mean_fill_ratio"]]
    assert lifetimes.tolist() == [0, 0, 0, 0, 0, 6, 7]
    assert fills.tolist() == [0, 0, 0, 0, 0, 0.25, 0.625]
    assert out[:, INDEX["mean_modifications"]].tolist() == [0, 0, 0, 0, 0, 1, 0.5]
    assert out[-1, INDEX["iceberg_proxy"]] == pytest.approx(0.625 * 0.05)
    assert out[:, INDEX["active_orders"]].tolist() == [1, 2, 2, 2, 2, 1, 0]


def test_orders_whose_level_went_out_of_sight_are_lost_not_completed():
    asks = [(10.02, 5.0)]
    table = make_events(
        (0, 1, 1, 1, 4.0, 9.9, (asks, [(10.0, 4.0), (9.9, 4.0)])), (5, 2, 1, 1, 1.0, 10.0, (asks, [(10.0, 5.0)]))
    )
    out = fill_columns(table)
    assert take(out, "active_orders", "median_order_lifetime_s", "mean_order_age_s") == [1, 0, 0]
    assert engine.compute(table.assign(segment=0)).orders_by_segment[0]["lost"] == 1


@pytest.mark.parametrize(
    ("day", "hour", "regime"),
    [("2012-06-21", 13.4, 0), ("2012-06-21", 13.5, 1), ("2012-06-21", 14, 2), ("2012-06-21", 16, 3)]
    + [("2012-06-21", 19.5, 4), ("2012-06-21", 20, 0), ("2012-01-20", 14.4, 0), ("2012-01-20", 14.5, 1)]
    + [("2012-03-09", 14.5, 1), ("2012-03-12", 13.5, 1)],  # before and after the change of clocks
)
def test_the_regime_is_that_of_local_time_with_daylight_saving(day, hour, regime):
    start_ns = pd.Timestamp(day, tz="UTC").value + int(hour * HOUR_NS)
    assert take(fill_columns(make_events((0, 1, 1, 1, 1.0, 10.0), start_ns=start_ns)), "time_regime") == [regime]


def test_a_market_without_a_closing_has_the_sessions_of_its_parameters():
    session = {"opening": "00:00", "morning": "06:00", "afternoon": "12:00", "closing": "23:00", "end": "24:00"}
    start_ns = pd.Timestamp("2024-03-10", tz="UTC").value
    rows = [(3600 * hour, hour, 1, 1, 1.0, 10.0) for hour in (0, 5, 6, 12, 23, 24)]
    out = fill_columns(make_events(*rows, start_ns=start_ns), timezone="UTC", session=session)
    assert out[:, 93].tolist() == [1, 1, 2, 3, 4, 1]


def test_a_list_of_columns_may_have_presets_and_groups_beside_names():
    given = read_settings(columns=["spread", "lob_only", "mid_price", "signals_core", "lob_signals", "queue"]).columns
    assert given == ("spread", *COLUMNS[:40], "mid_price", *COLUMNS[84:92], *COLUMNS[68:74])
    assert read_settings(columns=["lob_only"]) == read_settings(columns="lob_only")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"columns": "all"}, "features.columns has 'all'; give one or more .* of the presets lob_only"),
        ({"columns": ["mid"]}, "features.columns has 'mid'; give one or more distinct names"),
        ({"windows": [5, 5000, 500]}, "three lengths in events that ascend"),
        ({"windows": [5, 500]}, "features.windows"),
        ({"timezone": "New York"}, "features.timezone is 'New York'"),
        ({"session": {"opening": "09:30"}}, "features.session lacks morning"),
        ({"session": dict.fromkeys(["opening", "morning", "afternoon", "closing", "end"], "9:30")}, "give HH:MM"),
        ({"tick_size": 0.0}, "features.tick_size"),
        ({"ready_events": 0}, "features.ready_events"),
    ],
)
def test_parameters_that_are_not_allowed_are_named(params, message):
    with pytest.raises((config.ParamsError, ValueError), match=message):
        read_settings(**params)


def test_events_that_cannot_follow_one_another_are_named():
    with pytest.raises(ValueError, match="row 1: time_ns is .*, before the last event"):
        fill_columns(make_events((5, 1, 1, 1, 1.0, 10.0), (4, 2, 1, 1, 1.0, 10.0)))
    with pytest.raises(ValueError, match="row 0: action 9, side 1, size 1.0; allowed are actions 1 to 7"):
        fill_columns(make_events((5, 1, 9, 1, 1.0, 10.0)))
    table = draw_events(20, seed=1)
    with pytest.raises(ValueError, match="columns \\['bid_size_3'\\] are missing"):
        engine.compute(table.drop(columns="bid_size_3"))
    with pytest.raises(ValueError, match="there is no column segment"):
        engine.compute(table.drop(columns="segment"))
    with pytest.raises(ValueError, match="rows of segment 0 are not adjacent"):
        engine.compute(table.assign(segment=[0, 1] * 10))
