"""MLPLOB: multilayer perceptrons along columns and along rows in turn (Berti & Kasneci 2025), for order books."""

from pydantic import PositiveInt
from torch import Tensor, nn

from pipeline.models.nets.engine.mixing import REDUCTION, BilinearNormalization, MixingMlp, check_sizes, make_head


class MLPLOB(nn.Module):
    """A net of pairs of perceptrons, of which one mixes the columns of each row and the other the rows of each column.

    The paper has hidden_size 40, num_layers 3, a window of 384 events, and a learning rate of 3e-4. It takes
    any columns.
    """

    def __init__(
        self,
        *,
        columns: PositiveInt,
        window: PositiveInt,
        outputs: PositiveInt,
        hidden_size: PositiveInt = 40,
        num_layers: PositiveInt = 3,
    ) -> None:
        """Draw the weights from torch's global generator. Raises ValueError where a size is below 8."""
        super().__init__()
        check_sizes(window=window, hidden_size=hidden_size)
        self.normalization = BilinearNormalization(columns=columns, window=window)
        self.embedding = nn.Linear(columns, hidden_size)
        pairs = [_make_pair(hidden_size, window, factor=4, divisor=1) for _ in range(num_layers - 1)]
        self.pairs = nn.ModuleList([*pairs, _make_pair(hidden_size, window, factor=2, divisor=REDUCTION)])
        self.head = make_head((hidden_size // REDUCTION) * (window // REDUCTION), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, outputs)."""
        states: Tensor = nn.functional.gelu(self.embedding(self.normalization(x)))  # (B, T, hidden_size)
        for pair in self.pairs:
            assert isinstance(pair, nn.ModuleList)
            mix_columns, mix_rows = pair
            states = mix_rows(mix_columns(states).transpose(1, 2)).transpose(1, 2)
        output: Tensor = self.head(states.flatten(1))  # (rows, columns), the order of the published weights
        return output


def _make_pair(columns: int, rows: int, *, factor: int, divisor: int) -> nn.ModuleList:
    """Return the perceptron of the columns and that of the rows, whose outputs are `divisor` times fewer."""
    return nn.ModuleList(MixingMlp(size, size // divisor, hidden_size=factor * size) for size in (columns, rows))
