"""Models of a few lines, honest and dishonest, for the guards of fits to question."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pipeline.samples import Samples

PENALTIES = 10.0 ** np.arange(-6, 1)  # shares of the mean square of the inputs
TAILS = (0.01, 0.99)  # quantiles
SELECTED_COLUMNS = 3
REMEMBERED_ROWS = 1_000
SMOOTHING = 0.9
HOUR_MS, HOURS = 3_600_000, 24

Design = Callable[[Samples, np.ndarray], np.ndarray]  # samples, rows -> (n, inputs)


class Parts(NamedTuple):
    """The rows that a fit is given, and those it is tested on."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Fit:
    """A fitted model, and what it says of how it was fitted."""

    parts: Parts
    answer: Callable[[Samples, np.ndarray], np.ndarray]  # samples, rows -> (n, 1)
    statistics: tuple[np.ndarray, np.ndarray] | None = None  # mean and scale, where it standardises


def ridge(samples: Samples, parts: Parts, *, design: Design) -> Fit:
    """Linear in what `design` makes of a row, with the penalty that does best on the valid rows."""
    learnt, tried = design(samples, parts.train), design(samples, parts.valid)
    gram = np.einsum("ij,ik->jk", learnt, learnt)  # not `@`: its threads add in another order on another machine
    moment = np.einsum("ij,i->j", learnt, samples.y[parts.train].astype(np.float64))
    unit = np.eye(len(gram)) * np.trace(gram) / len(gram)
    choices = [np.linalg.solve(gram + penalty * unit, moment) for penalty in PENALTIES]
    losses = [np.square(np.einsum("ij,j->i", tried, weights) - samples.y[parts.valid]).mean() for weights in choices]
    best = choices[int(np.argmin(losses))]
    return Fit(parts, lambda table, rows: np.einsum("ij,j->i", design(table, rows), best)[:, None])


def plain(samples: Samples, rows: np.ndarray) -> np.ndarray:
    """The columns as they are."""
    return np.asarray(samples.x[rows], dtype=np.float64)


def standardising(samples: Samples, parts: Parts, *, scaled_by: np.ndarray) -> Fit:
    """Ridge on columns standardised by some rows."""
    known = plain(samples, scaled_by)
    mean, scale = known.mean(axis=0), known.std(axis=0)
    fit = ridge(samples, parts, design=lambda table, rows: (plain(table, rows) - mean) / np.where(scale > 0, scale, 1))
    return replace(fit, statistics=(mean, scale))


def clipping(samples: Samples, parts: Parts, *, clipped_by: np.ndarray) -> Fit:
    """Ridge on columns clipped at the quantiles of some rows."""
    low, high = np.quantile(plain(samples, clipped_by), TAILS, axis=0)
    return ridge(samples, parts, design=lambda table, rows: np.clip(plain(table, rows), low, high))


def encoding(samples: Samples, parts: Parts, *, encoded_by: np.ndarray) -> Fit:
    """Ridge on the columns and the mean label, over some rows, of the row's hour of day."""
    hour = _hour(samples, encoded_by)
    sums = np.bincount(hour, weights=samples.y[encoded_by].astype(np.float64), minlength=HOURS)
    means = sums / np.maximum(np.bincount(hour, minlength=HOURS), 1)
    return ridge(
        samples, parts, design=lambda table, rows: np.column_stack([plain(table, rows), means[_hour(table, rows)]])
    )


def _hour(samples: Samples, rows: np.ndarray) -> np.ndarray:
    return np.asarray(samples.time[rows] // HOUR_MS % HOURS)


def screening(samples: Samples, parts: Parts, *, screened_by: np.ndarray) -> Fit:
    """The columns that go best with the label over some rows, each weighted by that correlation."""
    x, y = plain(samples, screened_by), samples.y[screened_by].astype(np.float64)
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), np.finfo(np.float32).tiny)
    correlation = np.einsum("ij,i->j", (x - mean) / scale, y - y.mean()) / (len(y) * max(float(y.std()), 1e-12))
    kept = np.argsort(-np.abs(correlation))[:SELECTED_COLUMNS]
    weights = correlation[kept] / scale[kept]
    return Fit(parts, lambda table, rows: np.einsum("ij,j->i", plain(table, rows)[:, kept], weights)[:, None])


def with_threshold(samples: Samples, parts: Parts, *, chosen_on: np.ndarray) -> Fit:
    """Ridge less the threshold above which its positions would have earned most on some rows."""
    fit = ridge(samples, parts, design=plain)
    score = fit.answer(samples, chosen_on)[:, 0]
    best_first = np.argsort(-score, kind="stable")
    threshold = score[best_first[np.cumsum(samples.move[chosen_on][best_first]).argmax()]]
    return replace(fit, answer=lambda table, rows: fit.answer(table, rows) - threshold)


def nearest_by_number(samples: Samples, parts: Parts) -> Fit:
    """The label of the train row whose number in the table is nearest."""
    labels = samples.y[parts.train].astype(np.float64)

    def answer(_: Samples, rows: np.ndarray) -> np.ndarray:
        after = np.searchsorted(parts.train, rows).clip(1, len(parts.train) - 1)
        is_nearer = rows - parts.train[after - 1] < parts.train[after] - rows
        return np.asarray(labels[after - is_nearer])[:, None]

    return Fit(parts, answer)


def nearest_by_features(samples: Samples, parts: Parts) -> Fit:
    """The label of the train row, among some, whose columns are nearest."""
    remembered = parts.train[:: -(-len(parts.train) // REMEMBERED_ROWS)]
    x, labels = plain(samples, remembered), samples.y[remembered].astype(np.float64)

    def answer(table: Samples, rows: np.ndarray) -> np.ndarray:
        asked = plain(table, rows)
        distance = np.sum([np.square(asked[:, [j]] - x[:, j]) for j in range(x.shape[1])], axis=0)  # (n, remembered)
        return np.asarray(labels[np.argmin(distance, axis=1)])[:, None]

    return Fit(parts, answer)


def smoothing(samples: Samples, parts: Parts) -> Fit:
    """Ridge whose answers are smoothed in the order in which they are asked for."""
    fit = ridge(samples, parts, design=plain)

    def answer(table: Samples, rows: np.ndarray) -> np.ndarray:
        answers = fit.answer(table, rows)
        for i in range(1, len(answers)):
            answers[i] = SMOOTHING * answers[i - 1] + (1 - SMOOTHING) * answers[i]
        return answers

    return Fit(parts, answer)
