"""Canaries of columns of an order book, and of its gates: what is known only later stands in a row."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd

from pipeline.leakage.canaries.canary import Canary
from pipeline.leakage.canaries.columns import make_column_table, select_truncation
from pipeline.leakage.canaries.orderbook.market import GATED_EVENTS, BookMarket, take_first
from pipeline.leakage.features import Part, truncation
from pipeline.leakage.findings import Finding
from pipeline.orderbook.raw_table import DELETE, EXECUTE

GUARDS = ("truncation",)
BUCKET_NS = 60 * 10**9

Formula = Callable[[pd.DataFrame], pd.Series]  # events -> (N,), not finite where undefined
Stored = Callable[[BookMarket, pd.DataFrame], Part]  # of the market and some of its events: rows and float32 features


def run_guards(formulas: Mapping[str, Formula], market: BookMarket) -> dict[str, list[Finding]]:
    """Return the finding about each column, computed from all events and from those before a cut."""
    names = list(formulas)

    def recompute(events: pd.DataFrame) -> list[Part]:
        columns = [formulas[name](events).to_numpy(np.float64) for name in names]
        return [(np.arange(len(events)), make_column_table([np.nan_to_num(column) for column in columns]))]

    settings, stored = market.settings, recompute(market.events)[0]
    found = truncation(market.events, recompute, stored, names, cuts=settings.cuts, seed=market.seed)
    return {name: [select_truncation(found, name)] for name in names}


def run_gate_guards(store: Stored, market: BookMarket) -> list[Finding]:
    """Return the finding about stored rows of the dataset's own columns, computed again from the events."""
    events = take_first(market.events, count=GATED_EVENTS)

    def recompute(part: pd.DataFrame) -> list[Part]:
        return [(features.rows, features.x) for features in market.compute_parts(part)]

    rows, x = store(market, events)
    names = next(iter(market.compute_parts(events))).columns
    return [truncation(events, recompute, (rows, x), names, cuts=market.settings.cuts, seed=market.seed)]


def store_passing(market: BookMarket, events: pd.DataFrame) -> Part:
    """Return the rows that pass the gates, and their features."""
    parts = list(market.compute_parts(events))
    return np.concatenate([part.rows for part in parts]), np.concatenate([part.x for part in parts])


def store_all(market: BookMarket, events: pd.DataFrame) -> Part:
    """Return every row; one that does not pass the gates has the features of the last that did."""
    rows, x = store_passing(market, events)
    return np.arange(len(events)), x[np.maximum(np.searchsorted(rows, np.arange(len(events)), side="right") - 1, 0)]


def standardize(events: pd.DataFrame, *, uses_whole_day: bool) -> pd.Series:
    """Return the z-score of the best bid size, by moments of its segment, or of the segment so far."""
    sizes = events["bid_size_1"].groupby(events["segment"])
    if uses_whole_day:
        return (events["bid_size_1"] - sizes.transform("mean")) / sizes.transform("std")
    count = sizes.cumcount() + 1
    mean = sizes.cumsum() / count
    square = (events["bid_size_1"] ** 2).groupby(events["segment"]).cumsum() / count
    deviation = ((square - mean**2).clip(lower=0) + 1.0) ** 0.5
    scaled: pd.Series = (events["bid_size_1"] - mean) / deviation
    return scaled


def measure_lifetime(events: pd.DataFrame, *, uses_end: bool) -> pd.Series:
    """Return how many events the order of an event is in the book: until its last event, or until now."""
    place = pd.Series(np.arange(len(events)), index=events.index)
    orders = place.groupby([events["segment"], events["order_id"]])
    return orders.transform("last") - orders.transform("first") if uses_end else place - orders.transform("first")


def find_queue_position(events: pd.DataFrame, *, uses_future: bool) -> pd.Series:
    """Return how many orders of its level leave before the order of an event, or how many have left so far."""
    level = [events["segment"], events["side"], events["price"]]
    has_left = events["action"].isin([DELETE, EXECUTE]).astype(np.float64)
    left = has_left.groupby(level).cumsum()
    if not uses_future:
        return left
    order = [events["segment"], events["order_id"]]
    return left.groupby(order).transform("last") - left


def find_trade_side(events: pd.DataFrame, *, uses_next: bool) -> pd.Series:
    """Return the side of the next execution, or of the last one."""
    sides = events["side"].where(events["action"] == EXECUTE).groupby(events["segment"])
    return sides.bfill() if uses_next else sides.ffill()


def fill_mid(events: pd.DataFrame, *, uses_whole_bucket: bool) -> pd.Series:
    """Return the mid on a grid of minutes: the last one of the own minute of an event, or that of the minute before."""
    mids, bucket = events["close"], events["time_ns"] // BUCKET_NS
    if uses_whole_bucket:
        return mids.groupby([events["segment"], bucket]).transform("last")
    is_first = bucket.ne(bucket.groupby(events["segment"]).shift())
    before = mids.groupby(events["segment"]).shift().where(is_first)
    return before.groupby(events["segment"]).ffill()


CANARIES: tuple[Canary[Formula], ...] = (
    Canary(
        "book_z_score_of_whole_day",
        "truncation",
        partial(standardize, uses_whole_day=True),
        partial(standardize, uses_whole_day=False),
        mistake="a size is standardized by the mean and deviation of its whole day",
        correction="it is standardized by those of the day so far",
    ),
    Canary(
        "book_order_lifetime",
        "truncation",
        partial(measure_lifetime, uses_end=True),
        partial(measure_lifetime, uses_end=False),
        mistake="the lifetime of an order, known at its end, stands in all of its events",
        correction="its age until now stands there",
    ),
    Canary(
        "book_future_queue_position",
        "truncation",
        partial(find_queue_position, uses_future=True),
        partial(find_queue_position, uses_future=False),
        mistake="a column counts the orders that will leave the level before the order of the event",
        correction="it counts those that have left",
    ),
    Canary(
        "book_next_trade_side",
        "truncation",
        partial(find_trade_side, uses_next=True),
        partial(find_trade_side, uses_next=False),
        mistake="the side of a trade is filled backward, to the events before it",
        correction="it is filled forward",
    ),
    Canary(
        "book_mid_of_whole_minute",
        "truncation",
        partial(fill_mid, uses_whole_bucket=True),
        partial(fill_mid, uses_whole_bucket=False),
        mistake="the last mid of a minute stands at all events of that minute",
        correction="the last mid of the minute before stands there",
    ),
)
GATE_CANARIES: tuple[Canary[Stored], ...] = (
    Canary(
        "book_gates_ignored",
        "truncation",
        store_all,
        store_passing,
        mistake="rows with an invalid book, or before enough changes of it, are stored",
        correction="rows that do not pass the gates are left out",
    ),
)
