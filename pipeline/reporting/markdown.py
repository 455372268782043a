"""Markdown of results, as code hosts render it: tables, and numbers as their cells show them."""

from collections.abc import Iterable, Sequence

import numpy as np

DASH = "–"


def render_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, centered: Sequence[str] = ()) -> str:
    """Return a table with the header `head`; the columns named in `centered` are centered."""
    rule = "".join(":-:|" if name in centered else "---|" for name in head)
    return "\n".join([_join_cells(head), f"|{rule}", *map(_join_cells, rows)])


def format_interval(value: object, low: object, high: object) -> str:
    """Return a number with its interval, where it has one."""
    interval = "" if format_number(low) == DASH else f" [{format_number(low)}, {format_number(high)}]"
    return format_number(value) + interval


def format_number(value: object) -> str:
    """Return four significant digits, or a dash for NaN and None."""
    return DASH if not isinstance(value, float | np.floating) or np.isnan(value) else f"{value:.4g}"


def _join_cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
