"""Split-conformal predictions: the quantile of conformity scores that calibration rows demand.

[1] Vovk, Gammerman & Shafer 2005, "Algorithmic Learning in a Random World". [2] Lei et al. 2018, "Distribution-Free
Predictive Inference for Regression". [3] Romano, Patterson & Candès 2019, "Conformalized Quantile Regression".
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

SYMMETRIC = 1e-9  # by how much two levels may miss a sum of 1


def rank_quantile(count: int, coverage: float) -> int:
    """Return the rank ⌈(n + 1)·coverage⌉ of the conformity score, from 1 on, that bounds a new one ([2], section 2).

    The new score is at most that of this rank with a probability in [coverage, coverage + 1 / (n + 1)], where all n + 1
    are exchangeable and none are equal. A rank of n + 1 has no score: only an interval without bounds covers then.

    >>> [rank_quantile(count, 0.9) for count in (8, 9, 19, 99)]
    [9, 9, 18, 90]
    """
    return math.ceil((count + 1) * Fraction(str(coverage)))


def find_conformal_quantile(scores: np.ndarray, coverage: float) -> float:
    """Return the score of `rank_quantile` among those of calibration rows (n,); infinite where there are too few.

    >>> find_conformal_quantile(np.array([0.3, 0.1, 0.4, 0.2]), 0.8)
    0.4
    >>> find_conformal_quantile(np.array([0.3, 0.1, 0.4, 0.2]), 0.9)
    inf
    """
    rank = rank_quantile(len(scores), coverage)
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else math.inf


def list_coverages(levels: Sequence[float]) -> list[float]:
    """Return the coverage of each interval between two levels of quantiles, the outermost first.

    >>> list_coverages([0.05, 0.25, 0.5, 0.75, 0.95])
    [0.9, 0.5]

    Raises:
        ValueError: the levels are no pairs around the median.
    """
    pairs = list(zip(levels, reversed(levels), strict=True))
    if len(levels) < 3 or len(levels) % 2 == 0 or any(abs(low + high - 1) > SYMMETRIC for low, high in pairs):
        raise ValueError(
            f"the target's quantiles are {list(levels)}; intervals need pairs of levels around the median, such as "
            "[0.05, 0.5, 0.95]"
        )
    return [round(high - low, 9) for low, high in pairs[: len(levels) // 2]]


def measure_residuals(y: np.ndarray, center: np.ndarray, pairs: int) -> np.ndarray:
    """Return (n, pairs) |y − center|, the conformity scores of a predicted number ([2]), equal for all intervals."""
    residual = np.abs(y.astype(np.float64) - center.astype(np.float64))
    return np.repeat(residual[:, None], pairs, axis=1)


def measure_excess(y: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Return (n, pairs) how far y lies outside each interval of quantiles (n, levels) ([3], equation 6).

    Within an interval the score is negative: minus the distance to its nearest end.

    >>> measure_excess(np.array([2.0, 0.25]), np.array([[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]])).ravel().tolist()
    [1.0, -0.75]
    """
    pairs = quantiles.shape[1] // 2
    quantiles, y = quantiles.astype(np.float64), y.astype(np.float64)[:, None]
    low, high = quantiles[:, :pairs], quantiles[:, :pairs:-1]
    return np.asarray(np.maximum(low - y, y - high))
