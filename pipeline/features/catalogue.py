"""The entries of the feature catalogue, and the layout of their memory and columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.features.rolling import CHAINS, Floats, Integers

FIRST_GROUPS = ("price", "momentum", "flow", "liquidity")  # in the order of their columns; others follow by alphabet
PRESETS = {"microstructure": ("flow", "liquidity")}  # names for several groups together
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
    `fields` are the optional fields of bars that it reads, see `market.checks.OPTIONAL`. Where bars lack one of them,
    `fallback` takes its place, with fewer columns, or nothing.
    """

    kernel: int
    windows: tuple[int, ...]
    columns: tuple[Column, ...]
    cells: int
    constants: tuple[float, ...] = ()
    fields: tuple[str, ...] = ()
    fallback: "Indicator | None" = None


@dataclass(frozen=True)
class Layout:
    """The position of every indicator in memory and among the columns. Each segment starts with a copy of `memory`."""

    columns: tuple[Column, ...]
    groups: dict[str, str]  # column: its group
    plans: tuple[Integers, ...]  # one per group: (indicators, 6): kernel, first cell, first column, three windows
    memory: Floats
    lookback_bars: int  # bars before a chunk that a kernel reads
    cells: dict[str, int]  # column: the first cell of its indicator

    @property
    def warm_up_bars(self) -> int:
        """Number of bars at a segment's start that lack a value in some column."""
        return max(column.warm_up_bars for column in self.columns)


def select_indicators(
    groups: Mapping[str, Sequence[Indicator]], absent: Sequence[str]
) -> tuple[dict[str, tuple[Indicator, ...]], dict[str, str]]:
    """Return the indicators that need no `absent` field, and the columns left out with the field that they need."""
    selected, left_out = dict[str, tuple[Indicator, ...]](), dict[str, str]()
    for name, indicators in groups.items():
        found = list[Indicator]()
        for indicator in indicators:
            one: Indicator | None = indicator
            while one and (field := next((field for field in one.fields if field in absent), None)):
                remaining = one.fallback.columns if one.fallback else ()
                left_out |= {column.name: field for column in one.columns if column not in remaining}
                one = one.fallback
            found += [one] if one else []
        selected[name] = tuple(found)
    return selected, left_out


def make_layout(groups: Mapping[str, Sequence[Indicator]], *, head_cells: int) -> Layout:
    """Return the layout of the groups' indicators in their order, after `head_cells` cells of the caller's.

    Raises ValueError where two columns have the same name.
    """
    memory, columns, owners, plans = [0.0] * head_cells, list[Column](), dict[str, str](), list[Integers]()
    cells = dict[str, int]()
    for name, indicators in groups.items():
        plan = np.zeros((len(indicators), 3 + MAX_WINDOWS), dtype=np.int64)
        for row, indicator in zip(plan, indicators, strict=True):
            row[:3] = indicator.kernel, len(memory), len(columns)
            row[3 : 3 + len(indicator.windows)] = indicator.windows
            cells |= dict.fromkeys((column.name for column in indicator.columns), len(memory))
            memory += [*indicator.constants, *[0.0] * (indicator.cells - len(indicator.constants))]
            columns += indicator.columns
            add_owners(owners, [column.name for column in indicator.columns], owner=name)
        plans.append(plan)
    lookback_bars = max([CHAINS, *(n for indicators in groups.values() for one in indicators for n in one.windows)])
    return Layout(tuple(columns), owners, tuple(plans), np.array(memory), lookback_bars, cells)


def add_owners(owners: dict[str, str], columns: Sequence[str], *, owner: str) -> None:
    """Add columns to a mapping from column to group; ValueError where one of them is there already."""
    for column in columns:
        if column in owners:
            raise ValueError(f"features {owners[column]} and {owner} both have a column {column}; rename one of them")
        owners[column] = owner
