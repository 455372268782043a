"""From a target to a position, its costs and its net return: the one P&L formula.

All amounts are fractions of the capital. A position is a weight: the value held over the capital, between -1 and 1.
Units are held: the weight drifts with the price. Turnover, the distance from that weight, costs fees and half spreads.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numba import njit

from pipeline.fills import CLOSES, WAITS, FillArrays, Fills, find_fills

UNLIMITED = np.inf  # change of a position that an order can make


class Terms(NamedTuple):
    """The numbers that a trade depends on, as compiled functions take them."""

    cost: float  # fraction of the value traded
    borrow_rate: float  # per year, of the value that is short
    no_trade_band: float
    lowest: float  # position: -1, or 0 where shorts are not allowed
    order_limit: float  # change of the position per unit of quote volume


class AccountStep(NamedTuple):
    """One row of an account: what it holds until the next fill, and what that earns."""

    position: float  # weight after this row's fill
    turnover: float  # share of the capital that is traded at this row's fill
    gross: float  # earned by the position until the next fill
    interest: float  # of what is short
    net: float  # gross less costs and interest


@dataclass(frozen=True, eq=False)
class Backtest:
    """The result of trading targets, by decision row: (T,) for one symbol, (T, S) for a portfolio of S symbols.

    Amounts are shares of the whole capital, each symbol's own part of it; `net` is of the whole, (T,).
    """

    net: np.ndarray  # (T,) float64: net return from the fill of the row to the fill of the next
    position: np.ndarray  # float64 in [-1, 1], of the symbol's share of the capital, held from that fill on
    turnover: np.ndarray  # float64: traded at the row's fill, and after the last row to close
    gross: np.ndarray  # float64: return before costs and interest
    cost: np.ndarray  # float64: fees, slippage and half spreads
    interest: np.ndarray  # float64: of what is short


def make_terms(
    *,
    fee_bps: float,
    slippage_bps: float,
    borrow_rate: float = 0.0,
    no_trade_band: float = 0.0,
    long_only: bool = False,
    capital: float | None = None,
    max_participation: float | None = None,
) -> Terms:
    """Return the terms of trading.

    Args:
        fee_bps: fee, of the value traded.
        slippage_bps: by how much a fill is worse than the open.
        borrow_rate: per year, of the value that is short.
        no_trade_band: the position changes, to the target itself, only where that is further than this from it.
        long_only: whether negative targets are flat.
        capital: of a symbol, in the quote currency, the same at each bar: it limits orders.
        max_participation: an order's largest share of a bar's quote volume; None for no limit; closing has none.

    Raises:
        ValueError: a value is out of range; names it.
    """
    if not (0 <= fee_bps < np.inf and 0 <= slippage_bps < np.inf and 0 <= borrow_rate < np.inf):
        raise ValueError(
            f"fee_bps: {fee_bps}, slippage_bps: {slippage_bps}, borrow_rate: {borrow_rate}; "
            "costs must be at least 0 and finite"
        )
    if not 0 <= no_trade_band < 1:
        raise ValueError(f"no_trade_band: {no_trade_band}; it must be at least 0 and below 1: from 1 on nothing trades")
    limit = UNLIMITED
    if max_participation is not None:
        if capital is None or not capital > 0 or not 0 < max_participation <= 1:
            raise ValueError(
                f"capital: {capital}, max_participation: {max_participation}; an order that is limited by the volume "
                "needs a capital above 0, and a share of the volume above 0 and at most 1"
            )
        limit = max_participation / capital
    return Terms((fee_bps + slippage_bps) / 1e4, borrow_rate, no_trade_band, 0.0 if long_only else -1.0, limit)


@njit(cache=True)
def choose_position(target: float, held: float, terms: Terms, max_change: float) -> float:
    """Return the weight after an order for `target`, cut to the allowed range; a target of NaN closes.

    Within the no-trade band of `held` nothing trades. A weight that has drifted out of the range is cut back to it
    whatever the volume; `max_change` limits what is traded beyond that.
    """
    if np.isnan(target):
        return 0.0
    inside, wanted = min(max(held, terms.lowest), 1.0), min(max(target, terms.lowest), 1.0)
    if abs(wanted - held) <= terms.no_trade_band:
        return inside
    if abs(wanted - inside) <= max_change:
        return wanted
    return inside + (max_change if wanted > inside else -max_change)


@njit(cache=True)
def fill_order(target: float, held: float, volume: float, outcome: int, terms: Terms) -> float:
    """Return the weight after a row's order, by its outcome, see `Fills`; `volume` is that of the bar that fills."""
    if outcome == WAITS:
        return held
    if outcome == CLOSES:
        return 0.0
    limit = terms.order_limit * volume if terms.order_limit < UNLIMITED else UNLIMITED
    return choose_position(target, held, terms, limit)


@njit(cache=True)
def earn(
    position: float, held: float, move: float, years: float, terms: Terms, half_spread: float = 0.0
) -> AccountStep:
    """Return what a weight earns until the next fill, less the cost of changing it from `held`, and less interest."""
    turnover, gross = abs(position - held), position * move
    interest = terms.borrow_rate * years * max(-position, 0.0)
    return AccountStep(position, turnover, gross, interest, gross - turnover * (terms.cost + half_spread) - interest)


@njit(cache=True)
def drift(position: float, move: float, net: float) -> float:
    """Return the weight at the next fill: units are held, while price and capital change; 0 after ruin."""
    return position * (1.0 + move) / (1.0 + net) if net > -1.0 else 0.0


@njit(cache=True)
def step_account(
    target: float,
    held: float,
    unrealized: float,
    since: int,
    fill: tuple[float, float, float, int],
    is_last: bool,
    terms: Terms,
    half_spread: float = 0.0,
) -> tuple[AccountStep, float, float, int]:
    """Return one row of a single account, and weight, unrealized return and age of the position at the next fill.

    `fill` is move, years, quote_volume and outcome of the row. With `is_last` it bears the cost of closing after it.
    `unrealized` (before costs) and `since` (rows) count from the entry into the present side.
    """
    move, years, volume, outcome = fill
    position = fill_order(target, held, volume, outcome, terms)
    step = earn(position, held, move, years, terms, half_spread)
    drifted, earned, age = _follow(step, held, unrealized, since, move)
    if not is_last:
        return step, drifted, earned, age
    closed = abs(drifted) * max(1.0 + step.net, 0.0)
    net = step.net - closed * (terms.cost + half_spread)
    return AccountStep(position, step.turnover + closed, step.gross, step.interest, net), 0.0, 0.0, 0


@njit(cache=True)
def _follow(step: AccountStep, held: float, unrealized: float, since: int, move: float) -> tuple[float, float, int]:
    """Return weight, unrealized return and age of a position after a move; the others are those before its fill."""
    if step.position == 0:
        return 0.0, 0.0, 0
    is_same_side = np.sign(step.position) == np.sign(held)
    earned, age = (unrealized if is_same_side else 0.0) + step.gross, (since if is_same_side else 0) + 1
    return drift(step.position, move, step.net), earned, age


@njit(cache=True)
def mark_account(
    position: float, before: tuple[float, float, int], mark: float, terms: Terms, half_spread: float = 0.0
) -> tuple[float, float, int]:
    """Return weight, unrealized return and age of a position where the price has moved by `mark` since its fill.

    `before` are the three just before that fill, see `step_account`. Interest is left out.
    """
    held, unrealized, since = before
    return _follow(earn(position, held, mark, 0.0, terms, half_spread), held, unrealized, since, mark)


@njit(cache=True)
def mark_accounts(recent: np.ndarray, mark: np.ndarray, half_spread: np.ndarray, terms: Terms) -> np.ndarray:
    """Return (E, 3) `mark_account` of each; `recent` (E, 4) are the positions and the three before their fills."""
    seen = np.empty((len(recent), 3))
    for i in range(len(recent)):
        before = (recent[i, 1], recent[i, 2], int(recent[i, 3]))
        seen[i, 0], seen[i, 1], seen[i, 2] = mark_account(recent[i, 0], before, mark[i], terms, half_spread[i])
    return seen


@njit(cache=True)
def earn_alone(target: np.ndarray, held: np.ndarray, fills: FillArrays, row: np.ndarray, terms: Terms) -> np.ndarray:
    """Return (E, K) net returns until the next fill of each of K targets (E, K) by itself, from weights `held` (E,)."""
    move, years, volume, outcome, half_spread = fills
    net = np.empty(target.shape)
    for i in range(len(target)):
        at = row[i]
        for k in range(target.shape[1]):
            position = fill_order(target[i, k], held[i], volume[at], outcome[at], terms)
            net[i, k] = earn(position, held[i], move[at], years[at], terms, half_spread[at]).net
    return net


@njit(cache=True)
def step_accounts(
    target: np.ndarray,
    account: tuple[np.ndarray, np.ndarray, np.ndarray],
    fills: FillArrays,
    row: np.ndarray,
    is_last: np.ndarray,
    terms: Terms,
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return (E,) weights held, (E,) net returns and the next (weight, unrealized, since), (E,) each, of E accounts.

    It is `step_account` of each; `row` (E,) are the rows of `fills` at which they stand.
    """
    held, unrealized, since = account
    position, net = np.empty(len(target)), np.empty(len(target))
    following = np.empty(len(target)), np.empty(len(target)), np.empty(len(target), np.int64)
    move, years, volume, outcome, half_spread = fills
    for i in range(len(target)):
        at = row[i]
        fill = (move[at], years[at], volume[at], outcome[at])
        step, following[0][i], following[1][i], following[2][i] = step_account(
            target[i], held[i], unrealized[i], since[i], fill, is_last[i], terms, half_spread[at]
        )
        position[i], net[i] = step.position, step.net
    return position, net, following


def trade(target: np.ndarray, fills: Fills, terms: Terms, *, sharing: np.ndarray | None = None) -> Backtest:
    """Return the backtest of targets (T, S) of S symbols that share one capital, each with 1/S of it, or (T,) of one.

    The arrays of `fills` have the shape of `target`. A target of NaN closes the position. What is held after the last
    row is closed at the next instant; the last row bears the cost, with its own half spread. A symbol without a bar at
    a row WAITS there. After ruin nothing is traded. `sharing` (T,) is the number of symbols that share the capital at
    each row, where some are not listed; the capital of `terms` is that of 1/S. Where it changes, what is held is the
    same value.

    Raises:
        ValueError: a target is infinite, a move is not finite, or shapes differ.
    """
    target = np.asarray(target, np.float64)
    if target.shape != fills.move.shape:
        raise ValueError(f"target is {target.shape}, the fills are {fills.move.shape}; give equal shapes")
    if np.isinf(target).any():
        raise ValueError(f"target: {target[np.isinf(target)][0]}; it must be a number, or NaN to close the position")
    if not np.isfinite(fills.move).all():
        raise ValueError("move: not finite at some row; only finite moves can be traded")
    shape = (len(target), target.shape[1] if target.ndim > 1 else 1)
    move, years, volume, outcome, half_spread = (each.reshape(shape) for each in fills.list_arrays())
    shares = np.full(len(target), shape[1], np.float64) if sharing is None else np.asarray(sharing, np.float64)
    net, amounts = _trade_rows(target.reshape(shape), (move, years, volume, outcome, half_spread), shares, terms)
    position, turnover, gross, interest = (each.reshape(target.shape) for each in amounts)
    return Backtest(net, position, turnover, gross, turnover * (terms.cost + fills.half_spread), interest)


def trade_runs(target: np.ndarray, fills: Fills, run: np.ndarray, terms: Terms) -> Backtest:
    """Return the backtest of one account over runs of rows; `run` (N,) numbers them; each starts and ends flat."""
    starts = np.flatnonzero(np.append(True, np.diff(run) != 0)[: len(run)])
    parts = [
        trade(target[a:b], fills.take(np.arange(a, b)), terms)
        for a, b in zip(starts, np.append(starts[1:], len(run)), strict=True)
    ]
    names = ("net", "position", "turnover", "gross", "cost", "interest")
    return Backtest(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def backtest(
    score: np.ndarray,
    bars: pd.DataFrame,
    *,
    fee_bps: float,
    slippage_bps: float,
    no_trade_band: float = 0.0,
    borrow_rate: float = 0.0,
    delay_bars: int = 0,
    long_only: bool = False,
    capital: float | None = None,
    max_participation: float | None = None,
) -> Backtest:
    """Return the backtest of scores (N,) of one symbol, each decided at the close of its bar.

    Args:
        score: target positions in [-1, 1], one for each bar; NaN where there is none: the position is closed.
        bars: N clean bars in order: symbol, segment, open_time (ms), open, close, volume and quote_volume. Row i's
            order fills at the open of bar i + 1 + delay_bars, see `find_fills`.
        fee_bps: see `make_terms`, as for all that follow but the delay.
        delay_bars: bars between a decision and its fill, beyond the next open.

    Raises:
        ValueError: a score outside [-1, 1], unequal lengths, several symbols, or a term out of range.
    """
    score = np.asarray(score, np.float64)
    if score.shape != (len(bars),):
        raise ValueError(f"score is {score.shape}, bars are {len(bars)}; give one score for each bar")
    if bars["symbol"].nunique() > 1:
        raise ValueError(f"bars are of {', '.join(map(str, bars['symbol'].unique()))}; give those of one symbol")
    outside = np.abs(score) > 1
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise ValueError(f"score: {score[row]} at row {row}; a score must be within [-1, 1]")
    terms = make_terms(
        fee_bps=fee_bps,
        slippage_bps=slippage_bps,
        borrow_rate=borrow_rate,
        no_trade_band=no_trade_band,
        long_only=long_only,
        capital=capital,
        max_participation=max_participation,
    )
    return trade(score, find_fills(bars, delay_bars=delay_bars), terms)


@njit(cache=True)
def _trade_rows(
    target: np.ndarray, fills: FillArrays, sharing: np.ndarray, terms: Terms
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Return (T,) net returns, and (T, S) position, turnover, gross and interest; see `trade`."""
    (move, years, volume, outcome, half_spread), (rows, symbols) = fills, target.shape
    net, held = np.zeros(rows), np.zeros(symbols)
    position, turnover = np.zeros((rows, symbols)), np.zeros((rows, symbols))
    gross, interest = np.zeros((rows, symbols)), np.zeros((rows, symbols))
    for i in range(rows):
        n = sharing[i]
        for s in range(symbols):
            weight = fill_order(target[i, s], held[s], volume[i, s] * (n / symbols), outcome[i, s], terms)
            step = earn(weight, held[s], move[i, s], years[i, s], terms, half_spread[i, s])
            position[i, s], turnover[i, s] = weight, step.turnover / n
            gross[i, s], interest[i, s] = step.gross / n, step.interest / n
            net[i] += step.net / n
        if net[i] <= -1.0:  # ruin: nothing is left to trade with
            break
        for s in range(symbols):
            held[s] = drift(position[i, s], move[i, s], net[i]) * (sharing[min(i + 1, rows - 1)] / n)
        if i == rows - 1:  # close what is held
            closed, spreads = np.abs(held) * ((1.0 + net[i]) / n), 0.0
            for s in range(symbols):  # `turnover[i] += closed` takes as long to compile as all the rest
                turnover[i, s] += closed[s]
                spreads += closed[s] * half_spread[i, s]
            net[i] -= closed.sum() * terms.cost + spreads
    return net, (position, turnover, gross, interest)
