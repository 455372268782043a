"""Ridge and logistic regression by sums over chunks of rows, which need memory for one chunk of standardized columns.

The solutions are those of scikit-learn's Ridge and LogisticRegression up to rounding and the tolerance of the latter.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

CHUNK_ROWS = 1 << 16
OPTIONS = {"gtol": 1e-4, "ftol": 64 * float(np.finfo(float).eps), "maxls": 50}  # those of scikit-learn for lbfgs


@dataclass(frozen=True)
class StandardizedRows:
    """Some rows of x in units of the mean and the standard deviation of each column, read chunk by chunk."""

    x: np.ndarray  # (N, F) float32
    rows: np.ndarray  # (n,)
    mean: np.ndarray  # (F,) float64
    scale: np.ndarray  # (F,) float64; 1 of a column that never varies

    @classmethod
    def measure(cls, x: np.ndarray, rows: np.ndarray) -> "StandardizedRows":
        """Return the rows standardized by themselves."""
        raw = cls(x, rows, np.zeros(x.shape[1]), np.ones(x.shape[1]))
        mean = sum(chunk.sum(axis=0) for chunk in raw.read_chunks()) / len(rows)
        centered = replace(raw, mean=mean)
        variance = sum((chunk**2).sum(axis=0) for chunk in centered.read_chunks()) / len(rows)
        is_constant = variance <= len(rows) * (np.finfo(float).eps * np.abs(mean)) ** 2 + np.finfo(float).tiny
        return replace(centered, scale=np.where(is_constant, 1.0, np.sqrt(variance)))

    def read_chunks(self) -> Iterator[np.ndarray]:
        """Yield (n, F) float64, at most CHUNK_ROWS rows at a time."""
        for start in range(0, len(self.rows), CHUNK_ROWS):
            yield (self.x[self.rows[start : start + CHUNK_ROWS]].astype(np.float64) - self.mean) / self.scale


@dataclass(frozen=True)
class LinearFit:
    """Margins of a linear model: one of a regression or of two classes, else one for each class."""

    coefficients: np.ndarray  # (M, F) float64
    intercepts: np.ndarray  # (M,) float64

    def predict(self, z: StandardizedRows) -> np.ndarray:
        """Return the margins of rows, (n, M) float64."""
        return np.concatenate([self._apply(chunk) for chunk in z.read_chunks()])

    def predict_probabilities(self, z: StandardizedRows) -> np.ndarray:
        """Return the probabilities of the classes, (n, classes) float64."""
        return np.concatenate([_to_probabilities(self._apply(chunk)) for chunk in z.read_chunks()])

    def _apply(self, chunk: np.ndarray) -> np.ndarray:
        return np.asarray(chunk @ self.coefficients.T + self.intercepts)


def fit_ridge(z: StandardizedRows, y: np.ndarray, *, penalty: float) -> LinearFit:
    """Return the least squares of y (n,) with `penalty` times the sum of squared coefficients, by normal equations.

    y may be (n, margins) too: each column is fitted by itself.
    """
    y = y.reshape(len(y), -1)
    width, level, start = z.x.shape[1], y.mean(axis=0, dtype=np.float64), 0
    gram, cross, total = np.zeros((width, width)), np.zeros((width, y.shape[1])), np.zeros(width)
    for chunk in z.read_chunks():
        gram += chunk.T @ chunk
        cross += chunk.T @ (y[start : start + len(chunk)] - level)
        total += chunk.sum(axis=0)
        start += len(chunk)
    mean = total / len(y)
    coefficients = np.linalg.solve(gram - np.outer(total, mean) + penalty * np.eye(width), cross)
    return LinearFit(coefficients.T, level - mean @ coefficients)


def fit_logistic(z: StandardizedRows, codes: np.ndarray, *, classes: int, l2: float, max_iterations: int) -> LinearFit:
    """Return the maximum likelihood of codes (n,) from 0 to `classes` - 1, of which each occurs.

    Minimized are the mean log loss and half of `l2` times the sum of squared coefficients, without the intercepts.
    """
    width, margins = z.x.shape[1], 1 if classes == 2 else classes

    def unpack(weights: np.ndarray) -> LinearFit:
        return LinearFit(weights[:-margins].reshape(margins, width), weights[-margins:])

    def measure_loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        fit, loss, start = unpack(weights), 0.0, 0
        of_coefficients, of_intercepts = np.zeros((margins, width)), np.zeros(margins)
        for chunk in z.read_chunks():
            own = np.arange(len(chunk)), codes[start : start + len(chunk)]
            slope = _to_probabilities(fit._apply(chunk))  # (n, classes)
            loss -= float(np.log(np.maximum(slope[own], np.finfo(float).tiny)).sum())
            slope[own] -= 1.0
            of_coefficients += slope[:, -margins:].T @ chunk
            of_intercepts += slope[:, -margins:].sum(axis=0)
            start += len(chunk)
        penalty = 0.5 * l2 * float((fit.coefficients**2).sum())
        gradient = np.concatenate([(of_coefficients / start + l2 * fit.coefficients).ravel(), of_intercepts / start])
        return loss / start + penalty, gradient

    first = np.zeros(margins * (width + 1))
    found = minimize(measure_loss, first, jac=True, method="L-BFGS-B", options={**OPTIONS, "maxiter": max_iterations})
    return unpack(found.x)


def _to_probabilities(margins: np.ndarray) -> np.ndarray:
    """Return (n, classes) of margins (n, M); one margin is that of the second of two classes."""
    logits = np.column_stack([np.zeros(len(margins)), margins]) if margins.shape[1] == 1 else margins
    return np.asarray(softmax(logits, axis=1))
