"""The bars of all symbols with one open time, whose columns among symbols are known together.

They are known once every symbol of the contract has this bar, or a later one opens. A symbol without it takes no part,
as in bulk; one that comes afterwards is refused.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.deployment.contract import Contract
from pipeline.deployment.lane import Arrays, Lane, make_stream
from pipeline.features import cross_section
from pipeline.features.chunks import CLOSE
from pipeline.features.params import separate_cross_section
from pipeline.market.bar_reader import describe_time
from pipeline.market.stream_clock import UNKNOWN

Bar = Mapping[str, Any]
Bars = Mapping[str, Bar]  # by symbol
TIME = "open_time"
KEY = "cross_section/"  # of its arrays in a state


class Together:
    """The columns of a bundle among its symbols, at one open time after another."""

    def __init__(self, bundle: Contract, lanes: Mapping[str, Lane]) -> None:
        """Begin before the first bar; symbols that no model predicts have a stream without a lane."""
        part, (_, params) = bundle.cross_section, separate_cross_section(bundle.features)
        assert part is not None and params is not None
        self._across = cross_section.Stream(params, symbols=part.symbols)
        if self._across.columns != tuple(part.columns):
            raise ValueError(
                "contract: this code computes other columns among symbols than the bundle was made with; make the "
                "bundle again"
            )
        self.streams = {
            name: lanes[name].stream if name in lanes else make_stream(bundle, name) for name in part.symbols
        }
        self._alone = [name for name in part.symbols if name not in lanes]
        self._warm_up_bars = bundle.warm_up_bars
        self.time_ms = UNKNOWN  # of the last bars

    def check_time(self, bar: Bar) -> None:
        """Raise ValueError where the columns of a bar's open time are known already, without this bar."""
        if (time_ms := read_time(bar)) <= self.time_ms:
            raise ValueError(
                f"bar: open_time of {bar['symbol']} is {describe_time(time_ms)}; the columns among symbols are known "
                f"until {describe_time(self.time_ms)}: give the bars of all symbols with one open time together"
            )

    def take(self, bars: Bars, changes: Mapping[str, int]) -> dict[str, np.ndarray | None]:
        """Return the columns (F,) by symbol of bars with one open time, None while they warm up.

        The streams have checked the bars; `changes` is what they found.
        """
        own = {name: self.streams[name].take(bar, changes[name]) for name, bar in bars.items()}
        closes = {name: self.streams[name].last_bar[CLOSE] for name in bars}
        counts = {name: self.streams[name].segment_bars for name in bars}
        across = self._across.update(closes, begin=[name for name, count in counts.items() if count == 1])
        self.time_ms = read_time(next(iter(bars.values())))
        return {
            name: None if x is None or counts[name] <= self._warm_up_bars else np.concatenate([x, across[name]])
            for name, x in own.items()
        }

    def state(self) -> Arrays:
        """Return a copy of all that later columns depend on, but for the streams of lanes."""
        found = {f"{KEY}{name}": value for name, value in self._across.state().items()}
        for symbol in self._alone:
            found |= {f"{symbol}/{name}": value for name, value in self.streams[symbol].state().items()}
        return found | {f"{KEY}{TIME}": np.array([self.time_ms])}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Resume from a state of this bundle, as `HotPath.restore` has checked."""
        self._across.restore(take_part(state, KEY))
        for symbol in self._alone:
            self.streams[symbol].restore(take_part(state, f"{symbol}/"))
        self.time_ms = int(state[f"{KEY}{TIME}"][0])


def take_part(state: Mapping[str, np.ndarray], prefix: str) -> Arrays:
    """Return the arrays of a state whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def read_time(bar: Bar) -> int:
    """Return the open time of a bar that a stream has checked, in ms."""
    return int(float(bar[TIME]))


def refuse_alone(bundle: Contract) -> None:
    """Raise ValueError where a bundle has columns among symbols, so that it takes no bar by itself."""
    if part := bundle.cross_section:
        raise ValueError(
            f"bar: this bundle has {', '.join(part.columns)}, which need the bars of {', '.join(part.symbols)}: give "
            "those with one open time to update_together (observe_together for history)"
        )
