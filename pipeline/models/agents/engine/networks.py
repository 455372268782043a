"""Who decides and who judges: small nets over raw observations, standardised inside."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.neural.checks import check_widths
from pipeline.models.neural.standardise import Standardise

RELU, TANH, LINEAR = range(3)
NARROW = 6.0  # deviations between the middle atom and the outermost, of what a critic expects before it learns
SMALL = 0.1  # what the last weights of an actor are scaled down by: it begins near no position at all


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a policy as plain numbers."""

    weight: Tensor  # (out, in)
    bias: Tensor  # (out,)
    kind: int  # RELU, TANH or LINEAR
    keeps: bool = False  # whether what went in goes on before what comes out


class Policy(nn.Module):
    """Raw observations in, a position in [-1, 1] out: what is deployed, however many actors form it."""

    agents: int  # how many actors; each acts by one number in (-1, 1)
    limiter: int  # the actor whose action limits the last one's; -1 where there is none
    floor: float  # the share of its own action that the last one keeps at the least
    standardise: Standardise

    def layers(self, silent: int | None = None) -> tuple[Layer, ...]:
        """The same as layers one after another, from standardised observations to actions; with one actor silenced."""
        raise NotImplementedError

    def raw(self, observation: Tensor) -> Tensor:
        """(B, F) -> (B, agents), before they are squashed into actions."""
        raise NotImplementedError

    def joint(self, actions: Tensor) -> Tensor:
        """(B, agents) actions -> (B, 1) the position that they make."""
        last = actions[:, -1:]
        return last if self.limiter < 0 else last * limit(actions[:, self.limiter, None], self.floor)

    def forward(self, observation: Tensor) -> Tensor:
        """(B, F) -> (B, 1)."""
        return self.joint(torch.tanh(self.raw(observation)))


class Critic(nn.Module):
    """Raw observations and what was done in, for every actor the distribution of the return that follows out."""

    standardise: Standardise

    def forward(self, observation: Tensor, actions: Tensor, positions: Tensor, others: Tensor) -> Tensor:
        """(B, F), and (B, agents) each of actions, positions and others -> (B, agents, atoms) logits.

        `positions` are what the actions make, once for every actor, and `others` are the actions again, as those see
        them who did not take them: three times the same, but for the way that gradients go.
        """
        raise NotImplementedError


class Soloist(Policy):
    """One actor: its action is the position."""

    agents, limiter, floor = 1, -1, 1.0

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

    def raw(self, observation: Tensor) -> Tensor:
        """(B, F) -> (B, 1)."""
        answer: Tensor = self.body(self.standardise(observation))
        return answer

    def layers(self, silent: int | None = None) -> tuple[Layer, ...]:
        """The perceptron's; nobody can be silenced."""
        linears = [each for each in self.body if isinstance(each, nn.Linear)]
        return tuple(Layer(each.weight, each.bias, TANH if each is linears[-1] else RELU) for each in linears)


class SoloCritic(Critic):
    """Judges the position of one actor."""

    def __init__(self, columns: int, *, hidden: list[int], clip: float, atoms: int) -> None:
        """`atoms` are those of the distribution."""
        super().__init__()
        self.standardise = Standardise(columns, clip=clip)
        self.body = perceptron(columns + 1, hidden, outputs=atoms)
        expect_little(self.body)

    def forward(self, observation: Tensor, actions: Tensor, positions: Tensor, others: Tensor) -> Tensor:
        """(B, F) and (B, 1) -> (B, 1, atoms)."""
        logits: Tensor = self.body(torch.cat([self.standardise(observation), positions], dim=1))
        return logits[:, None]


def limit(action: Any, floor: float) -> Any:
    """From `floor`, for an action of -1, to 1, for one of 1."""
    return floor + (1 - floor) * 0.5 * (1 + action)


def perceptron(inputs: int, hidden: list[int], *, outputs: int) -> nn.Sequential:
    """Linear layers with ReLU between them. Raises ValueError where a width is no whole number above 0."""
    check_widths("agent", of="layer", hidden=hidden)
    widths = [inputs, *hidden]
    layers: list[nn.Module] = []
    for before, after in zip(widths, hidden, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], outputs))


@torch.no_grad()
def expect_little(body: nn.Sequential) -> None:
    """The last layer's answer over atoms begins near a normal distribution around 0, whatever it is asked."""
    last = body[-1]
    assert isinstance(last, nn.Linear)
    last.weight.mul_(SMALL)
    last.bias.copy_(-0.5 * torch.linspace(-NARROW, NARROW, last.out_features) ** 2)


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, *, share: float) -> None:
    """Each parameter of `target` has moved by `share` of the way to that of `source`."""
    for slow, fast in zip(target.parameters(), source.parameters(), strict=True):
        slow.lerp_(fast, share)
