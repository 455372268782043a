"""The rules for a table of bars: those of each bar (`checks`), and those of symbols, order and time grid."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.market import checks
from pipeline.market.checks import Codes, Mask, Rule

Columns = Mapping[str, npt.NDArray[Any]]  # (N,) each, grouped by symbol
OffGrid = Callable[[Codes, int], Mask]  # finds the bars off the grid, (N,), by open_time and the bar length
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
MAX_DROPPED_SHARE = 0.01  # of bars off the grid, up to which a message advises to drop them

SYMBOL_RULES = (
    Rule("symbol is missing or not finite", ("symbol",), "drop or restore these rows"),
    Rule("symbol has blanks around it", ("symbol",), "remove the blanks"),
    Rule("symbols differ only by case or blanks", ("symbol",), "write each symbol in one way"),
)
NEVER_TRADED = Rule(
    "volume is 0 in every bar of a symbol",
    ("volume",),
    "no order would ever fill: restore volume, or give a measure of activity such as the number of ticks",
)
UNSORTED, DUPLICATE = (
    Rule("open_time not ascending", ("open_time",), "sort each symbol's rows by open_time"),
    Rule("duplicate symbol and open_time", ("close",), "keep one row of each"),
)
STAMPED_BY_CLOSE, NO_LENGTH = (
    Rule(
        "open_time is the last instant of an interval",
        ("close_time",),
        "these are times of the close: replace each by the first instant of its interval",
    ),
    Rule(
        "close_time equals open_time in every bar",
        ("close_time",),
        "remove the column close_time where times are those of the open; else subtract the bar length from open_time",
    ),
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
GRID_RULES = (STAMPED_BY_CLOSE, NO_LENGTH, OFF_GRID, OTHER_INTERVAL, TOO_LONG)
JUMP = checks.RULES[checks.JUMP]


def list_rules(columns: Collection[str]) -> list[Rule]:
    """Return the rules for a table with these columns, in the order in which faults are reported."""
    mask = checks.mask_rules([name for name in checks.OPTIONAL if name not in columns])
    of_bars = [rule for place, rule in enumerate(checks.RULES) if mask >> place & 1 and rule is not JUMP]
    return [*SYMBOL_RULES, *of_bars, NEVER_TRADED, UNSORTED, DUPLICATE, *GRID_RULES, JUMP]


def find_failed_rules(
    columns: Columns, codes: npt.NDArray[np.intp], *, symbols: Sequence[str], find_off_grid: OffGrid | None = None
) -> list[tuple[Rule, Mask]]:
    """Return the broken rules with their rows (N,). `codes` number the `symbols`, -1 is none; rows are grouped by them.

    The order of times is checked where all are in milliseconds, and the grid where that order holds: by
    `find_off_grid` of a market with sessions, else as `find_other_phases` has it.
    """
    broken = checks.check_columns(columns)
    failed = [*_check_symbols(codes, symbols), *_select(broken, checks.VALUE_RULES)]
    failed += _check_volume(columns["volume"], codes)
    failed_times = _select(broken, checks.UNIT_RULES) or [
        *_check_order(columns["open_time"], codes),
        *_select(broken, checks.TIME_RULES),
    ]
    return failed + (failed_times or _check_grid(columns, codes, broken, find_off_grid))


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


def _check_volume(volume: npt.NDArray[Any], codes: npt.NDArray[np.intp]) -> list[tuple[Rule, Mask]]:
    """Return the rows of the symbols that no bar trades."""
    never = np.bincount(codes + 1, weights=volume != 0) == 0  # also of no symbol, -1, and of numbers without rows
    bad = never[codes + 1] & (codes >= 0)
    return [(NEVER_TRADED, bad)] if bad.any() else []


def _check_order(time: Codes, codes: npt.NDArray[np.intp]) -> list[tuple[Rule, Mask]]:
    same, step = np.diff(codes) == 0, np.diff(time)
    if not (same & (step <= 0)).any():
        return []
    unsorted = np.append(False, same & (step < 0))[: len(time)]
    duplicate = pd.DataFrame({"symbol": codes, "time": time}).duplicated().to_numpy()
    rules = (UNSORTED, DUPLICATE)
    if unsorted.any() and _is_repeated_hour(step[same], int(unsorted.sum())):
        remedy = (
            f"the clock goes back by an hour, as local times do, and {int(duplicate.sum()):,} bars stand twice, all of "
            "them real: set sources.file.timezone, or store ms UTC"
        )
        rules = (UNSORTED._replace(remedy=remedy), DUPLICATE._replace(remedy=remedy))
    return [(rule, bad) for rule, bad in zip(rules, (unsorted, duplicate), strict=True) if bad.any()]


def _is_repeated_hour(step: Codes, count: int) -> bool:
    """Return whether times go back as at the end of daylight saving: `count` times, and by an hour less a bar."""
    values, counts = np.unique(step[step > 0], return_counts=True)
    return bool(values.size) and np.count_nonzero(step == values[np.argmax(counts)] - HOUR_MS) == count


def _check_grid(
    columns: Columns, codes: npt.NDArray[np.intp], broken: Codes, find_off_grid: OffGrid | None
) -> list[tuple[Rule, Mask]]:
    time = columns["open_time"]
    interval = find_interval(time, codes)
    off_grid = (find_off_grid or find_other_phases)(time, interval)
    every = np.ones(len(time), dtype=bool)
    last = time % interval >= interval - (1000 if interval >= 60_000 else 1)
    is_instant = bool(len(time) > 1 and (columns["close_time"] == time).all())
    is_other = _find_other_intervals(time, codes, interval)
    is_long = (columns["close_time"] - time > interval) & ~is_other  # a bar may close as the next one opens
    rows = {
        STAMPED_BY_CLOSE: every & bool(last.all() and find_off_grid is None),
        NO_LENGTH: every & is_instant,
        _advise_off_grid(off_grid, interval, has_sessions=find_off_grid is not None): off_grid,
        OTHER_INTERVAL: is_other,
        TOO_LONG: is_long,
        JUMP: (broken >> checks.JUMP & 1 == 1) & _find_adjacent(time, codes),
    }
    return [(rule, bad) for rule, bad in rows.items() if bad.any()]


def _find_adjacent(time: Codes, codes: npt.NDArray[np.intp]) -> Mask:
    """Return (N,) whether no bar is missing between a row and the one before, of the same symbol."""
    is_next = (np.diff(codes) == 0) & (np.diff(time) == find_interval(time, codes))
    return np.append(False, is_next)[: len(time)]


def _advise_off_grid(bad: Mask, interval: int, *, has_sessions: bool) -> Rule:
    """Return the rule OFF_GRID with a remedy for so many bars: to drop more than a few would lose the file."""
    if bad.mean() <= MAX_DROPPED_SHARE:
        return OFF_GRID
    advice = "use bars of one length in time, not of months, volume or ticks"
    if has_sessions:
        advice = "make bars that open at a session's open plus whole intervals, or set calendar.exchange to their hours"
    elif interval % DAY_MS == 0:
        advice = (
            "where they open at a local midnight, which daylight saving moves, set calendar.exchange to hours of that "
            f'zone from "00:00" to "24:00"; else {advice}'
        )
    else:
        advice += "; of a market with sessions set calendar.exchange"
    return OFF_GRID._replace(remedy=f"{bad.mean():.0%} of the bars do, too many to drop: {advice}")


def find_other_phases(time: Codes, interval: int) -> Mask:
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
