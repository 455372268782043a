"""A hot path of features alone, and bars, for tests of the feeds."""

import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.deployment.feeds import command
from pipeline.deployment.feeds.runner import feed
from pipeline.deployment.feeds.tally import Tally
from pipeline.features.engine import Stream
from tests.test_features import MIDNIGHT_MS, MINUTE_MS, SHORT

BTC, ARB = "BTCUSDT", "ARBUSDT"


class StreamPath:
    """The interface of a HotPath; a signal has the features of its bar."""

    def __init__(self, *symbols: str) -> None:
        bars = SimpleNamespace(symbols=list(symbols or (BTC,)), interval_ms=MINUTE_MS)
        self.contract = SimpleNamespace(bars=bars, features=SHORT, cross_section=None)
        self.counts: dict[str, int] = {}
        self.observed: list[int] = []
        self.lanes = {
            symbol: SimpleNamespace(stream=Stream(**SHORT, interval_ms=MINUTE_MS, symbols=[symbol]))
            for symbol in self.contract.bars.symbols
        }

    def update(self, bar, *, now_ms=None) -> SimpleNamespace | None:
        symbol = bar.get("symbol")
        if symbol not in list(self.lanes):
            raise ValueError(f"bar: symbol is {symbol!r}")
        features = self.lanes[symbol].stream.update(bar, now_ms=now_ms)
        if features is None:
            return None
        found = {"symbol": symbol, "open_time": int(float(bar["open_time"])), "features": features.tolist()}
        return SimpleNamespace(to_dict=lambda: found)

    def observe(self, bar) -> None:
        self.update(bar)
        self.observed.append(int(bar["open_time"]))

    def state(self) -> dict[str, np.ndarray]:
        return {f"{s}/{key}": value for s, lane in self.lanes.items() for key, value in lane.stream.state().items()}

    def restore(self, state) -> None:
        for symbol, lane in self.lanes.items():
            names = [name for name in state if name.startswith(f"{symbol}/")]
            lane.stream.restore({name.removeprefix(f"{symbol}/"): state[name] for name in names})


def make_bars(count: int, *, symbol: str = BTC, first: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Return valid one-minute bars with all kline fields; prices and amounts have two decimals."""
    rng = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.01, count + 1))), 2)
    bars = []
    for i in range(count):
        before, after, time = close[i], close[i + 1], MIDNIGHT_MS + (first + i) * MINUTE_MS
        volume = round(float(rng.uniform(1, 9)), 2)
        bar = {"symbol": symbol, "open_time": time, "open": before, "high": max(before, after) + 0.25}
        bar |= {"low": min(before, after) - 0.25, "close": after, "volume": volume, "close_time": time + MINUTE_MS - 1}
        bar |= {"quote_volume": volume * (before + after) / 2, "trades": int(rng.integers(1, 50))}
        bar |= {"taker_buy_base": volume / 4, "taker_buy_quote": volume * (before + after) / 8}
        bars.append({name: float(each) if isinstance(each, np.floating) else each for name, each in bar.items()})
    return bars


def collect(bars: Iterable[Any], *symbols: str, path: Any = None) -> tuple[list[str], Tally]:
    """Return the lines that bars give, and the counts."""
    lines: list[str] = []
    tally = Tally()
    feed(path or StreamPath(*symbols), bars, write=lines.append, tally=tally)
    return lines, tally


def run_command(monkeypatch: pytest.MonkeyPatch, *words: str | Path, path: Any = None) -> list[str]:
    """Return the lines that the command of a StreamPath writes."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "argv", ["hot_path", "--bundle", "none", *map(str, words)])
    monkeypatch.setattr(sys, "stdout", written)
    command.main(lambda _: path or StreamPath())
    return written.getvalue().splitlines(keepends=True)


def to_line(bar: dict[str, Any]) -> bytes:
    return json.dumps(bar).encode() + b"\n"
