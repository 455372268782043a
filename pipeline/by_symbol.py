"""Work that is done symbol by symbol, of several symbols at once in processes; no byte depends on their number."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from joblib import Parallel

from pipeline import config

MIN_ROWS = 1 << 20  # of all symbols together: fewer are done before processes have started


def split_symbols(time: np.ndarray) -> list[tuple[int, int]]:
    """Return (first, stop) of the rows of each symbol of a table by symbol and time, (N,).

    Symbols of which one begins after the other has ended stay together.

    >>> split_symbols(np.array([1, 2, 3, 2, 3, 1]))
    [(0, 3), (3, 5), (5, 6)]
    """
    falls = np.flatnonzero(time[1:] < time[:-1]) + 1
    return list(pairwise([0, *falls.tolist(), len(time)]))


def count_processes(symbols: int, *, rows: int) -> int:
    """Return how many symbols are worked on at once: PIPELINE_WORKERS, or 1 where all have fewer than MIN_ROWS rows."""
    return min(config.count_workers(), symbols) if rows >= MIN_ROWS else 1


def run_by_symbol(jobs: Sequence[Any], *, rows: int) -> Iterator[Any]:
    """Yield the results of `jobs`, calls that `joblib.delayed` made, one for each symbol, in their order.

    Each of `count_processes` processes has one symbol and its result in memory at a time.
    """
    workers = count_processes(len(jobs), rows=rows)
    if workers == 1:
        for function, arguments, named in jobs:
            yield function(*arguments, **named)
        return
    with Parallel(n_jobs=workers, return_as="generator") as pool:
        for start in range(0, len(jobs), workers):
            yield from pool(jobs[start : start + workers])
