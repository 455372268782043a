"""Signals of Binance's kline stream are those of the bars that arrived, whatever else the network does."""

import json
import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice, repeat

import httpx
import pytest
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection

from pipeline.deployment.feeds import backfill, websocket
from pipeline.deployment.feeds.runner import feed
from pipeline.deployment.feeds.tally import Tally
from tests.feeds import ARB, BTC, StreamPath, collect, make_bars, run_command
from tests.loopback_klines import CLOSE, DROP, SILENCE, make_message, make_script, open_exchange

BARS = make_bars(60)
OTHER = make_bars(60, symbol=ARB, seed=1)


def wait_briefly() -> Iterator[float]:
    yield from repeat(0.001)


def receive(url: str, *, until: int, tally: Tally, stale_s: float = 60.0, delays=wait_briefly) -> Iterator[dict]:
    """Yield the bars of a stream until the one that opens at a time."""
    for bar in websocket.receive_klines(url, interval="1m", tally=tally, stale_s=stale_s, delays=delays):
        yield bar
        if bar["open_time"] == until:
            return


def collect_stream(script, *, until: int, stale_s: float = 60.0) -> tuple[list[str], Tally]:
    """Return the lines and counts of a script of an exchange."""
    tally, lines = Tally(), []
    with open_exchange(script) as exchange:
        bars = receive(exchange.url, until=until, tally=tally, stale_s=stale_s)
        feed(StreamPath(), bars, write=lines.append, tally=tally)
    return lines, tally


@pytest.mark.parametrize("seed", range(2))
def test_an_unkind_stream_gives_the_signals_of_its_closed_bars_in_order(seed):
    bars = make_bars(250, seed=seed)
    script, taken = make_script(bars, seed=seed)
    lines, tally = collect_stream(script, until=bars[-1]["open_time"])
    assert lines == collect(taken)[0]
    assert len(taken) < len(bars)
    assert tally.bars == len(taken)
    assert tally.connection["dropped"] == len(script) - 1 > 3
    assert min(tally.refused[kind] for kind in ("late", "repeated", "invalid", "not_json", "other_symbol")) > 0
    assert min(tally.ignored.values()) > 0


def test_a_silent_connection_is_opened_again():
    script = [([make_message(bar) for bar in BARS[:20]], SILENCE), ([make_message(bar) for bar in BARS], CLOSE)]
    lines, tally = collect_stream(script, until=BARS[-1]["open_time"], stale_s=0.5)
    assert lines == collect(BARS)[0]
    assert tally.connection["stale"] == 1


def test_combined_streams_carry_several_symbols():
    messages = [
        json.dumps({"stream": "any", "data": json.loads(make_message(bar))})
        for pair in zip(OTHER, BARS, strict=True)
        for bar in pair
    ]
    tally, lines = Tally(), []
    with open_exchange([(messages, SILENCE)]) as exchange:
        both = websocket.receive_klines(exchange.url, interval="1m", tally=tally, stale_s=60.0, delays=wait_briefly)
        bars = islice(both, len(messages))
        feed(StreamPath(BTC, ARB), bars, write=lines.append, tally=tally)
    assert [line for line in lines if BTC in line] == collect(BARS)[0]
    assert [line for line in lines if ARB in line] == collect(OTHER, ARB)[0]


def test_waits_grow_until_a_message_arrives():
    started = []

    def delays() -> Iterator[float]:
        started.append([])
        for number in range(100):
            started[-1].append(number)
            yield 0.001

    script = [([], DROP), ([], CLOSE), ([], DROP), ([make_message(BARS[0])], DROP), ([make_message(BARS[1])], CLOSE)]
    tally = Tally()
    with open_exchange(script) as exchange:
        bars = list(receive(exchange.url, until=BARS[1]["open_time"], tally=tally, delays=delays))
    assert [bar["open_time"] for bar in bars] == [bar["open_time"] for bar in BARS[:2]]
    assert [numbers for numbers in started if numbers] == [[0, 1, 2], [0]]


def test_a_server_that_is_busy_is_tried_again_and_one_that_lacks_the_stream_is_not():
    statuses = [503, 429, None, 404]

    def respond(connection: ServerConnection, request: Request) -> Response | None:
        status = statuses.pop(0)
        return None if status is None else connection.respond(status, "")

    tally = Tally()
    with open_exchange([([make_message(BARS[0])], CLOSE)], process_request=respond) as exchange:
        bars = receive(exchange.url, until=BARS[1]["open_time"], tally=tally)
        assert next(bars)["open_time"] == BARS[0]["open_time"]
        with pytest.raises(ValueError, match=r"^ws://.*: server rejected .* HTTP 404; give the address of a stream"):
            next(bars)
    assert tally.connection == {"opened": 1, "dropped": 1}


@pytest.mark.parametrize(
    ("url", "message"),
    [("http://localhost", "http://localhost: .*give the address of a stream"), ("btcusdt", "btcusdt: ")],
)
def test_an_address_that_is_no_websocket_is_one_line(monkeypatch, url, message):
    with pytest.raises(SystemExit, match=message) as caught:
        run_command(monkeypatch, "--websocket", url)
    assert "\n" not in str(caught.value)


def test_a_missing_client_library_is_named_with_its_remedy(monkeypatch):
    monkeypatch.delitem(sys.modules, "pipeline.deployment.feeds.websocket")
    monkeypatch.delattr("pipeline.deployment.feeds.websocket")
    monkeypatch.setitem(sys.modules, "websockets.client", None)
    with pytest.raises(SystemExit, match=r"--websocket needs the package websockets.*'\.\[live\]'"):
        run_command(monkeypatch, "--websocket", "ws://localhost")


def test_an_interval_that_binance_lacks_is_refused(monkeypatch):
    path = StreamPath()
    path.contract.bars.interval_ms = 90_000
    with pytest.raises(SystemExit, match="the bundle's bars have 90000 ms; Binance has 1s, 1m"):
        run_command(monkeypatch, "--websocket", "ws://localhost", path=path)


# bars fetched by REST


def serve_klines(request: httpx.Request, *, rows: int = 1_000) -> httpx.Response:
    """Return the rows of BARS that a request asks for, as Binance's REST interface does."""
    query = request.url.params
    assert (request.url.path, query["interval"]) == ("/api/v3/klines", "1m")
    bars = {BTC: BARS, ARB: OTHER}[query["symbol"]]
    found = [bar for bar in bars if int(query["startTime"]) <= bar["open_time"] <= int(query["endTime"])][:rows]
    names = ("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades")
    names += ("taker_buy_base", "taker_buy_quote")
    texts = [[repr(bar[name]) if isinstance(bar[name], float) else bar[name] for name in names] for bar in found]
    return httpx.Response(200, json=[[*row, "0"] for row in texts])


def collect_filled(bars, *, max_bars: int, respond=serve_klines) -> tuple[list[str], Tally, StreamPath]:
    """Return lines, counts and hot path of live bars whose gaps are filled."""
    tally, lines, path = Tally(), [], StreamPath()
    with httpx.Client(base_url="http://exchange", transport=httpx.MockTransport(respond)) as client:

        def fetch(symbol: str, from_ms: int, to_ms: int) -> list[dict[str, object]]:
            return backfill.fetch_klines(client, symbol=symbol, interval="1m", from_ms=from_ms, to_ms=to_ms)

        filled = backfill.fill_gaps(bars, hot_path=path, fetch=fetch, max_bars=max_bars, tally=tally)
        feed(path, filled, write=lines.append, tally=tally)
    return lines, tally, path


def test_a_filled_gap_has_the_signals_of_an_unbroken_stream():
    lines, tally, path = collect_filled([BARS[0], *BARS[3:20], *BARS[30:]], max_bars=10)
    assert lines == collect(BARS)[0]
    assert tally.connection["fetched_bars"] == 12
    assert not path.observed


def test_history_before_the_first_bar_is_observed_without_a_signal():
    lines, _, path = collect_filled(BARS[40:], max_bars=25)
    assert path.observed == [bar["open_time"] for bar in BARS[15:40]]
    assert lines == collect(BARS[15:])[0][-20:]


def test_a_gap_that_is_too_long_is_a_border_followed_by_history():
    lines, _, path = collect_filled([*BARS[:15], *BARS[40:]], max_bars=15)
    assert path.observed == [bar["open_time"] for bar in BARS[25:40]]
    assert lines == collect(BARS[:15])[0] + collect(BARS[25:])[0][-20:]


@pytest.mark.parametrize(
    "respond",
    [
        lambda request: httpx.Response(429),
        lambda request: httpx.Response(200, text="no JSON"),
        lambda request: httpx.Response(200, json={"code": -1121, "msg": "Invalid symbol."}),
        lambda request: httpx.Response(200, json=[[1, 2]]),
        lambda request: httpx.Response(302, headers={"Location": "http://other"}),
    ],
)
def test_a_gap_that_cannot_be_fetched_remains(respond):
    gapped = [*BARS[:20], *BARS[22:]]
    lines, tally, _ = collect_filled(gapped, max_bars=2, respond=respond)
    assert lines == collect(gapped)[0]
    assert tally.refused["backfill"] == 2  # also before the first bar


class KlineHandler(BaseHTTPRequestHandler):
    """Binance's REST interface on loopback."""

    def do_GET(self) -> None:
        response = serve_klines(httpx.Request("GET", f"http://loopback{self.path}"))
        self.send_response(response.status_code)
        self.send_header("Content-Length", str(len(response.content)))
        self.end_headers()
        self.wfile.write(response.content)

    def log_message(self, *_: object) -> None:
        """Write no log."""


def test_the_command_fills_gaps_of_a_stream_and_ends_by_a_signal(monkeypatch, tmp_path, capsys):
    path = StreamPath()
    update = path.update

    def take(bar):
        if bar["open_time"] == BARS[-1]["open_time"]:
            signal.raise_signal(signal.SIGTERM)
        return update(bar)

    path.update = take
    script = [([make_message(bar) for bar in BARS[:20]], DROP), ([make_message(bar) for bar in BARS[30:]], SILENCE)]
    with (
        open_exchange(script) as exchange,
        HTTPServer(("127.0.0.1", 0), KlineHandler) as server,
        monkeypatch.context() as patched,
    ):
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        patched.setattr(websocket, "backoff", lambda **_: repeat(0.001))
        words = "--websocket", exchange.url, "--backfill", "15", "--rest-url", f"http://127.0.0.1:{server.server_port}"
        lines = run_command(patched, *words, "--state", tmp_path / "state.npz", "--summary", path=path)
        server.shutdown()
        thread.join()
    assert lines == collect(BARS)[0]
    assert path.observed == []  # the first bar of all has no history
    summary = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert summary["connection"] == {"dropped": 1, "fetched_bars": 10, "opened": 2}
    assert (tmp_path / "state.npz").exists()


def test_long_ranges_are_fetched_in_several_requests(monkeypatch):
    monkeypatch.setattr(backfill, "MAX_ROWS", 7)
    lines, tally, _ = collect_filled(
        [*BARS[:3], *BARS[50:]], max_bars=47, respond=lambda request: serve_klines(request, rows=7)
    )
    assert lines == collect(BARS)[0]


def test_rows_beyond_the_range_are_left_out():
    def respond(request: httpx.Request) -> httpx.Response:
        query = request.url.params.set("endTime", str(BARS[-1]["open_time"]))
        return serve_klines(httpx.Request("GET", request.url.copy_with(params=query)))

    lines, tally, _ = collect_filled([*BARS[:20], *BARS[22:]], max_bars=2, respond=respond)
    assert lines == collect(BARS)[0]
    assert not tally.refused
