"""Sources of order books: LOBSTER's days, exactly as their text has them, and order events of crypto exchanges."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.datasets.orderbook import ingest
from pipeline.orderbook.columns import BOOK
from pipeline.orderbook.raw_table import COLUMNS
from pipeline.orderbook.source_files import hash_files
from pipeline.orderbook.sources import l3, lobster
from tests.lobster_files import write_day
from tests.orderbook_events import REAL_DAY, needs_real_day

SHA256 = "3ff41f9a174b176a732130c8c9f22ea4188f7e5e024690789d184bef38a28605"  # of the real day
HOUR_NS = 3600 * 10**9
OPEN_NS = 34_200 * 10**9 + 17_459_617  # such digits as float64 seconds would round


def make_events(*, shift_ns: int = 0) -> pd.DataFrame:
    """Three events: an add, a halt and the resumption; the second level of the bid is empty."""
    table = pd.DataFrame({name: np.zeros(3) for name in BOOK})
    table[["ask_price_1", "ask_price_2", "bid_price_1"]] = [585.3301, 585.34, 585.01]
    table[["ask_size_1", "ask_size_2", "bid_size_1"]] = [18, 200, 7]
    return table.assign(
        time_ns=OPEN_NS + shift_ns + np.array([0, 0, 5]),
        action=[1, 7, 7],
        order_id=[16113575, 0, 0],
        size=[18, 0, 0],
        price=[585.3301, -1, 1],
        side=[-1, -1, -1],
    )


def load(path: Path | list[Path], **changes: object) -> pd.DataFrame:
    """The raw table of LOBSTER's files, pinned by their digest as it is."""
    places = path if isinstance(path, list) else [path]
    files = {file for place in places for file in (place.iterdir() if place.is_dir() else find_pair(place))}
    table, _ = lobster.load(path=[str(place) for place in places], sha256=hash_files(sorted(files)), **changes)
    return table


def find_pair(file: Path) -> list[Path]:
    return [file, file.with_name(file.name.replace("message", "orderbook"))]


def test_a_pair_of_files_is_read_to_the_ns_and_empty_levels_are_zero(tmp_path):
    table = load(write_day(tmp_path, make_events(), symbol="AAPL", day="2012-06-21"))
    assert tuple(table.columns) == COLUMNS
    midnight = pd.Timestamp("2012-06-21 04:00", tz="UTC").value  # New York in summer
    assert table["time_ns"].tolist() == [midnight + OPEN_NS, midnight + OPEN_NS, midnight + OPEN_NS + 5]
    assert table["price"].tolist() == [585.3301, -1.0, 1.0]
    assert table["ask_price_1"].tolist() == [585.3301] * 3
    assert table[["bid_price_2", "bid_size_2", "ask_price_10"]].to_numpy().tolist() == [[0, 0, 0]] * 3
    assert (table["symbol"] == "AAPL").all()


@pytest.mark.parametrize("levels", [1, 5, 12])
def test_levels_beyond_the_tenth_are_dropped_and_missing_ones_are_empty(tmp_path, levels):
    events = make_events().assign(ask_price_11=600.0, ask_size_11=1.0)
    table = load(write_day(tmp_path, events, symbol="AAPL", day="2012-06-21", levels=levels))
    assert tuple(table.columns) == COLUMNS
    assert table["ask_price_2"].tolist() == [585.34 if levels > 1 else 0.0] * 3
    assert (table["ask_price_10"] == 0).all()


def test_days_of_a_folder_follow_one_another_in_exchange_time_with_daylight_saving(tmp_path):
    for day in ("2024-03-11", "2024-03-08"):  # New York changes its clock on 2024-03-10
        write_day(tmp_path, make_events(), symbol="AAPL", day=day)
    table = load(tmp_path)
    assert table["day"].unique().tolist() == ["2024-03-08", "2024-03-11"]
    assert table["event"].tolist() == list(range(6))
    opened = pd.to_datetime(table.groupby("day")["time_ns"].first(), utc=True).dt.floor("s")
    assert [f"{each:%H:%M}" for each in opened] == ["14:30", "13:30"]
    assert load(tmp_path, timezone="UTC")["time_ns"].iloc[0] == pd.Timestamp("2024-03-08").value + OPEN_NS


def test_symbols_are_sorted_and_share_the_numbers_of_their_events(tmp_path):
    for symbol, shift in (("MSFT", 0), ("AAPL", 1)):
        write_day(tmp_path, make_events(shift_ns=shift), symbol=symbol, day="2024-03-08")
    table = load(tmp_path)
    assert table["symbol"].tolist() == ["AAPL"] * 3 + ["MSFT"] * 3
    assert table["event"].tolist() == [2, 3, 5, 0, 1, 4]


def test_digits_beyond_the_ns_are_rounded_and_a_seventh_column_is_left(tmp_path):
    file = write_day(tmp_path, make_events(), symbol="AAPL", day="2012-06-21")
    lines = file.read_text().splitlines()
    changed = [
        f"34200.0174596{digits},{line.partition(',')[2]},null"
        for digits, line in zip(("174", "1751", "25"), lines, strict=True)
    ]
    file.write_text("\n".join(changed) + "\n")
    assert (load(file)["time_ns"] % HOUR_NS - 30 * 60 * 10**9).tolist() == [17_459_617, 17_459_618, 17_459_625]


def damage(file: Path, *, row: int, text: str) -> None:
    """Put a line in the place of another one."""
    lines = file.read_text().splitlines()
    lines[row] = text
    file.write_text("\n".join(lines) + "\n")


FAULTS = [
    ("34200.1,1,5,1,1,1", 0, "row 2: time is 34200017459617 ns since midnight, which is earlier than 34200100000000"),
    ("90001,1,5,1,1,1", 2, "row 3: time is 90001000000000 ns since midnight, which is not within a day"),
    ("34200.1,1,5,1.5,1,1", 2, "size is .1.5. in row 3; allowed are whole numbers"),
    ("34200.1,1,,1,1,1", 2, "order_id is empty in row 3; allowed are whole numbers"),
    ("noon,1,5,1,1,1", 2, "cannot be read as CSV without a header"),
    (",1,5,1,1,1", 0, "time is empty in 1 rows"),  # arrow has 0 there, which is midnight
    (f"{2**64 // 10**12 + 40_000},1,5,1,1,1", 2, "are not within a day"),  # whose ps fit no int64
    ("34201,257,5,1,1,1", 2, "type is 257 in row 3, which is no code"),  # of int8 that is 1, an add
    ("34201,1,5,1,1,255", 2, "direction is 255 in row 3, which is no code"),
]


@pytest.mark.parametrize(("text", "row", "message"), FAULTS)
def test_a_wrong_line_is_named_with_its_file_and_row(tmp_path, text, row, message):
    file = write_day(tmp_path, make_events(), symbol="AAPL", day="2012-06-21")
    damage(file, row=row, text=text)
    with pytest.raises(ValueError, match=message) as refused:
        load(file)
    assert file.name in str(refused.value)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    file = write_day(tmp_path, make_events(), symbol="AAPL", day="2012-06-21")
    book = find_pair(file)[1]
    text = book.read_text()
    book.write_text(text + text.splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="has 3 rows and .* 4; each message has one row of the book"):
        load(file)
    book.unlink()
    with pytest.raises(ValueError, match="lacks the other file of its pair"):
        lobster.load(path=str(file), sha256=None)
    write_day(tmp_path, make_events(), symbol="AAPL", day="2012-06-21")
    write_day(tmp_path, make_events(), symbol="AAPL", day="2012-06-21", levels=5)
    with pytest.raises(ValueError, match="AAPL 2012-06-21 is in .* give one of them"):
        lobster.load(path=str(tmp_path), sha256=None)


def test_an_empty_path_a_missing_file_and_another_digest_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"sources.lobster.path is empty; .*-S sources.lobster.path=FILE"):
        lobster.load(path=None, sha256=None)
    with pytest.raises(ValueError, match="does not exist; relative paths start at the folder of dvc.yaml"):
        lobster.load(path="nowhere", sha256=None)
    for day, message in (("2012-13-45", "has no day in its name: 2012-13-45"), ("1970-01-05", "from 1990 to 2059")):
        with pytest.raises(ValueError, match=message):
            load(write_day(tmp_path, make_events(), symbol="AAPL", day=day))
    file = write_day(tmp_path, make_events(), symbol="AAPL", day="2012-06-21")
    digest = hash_files(sorted(find_pair(file)))
    with pytest.raises(ValueError, match=f"sha256 is empty.*dvc exp run -S sources.lobster.sha256={digest}$"):
        lobster.load(path=str(file), sha256=None)
    for timezone in ("New York", ""):
        with pytest.raises(ValueError, match=rf"sources.lobster.timezone is '{timezone}'; give a name of the IANA"):
            load(file, timezone=timezone)


WRONG_COLUMNS = [  # of a day in parquet
    ({"price": [1.0, 2.0, 3.0]}, "price is '1' in row 1; allowed are whole numbers, and the column is of double"),
    ({"time_ns": None, "time": ["34200.1"] * 3}, "time is of large_string, 0 of it empty; give seconds since midnight"),
    ({"time_ns": None, "time": [34_200.1, np.nan, 34_200.2]}, "time is of double, 1 of it empty"),
    ({"time_ns": None, "time": [34_200.1, 34_200.2, np.inf]}, "time has a value that is not within a day"),
    ({"direction": [257, 1, 1]}, "direction is 257 in row 1, which is no code"),
]


@pytest.mark.parametrize(("columns", "message"), WRONG_COLUMNS)
def test_a_wrong_column_of_a_day_in_parquet_is_named_with_its_file(tmp_path, columns, message):
    table = pd.DataFrame({name: np.zeros(3, np.int64) for name in BOOK[::10]})
    table = table.assign(time_ns=OPEN_NS, type=1, order_id=5, size=1, price=1, direction=1, ask_note="not read")
    dropped = [name for name, value in columns.items() if value is None]
    table = table.drop(columns=dropped).assign(**{name: each for name, each in columns.items() if each is not None})
    file = tmp_path / "AAPL_2012-06-21_L1.parquet"
    table.to_parquet(file)
    with pytest.raises(ValueError, match=message) as refused:
        lobster.load(path=str(file), sha256=hash_files([file]))
    assert file.name in str(refused.value)
    assert "\n" not in str(refused.value)


@needs_real_day
def test_the_real_day_has_the_events_that_are_known_of_it():
    raw, _ = lobster.load(path=str(REAL_DAY), sha256=SHA256)
    table, report = ingest.clean(raw, days_per_year=252, hours_per_day=6.5)
    assert len(table) == report["rows"] == 147_916
    assert report["actions"] == {
        "adds": 71_258,
        "cancels": 19,
        "deletes": 64_961,
        "executions": 7_765,
        "hidden_executions": 3_913,
        "crosses": 0,
        "halts": 0,
    }
    assert set(report["book"].values()) == {report["invalid_book"]} == {0}
    assert report["executions"]["size_fits"] == report["executions"]["at_best"] == 7_764
    assert report["orders"]["not_added"] == {"cancels": 1, "deletes": 2_830, "executions": 532}  # 4.4 % and 6.8 %
    assert report["clock"]["same_ns"] == 8_537
    assert pd.Timestamp(table["time_ns"].iloc[0], tz="UTC").strftime("%H:%M") == "13:30"


EVENTS = [  # time in ms, id, side, price, size, action
    (1, "a", "buy", 100.0, 0.5, "add"),
    (1, "b", "sell", 100.5, 1.25, "add"),
    (2, "a", "buy", 100.0, 0.2, "change"),
    (3, "a", "buy", 100.0, 0.15, "trade"),
    (3, "a", "buy", 100.0, 0.05, "trade"),
    (3, "a", "buy", None, None, "delete"),
    (4, "c", "BID", 99.5, 3.0, "add"),
    (5, "c", "bid", 99.0, 3.0, "change"),
    (6, "b", "ask", 100.5, 2.0, "change"),
    (7, "z", "ask", 100.5, 2.0, "delete"),
    (8, "b", "ask", 100.5, 2.0, "delete"),
]
DAY_MS = 19_724 * 86_400_000  # 2024-01-02


def write_events(file: Path, table: pd.DataFrame) -> Path:
    table.to_parquet(file) if file.suffix == ".parquet" else table.to_csv(file, index=False)
    return file


def make_l3(*, until_ms: int = 4) -> pd.DataFrame:
    """EVENTS, those before `until_ms` on 2024-01-01."""
    table = pd.DataFrame(EVENTS, columns=list(l3.COLUMNS[:1]) + ["order_id", "side", "price", "size", "action"])
    return table.assign(time=DAY_MS + table["time"] - until_ms)


def load_l3(file: Path, **changes: object) -> tuple[pd.DataFrame, dict]:
    return l3.load(path=str(file), sha256=hash_files([file]), **{"time_unit": "ms", **changes})


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_order_events_become_messages_on_what_is_taken_and_a_book(tmp_path, suffix):
    table, report = load_l3(write_events(tmp_path / f"BTCUSD_2024-01-01_l3.{suffix}", make_l3()))
    assert tuple(table.columns) == COLUMNS
    assert table["action"].tolist() == [1, 1, 2, 4, 4, 1, 3, 1, 3, 1, 3]
    assert table["size"].tolist() == [0.5, 1.25, 0.3, 0.15, 0.05, 3.0, 3.0, 3.0, 1.25, 2.0, 2.0]
    assert table["bid_size_1"].tolist() == [0.5, 0.5, 0.2, 0.05, 0.0, 3.0, 0.0, 3.0, 3.0, 3.0, 3.0]
    assert table["ask_size_1"].tolist() == [0.0, *[1.25] * 7, 0.0, 2.0, 0.0]
    assert table["bid_price_1"].tolist() == [100.0] * 4 + [0.0, 99.5, 0.0] + [99.0] * 4
    faults = report["faults"]["BTCUSD"]
    assert {name: count for name, count in faults.items() if count} == {"not_added": 1, "already_finished": 1}


def test_days_of_order_events_are_those_of_utc_and_the_book_goes_on(tmp_path):
    table, _ = load_l3(write_events(tmp_path / "BTCUSD_2024-01-01_l3.csv", make_l3(until_ms=3)))
    assert table["day"].tolist() == ["2024-01-01"] * 3 + ["2024-01-02"] * 8
    assert table["ask_size_1"].iloc[3] == 1.25
    clean, report = ingest.clean(table, days_per_year=365, hours_per_day=24)
    assert clean["segment"].tolist() == [0, 0, *[1] * (len(clean) - 2)]
    assert report["dropped"]["before_both_sides"] == 1


def test_times_of_order_events_may_be_texts(tmp_path):
    events = make_l3().assign(time=lambda table: pd.to_datetime(table["time"], unit="ms", utc=True))
    texts = events.assign(time=events["time"].dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    for i, table in enumerate((events, texts)):
        found, _ = load_l3(write_events(tmp_path / f"BTCUSD_2024-01-0{i + 1}_l3.parquet", table), time_unit="ns")
        assert found["time_ns"].iloc[0] == (DAY_MS - 3) * 10**6


def test_rows_are_in_the_order_of_the_file_whatever_index_pandas_stores(tmp_path):
    events = make_l3()
    whole, _ = load_l3(write_events(tmp_path / "BTCUSD_2024-01-01_l3.parquet", events.iloc[5:].reset_index(drop=True)))
    part, _ = load_l3(write_events(tmp_path / "BTCUSD_2024-01-02_l3.parquet", events.iloc[5:]))
    pd.testing.assert_frame_equal(part, whole)


def test_ids_beyond_int64_stay_apart_and_integers_are_themselves(tmp_path):
    for ids, expected in (
        ({"a": 2**64 + 1, "b": 2**64 + 2, "c": 2**64 + 3, "z": 2**64 + 4}, [1, 2, 1, 1, 1, 3, 3, 3, 2, 2, 2]),
        ({"a": 70, "b": 80, "c": 90, "z": 95}, [70, 80, 70, 70, 70, 90, 90, 90, 80, 80, 80]),
    ):
        events = make_l3().assign(order_id=lambda table, ids=ids: [str(ids[each]) for each in table["order_id"]])
        table, _ = load_l3(write_events(tmp_path / "BTCUSD_2024-01-01_l3.csv", events))
        assert table["order_id"].tolist() == expected


def test_messages_with_another_side_or_price_than_their_order_are_counted(tmp_path):
    events = make_l3()
    events.loc[3, "side"], events.loc[4, "price"] = "sell", 42.0  # two trades of an order to buy at 100
    table, report = load_l3(write_events(tmp_path / "BTCUSD_2024-01-01_l3.csv", events))
    assert report["faults"]["BTCUSD"]["moved_order"] == 2
    assert table["side"].tolist()[:5] == [1, -1, 1, 1, 1]
    assert table["price"].tolist()[:5] == [100.0, 100.5, 100.0, 100.0, 100.0]


WRONG_L3 = [
    ({"order_id": None}, "has no order_id; updates of levels .L2. are no order events"),
    ({"side": "north"}, "row 1: side is 'north'; allowed are buy, bid"),
    ({"action": "amend"}, "row 1: action is 'amend'; allowed are add, change, delete, trade"),
    ({"size": -1.0}, "row 1: size is -1.0; it must be above 0"),
    ({"time": [DAY_MS] * 10 + [DAY_MS - 1]}, "row 11: time 1704153599999 is before that of the row above; sort it"),
    ({"time": 0.5}, "times are fractions"),
    ({"time": [f"2024-01-01 00:00:{i:02}" for i in range(10)] + [""]}, "time cannot be read .row 11 has none"),
    (
        {"time": [DAY_MS // 1000 + i for i in range(11)]},
        "row 1 has 1704153600 ms, which is not within 1990 to 2059: .*unit",
    ),
    ({"time": DAY_MS * 10**6}, "row 1 has 1704153600000000000 ms, which is not within 1990 to 2059"),  # wraps in int64
    ({"time": "9" * 30}, "time cannot be read"),
    ({"order_id": [1.5] * 11}, "order_id is of double, in which ids run together"),
    ({"symbol": ["X"] * 10 + [None]}, "has empty values in symbol"),
    ({"symbol": ""}, "has empty values in symbol"),
]


def test_empty_cells_and_files_of_order_events_are_refused(tmp_path):
    events, file = make_l3(), tmp_path / "BTCUSD_2024-01-01_l3.csv"
    with pytest.raises(ValueError, match="has no events"):
        load_l3(write_events(file, events[:0]))
    with pytest.raises(ValueError, match="has empty values in order_id"):
        load_l3(write_events(file, events.assign(order_id=[None, *events["order_id"][1:]])))
    file.write_text(events.to_csv(index=False).replace("size", "price"))
    with pytest.raises(ValueError, match="lacks size"):
        load_l3(file)
    file.write_text(events.assign(twice=1).to_csv(index=False).replace("twice", "price"))
    with pytest.raises(ValueError, match="has several columns price"):
        load_l3(file)


@pytest.mark.parametrize(("columns", "message"), WRONG_L3)
def test_order_events_that_cannot_be_read_are_refused(tmp_path, columns, message):
    dropped = [name for name, value in columns.items() if value is None]
    table = make_l3().assign(**{name: value for name, value in columns.items() if value is not None})
    file = write_events(tmp_path / "BTCUSD_2024-01-01_l3.parquet", table.drop(columns=dropped))
    with pytest.raises(ValueError, match=message) as refused:
        load_l3(file)
    assert file.name in str(refused.value)
