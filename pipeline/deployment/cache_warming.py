"""Run the code of a hot path without a bar: what the processor has not run for a while is slow the next time."""

from typing import Any

import numpy as np

from pipeline.deployment.contract import Contract
from pipeline.deployment.lane import Bind, Lane

START_MS = 946_684_800_000  # of the made-up bars
CYCLE_BARS = 256  # after which they start anew
CALENDAR = {"exchange": None, "features": "continue", "positions": "hold"}


class CacheWarmer:
    """Lanes of their own, on made-up bars, that share the code and the graphs of a hot path's lanes.

    There is one for each combination of models that symbols of the bundle have.
    """

    def __init__(self, bundle: Contract, bind: Bind) -> None:
        """Lay out the lanes, and take as many bars as features need."""
        bars = bundle.bars.model_copy(update={"calendar": CALENDAR})
        plain = bundle.model_copy(update={"bars": bars})
        symbols = {
            tuple(name for name, model in bundle.models.items() if symbol in model.symbols): symbol
            for symbol in bundle.bars.symbols
        }
        self._lanes = [Lane(plain, symbol, bind) for symbol in symbols.values()]
        self._closes = 100 * np.exp(
            np.cumsum(np.random.default_rng(0).normal(0, 1e-3, bundle.warm_up_bars + CYCLE_BARS))
        )
        among = bundle.cross_section.columns if bundle.cross_section else {}
        self._warm_up_bars, self._among = bundle.warm_up_bars, np.zeros(len(among), np.float32)
        self._interval_ms, self._place = bundle.bars.interval_ms, 0
        for _ in range(bundle.warm_up_bars):
            self._take(decides=False)
        self._states = [lane.state() for lane in self._lanes]

    def run(self) -> None:
        """Process one bar, as an update does."""
        if self._place == len(self._closes):
            self._place -= CYCLE_BARS
            for lane, state in zip(self._lanes, self._states, strict=True):
                lane.restore(state)
        self._take(decides=True)

    def _take(self, *, decides: bool) -> None:
        bar = self._make_bar()
        for lane in self._lanes:
            if self._advance(lane, bar | {"symbol": lane.symbol}, decides=decides):
                lane.describe()
        self._place += 1

    def _advance(self, lane: Lane, bar: dict[str, Any], *, decides: bool) -> bool:
        """Advance a lane by a bar; its columns among symbols are 0."""
        if not len(self._among):
            return lane.take(bar, now_ms=None, decides=decides)
        own = lane.stream.update(bar)
        if own is None or lane.stream.segment_bars <= self._warm_up_bars:
            return lane.decide(None, decides=decides)
        return lane.decide(np.append(own, self._among), decides=decides)

    def _make_bar(self) -> dict[str, Any]:
        close, opened = float(self._closes[self._place]), float(self._closes[self._place - 1])
        time_ms = START_MS + self._place * self._interval_ms
        high, low, volume = max(close, opened) * 1.001, min(close, opened) * 0.999, 1.0 + self._place % 7
        return {
            **{"open_time": time_ms, "close_time": time_ms + self._interval_ms - 1},
            **{"open": opened, "high": high, "low": low, "close": close, "volume": volume, "trades": 5},
            **{"quote_volume": volume * close, "taker_buy_base": volume / 2, "taker_buy_quote": volume * close / 2},
        }
