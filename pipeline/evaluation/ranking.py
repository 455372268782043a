"""The rank of a score among the scores of the rows that its fit has seen: a vote in units that all members share."""

import numpy as np


def learn_reference(scores: np.ndarray, *, quantiles: int) -> np.ndarray:
    """Return (quantiles,) float64 ascending: the scores at the middle of equally many parts of all scores (n,).

    >>> learn_reference(np.array([5.0, 1.0, 2.0, 4.0, 3.0, 0.0]), quantiles=3)
    array([1., 3., 5.])
    """
    ordered = np.sort(scores.astype(np.float64))
    middle = (2 * np.arange(quantiles) + 1) * len(ordered) // (2 * quantiles)  # in whole numbers: no CPU rounds them
    return np.asarray(ordered[middle])


def rank_scores(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return (n,) float64 in [-1, 1]: twice the share of a reference (K,) below each score, less 1; NaN of NaN.

    Equal ones count half. So the median of the reference is 0, as is a score that never varied. Counts are whole
    numbers, and so a streaming deployment or a graph gets the same bits.

    >>> rank_scores(np.array([-9.0, 1.0, 2.0, 9.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    array([-1.  , -0.75, -0.25,  1.  ])
    """
    scores = scores.astype(np.float64)
    below, up_to = (np.searchsorted(reference, scores, side) for side in ("left", "right"))
    ranks = (below + up_to) / len(reference) - 1.0
    return np.where(np.isnan(scores), np.nan, ranks)
