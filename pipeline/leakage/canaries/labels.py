"""Canaries of labels: a label depends on more bars than it declares, or is already known at its row."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from pipeline import labels
from pipeline.leakage.canaries.canary import Canary
from pipeline.leakage.canaries.canary_market import HORIZON_BARS, VOLATILITY_BARS, CanaryMarket
from pipeline.leakage.findings import Finding
from pipeline.leakage.labels import label_end, label_timing
from pipeline.volatility import estimate_volatility

GUARDS = ("label_end", "label_timing")
BARRIER_BARS, BARRIER = 20, 4.0  # the horizon of the barriers, and their distance in volatilities
CLASSES = 3
OUTLIER = 3.0  # standard deviations
FIXED_THRESHOLDS = np.array([-0.4, 0.4])  # of the classes, in volatilities


class LabelTable(NamedTuple):
    """The rows that have a label, and their labels."""

    positions: np.ndarray  # (n,) in the table of bars, ascending
    y: np.ndarray  # (n,) float32 or int32
    label_end_ms: np.ndarray  # (n,)


Labeler = Callable[[pd.DataFrame], LabelTable]


def run_guards(label: Labeler, market: CanaryMarket) -> list[Finding]:
    """Return the findings about a way to label the bars."""

    def relabel(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return label(bars)

    table = label(market.bars)
    return [
        label_end(market.bars, relabel, "label", cuts=market.settings.cuts, seed=market.seed),
        label_timing(market.bars, table.positions, table.label_end_ms),
    ]


def label_forward_return(bars: pd.DataFrame) -> LabelTable:
    """Return the return over the next HORIZON_BARS in units of its volatility, as the pipeline labels it."""
    table = labels.forward_return(bars, horizon=HORIZON_BARS, volatility_window=VOLATILITY_BARS).table
    return LabelTable(*(table[name].to_numpy() for name in ("row", "y", "label_end")))


def label_triple_barrier(bars: pd.DataFrame, *, uses_future_volatility: bool) -> LabelTable:
    """Return triple-barrier labels; the distance is the volatility of the next or of the last VOLATILITY_BARS."""
    volatility = estimate_volatility(bars, window=VOLATILITY_BARS)
    if uses_future_volatility:
        volatility = pd.Series(volatility).groupby(bars["segment"].to_numpy()).shift(-VOLATILITY_BARS).to_numpy()
    following = bars.groupby("segment").cumcount(ascending=False).to_numpy()
    rows = np.flatnonzero((following >= BARRIER_BARS) & (volatility > 0))
    high, low, close = (bars[name].to_numpy(np.float64) for name in ("high", "low", "close"))
    ahead = rows + 1
    rise = sliding_window_view(high, BARRIER_BARS)[ahead] / close[rows, None] - 1  # (n, BARRIER_BARS)
    fall = 1 - sliding_window_view(low, BARRIER_BARS)[ahead] / close[rows, None]
    distance = BARRIER * volatility[rows, None]
    is_touch = (rise >= distance) | (fall >= distance)
    first, has_touch = is_touch.argmax(axis=1), is_touch.any(axis=1)
    at = np.arange(len(rows)), first
    y = np.where(has_touch, np.where(fall[at] >= distance[:, 0], labels.DOWN, labels.UP), labels.FLAT)
    end = rows + 1 + np.where(has_touch, first, BARRIER_BARS - 1)
    return LabelTable(rows, y.astype(np.int32), bars["open_time"].to_numpy()[end])


def label_classes(bars: pd.DataFrame, *, has_fixed_thresholds: bool) -> LabelTable:
    """Return the class of the forward return, between fixed thresholds or between quantiles of all labels."""
    table = label_forward_return(bars)
    quantiles = np.arange(1, CLASSES) / CLASSES
    thresholds = FIXED_THRESHOLDS if has_fixed_thresholds else np.quantile(table.y, quantiles)
    return table._replace(y=np.digitize(table.y, thresholds).astype(np.int32))


def standardize_labels(bars: pd.DataFrame) -> LabelTable:
    """Return the forward return, standardized by the mean and deviation of all labels."""
    table = label_forward_return(bars)
    return table._replace(y=(table.y - table.y.mean()) / table.y.std())


def drop_outliers(bars: pd.DataFrame) -> LabelTable:
    """Return the forward return without the rows whose label is an outlier among all labels."""
    table = label_forward_return(bars)
    is_inlier = np.abs(table.y - table.y.mean()) <= OUTLIER * table.y.std()
    return LabelTable(*(part[is_inlier] for part in table))


def understate_label_end(bars: pd.DataFrame) -> LabelTable:
    """Return the forward return, declared to end with the next bar."""
    table = label_forward_return(bars)
    return table._replace(label_end_ms=bars["open_time"].to_numpy()[table.positions + 1])


def label_direction(bars: pd.DataFrame, *, bars_ahead: int) -> LabelTable:
    """Return whether a bar rises, the row's own or the next; the label ends with that bar."""
    table, close = label_forward_return(bars), bars["close"].to_numpy()
    end = table.positions + bars_ahead
    y = (close[end] > close[end - 1]).astype(np.int32)
    return table._replace(y=y, label_end_ms=bars["open_time"].to_numpy()[end])


CANARIES: tuple[Canary[Labeler], ...] = (
    Canary(
        "barrier_of_future_volatility",
        "label_end",
        partial(label_triple_barrier, uses_future_volatility=True),
        partial(label_triple_barrier, uses_future_volatility=False),
        "a triple barrier's distance is the volatility of future bars",
        "it is that of past bars",
    ),
    Canary(
        "classes_cut_at_quantiles_of_file",
        "label_end",
        partial(label_classes, has_fixed_thresholds=False),
        partial(label_classes, has_fixed_thresholds=True),
        "labels are divided into classes at quantiles of the whole file",
        "they are divided at fixed thresholds",
    ),
    Canary(
        "labels_standardized_over_file",
        "label_end",
        standardize_labels,
        label_forward_return,
        "labels are standardized by the mean and deviation of all labels",
        "each is scaled by the volatility known at its bar",
    ),
    Canary(
        "outlying_labels_dropped",
        "label_end",
        drop_outliers,
        label_forward_return,
        "rows are dropped whose label is an outlier among all labels",
        "no row is dropped for its label",
    ),
    Canary(
        "label_end_understated",
        "label_end",
        understate_label_end,
        label_forward_return,
        "a label over h bars is declared to end after one",
        "it is declared to end after h",
    ),
    Canary(
        "label_of_own_bar",
        "label_timing",
        partial(label_direction, bars_ahead=0),
        partial(label_direction, bars_ahead=1),
        "the label is whether the row's own bar rose",
        "it is whether the next bar rises",
    ),
)
