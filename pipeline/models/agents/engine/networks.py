"""Policies and critics: small networks over raw observations, which they standardize themselves."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.torch_runtime.standardize import Standardize

RELU, TANH, LINEAR = range(3)
INITIAL_ATOM_RANGE = 6.0  # standard deviations from the middle atom to the outermost, in an untrained critic
OUTPUT_SCALE = 0.1  # of the last weights of an actor: it starts near no position


@dataclass(frozen=True, eq=False)
class PolicyLayer:
    """One layer of a policy as plain tensors."""

    weight: Tensor  # (out, in)
    bias: Tensor  # (out,)
    activation: int  # RELU, TANH or LINEAR
    is_skip: bool = False  # whether the layer's input is concatenated before its output


class Policy(nn.Module):
    """Raw observations in, a position in [-1, 1] out: the network that is deployed, of one or several actors."""

    num_actors: int  # each acts by one number in (-1, 1)
    limiting_actor: int  # whose action scales the last actor's; -1 where there is none
    min_position_limit: float  # the least scale
    standardize: Standardize

    def list_layers(self, ablated: int | None = None) -> tuple[PolicyLayer, ...]:
        """Return the policy as layers in order, from standardized observations to actions; with one actor ablated."""
        raise NotImplementedError

    def preactivate(self, observation: Tensor) -> Tensor:
        """Map (B, F) to (B, actors), the actions before their tanh."""
        return self.preactivate_standardized(self.standardize(observation))

    def preactivate_standardized(self, seen: Tensor) -> Tensor:
        """Map standardized observations (B, F) to (B, actors), the actions before their tanh."""
        raise NotImplementedError

    def combine_actions(self, actions: Tensor) -> Tensor:
        """Map (B, actors) actions to the position (B, 1) that they form."""
        last = actions[:, -1:]
        if self.limiting_actor < 0:
            return last
        limited: Tensor = last * limit_position(actions[:, self.limiting_actor, None], self.min_position_limit)
        return limited

    def forward(self, observation: Tensor) -> Tensor:
        """Map (B, F) to (B, 1)."""
        return self.combine_actions(torch.tanh(self.preactivate(observation)))


class Critic(nn.Module):
    """Raw observations and actions in, each actor's distribution of the discounted return out."""

    standardize: Standardize

    def forward(self, observation: Tensor, actions: Tensor, positions: Tensor, others: Tensor) -> Tensor:
        """Map (B, F), and (B, actors) each of actions, positions and others, to (B, actors, atoms) logits.

        `positions` are the position formed by the actions, once for each actor. `others` are the actions again, as
        seen by the other actors: the values are the same, only gradients differ.
        """
        return self.evaluate_standardized(self.standardize(observation), actions, positions, others)

    def evaluate_standardized(self, seen: Tensor, actions: Tensor, positions: Tensor, others: Tensor) -> Tensor:
        """Map standardized observations (B, F), and the rest as `forward` does, to (B, actors, atoms) logits."""
        raise NotImplementedError


class SingleActorPolicy(Policy):
    """One actor: its action is the position."""

    num_actors, limiting_actor, min_position_limit = 1, -1, 1.0

    def __init__(self, columns: int, *, hidden_sizes: list[int], clip_sigma: float) -> None:
        """Build a perceptron over `columns` columns of an observation, clipped at ± `clip_sigma`."""
        super().__init__()
        self.standardize = Standardize(columns, clip_sigma=clip_sigma)
        self.body = make_mlp(columns, hidden_sizes, outputs=1)
        last = self.body[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(OUTPUT_SCALE)
            last.bias.zero_()

    def preactivate_standardized(self, seen: Tensor) -> Tensor:
        """Map (B, F) to (B, 1)."""
        action: Tensor = self.body(seen)
        return action

    def list_layers(self, ablated: int | None = None) -> tuple[PolicyLayer, ...]:
        """Return the perceptron's layers; a single actor cannot be ablated."""
        linears = [each for each in self.body if isinstance(each, nn.Linear)]
        return tuple(PolicyLayer(each.weight, each.bias, TANH if each is linears[-1] else RELU) for each in linears)


class SingleActorCritic(Critic):
    """The critic of a single actor."""

    def __init__(self, columns: int, *, hidden_sizes: list[int], clip_sigma: float, n_atoms: int) -> None:
        """Build a perceptron over observation and position with `n_atoms` outputs."""
        super().__init__()
        self.standardize = Standardize(columns, clip_sigma=clip_sigma)
        self.body = make_mlp(columns + 1, hidden_sizes, outputs=n_atoms)
        narrow_initial_distribution(self.body)

    def evaluate_standardized(self, seen: Tensor, actions: Tensor, positions: Tensor, others: Tensor) -> Tensor:
        """Map (B, F) and (B, 1) to (B, 1, atoms)."""
        logits: Tensor = self.body(torch.cat([seen, positions], dim=1))
        return logits[:, None]


def limit_position(action: Any, min_position_limit: float) -> Any:
    """Return the limit of an action: linear from `min_position_limit` at -1 to 1 at 1."""
    return min_position_limit + (1 - min_position_limit) * 0.5 * (1 + action)


def make_mlp(inputs: int, hidden_sizes: list[int], *, outputs: int) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    widths = [inputs, *hidden_sizes]
    layers: list[nn.Module] = []
    for before, after in zip(widths, hidden_sizes, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden_sizes[-1], outputs))


@torch.no_grad()
def narrow_initial_distribution(body: nn.Sequential) -> None:
    """Set the last layer so that an untrained critic's atoms are nearly normal around 0, whatever its input."""
    last = body[-1]
    assert isinstance(last, nn.Linear)
    last.weight.mul_(OUTPUT_SCALE)
    last.bias.copy_(-0.5 * torch.linspace(-INITIAL_ATOM_RANGE, INITIAL_ATOM_RANGE, last.out_features) ** 2)


@torch.no_grad()
def polyak_update(target: list[Tensor], source: list[Tensor], *, tau: float) -> None:
    """Move each weight of `target` by `tau` of the way to that of `source`."""
    torch._foreach_lerp_(target, source, tau)
