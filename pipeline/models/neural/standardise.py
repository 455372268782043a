"""The first layer of nets and of agents: columns on one scale, by statistics of train rows, inside the graph."""

import numpy as np
import torch
from torch import Tensor, nn

EXTREMES = np.array([-1e30, -1e9, -1e3, 1e3, 1e9, 1e30], dtype=np.float32)
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
        """`clip` is in deviations. Raises ValueError for one that is not above 0."""
        super().__init__()
        if not clip > 0:
            raise ValueError(f"clip is {clip}; give one above 0, as 8.0")
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

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """(F,) each: the mean as a sum of two, and one over the deviation."""
        return self.high, self.low, self.inverse

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, deviation), each (F,) float64; a deviation of 0 where the column was constant."""
        high, low, inverse = (part.double().cpu().numpy() for part in self.parts())
        return high + low, np.divide(1.0, inverse, out=np.zeros_like(inverse), where=inverse > 0)

    def hard_inputs(self, inputs: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
        """(n, …, F) float32 made from (B, …, F) ordinary ones: raw extremes, and rows at the very edges of the clip."""
        mean, deviation = self.statistics()
        edges = np.stack([mean - self.clip * deviation, mean + self.clip * deviation]).astype(np.float32)  # (2, F)
        steps = (np.nextafter(edges, np.float32(to)) for to in (-np.inf, np.inf))  # one float32 to either side
        edges = np.concatenate([edges, *steps])
        some = inputs[rng.integers(len(inputs), size=min(len(inputs), 256))]
        at_edges = edges[rng.integers(len(edges), size=some.shape[:-1])]
        extreme = np.where(rng.random(some.shape) < 0.1, rng.choice(EXTREMES, size=some.shape), some)
        return np.concatenate([at_edges, extreme]).astype(np.float32)


def statistics(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, deviation), each (F,) float64, of (N, F) columns over some rows, one column at a time."""
    columns = (column[rows].astype(np.float64) for column in x.T)
    mean, deviation = np.array([(column.mean(), column.std()) for column in columns]).T
    return mean, deviation
