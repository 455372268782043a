"""Checks of a raw table of an order book: what makes its state wrong is refused, all else is counted."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.orderbook.columns import BOOK
from pipeline.orderbook.raw_table import (
    ACTIONS,
    ADD,
    ASK,
    BID,
    CANCEL,
    COLUMNS,
    DELETE,
    EXECUTE,
    EXECUTE_HIDDEN,
    HALT,
    MESSAGE,
    SIDES,
    name_levels,
)

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

DUMMY_PRICE = 999_999.9999  # LOBSTER's price of an empty level
OF_ORDERS = (CANCEL, DELETE, EXECUTE)  # actions on an order that was added before
REMEDY = "correct the source, or leave out the day"


class BestQuotes(NamedTuple):
    """The best level of both sides, each (N,); price and size are 0 where a side is empty."""

    ask: Floats
    bid: Floats
    ask_size: Floats
    bid_size: Floats

    @property
    def is_valid(self) -> Mask:
        """(N,) whether both sides are there, the bid below the ask."""
        return np.asarray((self.bid > 0) & (self.ask > 0) & (self.bid < self.ask))


def take_best(table: pd.DataFrame) -> BestQuotes:
    """Return the best level of both sides of every row."""
    names = ("ask_price_1", "bid_price_1", "ask_size_1", "bid_size_1")
    return BestQuotes(*(table[name].to_numpy(np.float64) for name in names))


def check_raw(table: pd.DataFrame) -> None:
    """Raise ValueError where the state of the book cannot be right: names row, column, value and what to do."""
    if missing := [name for name in COLUMNS if name not in table.columns]:
        raise ValueError(f"orderbook: the raw table lacks {', '.join(missing)}; a source returns {', '.join(COLUMNS)}")
    if not len(table):
        raise ValueError("orderbook: no events; give a source with at least one")
    _check_numbers(table)
    _check_order(table)
    _check_messages(table)
    for side in SIDES:
        _check_levels(table, side=side)


def _check_numbers(table: pd.DataFrame) -> None:
    """Raise ValueError where a size or a level is not finite, negative, or LOBSTER's price of an empty level."""
    for name in ("size", *BOOK):
        values = table[name].to_numpy(np.float64)
        refuse(~(np.isfinite(values) & (values >= 0)), table, name, what="it must be finite and at least 0")
    for name in (*name_levels("ask", "price"), *name_levels("bid", "price")):
        is_dummy = table[name].to_numpy() == DUMMY_PRICE
        refuse(is_dummy, table, name, what="which stands for an empty level; store price 0 and size 0 there")


def _check_order(table: pd.DataFrame) -> None:
    """Raise ValueError where rows are not in the order of symbol and event, or times of a symbol descend."""
    symbol, event = pd.factorize(table["symbol"])[0], table["event"].to_numpy()
    is_same = np.append(False, np.diff(symbol) == 0)
    refuse(
        ~is_same & _is_repeat(symbol), table, "symbol", what="which has rows above as well; sort by symbol and event"
    )
    refuse(is_same & (np.diff(event, prepend=event[:1]) <= 0), table, "event", what="it must be above that before")
    unique = np.sort(event)
    is_double = np.isin(event, unique[1:][np.diff(unique) == 0])
    refuse(is_double, table, "event", what="which two rows have; number the events of all symbols in time order")
    time = table["time_ns"].to_numpy()
    refuse(is_same & (np.diff(time, prepend=time[:1]) < 0), table, "time_ns", what="it is earlier than that before")


def _is_repeat(symbol: npt.NDArray[np.int64]) -> Mask:
    """Return (N,) whether a code is below the largest one so far: it was there before."""
    return np.asarray(symbol < np.maximum.accumulate(symbol))


def _check_messages(table: pd.DataFrame) -> None:
    """Raise ValueError where an event has an unknown action, or a message on an order has no side, size or price."""
    action, side = table["action"].to_numpy(), table["side"].to_numpy()
    refuse(~np.isin(action, list(ACTIONS)), table, "action", what=f"it must be one of {', '.join(map(str, ACTIONS))}")
    is_order = np.isin(action, (ADD, *OF_ORDERS))
    has_side = is_order | (action == EXECUTE_HIDDEN)
    refuse(has_side & ~np.isin(side, (BID, ASK)), table, "side", what="it must be 1 for a bid or -1 for an ask")
    for name in ("size", "price"):
        refuse(
            is_order & ~(table[name].to_numpy() > 0), table, name, what="it must be above 0 for a message on an order"
        )
    is_dummy = is_order & (table["price"].to_numpy() == DUMMY_PRICE)
    refuse(is_dummy, table, "price", what="which stands for an empty level; an order has a price of its own")


def _check_levels(table: pd.DataFrame, *, side: str) -> None:
    """Raise ValueError where a level has a price or a size alone, or a level is no worse than the one before."""
    sign = 1.0 if side == "ask" else -1.0
    before = None
    for price_name, size_name in zip(name_levels(side, "price"), name_levels(side, "size"), strict=True):
        price, size = table[price_name].to_numpy(), table[size_name].to_numpy()
        refuse((price > 0) != (size > 0), table, size_name, what="a level has both price and size, or is empty with 0")
        if before is not None:
            is_wrong = (price > 0) & ((before == 0) | (sign * (price - before) <= 0))
            refuse(is_wrong, table, price_name, what="levels must be strictly monotone, the best one first")
        before = price


def refuse(is_wrong: Mask, table: pd.DataFrame, name: str, *, what: str) -> None:
    """Raise ValueError where a row is wrong; names the first one, and how many there are."""
    if not is_wrong.any():
        return
    row = int(np.argmax(is_wrong))
    at = table.iloc[row]
    raise ValueError(
        f"orderbook: {name} is {at[name]} at event {at['event']} of {at['symbol']} on {at['day']} (row {row}, the "
        f"first of {int(is_wrong.sum()):,}); {what}: {REMEDY}"
    )


def count_events(table: pd.DataFrame, segment: npt.NDArray[np.integer[Any]]) -> dict[str, Any]:
    """Return the counts of what a checked table contains; `segment` numbers the runs of events that belong together.

    - actions: events by action
    - book: rows whose book is crossed, locked, or has a side without a level
    - executions: visible ones at the best level of their side, those whose size the level lost, and the others
    - orders: messages on orders that were not added in the segment (their past is unknown: censored), by action, and
      orders whose id was added before
    - clock: events at the ns of the one before, and the shortest and the longest time between two
    """
    action = table["action"].to_numpy()
    best = take_best(table)
    is_same = np.append(False, np.diff(segment) == 0)[: len(table)]
    gaps = np.diff(table["time_ns"].to_numpy())[is_same[1:]]
    return {
        "actions": {name: int(np.count_nonzero(action == code)) for code, name in ACTIONS.items()},
        "book": {
            "crossed": int(np.count_nonzero((best.bid > best.ask) & (best.ask > 0))),
            "locked": int(np.count_nonzero((best.bid == best.ask) & (best.ask > 0))),
            "one_sided": int(np.count_nonzero((best.bid > 0) != (best.ask > 0))),
            "empty": int(np.count_nonzero((best.bid == 0) & (best.ask == 0))),
        },
        "executions": _count_executions(table, best, is_same=is_same),
        "orders": _count_orders(table[list(MESSAGE)], segment),
        "clock": {
            "same_ns": int(np.count_nonzero(gaps == 0)),
            "longest_gap_s": float(gaps.max() / 1e9) if len(gaps) else None,
        },
    }


def _count_executions(table: pd.DataFrame, best: BestQuotes, *, is_same: Mask) -> dict[str, int]:
    """Return how many visible executions take the best level of before, and whether it lost their size."""
    rows = np.flatnonzero((table["action"].to_numpy() == EXECUTE) & is_same)
    price, size, side = (table[name].to_numpy()[rows] for name in ("price", "size", "side"))
    is_bid = side == BID
    best_before, size_before, best_after, size_after = (
        np.where(is_bid, bid[at], ask[at])
        for bid, ask, at in (
            (best.bid, best.ask, rows - 1),
            (best.bid_size, best.ask_size, rows - 1),
            (best.bid, best.ask, rows),
            (best.bid_size, best.ask_size, rows),
        )
    )
    at_best = price == best_before
    expected = size_before - size
    is_gone = np.abs(expected) <= 1e-9 * size_before
    is_left = (best_after == best_before) & (np.abs(size_after - expected) <= 1e-9 * size_before)
    fits = at_best & np.where(is_gone, best_after != best_before, is_left)
    first = int(np.count_nonzero(table["action"].to_numpy() == EXECUTE)) - len(rows)
    return {
        "at_best": int(at_best.sum()),
        "size_fits": int(fits.sum()),
        "size_differs": int((at_best & ~fits).sum()),
        "beside_best": int((~at_best).sum()),
        "without_book_before": first,
    }


def _count_orders(messages: pd.DataFrame, segment: npt.NDArray[np.integer[Any]]) -> dict[str, Any]:
    """Return the messages on orders that were not added before in their segment, by action, and repeated ids."""
    action, order = messages["action"].to_numpy(), messages["order_id"].to_numpy()
    unknown = dict.fromkeys((ACTIONS[code] for code in OF_ORDERS), 0)
    repeated = 0
    for start, stop in _split(segment):
        codes, ids = action[start:stop], order[start:stop]
        is_add = codes == ADD
        added, first = np.unique(ids[is_add], return_index=True)
        repeated += int(is_add.sum()) - len(added)
        first_row = np.flatnonzero(is_add)[first]
        place = np.minimum(np.searchsorted(added, ids), max(len(added) - 1, 0))
        row = np.arange(stop - start)
        is_known = (added[place] == ids) & (first_row[place] < row) if len(added) else np.zeros(len(ids), bool)
        for code in OF_ORDERS:
            unknown[ACTIONS[code]] += int(np.count_nonzero((codes == code) & ~is_known))
    return {"not_added": unknown, "repeated_ids": repeated}


def _split(segment: npt.NDArray[np.integer[Any]]) -> Iterator[tuple[int, int]]:
    """Yield the first row of each segment, and the one after its last."""
    starts = np.flatnonzero(np.append(True, np.diff(segment) != 0)) if len(segment) else np.empty(0, np.int64)
    yield from zip(starts.tolist(), [*starts[1:].tolist(), len(segment)], strict=True)


def find_halted(action: npt.NDArray[np.int8], price: Floats, starts: Mask) -> Mask:
    """Return (N,) whether trading is halted at an event: from a HALT until trading resumes, or a visible execution.

    `starts` are the first events of a symbol's days, at which no market is halted.
    """
    resumes = (action == EXECUTE) | ((action == HALT) & (price > 0)) | starts
    marks = np.where((action == HALT) & (price <= 0), 1, np.where(resumes, 0, -1))
    latest = np.maximum.accumulate(np.where(marks >= 0, np.arange(len(marks)), 0))
    return np.asarray(marks[latest] == 1)
