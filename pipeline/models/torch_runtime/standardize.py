"""The first layer of nets and of agents: columns standardized by the statistics of the train rows, inside the graph."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

CONSTANT_SHARE = 1e-6  # a deviation below this share of the mean is float32 rounding of a constant
MAX_CLIPPED_SHARE = 0.01  # of an unscaled column's train rows


class Standardize(nn.Module):
    """A layer (…, F) -> (…, F) that standardizes and clips raw columns; a column constant in train becomes 0.

    The mean is stored as the sum of two float32 numbers. `x - mean_high` is exact near the mean, so that a price near
    60,000 or a counter near 1e9 loses no digit that float32 had.
    """

    mean_high: Tensor
    mean_low: Tensor
    inverse_std: Tensor

    def __init__(self, columns: int, *, clip_sigma: float) -> None:
        """`clip_sigma` is in standard deviations. Raises ValueError where it is not above 0."""
        super().__init__()
        if not clip_sigma > 0:
            raise ValueError(f"clip_sigma is {clip_sigma}; allowed are numbers above 0, such as 8.0")
        self.clip_sigma = clip_sigma
        for name in ("mean_high", "mean_low", "inverse_std"):
            self.register_buffer(name, torch.zeros(columns))

    def set_statistics(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Standardize from now on by these statistics, each (F,) float64."""
        high = mean.astype(np.float32)
        varies = std > CONSTANT_SHARE * np.abs(mean)
        inverse = np.divide(1.0, std, out=np.zeros_like(std), where=varies)
        for name, values in (("mean_high", high), ("mean_low", mean - high), ("inverse_std", inverse)):
            getattr(self, name).copy_(torch.from_numpy(np.asarray(values, dtype=np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, F) -> (…, F)."""
        standardized = (x - self.mean_high).sub_(self.mean_low).mul_(self.inverse_std)
        return standardized.clamp_(-self.clip_sigma, self.clip_sigma)

    @property
    def constants(self) -> tuple[Tensor, Tensor, Tensor]:
        """(mean_high, mean_low, inverse_std), each (F,)."""
        return self.mean_high, self.mean_low, self.inverse_std

    @property
    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, std), each (F,) float64; std is 0 where the column was constant."""
        high, low, inverse = (constant.double().cpu().numpy() for constant in self.constants)
        return high + low, np.divide(1.0, inverse, out=np.zeros_like(inverse), where=inverse > 0)


def measure_statistics(
    x: np.ndarray, rows: np.ndarray, *, unscaled: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return (mean, std), each (F,) float64, of some rows of (N, F) columns, one column at a time to save memory.

    Those of the columns at the places `unscaled` are 0 and 1: the layer leaves such a column as it is, but clips it.
    """
    columns = (column[rows].astype(np.float64) for column in x.T)
    mean, std = np.array([(column.mean(), column.std()) for column in columns]).T
    mean[list(unscaled)], std[list(unscaled)] = 0.0, 1.0
    return mean, std


def locate_columns(unscaled: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Return the places of the `unscaled` columns among all; raise ValueError naming those that are not there."""
    if missing := [name for name in unscaled if name not in columns]:
        raise ValueError(f"unscaled_columns has {missing}, which the model does not see; its columns are {[*columns]}")
    return [columns.index(name) for name in unscaled]


def check_unscaled(
    x: np.ndarray, rows: np.ndarray, *, unscaled: Sequence[str], columns: Sequence[str], clip_sigma: float
) -> None:
    """Raise ValueError where a column that is left unscaled would lose its values to the clip, at `rows` of (N, F)."""
    for name, place in zip(unscaled, locate_columns(unscaled, columns), strict=True):
        share = np.mean(np.abs(x[rows, place]) > clip_sigma)
        if share > MAX_CLIPPED_SHARE:
            raise ValueError(
                f"unscaled_columns has {name}, of which {share:.0%} of the train rows lie beyond ± clip_sigma "
                f"({clip_sigma}) and would be clipped; take it off the list, so that it is standardized"
            )
