"""Where torch computes, and so that the same comes out each time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

DEVICES = ("auto", "cpu", "cuda")


def device_of(name: str) -> torch.device:
    """The device that `name` says: auto is a GPU where there is one.

    Raises ValueError for another name, and for cuda where torch sees no GPU.
    """
    if name not in DEVICES:
        raise ValueError(f"device {name!r}; it is auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: torch sees no GPU; say cpu, or auto for a GPU where there is one")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Torch computes on one thread and, on a GPU too, in an order that does not change from run to run."""
    threads, is_repeatable = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(is_repeatable)


@contextmanager
def without_onednn() -> Iterator[None]:
    """Run torch's own kernels: oneDNN's LSTM approximates reciprocals, in one way on AMD and in another on Intel."""
    was_enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = was_enabled


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch draws from `seed` on, and goes on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
