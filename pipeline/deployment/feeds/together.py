"""The feed of a bundle with columns among symbols: bars wait until all with one open time can go in together.

That is once every symbol of the contract has its bar, or one that opens later has come. At the end of the input those
that still wait go in; where the process is stopped they do not, since others with their open time may follow.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence

from pipeline.deployment.feeds.runner import (
    BAR,
    INVALID,
    LATE,
    NOT_CLOSED,
    OTHER_SYMBOL,
    POSITION,
    REPEATED,
    Bar,
    read_time,
    set_position,
)
from pipeline.deployment.feeds.tally import Tally
from pipeline.deployment.hot_path import HotPath
from pipeline.market.bar_reader import check_closed


def feed_together(
    hot_path: HotPath,
    bars: Iterable[Bar],
    *,
    write: Callable[[str], object],
    tally: Tally,
    is_stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Update a hot path by the bars of each open time, in order, and write each signal as one line of JSON.

    A bar that is refused changes nothing and is counted by its kind, as by `runner.feed`; the others go in without it.
    """
    for together in gather(hot_path, bars, tally=tally, is_stopped=is_stopped):
        try:
            signals = hot_path.update_together(together)
        except ValueError:
            valid = [bar for bar in together if _is_valid(hot_path, bar, tally=tally)]
            together, signals = valid, hot_path.update_together(valid) if valid else {}
        tally.bars += len(together)
        for signal in signals.values():
            write(json.dumps(signal.to_dict(), allow_nan=False) + "\n")
        tally.signals += len(signals)


def gather(
    hot_path: HotPath, bars: Iterable[Bar], *, tally: Tally, is_stopped: Callable[[], bool]
) -> Iterator[Sequence[Bar]]:
    """Yield the bars of each open time once no other is to be waited for; refused ones are counted.

    A position without a bar is set once the bars before it have gone in.
    """
    waiting: dict[str, Bar] = {}
    now_ms = 0
    for bar in bars:
        symbol, time_ms = str(bar.get("symbol")), read_time(bar)
        if POSITION in bar and BAR.isdisjoint(bar):
            _set_position(hot_path, bar, tally=tally)
        elif symbol not in hot_path.streams or time_ms is None:
            _is_valid(hot_path, bar, tally=tally)
        elif waiting and (time_ms < now_ms or (time_ms == now_ms and symbol in waiting)):
            kind = LATE if time_ms < now_ms else REPEATED
            tally.refuse(kind, f"bar of {symbol} at open_time {time_ms}: the bars of {now_ms} are being gathered")
        else:
            if waiting and time_ms > now_ms:
                yield list(waiting.values())
                waiting = {}
            waiting[symbol], now_ms = bar, time_ms
            if len(waiting) == len(hot_path.streams):
                yield list(waiting.values())
                waiting = {}
    if waiting and not is_stopped():
        yield list(waiting.values())


def find_kind(bar: Bar, hot_path: HotPath) -> str:
    """Return why a hot path refuses a bar, see `runner.find_kind`; LATE too where its open time has gone in without."""
    if "open_time" in bar:
        try:
            check_closed(bar)
        except ValueError:
            return NOT_CLOSED
    symbol, time_ms = bar.get("symbol"), read_time(bar)
    if not isinstance(symbol, str) or symbol not in hot_path.streams:
        return OTHER_SYMBOL
    times = {name: stream.clock.time_ms for name, stream in hot_path.streams.items()}
    if time_ms is None or time_ms > max(times.values()):
        return INVALID
    return REPEATED if time_ms == times[symbol] else LATE


def _is_valid(hot_path: HotPath, bar: Bar, *, tally: Tally) -> bool:
    """Return whether a hot path takes a bar; one that it refuses is counted."""
    try:
        hot_path.check(bar)
    except ValueError as error:
        tally.refuse(find_kind(bar, hot_path), str(error))
        return False
    return True


def _set_position(hot_path: HotPath, given: Bar, *, tally: Tally) -> None:
    try:
        set_position(hot_path, given)
    except ValueError as error:
        tally.refuse(INVALID, str(error))
