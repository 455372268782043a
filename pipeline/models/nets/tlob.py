"""TLOB: attention over rows and over columns in turn (Berti & Kasneci 2025), for order books."""

import math
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from pipeline.models.nets.engine.mixing import REDUCTION, BilinearNormalization, MixingMlp, check_sizes, make_head
from pipeline.models.nets.engine.positions import make_sinusoids


class TLOB(nn.Module):
    """A net of pairs of encoder layers: in one the rows of the window attend to each other, in the other the columns.

    The paper has hidden_size 40, num_layers 4 (pairs), nhead 1, sinusoids, a window of 128 events, and a learning rate
    of 1e-4. It takes any columns.
    """

    positions: Tensor  # (T, hidden_size)

    def __init__(
        self,
        *,
        columns: PositiveInt,
        window: PositiveInt,
        outputs: PositiveInt,
        hidden_size: PositiveInt = 40,
        num_layers: PositiveInt = 4,
        nhead: PositiveInt = 1,
        positional_encoding: Literal["learned", "sinusoidal"] = "sinusoidal",
    ) -> None:
        """Draw the weights from torch's global generator. Raises ValueError where a size is below 8."""
        super().__init__()
        check_sizes(window=window, hidden_size=hidden_size)
        self.normalization = BilinearNormalization(columns=columns, window=window)
        self.embedding = nn.Linear(columns, hidden_size)
        if positional_encoding == "learned":
            self.positions = nn.Parameter(torch.randn(window, hidden_size))
        else:
            self.register_buffer("positions", make_sinusoids(window, hidden_size), persistent=False)
        divisors = [1] * (num_layers - 1) + [REDUCTION]
        self.pairs = nn.ModuleList(
            nn.ModuleList(_Layer(size, size // divisor, nhead=nhead) for size in (hidden_size, window))
            for divisor in divisors
        )
        self.head = make_head((hidden_size // REDUCTION) * (window // REDUCTION), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, outputs)."""
        states = self._embed(x)
        for pair in self.pairs:
            states = _run_pair(pair, states)
        output: Tensor = self.head(states.transpose(1, 2).flatten(1))  # (columns, rows), as the published weights
        return output

    def attend(self, x: Tensor) -> Tensor:
        """Return the attention weights of the rows in the last pair, (B, nhead, T, T), for x (B, T, F)."""
        states, last = self._embed(x), self.pairs[-1]
        for pair in self.pairs[:-1]:
            states = _run_pair(pair, states)
        assert isinstance(last, nn.ModuleList)
        attend_rows = last[0]
        assert isinstance(attend_rows, _Layer)
        return attend_rows.attention.weigh(states)

    def _embed(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, T, hidden_size)."""
        embedded: Tensor = self.embedding(self.normalization(x))
        return embedded + self.positions


class _Layer(nn.Module):
    """An encoder layer (B, N, before) -> (B, N, after) whose attention and whose perceptron both have a residual."""

    def __init__(self, before: int, after: int, *, nhead: int) -> None:
        super().__init__()
        self.has_residual = before == after
        self.attention = _Attention(before, nhead=nhead)
        self.norm = nn.LayerNorm(before)
        self.mlp = MixingMlp(before, after, hidden_size=4 * before)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mlp(self.norm(self.attention(x) + x))
        return mixed + x if self.has_residual else mixed


class _Attention(nn.Module):
    """Scaled dot-product attention (B, N, size) -> (B, N, size) whose heads all have the whole size.

    Queries, keys and values pass two linear layers each, as in the authors' code.
    """

    def __init__(self, size: int, *, nhead: int) -> None:
        super().__init__()
        self.nhead, self.size = nhead, size
        self.query, self.key, self.value = (_make_projection(size, nhead * size) for _ in range(3))
        self.out_proj = nn.Sequential(nn.Linear(nhead * size, nhead * size), nn.Linear(nhead * size, size))

    def forward(self, x: Tensor) -> Tensor:
        attended = self.weigh(x) @ self._split_heads(self.value(x))  # (B, nhead, N, size)
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return output

    def weigh(self, x: Tensor) -> Tensor:
        """Return the weights of each item for each other, (B, nhead, N, N), with sum 1 along the last axis."""
        query, key = self._split_heads(self.query(x)), self._split_heads(self.key(x))
        return (query @ key.transpose(2, 3) / math.sqrt(self.size)).softmax(dim=-1)

    def _split_heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, 2, (self.nhead, self.size)).transpose(1, 2)  # (B, nhead, N, size)


def _make_projection(size: int, width: int) -> nn.Sequential:
    second = nn.Linear(width, width)
    nn.init.xavier_uniform_(second.weight)
    nn.init.zeros_(second.bias)
    return nn.Sequential(nn.Linear(size, width), second)


def _run_pair(pair: nn.Module, states: Tensor) -> Tensor:
    """Map (B, T, hidden) -> (B, T', hidden'): attention of the rows, then of the columns."""
    assert isinstance(pair, nn.ModuleList)
    attend_rows, attend_columns = pair
    mixed: Tensor = attend_columns(attend_rows(states).transpose(1, 2)).transpose(1, 2)
    return mixed
