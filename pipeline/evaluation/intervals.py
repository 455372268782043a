"""Intervals between predicted quantiles: their coverage and width by path and by time, fixed and adapted to drift.

Coverage is a share of dependent rows. Its interval is the exact one of a binomial share [1] for the number of
independent rows, of which dependence leaves fewer. Adaptive conformal inference [2] widens or narrows each interval by
the errors that are known when it is made; it shows whether drift is what costs coverage.
[1] Clopper & Pearson 1934, "The Use of Confidence or Fiducial Limits". [2] Gibbs & Candès 2021, "Adaptive Conformal
Inference Under Distribution Shift".
"""

import math
from bisect import bisect_left, insort
from collections import deque
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import betaincinv

from pipeline.evaluation.correlations import estimate_error
from pipeline.evaluation.evaluation_data import EvaluationData
from pipeline.evaluation.forecast_report import ForecastSettings
from pipeline.evaluation.path_metrics import select_path
from pipeline.evaluation.predictions import select_labeled
from pipeline.targets import Output
from pipeline.validation.folds import Folds

SYMMETRIC = 1e-9  # by how much two levels may miss a sum of 1
DECIMALS = 9  # of a coverage, and of a rank before it is rounded up: 10 · (1 − 0.1) is 9
FEW = "too few independent rows"


def list_pairs(output: Output) -> list[tuple[int, int]]:
    """Return the places of the levels that bound each interval around the median, the widest first; none of others."""
    levels = output.levels if output.kind == "quantiles" else ()
    pairs = ((place, len(levels) - 1 - place) for place in range(len(levels) // 2))
    return [(low, high) for low, high in pairs if abs(levels[low] + levels[high] - 1) <= SYMMETRIC]


def describe_intervals(
    predictions: pd.DataFrame, data: EvaluationData, folds: Folds, *, paths: int, settings: ForecastSettings
) -> list[dict[str, Any]]:
    """Return coverage and width of each interval on every path of every seed, JSON-able; empty without intervals.

    An entry has the `nominal` coverage and `paths`: of each path its rows, `coverage` from `low` to `high`, mean
    `width`, shares `below` and `above` the interval, and a `verdict`. `blocks` are the same of equal parts of its
    times, `adaptive` of intervals that adapt to their errors.
    """
    found: list[dict[str, Any]] = []
    if not (pairs := list_pairs(data.output)):
        return found
    tables = [select_labeled(select_path(predictions, data, folds, path), data.is_labeled) for path in range(paths)]
    for low, high in pairs:
        names, levels = data.output.names, data.output.levels
        nominal = round(levels[high] - levels[low], DECIMALS)
        of_paths = [
            describe_path(table, data, ends=(names[low], names[high]), nominal=nominal, settings=settings)
            for table in tables
        ]
        found.append({"quantiles": [names[low], names[high]], "nominal": nominal, "paths": of_paths})
    return found


def describe_path(
    table: pd.DataFrame, data: EvaluationData, *, ends: tuple[str, str], nominal: float, settings: ForecastSettings
) -> dict[str, Any]:
    """Return coverage and width of one interval along a path: of all its rows, by time, and adapted to its errors."""
    table = table.sort_values(["time", "row"], kind="stable")
    rows, time, split = (table[name].to_numpy() for name in ("row", "time", "split"))
    low, high = (table[name].to_numpy(np.float64) for name in ends)
    y = data.y[rows].astype(np.float64)
    label_end = time if data.label_end is None else data.label_end[rows]
    instant = np.unique(time, return_inverse=True)[1]
    known: dict[str, Any] = {"instant": instant, "nominal": nominal, "confidence": settings.confidence}
    adapted_low, adapted_high = low.copy(), high.copy()
    for each in np.unique(split):  # the errors of another fit are no part of what a fit is adapted by
        own = split == each
        margin = adapt_margins(
            measure_scores(y[own], low[own], high[own]),
            time[own],
            label_end[own],
            miscoverage=round(1.0 - nominal, DECIMALS),
            gamma=settings.adaptive_gamma,
            window=settings.adaptive_window,
        )
        adapted_low[own], adapted_high[own] = low[own] - margin, high[own] + margin
    blocks = np.array_split(np.arange(instant[-1] + 1), settings.interval_blocks)
    parts = [np.isin(instant, block) for block in blocks if len(block)]
    return {
        **measure_interval(y, low, high, **known),
        "blocks": [
            {"first_ms": int(data.to_ms(time[part][:1])[0])}
            | measure_interval(y[part], low[part], high[part], **known | {"instant": instant[part] - instant[part][0]})
            for part in parts
        ],
        "adaptive": measure_interval(y, adapted_low, adapted_high, **known),
    }


def measure_scores(y: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return (n,) how far y lies outside its interval; negative inside of it."""
    return np.asarray(np.maximum(low - y, y - high))


def measure_interval(
    y: np.ndarray, low: np.ndarray, high: np.ndarray, *, instant: np.ndarray, nominal: float, confidence: float
) -> dict[str, Any]:
    """Return coverage and width of intervals [low, high] (n,) of y (n,); see `describe_intervals`.

    The width is the mean over intervals with bounds; `unbounded` is the share of the others. `instant` (n,) are codes
    of the rows' times, ascending.
    """
    is_bounded = np.isfinite(high - low)
    width = np.maximum(high - low, 0.0)[is_bounded]
    return measure_coverage((y >= low) & (y <= high), instant, nominal=nominal, confidence=confidence) | {
        "width": float(width.mean()) if len(width) else float("nan"),
        "unbounded": float(1.0 - is_bounded.mean()),
        "below": float((y < low).mean()),
        "above": float((y > high).mean()),
    }


def measure_coverage(
    is_covered: np.ndarray, instant: np.ndarray, *, nominal: float, confidence: float
) -> dict[str, Any]:
    """Return the coverage of rows (n,) bool with its interval and verdict; `instant` as of `measure_interval`."""
    coverage = float(is_covered.mean())
    _, independent = estimate_error(is_covered.astype(np.float64), instant)
    bounds = bound_share(coverage, independent, confidence=confidence)
    return {
        "rows": len(is_covered),
        "independent_rows": independent,
        "coverage": coverage,
        "low": bounds[0],
        "high": bounds[1],
        "verdict": judge_coverage(nominal, bounds),
        "reason": FEW if math.isnan(independent) else None,
    }


def bound_share(share: float, rows: float, *, confidence: float) -> tuple[float, float]:
    """Return the exact interval of a share of independent rows [1], which need not be a whole number; NaN without any.

    >>> [round(end, 4) for end in bound_share(0.8, 10, confidence=0.95)]
    [0.4439, 0.9748]
    """
    if math.isnan(rows):
        return math.nan, math.nan
    tail, hits, misses = (1.0 - confidence) / 2, share * rows, (1.0 - share) * rows
    low = float(betaincinv(hits, misses + 1, tail)) if hits > 0 else 0.0
    return low, float(betaincinv(hits + 1, misses, 1.0 - tail)) if misses > 0 else 1.0


def judge_coverage(nominal: float, bounds: tuple[float, float]) -> str | None:
    """Return whether the nominal coverage is within its bounds, or on which side the true one is; None if unknown."""
    if math.isnan(bounds[0]):
        return None
    return "below nominal" if bounds[1] < nominal else "above nominal" if bounds[0] > nominal else "as nominal"


def adapt_margins(
    scores: np.ndarray, time: np.ndarray, label_end: np.ndarray, *, miscoverage: float, gamma: float, window: int
) -> np.ndarray:
    """Return (n,) by how much adaptive conformal inference widens each interval, of rows ascending by time.

    When a label becomes known, the rate α of errors that is allowed becomes α + gamma·(miscoverage − error) ([2],
    equation 2). The margin is the quantile 1 − α of the last `window` scores that are known; it is without bounds where
    α ≤ 0, and the interval is empty where α ≥ 1. It is 0 until n scores are known of which one has the rank
    ⌈(n + 1)·(1 − miscoverage)⌉, such as 9 for a miscoverage of 0.1. Over n labels the rate
    of errors is within (max(α, 1 − α) + gamma·(1 + d)) / (gamma·n) of the allowed one, with α that of the beginning and
    d the most labels that were unknown at once (proposition 4.1; there d is 0).

    Args:
        scores: (n,) how far y lies outside the interval, see `measure_scores`.
        time: (n,) when each interval is made.
        label_end: (n,) when each y is known; one known at `time` counts there.
        miscoverage: the share of errors that is allowed.
        gamma: the size of a step.
        window: the number of scores.
    """
    known = np.argsort(label_end, kind="stable")
    margins, alpha, taken = np.zeros(len(scores)), miscoverage, 0
    recent, ordered = deque[float](), list[float]()
    for row, now in enumerate(time.tolist()):
        while taken < len(known) and known[taken] < row and label_end[known[taken]] <= now:
            last = int(known[taken])
            alpha += gamma * (miscoverage - float(scores[last] > margins[last]))
            insort(ordered, float(scores[last]))
            recent.append(float(scores[last]))
            if len(recent) > window:
                del ordered[bisect_left(ordered, recent.popleft())]
            taken += 1
        if alpha <= 0 or alpha >= 1:
            margins[row] = math.inf if alpha <= 0 else -math.inf
        elif _find_rank(len(ordered), miscoverage) <= len(ordered):
            margins[row] = ordered[min(_find_rank(len(ordered), alpha), len(ordered)) - 1]
    return margins


def _find_rank(count: int, miscoverage: float) -> int:
    """Return the rank ⌈(n + 1)·(1 − miscoverage)⌉ of the score, from 1 on, that bounds a new one."""
    return math.ceil(round((count + 1) * (1.0 - miscoverage), DECIMALS))


def summarize_intervals(intervals: list[dict[str, Any]]) -> dict[str, float]:
    """Return the headline of the widest interval: means over the paths; empty without intervals."""
    if not intervals:
        return {}
    paths, nominal = intervals[0]["paths"], intervals[0]["nominal"]
    figures = {"coverage": "coverage", "interval_width": "width"}
    means = {name: float(np.mean([path[key] for path in paths])) for name, key in figures.items()}
    adaptive = float(np.mean([path["adaptive"]["coverage"] for path in paths]))
    return {**means, "coverage_nominal": nominal, "coverage_adaptive": adaptive}
