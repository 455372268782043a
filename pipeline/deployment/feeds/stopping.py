"""A feed ends between two bars at SIGINT or SIGTERM, so that its state can be saved."""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.deployment.feeds.runner import Bar

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Ends a feed at the first of SIGNALS: at once where it waits for a bar, else after the bar that it works on."""

    def __init__(self) -> None:
        """Begin without a signal."""
        self.is_set = self._is_waiting = False

    @contextmanager
    def register(self) -> Iterator[None]:
        """Handle SIGNALS within the context; only the main thread may enter it."""
        previous = {number: signal.signal(number, self.receive) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

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
