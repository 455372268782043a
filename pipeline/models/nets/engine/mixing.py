"""Layers that TLOB and MLPLOB share (Berti & Kasneci 2025); each works along one axis of a window, then the other."""

import torch
from torch import Tensor, nn

MIN_DEVIATION = 1e-4  # of standardized values; a smaller one counts as none, as in the authors' code
MIN_WEIGHT = 0.01  # of either normalization, as in the authors' code
MAX_HEAD_SIZE = 128  # inputs of the last linear layer
REDUCTION = 4  # of both axes in the last pair of layers, and of the head's layers


class BilinearNormalization(nn.Module):
    """A layer (B, T, F) -> (B, T, F) that normalizes along both axes and adds the two (Tran et al. 2021).

    Each column is normalized over the rows of the window, and each row over its columns; both have a scale and a bias
    of their own and a weight, at least MIN_WEIGHT. Where a column or a row does not vary, its bias alone remains.
    """

    def __init__(self, *, columns: int, window: int) -> None:
        """Draw the scales from torch's global generator."""
        super().__init__()
        self.column_scale = nn.Parameter(nn.init.xavier_normal_(torch.empty(columns, 1)))
        self.column_bias = nn.Parameter(torch.zeros(columns, 1))
        self.row_scale = nn.Parameter(nn.init.xavier_normal_(torch.empty(window, 1)))
        self.row_bias = nn.Parameter(torch.zeros(window, 1))
        self.weights = nn.Parameter(torch.full((2,), 0.5))  # of the normalization over rows, and of that over columns

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, T, F)."""
        by_column = self.column_scale[:, 0] * _normalize(x, axis=1) + self.column_bias[:, 0]
        by_row = self.row_scale * _normalize(x, axis=2) + self.row_bias
        over_rows, over_columns = self.weights.clamp(min=MIN_WEIGHT)
        normalized: Tensor = over_columns * by_row + over_rows * by_column
        return normalized


class MixingMlp(nn.Module):
    """Two linear layers along the last axis, (B, N, before) -> (B, N, after), then layer normalization and GELU.

    The input is added to the output of the second one where both have the same size.
    """

    def __init__(self, before: int, after: int, *, hidden_size: int) -> None:
        """Draw the weights from torch's global generator."""
        super().__init__()
        self.has_residual = before == after
        self.linear1, self.linear2 = nn.Linear(before, hidden_size), nn.Linear(hidden_size, after)
        self.norm = nn.LayerNorm(after)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, before) -> (B, N, after)."""
        hidden = self.linear2(nn.functional.gelu(self.linear1(x)))
        return nn.functional.gelu(self.norm(hidden + x if self.has_residual else hidden))


def make_head(size: int, outputs: int) -> nn.Sequential:
    """Return a head (B, size) -> (B, outputs): layers to a quarter with GELU down to MAX_HEAD_SIZE, then a last one."""
    layers: list[nn.Module] = []
    while size > MAX_HEAD_SIZE:
        layers += [nn.Linear(size, size // REDUCTION), nn.GELU()]
        size //= REDUCTION
    return nn.Sequential(*layers, nn.Linear(size, outputs))


def check_sizes(*, window: int, hidden_size: int) -> None:
    """Raise ValueError where a quarter of an axis has one number alone, which layer normalization makes constant."""
    for name, size in (("window", window), ("hidden_size", hidden_size)):
        if size < 2 * REDUCTION:
            raise ValueError(
                f"{name} is {size}; allowed is {2 * REDUCTION} or more, since the last pair of layers "
                "normalizes a quarter of it"
            )


def _normalize(x: Tensor, *, axis: int) -> Tensor:
    """Return (x - mean) / deviation along an axis; 0 along it where x does not vary there.

    The first value is subtracted before anything else: the mean of many equal large values has a rounding error, which
    a small deviation would magnify.
    """
    shifted = x - x.narrow(axis, 0, 1)
    centered = shifted - shifted.mean(dim=axis, keepdim=True)
    variance = centered.square().sum(dim=axis, keepdim=True) / max(x.shape[axis] - 1, 1)
    varies = variance >= MIN_DEVIATION**2
    deviation = torch.where(varies, variance, 1.0).sqrt()  # chosen before the root, whose slope at 0 is infinite
    return centered / deviation
