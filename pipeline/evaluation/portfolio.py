"""Predictions as a portfolio: from scores to target positions, on one clock for all symbols, and their backtest."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from pipeline import trading
from pipeline.evaluation.evaluation_data import EvaluationData
from pipeline.evaluation.position_sizing import size_scores
from pipeline.trading import Backtest
from pipeline.trading_rules import list_terms


@dataclass(frozen=True, eq=False)
class PortfolioResult:
    """Predictions traded bar by bar, all symbols on one clock; amounts are shares of the whole capital."""

    time: np.ndarray  # (T,) of the decisions, on the dataset's clock; a regular grid where that is one
    symbols: tuple[str, ...]  # S
    backtest: Backtest  # net (T,); position, turnover, gross, cost and interest (T, S)
    crosses_gap: np.ndarray  # (T, S) bool, whether what a row holds is held while bars are missing
    is_predicted: np.ndarray  # (T,) bool, whether any symbol has a prediction
    # (T,) number of symbols that share the capital; not given: all
    sharing: np.ndarray = field(default_factory=lambda: np.empty(0))
    # (T, S) half spread that a trade at the row costs, relative to the mid; not given: 0
    half_spread: np.ndarray = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        """Let all symbols share the capital at all times, and no spread be paid, where nothing else is given."""
        if len(self.sharing) != len(self.time):
            object.__setattr__(self, "sharing", np.full(len(self.time), len(self.symbols)))
        if len(self.half_spread) != len(self.time):
            object.__setattr__(self, "half_spread", np.zeros((len(self.time), len(self.symbols))))

    @property
    def is_active(self) -> np.ndarray:
        """(T,) bool, whether there is a prediction, or something is earned or charged."""
        return np.asarray(self.is_predicted | (self.backtest.net != 0))

    @property
    def turnover(self) -> np.ndarray:
        """(T,) share of the capital that is traded."""
        return np.asarray(self.backtest.turnover.sum(axis=1))

    @cached_property
    def totals(self) -> dict[str, float]:
        """Sums over the bars, as shares of the capital: gross return and that of gaps, costs, interest, turnover."""
        result = self.backtest
        gross, gap = float(result.gross.sum()), float(result.gross[self.crosses_gap].sum())
        cost, interest, turnover = (float(each.sum()) for each in (result.cost, result.interest, result.turnover))
        return {"gross_return": gross, "gap_return": gap, "costs": cost, "interest": interest, "turnover": turnover}

    @property
    def half_spread_bps(self) -> float:
        """Mean half spread of what is traded, in bps of its value: 0 where fills have none, or nothing is traded."""
        traded = self.backtest.turnover.sum()
        spread = (self.backtest.turnover * self.half_spread).sum()
        return float(1e4 * spread / traded) if traded > 0 else 0.0

    @property
    def exposure(self) -> float:
        """Mean value held, long or short, as a share of the capital, over the bars that have a prediction."""
        held = np.abs(self.backtest.position).sum(axis=1) / self.sharing
        return float(held[self.is_predicted].mean())


def size_positions(predictions: pd.DataFrame, data: EvaluationData) -> np.ndarray:
    """Return (n,) target positions in [-1, 1], see `size_scores`."""
    return size_scores(
        *(predictions[name].to_numpy() for name in ("score", "score_std")),
        kind=data.output.kind,
        full_position_std=data.rules.full_position_std,
    )


def trade_predictions(
    predictions: pd.DataFrame,
    data: EvaluationData,
    *,
    delay_bars: int | None = None,
    cost_bps: float | None = None,
    capital: float | None = None,
    spread_factor: float = 1.0,
) -> PortfolioResult:
    """Return the backtest of predictions of rows in any order, at most one for each.

    What is None is as in params; `cost_bps` replaces the fee and the slippage of each side, and `spread_factor`
    multiplies the half spreads of the fills. The capital is shared by the symbols that are listed, see `count_listed`.
    """
    rules = replace(data.rules, capital=capital or data.rules.capital)
    costs = data.costs if cost_bps is None else replace(data.costs, fee_bps=cost_bps, slippage_bps=0.0)
    grid = data.find_grid(rules.delay_bars if delay_bars is None else delay_bars)
    place = grid.locate(data.rows["time"].to_numpy()[predictions["row"]])
    first, last = int(place.min()), int(place.max())
    grid = grid.slice_times(first, last)
    fills = replace(grid.fills, half_spread=spread_factor * grid.fills.half_spread)
    target = np.full(fills.move.shape, np.nan)
    target[place - first, data.symbol_code[predictions["row"]]] = size_positions(predictions, data)
    share, is_predicted = replace(rules, capital=rules.capital / len(grid.symbols)), ~np.isnan(target)
    sharing = count_listed(is_predicted, grid.last_place)
    result = trading.trade(target, fills, trading.make_terms(**list_terms(share, costs)), sharing=sharing)
    return PortfolioResult(
        grid.time,
        grid.symbols,
        result,
        fills.crosses_gap,
        is_predicted.any(axis=1),
        sharing=sharing,
        half_spread=fills.half_spread,
    )


def count_listed(is_predicted: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return (T,) the number of symbols that share the capital at each row, at least 1.

    A symbol has a share from its first prediction, `is_predicted` (T, S), to the place `last` (S,) of its last bar,
    in a hole too: what it holds is held, and nobody knows when the hole ends. One that is never predicted has none.
    """
    place = np.arange(len(is_predicted))[:, None]
    first = np.where(is_predicted.any(axis=0), is_predicted.argmax(axis=0), len(is_predicted))
    return np.asarray(np.maximum(((first <= place) & (place <= last)).sum(axis=1), 1))


def explain_idleness(predictions: pd.DataFrame, data: EvaluationData) -> str:
    """Return why predictions never trade: how far their largest target position stays within the no-trade band."""
    largest = float(np.abs(size_positions(predictions, data)).max())
    return f"no trade: the largest target position is {largest:.3g}, the no-trade band {data.rules.no_trade_band:g}"
