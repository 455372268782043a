"""Feed a hot path from an unkind loopback exchange: `python -m benchmarks.websocket_soak [minutes] [--bundle FOLDER]`.

The exchange of `tests/loopback_klines.py` drops, closes and silences connections, and loses, repeats and reorders bars,
among bars that still form, garbage and other events. Every 1,000 bars taken, the state goes through its file into a new
hot path. The lines of JSON must be those of the bars that a feed may take, given one after the other. Without a bundle
the hot path has features alone, with a short warm-up; with one, fewer bars are lost, so that features warm up.
"""

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from websockets.client import backoff

from pipeline.deployment.feeds.runner import Bar, feed
from pipeline.deployment.feeds.state_file import read_state, write_state
from pipeline.deployment.feeds.stopping import call_every
from pipeline.deployment.feeds.tally import Tally
from pipeline.deployment.feeds.websocket import receive_klines
from pipeline.deployment.hot_path import HotPath
from tests.feeds import StreamPath, make_bars
from tests.loopback_klines import CLOSE, DROP, SILENCE, Part, make_script, open_exchange

CHUNK_BARS = 400
RESTART_BARS = 1_000
PAUSE_S = 0.004  # between two messages
STALE_S = 3.0


class Digest:
    """A sha256 over lines, and their number."""

    def __init__(self) -> None:
        """Begin without lines."""
        self.lines, self._sha256 = 0, hashlib.sha256()

    def write(self, line: str) -> None:
        """Add a line."""
        self.lines += 1
        self._sha256.update(line.encode())

    def summarize(self) -> dict[str, Any]:
        """Return both."""
        return {"lines": self.lines, "sha256": self._sha256.hexdigest()[:16]}


class Restarted:
    """A hot path that is replaced, at intervals, by a new one with its saved state."""

    def __init__(self, load: Any, file: Path) -> None:
        """Begin with a new hot path; states go through `file`."""
        self._load, self._file, self.restarts = load, file, 0
        self._inner: HotPath = load()
        self.update = self._inner.update

    def restart(self) -> None:
        """Replace the hot path."""
        write_state(self._file, self._inner.state())
        self._inner = self._load()
        self._inner.restore(read_state(self._file))
        self.update, self.restarts = self._inner.update, self.restarts + 1

    @property
    def lanes(self) -> Any:
        """Those of the present hot path."""
        return self._inner.lanes


class Market:
    """Bars without an end, as parts of a script, and those that a feed may take of them."""

    def __init__(self, symbol: str, *, seed: int, loss: float) -> None:
        """Begin at the first bar."""
        self.symbol, self.loss = symbol, loss
        self.sent, self.taken, self.last_ms = 0, list[Bar](), 0
        self._rng = np.random.default_rng(seed)

    def write_script(self, *, until: float) -> Iterator[Part]:
        """Yield parts until a time; the last one ends with the bar at `last_ms`."""
        while True:
            seed = int(self._rng.integers(1 << 31))
            bars = make_bars(CHUNK_BARS, symbol=self.symbol, first=self.sent, seed=seed)
            parts, taken = make_script(bars, seed=seed, loss=self.loss, silence=0.05)
            self.sent += len(bars)
            self.taken += taken
            is_last = time.monotonic() > until
            if is_last:
                self.last_ms = bars[-1]["open_time"]
            yield from parts[:-1]
            yield parts[-1][0], SILENCE if is_last else (DROP, CLOSE)[seed % 2]
            if is_last:
                return


def receive(url: str, market: Market, tally: Tally) -> Iterator[Bar]:
    """Yield the bars of the exchange until the last one."""
    delays = partial(backoff, initial_delay=0.5, min_delay=0.1, max_delay=5.0)
    for bar in receive_klines(url, interval="1m", tally=tally, stale_s=STALE_S, delays=delays):
        yield bar
        if bar["open_time"] == market.last_ms:
            return


def main() -> None:
    """Run the exchange for some minutes and compare; exit with 1 where the signals differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float, nargs="?", default=10.0)
    parser.add_argument("--bundle", type=Path, help="as trained/bundles/klines")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    load: Any = partial(HotPath.load, arguments.bundle) if arguments.bundle else StreamPath
    loss = 0.0002 if arguments.bundle else 0.05
    market, tally = Market(load().contract.bars.symbols[0], seed=arguments.seed, loss=loss), Tally()
    found, expected, started = Digest(), Digest(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path: Any = Restarted(load, Path(folder) / "state.npz")
        script = market.write_script(until=started + 60 * arguments.minutes)
        with open_exchange(script, pause_s=PAUSE_S) as exchange:
            bars = call_every(receive(exchange.url, market, tally), RESTART_BARS, call=path.restart)
            feed(path, bars, write=found.write, tally=tally)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = time.monotonic() - started
    feed(load(), market.taken, write=expected.write, tally=Tally())
    is_same = found.summarize() == expected.summarize()
    report = {"minutes": round(seconds / 60, 2), "bars_of_the_market": market.sent, **tally.summarize()}
    report |= {"restarts": path.restarts, "signals_of_the_feed": found.summarize(), "expected": expected.summarize()}
    report |= {"cpu_share": round((usage.ru_utime + usage.ru_stime) / seconds, 3), "peak_mb": usage.ru_maxrss // 1024}
    print(json.dumps(report | {"is_same": is_same}, indent=2))
    sys.exit(0 if is_same else 1)


if __name__ == "__main__":
    main()
