"""A multilayer perceptron of the last bar: the tabular net."""

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from pipeline.models.torch_runtime.hyperparameters import Dropout

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class Mlp(nn.Module):
    """A net of the window's last bar alone, as trees are: the baseline of every net that reads the whole window.

    A net that does not beat it has learned nothing from the order of bars. `dropout` acts after each activation.
    Without hidden layers it is a linear model.
    """

    def __init__(
        self,
        *,
        columns: PositiveInt,
        window: PositiveInt,
        outputs: PositiveInt,
        hidden_sizes: list[PositiveInt],
        dropout: Dropout,
        activation: Literal["relu", "gelu", "silu"],
    ) -> None:
        """Draw the weights from torch's global generator."""
        super().__init__()
        self.layers = nn.Sequential(
            *(
                nn.Sequential(_make_linear(before, after), ACTIVATIONS[activation](), nn.Dropout(dropout))
                for before, after in zip([columns, *hidden_sizes], hidden_sizes, strict=False)
            )
        )
        self.head = nn.Linear([columns, *hidden_sizes][-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, outputs)."""
        output: Tensor = self.head(self.layers(x[:, -1]))
        return output


def _make_linear(before: int, after: int) -> nn.Linear:
    """Return a linear layer initialized for ReLU (He et al. 2015), which GELU and SiLU resemble."""
    linear = nn.Linear(before, after)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    return linear
