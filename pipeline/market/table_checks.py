"""The rules for a table of bars: those of each bar (`checks`), and those of symbols, order and time grid."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.market import checks
from pipeline.market.checks import Codes, Mask, Rule

Columns = Mapping[str, npt.NDArray[Any]]  # (N,) each, grouped by symbol

SYMBOL_RULES = (
    Rule("symbol is missing or not finite", ("symbol",), "drop or restore these rows"),
    Rule("symbol has blanks around it", ("symbol",), "remove the blanks"),
    Rule("symbols differ only by case or blanks", ("symbol",), "write each symbol in one way"),
)
UNSORTED, DUPLICATE = (
    Rule("open_time not ascending", ("open_time",), "sort each symbol's rows by open_time"),
    Rule("duplicate symbol and open_time", ("close",), "keep one row of each"),
)
OFF_GRID, OTHER_INTERVAL, TOO_LONG = (
    Rule(
        "open_time off the bar grid",
        ("close_time",),
        "keep bars that open on whole intervals, or drop the others: calendar.off_grid=drop",
    ),
    Rule("bars of another interval", ("close_time",), "use one dataset for each interval"),
    Rule("bar longer than the interval", ("close_time",), "restore close_time, or use one dataset for each interval"),
)
GRID_RULES = (OFF_GRID, OTHER_INTERVAL, TOO_LONG)
JUMP = checks.RULES[checks.JUMP]


def list_rules(columns: Collection[str]) -> list[Rule]:
    """Return the rules for a table with these columns, in the order in which faults are reported."""
    mask = checks.mask_rules([name for name in checks.OPTIONAL if name not in columns])
    of_bars = [rule for place, rule in enumerate(checks.RULES) if mask >> place & 1 and rule is not JUMP]
    return [*SYMBOL_RULES, *of_bars, UNSORTED, DUPLICATE, *GRID_RULES, JUMP]


def find_failed_rules(
    columns: Columns, codes: npt.NDArray[np.intp], *, symbols: Sequence[str]
) -> list[tuple[Rule, Mask]]:
    """Return the broken rules with their rows (N,). `codes` number the `symbols`, -1 is none; rows are grouped by them.

    The order of times is checked where all are in milliseconds, and the grid where that order holds.
    """
    broken = checks.check_columns(columns)
    failed = [*_check_symbols(codes, symbols), *_select(broken, checks.VALUE_RULES)]
    failed_times = _select(broken, checks.UNIT_RULES) or [
        *_check_order(columns["open_time"], codes),
        *_select(broken, checks.TIME_RULES),
    ]
    return failed + (failed_times or _check_grid(columns, codes, broken))


def find_jumps_across_gaps(columns: Columns, codes: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the rows of a valid table before which bars are missing and the price jumps, as `checks` defines it."""
    jumps = checks.check_columns(columns) >> checks.JUMP & 1 == 1
    follows = np.append(False, np.diff(codes) == 0)[: len(codes)]
    return np.flatnonzero(jumps & follows & ~_find_adjacent(columns["open_time"], codes))


def find_interval(time: Codes, codes: npt.NDArray[np.intp]) -> int:
    """Return the most common step of `time` (N,) within a symbol; ValueError where no symbol has two bars."""
    step = np.diff(time)[np.diff(codes) == 0]
    step = step[step > 0]
    if not step.size:
        raise ValueError(f"bars: no symbol has two consecutive bars in {len(time)} rows; provide a longer table")
    if (step == step[0]).all():
        return int(step[0])
    values, counts = np.unique(step, return_counts=True)
    return int(values[np.argmax(counts)])


def _select(broken: Codes, rules: int) -> list[tuple[Rule, Mask]]:
    """Return those of the `rules` (a bitmask) that rows break."""
    found = int(np.bitwise_or.reduce(broken, initial=0)) & rules
    return [(rule, broken >> place & 1 == 1) for place, rule in enumerate(checks.RULES) if found >> place & 1]


def _check_symbols(codes: npt.NDArray[np.intp], symbols: Sequence[str]) -> list[tuple[Rule, Mask]]:
    bare = {code: name.strip() for code, name in enumerate(symbols)}
    folded = pd.Series({code: text.casefold() for code, text in bare.items()}, dtype=object)
    faulty = (
        {-1, *(code for code, text in bare.items() if not text)},
        {code for code, text in bare.items() if text and text != symbols[code]},
        set(folded.index[folded.duplicated(keep=False)]),
    )
    present = set(np.unique(codes).tolist())
    return [
        (rule, np.isin(codes, list(found))) for rule, found in zip(SYMBOL_RULES, faulty, strict=True) if found & present
    ]


def _check_order(time: Codes, codes: npt.NDArray[np.intp]) -> list[tuple[Rule, Mask]]:
    same, step = np.diff(codes) == 0, np.diff(time)
    if not (same & (step <= 0)).any():
        return []
    unsorted = np.append(False, same & (step < 0))[: len(time)]
    duplicate = pd.DataFrame({"symbol": codes, "time": time}).duplicated().to_numpy()
    return [(rule, bad) for rule, bad in ((UNSORTED, unsorted), (DUPLICATE, duplicate)) if bad.any()]


def _check_grid(columns: Columns, codes: npt.NDArray[np.intp], broken: Codes) -> list[tuple[Rule, Mask]]:
    time = columns["open_time"]
    interval = find_interval(time, codes)
    is_other = _find_other_intervals(time, codes, interval)
    is_long = (columns["close_time"] - time > interval) & ~is_other  # a bar may close as the next one opens
    rows = {
        OFF_GRID: find_off_grid(time, interval),
        OTHER_INTERVAL: is_other,
        TOO_LONG: is_long,
        JUMP: (broken >> checks.JUMP & 1 == 1) & _find_adjacent(time, codes),
    }
    return [(rule, bad) for rule, bad in rows.items() if bad.any()]


def _find_adjacent(time: Codes, codes: npt.NDArray[np.intp]) -> Mask:
    """Return (N,) whether no bar is missing between a row and the one before, of the same symbol."""
    is_next = (np.diff(codes) == 0) & (np.diff(time) == find_interval(time, codes))
    return np.append(False, is_next)[: len(time)]


def find_off_grid(time: Codes, interval: int) -> Mask:
    """Return the bars whose open_time, modulo the bar length, differs from that of most bars."""
    phase = time % interval
    if (phase == phase[0]).all():
        return np.zeros(len(time), dtype=bool)
    values, counts = np.unique(phase, return_counts=True)
    return np.asarray(phase != values[np.argmax(counts)])


def _find_other_intervals(time: Codes, codes: npt.NDArray[np.intp], interval: int) -> Mask:
    """Return the rows of symbols whose bar length differs from the table's."""
    changes = np.flatnonzero(np.diff(codes)) + 1
    bad = np.zeros(len(time), dtype=bool)
    for first, last in zip([0, *changes], [*changes, len(time)], strict=True):
        if last - first > 1:
            bad[first:last] = find_interval(time[first:last], codes[first:last]) != interval
    return bad
