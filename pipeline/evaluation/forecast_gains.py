"""Does a model beat the simplest ones? Its gain over each baseline on the same rows, with bootstrap intervals.

The baselines are the class shares or the mean of the train rows (`constant`), the previous label, and a linear model.
Gains are of the loss, of the hit rate and of the IC. Intervals are those of the stationary bootstrap of
`bootstrap.draw_blocks` over instants, by percentiles: the rows of one instant stay together. That of the IC resamples
its influence function, see `correlations`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.evaluation.bootstrap import MIN_BARS, draw_blocks, estimate_dependence, sum_blocks
from pipeline.evaluation.correlations import standardize
from pipeline.evaluation.forecast_parts import find_sides
from pipeline.scale import is_constant
from pipeline.targets import Output

NAN = float("nan")


def measure_losses(y: np.ndarray, prediction: np.ndarray, output: Output) -> tuple[np.ndarray, str] | None:
    """Return (N,) the loss of each prediction (N, outputs), and its name; None for a position, which forecasts no y.

    It is the Brier score of classes, the mean pinball loss of quantiles, and the squared error of other values,
    of horizons that of the last.
    """
    if output.kind == "position":
        return None
    if output.is_classification:
        return ((prediction - np.eye(len(output.names))[y.astype(np.int64)]) ** 2).sum(axis=1), "brier"
    if output.kind == "quantiles":
        error, levels = y[:, None] - prediction, np.asarray(output.levels)
        return np.maximum(levels * error, (levels - 1) * error).mean(axis=1), "pinball_loss"
    return (y - output.take_center(prediction)) ** 2, "squared_error"


def take_indicator(prediction: np.ndarray, output: Output) -> np.ndarray:
    """Return the number (N,) that correlates with y: P(last class) − P(first class), or the center of a prediction."""
    if output.is_classification:
        return np.asarray(prediction[:, -1] - prediction[:, 0])
    return output.take_center(prediction)


@dataclass(frozen=True)
class Gain:
    """A gain over a baseline, and the influence of each row on it, of mean 0; or why it is undefined."""

    value: float
    influence: np.ndarray | None = None  # (N,)
    reason: str | None = None


def measure_gains(
    y: np.ndarray,
    model: np.ndarray,
    baselines: Mapping[str, np.ndarray],
    instant: np.ndarray,
    *,
    output: Output,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the gains of the predictions (N, outputs) of a model over those of each baseline, for the same y (N,).

    `loss` is the share of the baseline's mean loss that the model saves, `hit_rate` and `ic` are differences. Each has
    its interval, and `beats`: true where all of it is above 0, false where all is below, null otherwise. `instant` (N,)
    are codes 0, 1 … of the rows' times, in their order.
    """
    own = _describe_forecast(y, model.astype(np.float64), output)
    gains = {
        (name, metric): gain
        for name, prediction in baselines.items()
        for metric, gain in _list_gains(y, own, _describe_forecast(y, prediction.astype(np.float64), output), output)
    }
    known = [gain.influence for gain in gains.values() if gain.influence is not None]
    influences = np.column_stack(known) if known else np.empty((len(y), 0))
    settings = {"confidence": confidence, "resamples": resamples, "seed": seed}
    intervals = iter(bootstrap_means(influences, instant, **settings))  # type: ignore[arg-type]
    described: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in baselines}
    for (name, metric), gain in gains.items():
        low, high = (NAN, NAN) if gain.influence is None else (gain.value + end for end in next(intervals))
        reason = gain.reason or ("too few instants for an interval" if np.isnan(low) else None)
        beats = judge_interval(low=low, high=high)
        described[name][metric] = {"value": gain.value, "low": low, "high": high, "beats": beats, "reason": reason}
    return described


def judge_interval(*, low: float, high: float) -> bool | None:
    """Return whether an interval lies above 0 (true) or below (false); None where it holds 0 or is undefined."""
    return True if low > 0 else False if high < 0 else None


@dataclass(frozen=True)
class _Forecast:
    """The row-by-row parts of predictions that gains are made of."""

    loss: np.ndarray | None  # (N,)
    is_hit: np.ndarray | None  # (N,) whether a row with a direction is predicted on its side
    scores: np.ndarray | None  # (N,) the indicator with mean 0 and variance 1; None where it never varies


def _describe_forecast(y: np.ndarray, prediction: np.ndarray, output: Output) -> _Forecast:
    indicator, losses = take_indicator(prediction, output), measure_losses(y, prediction, output)
    is_hit = None
    if output.has_direction:
        side, neutral = find_sides(y, output), 0.0 if output.is_classification else output.neutral
        is_hit = (np.sign(indicator - neutral) == side) & (side != 0)
    scores = None if is_constant(indicator) else standardize(indicator)
    return _Forecast(losses[0] if losses else None, is_hit, scores)


def _list_gains(y: np.ndarray, own: _Forecast, other: _Forecast, output: Output) -> Iterator[tuple[str, Gain]]:
    yield "loss", _compare_losses(own.loss, other.loss)
    if own.is_hit is not None and other.is_hit is not None:
        decided = find_sides(y, output) != 0
        yield "hit_rate", _compare_hits(own.is_hit, other.is_hit, decided)
    yield "ic", _compare_correlations(y.astype(np.float64), own.scores, other.scores)


def _compare_losses(own: np.ndarray | None, other: np.ndarray | None) -> Gain:
    if own is None or other is None:
        return Gain(NAN, reason="a position forecasts no value")
    level = float(other.mean())
    if not level > 0:
        return Gain(NAN, reason="the baseline has no loss")
    value = 1.0 - float(own.mean()) / level
    return Gain(value, ((1.0 - value) * other - own) / level)  # of a ratio of means


def _compare_hits(own: np.ndarray, other: np.ndarray, decided: np.ndarray) -> Gain:
    share = float(decided.mean())
    if not share > 0:
        return Gain(NAN, reason="no y has a direction")
    difference = own.astype(np.float64) - other
    value = float(difference.mean()) / share
    return Gain(value, (difference - value * decided) / share)


def _compare_correlations(y: np.ndarray, own: np.ndarray | None, other: np.ndarray | None) -> Gain:
    if own is None or other is None or is_constant(y):
        return Gain(NAN, reason="y, the model or the baseline never varies")
    target = standardize(y)
    first, second = (float(target @ scores) / len(y) for scores in (own, other))
    influence = target * (own - other) - first / 2 * (target**2 + own**2) + second / 2 * (target**2 + other**2)
    return Gain(first - second, influence - influence.mean())


def bootstrap_means(
    values: np.ndarray, instant: np.ndarray, *, confidence: float, resamples: int, seed: int
) -> np.ndarray:
    """Return (columns, 2) the ends of the interval of the mean of (N, columns) values of mean 0, around 0.

    Blocks are of instants, of the mean length that the column with the longest dependence needs. The ends are NaN with
    fewer than `MIN_BARS` instants, and 0 for a column that never varies.
    """
    rows = len(values)
    by_instant = (
        np.column_stack([np.bincount(instant, weights=column) for column in values.T]) if values.size else values
    )
    if len(by_instant) < MIN_BARS or not values.size:
        return np.full((values.shape[1], 2), NAN)
    varying = ~is_constant(by_instant, axis=0)
    lengths = [estimate_dependence(column).block_bars for column in by_instant[:, varying].T]
    block_bars = max(len(by_instant) ** (1 / 3), *lengths, 1.0)
    running = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(by_instant, axis=0)])
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    for i in range(resamples):
        start, length = draw_blocks(rng, bars=len(by_instant), block_bars=block_bars)
        means[i] = sum_blocks(running, start, length).sum(axis=0) / rows
    tail = (1.0 - confidence) / 2.0
    return np.asarray(np.quantile(means, [tail, 1.0 - tail], axis=0).T)
