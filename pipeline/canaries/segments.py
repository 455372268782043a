"""Canaries of rows: a hole or another symbol stands between bars that are taken for neighbours."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.canaries.canary import Canary, Outcome
from pipeline.canaries.ground import HORIZON_BARS, Ground
from pipeline.leakage.findings import Finding
from pipeline.leakage.segments import segments, windows
from pipeline.samples import contiguous, keyed


class Rows(NamedTuple):
    """The rows that have features and a label, each (n,), and the table of bars that they are said to come from."""

    bars: pd.DataFrame
    time: np.ndarray  # ms
    label_end: np.ndarray  # ms
    segment: np.ndarray  # of the table of bars
    run: np.ndarray  # rows of one run are taken for consecutive bars


Placing = Callable[[Ground], Rows]


def asked(place: Placing, *, ground: Ground) -> list[Finding]:
    """What the guards of segments say."""
    rows, bar_ms = place(ground), ground.bar_ms
    spans = {"time": rows.time, "label_end": rows.label_end, "segment": rows.segment}
    return [
        segments(**spans, bars=rows.bars, bar_ms=bar_ms, warm_up_bars=ground.warm_up_bars),
        windows(rows.time, rows.segment, rows.run, bar_ms=bar_ms),
    ]


def questioned(ground: Ground) -> Iterator[Outcome]:
    """What the guards say of every canary of this room."""
    for canary in CANARIES:
        leak, twin = (asked(side, ground=ground) for side in (canary.leak, canary.twin))
        yield canary.outcome(leak, twin)


def cut_at_holes(ground: Ground) -> Rows:
    """The rows as the pipeline places them."""
    samples, segment = ground.samples, ground.bars["segment"].to_numpy()[ground.rows]
    return Rows(ground.bars, samples.time, samples.label_end, segment, samples.segment)


def filled_over_hole(ground: Ground) -> Rows:
    """The rows of bars that were filled forward to a grid without holes, one segment a symbol."""
    honest = cut_at_holes(ground)
    symbol = ground.bars["symbol"].to_numpy()[ground.rows]
    first = ground.bars.groupby("symbol")["segment"].min()
    parts = []
    for name in dict.fromkeys(symbol):
        rows = symbol == name
        grid = np.arange(honest.time[rows].min(), honest.time[rows].max() + 1, ground.bar_ms)
        parts.append(pd.DataFrame({"segment": first[name], "time": grid}))
    table = pd.concat(parts, ignore_index=True)
    time, segment = table["time"].to_numpy(), table["segment"].to_numpy(np.int32)
    return Rows(ground.bars, time, time + HORIZON_BARS * ground.bar_ms, segment, contiguous(table))


def numbered_by_symbol(ground: Ground) -> Rows:
    """The rows, and the bars, with the symbol's number for a segment."""
    honest = cut_at_holes(ground)
    number = pd.factorize(ground.bars["symbol"])[0].astype(np.int32)
    return honest._replace(bars=ground.bars.assign(segment=number), segment=number[ground.rows])


def run_of_symbol(ground: Ground) -> Rows:
    """The rows, with windows cut anywhere within a symbol."""
    symbol = pd.factorize(ground.bars["symbol"].iloc[ground.rows])[0]
    return cut_at_holes(ground)._replace(run=symbol.astype(np.int32))


def run_until_gap(ground: Ground) -> Rows:
    """The rows, with windows cut anywhere until more than a bar passes: from one symbol to the next, time goes back."""
    honest = cut_at_holes(ground)
    gap = np.diff(honest.time, prepend=honest.time[0]) > ground.bar_ms
    return honest._replace(run=np.cumsum(gap).astype(np.int32))


def labels_over_hole(ground: Ground) -> Rows:
    """The rows that a label shifted over the whole symbol gives: the last of a segment end in the next one."""
    time, symbol = ground.bars["open_time"], ground.bars["symbol"]
    end = time.groupby(symbol).shift(-HORIZON_BARS)
    warm = ground.bars.groupby("segment").cumcount() >= ground.warm_up_bars
    rows = np.flatnonzero(end.notna() & warm)
    kept = keyed(ground.bars["segment"].to_numpy()[rows], time.to_numpy()[rows])
    label_end = end.to_numpy()[rows].astype(np.int64)
    return Rows(ground.bars, kept["time"].to_numpy(), label_end, kept["segment"].to_numpy(), contiguous(kept))


def without_warm_up(ground: Ground) -> Rows:
    """The rows that look-backs running on over the holes give: a segment has them from its first bar on."""
    left = ground.bars.groupby("segment").cumcount(ascending=False)
    rows = np.flatnonzero(left >= HORIZON_BARS)
    kept = keyed(ground.bars["segment"].to_numpy()[rows], ground.bars["open_time"].to_numpy()[rows])
    time, segment = kept["time"].to_numpy(), kept["segment"].to_numpy()
    return Rows(ground.bars, time, time + HORIZON_BARS * ground.bar_ms, segment, contiguous(kept))


def sorted_by_time(ground: Ground) -> Rows:
    """The rows in order of time alone, so that symbols alternate."""
    honest = cut_at_holes(ground)
    order = np.argsort(honest.time, kind="stable")
    return Rows(honest.bars, *(part[order] for part in honest[1:]))


def canary(name: str, leak: Placing, *, mistake: str, instead: str) -> Canary[Placing]:
    """A canary whose twin are the rows as the pipeline places them."""
    return Canary(name, "segments", leak, cut_at_holes, mistake, instead)


CANARIES = (
    canary(
        "bars_filled_over_hole",
        filled_over_hole,
        mistake="missing bars are filled forward, so that two segments become one",
        instead="a hole ends a segment",
    ),
    canary(
        "segments_numbered_by_symbol",
        numbered_by_symbol,
        mistake="a segment is a symbol, whatever is missing",
        instead="a hole ends a segment",
    ),
    canary(
        "windows_over_hole",
        run_of_symbol,
        mistake="windows are cut anywhere in a symbol, over its holes too",
        instead="within runs of consecutive bars",
    ),
    canary(
        "windows_over_two_symbols",
        run_until_gap,
        mistake="windows are cut until more than a bar passes: where the next symbol begins, time goes back",
        instead="until the segment changes",
    ),
    canary(
        "labels_over_hole",
        labels_over_hole,
        mistake="labels are shifted over the whole symbol, so that those before a hole end after it",
        instead="such rows have no label",
    ),
    canary(
        "look_back_over_hole",
        without_warm_up,
        mistake="rolling windows run on over a hole, so that a segment has features from its first bar on",
        instead="each segment warms up anew",
    ),
    canary(
        "symbols_woven_by_time",
        sorted_by_time,
        mistake="rows are sorted by time alone, so that symbols alternate and a window holds several",
        instead="they stand by segment",
    ),
)
