"""Could a result have been earned? The same predictions, traded with other delays, costs and capitals."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
import pandas as pd
from annotated_types import Gt, MinLen
from pydantic import AfterValidator, NonNegativeFloat, PositiveFloat
from pydantic_core import PydanticCustomError

from pipeline.evaluation import performance
from pipeline.evaluation.evaluation_data import EvaluationData
from pipeline.evaluation.liquidity import find_half_spread, find_missing_columns, measure_liquidity
from pipeline.evaluation.path_metrics import measure_amounts
from pipeline.evaluation.portfolio import PortfolioResult, trade_predictions
from pipeline.evaluation.round_trips import list_round_trips
from pipeline.trading_rules import Delay

T = TypeVar("T", int, float)

MAX_GAP_SHARE = 0.2  # of the gross return, earned while bars were missing: above it there is a warning
MAX_IDLE_SHARE = 0.05  # of the bars, without trades: above it there is a warning


def check_ascending(values: list[T]) -> list[T]:
    """Return the values; an error of pydantic where one is not above the one before."""
    if any(later <= earlier for earlier, later in zip(values, values[1:], strict=False)):
        raise PydanticCustomError("ascending", "a list of ascending numbers")
    return values


Ascending = AfterValidator(check_ascending)


@dataclass(frozen=True, kw_only=True)
class ExecutionSettings:
    """The section `execution` of params.yaml: the terms that are varied, and which Sharpe ratio is suspicious."""

    delay_bars: Annotated[list[Delay], MinLen(1), Ascending]  # as in `trading`, which they replace
    cost_factors: Annotated[list[NonNegativeFloat], MinLen(1), Ascending]  # times the cost charged
    capitals: Annotated[list[Annotated[float, Gt(0)]], MinLen(1), Ascending]  # in the quote currency
    max_sharpe_daily: PositiveFloat  # beyond ± this there is a warning


@dataclass(frozen=True)
class Curve:
    """The results of the same predictions by one term of trading."""

    values: tuple[float, ...]  # of the term
    net_return: tuple[float, ...]  # compounded over all bars
    sharpe_daily: tuple[float, ...]
    turnover: tuple[float, ...]  # mean share of the capital per bar
    reason: str | None  # why some are NaN


@dataclass(frozen=True)
class Executability:
    """Whether a positive result could have been earned; None where the question does not arise."""

    is_executable: bool | None
    reasons: tuple[str, ...]  # why not, or why it is None


@dataclass(frozen=True)
class Execution:
    """The results of predictions by delay, cost and capital, and whether they could have been earned.

    Costs are in bps of the value traded, each side.
    """

    charged_bps: float  # fee and slippage, and the mean half spread of the trades where fills have one
    break_even_bps: float  # at which the gross return less interest is used up
    half_spread_bps: float  # of the fills where they have one, else that the data imply
    round_trips: int
    by_delay: Curve  # bars
    by_cost: Curve  # bps
    by_capital: Curve  # in the quote currency
    executability: Executability
    warnings: tuple[str, ...]
    reason: str | None  # why some are NaN


def measure_execution(
    predictions: pd.DataFrame, data: EvaluationData, *, settings: ExecutionSettings, half_spread_bps: float
) -> Execution:
    """Return what predictions earn with other delays, costs and capitals, and whether that could have been earned.

    Args:
        predictions: of rows, at most one for each, such as those of one path; with a score.
        data: bars, rules and costs.
        settings: the terms to vary.
        half_spread_bps: half the bid-ask spread that the data imply, averaged over the trades; NaN where unknown.
    """
    fees, result = data.costs.fee_bps + data.costs.slippage_bps, trade_predictions(predictions, data)
    charged = fees + result.half_spread_bps
    amounts, reasons = measure_amounts(result)
    if np.isnan(half_spread_bps):
        reasons = reasons | {"half_spread_bps": "the data imply none" if result.turnover.any() else "no trade"}
    by_delay = {float(d): trade_predictions(predictions, data, delay_bars=d) for d in settings.delay_bars}
    by_cost = {
        factor * charged: trade_predictions(predictions, data, cost_bps=factor * fees, spread_factor=factor)
        for factor in settings.cost_factors
    }
    by_capital = {capital: trade_predictions(predictions, data, capital=capital) for capital in settings.capitals}
    return Execution(
        charged_bps=charged,
        break_even_bps=amounts["break_even_bps"],
        half_spread_bps=half_spread_bps,
        round_trips=len(list_round_trips(result)),
        by_delay=_make_curve(by_delay, data),
        by_cost=_make_curve(by_cost, data),
        by_capital=_make_curve(by_capital, data),
        executability=judge_executability(predictions, data, half_spread_bps=half_spread_bps),
        warnings=tuple(_find_warnings(result, data, max_sharpe_daily=settings.max_sharpe_daily)),
        reason="; ".join(f"no {name}, {reason}" for name, reason in reasons.items()) or None,
    )


def judge_executability(predictions: pd.DataFrame, data: EvaluationData, *, half_spread_bps: float) -> Executability:
    """Return whether a positive net return survives the half spread that the data imply, and one more bar of delay.

    The half spread replaces a smaller slippage, unless it is charged as it is; NaN leaves that check out.
    """
    result = trade_predictions(predictions, data)
    if not result.turnover.any():
        return Executability(None, ("no trade",))
    if (net := _compound(result)) <= 0:
        return Executability(None, (f"it earns nothing at the costs charged: net {net:.2%}",))
    costs, delay = data.costs, data.rules.delay_bars + 1
    tests: dict[str, dict[str, Any]] = {f"with a delay of {delay} bar{'s' if delay > 1 else ''}": {"delay_bars": delay}}
    if half_spread_bps > costs.slippage_bps and not result.half_spread_bps:
        text = (
            f"with half the spread that the data imply, {half_spread_bps:.3g} bps, as slippage in place of "
            f"{costs.slippage_bps:.3g} bps"
        )
        tests = {text: {"cost_bps": costs.fee_bps + half_spread_bps}} | tests
    nets = {text: _compound(trade_predictions(predictions, data, **change)) for text, change in tests.items()}
    reasons = tuple(f"net {net:.2%} {text}" for text, net in nets.items() if net <= 0)
    return Executability(not reasons, reasons)


def average_half_spread(predictions: pd.DataFrame, data: EvaluationData) -> float:
    """Return half the spread, in bps, averaged over what predictions trade; NaN without a trade.

    It is that of the fills where they have one, else what the bars imply. Only bars up to the last traded one are
    measured: a month that reaches the holdout is measured without it. NaN as well where rows are no bars.
    """
    result = trade_predictions(predictions, data)
    if result.half_spread_bps:
        return result.half_spread_bps
    if find_missing_columns(data.clean):
        return float("nan")
    table = measure_liquidity(data.clean[data.clean[data.time_column] <= result.time[-1]])
    traded, spread = 0.0, 0.0
    for turnover, symbol in zip(result.backtest.turnover.T, result.symbols, strict=True):
        at = np.flatnonzero(turnover > 0)
        half = find_half_spread(table, symbol=symbol, time_ms=result.time[at])
        known = np.isfinite(half)
        traded += float(turnover[at][known].sum())
        spread += float((turnover[at] * half)[known].sum())
    return spread / traded if traded > 0 else float("nan")


def _compound(result: PortfolioResult) -> float:
    """Return the net return, compounded over all bars."""
    return float(performance.compound_equity(result.backtest.net)[-1] - 1.0)


def _measure(result: PortfolioResult, data: EvaluationData) -> tuple[dict[str, float], dict[str, str]]:
    """Return the trading metrics of a portfolio, and the reasons of those that are NaN."""
    return performance.measure_trading(
        data.to_ms(result.time),
        result.backtest.net,
        result.turnover,
        bars_per_year=data.bars_per_year,
        risk_free_rate=data.risk_free_rate,
    )


def _make_curve(results: Mapping[float, PortfolioResult], data: EvaluationData) -> Curve:
    """Return the curve of results by the value of the term."""
    names = ("net_return", "sharpe_daily", "turnover")
    measured = [_measure(result, data) for result in results.values()]
    columns = {name: tuple(metrics[name] for metrics, _ in measured) for name in names}
    reasons = [
        f"no {name} at {value:g}, {undefined[name]}"
        for value, (_, undefined) in zip(results, measured, strict=True)
        for name in names
        if name in undefined
    ]
    return Curve(values=tuple(map(float, results)), **columns, reason="; ".join(reasons) or None)


def _find_warnings(result: PortfolioResult, data: EvaluationData, *, max_sharpe_daily: float) -> Iterator[str]:
    """Yield a sentence about each trait of a result that real trading rarely has."""
    sharpe, totals = _measure(result, data)[0]["sharpe_daily"], result.totals
    if abs(sharpe) > max_sharpe_daily:
        causes = (
            "look-ahead, the bid-ask bounce, stale prices, or costs that are too low"
            if sharpe > 0
            else "a sign, or costs beyond the moves that are predicted"
        )
        yield f"the Sharpe ratio of daily returns is {sharpe:.1f}, beyond ±{max_sharpe_daily:g}: suspect {causes}"
    if totals["gross_return"] > 0 and totals["gap_return"] > MAX_GAP_SHARE * totals["gross_return"]:
        share = totals["gap_return"] / totals["gross_return"]
        yield f"{share:.0%} of the gross return is earned while bars are missing, when nothing can be traded"
    if "volume" in data.clean and (idle := _measure_idle_share(result, data)) > MAX_IDLE_SHARE:
        yield f"{idle:.0%} of the bars have no trades: their prices are stale, and orders wait"


def _measure_idle_share(result: PortfolioResult, data: EvaluationData) -> float:
    """Return the share of bars without trades among those of the traded symbols and times."""
    bars = data.clean
    own = bars[data.time_column].between(result.time[0], result.time[-1]) & bars["symbol"].isin(result.symbols)
    return float((bars["volume"][own] <= 0).mean())
