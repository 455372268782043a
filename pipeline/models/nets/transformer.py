"""A transformer encoder over the window (Vaswani et al. 2017) with pre-layer normalization (Xiong et al. 2020)."""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from pipeline.models.nets.engine.attention import MultiheadAttention
from pipeline.models.nets.engine.positions import make_sinusoids
from pipeline.models.torch_runtime.hyperparameters import Dropout


class Transformer(nn.Module):
    """A net in which every bar attends to all bars of the window; the head reads the final state of the last bar.

    `dropout` acts on the embedded bars and on the output of each attention and feedforward step (ibid., 5.4).
    """

    positions: Tensor  # (T, d_model)

    def __init__(
        self,
        *,
        columns: PositiveInt,
        window: PositiveInt,
        outputs: PositiveInt,
        d_model: PositiveInt,
        nhead: PositiveInt,
        num_layers: PositiveInt,
        dim_feedforward: PositiveInt,
        positional_encoding: Literal["learned", "sinusoidal"],
        dropout: Dropout,
    ) -> None:
        """Draw the weights from torch's global generator. Raises ValueError where nhead does not divide d_model."""
        super().__init__()
        if d_model % nhead:
            raise ValueError(f"d_model is {d_model} and nhead is {nhead}; nhead must divide d_model")
        self.embedding = nn.Linear(columns, d_model)
        if positional_encoding == "learned":
            self.positions = nn.Parameter(0.02 * torch.randn(window, d_model))  # as in BERT (Devlin et al. 2019)
        else:
            self.register_buffer("positions", make_sinusoids(window, d_model), persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            _Block(d_model, nhead=nhead, dim_feedforward=dim_feedforward, dropout=dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, outputs)."""
        states, final = self._run_earlier_blocks(x), self.blocks[-1]
        last = final(states[:, -1:], states)  # (B, 1, d_model): the head reads no other bar of the final block
        output: Tensor = self.head(self.norm(last.squeeze(1)))
        return output

    def attend(self, x: Tensor) -> Tensor:
        """Return the attention weights of the last bar in the final block, (B, nhead, 1, T), for x (B, T, F)."""
        states, final = self._run_earlier_blocks(x), self.blocks[-1]
        assert isinstance(final, _Block)
        seen = final.attention_norm(states)
        weights: Tensor = final.attention.weigh(seen[:, -1:], seen)
        return weights

    def _run_earlier_blocks(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, T, d_model), the states that the final block reads."""
        states: Tensor = self.dropout(self.embedding(x) + self.positions)
        for block in self.blocks[:-1]:
            states = block(states, states)
        return states


class _Block(nn.Module):
    """An encoder layer in which `targets` (B, Q, d_model) attend to `states` (B, T, d_model): -> (B, Q, d_model)."""

    def __init__(self, d_model: int, *, nhead: int, dim_feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = MultiheadAttention(d_model, nhead=nhead)
        self.feedforward_norm = nn.LayerNorm(d_model)
        self.feedforward = nn.Sequential(
            nn.Linear(d_model, dim_feedforward), nn.GELU(), nn.Linear(dim_feedforward, d_model)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, targets: Tensor, states: Tensor) -> Tensor:
        attended = self.attention(self.attention_norm(targets), self.attention_norm(states))
        targets = targets + self.dropout(attended)
        output: Tensor = targets + self.dropout(self.feedforward(self.feedforward_norm(targets)))
        return output
