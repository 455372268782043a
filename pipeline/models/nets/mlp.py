"""A multilayer perceptron of the last bar: the tabular net."""

from torch import Tensor, nn

from pipeline.models.torch_runtime.checks import check_dropout, check_sizes, check_widths

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class Mlp(nn.Module):
    """A net of the window's last bar alone, as trees are: the baseline of every net that reads the whole window.

    A net that does not beat it has learned nothing from the order of bars. `dropout` acts after each activation.
    """

    def __init__(
        self,
        *,
        columns: int,
        window: int,
        outputs: int,
        hidden_sizes: list[int],
        dropout: float,
        activation: str,
    ) -> None:
        """Draw the weights from torch's global generator. Raises ValueError naming a hyperparameter out of range."""
        super().__init__()
        check_sizes("mlp", columns=columns, window=window, outputs=outputs)
        check_widths("mlp", of="layer", hidden_sizes=hidden_sizes)
        check_dropout("mlp", dropout)
        if activation not in ACTIVATIONS:
            raise ValueError(f"mlp: activation is {activation!r}; allowed are {sorted(ACTIVATIONS)}")
        self.layers = nn.Sequential(
            *(
                nn.Sequential(_make_linear(before, after), ACTIVATIONS[activation](), nn.Dropout(dropout))
                for before, after in zip([columns, *hidden_sizes], hidden_sizes, strict=False)
            )
        )
        self.head = nn.Linear(hidden_sizes[-1], outputs)

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
