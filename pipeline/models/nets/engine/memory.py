"""glibc's heap while a net is trained: memory that one batch frees is reused by the next."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
IDLE_BYTES = 512 << 20  # at the heap's end, before they are returned to the system
MMAP_BYTES = 1 << 20  # after the block: larger allocations come from the system and are returned when freed
MMAP_COUNT = 65_536  # of such allocations at most: glibc's default


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Let glibc retain freed memory until the block ends; with another C library do nothing.

    By default glibc returns a batch's large activations to the system and requests them again for the next batch. The
    kernel zeroes each page every time, which takes a third of the time of a small LSTM.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, IDLE_BYTES)
    try:
        yield
    finally:
        library.mallopt(M_MMAP_MAX, MMAP_COUNT)
        library.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, 64 * MMAP_BYTES)
        library.malloc_trim(0)
