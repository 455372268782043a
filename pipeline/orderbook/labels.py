"""Labels of an order book by event: smoothed moves, barriers, opportunities, large moves and returns of the mid.

A label of row t is about the mid, `close`, after event t, within the row's segment. It ends at the event `label_end`,
the end of the smoothing window or the touch of a barrier; then it is known. A row whose book has an empty side, or a
bid that is not below the ask, has no label. Where the book is so after t, the latest valid mid stands.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from pydantic import PositiveFloat

from pipeline import labels, target_kinds
from pipeline.labels import Horizon
from pipeline.orderbook.label_windows import (
    Alpha,
    Conflict,
    Sizes,
    Unit,
    Window,
    compare_excursions,
    estimate_alpha,
    find_first_crossing,
    measure_moves,
)
from pipeline.scale import ROUNDING
from pipeline.target_kinds import Labels, TargetKind, clip_labels
from pipeline.targets import Output, Target
from pipeline.volatility import check_bar_count, count_neighbors, take_log_returns

COLUMNS = ["symbol", "segment", "event", "close", "half_spread", "ask_price_1", "bid_price_1"]
DOWN, FLAT, UP = labels.DOWN, labels.FLAT, labels.UP
TERMS = ("profit", "stop", "unit")  # of a target that its strategy's metrics need
Clip = PositiveFloat | None  # |y| is at most this; None: y is not clipped


def make_labels(clean: pd.DataFrame, block: dict[str, Any], *, name: str = "target", delay_bars: int = 0) -> Labels:
    """Return the labels of the clean table of events for a target: its `kind`, and that kind's arguments.

    No kind depends on `delay_bars`. The table's columns: `row` int64, the position in `clean`; `segment` int32; `time`
    and `label_end` int64, the event of the row and of the last one that its label uses; `y` float32, or int32 class
    codes; `raw` float64, the log return of the mid from the row until its label ends. `horizons` add columns, see
    `target_kinds.label_horizons`.

    Raises:
        ParamsError: an unknown kind, or a wrong key or value; names it.
    """
    return target_kinds.label_horizons(clean, block, KINDS, name=name)


def describe_target(block: dict[str, Any], *, name: str, path: str) -> Target:
    """Return what a target is, with the strategy whose metrics its reports have; see `target_kinds`."""
    described = target_kinds.describe_target(block, name=name, path=path, kinds=KINDS)
    terms = {key: block[key] for key in TERMS if key in block}
    return replace(described, strategy={"kind": block["kind"], **terms})


def smoothed(mid: np.ndarray, *, window: Window, horizon: Horizon) -> tuple[np.ndarray, np.ndarray]:
    """Return the smoothed relative move l (N,) of mids (N,), and (N,) int64 the row at which each is known.

    l_t = (mean of the mids t + horizon - window + 1 … t + horizon) / (mean of the mids t - window + 1 … t) - 1: the
    smoothing windows of `window` mids end at t and at t + horizon (Berti & Kasneci 2025, "TLOB", whose code has so
    many mids and whose formula has one more). It is known at t + horizon. Where a window is not complete, l is NaN and
    the row is -1. Windows whose means differ by rounding alone have l = 0.

    >>> smoothed(np.array([1.0, 1.0, 3.0, 3.0]), window=2, horizon=1)
    (array([nan,  1. ,  0.5,  nan]), array([-1,  2,  3, -1]))

    Raises:
        ValueError: `window` or `horizon` is no whole number above 0.
    """
    for name, count in (("window", window), ("horizon", horizon)):
        check_bar_count(name, count, at_least=1)
    mid = np.ascontiguousarray(mid, np.float64)
    move, known_at = np.full(len(mid), np.nan), np.full(len(mid), -1, np.int64)
    rows = np.arange(window - 1, len(mid) - horizon)
    if len(rows):
        move[rows] = measure_moves(mid, window, horizon)[rows]
        known_at[rows] = np.where(np.isnan(move[rows]), -1, rows + horizon)
    return move, known_at


def label_smoothed(clean: pd.DataFrame, *, horizon: Horizon, window: Window, alpha: Alpha) -> Labels:
    """Return the class of the smoothed move l: up above α, down below -α, flat between them; see `smoothed`.

    α is a number of half spreads at the row, or follows the |l| that are known at the row: see `estimate_alpha`. A row
    at which too few are known has no label. `ties` counts rows with |l| = α, which are flat.
    """
    known, _ = smoothed(_take_mids(clean), window=window, horizon=horizon)
    row, lost = _select_labelable(clean, horizon=horizon, window=window)
    move = known[row]
    limit = estimate_alpha(clean, row, move, alpha=alpha, horizon=horizon)
    if "half_spreads" not in alpha:
        lost["alpha_warm_up"] = int(np.isnan(limit).sum())
        row, move, limit = (each[~np.isnan(limit)] for each in (row, move, limit))
    is_tie = np.abs(np.abs(move) - limit) <= ROUNDING
    y = np.select([(move > limit) & ~is_tie, (move < -limit) & ~is_tie], [UP, DOWN], FLAT).astype(np.int32)
    return _assemble_labels(clean, row, end=row + horizon, y=y, lost=lost, ties=int(is_tie.sum()))


def label_smoothed_return(
    clean: pd.DataFrame, *, horizon: Horizon, window: Window, clip_half_spreads: Clip = None
) -> Labels:
    """Return the smoothed move l in half spreads at the row; with `clip_half_spreads` y lies within ± that."""
    known, _ = smoothed(_take_mids(clean), window=window, horizon=horizon)
    row, lost = _select_labelable(clean, horizon=horizon, window=window)
    y = (known[row] / clean["half_spread"].to_numpy()[row]).astype(np.float32)
    return clip_labels(_assemble_labels(clean, row, end=row + horizon, y=y, lost=lost), clip_half_spreads)


def label_return(clean: pd.DataFrame, *, horizon: Horizon, clip_half_spreads: Clip = None) -> Labels:
    """Return the log return of the mid over `horizon` events, in half spreads at the row: a point, nothing smoothed."""
    row, lost = _select_labelable(clean, horizon=horizon)
    raw = take_log_returns(clean, row, row + horizon)
    y = (raw / clean["half_spread"].to_numpy()[row]).astype(np.float32)
    return clip_labels(_assemble_labels(clean, row, end=row + horizon, y=y, lost=lost), clip_half_spreads)


def label_barrier(
    clean: pd.DataFrame, *, horizon: Horizon, profit: PositiveFloat, stop: PositiveFloat, unit: Unit = "half_spreads"
) -> Labels:
    """Return the barrier that the mid reaches first within `horizon` events: up, down, or flat for neither (AFML 3.2).

    The barriers are `profit` above and `stop` below the mid of the row, see `Unit`. The label ends at the touch. One
    mid cannot reach both; `ties` counts touches that reach a barrier exactly, which count. A row needs its whole
    horizon inside its segment, however early the touch: else rows near its end would be biased to early touches.
    """
    row, lost = _select_labelable(clean, horizon=horizon)
    sizes = Sizes.measure(clean, row, up=profit, down=stop, unit=unit)
    end, y, ties = find_first_crossing(_take_mids(clean), row, sizes.up, sizes.down, horizon)
    return _assemble_labels(clean, row, end=end, y=y, lost=lost, ties=ties)


def label_opportunity(
    clean: pd.DataFrame,
    *,
    horizon: Horizon,
    threshold: PositiveFloat,
    unit: Unit = "half_spreads",
    conflict: Conflict = "first",
) -> Labels:
    """Return the side of a move of the mid of at least `threshold` within `horizon` events: down, none or up.

    Where it moves so far both ways, `conflict` decides: the `first` crossing, at which the label ends, or the `larger`
    excursion, for which each label has its whole horizon. `ties` counts moves of exactly the threshold by `first`, and
    equal excursions both ways by `larger`, which are none.
    """
    row, lost = _select_labelable(clean, horizon=horizon)
    sizes = Sizes.measure(clean, row, up=threshold, down=threshold, unit=unit)
    search = find_first_crossing if conflict == "first" else compare_excursions
    end, y, ties = search(_take_mids(clean), row, sizes.up, sizes.down, horizon)
    return _assemble_labels(clean, row, end=end, y=y, lost=lost, ties=ties)


def label_large_move(
    clean: pd.DataFrame, *, horizon: Horizon, threshold: PositiveFloat, unit: Unit = "half_spreads"
) -> Labels:
    """Return 1 where the mid moves at least `threshold` either way within `horizon` events, and 0 elsewhere."""
    found = label_opportunity(clean, horizon=horizon, threshold=threshold, unit=unit)
    return replace(found, table=found.table.assign(y=(found.table["y"] != FLAT).astype(np.int32)))


SIDES = Output(kind="classes", names=("down", "flat", "up"), neutral_class="flat")
KINDS: Mapping[str, TargetKind] = {
    "smoothed": TargetKind(label_smoothed, SIDES),
    "smoothed_return": TargetKind(label_smoothed_return, Output(kind="value", names=("smoothed_return",))),
    "return": TargetKind(label_return, Output(kind="value", names=("return",))),
    "barrier": TargetKind(label_barrier, SIDES),
    "opportunity": TargetKind(
        label_opportunity, Output(kind="classes", names=("down", "none", "up"), neutral_class="none")
    ),
    "large_move": TargetKind(label_large_move, Output(kind="classes", names=("small", "large"), has_direction=False)),
}


def _take_mids(clean: pd.DataFrame) -> np.ndarray:
    return np.ascontiguousarray(clean["close"].to_numpy(np.float64))


def _select_labelable(clean: pd.DataFrame, *, horizon: int, window: int = 1) -> tuple[np.ndarray, dict[str, int]]:
    """Return the rows that can be labeled, and the count of the others by the first cause that applies."""
    before, after = count_neighbors(clean)
    ask, bid = (clean[name].to_numpy() for name in ("ask_price_1", "bid_price_1"))
    causes = {"book_invalid": ~((bid > 0) & (ask > bid))}
    if window > 1:
        causes["smoothing_window"] = before < window - 1
    causes["label_horizon"] = after < horizon
    remaining, lost = np.ones(len(clean), dtype=bool), {}
    for cause, applies in causes.items():
        lost[cause] = int((remaining & applies).sum())
        remaining &= ~applies
    return np.flatnonzero(remaining), lost


def _assemble_labels(
    clean: pd.DataFrame, row: np.ndarray, *, end: np.ndarray, y: np.ndarray, lost: dict[str, int], ties: int = 0
) -> Labels:
    event = clean["event"].to_numpy(np.int64)
    table = {
        "row": row.astype(np.int64),
        "segment": clean["segment"].to_numpy()[row].astype(np.int32),
        "time": event[row],
        "label_end": event[end],
        "y": y,
        "raw": take_log_returns(clean, row, end),
    }
    return Labels(table=pd.DataFrame(table, copy=False), lost=lost, ties=ties)
