"""Checks of a feed before its bars reach the hot path: the fields of its first bar, and bars of the future."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator

from pipeline.deployment.feeds.runner import BAR, INVALID, Bar, read_time
from pipeline.deployment.feeds.tally import Tally
from pipeline.deployment.hot_path import HotPath
from pipeline.market.bar_reader import READ, describe_time


def read_clock() -> float:
    """Return the present time in ms since 1970, UTC."""
    return time.time() * 1000


def refuse_future_bars(
    bars: Iterable[Bar], *, interval_ms: int, tally: Tally, read_now: Callable[[], float] = read_clock
) -> Iterator[Bar]:
    """Yield the bars of a live feed, but refuse one that opens more than an interval after the present time.

    Such a bar would make all bars that follow late. The interval allows for a clock that is behind.
    """
    for bar in bars:
        time_ms = read_time(bar)
        if time_ms is not None and time_ms > (now_ms := read_now()) + interval_ms:
            opened, now = describe_time(time_ms), describe_time(int(now_ms))
            tally.refuse(
                INVALID, f"bar at open_time {opened}: it opens in the future: now is {now}; check feed and clock"
            )
        else:
            yield bar


def check_first_bar(bars: Iterable[Bar], hot_path: HotPath, *, symbol: str | None) -> Iterator[Bar]:
    """Yield the bars; ValueError where the first of them has no symbol, or lacks a field that the bundle needs.

    `symbol` is the one of bars that have none.
    """
    is_first = True
    for bar in bars:
        if is_first and not BAR.isdisjoint(bar):
            is_first = False
            if symbol is None and bar.get("symbol") is None:
                known = ", ".join(hot_path.contract.bars.symbols)
                raise ValueError(f"the first bar has no symbol; give --symbol: the bundle has {known}")
            check_fields(bar, hot_path, name="the first bar")
        yield bar


def check_fields(names: Collection[str], hot_path: HotPath, *, name: str) -> None:
    """Raise ValueError where `names`, the fields of bars, lack one that the features of a bundle need."""
    absent = hot_path.contract.features.get("absent_fields", ())
    needed = [field for field in READ if field not in absent]
    if missing := [field for field in needed if field not in names]:
        raise ValueError(
            f"{name} has no {', '.join(missing)}; the features of this bundle need {', '.join(needed)} "
            "(contract.json, bars.columns)"
        )
