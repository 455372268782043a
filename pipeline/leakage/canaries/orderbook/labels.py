"""Canaries of labels of an order book, of their folds, and of the windows of its rows."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.leakage.canaries.canary import Canary
from pipeline.leakage.canaries.orderbook.market import ALPHA, HORIZON, WINDOW, BookMarket
from pipeline.leakage.findings import Finding
from pipeline.leakage.folds import label_overlap
from pipeline.leakage.labels import label_end, label_timing
from pipeline.leakage.segments import check_window_runs, segments
from pipeline.orderbook.labels import DOWN, FLAT, UP, smoothed
from pipeline.samples import number_runs
from pipeline.validation.folds import Folds, cpcv

GUARDS = ("label_end", "label_timing")
FOLD_GUARDS = ("label_overlap",)
ROW_GUARDS = ("segments",)
ALPHA_SHARE = 1 / 3  # of rows that are flat where α is a quantile
GROUPS, TEST_GROUPS, EMBARGO_PCT, HOLDOUT_PCT = 4, 1, 0.001, 0.1


class LabelTable(NamedTuple):
    """The rows that have a label, and their labels."""

    positions: np.ndarray  # (n,) in the table of events, ascending
    y: np.ndarray  # (n,) int32
    label_end: np.ndarray  # (n,) event


Labeler = Callable[[pd.DataFrame], LabelTable]
FoldMaker = Callable[[BookMarket], Folds]
RunMaker = Callable[[BookMarket], np.ndarray]  # (N,) number of the run of each event


def run_guards(label: Labeler, market: BookMarket) -> list[Finding]:
    """Return the findings about a way to label the events."""
    table = label(market.events)
    return [
        label_end(market.events, label, "label", cuts=market.settings.cuts, seed=market.seed),
        label_timing(market.events, table.positions, table.label_end),
    ]


def run_fold_guards(make_folds: FoldMaker, market: BookMarket) -> list[Finding]:
    """Return the finding about the spans of train and test rows."""
    return [label_overlap(make_folds(market))]


def run_row_guards(make_runs: RunMaker, market: BookMarket) -> list[Finding]:
    """Return the findings about runs of events from which windows and labels are taken."""
    events, run = market.events, make_runs(market)
    time, segment = (events[name].to_numpy() for name in ("open_time", "segment"))
    row = np.arange(len(events))
    ends = np.minimum(row + HORIZON, len(row) - 1)
    labeled = run[ends] == run
    labeled[-HORIZON:] = False
    spans = {"time": time[labeled], "label_end": time[ends[labeled]], "segment": segment[labeled]}
    return [
        segments(**spans, bars=events[["segment", "open_time"]], bar_ms=None, warm_up_bars=0),
        check_window_runs(row, segment, run, bar_ms=1),
    ]


def label_smoothed(events: pd.DataFrame, *, uses_all_rows: bool = False, early: int = 0) -> LabelTable:
    """Return the classes of smoothed moves, whose label ends `early` events before their window does.

    α is a number of half spreads at the row, or a quantile of the sizes of the moves of all rows.
    """
    known = np.full(len(events), np.nan)
    for rows in events.groupby("segment").indices.values():
        if len(rows) > HORIZON + WINDOW:
            known[rows] = smoothed(events["close"].to_numpy(np.float64)[rows], window=WINDOW, horizon=HORIZON)[0]
    positions = np.flatnonzero(np.isfinite(known))
    move = known[positions]
    half_spread = events["half_spread"].to_numpy(np.float64)[positions]
    alpha = np.full(len(move), np.quantile(np.abs(move), ALPHA_SHARE)) if uses_all_rows else ALPHA * half_spread
    y = np.select([move > alpha, move < -alpha], [UP, DOWN], FLAT).astype(np.int32)
    return LabelTable(positions, y, events["open_time"].to_numpy()[positions + HORIZON - early])


def make_folds(market: BookMarket, *, early: int) -> Folds:
    """Return folds that are purged by labels which end `early` events before their window; spans are the true ones."""
    true = label_smoothed(market.events)
    declared = label_smoothed(market.events, early=early)
    time = market.events["open_time"].to_numpy()[true.positions]
    folds = cpcv(
        time,
        declared.label_end,
        groups=GROUPS,
        test_groups=TEST_GROUPS,
        embargo_pct=EMBARGO_PCT,
        holdout_pct=HOLDOUT_PCT,
    )
    return folds if not early else replace(folds, label_end=true.label_end)


def number_by_segment(market: BookMarket) -> np.ndarray:
    """Return (N,) runs that end where a segment does."""
    return number_runs(market.events["segment"].to_numpy(), np.arange(len(market.events)))


def number_by_symbol(market: BookMarket) -> np.ndarray:
    """Return (N,) one run for each symbol, over the borders of its days."""
    return pd.factorize(market.events["symbol"])[0].astype(np.int32)


CANARIES: tuple[Canary[Labeler], ...] = (
    Canary(
        "book_alpha_of_all_rows",
        "label_end",
        partial(label_smoothed, uses_all_rows=True),
        label_smoothed,
        mistake="α of the smoothed label is a quantile of the moves of all rows",
        correction="α is a number of half spreads at the row",
    ),
    Canary(
        "book_label_ends_before_window",
        "label_end",
        partial(label_smoothed, early=WINDOW - 1),
        label_smoothed,
        mistake="a smoothed label is declared to end with the first mid of its later window",
        correction="it ends with the last",
    ),
)
FOLD_CANARIES: tuple[Canary[FoldMaker], ...] = (
    Canary(
        "book_label_window_over_split",
        "label_overlap",
        partial(make_folds, early=WINDOW - 1),
        partial(make_folds, early=0),
        mistake="train rows are purged as if their labels ended before their smoothing window does",
        correction="they are purged by the end of the window",
    ),
)
ROW_CANARIES: tuple[Canary[RunMaker], ...] = (
    Canary(
        "book_windows_over_day_border",
        "segments",
        number_by_symbol,
        number_by_segment,
        mistake="windows and labels are taken anywhere in a symbol, over the borders of its days",
        correction="they are taken within a segment",
    ),
)
