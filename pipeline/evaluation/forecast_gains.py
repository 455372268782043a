"""Does a model beat the simplest ones? Its gain over each baseline on the same rows, with bootstrap intervals.

The baselines are the class shares or the mean of the train rows (`constant`), the previous label, and a linear model.
Gains are of the loss, of the hit rate and of the IC. Intervals are those of the stationary bootstrap of
`bootstrap.draw_blocks` over instants, by percentiles: the rows of one instant stay together. That of the IC resamples
its influence function, see `correlations`.
"""

from typing import Any

import numpy as np

from pipeline.evaluation.bootstrap import MIN_BARS, draw_blocks, estimate_dependence, sum_blocks
from pipeline.evaluation.correlations import describe, find_influence
from pipeline.evaluation.forecast_parts import find_sides
from pipeline.scale import is_constant
from pipeline.targets import Output

NAN = float("nan")
LEAST_PROBABILITY = 1e-7


def measure_losses(y: np.ndarray, prediction: np.ndarray, output: Output) -> tuple[np.ndarray, str] | None:
    """Return (N,) the loss of each prediction (N, outputs), and its name; None for a position, which forecasts no y.

    It is the Brier score of classes, the mean pinball loss of quantiles, and the squared error of other values.
    """
    if output.kind == "position":
        return None
    if output.is_classification:
        return ((prediction - np.eye(len(output.names))[y.astype(np.int64)]) ** 2).sum(axis=1), "brier"
    if output.kind == "quantiles":
        error, levels = y[:, None] - prediction, np.asarray(output.levels)
        return np.maximum(levels * error, (levels - 1) * error).mean(axis=1), "pinball_loss"
    return (y - prediction[:, 0]) ** 2, "squared_error"


def take_indicator(prediction: np.ndarray, output: Output) -> np.ndarray:
    """Return the number (N,) that correlates with y: P(last class) − P(first class), or the center of a prediction."""
    if output.is_classification:
        return np.asarray(prediction[:, -1] - prediction[:, 0])
    return output.take_center(prediction)


def measure_gains(
    y: np.ndarray,
    model: np.ndarray,
    baseline: np.ndarray,
    instant: np.ndarray,
    *,
    output: Output,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Return the gains of the predictions (N, outputs) of a model over those of a baseline, for the same y (N,).

    `loss` is the share of the baseline's mean loss that the model saves, `hit_rate` and `ic` are differences. Each has
    its interval, and `beats`: true where all of it is above 0, false where all is below, null otherwise. `instant` (N,)
    are codes 0, 1 … of the rows' times, in their order.
    """
    parts = _list_gains(y, model.astype(np.float64), baseline.astype(np.float64), output)
    undefined = {name: {"value": NAN, "reason": part} for name, part in parts.items() if isinstance(part, str)}
    known = {name: part for name, part in parts.items() if not isinstance(part, str)}
    intervals = bootstrap_means(
        np.column_stack([influence for _, influence in known.values()]) if known else np.empty((len(y), 0)),
        instant,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    gains = {}
    for (name, (value, _)), (low, high) in zip(known.items(), intervals, strict=True):
        ends = {"low": value + low, "high": value + high}
        reason = "too few instants for an interval" if np.isnan(low) else None
        gains[name] = {"value": value, **ends, "beats": judge_interval(**ends), "reason": reason}
    return gains | undefined


def judge_interval(*, low: float, high: float) -> bool | None:
    """Return whether an interval lies above 0 (true) or below (false); None where it holds 0 or is undefined."""
    return True if low > 0 else False if high < 0 else None


def _list_gains(
    y: np.ndarray, model: np.ndarray, baseline: np.ndarray, output: Output
) -> dict[str, tuple[float, np.ndarray] | str]:
    """Return each gain and the (N,) influence of each row on it, of mean 0; or why it is undefined."""
    gains: dict[str, tuple[float, np.ndarray] | str] = {"loss": "a position forecasts no value"}
    if losses := measure_losses(y, model, output):
        simple = measure_losses(y, baseline, output)
        assert simple is not None
        base = float(simple[0].mean())
        saved = (simple[0] - losses[0]) / base if base > 0 else np.zeros(len(y))
        ratio = saved.mean() * (simple[0] / base - 1.0) if base > 0 else 0.0  # the denominator varies as well
        gains["loss"] = (float(saved.mean()), saved - saved.mean() - ratio) if base > 0 else "the baseline has no loss"
    if output.has_direction:
        side = find_sides(y, output)
        hits = [
            np.where(side != 0, np.sign(take_indicator(p, output) - _find_center(output)) == side, 0.0)
            for p in (model, baseline)
        ]
        decided = float((side != 0).mean())
        difference = hits[0] - hits[1]
        value = float(difference.mean() / decided) if decided else NAN
        gains["hit_rate"] = (value, (difference - value * (side != 0)) / decided) if decided else "y has no direction"
    target, own, other = (
        describe(v.astype(np.float64)) for v in (y, take_indicator(model, output), take_indicator(baseline, output))
    )
    if target is None or own is None or other is None:
        gains["ic"] = "y, the model or the baseline never varies"
        return gains
    ics = [float(target.scores[0] @ each.scores[0] / len(y)) for each in (own, other)]
    influence = find_influence(target, own, ics[0]) - find_influence(target, other, ics[1])
    gains["ic"] = ics[0] - ics[1], influence - influence.mean()
    return gains


def _find_center(output: Output) -> float:
    return 0.0 if output.is_classification else output.neutral


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
