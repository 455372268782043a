"""Encodings of the position of a row in its window."""

import torch
from torch import Tensor


def make_sinusoids(window: int, size: int) -> Tensor:
    """Return (T, size) sines in the even and cosines in the odd columns (Vaswani et al. 2017, 3.5).

    Their wavelengths are 2π to 10000·2π rows.
    """
    frequency = 10000.0 ** (-torch.arange(0, size, 2) / size)
    angle = torch.arange(window)[:, None] * frequency  # (T, ceil(size / 2))
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :size]
