"""The device that torch computes on, and the settings that make its results reproducible."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

DEVICES = ("auto", "cpu", "cuda")


def select_device(name: str, *, is_gpu_worthwhile: bool = True) -> torch.device:
    """Return the device that `name` stands for; auto is a GPU where torch sees one and it is worthwhile.

    Raises ValueError for another name, and for cuda where torch sees no GPU.
    """
    if name not in DEVICES:
        raise ValueError(f"device is {name!r}; allowed are auto, cpu and cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch sees no GPU; set cpu, or auto for a GPU where there is one")
    wants_gpu = name == "cuda" or (name == "auto" and is_gpu_worthwhile)
    return torch.device("cuda" if wants_gpu and torch.cuda.is_available() else "cpu")


def select_prediction_device(name: str) -> torch.device:
    """Return the device for predictions: a model that was trained on a GPU predicts on a CPU where there is none."""
    return select_device("auto" if name == "cuda" else name)


def make_gpu_gauge(device: torch.device) -> Callable[[], int] | None:
    """Return a function that gives the most bytes that torch has allocated on a GPU from now on; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return lambda: int(torch.cuda.max_memory_allocated(device))


@contextmanager
def use_one_thread(device: torch.device) -> Iterator[None]:
    """Run torch on one thread and, on a GPU, with deterministic algorithms and whole float32 products.

    Without the latter cuDNN rounds the inputs of convolutions and recurrent layers to TF32, which has 10 bits.
    """
    threads, was_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    uses_tf32 = torch.backends.cudnn.allow_tf32
    torch.set_num_threads(1)
    if device.type == "cuda":  # only there: the switch imports torch's compiler, which takes seconds
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if device.type == "cuda":
            torch.use_deterministic_algorithms(was_deterministic)
            torch.backends.cudnn.allow_tf32 = uses_tf32


@contextmanager
def disable_onednn() -> Iterator[None]:
    """Run torch's own kernels: oneDNN's LSTM approximates reciprocals, in one way on AMD and in another on Intel."""
    was_enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = was_enabled


@contextmanager
def fork_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators within the block, and restore their states after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
