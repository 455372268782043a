"""The catalogue's entries, how they lie in memory, and the checks on windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.features.rolling import STRIDE, Floats, Integers

WINDOWS = 3  # at most, for one family


@dataclass(frozen=True)
class Column:
    """One feature: its name, what it is and from whom, and the bars of a segment that pass before it is defined."""

    name: str
    meaning: str
    warm_up: int


@dataclass(frozen=True)
class Family:
    """Columns that one kernel computes together, with the windows and constants it takes and the cells it remembers.

    The first cells hold `constants`, the others start at 0.
    """

    kernel: int
    windows: tuple[int, ...]
    columns: tuple[Column, ...]
    cells: int
    constants: tuple[float, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Where each family finds its memory and its columns. A segment starts with a copy of `memory`."""

    columns: tuple[Column, ...]
    plans: tuple[Integers, ...]  # one a module; a row is kernel, first cell, first column, three windows
    memory: Floats
    past: int  # bars before a stretch that a kernel looks back on

    @property
    def warm_up(self) -> int:
        """The bars of a segment that pass before every column is defined."""
        return max(column.warm_up for column in self.columns)


def lay_out(modules: Sequence[Sequence[Family]], *, head_cells: int) -> Layout:
    """The families of each module, one after the other in memory after `head_cells`, and in the columns."""
    memory, columns, plans = [0.0] * head_cells, list[Column](), list[Integers]()
    for families in modules:
        plan = np.zeros((len(families), 3 + WINDOWS), dtype=np.int64)
        for row, family in zip(plan, families, strict=True):
            row[:3] = family.kernel, len(memory), len(columns)
            row[3 : 3 + len(family.windows)] = family.windows
            memory += [*family.constants, *[0.0] * (family.cells - len(family.constants))]
            columns += family.columns
        plans.append(plan)
    past = max(STRIDE, *(n for families in modules for family in families for n in family.windows))
    return Layout(tuple(columns), tuple(plans), np.array(memory), past)


def window(name: str, value: object, *, least: int = 1) -> int:
    """`value`, which is a whole number of bars, `least` or more; else ValueError naming the parameter."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"features.{name}: got {value!r}; allowed is a whole number, {least} or more")
    return value


def windows(name: str, values: object, *, least: int = 1) -> tuple[int, ...]:
    """`values`, which are one or more different whole numbers of bars, `least` or more; else ValueError."""
    if not isinstance(values, list | tuple) or not values or len(set(map(repr, values))) != len(values):
        raise ValueError(f"features.{name}: got {values!r}; allowed is a list of different whole numbers")
    return tuple(window(name, value, least=least) for value in values)
