"""Metrics of forecasts, before any trade. An undefined metric is NaN, with its reason."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.scale import is_constant
from pipeline.targets import Output

Metrics = tuple[dict[str, float], dict[str, str]]  # every metric by name; the reason of each that is NaN
OF_EACH_HORIZON = ("ic", "r2")


def measure_forecast(y: np.ndarray, prediction: np.ndarray, output: Output) -> Metrics:
    """Return the metrics of predictions (N, outputs) of whatever kind.

    y is (N,), and of several horizons (N, horizons): the metrics are of the last, and each has its `ic_<name>` and
    `r2_<name>` too.
    """
    if output.kind == "horizons":
        return measure_horizons(y, prediction, output)
    if output.is_classification:
        return measure_classification(y, prediction, names=output.names)
    center = output.take_center(prediction)
    metrics, reasons = measure_regression(y, center, neutral=output.neutral)
    if output.kind == "quantiles":
        metrics |= measure_quantiles(y, prediction, levels=output.levels, names=output.names)
    return metrics, reasons


def measure_horizons(y: np.ndarray, prediction: np.ndarray, output: Output) -> Metrics:
    """Return the metrics of predictions of y, both (N, horizons): those of the last, and IC and R² of each."""
    by_name = {
        name: measure_regression(y[:, place], prediction[:, place], neutral=output.neutral)
        for place, name in enumerate(output.names)
    }
    metrics, reasons = by_name[output.names[-1]]
    own = {f"{key}_{name}": found[key] for name, (found, _) in by_name.items() for key in OF_EACH_HORIZON}
    why = {f"{key}_{name}": each[key] for name, (_, each) in by_name.items() for key in OF_EACH_HORIZON if key in each}
    return metrics | own, reasons | why


def measure_regression(y: np.ndarray, prediction: np.ndarray, *, neutral: float = 0.0) -> Metrics:
    """Return the metrics of (N,) predicted numbers: ic (Pearson), rank_ic (Spearman), r2, mae, directional_accuracy.

    directional_accuracy is the share of rows whose prediction lies on the same side of `neutral` as y. Rows whose y is
    neutral do not count; a prediction that is exactly neutral counts as wrong. With a `neutral` of NaN no y has a side,
    and there is no directional_accuracy.
    Raises ValueError for no rows, unequal lengths, or a value that is not finite.
    """
    y, prediction = np.asarray(y, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    _check_rows({"y": y, "prediction": prediction})
    metrics, reasons = _correlate_with_target(y, prediction, of="the prediction")
    error = y - prediction
    metrics["r2"] = float(1 - (error**2).sum() / ((y - y.mean()) ** 2).sum()) if not is_constant(y) else np.nan
    metrics["mae"] = float(np.abs(error).mean())
    if is_constant(y):
        reasons["r2"] = "y never varies"
    if np.isnan(neutral):
        return metrics, reasons
    side = np.sign(y - neutral)
    hits = (np.sign(prediction - neutral) == side)[side != 0]
    metrics["directional_accuracy"] = float(hits.mean()) if len(hits) else np.nan
    if not len(hits):
        reasons["directional_accuracy"] = "y is neutral at every row"
    return metrics, reasons


def measure_quantiles(
    y: np.ndarray, quantiles: np.ndarray, *, levels: Sequence[float], names: Sequence[str]
) -> dict[str, float]:
    """Return the metrics of predicted quantiles (N, levels) of y (N,).

    They are pinball_loss, the mean over rows and levels (Koenker & Bassett 1978), `coverage_<name>`, the share of rows
    whose y is not above the quantile, which should be its level, and crossing_share, of rows whose quantiles do not
    ascend.
    """
    error = np.asarray(y, np.float64)[:, None] - quantiles  # (N, levels)
    loss = np.maximum(np.asarray(levels) * error, (np.asarray(levels) - 1) * error)
    coverage, _ = measure_coverage(y, quantiles)
    return {
        "pinball_loss": float(loss.mean()),
        "crossing_share": float((np.diff(quantiles, axis=1) < 0).any(axis=1).mean()),
        **{f"coverage_{name}": float(share) for name, share in zip(names, coverage, strict=True)},
    }


def measure_coverage(y: np.ndarray, quantiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (levels,) the share of y (N,) that is not above each of the quantiles (N, levels), and its error."""
    share = np.asarray((np.asarray(y)[:, None] <= quantiles).mean(axis=0))
    return share, np.sqrt(share * (1 - share) / len(y))


def measure_classification(codes: np.ndarray, probabilities: np.ndarray, *, names: Sequence[str]) -> Metrics:
    """Return the metrics of (N, classes) probabilities against (N,) class codes.

    They are accuracy, macro_f1, brier, log_loss, ic, rank_ic, and `precision_<name>`, `recall_<name>`, `f1_<name>` of
    each class. The predicted class is the likeliest, the first among equals. macro_f1 is the mean over the classes that
    occur or are predicted. brier is the squared error summed over classes (0 to 2), for two classes half of it (0 to
    1). ic and rank_ic correlate p(last) - p(first) with the code: classes stand in the order of the price move.
    Raises ValueError for no rows, a code that names no class, or rows that are no probabilities.
    """
    codes, probabilities = np.asarray(codes), np.asarray(probabilities, dtype=np.float64)
    _check_rows({"codes": codes, "probabilities": probabilities})
    _check_classes(codes, probabilities, names=names)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)  # float32 rows sum to 1 only nearly
    confusion = count_confusion(codes, probabilities)
    metrics, reasons = _correlate_with_target(
        codes, probabilities[:, -1] - probabilities[:, 0], of="p(last) - p(first)"
    )
    by_class, undefined = _measure_each_class(confusion, names=names)
    squares = ((probabilities - np.eye(len(names))[codes.astype(np.int64)]) ** 2).sum(axis=1)
    actual = probabilities[np.arange(len(codes)), codes.astype(np.int64)]
    metrics |= {
        "accuracy": float(np.trace(confusion) / len(codes)),
        "macro_f1": float(np.nanmean([by_class[f"f1_{name}"] for name in names])),
        "brier": float(squares.mean() / (2 if len(names) == 2 else 1)),
        "log_loss": float(-np.log(np.maximum(actual, np.finfo(np.float64).eps)).mean()),
    }
    return metrics | by_class, reasons | undefined


def count_confusion(codes: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the confusion matrix (classes, classes): counts by actual class (row) and predicted class (column)."""
    classes = np.shape(probabilities)[1]
    pairs = np.asarray(codes, np.int64) * classes + np.asarray(probabilities).argmax(axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _measure_each_class(confusion: np.ndarray, *, names: Sequence[str]) -> Metrics:
    """Return precision, recall and F1 of each class from counts; scikit-learn takes 50 times as long, and to import."""
    hits, actual, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    table = {
        "precision": (hits, predicted, "is never predicted"),
        "recall": (hits, actual, "never occurs"),
        "f1": (2 * hits, actual + predicted, "neither occurs nor is predicted"),
    }
    metrics, reasons = {}, {}
    for metric, (counts, totals, why_undefined) in table.items():
        for name, count, total in zip(names, counts, totals, strict=True):
            metrics[f"{metric}_{name}"] = float(count / total) if total else np.nan
            if not total:
                reasons[f"{metric}_{name}"] = f"{name} {why_undefined}"
    return metrics, reasons


def _correlate_with_target(y: np.ndarray, prediction: np.ndarray, *, of: str) -> Metrics:
    """Return Pearson's and Spearman's correlation (average ranks on ties)."""
    if len(y) < 2:
        reason = "fewer than 2 rows"
    elif is_constant(y):
        reason = "y never varies"
    elif is_constant(prediction):
        reason = f"{of} never varies"
    else:
        first, second = (pd.Series(values).rank().to_numpy() for values in (y, prediction))
        pearson, spearman = np.corrcoef(y, prediction), np.corrcoef(first, second)
        return {"ic": float(pearson[0, 1]), "rank_ic": float(spearman[0, 1])}, {}
    return {"ic": np.nan, "rank_ic": np.nan}, {"ic": reason, "rank_ic": reason}


def _check_rows(arrays: dict[str, np.ndarray]) -> None:
    (first, a), (second, b) = arrays.items()
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{first} has {len(a)} rows, {second} {len(b)}; both need the same number, at least 1")
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise ValueError(f"{name}: {values[row]} at row {row}; only finite numbers can be scored")


def _check_classes(codes: np.ndarray, probabilities: np.ndarray, *, names: Sequence[str]) -> None:
    if len(names) < 2 or probabilities.shape != (len(codes), len(names)):
        raise ValueError(f"probabilities are {probabilities.shape}; classes {tuple(names)} need one column each")
    unknown = ~np.isin(codes, np.arange(len(names)))
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        raise ValueError(f"codes: {codes[row]} at row {row}; classes {tuple(names)} have codes 0 to {len(names) - 1}")
    wrong = (probabilities < 0).any(axis=1) | (np.abs(probabilities.sum(axis=1) - 1.0) > 1e-5)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"probabilities: {probabilities[row]} at row {row}; they must be at least 0 and sum to 1")
