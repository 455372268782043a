"""An order book is a kind of dataset: days of events go from their files to folds, and the guards check them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.datasets.orderbook import clock, contract, fills, ingest
from pipeline.fills import CLOSES, FILLS, WAITS
from pipeline.orderbook.columns import BOOK
from pipeline.orderbook.raw_table import COLUMNS, join_days
from pipeline.orderbook.source_files import hash_files
from pipeline.stages import canary, featurize, fetch, guard, label, split
from pipeline.stages import ingest as ingest_stage
from tests.lobster_files import write_day
from tests.orderbook_events import MIDNIGHT_NS, draw_events
from tests.params import PARAMS

DAYS = ("2012-06-21", "2012-06-22")
EVENTS = 2100  # a day: canaries need 2,000
CALENDAR = {"days_per_year": 252, "hours_per_day": 6.5}
DAY_SECONDS = 86_400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the stages up to the folds have run on two days of a drawn market."""
    folder = tmp_path_factory.mktemp("orderbook")
    files = []
    for i, day in enumerate(DAYS):
        table = draw_events(EVENTS, seed=i)
        write_day(folder, table.assign(time_ns=table["time_ns"] - MIDNIGHT_NS), symbol="DRAWN", day=day)
        files += sorted(folder.glob(f"*{day}*.csv"))
    params = {**PARAMS, "datasets": {"book": PARAMS["disabled_datasets"]["orderbook"] | {"source": "lobster"}}}
    params["sources"] = {"lobster": PARAMS["sources"]["lobster"] | {"path": str(folder), "sha256": hash_files(files)}}
    params["split"] = PARAMS["split"] | {"groups": 3, "embargo_bars": 20}
    params["guard"] = PARAMS["guard"] | {"cuts": 4}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (fetch, ingest_stage, featurize, label, guard, canary, split):
            stage.main("book")
    return folder


def read_report(folder: Path, stage: str) -> dict:
    return json.loads((folder / f"trained/reports/{stage}/book.json").read_text())


def test_the_raw_table_has_one_row_for_each_event_of_both_days(folder):
    raw = pd.read_parquet(folder / "data/raw/book.parquet")
    assert tuple(raw.columns) == COLUMNS
    assert raw["day"].value_counts(sort=False).to_dict() == dict.fromkeys(DAYS, EVENTS)
    np.testing.assert_array_equal(raw["event"], np.arange(2 * EVENTS))
    drawn = draw_events(EVENTS, seed=0)
    for name in ("time_ns", "action", "order_id", "side"):
        np.testing.assert_array_equal(raw[name][:EVENTS], drawn[name])
    for name in BOOK:
        np.testing.assert_allclose(raw[name][:EVENTS], drawn[name], rtol=1e-14)


def test_each_day_is_a_segment_and_the_second_one_starts_a_day_later(folder):
    clean = pd.read_parquet(folder / "data/clean/book.parquet")
    assert clean.groupby("segment")["day"].unique().explode().tolist() == list(DAYS)
    first = clean.groupby("segment")["time_ns"].min()
    assert first[1] // 10**9 - first[0] // 10**9 == DAY_SECONDS
    assert read_report(folder, "ingest")["rows"] == len(clean)


def test_features_are_all_columns_of_rows_that_pass_the_gates(folder):
    features = pd.read_parquet(folder / "data/features/book.parquet")
    assert len(features.columns) == 98 + 2
    assert (features["book_valid"] == 1).all()
    report = read_report(folder, "featurize")
    assert report["lookback_bars"] == 5000


def test_no_guard_finds_a_leak_and_features_and_labels_were_recomputed(folder):
    found = {finding["guard"]: finding for finding in read_report(folder, "guard")["findings"]}
    assert {finding["severity"] for finding in found.values()} == {"ok"}, found
    assert "98 columns are reproduced to the bit" in found["truncation"]["message"]
    assert "when the events after its label_end are altered" in found["label_end"]["message"]


def test_every_planted_leak_is_caught_and_no_clean_counterpart_alarms(folder):
    report = read_report(folder, "canary")
    assert report["canaries"] == report["caught"] > 0
    assert report["false_alarms"] == 0


def test_folds_are_cut_by_the_number_of_the_event(folder):
    report = read_report(folder, "split")
    assert {tuple(group) for group in report["groups"]} == {("rows", "first_events", "last_events")}
    assert report["embargo_reason"].startswith("split.embargo_bars")


def make_book(
    bids: list[float], asks: list[float], *, action: list[int] | None = None, **columns: list
) -> pd.DataFrame:
    """A raw table of one level on each side, whose size is 2 and 3; a price of 0 is an empty level."""
    count = len(bids)
    arrays = {name: np.zeros(count) for name in BOOK}
    arrays |= {"bid_price_1": np.array(bids), "ask_price_1": np.array(asks)}
    arrays |= {"bid_size_1": 2.0 * (arrays["bid_price_1"] > 0), "ask_size_1": 3.0 * (arrays["ask_price_1"] > 0)}
    arrays |= {
        "time_ns": np.arange(count) * 10**9,
        "action": np.array(action or [1] * count),
        "order_id": np.arange(count),
        "size": np.ones(count),
        "price": np.ones(count),
        "side": np.ones(count, int),
    }
    table = join_days([("A", "2024-01-02", arrays)])
    return table.assign(**columns)


def clean(table: pd.DataFrame) -> tuple[pd.DataFrame, dict]:
    return ingest.clean(table, **CALENDAR)


def test_an_invalid_book_has_the_latest_valid_mid_and_half_spread():
    table, report = clean(make_book([0, 98, 101, 100, 0, 99], [102, 102, 101, 99, 102, 103]))
    assert table["close"].tolist() == [100, 100, 100, 100, 101]
    np.testing.assert_allclose(table["half_spread"], [0.02, 0.02, 0.02, 0.02, 2 / 101])
    assert report["book"] == {"crossed": 1, "locked": 1, "one_sided": 2, "empty": 0}
    assert report["dropped"] == {"halted": 0, "before_both_sides": 1}
    assert report["invalid_book"] == 3


def test_a_halt_cuts_the_segment_and_its_rows_are_dropped():
    action, price = [1, 7, 1, 7, 1, 1], [1.0, -1.0, 1.0, 1.0, 1.0, 1.0]
    table, report = clean(make_book([98] * 6, [102] * 6, action=action, price=price))
    assert table["event"].tolist() == [0, 3, 4, 5]
    assert table["segment"].tolist() == [0, 1, 1, 1]
    assert report["dropped"]["halted"] == 2
    assert [each["rows"] for each in report["segments"]] == [1, 3]


def test_executions_are_compared_with_the_size_that_the_best_level_loses():
    table = make_book([98, 98, 98, 97], [102] * 4, action=[1, 4, 4, 4], price=[98.0, 98.0, 98.0, 98.0])
    table = table.assign(bid_size_1=[5.0, 4.0, 2.0, 7.0], size=[5.0, 1.0, 1.0, 2.0])
    _, report = clean(table)
    expected = {"at_best": 3, "size_fits": 2, "size_differs": 1, "beside_best": 0, "without_book_before": 0}
    assert report["executions"] == expected


def test_messages_on_orders_of_before_the_segment_are_counted():
    table = make_book([98] * 5, [102] * 5, action=[1, 3, 4, 2, 1], order_id=[7, 7, 8, 9, 7], time_ns=[0, 0, 5, 5, 5])
    _, report = clean(table)
    assert report["orders"] == {"not_added": {"cancels": 1, "deletes": 0, "executions": 1}, "repeated_ids": 1}
    assert report["clock"] == {"same_ns": 3, "longest_gap_s": 5e-9}


WRONG = [
    ({"ask_size_1": [3.0, 0.0]}, "ask_size_1 is 0.0 at event 1 of A on 2024-01-02 (row 1, the first of 1)"),
    ({"ask_price_2": [0.0, 101.0], "ask_size_2": [0.0, 1.0]}, "ask_price_2 is 101.0 .*strictly monotone"),
    ({"bid_price_3": [1.0, 1.0], "bid_size_3": [1.0, 1.0]}, "bid_price_3 is 1.0 .*strictly monotone"),
    ({"ask_price_1": [102.0, 999_999.9999]}, "ask_price_1 is 999999.9999 .*stands for an empty level"),
    ({"price": [1.0, 999_999.9999]}, "price is 999999.9999 at event 1 .*stands for an empty level"),
    ({"time_ns": [5, 4]}, "time_ns is 4 .*earlier than that before"),
    ({"event": [3, 3]}, "event is 3 .*above that before"),
    ({"action": [1, 9]}, "action is 9 .*must be one of 1, 2, 3"),
    ({"side": [1, 0]}, "side is 0 .*1 for a bid or -1 for an ask"),
    ({"size": [0.0, 1.0]}, "size is 0.0 at event 0 .*above 0"),
    ({"bid_size_1": [np.nan, 1.0]}, "bid_size_1 is nan .*finite and at least 0"),
]


@pytest.mark.parametrize(
    ("columns", "message"), WRONG, ids=[next(iter(columns)) + message[-9:] for columns, message in WRONG]
)
def test_what_makes_the_state_wrong_is_refused_in_one_line(columns, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")) as refused:
        clean(make_book([98, 98], [102, 102], **columns))
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("orderbook: ")


def test_events_of_several_symbols_are_numbered_in_time_order():
    one, two = (make_book([98] * 2, [102] * 2).drop(columns=["symbol", "day", "event"]) for _ in range(2))
    parts = [
        (name, "2024-01-02", {k: v.to_numpy() for k, v in part.items()}) for name, part in (("B", one), ("A", two))
    ]
    table, _ = clean(join_days(parts))
    assert table["symbol"].tolist() == ["A", "A", "B", "B"]
    assert table["event"].tolist() == [0, 2, 1, 3]
    assert clock.to_ms(table, np.array([3, 0, 2])).tolist() == [1000, 0, 1000]


def test_a_year_has_as_many_rows_as_the_calendar_has_hours_at_their_rate():
    table, _ = clean(make_book([98] * 11, [102] * 11))
    assert clock.count_rows_per_year(table) == pytest.approx(11 / 10 * 252 * 6.5 * 3600)


def test_sessions_of_several_symbols_that_overlap_count_their_time_once():
    second = 1_000_000_000
    table = pd.DataFrame({"segment": [0, 0, 1, 1, 1], "time_ns": [0, 10 * second, 5 * second, 6 * second, 15 * second]})
    table.attrs["traded_ms_per_year"] = 15_000.0
    assert clock.count_rows_per_year(table) == 5.0


def test_an_order_fills_at_the_mid_of_the_next_event_and_all_is_closed_at_the_segments_end():
    table, _ = clean(make_book([98, 99, 0, 100, 98], [102, 103, 103, 104, 100]))
    table = pd.concat([table, table.assign(segment=1)], ignore_index=True)
    found = fills.find_fills(table, delay_bars=0)
    np.testing.assert_allclose(found.move[:5], [0, 102 / 101 - 1, 99 / 102 - 1, 0, 0])
    assert found.outcome[:5].tolist() == [FILLS, WAITS, FILLS, CLOSES, CLOSES]
    np.testing.assert_allclose(found.half_spread[:5], [2 / 101, 2 / 101, 2 / 102, 1 / 99, 1 / 99])
    np.testing.assert_allclose(found.quote_volume[:5], [5 * 101, 0, 5 * 102, 5 * 99, 5 * 99])
    np.testing.assert_allclose(found.years[:5] * fills.NS_PER_YEAR / 1e9, [1, 1, 1, 0, 0])
    assert found.lag.tolist() == [1] * 10
    assert not found.crosses_gap.any()
    assert found.move[5:].tolist() == found.move[:5].tolist()


def test_a_delayed_order_fills_later_and_is_closed_where_its_segment_ends():
    table, _ = clean(make_book([98, 99, 100, 101], [102, 103, 104, 105]))
    found = fills.find_fills(table, delay_bars=1)
    np.testing.assert_allclose(found.move, [103 / 102 - 1, 0, 0, 0])
    assert found.outcome.tolist() == [FILLS, CLOSES, CLOSES, CLOSES]
    assert found.lag.tolist() == [1, 2, 2, 2]


def test_the_contract_names_the_fields_of_events():
    table, _ = clean(make_book([98], [102]))
    described = contract.describe_bars(table, fields=table.columns, calendar=CALENDAR)
    assert described["symbols"] == ["A"]
    assert described["columns"]["bid_size_10"] == "units"
    assert described["columns"]["time_ns"] == "ns since 1970, UTC"
    assert "segment" not in described["columns"]
