"""How good the returns of a strategy are: the Sharpe family. Undefined is nan, with the reason in words.

Returns are per bar, net of costs, as fractions of the capital. Equity starts at 1 and compounds; a bar that loses
everything or more leaves 0.
"""

import numpy as np

UNDEFINED = {
    "sharpe": "the return never varies",
    "sortino": "no losing bar",
    "calmar": "no drawdown",
    "profit_factor": "no losing bar",
    "win_rate": "no bar with a gain or a loss",
    "recovery_factor": "no drawdown",
}


def finite(name: str, values: np.ndarray) -> np.ndarray:
    """`values` as float64, none of them nan or infinite; a ValueError names the first that is."""
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"{name}: {values[index]} at index {index}; only finite numbers are allowed")
    return values


def _series(returns: np.ndarray) -> np.ndarray:
    returns = finite("returns", returns)
    if returns.ndim != 1:
        raise ValueError(f"returns: shape {returns.shape}; give the (T,) returns of one strategy")
    return returns


def sharpe(returns: np.ndarray, *, bars_per_year: float = 1.0) -> float | np.ndarray:
    """Mean over standard deviation (ddof=1), times √bars_per_year: a float for (T,), (strategies,) for (T, strategies).

    Per observation unless `bars_per_year` is given. nan with fewer than 2 bars or where the return never varies.
    """
    returns = finite("returns", returns)
    ratio = np.full(returns.shape[1:], np.nan)
    if len(returns) > 1:
        deviation = returns.std(axis=0, ddof=1)
        varies = (np.ptp(returns, axis=0) > 0) & (deviation > 0)  # the deviation of equal numbers is not exactly 0
        np.divide(returns.mean(axis=0), deviation, out=ratio, where=varies)
    scaled = ratio * np.sqrt(bars_per_year)
    return scaled if returns.ndim > 1 else float(scaled)


def sortino(returns: np.ndarray, *, bars_per_year: float = 1.0) -> float:
    """Mean over downside deviation (target 0, over all bars), times √bars_per_year; nan without a losing bar."""
    returns = _series(returns)
    if not (returns < 0).any():
        return np.nan
    downside = np.sqrt(np.mean(np.minimum(returns, 0.0) ** 2))
    return float(returns.mean() / downside * np.sqrt(bars_per_year))


def calmar(returns: np.ndarray, *, bars_per_year: float = 1.0) -> float:
    """Compound return a year over the maximum drawdown; nan without a drawdown or beyond a float's range."""
    drawdown = max_drawdown(returns)
    if not drawdown > 0:
        return np.nan
    with np.errstate(over="ignore"):  # a good hour, compounded over a year, can pass the largest float
        growth = np.float64(equity(returns)[-1]) ** (bars_per_year / len(returns))
    return float((growth - 1.0) / drawdown) if np.isfinite(growth) else np.nan


def equity(returns: np.ndarray) -> np.ndarray:
    """Capital after each bar of (T,) returns, 1 before the first."""
    return np.cumprod(np.maximum(1.0 + _series(returns), 0.0))


def max_drawdown(returns: np.ndarray) -> float:
    """Largest fall of the equity from its highest point so far, as a positive fraction; nan without bars."""
    if not len(returns):
        return np.nan
    capital = np.concatenate([[1.0], equity(returns)])
    return float(np.max(1.0 - capital / np.maximum.accumulate(capital)))


def profit_factor(returns: np.ndarray) -> float:
    """Sum of gains over sum of losses; nan without a losing bar."""
    returns = _series(returns)
    losses = -returns[returns < 0].sum()
    return float(returns[returns > 0].sum() / losses) if losses > 0 else np.nan


def win_rate(returns: np.ndarray) -> float:
    """Share of gains among the bars with a gain or a loss; nan where there is none."""
    returns = _series(returns)
    decided = np.count_nonzero(returns)
    return float(np.count_nonzero(returns > 0) / decided) if decided else np.nan


def recovery_factor(returns: np.ndarray) -> float:
    """Total compound return over the maximum drawdown; nan without a drawdown."""
    drawdown = max_drawdown(returns)
    return float((equity(returns)[-1] - 1.0) / drawdown) if drawdown > 0 else np.nan


def median_path(sharpes: np.ndarray) -> int:
    """The place of the median of (paths,) Sharpe ratios, the lower of two; a path that never trades (nan) earns 0."""
    return int(np.argsort(np.nan_to_num(sharpes, nan=0.0), kind="stable")[(len(sharpes) - 1) // 2])


def trading_figures(
    returns: np.ndarray, turnover: np.ndarray, *, bars_per_year: float
) -> tuple[dict[str, float], dict[str, str]]:
    """Every trading figure of (T,) net returns, and for each that is nan the reason. `turnover`: traded at each bar.

    Ratios are annualised; `turnover` is the mean share of the capital that is traded per bar.
    """
    traded = finite("turnover", turnover)
    figures = {
        "sharpe": float(sharpe(returns, bars_per_year=bars_per_year)),
        "sortino": sortino(returns, bars_per_year=bars_per_year),
        "calmar": calmar(returns, bars_per_year=bars_per_year),
        "max_drawdown": max_drawdown(returns),
        "win_rate": win_rate(returns),
        "profit_factor": profit_factor(returns),
        "recovery_factor": recovery_factor(returns),
        "net_return": float(equity(returns)[-1] - 1.0) if len(returns) else np.nan,
        "turnover": float(traded.mean()) if len(traded) else np.nan,
    }
    undefined = [name for name, figure in figures.items() if np.isnan(figure)]
    return figures, {name: _reason(name, returns=returns, turnover=traded) for name in undefined}


def _reason(name: str, *, returns: np.ndarray, turnover: np.ndarray) -> str:
    if not len(returns):
        return "no bars"
    if not turnover.any():
        return "no trade"
    if name == "sharpe" and len(returns) < 2:
        return "fewer than 2 bars"
    if name == "calmar" and max_drawdown(returns) > 0:
        return "the annualised return is beyond a float's range"
    return UNDEFINED[name]
