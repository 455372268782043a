"""The device that trees are grown on. A GPU grows them alone: predictions and graphs are those of a CPU."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
DRIVER = "libcuda.so.1"


def select_device(name: Device, *, find_fault: Callable[[], str | None]) -> Literal["cpu", "cuda"]:
    """Return the device that `name` stands for; auto is a GPU where there is one that can grow the trees.

    `find_fault` returns why a GPU cannot, None where it can; it is not called for a CPU.

    Raises:
        ValueError: the device is cuda, and a GPU cannot grow the trees, or there is none.
    """
    if name == "cpu" or (name == "auto" and (not count_gpus() or find_fault())):
        return "cpu"
    if fault := find_fault():
        raise ValueError(f"device is cuda, but {fault}; set cpu, or auto for a GPU where it can grow these trees")
    if not count_gpus():
        raise ValueError(
            "device is cuda, but NVIDIA's driver finds no GPU; set cpu, or auto for a GPU where there is one"
        )
    return "cuda"


@cache
def count_gpus() -> int:
    """Return the number of GPUs that NVIDIA's driver finds; 0 without a driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    has_started = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if has_started else 0
