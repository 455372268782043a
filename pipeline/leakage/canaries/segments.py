"""Canaries of rows: bars on both sides of a gap, or of two symbols, are taken for consecutive ones."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.leakage.canaries.canary import Canary
from pipeline.leakage.canaries.canary_market import HORIZON_BARS, CanaryMarket
from pipeline.leakage.findings import Finding
from pipeline.leakage.segments import check_window_runs, segments
from pipeline.samples import number_runs

GUARDS = ("segments",)


class RowTable(NamedTuple):
    """The rows that have features and a label, each field (n,), and the bars that they are declared to come from."""

    bars: pd.DataFrame
    time: np.ndarray  # ms
    label_end: np.ndarray  # ms
    segment: np.ndarray  # of the table of bars
    run: np.ndarray  # rows of one run are taken for consecutive bars


RowMaker = Callable[[CanaryMarket], RowTable]


def run_guards(make_rows: RowMaker, market: CanaryMarket) -> list[Finding]:
    """Return the findings about a table of rows."""
    rows, bar_ms = make_rows(market), market.bar_ms
    spans = {"time": rows.time, "label_end": rows.label_end, "segment": rows.segment}
    return [
        segments(**spans, bars=rows.bars, bar_ms=bar_ms, warm_up_bars=market.warm_up_bars),
        check_window_runs(rows.time, rows.segment, rows.run, bar_ms=bar_ms),
    ]


def split_at_gaps(market: CanaryMarket) -> RowTable:
    """Return the rows as the pipeline makes them."""
    samples, segment = market.samples, market.bars["segment"].to_numpy()[market.rows]
    return RowTable(market.bars, samples.time, samples.label_end, segment, samples.segment)


def fill_gaps(market: CanaryMarket) -> RowTable:
    """Return the rows of bars that are filled forward to a grid without gaps, one segment per symbol."""
    clean = split_at_gaps(market)
    symbol = market.bars["symbol"].to_numpy()[market.rows]
    first = market.bars.groupby("symbol")["segment"].min()
    parts = []
    for name in dict.fromkeys(symbol):
        rows = symbol == name
        grid = np.arange(clean.time[rows].min(), clean.time[rows].max() + 1, market.bar_ms)
        parts.append(pd.DataFrame({"segment": first[name], "time": grid}))
    table = pd.concat(parts, ignore_index=True)
    time, segment = table["time"].to_numpy(), table["segment"].to_numpy(np.int32)
    run = number_runs(segment, np.arange(len(table)))
    return RowTable(market.bars, time, time + HORIZON_BARS * market.bar_ms, segment, run)


def number_segments_by_symbol(market: CanaryMarket) -> RowTable:
    """Return the rows, and the bars, with the symbol's number as segment."""
    number = pd.factorize(market.bars["symbol"])[0].astype(np.int32)
    return split_at_gaps(market)._replace(bars=market.bars.assign(segment=number), segment=number[market.rows])


def number_runs_by_symbol(market: CanaryMarket) -> RowTable:
    """Return the rows, with one run per symbol."""
    symbol = pd.factorize(market.bars["symbol"].iloc[market.rows])[0]
    return split_at_gaps(market)._replace(run=symbol.astype(np.int32))


def number_runs_by_time(market: CanaryMarket) -> RowTable:
    """Return the rows, with a new run where time advances by more than a bar: not at a new symbol, where it falls."""
    clean = split_at_gaps(market)
    is_gap = np.diff(clean.time, prepend=clean.time[0]) > market.bar_ms
    return clean._replace(run=np.cumsum(is_gap).astype(np.int32))


def shift_labels_over_gaps(market: CanaryMarket) -> RowTable:
    """Return the rows of labels shifted by symbol: the last labels of a segment end in the next one."""
    time, symbol = market.bars["open_time"], market.bars["symbol"]
    end = time.groupby(symbol).shift(-HORIZON_BARS)
    is_warm = market.bars.groupby("segment").cumcount() >= market.warm_up_bars
    rows = np.flatnonzero(end.notna() & is_warm)
    segment, label_end = market.bars["segment"].to_numpy()[rows], end.to_numpy()[rows].astype(np.int64)
    return RowTable(market.bars, time.to_numpy()[rows], label_end, segment, number_runs(segment, rows))


def skip_warm_up(market: CanaryMarket) -> RowTable:
    """Return the rows of look-backs that continue over gaps: a segment has features from its first bar on."""
    left = market.bars.groupby("segment").cumcount(ascending=False)
    rows = np.flatnonzero(left >= HORIZON_BARS)
    time, segment = (market.bars[name].to_numpy()[rows] for name in ("open_time", "segment"))
    label_end = time + HORIZON_BARS * market.bar_ms
    return RowTable(market.bars, time, label_end, segment, number_runs(segment, rows))


def sort_by_time(market: CanaryMarket) -> RowTable:
    """Return the rows sorted by time alone, so that symbols alternate."""
    clean = split_at_gaps(market)
    order = np.argsort(clean.time, kind="stable")
    return RowTable(clean.bars, *(part[order] for part in clean[1:]))


def make_canary(name: str, leak: RowMaker, *, mistake: str, correction: str) -> Canary[RowMaker]:
    """Return a canary whose clean counterpart are the rows as the pipeline makes them."""
    return Canary(name, "segments", leak, split_at_gaps, mistake, correction)


CANARIES = (
    make_canary(
        "bars_filled_over_gap",
        fill_gaps,
        mistake="missing bars are filled forward, so that two segments become one",
        correction="a gap ends a segment",
    ),
    make_canary(
        "segments_numbered_by_symbol",
        number_segments_by_symbol,
        mistake="a segment is a symbol, with its gaps",
        correction="a gap ends a segment",
    ),
    make_canary(
        "windows_over_gap",
        number_runs_by_symbol,
        mistake="windows are taken anywhere in a symbol, also across its gaps",
        correction="they are taken within runs of consecutive bars",
    ),
    make_canary(
        "windows_over_two_symbols",
        number_runs_by_time,
        mistake="windows end only where time advances by more than a bar, so they cross into the next symbol",
        correction="they end where the segment changes",
    ),
    make_canary(
        "labels_over_gap",
        shift_labels_over_gaps,
        mistake="labels are shifted by symbol, so that those before a gap end after it",
        correction="such rows have no label",
    ),
    make_canary(
        "look_back_over_gap",
        skip_warm_up,
        mistake="rolling windows continue over a gap, so that a segment has features from its first bar on",
        correction="each segment warms up anew",
    ),
    make_canary(
        "symbols_woven_by_time",
        sort_by_time,
        mistake="rows are sorted by time alone, so that symbols alternate and a window holds several",
        correction="rows are sorted by segment",
    ),
)
