"""What a guard has to say, and the error that stops the line. A guard is a function that answers with one `Finding`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

SHOWN = 5  # of many problems
ROWS_AT_ONCE = 65_536  # bounds the memory that looking at a table of features takes besides it


class LeakageError(ValueError):
    """A guard has found something critical."""


@dataclass(frozen=True)
class Finding:
    """What a guard has to say: what, where, how much and what to do, and the figures behind it (JSON-able)."""

    guard: str
    severity: Literal["ok", "warning", "critical"]
    message: str
    figures: dict[str, Any]


def raise_if_critical(findings: Iterable[Finding]) -> None:
    """Raises LeakageError, naming every critical guard and what it found, if there is any."""
    critical = [finding for finding in findings if finding.severity == "critical"]
    if critical:
        raise LeakageError("\n".join(f"{finding.guard}: {finding.message}" for finding in critical))


def verdict(guard: str, problems: Sequence[str], fine: str, figures: dict[str, Any]) -> Finding:
    """Critical if there are problems, with the first of them."""
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    message = "; ".join([*problems[:SHOWN], *more]) or fine
    return Finding(guard, "critical" if problems else "ok", message, figures)


def by_column(columns: Sequence[str], values: np.ndarray) -> dict[str, float]:
    """One rounded figure for each column."""
    return {name: round(float(value), 4) for name, value in zip(columns, values, strict=True)}


def check_finite(values: np.ndarray, columns: Sequence[str]) -> None:
    """Raises ValueError naming the column and the first row of a value that is not finite; `values` is (N, columns)."""
    count, first = 0, None  # first: its row and column
    for start in range(0, len(values), ROWS_AT_ONCE):
        bad = ~np.isfinite(values[start : start + ROWS_AT_ONCE])
        count += int(np.count_nonzero(bad))
        if first is None and bad.any():
            row, column = np.argwhere(bad)[0].tolist()
            first = start + row, column
    if first is not None:
        raise ValueError(
            f"{columns[first[1]]}: not finite in row {first[0]}, one of {count} such values; drop such rows"
        )
