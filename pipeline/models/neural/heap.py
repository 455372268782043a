"""Memory that a batch frees stays with the process while it fits, for the next batch to take."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
KEPT = 512 << 20  # bytes of the heap's end that may lie idle before they go back to the system
LARGE = 1 << 20  # bytes: afterwards larger blocks come from the system and go back to it by themselves
BLOCKS = 65_536  # of these at most, glibc's own limit


@contextmanager
def kept_memory() -> Iterator[None]:
    """glibc keeps what is freed until the block is over; another C library is left as it is.

    By itself glibc hands a batch's large activations back to the system and takes them anew for the next one, each page
    zeroed by the kernel: a third of the time of a small LSTM.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, KEPT)
    try:
        yield
    finally:
        library.mallopt(M_MMAP_MAX, BLOCKS)
        library.mallopt(M_MMAP_THRESHOLD, LARGE)
        library.mallopt(M_TRIM_THRESHOLD, 64 * LARGE)
        library.malloc_trim(0)
