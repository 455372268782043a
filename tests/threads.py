"""The number of threads that torch and BLAS use in a process of tests."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def use_threads(number: int) -> Iterator[None]:
    """Run torch and BLAS on so many threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        with threadpool_limits(limits=number, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
