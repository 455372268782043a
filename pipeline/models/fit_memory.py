"""The number of fits that run at once in the memory that is free. It never changes a result."""

import logging
from pathlib import Path

log = logging.getLogger(__name__)

MEMINFO = Path("/proc/meminfo")
GIB = 1 << 30


def limit_workers(workers: int, *, fit_bytes: int, desc: str) -> int:
    """Return how many of `workers` fits of `fit_bytes` each the free memory allows, at least 1, and log where fewer.

    `fit_bytes` is an estimate, 0 where there is none. On the workers of a cluster each has memory of its own.
    """
    if workers == 1 or not fit_bytes:
        return workers
    free = read_free_bytes()
    allowed = max(1, min(workers, free // fit_bytes))
    if allowed < workers:
        log.warning(
            f"{desc}: {allowed} fit(s) at a time instead of {workers}: one needs about {fit_bytes / GIB:.1f} GiB, and "
            f"{free / GIB:.1f} GiB are free"
        )
    return allowed


def read_free_bytes() -> int:
    """Return the memory that Linux says is available to new processes."""
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text(encoding="utf-8").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024
