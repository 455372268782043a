"""The first layer of every net: columns on one scale, by statistics of train rows, inside the graph."""

import numpy as np
import torch
from torch import Tensor, nn

CONSTANT = 1e-6  # a deviation below this share of the mean is what float32 rounding left of a constant


class Standardise(nn.Module):
    """(…, F) raw columns in, as many standardised and clipped ones out; a column that is constant in train gives 0.

    The mean is held as the sum of two float32 numbers: x - high is exact near the mean, so that a price near 60,000 or
    a counter near 1e9 loses no digit that float32 had.
    """

    high: Tensor
    low: Tensor
    inverse: Tensor

    def __init__(self, columns: int, *, clip: float) -> None:
        """`clip` is in deviations."""
        super().__init__()
        self.clip = clip
        for name in ("high", "low", "inverse"):
            self.register_buffer(name, torch.zeros(columns))

    def learn(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        """The layer standardises by these (F,) float64 statistics."""
        high = mean.astype(np.float32)
        varies = deviation > CONSTANT * np.abs(mean)
        inverse = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
        for name, values in (("high", high), ("low", mean - high), ("inverse", inverse)):
            getattr(self, name).copy_(torch.from_numpy(np.asarray(values, dtype=np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        """(…, F) -> (…, F)."""
        return (x - self.high).sub_(self.low).mul_(self.inverse).clamp_(-self.clip, self.clip)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, deviation), each (F,) float64; a deviation of 0 where the column was constant."""
        high, low, inverse = (part.double().cpu().numpy() for part in (self.high, self.low, self.inverse))
        return high + low, np.divide(1.0, inverse, out=np.zeros_like(inverse), where=inverse > 0)
