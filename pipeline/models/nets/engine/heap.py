"""Memory that a fit frees stays with the process, for the next batch to take."""

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
KEPT = 512 << 20  # bytes of the heap's end that may lie idle before they go back to the system


@cache
def keep_freed_memory() -> bool:
    """From now on this process keeps what it frees; whether it does: only glibc can be told so.

    By itself glibc hands a batch's large activations back to the system and takes them anew for the next one, each page
    zeroed by the kernel: a third of the time of a small LSTM.
    """
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    return tell is not None and bool(tell(M_MMAP_MAX, 0)) and bool(tell(M_TRIM_THRESHOLD, KEPT))
