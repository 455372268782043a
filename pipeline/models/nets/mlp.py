"""A multilayer perceptron of one bar: the tabular net."""

from torch import Tensor, nn

from pipeline.models.neural.checks import check_dropout, check_sizes, check_widths

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class Mlp(nn.Module):
    """Answers from the last bar of the window alone, as trees do: the honest baseline of every net that reads it all.

    A net that does not beat this one has learnt nothing from the order of bars. `dropout` acts after each activation.
    """

    def __init__(
        self,
        *,
        columns: int,
        bars: int,
        outputs: int,
        hidden: list[int],
        dropout: float,
        activation: str,
    ) -> None:
        """Weights come from torch's global generator. Raises ValueError where a tunable is not allowed."""
        super().__init__()
        check_sizes("mlp", columns=columns, bars=bars, outputs=outputs)
        check_widths("mlp", of="layer", hidden=hidden)
        check_dropout("mlp", dropout)
        if activation not in ACTIVATIONS:
            raise ValueError(f"mlp: activation is {activation!r}; allowed are {sorted(ACTIVATIONS)}")
        self.layers = nn.Sequential(
            *(
                nn.Sequential(_linear(before, after), ACTIVATIONS[activation](), nn.Dropout(dropout))
                for before, after in zip([columns, *hidden], hidden, strict=False)
            )
        )
        self.head = nn.Linear(hidden[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, outputs)."""
        answer: Tensor = self.head(self.layers(x[:, -1]))
        return answer


def _linear(before: int, after: int) -> nn.Linear:
    """Initialised for ReLU (He et al. 2015), which its smooth relatives resemble."""
    linear = nn.Linear(before, after)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    return linear
