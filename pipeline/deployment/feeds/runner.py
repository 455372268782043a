"""Passes bars of any feed to a hot path and writes its signals as lines of JSON."""

import json
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.deployment.contract import Contract
from pipeline.deployment.feeds.tally import Tally
from pipeline.market.bar_reader import check_closed
from pipeline.market.checks import MAX_MS, MIN_MS

Bar = Mapping[str, Any]

LATE, REPEATED, OTHER_SYMBOL, NOT_CLOSED, INVALID = "late", "repeated", "other_symbol", "not_closed", "invalid"


class PastBar(dict[str, Any]):
    """A bar of the history before the first live one: it is observed, and nothing is decided at its close."""


class Signal(Protocol):
    """What a hot path returns for a bar, as far as feeds use it."""

    def to_dict(self) -> dict[str, Any]:
        """Return the signal as a mapping that JSON can hold."""


class HotPath(Protocol):
    """The hot path of a bundle, as far as feeds use it."""

    contract: Contract
    counts: dict[str, int]

    def update(self, bar: Bar, *, now_ms: float | None = None) -> Signal | None:
        """Return the signal at the close of a bar; ValueError, with nothing changed, on a bar that is refused."""

    def observe(self, bar: Bar) -> None:
        """Take a past bar without a decision; ValueError as `update`."""

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return a copy of all that later signals depend on."""

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Resume from a state; ValueError, with nothing changed, where it is of another bundle."""


def feed(
    hot_path: HotPath,
    bars: Iterable[Bar],
    *,
    write: Callable[[str], object],
    tally: Tally,
    last_ms: MutableMapping[str, int],
) -> None:
    """Update a hot path by every bar, in order, and write each signal as one line of JSON.

    A bar that the hot path refuses changes nothing and is counted by its kind: see `find_kind`. `last_ms` has the
    `open_time` of the last bar taken, by symbol, and is updated before the next bar is drawn from `bars`.
    """
    symbols = hot_path.contract.bars.symbols
    for bar in bars:
        try:
            signal = hot_path.observe(bar) if isinstance(bar, PastBar) else hot_path.update(bar)
        except ValueError as error:
            tally.refuse(find_kind(bar, last_ms=last_ms, symbols=symbols), str(error))
            continue
        last_ms[bar["symbol"]] = int(float(bar["open_time"]))
        tally.bars += 1
        if signal is not None:
            write(json.dumps(signal.to_dict(), allow_nan=False) + "\n")
            tally.signals += 1


def find_kind(bar: Bar, *, last_ms: Mapping[str, int], symbols: Sequence[str]) -> str:
    """Return why a bar is refused: the first of these that holds.

    NOT_CLOSED: its feed marks it as still forming. OTHER_SYMBOL: its symbol is none of `symbols`. REPEATED, LATE: it
    opens with or before the last bar of its symbol. INVALID: anything else, such as a missing field or a price jump.
    """
    if "open_time" in bar:
        try:
            check_closed(bar)
        except ValueError:
            return NOT_CLOSED
    symbol = bar.get("symbol")
    if not isinstance(symbol, str) or symbol not in symbols:
        return OTHER_SYMBOL
    time_ms = read_time(bar)
    if time_ms is None or symbol not in last_ms or time_ms > last_ms[symbol]:
        return INVALID
    return REPEATED if time_ms == last_ms[symbol] else LATE


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
