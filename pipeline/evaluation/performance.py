"""The Sharpe family: metrics of the net returns of a strategy. An undefined metric is NaN, with its reason.

Returns are per bar, net of costs, as fractions of the capital. Equity starts at 1 and compounds. A bar that loses
everything or more leaves 0.
"""

from typing import Annotated

import numpy as np
from annotated_types import Interval

from pipeline.scale import ROUNDING, is_constant, is_negligible

DAY_MS = 86_400_000
REASONS = {  # why a metric of returns that trade is undefined
    "sharpe": "the return never varies",
    "sharpe_daily": "the return never varies from day to day",
    "sortino": "no losing bar",
    "calmar": "no drawdown",
    "profit_factor": "no losing bar",
    "win_rate": "no bar with a gain or a loss",
    "recovery_factor": "no drawdown",
    "average_drawdown": "no drawdown",
}


def require_finite(name: str, values: np.ndarray) -> np.ndarray:
    """Return `values` as float64; ValueError names the first that is NaN or infinite."""
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"{name}: {values[index]} at index {index}; only finite numbers are allowed")
    return values


def _require_series(returns: np.ndarray) -> np.ndarray:
    returns = require_finite("returns", returns)
    if returns.ndim != 1:
        raise ValueError(f"returns: shape {returns.shape}; give the (T,) returns of one strategy")
    return returns


def sharpe(returns: np.ndarray, *, bars_per_year: float = 1.0) -> float | np.ndarray:
    """Return mean over standard deviation (ddof=1), times √bars_per_year.

    A float for (T,) returns, (strategies,) for (T, strategies). Per observation unless `bars_per_year` is given. NaN
    with fewer than 2 bars, or where the return never varies but for rounding, see `is_constant`.
    """
    returns = require_finite("returns", returns)
    ratio = np.full(returns.shape[1:], np.nan)
    if len(returns) > 1:
        deviation = returns.std(axis=0, ddof=1)
        np.divide(returns.mean(axis=0), deviation, out=ratio, where=~is_constant(returns, axis=0))
    scaled = ratio * np.sqrt(bars_per_year)
    return scaled if returns.ndim > 1 else float(scaled)


def declare_rate(*, risk_free_rate: Annotated[float, Interval(gt=-1, lt=1)]) -> float:
    """Return the annual risk-free rate of the section `performance` of params.yaml."""
    return risk_free_rate


def subtract_risk_free(returns: np.ndarray, *, risk_free_rate: float, bars_per_year: float) -> np.ndarray:
    """Return returns per bar in excess of an annual rate; a bar without a gain or a loss holds cash, which earns it."""
    return np.asarray(np.where(returns != 0, returns - risk_free_rate / bars_per_year, 0.0))


def aggregate_days(time_ms: np.ndarray, returns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the UTC days (D,) since 1970-01-01 of bars (T,) in order, and (D, ...) compounded returns of (T, ...)."""
    days, first = np.unique(time_ms // DAY_MS, return_index=True)
    if not len(days):
        return days, np.asarray(returns, np.float64)
    return days, np.multiply.reduceat(np.maximum(1.0 + require_finite("returns", returns), 0.0), first, axis=0) - 1.0


def count_days_per_year(time_ms: np.ndarray, *, bars_per_year: float) -> float:
    """Return the days of a year that have bars: `bars_per_year` over the mean number of bars of a day.

    The first and the last day, which may be cut short, do not count where there are others. Days without a bar, such as
    a weekend of a market with sessions, are no days.
    """
    bars = np.unique(time_ms // DAY_MS, return_counts=True)[1]
    return bars_per_year / float(np.mean(bars[1:-1]) if len(bars) > 2 else np.median(bars))


def measure_daily_sharpe(time_ms: np.ndarray, returns: np.ndarray, *, bars_per_year: float) -> float:
    """Return the annualized Sharpe ratio of the daily returns of bars (T,).

    NaN without bars, and where the return of bars never varies: days of fewer bars would be its only variation.
    """
    if not len(time_ms) or is_constant(returns):
        return np.nan
    days_per_year = count_days_per_year(time_ms, bars_per_year=bars_per_year)
    return float(sharpe(aggregate_days(time_ms, returns)[1], bars_per_year=days_per_year))


def sortino(returns: np.ndarray, *, bars_per_year: float = 1.0) -> float:
    """Return mean over downside deviation (target 0, over all bars), times √bars_per_year; NaN without a losing bar."""
    returns = _require_series(returns)
    if not _find_losses(returns).any():
        return np.nan
    downside = np.sqrt(np.mean(np.minimum(returns, 0.0) ** 2))
    return float(returns.mean() / downside * np.sqrt(bars_per_year))


def calmar(returns: np.ndarray, *, bars_per_year: float = 1.0) -> float:
    """Return the compound annual return over the maximum drawdown; NaN without a drawdown or beyond a float's range."""
    drawdown = max_drawdown(returns)
    if not drawdown > ROUNDING:
        return np.nan
    with np.errstate(over="ignore"):  # a good hour, compounded over a year, can exceed the largest float
        growth = np.float64(compound_equity(returns)[-1]) ** (bars_per_year / len(returns))
    return float((growth - 1.0) / drawdown) if np.isfinite(growth) else np.nan


def compound_equity(returns: np.ndarray) -> np.ndarray:
    """Return the (T,) equity after each bar of (T,) returns; it is 1 before the first."""
    return np.cumprod(np.maximum(1.0 + _require_series(returns), 0.0))


def max_drawdown(returns: np.ndarray) -> float:
    """Return the largest fall of the equity from its running maximum, as a positive fraction; NaN without bars."""
    if not len(returns):
        return np.nan
    equity = np.concatenate([[1.0], compound_equity(returns)])
    return float(np.max(1.0 - equity / np.maximum.accumulate(equity)))


def average_drawdown(returns: np.ndarray) -> float:
    """Return the mean over the drawdowns of their depth, as a positive fraction; NaN without a drawdown.

    A drawdown lasts from one maximum of the equity to the next; its depth is its largest fall.
    """
    if not len(returns):
        return np.nan
    equity = np.concatenate([[1.0], compound_equity(returns)])
    depth = 1.0 - equity / np.maximum.accumulate(equity)
    begins = np.flatnonzero((depth[1:] > 0) & (depth[:-1] == 0)) + 1
    return float(np.mean(np.maximum.reduceat(depth, begins))) if len(begins) else np.nan


def profit_factor(returns: np.ndarray) -> float:
    """Return the sum of gains over the sum of losses; NaN without a losing bar."""
    returns = _require_series(returns)
    losses = -returns[_find_losses(returns)].sum()
    return float(returns[returns > 0].sum() / losses) if losses else np.nan


def win_rate(returns: np.ndarray) -> float:
    """Return the share of gains among the bars with a gain or a loss; NaN without such a bar."""
    returns = _require_series(returns)
    decided = np.count_nonzero(~is_negligible(returns))
    return float(np.count_nonzero((returns > 0) & ~is_negligible(returns)) / decided) if decided else np.nan


def recovery_factor(returns: np.ndarray) -> float:
    """Return the total compound return over the maximum drawdown; NaN without a drawdown."""
    drawdown = max_drawdown(returns)
    return float((compound_equity(returns)[-1] - 1.0) / drawdown) if drawdown > ROUNDING else np.nan


def _find_losses(returns: np.ndarray) -> np.ndarray:
    """Return (T,) which bars lose, but for rounding."""
    return np.asarray((returns < 0) & ~is_negligible(returns))


def find_median_path(sharpes: np.ndarray) -> int:
    """Return the index of the median of (paths,) Sharpe ratios, the lower of two; NaN, a path without trade, is 0."""
    return int(np.argsort(np.nan_to_num(sharpes, nan=0.0), kind="stable")[(len(sharpes) - 1) // 2])


def measure_trading(
    time_ms: np.ndarray, returns: np.ndarray, turnover: np.ndarray, *, bars_per_year: float, risk_free_rate: float
) -> tuple[dict[str, float], dict[str, str]]:
    """Return every trading metric of (T,) net returns by name, and the reason of each that is NaN.

    `turnover` (T,) is the share of the capital traded at each bar. The metric `turnover` is its mean. Sharpe, Sortino
    and Calmar are annualized; Sharpe and Sortino are of the excess over the annual `risk_free_rate`.
    """
    traded = require_finite("turnover", turnover)
    excess = subtract_risk_free(returns, risk_free_rate=risk_free_rate, bars_per_year=bars_per_year)
    metrics = {
        "sharpe_daily": measure_daily_sharpe(time_ms, excess, bars_per_year=bars_per_year),
        "sharpe": float(sharpe(excess, bars_per_year=bars_per_year)),
        "sortino": sortino(excess, bars_per_year=bars_per_year),
        "calmar": calmar(returns, bars_per_year=bars_per_year),
        "max_drawdown": max_drawdown(returns),
        "average_drawdown": average_drawdown(returns),
        "win_rate": win_rate(returns),
        "profit_factor": profit_factor(returns),
        "recovery_factor": recovery_factor(returns),
        "net_return": float(compound_equity(returns)[-1] - 1.0) if len(returns) else np.nan,
        "turnover": float(traded.mean()) if len(traded) else np.nan,
    }
    undefined = [name for name, value in metrics.items() if np.isnan(value)]
    days = len(np.unique(time_ms // DAY_MS))
    return metrics, {name: _explain_undefined(name, returns=returns, turnover=traded, days=days) for name in undefined}


def _explain_undefined(name: str, *, returns: np.ndarray, turnover: np.ndarray, days: int) -> str:
    if not len(returns):
        return "no bars"
    if not turnover.any():
        return "no trade"
    if name == "sharpe" and len(returns) < 2:
        return "fewer than 2 bars"
    if name == "sharpe_daily" and days < 2:
        return "fewer than 2 days"
    if name == "calmar" and max_drawdown(returns) > ROUNDING:
        return "the annualized return is beyond a float's range"
    return REASONS[name]
