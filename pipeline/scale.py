"""When numbers count as equal: judged by their size, never by comparison with exactly 0."""

import numpy as np

ROUNDING = 1e-12  # numbers that differ by less, relative to their size, differ by float64's rounding alone
RESOLUTION = float(np.finfo(np.float32).eps)  # 1.2e-7: of float32, in which features, labels and predictions are stored


def is_constant(values: np.ndarray, *, axis: int | None = None) -> np.ndarray:
    """Return whether values never vary: they differ by at most `RESOLUTION` times the largest of them in size.

    The result has the shape of `values` without `axis`, or is a single truth value. ValueError for no values.

    >>> bool(is_constant(np.array([1e-4, 1.00000000001e-4]))), bool(is_constant(np.array([1e-9, 2e-9])))
    (True, False)
    """
    return np.asarray(np.ptp(values, axis=axis) <= RESOLUTION * np.abs(values).max(axis=axis))


def is_negligible(values: np.ndarray) -> np.ndarray:
    """Return which (N,) values are 0 but for rounding: at most `ROUNDING` times the largest of them in size."""
    size = np.abs(values)
    return np.asarray(size <= ROUNDING * size.max(initial=0.0))
