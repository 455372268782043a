"""Fewer points of a long series, with every extreme value among them."""

import numpy as np

MAX_POINTS = 2_000  # of one series on a page


def downsample(x: np.ndarray, y: np.ndarray, *, max_points: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `max_points` points of (n,) y against ascending x: lowest and highest of each stretch, in order.

    The first and the last point are among them. Points whose y is NaN or infinite are left out.

    >>> x, y = np.arange(8), np.array([0, 1, 9, 1, 1, -5, 1, 2])
    >>> [points.tolist() for points in downsample(x, y, max_points=6)]
    [[0, 2, 5, 7], [0, 9, -5, 2]]

    Raises:
        ValueError: x and y differ in length, or `max_points` is below 4.
    """
    x, y = np.asarray(x), np.asarray(y)
    if len(x) != len(y):
        raise ValueError(f"a series has {len(x)} values of x and {len(y)} of y; give one y for each x")
    if max_points < 4:
        raise ValueError(f"max_points is {max_points}; it must be at least 4: first, last, lowest and highest")
    is_finite = np.isfinite(y)
    x, y = x[is_finite], y[is_finite]
    if len(y) <= max_points:
        return x, y
    edges = np.linspace(0, len(y), (max_points - 2) // 2 + 1).astype(np.int64)
    stretches = [(start, y[start:stop]) for start, stop in zip(edges[:-1], edges[1:], strict=True)]
    extremes = [start + pick for start, part in stretches for pick in (int(part.argmin()), int(part.argmax()))]
    chosen = np.unique([0, *extremes, len(y) - 1])
    return x[chosen], y[chosen]
