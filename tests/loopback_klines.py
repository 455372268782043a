"""Binance's kline stream on loopback, as unkind as a network can be."""

import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

DROP, CLOSE, SILENCE = "drop", "close", "silence"  # ends of a connection: without a word, properly, or not at all
KEYS = {
    **{"open_time": "t", "close_time": "T", "symbol": "s", "open": "o", "high": "h", "low": "l", "close": "c"},
    **{"volume": "v", "trades": "n", "quote_volume": "q", "taker_buy_base": "V", "taker_buy_quote": "Q"},
}
Message = str | bytes
Part = tuple[Sequence[Message], str]  # of one connection: its messages, and its end


class Exchange:
    """A server whose every connection sends the next part of a script; after the last part it refuses them."""

    def __init__(self, script: Iterable[Part], *, pause_s: float = 0.0) -> None:
        self._script, self._pause_s = iter(script), pause_s
        self._lock = threading.Lock()
        self.connections = 0
        self.url = ""

    def serve_connection(self, connection: ServerConnection) -> None:
        with self._lock:
            messages, end = next(self._script, ((), CLOSE))
            self.connections += 1
        try:
            for message in messages:
                connection.send(message)
                time.sleep(self._pause_s)
            if end == DROP:
                connection.socket.shutdown(socket.SHUT_RDWR)
            elif end == SILENCE:
                connection.recv()
        except ConnectionClosed:
            return


@contextmanager
def open_exchange(script: Iterable[Part], *, pause_s: float = 0.0, process_request: Any = None) -> Iterator[Exchange]:
    """Yield a running server of a script, with a pause between two messages; `process_request` may refuse clients."""
    exchange = Exchange(script, pause_s=pause_s)
    with serve(
        exchange.serve_connection, "127.0.0.1", 0, close_timeout=1, ping_interval=None, process_request=process_request
    ) as server:
        host, port = server.socket.getsockname()[:2]
        exchange.url = f"ws://{host}:{port}/ws/btcusdt@kline_1m"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield exchange
        server.shutdown()
        thread.join()


def make_message(bar: dict[str, Any], *, closed: bool = True, interval: str = "1m") -> str:
    """Return a bar as Binance sends it: prices and amounts are decimal text."""
    texts = {name: repr(each) if isinstance(each, float) else each for name, each in bar.items()}
    kline = {KEYS[name]: each for name, each in texts.items()} | {"i": interval, "x": closed, "f": 1, "L": 9, "B": "0"}
    return json.dumps({"e": "kline", "E": bar["close_time"] + 7, "s": bar["symbol"], "k": kline})


def make_garbage(bar: dict[str, Any], rng: np.random.Generator) -> Message:
    """Return a message that must change nothing: no JSON, another event, another interval or symbol, or a false bar."""
    kinds: list[Message] = [
        *('{"e":"kline","k":', "\x00", "[" * 5_000, "[1, 2]", '"kline"', "1" * 5_000, b"\xff\xfe", ""),
        *('{"e":"kline"}', '{"e":"kline","k":[]}', '{"e":"kline","k":{"x":1}}', '{"result":null,"id":1}'),
        json.dumps({"e": "trade", "s": bar["symbol"], "p": "1.0"}),
        make_message(bar | {"symbol": "OTHER"}),
        make_message(bar | {"high": bar["low"] / 2}),
        make_message(bar | {"close": float("nan")}),
        make_message(bar | {"open_time": bar["open_time"] + 1}),
        make_message(bar, interval="1s"),
        make_message(bar | {"open": 2 * bar["open"], "high": 3 * bar["high"]}, closed=False),
    ]
    return kinds[rng.integers(len(kinds))]


def make_script(
    bars: Sequence[dict[str, Any]], *, seed: int, loss: float = 0.05, silence: float = 0.0
) -> tuple[list[Part], list[dict[str, Any]]]:
    """Return the parts of a script, and the bars that a feed may take of it: each closed, valid and after the last.

    Of all bars but the last a share `loss` is lost, and as many are swapped with the next one; others are repeated.
    `silence` is the share of connections that end by SILENCE.
    """
    rng = np.random.default_rng(seed)
    sent = [bar for bar in bars[:-1] if rng.random() >= loss]
    for i in np.flatnonzero(rng.random(len(sent) - 1) < loss):
        sent[i], sent[i + 1] = sent[i + 1], sent[i]
    parts: list[Part] = []
    messages: list[Message] = []
    taken: list[dict[str, Any]] = []
    for place, bar in enumerate([*sent, bars[-1]]):
        forming = bar | {"close": bar["high"], "volume": bar["volume"] / 2}
        messages += [make_message(forming, closed=False)] * rng.integers(0, 3)
        messages += [make_garbage(bar, rng) for _ in range(rng.integers(0, 3) if taken else 0)]
        messages.append(make_message(bar))
        if not taken or bar["open_time"] > taken[-1]["open_time"]:
            taken.append(bar)
        if rng.random() < 0.1:
            messages.append(make_message(sent[max(place - rng.integers(0, 4), 0)] if place < len(sent) else bar))
        if rng.random() < 0.05:
            parts.append((messages, SILENCE if rng.random() < silence else (DROP, CLOSE)[rng.integers(2)]))
            messages = []
    return [*parts, (messages, SILENCE)], taken
