"""Labels of bars, and when each is known: return, direction, barrier, trend, position, volatility, range, large move.

A label of row t uses bars after t, none beyond the row's segment, and ends at the bar `label_end`. Its scale, the
volatility, is estimated from bars up to t; a row whose volatility is too small to be a scale has no label. Nor has one
whose label spans a closing at which positions are closed: no position earns it.
"""

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
from annotated_types import Interval
from numba import njit
from pydantic import PositiveFloat

from pipeline import config, target_kinds
from pipeline.scale import ROUNDING
from pipeline.target_kinds import Labels, TargetKind, clip_labels, find_kind, label_horizons, select_arguments
from pipeline.targets import Output, Target
from pipeline.volatility import check_bar_count, count_neighbors, estimate_scale, take_log_returns

Horizon = Annotated[int, Interval(ge=1, le=1_000_000)]
VolatilityWindow = Annotated[int, Interval(ge=2, le=1_000_000)]
ClipSigma = PositiveFloat | None  # |y| is at most this; None: y is not clipped
DOWN, FLAT, UP = range(3)  # class codes of the triple barrier


def make_labels(bars: pd.DataFrame, block: dict[str, Any], *, name: str = "target", delay_bars: int = 0) -> Labels:
    """Return the labels of the clean table `bars` for a target: its `kind`, and that kind's arguments.

    Errors name the target by `name`. `block` may have `quantiles` or `horizons`, see `target_kinds.describe_target`.
    Orders fill `delay_bars` after the next open: it matters to the kind `position` alone.

    The table's columns: `row` int64, the position in `bars`; `segment` int32; `time` and `label_end` int64 ms, the
    open_time of the row and of the last bar that its label uses; `y` float32, or int32 class codes; `raw` float64, the
    log return from the row's close until its label ends, of a position that between its two fills. With `horizons` each
    but the last has its y in a column of its own, see `target_kinds.label_horizons`.

    Raises:
        ValueError: an unknown kind, or a wrong key or value.
    """
    kind = find_kind(block, KINDS, name=name)
    if not kind.starts_at_fill:
        return label_horizons(bars, block, KINDS, name=name)
    arguments = select_arguments(block)
    keys = tuple(key for key in config.list_keys(kind.make) if key != "delay_bars")  # stands under `trading`
    config.check_section(kind.make, arguments, name=name, keys=keys)
    return kind.make(bars, **arguments, delay_bars=delay_bars)


def describe_target(block: dict[str, Any], *, name: str, path: str) -> Target:
    """Return what a target of klines is; see `target_kinds.describe_target`."""
    return target_kinds.describe_target(block, name=name, path=path, kinds=KINDS)


def forward_return(
    bars: pd.DataFrame, *, horizon: Horizon, volatility_window: VolatilityWindow, clip_sigma: ClipSigma = None
) -> Labels:
    """Return log returns over the next `horizon` bars in units of σ_t·√horizon, σ_t the one-bar volatility at t.

    With `clip_sigma` y lies within ± clip_sigma; `raw` is never clipped.
    """
    volatility, causes = estimate_scale(bars, window=volatility_window)
    row, lost = _select_labelable(bars, horizon=horizon, causes=causes)
    raw = take_log_returns(bars, row, row + horizon)
    y = raw / (volatility[row] * np.sqrt(horizon))
    labels = _assemble_labels(bars, row, end=row + horizon, y=y.astype(np.float32), raw=raw, lost=lost, ties=0)
    return clip_labels(labels, clip_sigma)


def direction(bars: pd.DataFrame, *, horizon: Horizon) -> Labels:
    """Return 1 where the close is higher after `horizon` bars, and 0 elsewhere.

    `ties` counts closes that are equal but for rounding; they are 0.
    """
    row, lost = _select_labelable(bars, horizon=horizon)
    raw = take_log_returns(bars, row, row + horizon)
    ties, y = int(np.count_nonzero(np.abs(raw) <= ROUNDING)), (raw > ROUNDING).astype(np.int32)
    return _assemble_labels(bars, row, end=row + horizon, y=y, raw=raw, lost=lost, ties=ties)


def triple_barrier(
    bars: pd.DataFrame,
    *,
    horizon: Horizon,
    profit: PositiveFloat,
    stop: PositiveFloat,
    volatility_window: VolatilityWindow,
) -> Labels:
    """Return the barrier that the next `horizon` bars' highs and lows touch first: up, down, or flat (AFML 3.2).

    The barriers are close_t·(1 + profit·σ_t) and close_t·(1 - stop·σ_t), σ_t the one-bar volatility at t. The label
    ends at the touch, and `raw` is the log return to the touched barrier. A flat label touches neither; its `raw` is
    the log return to the last close. Where one bar touches both barriers the stop counts as first; `ties` counts these.
    A row needs its whole horizon inside its segment, however early the touch. Otherwise rows near a segment's end
    would be biased to early touches.
    """
    _check_positive({"profit": profit, "stop": stop})
    volatility, causes = estimate_scale(bars, window=volatility_window)
    row, lost = _select_labelable(bars, horizon=horizon, causes=causes)
    high, low, close = (bars[name].to_numpy(dtype=np.float64) for name in ("high", "low", "close"))
    upper, lower = close[row] * (1 + profit * volatility[row]), close[row] * (1 - stop * volatility[row])
    end, y, ties = _find_first_touch(high, low, row, upper, lower, horizon)
    raw = np.log(np.select([y == DOWN, y == UP], [lower, upper], close[end]) / close[row])
    del volatility, causes, upper, lower  # each has a number for every bar
    return _assemble_labels(bars, row, end=end, y=y, raw=raw, lost=lost, ties=ties)


def large_move(
    bars: pd.DataFrame, *, horizon: Horizon, threshold: PositiveFloat, volatility_window: VolatilityWindow
) -> Labels:
    """Return 1 where a high or low of the next `horizon` bars is `threshold`·σ_t or more from the close, 0 elsewhere.

    It is the triple barrier without a side: a label ends at the first touch, and `raw` is the log return to it. There
    are no ties: a bar that goes as far on both sides is a large move in any case.
    """
    arguments = {"horizon": horizon, "volatility_window": volatility_window}
    touched = triple_barrier(bars, profit=threshold, stop=threshold, **arguments)
    return replace(touched, table=touched.table.assign(y=(touched.table["y"] != FLAT).astype(np.int32)), ties=0)


def trend(bars: pd.DataFrame, *, horizon: Horizon) -> Labels:
    """Return (1 + signed efficiency ratio)/2 of the next `horizon` log closes: 1 straight up, 0 straight down.

    The efficiency ratio is the total move over the sum of the absolute steps (Kaufman 1995). `ties` counts constant
    paths, which get 0.5.
    """
    row, lost = _select_labelable(bars, horizon=horizon)
    raw = take_log_returns(bars, row, row + horizon)
    path = np.zeros(len(row))
    for k in range(horizon):
        path += np.abs(take_log_returns(bars, row + k, row + k + 1))
    is_flat = path <= ROUNDING
    ratio = np.divide(raw, path, out=np.zeros(len(row)), where=~is_flat)
    y = np.clip((1 + ratio) / 2, 0.0, 1.0).astype(np.float32)
    return _assemble_labels(bars, row, end=row + horizon, y=y, raw=raw, lost=lost, ties=int(np.count_nonzero(is_flat)))


def position(
    bars: pd.DataFrame,
    *,
    volatility_window: VolatilityWindow,
    clip_sigma: ClipSigma = None,
    delay_bars: int = 0,
) -> Labels:
    """Return the log return from the fill of row i's order to the next fill, in units of σ_i: the target of agents.

    The fills are open[i + 1 + delay_bars] and open[i + 2 + delay_bars]; the label ends with the second's bar. An agent
    predicts a position, which is compared with this y by IC; its reward is the return of the backtest.

    Raises:
        ValueError: `delay_bars` is negative.
    """
    check_bar_count("delay_bars", delay_bars, at_least=0)
    scale, causes = estimate_scale(bars, window=volatility_window)
    row, lost = _select_labelable(bars, horizon=2 + delay_bars, causes=causes, start=1 + delay_bars)
    opened = bars["open"].to_numpy(dtype=np.float64)
    end = row + 2 + delay_bars
    raw = np.log(opened[end] / opened[end - 1])
    y = (raw / scale[row]).astype(np.float32)
    return clip_labels(_assemble_labels(bars, row, end=end, y=y, raw=raw, lost=lost, ties=0), clip_sigma)


def volatility(
    bars: pd.DataFrame, *, horizon: Horizon, volatility_window: VolatilityWindow, clip_sigma: ClipSigma = None
) -> Labels:
    """Return the realized volatility √(Σ r²/horizon) of the next `horizon` one-bar log returns r, in units of σ_t."""
    scale, causes = estimate_scale(bars, window=volatility_window)
    row, lost = _select_labelable(bars, horizon=horizon, causes=causes)
    squares = np.zeros(len(row))
    for k in range(horizon):
        squares += take_log_returns(bars, row + k, row + k + 1) ** 2
    y = (np.sqrt(squares / horizon) / scale[row]).astype(np.float32)
    raw = take_log_returns(bars, row, row + horizon)
    labels = _assemble_labels(bars, row, end=row + horizon, y=y, raw=raw, lost=lost, ties=0)
    return clip_labels(labels, clip_sigma)


def price_range(
    bars: pd.DataFrame, *, horizon: Horizon, volatility_window: VolatilityWindow, clip_sigma: ClipSigma = None
) -> Labels:
    """Return ln(highest high / lowest low) of the next `horizon` bars in units of σ_t·√horizon."""
    scale, causes = estimate_scale(bars, window=volatility_window)
    row, lost = _select_labelable(bars, horizon=horizon, causes=causes)
    high, low = (bars[name].to_numpy(dtype=np.float64) for name in ("high", "low"))
    highest, lowest = high[row + 1], low[row + 1]
    for k in range(2, horizon + 1):
        highest, lowest = np.maximum(highest, high[row + k]), np.minimum(lowest, low[row + k])
    y = (np.log(highest / lowest) / (scale[row] * np.sqrt(horizon))).astype(np.float32)
    raw = take_log_returns(bars, row, row + horizon)
    labels = _assemble_labels(bars, row, end=row + horizon, y=y, raw=raw, lost=lost, ties=0)
    return clip_labels(labels, clip_sigma)


KINDS: dict[str, TargetKind] = {
    "return": TargetKind(forward_return, Output(kind="value", names=("return",))),
    "direction": TargetKind(direction, Output(kind="classes", names=("down", "up"))),
    "barrier": TargetKind(triple_barrier, Output(kind="classes", names=("down", "flat", "up"), neutral_class="flat")),
    "trend": TargetKind(trend, Output(kind="probability", names=("trend",))),
    "position": TargetKind(position, Output(kind="position", names=("position",)), horizon_bars=1, starts_at_fill=True),
    "volatility": TargetKind(volatility, Output(kind="value", names=("volatility",), has_direction=False)),
    "range": TargetKind(price_range, Output(kind="value", names=("range",), has_direction=False)),
    "large_move": TargetKind(large_move, Output(kind="classes", names=("small", "large"), has_direction=False)),
}


def _select_labelable(
    bars: pd.DataFrame, *, horizon: int, causes: dict[str, np.ndarray] | None = None, start: int = 0
) -> tuple[np.ndarray, dict[str, int]]:
    """Return the rows that can be labeled, and the count of the others by the first of `causes` that applies.

    A label spans the bars from `start` to `horizon` after its row.
    """
    check_bar_count("horizon", horizon, at_least=1)
    _, after = count_neighbors(bars)
    causes = {**(causes or {}), "label_horizon": after < horizon}
    if "closes_positions" in bars.columns:
        causes["closing"] = _find_closings(bars["closes_positions"].to_numpy(bool), start=start, end=horizon)
    remaining, lost = np.ones(len(bars), dtype=bool), {}
    for cause, applies in causes.items():
        lost[cause] = int((remaining & applies).sum())
        remaining &= ~applies
    return np.flatnonzero(remaining), lost


def _find_closings(closes: np.ndarray, *, start: int, end: int) -> np.ndarray:
    """Return (N,) whether one of the bars from `start` to `end` - 1 after each row closes positions."""
    count = np.append(0, np.cumsum(closes))
    rows = np.arange(len(closes))
    first, last = (np.minimum(rows + bars, len(closes)) for bars in (start, end))
    return np.asarray(count[last] > count[first])


def _assemble_labels(
    bars: pd.DataFrame,
    row: np.ndarray,
    *,
    end: np.ndarray,
    y: np.ndarray,
    raw: np.ndarray,
    lost: dict[str, int],
    ties: int,
) -> Labels:
    time = bars["open_time"].to_numpy()
    columns = {
        "row": row.astype(np.int64, copy=False),
        "segment": bars["segment"].to_numpy()[row].astype(np.int32, copy=False),
        "time": time[row],
        "label_end": time[end],
        "y": y,
        "raw": raw,
    }
    return Labels(table=pd.DataFrame(columns, copy=False), lost=lost, ties=ties)


@njit(cache=True)
def _find_first_touch(
    high: np.ndarray, low: np.ndarray, row: np.ndarray, upper: np.ndarray, lower: np.ndarray, horizon: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return (n,) the bar at which each label ends, (n,) its class code, and the number of touches of both barriers."""
    end, code, both = row + horizon, np.full(len(row), FLAT, dtype=np.int32), 0
    for i in range(len(row)):
        for bar in range(row[i] + 1, row[i] + horizon + 1):
            touches_upper, touches_lower = high[bar] >= upper[i], low[bar] <= lower[i]
            if touches_upper or touches_lower:
                end[i], code[i] = bar, DOWN if touches_lower else UP
                both += touches_upper and touches_lower
                break
    return end, code, both


def _check_positive(factors: dict[str, float]) -> None:
    for name, factor in factors.items():
        if not factor > 0:
            raise ValueError(f"{name}: {factor!r}; it must be above 0, in units of the one-bar volatility")
