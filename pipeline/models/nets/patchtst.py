"""PatchTST: a transformer over patches of each column alone (Nie et al. 2023), with reversible normalization."""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from pipeline.models.nets.engine.attention import MultiheadAttention
from pipeline.models.torch_runtime.hyperparameters import Dropout

CONSTANT = 1e-5  # variance, added to that of a column in its window: one that does not vary there stays finite


class PatchTST(nn.Module):
    """Every column is normalized in its window, cut into patches and encoded, with the same weights for all columns.

    Each column's forecast returns to its own level and scale (Kim et al. 2022); the outputs are linear in these. The
    paper has patches of 16 at strides of 8, d_model 128, 16 heads, 3 layers, dim_feedforward 256 and dropout 0.2.
    """

    def __init__(
        self,
        *,
        columns: PositiveInt,
        window: PositiveInt,
        outputs: PositiveInt,
        patch_len: PositiveInt,
        stride: PositiveInt,
        d_model: PositiveInt,
        nhead: PositiveInt,
        num_layers: PositiveInt,
        dim_feedforward: PositiveInt,
        dropout: Dropout,
    ) -> None:
        """Draw the weights from torch's global generator. Raises ValueError where a size does not fit another."""
        super().__init__()
        if patch_len > window:
            raise ValueError(f"patch_len is {patch_len} and window is {window}; a patch must fit the window")
        if d_model % nhead:
            raise ValueError(f"d_model is {d_model} and nhead is {nhead}; nhead must divide d_model")
        self.outputs = outputs
        # the last bar repeated `stride` times completes the last patch, as in the paper
        patches = (window + stride - patch_len) // stride + 1
        self.padding = nn.ReplicationPad1d((0, stride))
        self.embedding = nn.Conv1d(1, d_model, patch_len, stride=stride)  # unfold would not run as ONNX
        self.positions = nn.Parameter(0.02 * torch.randn(patches, d_model))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            _Layer(d_model, nhead=nhead, dim_feedforward=dim_feedforward, dropout=dropout) for _ in range(num_layers)
        )
        self.head = nn.Linear(patches * d_model, outputs)
        self.mixing = nn.Parameter(torch.full((outputs, columns), 1.0 / columns))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, outputs)."""
        return (self.forecast(x) * self.mixing).sum(dim=2) + self.bias

    def forecast(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, outputs, F), the forecast of each column in its own unit."""
        mean = x.mean(dim=1, keepdim=True)  # (B, 1, F)
        scale = (((x - mean) ** 2).mean(dim=1, keepdim=True) + CONSTANT).sqrt()
        series = ((x - mean) / scale).transpose(1, 2)  # (B, F, T)
        states = self.embedding(self.padding(series.flatten(0, 1)[:, None])).transpose(1, 2)  # (B·F, N, d_model)
        states = self.dropout(states + self.positions)
        for layer in self.layers:
            states = layer(states)
        encoded = torch.unflatten(self.head(states.flatten(1)), 0, (-1, x.shape[2]))  # (B, F, outputs)
        return encoded.transpose(1, 2) * scale + mean


class _Layer(nn.Module):
    """An encoder layer with batch normalization after each residual: (N, patches, d_model) -> the same."""

    def __init__(self, d_model: int, *, nhead: int, dim_feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention = MultiheadAttention(d_model, nhead=nhead)
        self.attention_norm, self.feedforward_norm = nn.BatchNorm1d(d_model), nn.BatchNorm1d(d_model)
        self.feedforward = nn.Sequential(
            nn.Linear(d_model, dim_feedforward), nn.GELU(), nn.Dropout(dropout), nn.Linear(dim_feedforward, d_model)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        states = _normalize(self.attention_norm, states + self.dropout(self.attention(states, states)))
        return _normalize(self.feedforward_norm, states + self.dropout(self.feedforward(states)))


def _normalize(norm: nn.Module, states: Tensor) -> Tensor:
    """Return states (N, patches, d_model) normalized over both of the first axes."""
    normalized: Tensor = norm(states.transpose(1, 2))
    return normalized.transpose(1, 2)
