"""Who decides and who judges: small perceptrons over raw observations, standardised inside."""

import torch
from torch import Tensor, nn

from pipeline.models.nets.engine.checks import check_widths
from pipeline.models.nets.engine.standardise import Standardise

SMALL = 0.1  # what the last weights of an actor are scaled down by: it begins near no position at all


class Actor(nn.Module):
    """Raw observations in, a position in (-1, 1) out."""

    def __init__(self, columns: int, *, hidden: list[int], clip: float) -> None:
        """`columns` are those of an observation; `clip` is in deviations of one."""
        super().__init__()
        self.standardise = Standardise(columns, clip=clip)
        self.body = perceptron(columns, hidden, outputs=1)
        last = self.body[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(SMALL)
            last.bias.zero_()

    def forward(self, observation: Tensor) -> Tensor:
        """(B, F) -> (B, 1)."""
        return torch.tanh(self.raw(observation))

    def raw(self, observation: Tensor) -> Tensor:
        """(B, F) -> (B, 1), before it is squashed into a position."""
        answer: Tensor = self.body(self.standardise(observation))
        return answer


class Critic(nn.Module):
    """Raw observations and positions in, the distribution of the return that follows out."""

    def __init__(self, columns: int, *, hidden: list[int], clip: float, atoms: int) -> None:
        """`atoms` are those of the distribution."""
        super().__init__()
        self.standardise = Standardise(columns, clip=clip)
        self.body = perceptron(columns + 1, hidden, outputs=atoms)

    def forward(self, observation: Tensor, position: Tensor) -> Tensor:
        """(B, F) and (B, 1) -> (B, atoms) logits."""
        logits: Tensor = self.body(torch.cat([self.standardise(observation), position], dim=1))
        return logits


def perceptron(inputs: int, hidden: list[int], *, outputs: int) -> nn.Sequential:
    """Linear layers with ReLU between them. Raises ValueError where a width is no whole number above 0."""
    check_widths("agent", of="layer", hidden=hidden)
    widths = [inputs, *hidden]
    layers: list[nn.Module] = []
    for before, after in zip(widths, hidden, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], outputs))


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, *, share: float) -> None:
    """Each parameter of `target` has moved by `share` of the way to that of `source`."""
    for slow, fast in zip(target.parameters(), source.parameters(), strict=True):
        slow.lerp_(fast, share)
