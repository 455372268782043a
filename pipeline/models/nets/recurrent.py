"""A recurrent net: LSTM (Hochreiter & Schmidhuber 1997) or GRU (Cho et al. 2014), with attention over time or not."""

import torch
from torch import Tensor, nn

from pipeline.models.neural.checks import check_dropout, check_sizes
from pipeline.models.neural.device import without_onednn

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


class Recurrent(nn.Module):
    """Reads the window bar by bar, and answers from where it ends up or, with attention, from all the way there.

    Without attention the answer comes from the state after the last bar and, when `bidirectional`, from the backward
    direction's state after the first: each direction has then seen the whole window, and nothing outside it.
    `dropout` acts between layers, where there are several, and before the head.
    """

    def __init__(
        self,
        *,
        columns: int,
        bars: int,
        outputs: int,
        cell: str,
        hidden: int,
        layers: int,
        bidirectional: bool,
        attention: bool,
        dropout: float,
    ) -> None:
        """Weights come from torch's global generator. Raises ValueError where a tunable is not allowed."""
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"recurrent: cell is {cell!r}; allowed are {sorted(CELLS)}")
        check_sizes("recurrent", columns=columns, bars=bars, outputs=outputs, hidden=hidden, layers=layers)
        check_dropout("recurrent", dropout)
        width = 2 * hidden if bidirectional else hidden
        self.recurrence = CELLS[cell](
            columns,
            hidden,
            layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,  # torch warns of one that has nowhere to act
        )
        self.attention = _AdditiveAttention(width, units=hidden) if attention else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)
        _initialise(self.recurrence)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, outputs)."""
        states = self._states(x)
        if self.attention is not None:
            summary = (self.attention(states).unsqueeze(1) @ states).squeeze(1)
        else:
            hidden = self.recurrence.hidden_size
            summary = torch.cat([states[:, -1, :hidden], states[:, 0, hidden:]], dim=1)
        answer: Tensor = self.head(self.dropout(summary))  # summary is (B, width)
        return answer

    def _states(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, T, width), the forward direction's columns first."""
        with without_onednn():
            states: Tensor = self.recurrence(x)[0]
        return states

    def weights(self, x: Tensor) -> Tensor:
        """How much each bar counts, (B, T), not negative and one in sum, for x (B, T, F).

        Raises ValueError where the net has no attention.
        """
        if self.attention is None:
            raise ValueError("recurrent: a net with attention: false has no attention weights; build it with true")
        shares: Tensor = self.attention(self._states(x))
        return shares


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
def _initialise(recurrence: nn.LSTM | nn.GRU) -> None:
    """Each gate's recurrent weights are orthogonal (Saxe et al. 2014), and an LSTM begins by remembering.

    Its forget gates' biases are 1 (Gers et al. 2000; Jozefowicz et al. 2015); torch adds two for every gate.
    """
    hidden = recurrence.hidden_size
    for name, parameter in recurrence.named_parameters():
        if name.startswith("weight_hh"):
            for gate in range(0, len(parameter), hidden):
                nn.init.orthogonal_(parameter[gate : gate + hidden])  # (hidden, hidden)
        elif isinstance(recurrence, nn.LSTM) and name.startswith("bias"):
            parameter[hidden : 2 * hidden] = 1.0 if name.startswith("bias_ih") else 0.0
