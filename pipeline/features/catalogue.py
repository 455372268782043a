"""The entries of the feature catalogue, and the layout of their memory and columns."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.features.rolling import CHAINS, Floats, Integers

MAX_WINDOWS = 3  # of one indicator


@dataclass(frozen=True)
class Column:
    """One feature: name, definition with source, and number of bars at a segment's start without a value."""

    name: str
    meaning: str
    warm_up_bars: int


@dataclass(frozen=True)
class Indicator:
    """The columns that one kernel fills together, with its windows, constants and number of memory cells.

    The first cells hold `constants`, the others start at 0. `kernel` is the number that the module's `update` knows.
    """

    kernel: int
    windows: tuple[int, ...]
    columns: tuple[Column, ...]
    cells: int
    constants: tuple[float, ...] = ()


@dataclass(frozen=True)
class Layout:
    """The position of every indicator in memory and among the columns. Each segment starts with a copy of `memory`."""

    columns: tuple[Column, ...]
    plans: tuple[Integers, ...]  # one per module: (indicators, 6): kernel, first cell, first column, three windows
    memory: Floats
    lookback_bars: int  # bars before a chunk that a kernel reads

    @property
    def warm_up_bars(self) -> int:
        """Number of bars at a segment's start that lack a value in some column."""
        return max(column.warm_up_bars for column in self.columns)


def make_layout(modules: Sequence[Sequence[Indicator]], *, head_cells: int) -> Layout:
    """Return the layout of the modules' indicators in their order, after `head_cells` cells of the caller's."""
    memory, columns, plans = [0.0] * head_cells, list[Column](), list[Integers]()
    for indicators in modules:
        plan = np.zeros((len(indicators), 3 + MAX_WINDOWS), dtype=np.int64)
        for row, indicator in zip(plan, indicators, strict=True):
            row[:3] = indicator.kernel, len(memory), len(columns)
            row[3 : 3 + len(indicator.windows)] = indicator.windows
            memory += [*indicator.constants, *[0.0] * (indicator.cells - len(indicator.constants))]
            columns += indicator.columns
        plans.append(plan)
    lookback_bars = max(CHAINS, *(n for indicators in modules for one in indicators for n in one.windows))
    return Layout(tuple(columns), tuple(plans), np.array(memory), lookback_bars)
