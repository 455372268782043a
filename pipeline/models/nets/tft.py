"""The temporal fusion transformer (Lim et al. 2021): it selects columns, and attends to the bars of the window."""

import math

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from pipeline.models.torch_runtime.device import disable_onednn
from pipeline.models.torch_runtime.hyperparameters import Dropout


class TFT(nn.Module):
    """Variable selection, an LSTM, and interpretable attention, joined by gated residual networks.

    The last `known_columns` columns are known in advance, as those of a calendar. Their values at the last bar are the
    input of the decoder: one step stands for the horizon. With none of them the last bar itself is decoded.
    There are no static columns: a model sees one symbol, or many without their name. The paper has hidden_size 160 and
    4 heads.
    """

    def __init__(
        self,
        *,
        columns: PositiveInt,
        window: PositiveInt,
        outputs: PositiveInt,
        hidden_size: PositiveInt,
        nhead: PositiveInt,
        known_columns: NonNegativeInt,
        dropout: Dropout,
    ) -> None:
        """Draw the weights from torch's global generator. Raises ValueError where a size does not fit another."""
        super().__init__()
        if hidden_size % nhead:
            raise ValueError(f"tft: hidden_size is {hidden_size} and nhead is {nhead}; nhead must divide hidden_size")
        if known_columns > columns:
            raise ValueError(f"tft: known_columns is {known_columns}, of {columns} columns; it must be at most that")
        self.known_columns = known_columns
        self.selection = _VariableSelection(columns, hidden_size, dropout=dropout)
        self.known_selection = _VariableSelection(known_columns or columns, hidden_size, dropout=dropout)
        self.encoder = nn.LSTM(hidden_size, hidden_size, batch_first=True)
        self.decoder = nn.LSTM(hidden_size, hidden_size, batch_first=True)
        self.recurrence_gate = _GatedResidual(hidden_size, dropout=dropout)
        self.enrichment = _GatedResidualNetwork(hidden_size, hidden_size, dropout=dropout)
        self.attention = _InterpretableAttention(hidden_size, nhead=nhead)
        self.attention_gate = _GatedResidual(hidden_size, dropout=dropout)
        self.feedforward = _GatedResidualNetwork(hidden_size, hidden_size, dropout=dropout)
        self.output_gate = _GatedResidual(hidden_size, dropout=dropout)
        self.head = nn.Linear(hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, outputs)."""
        recurrent, enriched = self._encode(x)
        last = enriched[:, -1:]
        attended = self.attention_gate(self.attention(last, enriched), last)
        output: Tensor = self.head(self.output_gate(self.feedforward(attended), recurrent[:, -1:])[:, 0])
        return output

    def attend(self, x: Tensor) -> Tensor:
        """Return the attention weights of the horizon, (B, nhead, 1, T + 1): of the bars, and of the horizon itself."""
        enriched = self._encode(x)[1]
        return self.attention.weigh(enriched[:, -1:], enriched)

    def select(self, x: Tensor) -> Tensor:
        """Return the weight of each column at each bar, (B, T, F) with sum 1 along the last axis."""
        return self.selection.weigh(x)

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, T, F) -> the states of the bars and the horizon, (B, T + 1, hidden_size), plain and enriched."""
        past = self.selection(x)
        known = x[:, -1:, x.shape[2] - self.known_columns :] if self.known_columns else x[:, -1:]
        future = self.known_selection(known)
        with disable_onednn():
            states, memory = self.encoder(past)
            decoded = self.decoder(future, memory)[0]
        inputs = torch.cat([past, future], dim=1)
        recurrent: Tensor = self.recurrence_gate(torch.cat([states, decoded], dim=1), inputs)
        return recurrent, self.enrichment(recurrent)


class _GatedResidualNetwork(nn.Module):
    """LayerNorm(skip + GLU(W1 ELU(W2 x))) (ibid., eq. 2 to 5): (…, before) -> (…, after)."""

    def __init__(self, before: int, after: int, *, dropout: float, hidden_size: int | None = None) -> None:
        """`hidden_size` is that of both inner layers; None: `after`."""
        super().__init__()
        hidden_size = hidden_size or after
        self.skip = nn.Identity() if before == after else nn.Linear(before, after)
        self.first, self.second = nn.Linear(before, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.gate = nn.Linear(hidden_size, 2 * after)
        self.elu, self.dropout, self.norm = nn.ELU(), nn.Dropout(dropout), nn.LayerNorm(after)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, before) -> (…, after)."""
        hidden = self.dropout(self.second(self.elu(self.first(x))))
        output: Tensor = self.norm(self.skip(x) + _gate(self.gate(hidden)))
        return output


class _VariableSelection(nn.Module):
    """Weights of the columns by a softmax, times an embedding of each (ibid., eq. 6 to 8), all columns at once.

    One product with a tensor of all columns' weights replaces a network for each. The softmax reads the columns, in
    which their embeddings are linear, and all columns share a layer normalization: both differ from the paper.
    """

    def __init__(self, columns: int, hidden_size: int, *, dropout: float) -> None:
        """Draw the weights from torch's global generator."""
        super().__init__()
        self.weights = _GatedResidualNetwork(columns, columns, dropout=dropout, hidden_size=hidden_size)
        scale = 1.0 / math.sqrt(hidden_size)
        self.embedding = nn.Parameter(torch.randn(columns, hidden_size))
        self.embedding_bias = nn.Parameter(torch.zeros(columns, hidden_size))
        self.first = nn.Parameter(scale * torch.randn(columns, hidden_size, hidden_size))
        self.second = nn.Parameter(scale * torch.randn(columns, hidden_size, hidden_size))
        self.gate = nn.Parameter(scale * torch.randn(columns, hidden_size, 2 * hidden_size))
        self.biases = nn.Parameter(torch.zeros(columns, 4 * hidden_size))
        self.norm = nn.LayerNorm(hidden_size)
        self.elu, self.dropout, self.hidden_size = nn.ELU(), nn.Dropout(dropout), hidden_size

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, T, hidden_size)."""
        selected: Tensor = self.weigh(x)[:, :, None] @ self.process(x)  # (B, T, 1, hidden_size)
        return selected[:, :, 0]  # axes are not merged: the exporter would take their sizes for fixed

    def weigh(self, x: Tensor) -> Tensor:
        """Return the weight of each column, (B, T, F) with sum 1 along the last axis."""
        weights: Tensor = self.weights(x)
        return weights.softmax(dim=-1)

    def process(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, T, F, hidden_size): a gated residual network of its own for each column."""
        size = self.hidden_size
        first, second, gate = self.biases[:, :size], self.biases[:, size : 2 * size], self.biases[:, 2 * size :]
        embedded = x[..., None] * self.embedding + self.embedding_bias
        states = embedded.permute(2, 0, 1, 3)  # (F, B, T, hidden_size): a batch of matrix products
        hidden = self.elu(states @ self.first[:, None] + first[:, None, None])
        hidden = self.dropout(hidden @ self.second[:, None] + second[:, None, None])
        gated: Tensor = self.norm(states + _gate(hidden @ self.gate[:, None] + gate[:, None, None]))
        return gated.permute(1, 2, 0, 3)


class _GatedResidual(nn.Module):
    """LayerNorm(skip + GLU(x)) (ibid., 4.4)."""

    def __init__(self, size: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout, self.gate, self.norm = nn.Dropout(dropout), nn.Linear(size, 2 * size), nn.LayerNorm(size)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        output: Tensor = self.norm(skip + _gate(self.gate(self.dropout(x))))
        return output


class _InterpretableAttention(nn.Module):
    """Attention whose heads have their own weights and share the values (ibid., eq. 13 to 16)."""

    def __init__(self, size: int, *, nhead: int) -> None:
        super().__init__()
        self.nhead, self.head_size = nhead, size // nhead
        self.query, self.key = nn.Linear(size, size), nn.Linear(size, size, bias=False)
        self.value, self.out_proj = nn.Linear(size, self.head_size), nn.Linear(self.head_size, size, bias=False)

    def forward(self, targets: Tensor, states: Tensor) -> Tensor:
        mean = self.weigh(targets, states).mean(dim=1)  # (B, Q, T): of the heads
        output: Tensor = self.out_proj(mean @ self.value(states))
        return output

    def weigh(self, targets: Tensor, states: Tensor) -> Tensor:
        """Return the weights of the states for each target, (B, nhead, Q, T), with sum 1."""
        query, key = self._split_heads(self.query(targets)), self._split_heads(self.key(states))
        return (query @ key.transpose(2, 3) / math.sqrt(self.head_size)).softmax(dim=-1)

    def _split_heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, 2, (self.nhead, self.head_size)).transpose(1, 2)


def _gate(x: Tensor) -> Tensor:
    """Return the gated linear unit of (…, 2 n): (…, n) (Dauphin et al. 2017)."""
    value, gate = x.chunk(2, dim=-1)
    return value * gate.sigmoid()
