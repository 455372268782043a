"""Passes bars of any feed to a hot path and writes its signals as lines of JSON."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from pipeline.deployment.feeds.tally import Tally
from pipeline.deployment.hot_path import HotPath
from pipeline.market.bar_reader import check_closed
from pipeline.market.checks import MAX_MS, MIN_MS
from pipeline.market.stream_clock import UNKNOWN

Bar = Mapping[str, Any]

LATE, REPEATED, OTHER_SYMBOL, NOT_CLOSED, INVALID = "late", "repeated", "other_symbol", "not_closed", "invalid"


POSITION, POSITION_KEYS = "position", ("symbol", "position", "model")
BAR = frozenset({"open_time", "open", "high", "low", "close"})  # one of them makes a mapping a bar


class PastBar(dict[str, Any]):
    """A bar of the history before the first live one: it is observed, and nothing is decided at its close."""


def feed(hot_path: HotPath, bars: Iterable[Bar], *, write: Callable[[str], object], tally: Tally) -> None:
    """Update a hot path by every bar, in order, and write each signal as one line of JSON.

    A bar that the hot path refuses changes nothing and is counted by its kind: see `find_kind`. A bar is used before
    the next one is drawn from `bars`. A mapping with a `position` and without a price is no bar: see `set_position`.
    """
    for bar in bars:
        signal = None
        try:
            if isinstance(bar, PastBar):
                hot_path.observe(bar)
            elif POSITION in bar and BAR.isdisjoint(bar):
                set_position(hot_path, bar)
                continue
            else:
                signal = hot_path.update(bar)
        except ValueError as error:
            tally.refuse(find_kind(bar, hot_path), str(error))
            continue
        tally.bars += 1
        if signal is not None:
            write(json.dumps(signal.to_dict(), allow_nan=False) + "\n")
            tally.signals += 1


def set_position(hot_path: HotPath, given: Bar) -> None:
    """Set the position that is held at the close of the next bar, from a mapping with the arguments' names."""
    if unknown := [name for name in given if name not in POSITION_KEYS]:
        raise ValueError(f"position: it has {', '.join(map(repr, unknown))}; allowed are {', '.join(POSITION_KEYS)}")
    hot_path.set_position(str(given.get("symbol")), given[POSITION], model=given.get("model"))


def find_kind(bar: Bar, hot_path: HotPath) -> str:
    """Return why a hot path refuses a bar: the first of these that holds.

    NOT_CLOSED: its feed marks it as still forming. OTHER_SYMBOL: its symbol is none of the bundle's. REPEATED, LATE: it
    opens with or before the last bar of its symbol. INVALID: anything else, such as a missing field or a price jump.
    """
    if "open_time" in bar:
        try:
            check_closed(bar)
        except ValueError:
            return NOT_CLOSED
    symbol = bar.get("symbol")
    if not isinstance(symbol, str) or symbol not in hot_path.lanes:
        return OTHER_SYMBOL
    time_ms, last_ms = read_time(bar), find_last_ms(hot_path, symbol)
    if time_ms is None or last_ms is None or time_ms > last_ms:
        return INVALID
    return REPEATED if time_ms == last_ms else LATE


def find_last_ms(hot_path: HotPath, symbol: str) -> int | None:
    """Return the `open_time` of the last bar that a hot path has taken of one of its symbols; None before the first."""
    time_ms = hot_path.lanes[symbol].stream.clock.time_ms
    return None if time_ms == UNKNOWN else time_ms


def read_time(bar: Bar) -> int | None:
    """Return the `open_time` of a bar in ms; None where it is no whole number of ms of the years 1990 to 2100."""
    time = bar.get("open_time")
    if isinstance(time, bool) or not isinstance(time, (int, float, str, np.integer, np.floating)):
        return None
    try:
        time_ms = float(time)
    except (ValueError, OverflowError):
        return None
    return int(time_ms) if MIN_MS <= time_ms < MAX_MS and time_ms == int(time_ms) else None
