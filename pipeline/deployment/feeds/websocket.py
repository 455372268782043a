"""Closed bars of Binance's kline stream, over a websocket that is opened again whenever it fails or falls silent.

Messages are those of https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams ("Kline/Candlestick
Streams"), of one stream (`/ws/btcusdt@kline_1m`) or of several (`/stream?streams=btcusdt@kline_1m/…`).
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator

from websockets.client import backoff, process_exception
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import reconnect

from pipeline.deployment.feeds.json_lines import parse_object
from pipeline.deployment.feeds.runner import INVALID, NOT_CLOSED, Bar
from pipeline.deployment.feeds.tally import Tally

log = logging.getLogger(__name__)

FIELDS = {
    **{"open_time": "t", "close_time": "T", "symbol": "s", "open": "o", "high": "h", "low": "l", "close": "c"},
    **{"volume": "v", "trades": "n", "quote_volume": "q", "taker_buy_base": "V", "taker_buy_quote": "Q"},
}  # of a bar, by the key that Binance's message has it under
OTHER_EVENT, OTHER_INTERVAL = "other_event", "other_interval"
EXAMPLE = "wss://stream.binance.com:9443/ws/btcusdt@kline_1m"
MAX_DELAY_S = 60.0
CLOSE_TIMEOUT_S = 2.0
LIMITED = (418, 429)  # HTTP status of a client that connects too often: it may try again later

Waits = Generator[float, None, None]
Delays = Callable[[], Waits]  # starts them anew


def start_waits() -> Waits:
    """Return seconds to wait before attempts to connect: first up to 5, then growing from 3 to MAX_DELAY_S."""
    return backoff(max_delay=MAX_DELAY_S)


def receive_klines(
    url: str,
    *,
    interval: str,
    tally: Tally,
    stale_s: float,
    delays: Delays = start_waits,
) -> Iterator[Bar]:
    """Yield each closed bar of `interval`, such as 1m, as it arrives; bars lost between two connections are missing.

    Arguments are those of `receive_messages`.
    """
    for message in receive_messages(url, tally=tally, stale_s=stale_s, delays=delays):
        bar = read_kline(message, interval=interval, tally=tally)
        if bar is not None:
            yield bar


def receive_messages(url: str, *, tally: Tally, stale_s: float, delays: Delays) -> Iterator[bytes]:
    """Yield every message of a websocket, without an end.

    A connection that fails, is closed, or has no message for `stale_s` seconds is opened again. `delays` returns the
    seconds to wait before each attempt since the last message.

    Raises:
        ValueError: the address is wrong, or the server refuses it by a status that no further attempt would change.
    """
    waits = delays()
    try:
        connections = reconnect(
            url, process_exception=_choose_error, reconnect_delays=lambda: waits, close_timeout=CLOSE_TIMEOUT_S
        )
        for connection in connections:
            tally.connection["opened"] += 1
            try:
                while True:
                    yield connection.recv(timeout=stale_s, decode=False)
                    waits = delays()
            except TimeoutError:
                tally.connection["stale"] += 1
                log.warning(f"{url}: no message for {stale_s:g} s; the connection is opened again")
            except ConnectionClosed as error:
                tally.connection["dropped"] += 1
                log.warning(f"{url}: {error}; the connection is opened again")
            finally:
                connection.close()
            time.sleep(next(waits))
    except WebSocketException as error:
        raise ValueError(f"{url}: {error}; give the address of a stream, such as {EXAMPLE}") from error


def _choose_error(error: Exception) -> Exception | None:
    """Return None where connecting again may help, else the error."""
    if isinstance(error, InvalidStatus) and error.response.status_code in LIMITED:
        return None
    return process_exception(error)


def read_kline(message: bytes, *, interval: str, tally: Tally) -> Bar | None:
    """Return the bar of a message about a closed kline; None, and the message is counted, for any other."""
    content = parse_object(message, name="message", tally=tally)
    if content is None:
        return None
    event = content.get("data", content)  # of several streams
    if not isinstance(event, dict) or event.get("e") != "kline":
        tally.ignored[OTHER_EVENT] += 1
        return None
    kline = event.get("k")
    if not isinstance(kline, dict):
        tally.refuse(INVALID, f"message: k is {kline!r:.60}; allowed is a kline")
    elif kline.get("x") is False:
        tally.ignored[NOT_CLOSED] += 1
    elif kline.get("x") is not True:
        tally.refuse(NOT_CLOSED, f"message: x is {kline.get('x')!r:.60}; allowed is true for a closed kline")
    elif kline.get("i") != interval:
        tally.refuse(
            OTHER_INTERVAL,
            f"message: the interval i is {kline.get('i')!r:.60}; the bundle's bars have {interval}: subscribe to them",
        )
    else:
        return {name: kline[key] for name, key in FIELDS.items() if key in kline}
    return None
