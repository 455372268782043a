"""Run by hand: the time of the columns of an order book, in bulk and event by event, on the real day.

python benchmarks/orderbook.py [rows]
"""

import sys
import time
from collections.abc import Callable

import numpy as np

from pipeline.orderbook import engine
from pipeline.orderbook.event_table import read_events
from tests.orderbook_events import REAL_DAY, draw_events, read_real_day

DRAWN_EVENTS, STREAMED_EVENTS, REPEATS = 20_000, 20_000, 5


def measure_us(call: Callable[[], object], *, events: int) -> tuple[float, float]:
    """Return the median of several calls, in microseconds of elapsed and of CPU time an event."""
    times = []
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = np.median(times, axis=0) * 1e6 / events
    return float(wall), float(cpu)


def main() -> None:
    """Print the time of an event in bulk and streamed, and that both have the same bits."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else None
    events = read_real_day(rows) if REAL_DAY.exists() else draw_events(rows or DRAWN_EVENTS, seed=0).assign(segment=0)
    start = time.process_time()
    engine.compute(events[:1])
    print(f"first call: {time.process_time() - start:.1f} s of CPU, compiling included unless it is cached")
    wall, cpu = measure_us(lambda: engine.compute(events), events=len(events))
    print(f"bulk: {len(events):,} events, {wall:.2f} µs an event ({cpu:.2f} of CPU), {1e6 / wall:,.0f} events a second")
    streamed = events[:STREAMED_EVENTS]
    numbers, amounts = read_events(streamed)
    records = [engine.Event(*pair) for pair in zip(numbers, amounts, strict=True)]
    stream = engine.Stream()

    def stream_all() -> list[np.ndarray]:
        stream.restart()
        return [values for values in map(stream.update, records) if stream.passes_gates]

    def stream_alone() -> None:
        stream.restart()
        for record in records:
            stream.update(record)

    wall, cpu = measure_us(stream_alone, events=len(records))
    print(f"streamed from Python: {wall:.2f} µs an event ({cpu:.2f} of CPU), {1e6 / wall:,.0f} events a second")
    same = np.array(stream_all()).tobytes() == engine.compute(streamed).x.tobytes()
    print(f"the same bits: {same}")


if __name__ == "__main__":
    main()
