"""A feed ends between two bars when its process is asked to end, so that its state can be saved."""

import signal
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

from pipeline.deployment.feeds.runner import Bar

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Ends a feed at the first of SIGNALS: at once where it waits for a bar, else after the bar that it works on."""

    def __init__(self) -> None:
        """Begin without a signal; `install` takes over the handling of SIGNALS."""
        self.is_set = self._is_waiting = False

    def install(self) -> None:
        """Handle SIGNALS from now on; only the main thread may call it."""
        for number in SIGNALS:
            signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.is_set = True
        if self._is_waiting:
            raise KeyboardInterrupt

    def guard(self, bars: Iterable[Bar]) -> Iterator[Bar]:
        """Yield the bars until a signal has come."""
        iterator = iter(bars)
        while True:
            try:
                self._is_waiting = True
                if self.is_set:
                    return
                bar = next(iterator)
            except (StopIteration, KeyboardInterrupt):
                return
            finally:
                self._is_waiting = False
            yield bar


def call_every(bars: Iterable[Bar], count: int, *, call: Callable[[], None]) -> Iterator[Bar]:
    """Yield the bars; call a function after every `count` of them, once the last one has been used."""
    for number, bar in enumerate(bars, start=1):
        yield bar
        if number % count == 0:
            call()
