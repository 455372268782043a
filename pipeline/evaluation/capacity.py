"""The capacity of predictions: how much capital can earn their profit, with market impact.

Capacity is the capital at which the net profit, in money, is largest, and that at which the Sharpe ratio falls to half,
among the capitals from the lowest on that earn.
Vangelisti 2006, "The Capacity of an Equity Strategy", Journal of Portfolio Management 32(2): capacity depends first of
all on the assumed market impact, and is a range rather than a number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from annotated_types import Interval
from pydantic import NonNegativeFloat
from scipy.optimize import brentq

from pipeline import config
from pipeline.evaluation import performance
from pipeline.evaluation.evaluation_data import EvaluationData
from pipeline.evaluation.liquidity import find_missing_columns
from pipeline.evaluation.market_impact import charge_impact, place_illiquidity
from pipeline.evaluation.portfolio import trade_predictions

Floats = npt.NDArray[np.float64]

STEPS_PER_DECADE = 3  # of the capitals that are traded
MIN_SHARPE = 0.25  # of the highest one; by the square-root law a third is left where the profit is largest
TOLERANCE = 0.02  # of the logarithm of a capital
NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class CapacitySettings:
    """The section `capacity` of params.yaml: the market impact, which is charged here alone."""

    impact_coefficient: NonNegativeFloat  # Y of an order's relative cost, Y σ √(value / quote volume)
    impact_window: Annotated[int, Interval(ge=2, le=1_000_000)]  # bars of σ and of the quote volume


class Outcome(NamedTuple):
    """The result of predictions with one capital, net of costs and market impact."""

    net_return: float  # compounded over all bars
    sharpe_daily: float
    profit_per_year: float  # in the quote currency, of the same capital at each bar
    impact_bps: float  # of the value traded
    cut_share: float  # of the orders, limited by `max_participation`


@dataclass(frozen=True)
class Capacity:
    """The outcomes by capital, in the quote currency, and the capacity."""

    impact_coefficient: float
    impact_window: int
    capitals: tuple[float, ...]  # ascending
    net_return: tuple[float, ...]  # see Outcome, as the four that follow
    sharpe_daily: tuple[float, ...]
    profit_per_year: tuple[float, ...]
    impact_bps: tuple[float, ...]
    cut_share: tuple[float, ...]
    max_profit_capital: float  # at which the net profit is largest
    max_profit_per_year: float  # that it is there
    half_sharpe_capital: float  # beyond which less than half of the highest Sharpe ratio is left
    reason: str | None  # why some are NaN


def read_capacity_settings(params: config.Block) -> CapacitySettings:
    """Return the section `capacity`."""
    return config.call_with(CapacitySettings, block=config.look_up(params, "capacity"), name="capacity")


def measure_capacity(
    predictions: pd.DataFrame, data: EvaluationData, *, settings: CapacitySettings, capitals: Sequence[float]
) -> Capacity:
    """Return what predictions earn from the lowest to the highest of `capitals`, net of costs and market impact.

    Args:
        predictions: of rows, at most one for each, such as those of one path; with a score.
        data: bars, rules and costs.
        settings: the market impact.
        capitals: in the quote currency; more are traded between them.
    """
    if missing := find_missing_columns(data.clean):
        return _make_capacity(settings, {}, reason=f"rows are no bars, and have no {', '.join(missing)}")
    grid = data.find_grid(data.rules.delay_bars)
    illiquidity = place_illiquidity(data.clean, grid, window=settings.impact_window, time_column=data.time_column)

    @cache
    def measure(capital: float) -> Outcome:
        return _measure_outcome(
            predictions, data, illiquidity, capital=capital, coefficient=settings.impact_coefficient
        )

    values = list_capitals(capitals, data.rules.capital)
    outcomes = {capital: measure(capital) for capital in values}
    if lack := _explain_lack(outcomes):
        return _make_capacity(settings, outcomes, reason=lack)
    searched = values[: _count_earning(outcomes) + 1]
    sharpe = np.array([outcomes[capital].sharpe_daily for capital in searched])
    peak, why_no_peak = find_max_profit(lambda capital: measure(capital).profit_per_year, searched, sharpe)
    half, why_no_half = find_half_sharpe(lambda capital: measure(capital).sharpe_daily, searched)
    profit = NAN if np.isnan(peak) else measure(peak).profit_per_year
    reason = "; ".join(each for each in (why_no_peak, why_no_half) if each)
    return _make_capacity(settings, outcomes, peak=(peak, profit), half=half, reason=reason)


def summarize_capacity(capacity: Capacity) -> dict[str, object]:
    """Return the capacity alone, without the outcomes by capital."""
    names = ("max_profit_capital", "max_profit_per_year", "half_sharpe_capital", "reason")
    return {name: getattr(capacity, name) for name in names}


def list_capitals(capitals: Sequence[float], own: float) -> tuple[float, ...]:
    """Return the capitals that are traded: the given ones, `own`, and some between them.

    >>> [round(each) for each in list_capitals([1000.0, 10_000.0], 5000.0)]
    [1000, 2154, 4642, 5000, 10000]
    """
    given = sorted({*map(float, capitals), float(own)})
    count = int(np.ceil(STEPS_PER_DECADE * np.log10(given[-1] / given[0]) - 1e-9)) + 1
    between = np.geomspace(given[0], given[-1], count)[1:-1]
    new = [float(each) for each in between if not np.isclose(each, given, rtol=1e-6).any()]
    return tuple(sorted([*given, *new]))


def find_max_profit(profit: Callable[[float], float], capitals: Sequence[float], sharpe: Floats) -> tuple[float, str]:
    """Return the capital of the largest profit; or NaN, and why.

    Capitals beyond the last at which `MIN_SHARPE` of the highest Sharpe ratio is left are not searched: their orders
    are so large that a few positions make the profit, by chance. `sharpe` (n,) are those of the capitals (n,).
    """
    values = [profit(capital) for capital in capitals]
    last = int(np.flatnonzero(sharpe >= MIN_SHARPE * sharpe.max())[-1])
    best = int(np.argmax(values[: last + 1]))
    if best in (0, len(capitals) - 1):
        trend = "still rises at" if best else "falls from"
        return NAN, f"no max_profit_capital: the profit {trend} {capitals[best]:g}, the end of the capitals traded"
    if values[best + 1] > values[best]:
        return float(capitals[best]), ""
    around = slice(best - 1, best + 2)
    curve = np.polyfit(np.log(capitals[around]), values[around], 2)  # whose top lies between the three
    return max(float(np.exp(-curve[1] / (2 * curve[0]))), float(capitals[best]), key=profit), ""


def find_half_sharpe(sharpe: Callable[[float], float], capitals: Sequence[float]) -> tuple[float, str]:
    """Return the capital beyond which every one traded has less than half of the highest Sharpe ratio; or NaN, why."""
    values = np.array([sharpe(capital) for capital in capitals])
    half = values.max() / 2
    last = int(np.flatnonzero(values >= half)[-1])
    if last == len(capitals) - 1:
        return NAN, (
            f"no half_sharpe_capital: at {capitals[-1]:g}, the highest capital traded, the Sharpe ratio is "
            f"{values[-1]:.3g}, and the highest one {values.max():.3g}"
        )
    bounds = np.log(capitals[last]), np.log(capitals[last + 1])
    return float(np.exp(brentq(lambda x: sharpe(float(np.exp(x))) - half, *bounds, xtol=TOLERANCE))), ""


def _make_capacity(
    settings: CapacitySettings,
    outcomes: Mapping[float, Outcome],
    *,
    peak: tuple[float, float] = (NAN, NAN),
    half: float = NAN,
    reason: str,
) -> Capacity:
    """Return the outcomes by capital with the capacity; `peak` is the capital of the largest profit, and that."""
    found = list(outcomes.values())
    return Capacity(
        impact_coefficient=settings.impact_coefficient,
        impact_window=settings.impact_window,
        capitals=tuple(outcomes),
        net_return=tuple(each.net_return for each in found),
        sharpe_daily=tuple(each.sharpe_daily for each in found),
        profit_per_year=tuple(each.profit_per_year for each in found),
        impact_bps=tuple(each.impact_bps for each in found),
        cut_share=tuple(each.cut_share for each in found),
        max_profit_capital=peak[0],
        max_profit_per_year=peak[1],
        half_sharpe_capital=half,
        reason=reason or None,
    )


def _count_earning(outcomes: Mapping[float, Outcome]) -> int:
    """Return how many capitals earn, from the lowest to the one before the first that does not.

    Beyond that one a profit is no capacity: only orders that `max_participation` cuts tell it from the loss below.
    """
    losing = [not (each.profit_per_year > 0 and each.sharpe_daily > 0) for each in outcomes.values()]
    return [*losing, True].index(True)


def _explain_lack(outcomes: Mapping[float, Outcome]) -> str:
    """Return why predictions have no capacity at all; empty where the lowest capital earns."""
    span, found = f"from {min(outcomes):g} to {max(outcomes):g}", list(outcomes.values())
    if np.isnan([each.impact_bps for each in found]).any():
        return "no capacity: nothing is traded, or no bar before an order has a volume"
    sharpe = [each.sharpe_daily for each in found]
    if not np.isfinite(sharpe).all():
        return "no capacity: the Sharpe ratio of daily returns is undefined at some capital"
    if max(each.profit_per_year for each in found) <= 0 or max(sharpe) <= 0:
        return f"no capacity: costs and market impact exceed the gross return at every capital {span}"
    if not _count_earning(outcomes):
        return (
            f"no capacity: costs exceed the gross return at {min(outcomes):g}, the lowest capital, where market impact "
            "is least; larger ones earn only where max_participation cuts orders"
        )
    return ""


def _measure_outcome(
    predictions: pd.DataFrame, data: EvaluationData, illiquidity: Floats, *, capital: float, coefficient: float
) -> Outcome:
    """Return what predictions earn with a capital; NaN where nothing is traded."""
    result = trade_predictions(predictions, data, capital=capital)
    rules, grid = replace(data.rules, capital=capital), data.find_grid(data.rules.delay_bars)
    impact = charge_impact(result, grid, illiquidity, rules=rules, coefficient=coefficient)
    traded, net = float(result.turnover.sum()), result.backtest.net - impact.cost
    if not impact.orders or not np.isfinite(net).all():
        return Outcome(*[NAN] * 5)
    excess = performance.subtract_risk_free(net, risk_free_rate=data.risk_free_rate, bars_per_year=data.bars_per_year)
    return Outcome(
        net_return=float(performance.compound_equity(net)[-1] - 1.0),
        sharpe_daily=performance.measure_daily_sharpe(
            data.to_ms(result.time), excess, bars_per_year=data.bars_per_year
        ),
        profit_per_year=capital * float(net.mean()) * data.bars_per_year,
        impact_bps=1e4 * float(impact.cost.sum()) / traded,
        cut_share=impact.cut / impact.orders,
    )
