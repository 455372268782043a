"""The seconds and the peak memory of a fit on this machine; they stand beside the results and never within them."""

import re
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path

MEASUREMENTS = (
    "iteration",
    "seconds",
    "peak_memory_mb",
    "peak_gpu_memory_mb",
)  # the fields of a line; MB are 10⁶ bytes
BYTES_PER_KB = 1024  # of Linux
BYTES_PER_MB = 1e6


class FitMeter:
    """The clock and the peak memory of one fit, which go on where the fit resumes from a checkpoint.

    Memory in RAM is the largest resident set of the process so far: a worker that fits several models, one after
    another, never forgets the largest of them.
    """

    def __init__(self) -> None:
        """Start the clock."""
        self.measure_gpu_bytes: Callable[[], int] | None = None  # given by a fit that runs on a GPU
        self.load_state_dict({})

    @property
    def seconds(self) -> float:
        """The seconds of the fit so far, those before its checkpoint included; lost work does not count."""
        return self._earlier.get("seconds", 0.0) + time.monotonic() - self._start

    def measure(self, *, since: float = 0.0) -> dict[str, float]:
        """Return the seconds after `since`, a value of `seconds`, and the peak memory of the whole fit so far."""
        peaks = {"peak_memory_mb": measure_peak_bytes() / BYTES_PER_MB}
        if self.measure_gpu_bytes is not None:
            peaks["peak_gpu_memory_mb"] = self.measure_gpu_bytes() / BYTES_PER_MB
        highest = {name: round(max(peak, self._earlier.get(name, 0.0)), 1) for name, peak in peaks.items()}
        return {"seconds": round(self.seconds - since, 3), **highest}

    def state_dict(self) -> dict[str, float]:
        """Return what a checkpoint stores of the meter."""
        return self.measure()

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from what `state_dict` returned; an empty state starts anew."""
        self._earlier, self._start = dict(state), time.monotonic()


def measure_peak_bytes() -> int:
    """Return the largest resident set of this process so far.

    It is read from /proc, if possible: by getrusage a worker has at least the memory of the process that started it.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    peak_kb = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_kb * BYTES_PER_KB
