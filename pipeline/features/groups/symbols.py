"""Flags of symbols: one column a symbol, 1 in its bars and 0 in those of the others. None without `symbol_flags`.

A flag is constant over a segment: its cell of memory is filled where a segment starts, see `symbol_flags.py`.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import MinLen

from pipeline.features.catalogue import Column, Indicator
from pipeline.features.rolling import Floats, Floats32, Integers, compile_kernel
from pipeline.features.symbol_flags import PREFIX

FLAG = 0


@dataclass(frozen=True, kw_only=True)
class Params:
    """The symbols that have a flag."""

    symbol_flags: Annotated[list[str], MinLen(1)] | None = None


@compile_kernel
def update(plan: Integers, memory: Floats, chunk: Floats, out: Floats32, start: int, count: int) -> None:
    """Fill `out[:, start:start + count]` (F, N) with the columns of every row of `plan`, as Layout describes them."""
    for row in range(len(plan)):
        out[plan[row, 2], start : start + count] = memory[plan[row, 1]]


def list_indicators(params: Params) -> tuple[Indicator, ...]:
    """Return the catalogue's entries on symbols."""
    return tuple(
        Indicator(FLAG, (), (Column(f"{PREFIX}{name}", f"1 in the bars of {name}, 0 in those of others", 0),), 1)
        for name in params.symbol_flags or ()
    )
