"""From a score to a position, its costs and its net return: the one P&L formula."""

from dataclasses import dataclass

import numpy as np
from numba import njit, vectorize


@dataclass(frozen=True)
class Backtest:
    """What trading a score brought, bar by bar, as fractions of the capital."""

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
    """What holding `position` over a bar that moves by `move` brings, less the cost of coming from `previous`."""
    return position * move - np.abs(position - previous) * ((fee_bps + slippage_bps) / 1e4)


@vectorize(["float64(float64, float64, float64)"], cache=True)  # type: ignore[no-untyped-call, untyped-decorator]
def follow(score: float, held: float, band: float) -> float:
    """The position after a score, by the no-trade band: the score where it is further than `band` from what is held."""
    return score if abs(score - held) > band else held


def positions(score: np.ndarray, segment: np.ndarray, *, band: float) -> np.ndarray:
    """Positions (N,) that `follow` scores (N,) in [-1, 1]; each segment starts flat.

    A score that comes back to 0 closes a position only if that is larger than the band; a band of 0 follows every
    score. Raises ValueError for a score outside [-1, 1] or a band outside [0, 1).
    """
    score = _finite("score", score)
    outside = np.abs(score) > 1
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise ValueError(f"score: {score[row]} at row {row}; a score must be within [-1, 1]")
    if not 0 <= band < 1:
        raise ValueError(f"band: {band}; it must be at least 0 and below 1, beyond which nothing is ever traded")
    return np.asarray(_follow(score, _starts(segment, rows=len(score)), float(band)))


def backtest(
    score: np.ndarray, segment: np.ndarray, move: np.ndarray, *, fee_bps: float, slippage_bps: float, band: float
) -> Backtest:
    """Each row's score traded at its bar's close and held over the next bar, which moves by `move`.

    A segment's first row pays for entering from flat. What is open after its last row is closed there, and that row
    pays for it too. Rows of one segment are taken as consecutive bars: where a bar is missing, start another.
    Raises ValueError for a value that is not finite, unequal lengths, negative costs, or a segment that comes back.
    """
    move = _finite("move", move)
    if not len(score) == len(segment) == len(move):
        raise ValueError(
            f"score, segment and move have {len(score)}, {len(segment)} and {len(move)} rows; give equal ones"
        )
    if not (fee_bps >= 0 and slippage_bps >= 0):
        raise ValueError(f"fee_bps: {fee_bps}, slippage_bps: {slippage_bps}; costs must be at least 0")
    position = positions(score, segment, band=band)
    first = _starts(segment, rows=len(position))
    last = np.roll(first, -1)
    previous = np.where(first, 0.0, np.roll(position, 1))
    to_close = np.where(last, position, 0.0)
    net = net_return(position, previous, move, fee_bps=fee_bps, slippage_bps=slippage_bps)
    closing = net_return(0.0, to_close, 0.0, fee_bps=fee_bps, slippage_bps=slippage_bps)
    return Backtest(
        net=np.asarray(net + closing), position=position, turnover=np.abs(position - previous) + np.abs(to_close)
    )


def portfolio(time: np.ndarray, net: np.ndarray, *, symbols: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct times in order, and at each the return of a capital of which every symbol trades 1/`symbols`.

    A symbol without a row at some time earns 0 there. Works for any figure per unit of capital, turnover too.
    Raises ValueError where a time has more rows than there are symbols.
    """
    times, at, count = np.unique(time, return_inverse=True, return_counts=True)
    if (count > symbols).any():
        crowded = int(np.argmax(count))
        raise ValueError(f"time {times[crowded]} has {count[crowded]} rows; {symbols} symbols can have one each")
    return times, np.bincount(at, weights=_finite("net", net), minlength=len(times)) / symbols


@njit(cache=True)
def after(
    target: float, position: float, unrealised: float, since: int, move: float, band: float
) -> tuple[float, float, int]:
    """What is held over a bar, what it has earned before costs since its side was entered, and for how many bars."""
    held = follow(min(max(target, -1.0), 1.0), position, band)
    is_kept = np.sign(held) == np.sign(position)
    earned = (unrealised if is_kept else 0.0) + held * move
    return held, earned, 0 if held == 0 else (since if is_kept else 0) + 1


@njit(cache=True)
def after_all(
    target: np.ndarray, position: np.ndarray, unrealised: np.ndarray, since: np.ndarray, move: np.ndarray, band: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for (E,) episodes."""
    held, earned, bars = np.empty_like(position), np.empty_like(unrealised), np.empty_like(since)
    for i in range(len(target)):
        held[i], earned[i], bars[i] = after(target[i], position[i], unrealised[i], since[i], move[i], band)
    return held, earned, bars


@njit(cache=True)
def _follow(score: np.ndarray, first: np.ndarray, band: float) -> np.ndarray:
    position = np.empty(len(score))
    held = 0.0
    for i in range(len(score)):
        if first[i]:
            held = 0.0
        held = follow(score[i], held, band)
        position[i] = held
    return position


def _starts(segment: np.ndarray, *, rows: int) -> np.ndarray:
    """True at the first row of each segment, (N,)."""
    first = np.ones(rows, dtype=bool)
    first[1:] = np.diff(segment) != 0
    started = segment[first]
    seen_before = np.ones(len(started), dtype=bool)
    seen_before[np.unique(started, return_index=True)[1]] = False
    if seen_before.any():
        row = int(np.flatnonzero(first)[np.argmax(seen_before)])
        raise ValueError(f"segment {segment[row]} comes back at row {row}; rows must stand segment by segment")
    return first


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"{name}: {values[row]} at row {row}; only finite numbers can be traded")
    return values
