"""Series of a model's net returns, as the report shows them: drawdowns, months, hours, rolling Sharpe ratios, tails."""

from dataclasses import dataclass

import numpy as np

from pipeline.evaluation import performance

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
ROUNDING = 1e-12  # of an equity: a smaller fall from its peak is an error of arithmetic


@dataclass(frozen=True)
class Drawdown:
    """A fall of the equity from its highest value so far; `end_ms` is None where it has not recovered."""

    start_ms: int
    trough_ms: int
    end_ms: int | None
    depth: float  # positive fraction
    bars: int


@dataclass(frozen=True)
class Profile:
    """Mean returns of parts of the day or week, with the standard error of each; NaN without two observations."""

    mean: np.ndarray  # (parts,)
    error: np.ndarray  # (parts,)
    count: np.ndarray  # (parts,) observations


@dataclass(frozen=True)
class Tails:
    """Quantiles and the means beyond them, of returns that are not 0; NaN without any."""

    bars: int
    low_quantile: float
    low_mean: float  # expected shortfall
    high_quantile: float
    high_mean: float


def measure_underwater(net: np.ndarray) -> np.ndarray:
    """Return (T,) how far the equity stands below its highest value so far, from 0 down to -1."""
    equity = performance.compound_equity(net)
    return np.asarray(equity / np.maximum.accumulate(np.maximum(equity, 1.0)) - 1.0)


def list_drawdowns(time_ms: np.ndarray, net: np.ndarray, *, top: int) -> list[Drawdown]:
    """Return the deepest `top` drawdowns of (T,) net returns, the deepest first."""
    depth = -measure_underwater(net)
    is_under = np.concatenate([[False], depth > ROUNDING, [False]])
    starts, stops = (np.flatnonzero(np.diff(is_under.astype(np.int8)) == sign) for sign in (1, -1))
    found = [
        Drawdown(
            start_ms=int(time_ms[start]),
            trough_ms=int(time_ms[start + depth[start:stop].argmax()]),
            end_ms=int(time_ms[stop]) if stop < len(time_ms) else None,
            depth=float(depth[start:stop].max()),
            bars=int(stop - start),
        )
        for start, stop in zip(starts, stops, strict=True)
    ]
    return sorted(found, key=lambda each: (-each.depth, each.start_ms))[:top]


def compound_months(time_ms: np.ndarray, net: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the UTC months (M,), such as 2024-01, and the compounded returns (M, paths) of (T, paths)."""
    months = time_ms.astype("datetime64[ms]").astype("datetime64[M]")
    names, first = np.unique(months, return_index=True)
    if not len(names):
        return [], np.empty((0, net.shape[1]))
    return [str(name) for name in names], np.multiply.reduceat(1.0 + net, first, axis=0) - 1.0


def profile_hours(time_ms: np.ndarray, net: np.ndarray) -> Profile:
    """Return the mean return of each UTC hour of the day: one observation is the sum over one hour's bars (T,)."""
    hours, first = np.unique(time_ms // HOUR_MS, return_index=True)
    sums = np.add.reduceat(net, first) if len(hours) else np.empty(0)
    return _average_parts(sums, hours % 24, parts=24)


def profile_weekdays(days: np.ndarray, returns: np.ndarray) -> Profile:
    """Return the mean daily return of each weekday, Monday first, of days (D,) since 1970-01-01."""
    return _average_parts(returns, (days + 3) % 7, parts=7)  # 1970-01-01 was a Thursday


def roll_sharpe(returns: np.ndarray, *, window: int, days_per_year: float) -> np.ndarray:
    """Return (D - window + 1,) annualized Sharpe ratios of `window` daily returns in a row.

    NaN where the returns are constant; empty where there are fewer days than a window.
    """
    if len(returns) < window:
        return np.empty(0)
    runs = np.lib.stride_tricks.sliding_window_view(returns, window).T  # (window, D - window + 1)
    return np.atleast_1d(performance.sharpe(runs, bars_per_year=days_per_year))


def measure_tails(net: np.ndarray, *, share: float) -> Tails:
    """Return the `share` quantiles of both ends of the returns that are not 0, and the means beyond them."""
    traded = np.sort(net[net != 0])
    if not len(traded):
        return Tails(0, np.nan, np.nan, np.nan, np.nan)
    count = max(1, round(share * len(traded)))
    low, high = traded[:count], traded[-count:]
    return Tails(len(traded), float(low[-1]), float(low.mean()), float(high[0]), float(high.mean()))


def _average_parts(values: np.ndarray, part: np.ndarray, *, parts: int) -> Profile:
    count = np.bincount(part, minlength=parts)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(part, weights=values, minlength=parts) / count
        squares = np.bincount(part, weights=(values - mean[part]) ** 2, minlength=parts)
        error = np.sqrt(squares / (count - 1) / count)
    return Profile(mean, np.where(count > 1, error, np.nan), count)
