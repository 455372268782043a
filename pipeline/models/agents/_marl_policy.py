"""The five actors of the multi-agent system: their roles, their joint policy, and each by itself for export."""

import math

import torch
from torch import Tensor, nn

from pipeline.models.agents.engine.networks import LINEAR, OUTPUT_SCALE, RELU, TANH, Policy, PolicyLayer
from pipeline.models.torch_runtime.checks import check_sizes
from pipeline.models.torch_runtime.standardize import Standardize

ROLES = ("trend_follower", "mean_reverter", "momentum_trader", "risk_manager", "coordinator")
NUM_TRADERS, RISK_MANAGER, COORDINATOR = 3, 3, 4  # the traders are first; indices of the other two
INITIAL_LIMIT = 1.0  # the risk manager's initial preactivation: a limit of 0.88 of the way from the least to 1
FULL_LIMIT = 20.0  # a preactivation whose limit is 1


class TeamPolicy(Policy):
    """Five actors over the same observation, with hidden layers of their own and messages to one another.

    A message depends on the observation alone, so that one round of communication suffices; an action depends on the
    observation and the others' messages. The layers of all five are computed together.
    """

    num_actors, limiting_actor = len(ROLES), RISK_MANAGER

    def __init__(
        self, columns: int, *, hidden_size: int, message_size: int, min_position_limit: float, clip_sigma: float
    ) -> None:
        """Build untrained actors of `hidden_size` units a layer that send `message_size` numbers each.

        The risk manager scales the coordinator's action by at least `min_position_limit`: at 0, no reward could show
        what a position would have earned.
        """
        super().__init__()
        check_sizes("marl", hidden_size=hidden_size, message_size=message_size)
        if not 0 < min_position_limit <= 1:
            raise ValueError(f"marl: min_position_limit is {min_position_limit}; it must be above 0 and at most 1")
        self.min_position_limit, self.message_size = min_position_limit, message_size
        self.standardize = Standardize(columns, clip_sigma=clip_sigma)
        roles = len(ROLES)
        self.encoder, self.encoder_bias = make_weights(roles, columns, hidden_size), make_bias(roles, hidden_size)
        self.message, self.message_bias = make_weights(roles, hidden_size, message_size), make_bias(roles, message_size)
        self.hidden, self.hidden_bias = make_weights(roles, hidden_size, hidden_size), make_bias(roles, hidden_size)
        self.communication = make_weights(roles, roles * message_size, hidden_size)
        self.action, self.action_bias = make_weights(roles, hidden_size, 1), make_bias(roles, 1)
        self.register_buffer("others_mask", 1 - torch.eye(roles).repeat_interleave(message_size, dim=1)[..., None])
        with torch.no_grad():
            self.action.mul_(OUTPUT_SCALE)
            self.action_bias[RISK_MANAGER].fill_(INITIAL_LIMIT)

    others_mask: Tensor  # (roles, roles · message_size, 1); 0 for a role's own message

    def preactivate(self, observation: Tensor) -> Tensor:
        """Map (B, F) to (B, roles)."""
        encoded = self.encode(observation)
        return self.decide(encoded, self.send_messages(encoded))

    def encode(self, observation: Tensor) -> Tensor:
        """Map (B, F) to (roles, B, hidden_size)."""
        return torch.relu(self.standardize(observation) @ self.encoder + self.encoder_bias)

    def send_messages(self, encoded: Tensor) -> Tensor:
        """Map (roles, B, hidden_size) to the messages (B, roles · message_size)."""
        return torch.tanh(encoded @ self.message + self.message_bias).transpose(0, 1).flatten(1)

    def decide(self, encoded: Tensor, messages: Tensor) -> Tensor:
        """Map (roles, B, hidden_size) and (B, roles · message_size) to preactivations (B, roles)."""
        received = messages @ (self.communication * self.others_mask)
        hidden = torch.relu(encoded @ self.hidden + received + self.hidden_bias)
        return (hidden @ self.action + self.action_bias)[..., 0].transpose(0, 1)

    def list_layers(self, silenced: int | None = None) -> tuple[PolicyLayer, ...]:
        """Return encoder, messages, hidden layer and actions; a silenced role sends zeros, its action does not count.

        Without the risk manager the limit is 1; without the coordinator the traders' mean action is the target.
        """
        message, hidden, action = (_make_block_diagonal(each) for each in (self.message, self.hidden, self.action))
        action_bias, message_bias = self.action_bias.flatten(), self.message_bias.flatten()
        if silenced is not None:
            own = slice(silenced * self.message_size, (silenced + 1) * self.message_size)
            message, message_bias, action, action_bias = (
                each.clone() for each in (message, message_bias, action, action_bias)
            )
            message[own], message_bias[own], action[silenced], action_bias[silenced] = 0.0, 0.0, 0.0, 0.0
            if silenced == RISK_MANAGER:
                action_bias[silenced] = FULL_LIMIT
        communication = (self.communication * self.others_mask).transpose(1, 2).flatten(0, 1)
        layers = (
            PolicyLayer(self.encoder.transpose(1, 2).flatten(0, 1), self.encoder_bias.flatten(), RELU),
            PolicyLayer(message, message_bias, TANH, is_skip=True),
            PolicyLayer(torch.cat([hidden, communication], dim=1), self.hidden_bias.flatten(), RELU),
            PolicyLayer(action, action_bias, TANH),
        )
        return (*layers, _average_traders()) if silenced == COORDINATOR else layers


class TeamMember(nn.Module):
    """One actor of a team by itself: observation and messages in, its action and its message out."""

    def __init__(self, team: TeamPolicy, role: int) -> None:
        """Share the weights of the team."""
        super().__init__()
        self.team, self.role = team, role

    def forward(self, observation: Tensor, messages: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, F) and (B, roles · message_size) to (B, 1) and (B, message_size); its own message is ignored."""
        encoded = self.team.encode(observation)
        size, start = self.team.message_size, self.role * self.team.message_size
        action = torch.tanh(self.team.decide(encoded, messages)[:, self.role : self.role + 1])
        return action, self.team.send_messages(encoded)[:, start : start + size]


def make_weights(roles: int, inputs: int, outputs: int) -> nn.Parameter:
    """Return (roles, inputs, outputs) weights, initialized as those of a linear layer."""
    bound = 1 / math.sqrt(inputs)
    return nn.Parameter(torch.empty(roles, inputs, outputs).uniform_(-bound, bound))


def make_bias(roles: int, outputs: int) -> nn.Parameter:
    """Return (roles, 1, outputs) zeros."""
    return nn.Parameter(torch.zeros(roles, 1, outputs))


def _average_traders() -> PolicyLayer:
    """Return the layer that replaces the coordinator's action by the mean of the traders' actions."""
    mean = torch.eye(len(ROLES))
    mean[COORDINATOR] = torch.tensor([1.0] * NUM_TRADERS + [0.0, 0.0]) / NUM_TRADERS
    return PolicyLayer(mean, torch.zeros(len(ROLES)), LINEAR)


def _make_block_diagonal(weights: Tensor) -> Tensor:
    """Return (roles · out, roles · in), each role's (in, out) weights transposed and in a block of its own."""
    own = torch.eye(len(weights), device=weights.device)
    return torch.einsum("rio,rs->rosi", weights, own).flatten(2).flatten(0, 1)
