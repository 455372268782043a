"""Pearson's and Spearman's correlations of dependent rows, and their standard errors.

An error is that of the mean of the influence function of the correlation, from its long-run variance: labels overlap,
and neighboring rows repeat one another [1]. The influence is first summed over the rows of each instant, as symbols
move together [2]. It never counts as less dependent than independent rows.
[1] Politis & White 2004, the flat-top estimate of `bootstrap.estimate_dependence`. [2] Driscoll & Kraay 1998,
"Consistent Covariance Matrix Estimation with Spatially Dependent Panel Data". [3] Croux & Dehon 2010, "Influence
Functions of the Spearman and Kendall Correlation Measures".
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.evaluation.bootstrap import MIN_BARS, TINY, estimate_dependence
from pipeline.scale import is_constant

NAN = float("nan")
MIN_ROWS = 3  # of a correlation: of two rows it is always 1 or -1
MIN_INDEPENDENT_ROWS = 30  # fewer give no standard error
MANY_ROWS = 1 << 30  # twice their number is beyond int32


@dataclass(frozen=True)
class Ranks:
    """The order of (n,) values: how many lie below each, and how many do not lie above it."""

    order: np.ndarray  # (n,) int32 positions, ascending in value
    below: np.ndarray  # (n,) int32, as many rows have many of these; int64 of MANY_ROWS
    not_above: np.ndarray  # (n,) of the same type

    @property
    def middle(self) -> np.ndarray:
        """(n,) average ranks in (0, 1)."""
        return np.asarray((self.below + self.not_above) / (2.0 * len(self.order)))


@dataclass(frozen=True)
class Variable:
    """A feature or a target over some rows, standardized as it is and in ranks."""

    scores: np.ndarray  # (2, n) mean 0 and variance 1: values, average ranks
    ranks: Ranks
    rank_std: float  # of the average ranks in (0, 1)

    @cached_property
    def rank_square_influence(self) -> np.ndarray:
        """(n,) the influence of each row on the variance of the average ranks, relative to it, up to a constant."""
        return np.asarray(self.scores[1] ** 2 + 2.0 * self.sum_above(self.scores[1]))

    def sum_above(self, scores: np.ndarray) -> np.ndarray:
        """Return (n,) the sum per row of centered `scores` over the rows above each, ties by half, over `rank_std`."""
        running = np.concatenate([[0.0], np.cumsum(scores[self.ranks.order])])
        both = running[self.ranks.below] + running[self.ranks.not_above]
        return np.asarray(-both / (2.0 * len(scores) * self.rank_std))


def describe(values: np.ndarray) -> Variable | None:
    """Return (n,) values as a variable; None where there are too few, or they never vary."""
    if len(values) < MIN_ROWS or is_constant(values):
        return None
    ranks = rank_rows(values)
    middle = ranks.middle
    return Variable(np.stack([standardize(values), standardize(middle)]), ranks, float(middle.std()))


def correlate_variables(a: Variable | None, b: Variable | None) -> np.ndarray:
    """Return (2,) the correlation of values, and that of ranks."""
    if a is None or b is None:
        return np.full(2, NAN)
    return np.array([correlate(left, right) for left, right in zip(a.scores, b.scores, strict=True)])


def correlate(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two standardized variables."""
    return float(np.clip(a @ b / len(a), -1.0, 1.0))


def find_influence(a: Variable, b: Variable, correlation: float) -> np.ndarray:
    """Return (n,) the influence of each row on Pearson's correlation."""
    u, v = a.scores[0], b.scores[0]
    return np.asarray(u * v - correlation / 2 * (u**2 + v**2))


def find_rank_influence(a: Variable, b: Variable, correlation: float) -> np.ndarray:
    """Return (n,) the influence of each row on Spearman's correlation, up to a constant ([3], here with ties).

    A row also moves the ranks of all rows above it, in both variables.
    """
    u, v = a.scores[1], b.scores[1]
    product = u * v + a.sum_above(v) + b.sum_above(u)
    return np.asarray(product - correlation / 2 * (a.rank_square_influence + b.rank_square_influence))


def standardize(values: np.ndarray) -> np.ndarray:
    """Return (n,) values with mean 0 and variance 1."""
    centered = values - values.mean()
    return np.asarray(centered / np.sqrt(centered @ centered / len(values)))


def estimate_error(influence: np.ndarray, instant: np.ndarray) -> tuple[float, float]:
    """Return the standard error of the mean of (n,) influences of rows, and the number of independent rows of it.

    NaN for both where there are fewer than `MIN_INDEPENDENT_ROWS`.
    """
    influence = influence - influence.mean()
    rows, square = len(influence), float(influence @ influence)
    by_instant = np.bincount(instant, weights=influence)
    if len(by_instant) < max(MIN_BARS, MIN_INDEPENDENT_ROWS):
        return NAN, NAN
    if square <= rows * TINY:  # an exact relation
        return 0.0, float(rows)
    long_run = len(by_instant) * estimate_dependence(by_instant).variance if not is_constant(by_instant) else 0.0
    total = max(long_run, float(by_instant @ by_instant), square)
    independent = rows * square / total
    return (np.sqrt(total) / rows, independent) if independent >= MIN_INDEPENDENT_ROWS else (NAN, NAN)


def rank_rows(values: np.ndarray) -> Ranks:
    """Return the ranks of (n,) values.

    >>> (3 * rank_rows(np.array([3.0, 1.0, 3.0])).middle + 0.5).tolist()
    [2.5, 1.0, 2.5]
    """
    number = np.int32 if len(values) < MANY_ROWS else np.int64
    order = np.argsort(values).astype(number)  # not stable, which is faster: ties are averaged
    ordered = values[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))  # of each group of ties
    count = np.diff(first, append=len(values))
    below, not_above = np.empty((2, len(values)), dtype=number)
    below[order], not_above[order] = np.repeat(first, count), np.repeat(first + count, count)
    return Ranks(order, below, not_above)
