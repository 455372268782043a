"""How good the forecasts of a model are, before any trade. Undefined is nan, with the reason in words."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import (
    brier_score_loss,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    r2_score,
)

Figures = tuple[dict[str, float], dict[str, str]]  # every figure by name; for each that is nan, the reason


def forecast_figures(y: np.ndarray, prediction: np.ndarray, *, neutral: float = 0.0) -> Figures:
    """Scores of (N,) predicted numbers: ic (Pearson), rank_ic (Spearman), r2, mae, directional_accuracy.

    directional_accuracy is the share of rows where the prediction lies on the same side of `neutral` as y, among those
    where y is not neutral; a prediction that is exactly neutral takes no side and counts as wrong.
    Raises ValueError for no rows, unequal lengths, or a value that is not finite.
    """
    y, prediction = np.asarray(y, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    _check_rows({"y": y, "prediction": prediction})
    figures, reasons = _correlations(y, prediction, of="the prediction")
    figures["r2"] = float(r2_score(y, prediction)) if np.ptp(y) > 0 else np.nan
    figures["mae"] = float(np.abs(y - prediction).mean())
    side = np.sign(y - neutral)
    hits = (np.sign(prediction - neutral) == side)[side != 0]
    figures["directional_accuracy"] = float(hits.mean()) if len(hits) else np.nan
    if np.ptp(y) == 0:
        reasons["r2"] = "y never varies"
    if not len(hits):
        reasons["directional_accuracy"] = "y is neutral at every row"
    return figures, reasons


def class_figures(codes: np.ndarray, probabilities: np.ndarray, *, names: Sequence[str]) -> Figures:
    """Scores of (N, classes) probabilities against (N,) codes: accuracy, macro_f1, brier, log_loss, ic, rank_ic, and
    precision, recall and f1 as `precision_<name>` ... for each class.

    The class called is the likeliest, the first among equals. macro_f1 is the mean over the classes that occur or are
    called. brier is the squared error summed over classes (0 to 2), for two classes half of it (0 to 1).
    ic and rank_ic correlate p(last) - p(first) with the code: classes stand in the order of the price's move.
    Raises ValueError for no rows, a code that names no class, or rows that are no probabilities.
    """
    codes, probabilities = np.asarray(codes), np.asarray(probabilities, dtype=np.float64)
    _check_rows({"codes": codes, "probabilities": probabilities})
    _check_classes(codes, probabilities, names=names)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)  # float32 rows sum to 1 only nearly
    labels, called = np.arange(len(names)), probabilities.argmax(axis=1)
    figures, reasons = _correlations(codes, probabilities[:, -1] - probabilities[:, 0], of="p(last) - p(first)")
    by_class, undefined = _figures_by_class(codes, called, names=names)
    figures |= {
        "accuracy": float((called == codes).mean()),
        "macro_f1": float(np.nanmean([by_class[f"f1_{name}"] for name in names])),
        "brier": float(brier_score_loss(codes, probabilities, labels=labels)),
        "log_loss": float(log_loss(codes, probabilities, labels=labels)),
    }
    return figures | by_class, reasons | undefined


def confusion(codes: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Counts (classes, classes): row = the class that came true, column = the class called (the likeliest)."""
    called = np.asarray(probabilities).argmax(axis=1)
    return np.asarray(confusion_matrix(codes, called, labels=np.arange(np.shape(probabilities)[1])))


def _figures_by_class(codes: np.ndarray, called: np.ndarray, *, names: Sequence[str]) -> Figures:
    table = precision_recall_fscore_support(codes, called, labels=np.arange(len(names)), zero_division=np.nan)
    whys = {"precision": "never called", "recall": "never came true", "f1": "neither called nor came true"}
    figures, reasons = {}, {}
    for figure, values in zip(whys, table, strict=False):  # the table's last row is the support
        for name, value in zip(names, values, strict=True):
            figures[f"{figure}_{name}"] = float(value)
            if np.isnan(value):
                reasons[f"{figure}_{name}"] = f"{name} {whys[figure]}"
    return figures, reasons


def _correlations(y: np.ndarray, prediction: np.ndarray, *, of: str) -> Figures:
    """Pearson's and Spearman's correlation (average ranks on ties)."""
    if len(y) < 2:
        why = "fewer than 2 rows"
    elif np.ptp(y) == 0:
        why = "y never varies"
    elif np.ptp(prediction) == 0:
        why = f"{of} never varies"
    else:
        pearson, spearman = np.corrcoef(y, prediction), np.corrcoef(rankdata(y), rankdata(prediction))
        return {"ic": float(pearson[0, 1]), "rank_ic": float(spearman[0, 1])}, {}
    return {"ic": np.nan, "rank_ic": np.nan}, {"ic": why, "rank_ic": why}


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
