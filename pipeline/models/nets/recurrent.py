"""A recurrent net: LSTM (Hochreiter & Schmidhuber 1997) or GRU (Cho et al. 2014), optionally with attention."""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from pipeline.models.torch_runtime.device import disable_onednn
from pipeline.models.torch_runtime.hyperparameters import Dropout

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


class Recurrent(nn.Module):
    """A net that reads the window bar by bar, and predicts from its final state or, with attention, from all states.

    Without attention the head reads the state after the last bar and, with `bidirectional`, the backward direction's
    state after the first bar: each direction has then read the whole window. `dropout` acts between recurrent layers,
    where there are several, and before the head.
    """

    def __init__(
        self,
        *,
        columns: PositiveInt,
        window: PositiveInt,
        outputs: PositiveInt,
        cell: Literal["lstm", "gru"],
        hidden_size: PositiveInt,
        num_layers: PositiveInt,
        bidirectional: bool,
        attention: bool,
        dropout: Dropout,
    ) -> None:
        """Draw the weights from torch's global generator."""
        super().__init__()
        width = 2 * hidden_size if bidirectional else hidden_size
        self.recurrence = CELLS[cell](
            columns,
            hidden_size,
            num_layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,  # torch warns of dropout with a single layer
        )
        self.attention = _AdditiveAttention(width, units=hidden_size) if attention else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)
        _initialize(self.recurrence)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, outputs)."""
        states = self._run_recurrence(x)
        if self.attention is not None:
            summary = (self.attention(states).unsqueeze(1) @ states).squeeze(1)
        else:
            size = self.recurrence.hidden_size
            summary = torch.cat([states[:, -1, :size], states[:, 0, size:]], dim=1)
        output: Tensor = self.head(self.dropout(summary))  # summary is (B, width)
        return output

    def _run_recurrence(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, T, width), the forward direction's columns first."""
        with disable_onednn():
            states: Tensor = self.recurrence(x)[0]
        return states

    def attend(self, x: Tensor) -> Tensor:
        """Return the attention weights of the bars, (B, T), not negative and with sum 1, for x (B, T, F).

        Raises ValueError where the net has no attention.
        """
        if self.attention is None:
            raise ValueError("recurrent: attention is false, so there are no attention weights; set attention: true")
        weights: Tensor = self.attention(self._run_recurrence(x))
        return weights


class _AdditiveAttention(nn.Module):
    """softmax over t of v·tanh(W h_t + b) (Bahdanau et al. 2015, A.1.2, with no decoder): (B, T, width) -> (B, T)."""

    def __init__(self, width: int, *, units: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, units)
        self.score = nn.Linear(units, 1, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        scores: Tensor = self.score(torch.tanh(self.hidden(states)))  # (B, T, 1)
        return scores.squeeze(-1).softmax(dim=1)


@torch.no_grad()
def _initialize(recurrence: nn.LSTM | nn.GRU) -> None:
    """Make each gate's recurrent weights orthogonal (Saxe et al. 2014), and an LSTM's forget biases 1.

    A forget bias of 1 lets an LSTM remember from the start (Gers et al. 2000; Jozefowicz et al. 2015). Torch has two
    biases for each gate and adds them.
    """
    size = recurrence.hidden_size
    for name, parameter in recurrence.named_parameters():
        if name.startswith("weight_hh"):
            for gate in range(0, len(parameter), size):
                nn.init.orthogonal_(parameter[gate : gate + size])  # (size, size)
        elif isinstance(recurrence, nn.LSTM) and name.startswith("bias"):
            parameter[size : 2 * size] = 1.0 if name.startswith("bias_ih") else 0.0
