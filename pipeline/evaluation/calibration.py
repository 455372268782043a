"""Calibration of forecasts as numbers: Brier score, expected calibration error, recalibration slope and intercept.

Probabilities are recalibrated by logit P(event) = intercept + slope · logit p [1]. Numbers are regressed as y =
intercept + slope · ŷ [2]. A calibrated forecast has the slope 1 and the intercept 0; a slope below 1 is overconfident.
The expected calibration error takes bins of equally many rows [3], of each class by itself [4].
[1] Cox 1958, "Two Further Applications of a Model for Binary Regression". [2] Mincer & Zarnowitz 1969, "The Evaluation
of Economic Forecasts". [3] Nguyen & O'Connor 2015, "Posterior Calibration and Exploratory Analysis for Natural Language
Processing Models". [4] Kull et al. 2019, "Beyond Temperature Scaling".
"""

import numpy as np
from scipy.special import expit, logit

from pipeline.evaluation.correlations import estimate_error
from pipeline.evaluation.forecast import Metrics, measure_coverage
from pipeline.scale import is_constant
from pipeline.targets import Output

LEAST_PROBABILITY = 1e-7  # about the step of float32 below 1: nearer to 0 or 1 a probability has no finite logit
MAX_STEPS = 50  # of Newton's method, which needs about 6
MAX_LOGIT_STEP = 1e-6  # at which it has converged: the next step would be its square
MAX_SLOPE = 1e3  # beyond it events are separated by the forecast, and no slope is finite
NO_VALUE = "a position forecasts no value"


def measure_calibration(
    y: np.ndarray, prediction: np.ndarray, instant: np.ndarray, *, output: Output, bins: int
) -> Metrics:
    """Return the calibration of predictions (N, outputs) of y (N,), and the reason of each metric that is NaN.

    Of classes they are `ece`, the mean over the classes, and `brier_`, `ece_`, `slope_` and `intercept_` of each class.
    Where a class is neutral, `_direction` has them of P(up) / (P(up) + P(down)) over the rows that are not neutral. Of
    numbers they are `slope` and `intercept` with standard errors, and `bias_share`, the mean error in standard
    deviations of y. Of quantiles `ece` is the mean |coverage − level|. A position has no calibration.

    Args:
        y: values, or class codes.
        prediction: of the same rows.
        instant: (N,) codes 0, 1 … of the rows' times, in their order: rows of one instant depend on one another.
        output: what a prediction is.
        bins: of equally many rows.
    """
    if output.kind == "position":
        return {"slope": np.nan}, {"slope": NO_VALUE}
    if output.is_classification:
        return _measure_classes(y, prediction, output=output, bins=bins)
    metrics, reasons = regress_on_forecast(y, output.take_center(prediction), instant)
    if output.kind == "quantiles":
        coverage, _ = measure_coverage(y, prediction)
        metrics["ece"] = float(np.abs(coverage - np.asarray(output.levels)).mean())
    if output.kind == "probability":
        metrics["ece"] = measure_ece(prediction[:, 0], y, bins=bins)
    return metrics, reasons


def _measure_classes(codes: np.ndarray, probabilities: np.ndarray, *, output: Output, bins: int) -> Metrics:
    metrics: dict[str, float] = {"ece": np.nan}
    reasons: dict[str, str] = {}
    events = {name: (probabilities[:, i], codes == i) for i, name in enumerate(output.names)}
    if output.neutral_class:
        decisive = codes != output.names.index(output.neutral_class)
        sides = probabilities[decisive][:, [0, -1]]
        up = sides[:, 1] / np.maximum(sides.sum(axis=1), LEAST_PROBABILITY)
        events["direction"] = up, codes[decisive] == len(output.names) - 1
    for name, (predicted, happened) in events.items():
        found, why = measure_probability(predicted, happened, bins=bins)
        metrics |= {f"{metric}_{name}": value for metric, value in found.items()}
        reasons |= {f"{metric}_{name}": reason for metric, reason in why.items()}
    metrics["ece"] = float(np.mean([metrics[f"ece_{name}"] for name in output.names]))
    return metrics, reasons


def measure_probability(predicted: np.ndarray, happened: np.ndarray, *, bins: int) -> Metrics:
    """Return brier, ece, slope and intercept of (N,) probabilities of an event that `happened` (N,) bool."""
    names = ("brier", "ece", "slope", "intercept")
    if not len(predicted):
        return dict.fromkeys(names, np.nan), dict.fromkeys(names, "no rows")
    predicted = predicted.astype(np.float64)
    slope, intercept, reason = recalibrate(predicted, happened)
    metrics = {
        "brier": float(np.mean((predicted - happened) ** 2)),
        "ece": measure_ece(predicted, happened, bins=bins),
        "slope": slope,
        "intercept": intercept,
    }
    return metrics, {name: reason for name in ("slope", "intercept") if reason}


def measure_ece(predicted: np.ndarray, happened: np.ndarray, *, bins: int) -> float:
    """Return the mean over rows of |mean prediction − share of events| of the row's bin.

    >>> measure_ece(np.array([0.1, 0.3, 0.6, 0.8]), np.array([0, 1, 1, 0]), bins=2)
    0.25
    """
    cells = np.array_split(np.argsort(predicted, kind="stable"), bins)
    gaps = [abs(float(np.sum(predicted[rows] - happened[rows], dtype=np.float64))) for rows in cells]
    return sum(gaps) / len(predicted)


def recalibrate(predicted: np.ndarray, happened: np.ndarray) -> tuple[float, float, str | None]:
    """Return slope and intercept of the logistic regression of an event on the logit of its probability [1].

    Both are NaN, with the reason, where the event always or never happens, all probabilities are the same, or the
    probability separates the events, so that no slope is finite. Newton's method takes a tenth of the time of a
    general solver, which matters for every class of every path.
    """
    if happened.all() or not happened.any():
        return np.nan, np.nan, "the event always happens" if happened.all() else "the event never happens"
    if is_constant(predicted):
        return np.nan, np.nan, "the probability never varies"
    x = logit(np.clip(predicted, LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY))
    slope, intercept = 0.0, 0.0  # from a slope of 1 it diverges where the probability is far too sure
    for _ in range(MAX_STEPS):
        p = expit(intercept + slope * x)
        residual, weight = happened - p, p * (1.0 - p)
        gradient = np.array([residual.sum(), residual @ x])
        moments = np.array([weight.sum(), weight @ x, weight @ x**2])
        determinant = moments[0] * moments[2] - moments[1] ** 2
        if not determinant > 0:
            break
        step = np.array([[moments[2], -moments[1]], [-moments[1], moments[0]]]) @ gradient / determinant
        intercept, slope = intercept + float(step[0]), slope + float(step[1])
        if abs(slope) > MAX_SLOPE:
            break
        if np.abs(step).max() <= MAX_LOGIT_STEP:
            return slope, intercept, None
    return np.nan, np.nan, "the probability separates the events: no slope is finite"


def regress_on_forecast(y: np.ndarray, forecast: np.ndarray, instant: np.ndarray) -> Metrics:
    """Return slope and intercept of y (N,) on its forecast (N,) [2], their standard errors, and `bias_share`.

    Errors are those of dependent rows, see `correlations.estimate_error`; NaN where there are too few.
    """
    y, forecast = y.astype(np.float64), forecast.astype(np.float64)
    names = ("slope", "slope_error", "intercept", "intercept_error")
    spread = float(y.std())
    bias = {"bias_share": float((forecast - y).mean()) / spread if spread > 0 else np.nan}
    why = {} if spread > 0 else {"bias_share": "y never varies"}
    if is_constant(forecast):
        return dict.fromkeys(names, np.nan) | bias, dict.fromkeys(names, "the forecast never varies") | why
    mean, centered = float(forecast.mean()), forecast - forecast.mean()
    variance = float(centered @ centered) / len(y)
    slope = float(centered @ (y - y.mean())) / len(y) / variance
    intercept = float(y.mean()) - slope * mean
    residual = y - intercept - slope * forecast
    influence = centered * residual / variance  # (N,) of each row on the slope
    slope_error, _ = estimate_error(influence, instant)
    intercept_error, _ = estimate_error(residual - mean * influence, instant)
    values = (slope, slope_error, intercept, intercept_error)
    few = {name: "too few independent rows" for name, value in zip(names, values, strict=True) if np.isnan(value)}
    return dict(zip(names, values, strict=True)) | bias, few | why
