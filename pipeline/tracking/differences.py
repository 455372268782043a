"""Compare the values of two files, part by part: equal, within a tolerance, or different, and by how much."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from pipeline.tracking.logical import Parts, is_number


class Level(IntEnum):
    """The distance between two files."""

    SAME = 0
    SAME_VALUES = 1  # other bytes
    WITHIN_TOLERANCE = 2
    DIFFERENT = 3
    UNKNOWN = 4  # a file is missing


class Tolerance(NamedTuple):
    """The largest difference of a and b that is a rounding: `absolute` + `relative` · max(|a|, |b|).

    Integers, such as times, are not rounded: they differ or they do not.
    """

    relative: float = 1e-6
    absolute: float = 1e-9


@dataclass(frozen=True)
class PartDifference:
    """The difference of one part of two files."""

    name: str
    level: Level
    text: str


def compare_parts(a: Parts, b: Parts, tolerance: Tolerance) -> list[PartDifference]:
    """Return a difference for each part whose values differ; none where all agree."""
    found = []
    for name in dict.fromkeys((*a, *b)):
        if name not in a or name not in b:
            found.append(PartDifference(name, Level.DIFFERENT, f"only in {'a' if name in a else 'b'}"))
        elif (difference := compare_values(name, (a[name], b[name]), tolerance)) is not None:
            found.append(difference)
    return found


def compare_digests(a: Mapping[str, str], b: Mapping[str, str]) -> list[PartDifference]:
    """Return a difference for each part whose digests differ; a digest does not say by how much."""
    return [
        PartDifference(name, Level.DIFFERENT, "values differ" if name in a and name in b else "only in one")
        for name in dict.fromkeys((*a, *b))
        if a.get(name) != b.get(name)
    ]


def compare_values(name: str, pair: tuple[Any, Any], tolerance: Tolerance) -> PartDifference | None:
    """Return the difference of one part, None where both values agree."""
    if all(is_number(value) for value in pair):
        is_exact = all(isinstance(value, int) for value in pair)
        x, y = (np.array([value], float) for value in pair)
        return _compare_numbers(name, x, y, None if is_exact else tolerance)
    a, b = pair
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        is_same = type(a) is type(b) and a == b
        return None if is_same else PartDifference(name, Level.DIFFERENT, f"{_shorten(a)} → {_shorten(b)}")
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return PartDifference(name, Level.DIFFERENT, f"{a.dtype}{list(a.shape)} → {b.dtype}{list(b.shape)}")
    if a.dtype.kind in "fiub":
        return _compare_numbers(name, a, b, tolerance if a.dtype.kind == "f" else None)
    differ = np.array([str(x) != str(y) for x, y in zip(a.ravel(), b.ravel(), strict=True)], dtype=bool)
    if not differ.any():
        return None
    place = int(differ.argmax())
    first = f"first {_shorten(a.ravel()[place])} → {_shorten(b.ravel()[place])} at {place}"
    return PartDifference(name, Level.DIFFERENT, f"{differ.sum()} of {differ.size} differ, {first}")


def _compare_numbers(name: str, a: np.ndarray, b: np.ndarray, tolerance: Tolerance | None) -> PartDifference | None:
    """Return the difference of two arrays of numbers of one shape; NaN agrees with NaN alone, None tolerates none."""
    differ = (a != b) & ~(np.isnan(a) & np.isnan(b))  # (N,)
    if not differ.any():
        return None
    x, y = a[differ].astype(float), b[differ].astype(float)
    with np.errstate(invalid="ignore"):
        distance = np.abs(x - y)
        size = np.maximum(np.abs(x), np.abs(y))
        is_close = tolerance is not None and (distance <= tolerance.absolute + tolerance.relative * size).all()
    level = Level.WITHIN_TOLERANCE if is_close else Level.DIFFERENT
    finite = np.isfinite(distance)
    largest = float(distance[finite].max()) if finite.any() else np.nan
    relative = float((distance[finite] / size[finite]).max()) if finite.any() else np.nan
    apart = "" if finite.all() else f"; {(~finite).sum()} are finite in one alone"
    text = f"{differ.sum()} of {differ.size} differ, by {largest:.3g} at most, relative {relative:.3g}{apart}"
    if a.size == 1:
        text = f"{a.item():.10g} → {b.item():.10g}, relative {relative:.3g}"
    return PartDifference(name, level, text)


def _shorten(value: Any, length: int = 60) -> str:
    text = f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)
    return text if len(text) <= length else f"{text[:length]}…"
