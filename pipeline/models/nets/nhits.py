"""N-HiTS: neural hierarchical interpolation (Challu et al. 2023), whose blocks see and forecast at different rates."""

from typing import Annotated, ClassVar

import torch
from annotated_types import MinLen
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.torch_runtime.hyperparameters import Dropout, Sizes

Rates = Annotated[list[PositiveInt], MinLen(1)]  # one for each block


class NHiTS(nn.Module):
    """Blocks that each explain a part of the window and subtract it; their forecasts add up.

    A block pools the window with kernel `n_pool_kernel_size`, passes it through a perceptron, and returns a backcast of
    the window and a forecast of `horizon` bars. Both have one coefficient for every `n_freq_downsample` bars, and are
    interpolated between. All columns are one input. Of a target with several `horizons` the outputs are the forecast
    at these bars, and the loss sees each, as in the paper. Of another an output is the mean of its forecast path: a
    return over the horizon is a sum over it, up to scale, and bars of the path are no forecasts. `horizon` must be that
    of the target. The paper has pooling kernels 2, 2, 1 and rates 4, 2, 1, or larger ones.
    """

    target_keys: ClassVar[tuple[str, ...]] = ("horizon",)

    def __init__(
        self,
        *,
        columns: PositiveInt,
        window: PositiveInt,
        outputs: PositiveInt,
        horizons: tuple[int, ...] = (),
        horizon: PositiveInt,
        n_pool_kernel_size: Rates,
        n_freq_downsample: Rates,
        mlp_units: Sizes,
        dropout: Dropout,
    ) -> None:
        """Draw the weights from torch's global generator; `horizons`, in bars, are those of the outputs.

        Raises:
            ValueError: the lists differ in length, or one of `horizons` is above `horizon`.
        """
        super().__init__()
        if horizons and horizons[-1] > horizon:
            raise ValueError(
                f"horizon is {horizon}, and the target's horizons are {list(horizons)}: set it to the last"
            )
        self.places = [bars - 1 for bars in horizons]
        if len(n_pool_kernel_size) != len(n_freq_downsample):
            raise ValueError(
                f"n_pool_kernel_size is {n_pool_kernel_size} and n_freq_downsample is {n_freq_downsample}; "
                "both need one number for each block"
            )
        self.blocks = nn.ModuleList(
            _Block(
                (columns, window),
                (1 if horizons else outputs, horizon),
                kernel_size=min(kernel, window),
                rate=rate,
                mlp_units=mlp_units,
                dropout=dropout,
            )
            for kernel, rate in zip(n_pool_kernel_size, n_freq_downsample, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, outputs)."""
        path = self.forecast(x)
        return path[:, 0, self.places] if self.places else path.mean(dim=2)

    def forecast(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, paths, horizon), the sum of the paths of all blocks: one for `horizons`, or outputs."""
        residual, paths = x.transpose(1, 2), []  # (B, F, T)
        for block in self.blocks:
            backcast, path = block(residual)
            residual = residual - backcast
            paths.append(path)
        return torch.stack(paths).sum(dim=0)


class _Block(nn.Module):
    """Map (B, F, T) -> a backcast (B, F, T) and a forecast (B, outputs, horizon)."""

    def __init__(
        self,
        window: tuple[int, int],
        path: tuple[int, int],
        *,
        kernel_size: int,
        rate: int,
        mlp_units: list[int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.pool = nn.MaxPool1d(kernel_size, stride=kernel_size, ceil_mode=True)
        sizes = [window[0] * -(-window[1] // kernel_size), *mlp_units]
        layers: list[nn.Module] = []
        for before, after in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.mlp = nn.Sequential(*layers)
        self.backcast = _Interpolation(sizes[-1], *window, rate=rate)
        self.forecast = _Interpolation(sizes[-1], *path, rate=rate)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.mlp(self.pool(x).flatten(1))
        return self.backcast(hidden), self.forecast(hidden)


class _Interpolation(nn.Module):
    """Map (B, hidden) -> (B, channels, length), linear between coefficients that stand `rate` bars apart."""

    matrix: Tensor  # (knots, length)

    def __init__(self, hidden_size: int, channels: int, length: int, *, rate: int) -> None:
        super().__init__()
        self.channels, self.knots = channels, max(length // rate, 1)
        self.coefficients = nn.Linear(hidden_size, channels * self.knots)
        # (1, knots, knots) -> (knots, length): a product with a constant, since ONNX's resizing rounds otherwise
        unit = F.interpolate(torch.eye(self.knots)[None], size=length, mode="linear", align_corners=False)[0]
        self.register_buffer("matrix", unit, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        coefficients = torch.unflatten(self.coefficients(hidden), 1, (self.channels, self.knots))
        return coefficients @ self.matrix
