"""DeepLOB: convolutions over the levels of a book and over time, then an LSTM (Zhang, Zohren & Roberts 2019)."""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from pipeline.models.torch_runtime.device import disable_onednn
from pipeline.models.torch_runtime.hyperparameters import Dropout

LEVELS = 10
BOOK = 4 * LEVELS  # columns: ask prices, ask sizes, bid prices, bid sizes, each of levels 1 to 10
DERIVED = 8  # columns 40-47 of the extended mode
SLOPE = 0.01  # of the leaky ReLU
KERNEL_ROWS = 4  # of each of the six convolutions over time
LOST_ROWS = 6 * (KERNEL_ROWS - 1)  # of a window: convolutions over time have no padding


class DeepLOB(nn.Module):
    """A net that joins price with size, then bid with ask, then all levels, and reads the result row by row.

    It takes the columns of the preset `lob_only` (40) or `deeplob_extended` (48), in the order of the 98 columns. They
    are first arranged as (ask price, ask size, bid price, bid size) of each level, since the kernels of two columns
    join what stands side by side. The 8 derived columns of the extended mode join the states that the LSTM reads: those
    of a row join the state that reads no later row but in the inception module.

    The paper has a window of 100 events, and the authors' code 32 and 64 channels and 64 units. `dropout` acts before
    the LSTM.
    """

    places: Tensor  # (40,) of the columns, level by level

    def __init__(
        self,
        *,
        columns: PositiveInt,
        window: PositiveInt,
        outputs: PositiveInt,
        conv_channels: PositiveInt = 32,
        inception_channels: PositiveInt = 64,
        hidden_size: PositiveInt = 64,
        dropout: Dropout = 0.0,
    ) -> None:
        """Draw the weights from torch's global generator. Raises ValueError where columns or window do not fit."""
        super().__init__()
        _check_shape(columns=columns, window=window)
        self.derived = columns - BOOK
        self.register_buffer("places", torch.arange(BOOK).reshape(4, LEVELS).T.flatten(), persistent=False)
        self.convolutions = nn.Sequential(
            *_make_block(1, conv_channels, columns=2, activation=nn.LeakyReLU(SLOPE)),  # price and size
            *_make_block(conv_channels, conv_channels, columns=2, activation=nn.Tanh()),  # ask and bid
            *_make_block(conv_channels, conv_channels, columns=LEVELS, activation=nn.LeakyReLU(SLOPE)),
        )
        self.branches = nn.ModuleList(
            [
                _make_inception(conv_channels, inception_channels, rows=3),
                _make_inception(conv_channels, inception_channels, rows=5),
                nn.Sequential(
                    nn.MaxPool2d((3, 1), stride=1, padding=(1, 0)), *_convolve(conv_channels, inception_channels)
                ),
            ]
        )
        self.dropout = nn.Dropout(dropout)
        self.recurrence = nn.LSTM(3 * inception_channels + self.derived, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, 40 or 48) -> (B, outputs)."""
        book = x.index_select(2, self.places).unsqueeze(1)  # (B, 1, T, 40)
        levels = self.convolutions(book)  # (B, conv_channels, T - 18, 1)
        joined = torch.cat([branch(levels) for branch in self.branches], dim=1)  # (B, 3 inception_channels, T - 18, 1)
        states = self.dropout(joined.squeeze(3).transpose(1, 2))
        if self.derived:
            states = torch.cat([states, x[:, LOST_ROWS:, BOOK:]], dim=2)
        with disable_onednn():
            read: Tensor = self.recurrence(states)[0]
        output: Tensor = self.head(read[:, -1])
        return output


def _check_shape(*, columns: int, window: int) -> None:
    if columns not in (BOOK, BOOK + DERIVED):
        raise ValueError(
            f"the net sees {columns} columns; allowed are {BOOK} (columns: [lob_only]) and {BOOK + DERIVED} (columns: "
            f"[deeplob_extended]): prices and sizes of {LEVELS} levels, in the order of the order book's columns"
        )
    if window <= LOST_ROWS:
        raise ValueError(f"window is {window}; allowed are more than the {LOST_ROWS} rows that it convolves")


def _make_block(before: int, after: int, *, columns: int, activation: nn.Module) -> list[nn.Module]:
    """Return layers that join `columns` neighbors into one, then convolve twice over time."""
    over_time = (KERNEL_ROWS, 1)
    return [
        *_convolve(before, after, kernel=(1, columns), stride=(1, columns), activation=activation),
        *_convolve(after, after, kernel=over_time, activation=activation),
        *_convolve(after, after, kernel=over_time, activation=activation),
    ]


def _make_inception(before: int, after: int, *, rows: int) -> nn.Sequential:
    """Return a branch of the inception module, with a kernel of so many rows, that keeps their number."""
    return nn.Sequential(*_convolve(before, after), *_convolve(after, after, kernel=(rows, 1), padding=(rows // 2, 0)))


def _convolve(
    before: int,
    after: int,
    *,
    kernel: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    activation: nn.Module | None = None,
) -> list[nn.Module]:
    """Return a convolution, an activation (None: leaky ReLU) and batch normalization, in the order of the paper."""
    return [
        nn.Conv2d(before, after, kernel, stride=stride, padding=padding),
        activation or nn.LeakyReLU(SLOPE),
        nn.BatchNorm2d(after),
    ]
