"""Small models, with leaks and without, for the canaries of fits."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from pipeline.samples import Samples

PENALTIES = 10.0 ** np.arange(-6, 1)  # relative to the mean square of the inputs
TAILS = (0.01, 0.99)  # quantiles
SELECTED_COLUMNS = 3
MEMORIZED_ROWS = 1_000
SMOOTHING = 0.9
HOUR_MS, HOURS = 3_600_000, 24

Predict = Callable[[Samples, np.ndarray], np.ndarray]  # samples, rows -> (n, 1)
MakeInputs = Callable[[Samples, np.ndarray], np.ndarray]  # samples, rows -> (n, inputs)


class FitRows(NamedTuple):
    """The train, valid and test rows of one fit."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


SelectRows = Callable[[Samples, FitRows], np.ndarray]  # -> (n,) rows that a statistic is computed from


@dataclass(frozen=True)
class SmallFit:
    """A fitted model, and how it declares to have been fitted."""

    rows: FitRows
    predict_rows: Predict
    statistics: tuple[np.ndarray, np.ndarray] | None = None  # mean and scale, where it standardizes


def select_all(samples: Samples, _: FitRows) -> np.ndarray:
    """Return all rows of the table."""
    return np.arange(len(samples.time))


def select_train(_: Samples, rows: FitRows) -> np.ndarray:
    """Return the train rows."""
    return rows.train


def select_train_and_test(_: Samples, rows: FitRows) -> np.ndarray:
    """Return the train rows and the test rows."""
    return np.concatenate([rows.train, rows.test])


def select_valid(_: Samples, rows: FitRows) -> np.ndarray:
    """Return the valid rows."""
    return rows.valid


def select_test(_: Samples, rows: FitRows) -> np.ndarray:
    """Return the test rows."""
    return rows.test


def take_columns(samples: Samples, rows: np.ndarray) -> np.ndarray:
    """Return the columns as they are."""
    return np.asarray(samples.x[rows], dtype=np.float64)


def fit_ridge(samples: Samples, rows: FitRows, *, make_inputs: MakeInputs = take_columns) -> SmallFit:
    """Fit a model linear in the inputs, with the penalty that has the lowest loss on the valid rows."""
    train, valid = make_inputs(samples, rows.train), make_inputs(samples, rows.valid)
    gram = np.einsum("ij,ik->jk", train, train)  # not `@`: its threads add in another order on another machine
    moment = np.einsum("ij,i->j", train, samples.y[rows.train].astype(np.float64))
    unit = np.eye(len(gram)) * np.trace(gram) / len(gram)
    candidates = [np.linalg.solve(gram + penalty * unit, moment) for penalty in PENALTIES]
    losses = [np.square(np.einsum("ij,j->i", valid, weights) - samples.y[rows.valid]).mean() for weights in candidates]
    best = candidates[int(np.argmin(losses))]
    return SmallFit(rows, lambda table, some: np.einsum("ij,j->i", make_inputs(table, some), best)[:, None])


def fit_standardized(samples: Samples, rows: FitRows, *, select: SelectRows) -> SmallFit:
    """Fit ridge on columns standardized by the selected rows."""
    known = take_columns(samples, select(samples, rows))
    mean, scale = known.mean(axis=0), known.std(axis=0)
    divisor = np.where(scale > 0, scale, 1)
    fit = fit_ridge(samples, rows, make_inputs=lambda table, some: (take_columns(table, some) - mean) / divisor)
    return replace(fit, statistics=(mean, scale))


def fit_clipped(samples: Samples, rows: FitRows, *, select: SelectRows) -> SmallFit:
    """Fit ridge on columns clipped at the quantiles of the selected rows."""
    low, high = np.quantile(take_columns(samples, select(samples, rows)), TAILS, axis=0)
    return fit_ridge(samples, rows, make_inputs=lambda table, some: np.clip(take_columns(table, some), low, high))


def fit_encoded(samples: Samples, rows: FitRows, *, select: SelectRows) -> SmallFit:
    """Fit ridge on the columns and the mean label, over the selected rows, of the row's hour of day."""
    selected = select(samples, rows)
    hour = _take_hour(samples, selected)
    sums = np.bincount(hour, weights=samples.y[selected].astype(np.float64), minlength=HOURS)
    means = sums / np.maximum(np.bincount(hour, minlength=HOURS), 1)

    def make_inputs(table: Samples, some: np.ndarray) -> np.ndarray:
        return np.column_stack([take_columns(table, some), means[_take_hour(table, some)]])

    return fit_ridge(samples, rows, make_inputs=make_inputs)


def _take_hour(samples: Samples, rows: np.ndarray) -> np.ndarray:
    """Return the (n,) hour of day of each row."""
    return np.asarray(samples.time[rows] // HOUR_MS % HOURS)


def fit_screened(samples: Samples, rows: FitRows, *, select: SelectRows) -> SmallFit:
    """Fit a model of the columns most correlated with the label over the selected rows, weighted by correlation."""
    selected = select(samples, rows)
    x, y = take_columns(samples, selected), samples.y[selected].astype(np.float64)
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), np.finfo(np.float32).tiny)
    correlation = np.einsum("ij,i->j", (x - mean) / scale, y - y.mean()) / (len(y) * max(float(y.std()), 1e-12))
    columns = np.argsort(-np.abs(correlation))[:SELECTED_COLUMNS]
    weights = correlation[columns] / scale[columns]

    def predict_rows(table: Samples, some: np.ndarray) -> np.ndarray:
        return np.asarray(np.einsum("ij,j->i", take_columns(table, some)[:, columns], weights)[:, None])

    return SmallFit(rows, predict_rows)


def fit_with_threshold(samples: Samples, rows: FitRows, *, select: SelectRows) -> SmallFit:
    """Fit ridge, less the threshold above which its positions would have earned most on the selected rows."""
    fit, chosen_on = fit_ridge(samples, rows), select(samples, rows)
    score = fit.predict_rows(samples, chosen_on)[:, 0]
    best_first = np.argsort(-score, kind="stable")
    threshold = score[best_first[np.cumsum(samples.y[chosen_on][best_first].astype(np.float64)).argmax()]]
    return replace(fit, predict_rows=lambda table, some: fit.predict_rows(table, some) - threshold)


def memorize_numbers(samples: Samples, rows: FitRows) -> SmallFit:
    """Fit a model that predicts the label of the train row whose number in the table is nearest."""
    labels = samples.y[rows.train].astype(np.float64)

    def predict_rows(_: Samples, some: np.ndarray) -> np.ndarray:
        after = np.searchsorted(rows.train, some).clip(1, len(rows.train) - 1)
        is_nearer = some - rows.train[after - 1] < rows.train[after] - some
        return np.asarray(labels[after - is_nearer])[:, None]

    return SmallFit(rows, predict_rows)


def fit_nearest_neighbor(samples: Samples, rows: FitRows) -> SmallFit:
    """Fit a model that predicts the label of the train row, among some, whose columns are nearest."""
    memorized = rows.train[:: -(-len(rows.train) // MEMORIZED_ROWS)]
    x, labels = take_columns(samples, memorized), samples.y[memorized].astype(np.float64)

    def predict_rows(table: Samples, some: np.ndarray) -> np.ndarray:
        queries = take_columns(table, some)
        distance = np.sum([np.square(queries[:, [j]] - x[:, j]) for j in range(x.shape[1])], axis=0)  # (n, memorized)
        return np.asarray(labels[np.argmin(distance, axis=1)])[:, None]

    return SmallFit(rows, predict_rows)


def fit_smoothed(samples: Samples, rows: FitRows) -> SmallFit:
    """Fit ridge, its predictions smoothed in the order of the rows given."""
    fit = fit_ridge(samples, rows)

    def predict_rows(table: Samples, some: np.ndarray) -> np.ndarray:
        predictions = fit.predict_rows(table, some)
        for i in range(1, len(predictions)):
            predictions[i] = SMOOTHING * predictions[i - 1] + (1 - SMOOTHING) * predictions[i]
        return predictions

    return SmallFit(rows, predict_rows)


def fit_stacked(samples: Samples, rows: FitRows, *, is_naive: bool) -> SmallFit:
    """Fit the weights of two ridges, of every other column each, by their predictions of rows that they have not seen.

    These are the valid rows. Naively they are the train rows, predicted out of sample by fits of other splits: as in
    CPCV, whose fits of other splits have learned from the test rows of this one.
    """
    parts = [partial(_take_every_other, first=first) for first in (0, 1)]
    members = [fit_ridge(samples, rows, make_inputs=part) for part in parts]
    if is_naive:
        halves = np.array_split(rows.train, 2)
        learned = [np.concatenate([halves[1 - half], rows.test]) for half in (0, 1)]
        fits = [[fit_ridge(samples, rows._replace(train=each), make_inputs=part) for part in parts] for each in learned]
        found = [_predict_all(fit, samples, half) for fit, half in zip(fits, halves, strict=True)]
        weights = _fit_weights(np.concatenate(found), samples.y[rows.train])
    else:
        weights = _fit_weights(_predict_all(members, samples, rows.valid), samples.y[rows.valid])
    return SmallFit(rows, lambda table, some: (_predict_all(members, table, some) * weights).sum(axis=1)[:, None])


def _fit_weights(predictions: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the weights (fits,) of least squares; of either sign, so that each depends on every prediction."""
    gram = np.einsum("ij,ik->jk", predictions, predictions)
    moment = np.einsum("ij,i->j", predictions, y.astype(np.float64))
    return np.asarray(np.linalg.lstsq(gram, moment)[0])


def _take_every_other(samples: Samples, rows: np.ndarray, *, first: int) -> np.ndarray:
    return take_columns(samples, rows)[:, first::2]


def _predict_all(fits: list[SmallFit], samples: Samples, rows: np.ndarray) -> np.ndarray:
    """Return the predictions of several fits, (n, fits)."""
    return np.concatenate([fit.predict_rows(samples, rows) for fit in fits], axis=1)
