"""The weights of a stacking ensemble (Wolpert 1992; non-negative as in Breiman 1996), or of its best member alone."""

import numpy as np
from scipy.optimize import nnls


def fit_weights(targets: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the non-negative weights (M,) float64 of least squares of y on the members' target positions, of sum 1.

    All are 0 where no member has a positive relation with y: such an ensemble holds nothing.

    >>> targets = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0], [1.0, 1.0, -2.0]])
    >>> fit_weights(targets, np.array([0.3, 0.1, 0.4])).round(6)
    array([0.75, 0.25, 0.  ])

    Args:
        targets: (n, M) target positions of M members.
        y: (n,) the label of the ensemble's target.
    """
    weights, _ = nnls(np.asarray(targets, np.float64), np.asarray(y, np.float64))
    total = weights.sum()
    return np.asarray(weights / total if total > 0 else np.zeros(len(weights)))


def choose_member(targets: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the weights (M,) of least squares of y on one member: 1 of the best and 0 of the others.

    All are 0 where no member has a positive relation with y.

    >>> targets = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0], [1.0, 1.0, -2.0]])
    >>> choose_member(targets, np.array([0.3, 0.1, 0.4]))
    array([1., 0., 0.])

    Args:
        targets: (n, M) target positions of M members.
        y: (n,) the label of the ensemble's target.
    """
    targets, y = np.asarray(targets, np.float64), np.asarray(y, np.float64)
    norm = np.sqrt(np.square(targets).sum(axis=0))
    gain = np.divide(targets.T @ y, norm, out=np.zeros(targets.shape[1]), where=norm > 0)
    return np.asarray((np.arange(len(gain)) == gain.argmax()) & (gain > 0), np.float64)
