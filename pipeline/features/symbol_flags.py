"""The memory with which a segment of a symbol starts: that of the layout, with the flag of the symbol."""

from collections.abc import Sequence

import pandas as pd

from pipeline.features.catalogue import Layout
from pipeline.features.rolling import Floats, Integers
from pipeline.row_groups import TableFile

GROUP, PREFIX = "symbols", "symbol_"


def list_flags(layout: Layout) -> list[str]:
    """Return the symbols that have a flag; none without flags."""
    return [name.removeprefix(PREFIX) for name, group in layout.groups.items() if group == GROUP]


def fill_memory(memory: Floats, layout: Layout, symbol: str | None) -> None:
    """Fill the memory of a segment's start; ValueError, with nothing changed, where its symbol lacks a flag."""
    check_symbols(layout, [symbol])
    memory[:] = layout.memory
    if list_flags(layout):
        memory[layout.cells[f"{PREFIX}{symbol}"]] = 1.0


def list_symbols(layout: Layout, bars: pd.DataFrame | TableFile, starts: Integers) -> list[str | None]:
    """Return the symbol of the segments that start at rows `starts` of a table, None of each where there are no flags.

    Raises:
        ValueError: there are flags, and none of one of these symbols.
    """
    found: list[str | None] = [None] * len(starts)
    if not list_flags(layout):
        return found
    if "symbol" in (bars.schema.names if isinstance(bars, TableFile) else bars.columns):
        table = bars.read(["symbol"]) if isinstance(bars, TableFile) else bars
        found[:] = table["symbol"].iloc[starts].astype(str).tolist()
    check_symbols(layout, found)
    return found


def check_symbols(layout: Layout, symbols: Sequence[str | None]) -> None:
    """Raise ValueError where a layout has flags of symbols, and none of one of these."""
    flags = list_flags(layout)
    if unknown := [symbol for symbol in symbols if flags and symbol not in flags]:
        owner = "bars without a symbol have" if unknown[0] is None else f"bars of {unknown[0]} have"
        raise ValueError(
            f"features.symbol_flags is {flags}, and {owner} no flag among them: no model has seen that symbol; leave "
            "these bars out, or add the symbol and fit the models again"
        )
