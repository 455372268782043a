"""Attention in operations that ONNX has."""

import math

import torch
from torch import Tensor, nn


class MultiheadAttention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, 3.2)."""

    def __init__(self, d_model: int, *, nhead: int) -> None:
        """Draw the weights from torch's global generator; `nhead` divides `d_model`."""
        super().__init__()
        self.nhead = nhead
        self.head_size = d_model // nhead
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model, bias=False)  # a bias would cancel in the softmax
        self.value = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, targets: Tensor, states: Tensor) -> Tensor:
        """Map targets (B, Q, d_model) that attend to states (B, T, d_model) -> (B, Q, d_model)."""
        attended = self.weigh(targets, states) @ self._split_heads(self.value(states))  # (B, nhead, Q, head_size)
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return output

    def weigh(self, targets: Tensor, states: Tensor) -> Tensor:
        """Return the weights of the states for each target, (B, nhead, Q, T), with sum 1."""
        query, key = self._split_heads(self.query(targets)), self._split_heads(self.key(states))
        return (query @ key.transpose(2, 3) / math.sqrt(self.head_size)).softmax(dim=-1)

    def _split_heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, 2, (self.nhead, self.head_size)).transpose(1, 2)  # (B, nhead, Q or T, head_size)
