"""From a score to a position, its costs and its net return: the one P&L formula."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Interval
from numba import njit, vectorize
from pydantic import NonNegativeFloat


@dataclass(frozen=True)
class Backtest:
    """The result of trading a score, bar by bar, as fractions of the capital."""

    net: np.ndarray  # (N,) float64: net return of the bar after the row
    position: np.ndarray  # (N,) float64 in [-1, 1], held over that bar
    turnover: np.ndarray  # (N,) float64: traded at the row, and after a segment's last bar to close


def net_return(
    position: np.ndarray | float,
    previous: np.ndarray | float,
    move: np.ndarray | float,
    *,
    fee_bps: float,
    slippage_bps: float,
) -> np.ndarray | float:
    """Return position · move, less the cost of changing the position from `previous`.

    `move` is the asset's simple return over the bar; costs are charged on |position - previous|.
    """
    return position * move - np.abs(position - previous) * ((fee_bps + slippage_bps) / 1e4)


@vectorize(["float64(float64, float64, float64)"], cache=True)  # type: ignore[no-untyped-call, untyped-decorator]
def apply_no_trade_band(score: float, held: float, no_trade_band: float) -> float:
    """Return the position after a score: the score where it is further than the band from `held`, else `held`."""
    return score if abs(score - held) > no_trade_band else held


def hold_positions(score: np.ndarray, segment: np.ndarray, *, no_trade_band: float) -> np.ndarray:
    """Return the positions (N,) of scores (N,) in [-1, 1] under the no-trade band; each segment starts flat.

    A score of 0 closes a position only if the position is larger than the band. A band of 0 trades every score.
    Raises ValueError for a score outside [-1, 1] or a band outside [0, 1).
    """
    score = _check_finite("score", score)
    outside = np.abs(score) > 1
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise ValueError(f"score: {score[row]} at row {row}; a score must be within [-1, 1]")
    if not 0 <= no_trade_band < 1:
        raise ValueError(f"no_trade_band: {no_trade_band}; it must be at least 0 and below 1: from 1 on nothing trades")
    return np.asarray(_hold_by_segment(score, _mark_segment_starts(segment, rows=len(score)), float(no_trade_band)))


def run_backtest(
    score: np.ndarray,
    segment: np.ndarray,
    move: np.ndarray,
    *,
    fee_bps: NonNegativeFloat,
    slippage_bps: NonNegativeFloat,
    no_trade_band: Annotated[float, Interval(ge=0, lt=1)],
) -> Backtest:
    """Return the backtest of scores (N,): each is traded at its bar's close and held over the next bar's `move` (N,).

    A segment's first row pays the entry from flat; its last row also pays for closing the open position. Rows of one
    segment count as consecutive bars: start a new segment where a bar is missing.
    Raises ValueError for values that are not finite, unequal lengths, negative costs, or a segment in two parts.
    """
    move = _check_finite("move", move)
    if not len(score) == len(segment) == len(move):
        raise ValueError(
            f"score, segment and move have {len(score)}, {len(segment)} and {len(move)} rows; give equal lengths"
        )
    if not (fee_bps >= 0 and slippage_bps >= 0):
        raise ValueError(f"fee_bps: {fee_bps}, slippage_bps: {slippage_bps}; costs must be at least 0")
    position = hold_positions(score, segment, no_trade_band=no_trade_band)
    first = _mark_segment_starts(segment, rows=len(position))
    last = np.roll(first, -1)
    previous = np.where(first, 0.0, np.roll(position, 1))
    to_close = np.where(last, position, 0.0)
    net = net_return(position, previous, move, fee_bps=fee_bps, slippage_bps=slippage_bps)
    closing = net_return(0.0, to_close, 0.0, fee_bps=fee_bps, slippage_bps=slippage_bps)
    return Backtest(
        net=np.asarray(net + closing), position=position, turnover=np.abs(position - previous) + np.abs(to_close)
    )


def average_symbols(time: np.ndarray, values: np.ndarray, *, symbols: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct times in order, and at each the mean of `values` over all symbols, equally weighted.

    `values` (N,) are per unit of capital, such as net returns or turnover; a symbol without a row at a time counts 0.
    Raises ValueError where a time has more rows than there are symbols.
    """
    times, at, count = np.unique(time, return_inverse=True, return_counts=True)
    if (count > symbols).any():
        crowded = int(np.argmax(count))
        raise ValueError(f"time {times[crowded]} has {count[crowded]} rows; {symbols} symbols allow one row each")
    return times, np.bincount(at, weights=_check_finite("values", values), minlength=len(times)) / symbols


@njit(cache=True)
def step_position(
    target: float, position: float, unrealized: float, since: int, move: float, no_trade_band: float
) -> tuple[float, float, int]:
    """Return the position held over a bar, its unrealized return before costs, and its age in bars, after the bar.

    `target` is cut to [-1, 1]; `unrealized` and `since` count from the entry into the position's present side.
    """
    held = apply_no_trade_band(min(max(target, -1.0), 1.0), position, no_trade_band)
    is_same_side = np.sign(held) == np.sign(position)
    earned = (unrealized if is_same_side else 0.0) + held * move
    return held, earned, 0 if held == 0 else (since if is_same_side else 0) + 1


@njit(cache=True)
def step_positions(
    target: np.ndarray,
    position: np.ndarray,
    unrealized: np.ndarray,
    since: np.ndarray,
    move: np.ndarray,
    no_trade_band: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the same as `step_position` for (E,) episodes."""
    held, earned, bars = np.empty_like(position), np.empty_like(unrealized), np.empty_like(since)
    for i in range(len(target)):
        held[i], earned[i], bars[i] = step_position(
            target[i], position[i], unrealized[i], since[i], move[i], no_trade_band
        )
    return held, earned, bars


@njit(cache=True)
def _hold_by_segment(score: np.ndarray, first: np.ndarray, no_trade_band: float) -> np.ndarray:
    position = np.empty(len(score))
    held = 0.0
    for i in range(len(score)):
        if first[i]:
            held = 0.0
        held = apply_no_trade_band(score[i], held, no_trade_band)
        position[i] = held
    return position


def _mark_segment_starts(segment: np.ndarray, *, rows: int) -> np.ndarray:
    """Return (N,) bool: the first row of each segment. Raise ValueError where a segment's rows are not contiguous."""
    first = np.ones(rows, dtype=bool)
    first[1:] = np.diff(segment) != 0
    started = segment[first]
    seen_before = np.ones(len(started), dtype=bool)
    seen_before[np.unique(started, return_index=True)[1]] = False
    if seen_before.any():
        row = int(np.flatnonzero(first)[np.argmax(seen_before)])
        raise ValueError(f"segment {segment[row]} starts again at row {row}; sort the rows by segment")
    return first


def _check_finite(name: str, values: np.ndarray) -> np.ndarray:
    """Return `values` as float64; raise ValueError, naming the first row, where one is not finite."""
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"{name}: {values[row]} at row {row}; only finite values can be traded")
    return values
