"""A plugin's module between standardized columns and outputs in the unit of y, inside one graph."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.models.torch_runtime.standardize import Standardize, measure_statistics
from pipeline.scale import is_constant


class StandardizedNet(nn.Module):
    """Raw columns in, raw outputs out: columns are standardized before the plugin's module.

    A number, or each of its quantiles, is learned in standard deviations of y from its mean, and that of each horizon
    in those of its own y; logits have an offset, the logarithm of the class frequencies. So a net whose module outputs
    0 predicts the mean, or the best constant classes.
    """

    offset: Tensor
    scale: Tensor

    def __init__(
        self, body: nn.Module, *, columns: int, outputs: int, is_classification: bool, clip_sigma: float
    ) -> None:
        """`clip_sigma` is in standard deviations of a column."""
        super().__init__()
        self.is_classification = is_classification
        self.standardize, self.body = Standardize(columns, clip_sigma=clip_sigma), body
        self.register_buffer("offset", torch.zeros(outputs))
        self.register_buffer("scale", torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, outputs): values in deviations of y, or logits."""
        raw: Tensor = self.body(self.standardize(x))
        return raw + self.offset if self.is_classification else raw

    def set_statistics(self, x: np.ndarray, y: np.ndarray, train: np.ndarray, *, unscaled: Sequence[int] = ()) -> None:
        """Take the statistics of columns and of y from the train rows; see `measure_statistics`.

        `x` is (N, F), and `y` (N,), or (N, outputs) of several horizons.
        """
        self.standardize.set_statistics(*measure_statistics(x, train, unscaled=unscaled))
        if self.is_classification:
            counts = np.bincount(y[train], minlength=len(self.offset)) + 1.0  # Laplace: an absent class is rare
            self.offset.copy_(torch.from_numpy(np.log(counts / counts.sum())))
        else:
            seen = y[train]
            std = np.where(is_constant(seen, axis=0), 1.0, seen.std(axis=0, dtype=np.float64))
            self.offset.copy_(torch.as_tensor(seen.mean(axis=0, dtype=np.float64)))
            self.scale.copy_(torch.as_tensor(std))

    def scale_targets(self, y: np.ndarray) -> Tensor:
        """Return int64 codes, or float32 deviations of y from its train mean in train deviations, of the shape of y."""
        if self.is_classification:
            return torch.from_numpy(y.astype(np.int64))
        size = len(self.offset) if y.ndim == 2 else 1
        offset, scale = (each[:size].double().cpu().numpy() for each in (self.offset, self.scale))
        return torch.from_numpy(((y - offset) / scale).astype(np.float32))


class DeployedNet(nn.Module):
    """The net that is deployed: raw columns in, the prediction out."""

    def __init__(self, net: StandardizedNet) -> None:
        """Take the weights of `net`."""
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, outputs): probabilities, or values in the unit of y."""
        raw: Tensor = self.net(x)
        if self.net.is_classification:
            return torch.softmax(raw, dim=1)
        return self.net.offset + self.net.scale * raw
