"""The command of a hot path: feed it from a file, from standard input or from Binance, and write its signals."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from pipeline import cli
from pipeline.deployment.feeds import backfill, input_checks, json_lines, parquet
from pipeline.deployment.feeds.runner import LATE, REPEATED, Bar, feed, read_time
from pipeline.deployment.feeds.state_file import read_state, write_state
from pipeline.deployment.feeds.stopping import Stop, call_every
from pipeline.deployment.feeds.tally import Tally
from pipeline.deployment.feeds.together import feed_together
from pipeline.deployment.hot_path import HotPath
from pipeline.market.binance import INTERVAL_MS

log = logging.getLogger(__name__)

PROGRAM = "python -m pipeline.deployment.hot_path"
DESCRIPTION = """
Write the signals of a bundle for bars, one JSON object a line, to standard output. A bar that is late, repeated, not
closed, invalid or of another symbol is refused and counted; missing bars end a segment, as in training. Messages go to
standard error. The exit status is 0 at the end of the input, on SIGINT and on SIGTERM, and 1 where the bundle, the file
or the state cannot be used.
"""
REST_URL = "https://api.binance.com"
SAVE_EVERY = 1_000  # bars


def main(load: Callable[[Path], HotPath] = HotPath.load) -> None:
    """Feed the hot path that `load` returns for a bundle as the command line says; errors of input exit with 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments, tally = parse_arguments(), Tally()
    try:
        Session(load(arguments.bundle), arguments, tally=tally).run()
    except BrokenPipeError:  # the reader of the signals has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        sys.exit(f"{PROGRAM}: {' '.join(cli.describe_error(error).split())}")
    finally:
        if arguments.summary:
            sys.stderr.write(json.dumps(tally.summarize()) + "\n")


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Return the checked arguments; the process exits with 2 and a line where they are wrong."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=DESCRIPTION)
    parser.add_argument("--bundle", type=Path, required=True, metavar="FOLDER", help="as trained/bundles/klines")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bars", type=Path, metavar="FILE.parquet", help="rows in their order, of any symbols")
    source.add_argument("--stdin", action="store_true", help="one JSON object a line, with the fields of a bar")
    source.add_argument("--websocket", metavar="URL", help="Binance's klines, as wss://…:9443/ws/btcusdt@kline_1m")
    parser.add_argument("--symbol", help="of bars that have none; default: the bundle's, for a file without the column")
    parser.add_argument("--state", type=Path, metavar="FILE.npz", help="go on from it where it exists; save to it")
    parser.add_argument("--save-every", type=_parse_count, metavar="BARS", help=f"default: {SAVE_EVERY:,}")
    parser.add_argument("--summary", action="store_true", help="print the counts at the end, as JSON")
    live = parser.add_argument_group("with --websocket")
    live.add_argument(
        "--stale-s", type=_parse_seconds, metavar="SECONDS", help="without a message: connect again; default: 120"
    )
    live.add_argument(
        "--backfill",
        type=_parse_count,
        metavar="BARS",
        help="fetch missing bars, at most so many before each; default: 0",
    )
    live.add_argument("--rest-url", metavar="URL", help=f"of --backfill; default: {REST_URL}")
    arguments = parser.parse_args(words)
    given = [name for name in ("stale_s", "backfill", "rest_url") if getattr(arguments, name) is not None]
    if given and not arguments.websocket:
        parser.error(f"--{given[0].replace('_', '-')} needs --websocket")
    if arguments.save_every is not None and arguments.state is None:
        parser.error("--save-every needs --state")
    if arguments.rest_url is not None and arguments.backfill is None:
        parser.error("--rest-url needs --backfill")
    return arguments


class Session:
    """One run of the command."""

    def __init__(self, hot_path: HotPath, arguments: argparse.Namespace, *, tally: Tally) -> None:
        """Resume from the state file where it exists; ValueError where it is damaged or of another bundle."""
        self._hot_path, self._arguments, self._tally = hot_path, arguments, tally
        self._contract, self._takes_together = hot_path.contract.bars, hot_path.contract.cross_section is not None
        if self._takes_together and arguments.backfill:
            raise ValueError("--backfill is not for a bundle with columns among symbols: it fetches one symbol's bars")
        if arguments.symbol not in (None, *self._contract.symbols):
            raise ValueError(f"--symbol is {arguments.symbol!r}; the bundle has {', '.join(self._contract.symbols)}")
        self._is_resumed = arguments.state is not None and self._resume(arguments.state)
        tally.hot_path = hot_path.counts

    def _resume(self, file: Path) -> bool:
        """Restore the state in a file; return whether there is one."""
        if not file.parent.is_dir():
            raise ValueError(f"--state is {file}, and there is no folder {file.parent}; make it, or name another file")
        if not file.exists():
            log.info(f"no state at {file}: starts without history")
            return False
        state = read_state(file)
        try:
            self._hot_path.restore(state)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        log.info(f"resumed from {file}")
        return True

    def run(self) -> None:
        """Feed all bars; save the state every --save-every bars and at the end, also where the input ends by an error.

        Where a signal cannot be written, the state is not saved: it is written again after a restart.
        """
        stop, fault = Stop(), None
        with ExitStack() as stack, stop.register():
            bars = stop.guard(self._open(stack))
            bars = call_every(bars, self._arguments.save_every or SAVE_EVERY, call=self._save)
            try:
                self._feed(bars, is_stopped=lambda: stop.is_set)
            except KeyboardInterrupt:  # between two bars
                stop.is_set = True
            except ValueError as error:  # of the input: the hot path is between two bars
                fault = error
            self._save()
        if stop.is_set:
            log.info("stopped by a signal")
        if refused := self._tally.refused:
            listed = ", ".join(f"{count:,} {kind}" for kind, count in refused.items())
            log.warning(f"refused {refused.total():,}: {listed}")
        if fault is not None:
            raise fault
        if self._arguments.bars is not None and not self._tally.bars and not stop.is_set:
            self._check_refused(self._arguments.bars)

    def _feed(self, bars: Iterable[Bar], *, is_stopped: Callable[[], bool]) -> None:
        if self._takes_together:
            feed_together(self._hot_path, bars, write=write, tally=self._tally, is_stopped=is_stopped)
        else:
            feed(self._hot_path, bars, write=write, tally=self._tally)

    def _check_refused(self, file: Path) -> None:
        """Raise ValueError where no bar of a file was taken, and not because a state has all of them already."""
        refused = self._tally.refused
        if self._is_resumed and refused.keys() <= {LATE, REPEATED}:
            return
        why = ", ".join(f"{count:,} {kind}" for kind, count in refused.items()) or "it has no rows"
        raise ValueError(f"{file}: no bar was taken: {why}; the first refusal of each kind is above")

    def _save(self) -> None:
        if self._arguments.state is not None:
            write_state(self._arguments.state, self._hot_path.state())

    def _open(self, stack: ExitStack) -> Iterator[Bar]:
        arguments, symbol = self._arguments, self._arguments.symbol
        if arguments.websocket:
            return self._receive(stack)
        if arguments.stdin:
            lines = json_lines.read_json_lines(sys.stdin.buffer, tally=self._tally)
            past = self._refuse_future(lines)
            bars = input_checks.check_first_bar(past, self._hot_path, symbol=symbol)
        else:
            fields = parquet.list_fields(arguments.bars)
            input_checks.check_fields(fields, self._hot_path, name=str(arguments.bars))
            bars = parquet.read_rows(arguments.bars)
            if self._takes_together:
                bars = iter(sorted(bars, key=lambda bar: read_time(bar) or 0))  # in memory: a file may be by symbol
            if symbol is None and "symbol" not in fields:
                symbol = self._choose_symbol()
        return bars if symbol is None else ({"symbol": symbol, **bar} for bar in bars)

    def _refuse_future(self, bars: Iterable[Bar]) -> Iterator[Bar]:
        return input_checks.refuse_future_bars(bars, interval_ms=self._contract.interval_ms, tally=self._tally)

    def _choose_symbol(self) -> str:
        """Return the symbol of a file that has no column for it; ValueError where the bundle has several."""
        symbols = self._contract.symbols
        if len(symbols) > 1:
            raise ValueError(
                f"{self._arguments.bars} has no column symbol, and the bundle has {', '.join(symbols)}: give --symbol"
            )
        log.info(f"{self._arguments.bars} has no column symbol: its bars are taken as {symbols[0]}")
        return symbols[0]

    def _receive(self, stack: ExitStack) -> Iterator[Bar]:
        try:
            from pipeline.deployment.feeds import websocket
        except ModuleNotFoundError as error:
            raise ValueError(
                f"--websocket needs the package {error.name}: run `pip install -c .ci/constraints.txt -e '.[live]'`"
            ) from error
        arguments, interval_ms = self._arguments, self._contract.interval_ms
        names = {length: name for name, length in INTERVAL_MS.items()}
        if interval_ms not in names:
            raise ValueError(
                f"--websocket: the bundle's bars have {interval_ms} ms; Binance has {', '.join(INTERVAL_MS)}"
            )
        klines = websocket.receive_klines(
            arguments.websocket, interval=names[interval_ms], tally=self._tally, stale_s=arguments.stale_s or 120.0
        )
        bars = self._refuse_future(klines)
        if not arguments.backfill:
            return bars
        fetch = stack.enter_context(backfill.open_fetch(arguments.rest_url or REST_URL, interval=names[interval_ms]))
        return backfill.fill_gaps(
            bars, hot_path=self._hot_path, fetch=fetch, max_bars=arguments.backfill, tally=self._tally
        )


def write(text: str) -> None:
    """Write a line to standard output, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _parse_count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a whole number of bars from 1 on")
    return int(text)


def _parse_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a number of seconds above 0")
    return seconds
