"""Findings of guards, and the error that stops the pipeline. A guard is a function that returns one `Finding`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.feature_file import Matrix

MAX_SHOWN = 5  # of many problems
CHUNK_ROWS = 65_536  # bounds the memory that reading a table of features takes beside it


class LeakageError(ValueError):
    """The error of a critical finding."""


@dataclass(frozen=True)
class Finding:
    """The result of a guard: where the leak is, how large, how to fix it, and its measurements (JSON-able)."""

    guard: str
    severity: Literal["ok", "warning", "critical"]
    message: str
    measurements: dict[str, Any]


def raise_if_critical(findings: Iterable[Finding]) -> None:
    """Raise LeakageError, with the name and the message of every critical finding, if there is one."""
    critical = [finding for finding in findings if finding.severity == "critical"]
    if critical:
        raise LeakageError("\n".join(f"{finding.guard}: {finding.message}" for finding in critical))


def make_finding(guard: str, problems: Sequence[str], *, ok_message: str, measurements: dict[str, Any]) -> Finding:
    """Return a critical finding with the first of the problems; without any, an ok one with `ok_message`."""
    more = [f"and {len(problems) - MAX_SHOWN} more"] if len(problems) > MAX_SHOWN else []
    message = "; ".join([*problems[:MAX_SHOWN], *more]) or ok_message
    return Finding(guard, "critical" if problems else "ok", message, measurements)


def round_by_column(columns: Sequence[str], values: np.ndarray) -> dict[str, float]:
    """Return one rounded measurement for each column."""
    return {name: round(float(value), 4) for name, value in zip(columns, values, strict=True)}


def check_finite(values: Matrix, columns: Sequence[str]) -> None:
    """Raise ValueError, with the column and row of the first, where (N, columns) `values` are not finite."""
    count, first = 0, None  # first: its row and column
    for column in range(len(columns)):
        bad = np.flatnonzero(~np.isfinite(values[:, column]))
        count += len(bad)
        if len(bad) and (first is None or bad[0] < first[0]):
            first = int(bad[0]), column
    if first is not None:
        raise ValueError(
            f"{columns[first[1]]}: not finite in row {first[0]}, one of {count} such values; drop such rows"
        )
