"""The book rebuilt from messages: exact sizes, faults by name, and the snapshots of a real day."""

import numpy as np
import pandas as pd
import pytest

from pipeline.orderbook import book
from tests.orderbook_events import REAL_DAY, needs_real_day

ADD, CANCEL, DELETE, EXECUTE, HIDDEN = 1, 2, 3, 4, 5
STREAM = [  # action, order, size, price, side
    (ADD, 1, 10, 99.0, 1),
    (ADD, 2, 5, 101.0, -1),
    (ADD, 3, 7, 99.0, 1),
    (ADD, 4, 2, 99.5, 1),
    (EXECUTE, 1, 4, 99.0, 1),
    (HIDDEN, 0, 9, 100.0, 1),
    (CANCEL, 3, 6, 99.0, 1),
    (DELETE, 4, 2, 99.5, 1),
    (EXECUTE, 2, 5, 101.0, -1),
    (ADD, 2, 3, 102.0, -1),  # an identifier is used again after its order is finished
]
BEST = [  # best ask and its size, best bid and its size, size of the second bid: after each message of STREAM
    (0, 0, 99, 10, 0),
    (101, 5, 99, 10, 0),
    (101, 5, 99, 17, 0),
    (101, 5, 99.5, 2, 17),
    (101, 5, 99.5, 2, 13),
    (101, 5, 99.5, 2, 13),
    (101, 5, 99.5, 2, 7),
    (101, 5, 99, 7, 0),
    (0, 0, 99, 7, 0),
    (102, 3, 99, 7, 0),
]


def make_messages(rows: list[tuple[float, ...]]) -> pd.DataFrame:
    """Return messages of action, order, size, price and side as a table."""
    return pd.DataFrame(rows, columns=["action", "order_id", "size", "price", "side"])


def rebuild_slowly(rows: list[tuple[float, ...]], *, side: int) -> list[dict[float, int]]:
    """Return the size at every price of one side after each message; sizes are whole."""
    orders, result = dict[int, list[float]](), []
    for action, order, size, price, of in rows:
        if action == ADD:
            orders[int(order)] = [size, price, of]
        else:
            orders[int(order)][0] -= orders[int(order)][0] if action == DELETE else size
        sizes = dict[float, int]()
        for left, at, resting in orders.values():
            if resting == side and left:
                sizes[at] = sizes.get(at, 0) + int(left)
        result.append(sizes)
    return result


def draw_messages(count: int, *, seed: int) -> list[tuple[float, ...]]:
    """Return random messages that fit a book, with sizes in whole units."""
    rng, left, rows = np.random.default_rng(seed), dict[int, tuple[int, float, int]](), []
    for order in range(1, count + 1):
        if left and rng.random() < 0.5:
            chosen = int(rng.choice(list(left)))
            size, price, side = left.pop(chosen)
            taken = int(rng.integers(1, size + 1))
            action = DELETE if taken == size else int(rng.choice([CANCEL, EXECUTE]))
            if taken < size:
                left[chosen] = (size - taken, price, side)
            rows.append((action, chosen, taken, price, side))
        else:
            side = int(rng.choice([-1, 1]))
            left[order] = (int(rng.integers(1, 50)), 100.0 - side * int(rng.integers(1, 15)), side)
            rows.append((ADD, order, *left[order]))
    return rows


def test_levels_of_a_stream_are_those_worked_by_hand():
    levels = book.rebuild(make_messages(STREAM), levels=2).columns
    names = ["ask_price_1", "ask_size_1", "bid_price_1", "bid_size_1", "bid_size_2"]
    np.testing.assert_array_equal(np.stack([levels[name] for name in names], axis=1), BEST)
    assert list(levels) == book.name_levels(2)


@pytest.mark.parametrize("unit", [1.0, 0.001])
def test_levels_are_those_of_a_slow_book_to_the_bit(unit: float):
    rows = draw_messages(600, seed=3)
    scaled = [(action, order, round(size * unit, 3), price, side) for action, order, size, price, side in rows]
    levels = book.rebuild(make_messages(scaled), levels=5).columns
    for side, name, best_first in ((1, "bid", -1), (-1, "ask", 1)):
        for i, sizes in enumerate(rebuild_slowly(rows, side=side)):
            expected = [(at, round(sizes[at] * unit, 3)) for at in sorted(sizes, key=lambda at: best_first * at)][:5]
            found = [(levels[f"{name}_price_{k}"][i], levels[f"{name}_size_{k}"][i]) for k in range(1, 6)]
            assert found == expected + [(0.0, 0.0)] * (5 - len(expected))


def test_a_level_of_fractions_is_exactly_empty_when_all_is_taken():
    rows = [(ADD, i, 0.1, 9.9, 1) for i in range(3)]  # 0.1 + 0.1 + 0.1 - 0.3 is 5.6e-17 in float64
    levels = book.rebuild(make_messages([*rows, *((EXECUTE, i, 0.1, 9.9, 1) for i in range(3))])).columns
    np.testing.assert_array_equal(levels["bid_size_1"], [0.1, 0.2, 0.3, 0.2, 0.1, 0.0])
    assert levels["bid_price_1"][-1] == 0


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ((DELETE, 9, 1, 99.0, 1), "unknown_order"),
        ((EXECUTE, 4, 1, 99.5, 1), "finished_order"),
        ((ADD, 1, 1, 99.0, 1), "repeated_order"),
        ((EXECUTE, 1, 7, 99.0, 1), "excess_size"),
        ((DELETE, 1, 5, 99.0, 1), "unequal_delete"),
        ((CANCEL, 1, 5, 99.0, -1), "moved_order"),
    ],
)
def test_a_message_that_does_not_fit_is_counted_by_name(message: tuple[float, ...], fault: str):
    messages = make_messages([*STREAM, message])
    assert book.rebuild(messages).faults == dict.fromkeys(book.FAULTS, 0) | {fault: 1}


def test_a_message_on_an_unknown_order_leaves_the_book_as_it_is():
    counted = book.rebuild(make_messages([STREAM[0], (DELETE, 9, 3, 99.0, 1)])).columns
    np.testing.assert_array_equal(counted["bid_size_1"], [10, 10])


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ((8, 1, 1, 99.0, 1), "actions .8. are none"),
        ((ADD, 1, 1, 99.0, 0), "neither 1"),
        ((ADD, 1, -1, 99.0, 1), "size -1.0"),
        ((ADD, 1, float("nan"), 99.0, 1), "size nan"),
        ((ADD, 1, 1, 1 / 3, 1), "prices have more than"),
    ],
)
def test_a_malformed_message_is_refused(message: tuple[float, ...], error: str):
    with pytest.raises(ValueError, match=error):
        book.rebuild(make_messages([message]))


def test_no_messages_are_an_empty_book():
    assert all(len(column) == 0 for column in book.rebuild(make_messages([])).columns.values())


@needs_real_day
def test_sizes_are_those_of_a_real_day_once_a_level_was_seen_empty():
    """Orders older than the file, or outside of its ten levels, are not in it: only changes can be compared."""
    day, depth = pd.read_parquet(REAL_DAY).iloc[:12_000], 60
    names = {"type": "action", "direction": "side"}
    messages = day.rename(columns=names)[["action", "order_id", "size", "price", "side"]].astype(float)
    levels = book.rebuild(messages, levels=depth).columns
    compared = 0
    for name, side in (("bid", 1), ("ask", -1)):
        price, size = (day[[f"{name}_{what}_{i}" for i in range(1, 11)]].to_numpy() for what in ("price", "size"))
        own_price, own_size = (
            np.stack([levels[f"{name}_{what}_{i}"] for i in range(1, depth + 1)], axis=1) for what in ("price", "size")
        )
        for at in messages["price"][messages["side"] == side].value_counts().index[:20]:
            is_visible = (price.min(axis=1) <= at) & (at <= price.max(axis=1))
            is_listed = (price == at).any(axis=1)
            own = np.where(own_price == at, own_size, 0).sum(axis=1)
            stale = pd.Series(np.where(is_visible & ~is_listed, own, np.nan)).groupby(np.cumsum(~is_visible)).ffill()
            rows = np.flatnonzero(is_listed & stale.notna())
            assert np.array_equal((own - stale)[rows], np.where(price == at, size, 0).sum(axis=1)[rows])
            compared += len(rows)
    assert compared > 10_000
