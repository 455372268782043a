"""The temporal fusion transformer (Lim et al. 2021): it selects columns, and attends to the bars of the window."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from pipeline.models.nets.engine.net import Net
from pipeline.models.torch_runtime.device import disable_onednn
from pipeline.models.torch_runtime.hyperparameters import Dropout
from pipeline.samples import Samples

AHEAD = "_ahead_"  # in the name of a column of the calendar at a later minute, see features/groups/calendar.py


class TemporalFusionTransformer(nn.Module):
    """Variable selection, an LSTM, and interpretable attention, joined by gated residual networks.

    The columns at `known_positions` are known in advance, as those of a calendar at the horizon. Their values at the
    last bar are the input of the decoder: one step stands for the horizon. With none of them the last bar itself is
    decoded. Those at `static_positions` do not vary within a window, as flags of symbols: they are the context of all
    other parts. The paper has hidden_size 160 and 4 heads.
    """

    def __init__(
        self,
        *,
        columns: PositiveInt,
        window: PositiveInt,
        outputs: PositiveInt,
        hidden_size: PositiveInt,
        nhead: PositiveInt,
        known_positions: list[int],
        static_positions: list[int],
        dropout: Dropout,
    ) -> None:
        """Draw the weights from torch's global generator. Raises ValueError where a size does not fit another."""
        super().__init__()
        if hidden_size % nhead:
            raise ValueError(f"hidden_size is {hidden_size} and nhead is {nhead}; nhead must divide hidden_size")
        self.static_positions = static_positions
        self.temporal_positions = [i for i in range(columns) if i not in static_positions]
        self.known_positions = known_positions or self.temporal_positions
        if not self.temporal_positions:
            raise ValueError(f"all of its {columns} columns are static; the net needs one that varies over time")
        if both := sorted(set(static_positions) & set(self.known_positions)):
            raise ValueError(f"columns {both} are both static and known; a column is one of them")
        self.static = _StaticEncoder(len(static_positions), hidden_size, dropout=dropout) if static_positions else None
        context = hidden_size if static_positions else 0
        temporal, known = len(self.temporal_positions), len(self.known_positions)
        self.selection = _VariableSelection(temporal, hidden_size, context=context, dropout=dropout)
        self.known_selection = _VariableSelection(known, hidden_size, context=context, dropout=dropout)
        self.encoder = nn.LSTM(hidden_size, hidden_size, batch_first=True)
        self.decoder = nn.LSTM(hidden_size, hidden_size, batch_first=True)
        self.recurrence_gate = _GatedResidual(hidden_size, dropout=dropout)
        self.enrichment = _GatedResidualNetwork(hidden_size, hidden_size, context=context, dropout=dropout)
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
        """Return the weight of each column but the static ones at each bar, (B, T, F) with sum 1 over columns."""
        return self.selection.weigh(x[:, :, self.temporal_positions], self._encode_static(x).selection)

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, T, F) -> the states of the bars and the horizon, (B, T + 1, hidden_size), plain and enriched."""
        contexts = self._encode_static(x)
        past = self.selection(x[:, :, self.temporal_positions], contexts.selection)
        future = self.known_selection(x[:, -1:, self.known_positions], contexts.selection)
        with disable_onednn():
            states, memory = self.encoder(past, contexts.memory)
            decoded = self.decoder(future, memory)[0]
        inputs = torch.cat([past, future], dim=1)
        recurrent: Tensor = self.recurrence_gate(torch.cat([states, decoded], dim=1), inputs)
        return recurrent, self.enrichment(recurrent, contexts.enrichment)

    def _encode_static(self, x: Tensor) -> "_Contexts":
        return self.static(x[:, -1:, self.static_positions]) if self.static else _Contexts()


@dataclass(kw_only=True, eq=False)
class TFT(Net):
    """The temporal fusion transformer (Lim et al. 2021), with columns that are known in advance or static by name."""

    module: ClassVar[type[nn.Module]] = TemporalFusionTransformer

    hidden_size: PositiveInt
    nhead: PositiveInt
    known_columns: Literal["ahead"] | list[str]  # "ahead": those of the calendar at a later minute, where there are any
    static_columns: list[str] = field(default_factory=list)
    dropout: Dropout

    @property
    def known_positions(self) -> list[int]:
        """The positions of the columns that are known in advance."""
        if self.known_columns == "ahead":
            return [i for i, name in enumerate(self.signature.columns) if AHEAD in name]
        return self._locate(self.known_columns, key="known_columns")

    @property
    def static_positions(self) -> list[int]:
        """The positions of the columns that do not vary within a window; ValueError where one of them is known too."""
        positions = self._locate(self.static_columns, key="static_columns")
        if both := [self.signature.columns[i] for i in positions if i in self.known_positions]:
            raise ValueError(f"static_columns and known_columns both have {both}; a column is one of them")
        return positions

    def check_fit(self, samples: Samples, train: np.ndarray, valid: np.ndarray) -> None:
        """Raise ValueError also where a static column varies within a segment: windows would have its last value."""
        super().check_fit(samples, train, valid)
        positions, segment = np.array(self.static_positions, int), samples.segment[train]
        order = np.argsort(segment, kind="stable")
        values, segment = samples.x[np.ix_(train[order], positions)], segment[order]
        varies = ((values[1:] != values[:-1]) & (segment[1:] == segment[:-1])[:, None]).any(axis=0)
        if varies.any():
            names = [self.signature.columns[i] for i, is_wrong in zip(positions, varies, strict=True) if is_wrong]
            raise ValueError(
                f"static_columns has {names}, which vary within a segment; remove them from static_columns, which is "
                "for columns that do not, such as flags of symbols"
            )

    def _locate(self, names: list[str], *, key: str) -> list[int]:
        columns = self.signature.columns
        if unknown := [name for name in names if name not in columns]:
            raise ValueError(f"{key} has {unknown}; the columns of the model are {', '.join(columns)}")
        return [i for i, name in enumerate(columns) if name in names]


class _GatedResidualNetwork(nn.Module):
    """LayerNorm(skip + GLU(W1 ELU(W2 x + W3 context))) (ibid., eq. 2 to 5): (…, before) -> (…, after)."""

    def __init__(
        self, before: int, after: int, *, dropout: float, hidden_size: int | None = None, context: int = 0
    ) -> None:
        """`hidden_size` is that of both inner layers; None: `after`. `context` is the context's, 0: there is none."""
        super().__init__()
        hidden_size = hidden_size or after
        self.skip = nn.Identity() if before == after else nn.Linear(before, after)
        self.first, self.second = nn.Linear(before, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.context = nn.Linear(context, hidden_size, bias=False) if context else None
        self.gate = nn.Linear(hidden_size, 2 * after)
        self.elu, self.dropout, self.norm = nn.ELU(), nn.Dropout(dropout), nn.LayerNorm(after)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, T, before) and a context (B, 1, context) -> (B, T, after)."""
        sums = self.first(x)
        if self.context is not None and context is not None:
            sums = sums + self.context(context)
        hidden = self.dropout(self.second(self.elu(sums)))
        output: Tensor = self.norm(self.skip(x) + _gate(self.gate(hidden)))
        return output


class _VariableSelection(nn.Module):
    """Weights of the columns by a softmax, times an embedding of each (ibid., eq. 6 to 8), all columns at once.

    One product with a tensor of all columns' weights replaces a network for each. The softmax reads the columns, in
    which their embeddings are linear, and all columns share a layer normalization: both differ from the paper.
    """

    def __init__(self, columns: int, hidden_size: int, *, dropout: float, context: int = 0) -> None:
        """Draw the weights from torch's global generator; the weights of the columns depend on a context as well."""
        super().__init__()
        self.weights = _GatedResidualNetwork(
            columns, columns, dropout=dropout, hidden_size=hidden_size, context=context
        )
        scale = 1.0 / math.sqrt(hidden_size)
        self.embedding = nn.Parameter(torch.randn(columns, hidden_size))
        self.embedding_bias = nn.Parameter(torch.zeros(columns, hidden_size))
        self.first = nn.Parameter(scale * torch.randn(columns, hidden_size, hidden_size))
        self.second = nn.Parameter(scale * torch.randn(columns, hidden_size, hidden_size))
        self.gate = nn.Parameter(scale * torch.randn(columns, hidden_size, 2 * hidden_size))
        self.biases = nn.Parameter(torch.zeros(columns, 4 * hidden_size))
        self.norm = nn.LayerNorm(hidden_size)
        self.elu, self.dropout, self.hidden_size = nn.ELU(), nn.Dropout(dropout), hidden_size

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, T, F) -> (B, T, hidden_size)."""
        selected: Tensor = self.weigh(x, context)[:, :, None] @ self.process(x)  # (B, T, 1, hidden_size)
        return selected[:, :, 0]  # axes are not merged: the exporter would take their sizes for fixed

    def weigh(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the weight of each column, (B, T, F) with sum 1 along the last axis."""
        weights: Tensor = self.weights(x, context)
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


@dataclass(frozen=True)
class _Contexts:
    """Contexts that the static columns give to the other parts; None where there are none of them."""

    selection: Tensor | None = None  # (B, 1, hidden_size)
    enrichment: Tensor | None = None  # (B, 1, hidden_size)
    memory: tuple[Tensor, Tensor] | None = None  # the first states of the encoder, (1, B, hidden_size) each


class _StaticEncoder(nn.Module):
    """Four contexts from the selected static columns (ibid., 4.3), each by a gated residual network of its own."""

    def __init__(self, columns: int, hidden_size: int, *, dropout: float) -> None:
        super().__init__()
        self.variables = _VariableSelection(columns, hidden_size, dropout=dropout)
        self.selection, self.enrichment, self.hidden, self.cell = (
            _GatedResidualNetwork(hidden_size, hidden_size, dropout=dropout) for _ in range(4)
        )

    def forward(self, x: Tensor) -> _Contexts:
        """Map (B, 1, F) to the contexts."""
        selected = self.variables(x)
        first, cell = (part(selected).transpose(0, 1).contiguous() for part in (self.hidden, self.cell))
        return _Contexts(self.selection(selected), self.enrichment(selected), (first, cell))


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
