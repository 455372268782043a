"""Canaries of labels: what came true depends on more than it says, or is no news."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from pipeline import labels
from pipeline.canaries.canary import Canary, Outcome
from pipeline.canaries.ground import HORIZON_BARS, VOLATILITY_BARS, Ground
from pipeline.leakage.findings import Finding
from pipeline.leakage.labels import known_at, label_end

BARRIER_BARS, BARRIER = 20, 4.0  # the horizon of the barriers, and how many volatilities away they stand
CLASSES = 3
OUTLIER = 3.0  # standard deviations
FIXED = np.array([-0.4, 0.4])  # thresholds of the classes, in volatilities


class Labelled(NamedTuple):
    """The rows that have a label, and their labels."""

    positions: np.ndarray  # (n,) in the table of bars, ascending
    y: np.ndarray  # (n,) float32 or int32
    label_end_ms: np.ndarray  # (n,)
    move: np.ndarray  # (n,) what one unit held over the bar earns that a position is said to earn


Labelling = Callable[[pd.DataFrame], Labelled]


def asked(labelling: Labelling, *, ground: Ground) -> list[Finding]:
    """What the guards of labels say."""

    def relabel(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return labelling(bars)[:3]

    found = labelling(ground.bars)
    return [
        label_end(ground.bars, relabel, "label", cuts=ground.cuts, seed=ground.seed),
        known_at(ground.bars, found.positions, found.label_end_ms, found.move),
    ]


def questioned(ground: Ground) -> Iterator[Outcome]:
    """What the guards say of every canary of this room; a twin of several is asked once."""
    sides = dict.fromkeys(side for canary in CANARIES for side in (canary.leak, canary.twin))
    found = {side: asked(side, ground=ground) for side in sides}
    for canary in CANARIES:
        yield canary.outcome(found[canary.leak], found[canary.twin])


def forward_return(bars: pd.DataFrame) -> Labelled:
    """The return over the next HORIZON_BARS in units of its volatility, as the pipeline labels it."""
    table = labels.forward_return(bars, horizon=HORIZON_BARS, volatility_window=VOLATILITY_BARS).table
    return Labelled(*(table[name].to_numpy() for name in ("row", "y", "label_end", "move")))


def barrier(bars: pd.DataFrame, *, of_the_future: bool) -> Labelled:
    """Triple barriers whose distance is the volatility of the next or of the last VOLATILITY_BARS."""
    volatility = labels.bar_volatility(bars, window=VOLATILITY_BARS)
    if of_the_future:
        volatility = pd.Series(volatility).groupby(bars["segment"].to_numpy()).shift(-VOLATILITY_BARS).to_numpy()
    following = bars.groupby("segment").cumcount(ascending=False).to_numpy()
    rows = np.flatnonzero((following >= BARRIER_BARS) & (volatility > 0))
    high, low, close = (bars[name].to_numpy(np.float64) for name in ("high", "low", "close"))
    ahead = rows + 1
    rise = sliding_window_view(high, BARRIER_BARS)[ahead] / close[rows, None] - 1  # (n, BARRIER_BARS)
    fall = 1 - sliding_window_view(low, BARRIER_BARS)[ahead] / close[rows, None]
    distance = BARRIER * volatility[rows, None]
    touched = (rise >= distance) | (fall >= distance)
    first, ever = touched.argmax(axis=1), touched.any(axis=1)
    at = np.arange(len(rows)), first
    y = np.where(ever, np.where(fall[at] >= distance[:, 0], labels.DOWN, labels.UP), labels.FLAT)
    end = rows + 1 + np.where(ever, first, BARRIER_BARS - 1)
    move = close[ahead] / close[rows] - 1
    return Labelled(rows, y.astype(np.int32), bars["open_time"].to_numpy()[end], move)


def classes(bars: pd.DataFrame, *, fixed: bool) -> Labelled:
    """The forward return in classes, cut at fixed thresholds or at quantiles of all there is."""
    found = forward_return(bars)
    cuts = FIXED if fixed else np.quantile(found.y, np.arange(1, CLASSES) / CLASSES)
    return found._replace(y=np.digitize(found.y, cuts).astype(np.int32))


def standardised(bars: pd.DataFrame) -> Labelled:
    """The forward return in deviations of all forward returns."""
    found = forward_return(bars)
    return found._replace(y=(found.y - found.y.mean()) / found.y.std())


def without_outliers(bars: pd.DataFrame) -> Labelled:
    """The forward return without the rows whose label is an outlier among all labels."""
    found = forward_return(bars)
    kept = np.abs(found.y - found.y.mean()) <= OUTLIER * found.y.std()
    return Labelled(*(part[kept] for part in found))


def ending_at_once(bars: pd.DataFrame) -> Labelled:
    """The forward return, said to end with the next bar."""
    found = forward_return(bars)
    return found._replace(label_end_ms=bars["open_time"].to_numpy()[found.positions + 1])


def earning_own_bar(bars: pd.DataFrame, *, since: str) -> Labelled:
    """The forward return, with the move of the row's own bar: since the close before, or since its open."""
    found, close = forward_return(bars), bars["close"]
    start = bars["open"] if since == "open" else close.shift()
    return found._replace(move=(close / start - 1).to_numpy()[found.positions])


def own_direction(bars: pd.DataFrame, *, bars_ahead: int) -> Labelled:
    """Whether a bar rises: the row's own, or the next; the label ends with that bar."""
    found, close = forward_return(bars), bars["close"].to_numpy()
    end = found.positions + bars_ahead
    y = (close[end] > close[end - 1]).astype(np.int32)
    return found._replace(y=y, label_end_ms=bars["open_time"].to_numpy()[end])


CANARIES: tuple[Canary[Labelling], ...] = (
    Canary(
        "barrier_of_future_volatility",
        "label_end",
        partial(barrier, of_the_future=True),
        partial(barrier, of_the_future=False),
        "a triple barrier's distance is the volatility of the bars to come",
        "it is that of the bars gone by",
    ),
    Canary(
        "classes_cut_at_quantiles_of_file",
        "label_end",
        partial(classes, fixed=False),
        partial(classes, fixed=True),
        "labels are made classes by quantiles of the whole file",
        "by fixed thresholds",
    ),
    Canary(
        "labels_standardised_over_file",
        "label_end",
        standardised,
        forward_return,
        "labels are standardised by the mean and deviation of all labels",
        "each by the volatility known at its bar",
    ),
    Canary(
        "outlying_labels_dropped",
        "label_end",
        without_outliers,
        forward_return,
        "rows are dropped whose label is an outlier among all labels",
        "all are kept",
    ),
    Canary(
        "label_end_understated",
        "label_end",
        ending_at_once,
        forward_return,
        "a label over h bars is said to end after one",
        "it is said to end after h",
    ),
    Canary(
        "move_of_bar_just_seen",
        "known_at",
        partial(earning_own_bar, since="close"),
        forward_return,
        "a position earns the bar whose close its features have seen",
        "it earns the next one",
    ),
    Canary(
        "open_taken_for_known_at",
        "known_at",
        partial(earning_own_bar, since="open"),
        forward_return,
        "a bar's open time is taken for the time it is known, so that a position is entered at the bar's open",
        "at its close",
    ),
    Canary(
        "label_of_own_bar",
        "known_at",
        partial(own_direction, bars_ahead=0),
        partial(own_direction, bars_ahead=1),
        "the label says whether the row's own bar rose",
        "whether the next one does",
    ),
)
