"""Market impact by the square-root law: what orders cost beyond fees and spreads, by their value.

An order of value Q moves the price by Y σ √(Q/V): σ and V are the volatility and the quote volume of one period, and Y
is about 1 [1]. The law holds on Bitcoin too, and along the whole trajectory of an order that is executed in parts [2].
σ² and V both grow with the length of the period, so that the illiquidity σ/√V does not depend on it [3].
Trades of a symbol on one side, in rows that follow each other, are hence parts of one order, however it is sliced.
[1] Tóth et al. 2011, "Anomalous Price Impact and the Critical Nature of Liquidity in Financial Markets", Physical
Review X 1, 021006. [2] Donier & Bonart 2015, "A Million Metaorder Analysis of Market Impact on the Bitcoin",
arXiv:1412.4503. [3] Donier & Bouchaud 2015, "Why Do Markets Crash? Bitcoin Data Offers Unprecedented Insights", PLoS
ONE 10, e0139356.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from numba import njit

from pipeline.evaluation.portfolio import PortfolioResult
from pipeline.evaluation.trading_grid import TradingGrid
from pipeline.fills import FILLS, WAITS, take_quote_volume
from pipeline.scale import ROUNDING
from pipeline.trading import drift
from pipeline.trading_rules import Rules

Floats = npt.NDArray[np.float64]

COLUMNS = ("segment", "open", "close", "volume", "quote_volume")  # that the illiquidity needs, the last if it is there
SAME = 1e-9  # relative: an order as large as its limit was cut


class Impact(NamedTuple):
    """The cost of the orders of a backtest by their impact, and how many of them the volume has cut."""

    cost: Floats  # (T,) of each row, as a share of the whole capital
    orders: int  # rows and symbols at which a target or a closing changes the position
    cut: int  # of these, limited by `max_participation`


def estimate_illiquidity(bars: pd.DataFrame, *, window: int) -> Floats:
    """Return (N,) the illiquidity σ/√V of bars of one symbol in order, of the last `window` bars up to each.

    σ² is the sum of squared log returns of the close, V that of the quote volume. A bar that follows none in its
    segment counts from its open. At the first bars the window is shorter. Without volume the latest value holds; NaN
    before the first volume.
    """
    close, segment = bars["close"].to_numpy(np.float64), bars["segment"].to_numpy()
    before = bars["open"].to_numpy(np.float64, copy=True)
    before[1:] = np.where(segment[1:] == segment[:-1], close[:-1], before[1:])
    squared, volume = (_sum_last(each, window) for each in (np.log(close / before) ** 2, take_quote_volume(bars)))
    is_known = volume > 0
    latest = np.maximum.accumulate(np.where(is_known, np.arange(len(bars)), -1))
    ratio = np.divide(squared, volume, out=np.full(len(bars), np.nan), where=is_known)
    return np.asarray(np.where(latest >= 0, np.sqrt(np.maximum(ratio[latest], 0.0)), np.nan))


def place_illiquidity(bars: pd.DataFrame, grid: TradingGrid, *, window: int, time_column: str) -> Floats:
    """Return (T, S) the illiquidity of every symbol at the rows of a grid; NaN where it has no bar."""
    placed = np.full((len(grid.time), len(grid.symbols)), np.nan)
    codes = pd.Categorical(bars["symbol"], categories=list(grid.symbols)).codes
    own = bars[[time_column, *(name for name in COLUMNS if name in bars.columns and name != time_column)]]
    for column in range(len(grid.symbols)):
        part = own.iloc[np.flatnonzero(codes == column)]
        placed[grid.locate(part[time_column].to_numpy()), column] = estimate_illiquidity(part, window=window)
    return placed


def charge_impact(
    result: PortfolioResult, grid: TradingGrid, illiquidity: Floats, *, rules: Rules, coefficient: float
) -> Impact:
    """Return the impact of what a result trades, order by order; the result itself is not traded anew.

    An order of value Q costs coefficient · σ/√V · √Q of its value, and its part from Q₁ to Q₂ the difference of
    coefficient · σ/√V · Q^1.5 at both. It lasts while a symbol is traded on one side in rows that follow each other;
    bars at which nothing can be traded do not end it.

    Args:
        result: of predictions traded with `rules`.
        grid: the fills of all rows, as the result was traded; it may begin earlier and end later.
        illiquidity: (T, S) of the rows of the grid, known when their bars close: orders are decided there.
        rules: capital and limits.
        coefficient: Y, at least 0.
    """
    rows = slice(first := int(grid.locate(result.time[:1])[0]), first + len(result.time))
    fills, account = grid.fills, result.backtest
    cost, counts = np.zeros(len(result.time)), np.zeros(2, np.int64)
    _charge_rows(
        (account.position, account.net, result.sharing.astype(np.float64)),
        (fills.move[rows], fills.quote_volume[rows], fills.outcome[rows], illiquidity[rows]),
        (rules.capital, rules.max_participation / rules.capital, 0.0 if rules.long_only else -1.0),
        cost,
        counts,
    )
    return Impact(coefficient * cost, int(counts[0]), int(counts[1]))


def _sum_last(values: Floats, window: int) -> Floats:
    """Return (N,) the sums of the last `window` values up to each."""
    total = np.append(0.0, np.cumsum(values))
    row = np.arange(len(values))
    return np.asarray(total[row + 1] - total[np.maximum(row + 1 - window, 0)])


@njit(cache=True)
def _extend_order(order: np.ndarray, symbol: int, value: float) -> float:
    """Return by how much a signed trade raises |order|^1.5 of a symbol; it extends an order on its side."""
    before = order[symbol] if order[symbol] * value > 0 else 0.0
    order[symbol] = before + value
    return float(abs(order[symbol]) ** 1.5 - abs(before) ** 1.5)


@njit(cache=True)
def _count_order(position: float, held: float, outcome: int, limit: float, lowest: float, counts: np.ndarray) -> None:
    """Add an order to the counts, and whether its change is exactly its limit; cutting a drift back is none."""
    change = abs(position - min(max(held, lowest), 1.0))
    if change > ROUNDING:
        counts[0] += 1
        counts[1] += outcome == FILLS and abs(change - limit) <= SAME * limit


@njit(cache=True)
def _charge_rows(
    account: tuple[np.ndarray, np.ndarray, np.ndarray],
    market: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    limits: tuple[float, float, float],
    cost: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Write (T,) the cost of each row at coefficient 1, and the numbers of orders and of those that are cut."""
    (position, net, sharing), (move, volume, outcome, illiquidity) = account, market
    (capital, participation, lowest), (rows, symbols) = limits, position.shape
    held, order, known = np.zeros(symbols), np.zeros(symbols), np.full(symbols, np.nan)
    for i in range(rows):
        share = capital / sharing[i]  # of a symbol, as its weights are
        for s in range(symbols):
            if not np.isnan(illiquidity[i, s]):
                known[s] = illiquidity[i, s]
            change = position[i, s] - held[s]
            if outcome[i, s] != WAITS:
                limit = participation * volume[i, s] * sharing[i]
                _count_order(position[i, s], held[s], outcome[i, s], limit, lowest, counts)
                if abs(change) > ROUNDING:
                    cost[i] += known[s] * _extend_order(order, s, change * share) / capital
                else:
                    order[s] = 0.0
        if net[i] <= -1.0:  # ruin: nothing is traded afterwards
            break
        for s in range(symbols):
            held[s] = drift(position[i, s], move[i, s], net[i]) * (sharing[min(i + 1, rows - 1)] / sharing[i])
            if i == rows - 1 and abs(held[s]) > ROUNDING:  # what is held is closed
                value = -held[s] * (1.0 + net[i]) * share
                cost[i] += known[s] * _extend_order(order, s, value) / capital
