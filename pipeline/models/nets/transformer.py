"""A transformer encoder over the window (Vaswani et al. 2017), normalised before each step (Xiong et al. 2020)."""

import math

import torch
from torch import Tensor, nn

from pipeline.models.neural.checks import check_dropout, check_sizes

POSITIONS = ("learnt", "sinusoidal")


class Transformer(nn.Module):
    """Every bar attends to all bars of the window; the answer comes from what the last bar has gathered.

    `dropout` acts on the embedded bars and on what each attention and each feedforward step adds (ibid., 5.4).
    """

    positions: Tensor  # (T, d_model)

    def __init__(
        self,
        *,
        columns: int,
        bars: int,
        outputs: int,
        d_model: int,
        heads: int,
        layers: int,
        feedforward: int,
        positions: str,
        dropout: float,
    ) -> None:
        """Weights come from torch's global generator. Raises ValueError where a tunable is not allowed."""
        super().__init__()
        check_sizes("transformer", columns=columns, bars=bars, outputs=outputs)
        check_sizes("transformer", d_model=d_model, heads=heads, layers=layers, feedforward=feedforward)
        if d_model % heads:
            raise ValueError(f"transformer: d_model is {d_model} and heads is {heads}; heads must divide d_model")
        if positions not in POSITIONS:
            raise ValueError(f"transformer: positions is {positions!r}; allowed are {list(POSITIONS)}")
        check_dropout("transformer", dropout)
        self.embedding = nn.Linear(columns, d_model)
        if positions == "learnt":
            self.positions = nn.Parameter(0.02 * torch.randn(bars, d_model))  # as in BERT (Devlin et al. 2019)
        else:
            self.register_buffer("positions", _sinusoids(bars, d_model), persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            _Block(d_model, heads=heads, feedforward=feedforward, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, outputs)."""
        *earlier, final = self.blocks
        states = self.dropout(self.embedding(x) + self.positions)  # (B, T, d_model)
        for block in earlier:
            states = block(states, states)
        last = final(states[:, -1:], states)  # (B, 1, d_model): nobody reads what the other bars would become here
        answer: Tensor = self.head(self.norm(last.squeeze(1)))
        return answer


class _Block(nn.Module):
    """What `asking` (B, Q, d_model) becomes by attending to `states` (B, T, d_model): (B, Q, d_model)."""

    def __init__(self, d_model: int, *, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = _Attention(d_model, heads=heads)
        self.feedforward_norm = nn.LayerNorm(d_model)
        self.feedforward = nn.Sequential(nn.Linear(d_model, feedforward), nn.GELU(), nn.Linear(feedforward, d_model))
        self.dropout = nn.Dropout(dropout)

    def forward(self, asking: Tensor, states: Tensor) -> Tensor:
        attended = self.attention(self.attention_norm(asking), self.attention_norm(states))
        asking = asking + self.dropout(attended)
        told: Tensor = asking + self.dropout(self.feedforward(self.feedforward_norm(asking)))
        return told


class _Attention(nn.Module):
    """Scaled dot-product attention of several heads (Vaswani et al. 2017, 3.2), in operations that ONNX has."""

    def __init__(self, d_model: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.size = d_model // heads
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model, bias=False)  # one would cancel in softmax
        self.value = nn.Linear(d_model, d_model)
        self.joined = nn.Linear(d_model, d_model)

    def forward(self, asking: Tensor, states: Tensor) -> Tensor:
        query, key, value = (
            self._by_head(project(x)) for project, x in ((self.query, asking), (self.key, states), (self.value, states))
        )
        shares = (query @ key.transpose(2, 3) / math.sqrt(self.size)).softmax(dim=-1)  # (B, heads, Q, T)
        gathered = shares @ value  # (B, heads, Q, size)
        attended: Tensor = self.joined(gathered.transpose(1, 2).flatten(2))
        return attended

    def _by_head(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, 2, (self.heads, self.size)).transpose(1, 2)  # (B, heads, Q or T, size)


def _sinusoids(bars: int, d_model: int) -> Tensor:
    """Sines in the even, cosines in the odd columns, of wavelengths from 2π to 10000·2π bars (ibid., 3.5): (T, D)."""
    frequency = 10000.0 ** (-torch.arange(0, d_model, 2) / d_model)
    angle = torch.arange(bars)[:, None] * frequency  # (T, ceil(D / 2))
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :d_model]
