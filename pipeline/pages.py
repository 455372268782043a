"""Markdown of results, as code hosts render it: tables, and figures as cells show them."""

from collections.abc import Iterable, Sequence

import numpy as np

DASH = "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, centred: Sequence[str] = ()) -> str:
    """A table of cells under `head`; the columns that are named `centred` stand so."""
    rule = "".join(":-:|" if name in centred else "---|" for name in head)
    return "\n".join([_row(head), f"|{rule}", *map(_row, rows)])


def between(value: object, low: object, high: object) -> str:
    """A figure with its interval, where it has one."""
    ends = "" if shown(low) == DASH else f" [{shown(low)}, {shown(high)}]"
    return shown(value) + ends


def shown(value: object) -> str:
    """Four significant digits, or a dash where undefined."""
    return DASH if not isinstance(value, float | np.floating) or np.isnan(value) else f"{value:.4g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
