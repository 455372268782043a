"""Five cooperating actors with a central critic and messages (Lowe et al. 2017; Iqbal & Sha 2019)."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Interval
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from pipeline.models.agents.engine.agent import Agent
from pipeline.models.agents.engine.market_env import EnvStep, EpisodeState, MarketEnv
from pipeline.models.agents.engine.networks import (
    LINEAR,
    OUTPUT_SCALE,
    RELU,
    TANH,
    Critic,
    Policy,
    PolicyLayer,
    narrow_initial_distribution,
)
from pipeline.models.agents.engine.policy_evaluation import PolicyBacktest
from pipeline.models.agents.engine.training import RewardFunction
from pipeline.models.torch_runtime.onnx_export import export_onnx
from pipeline.models.torch_runtime.standardize import Standardize
from pipeline.trading import earn_alone

ROLES = ("trend_follower", "mean_reverter", "momentum_trader", "risk_manager", "coordinator")
NUM_TRADERS, RISK_MANAGER, COORDINATOR = 3, 3, 4  # the traders are first; indices of the other two
INITIAL_LIMIT = 1.0  # the risk manager's initial preactivation: a limit of 0.88 of the way from the least to 1
FULL_LIMIT = 20.0  # a preactivation whose limit is 1
LEAST_PATH = 1e-15  # sum of |moves| below which nothing has moved


@dataclass(kw_only=True, eq=False)
class MARL(Agent):
    """Trend follower, mean reverter, momentum trader, risk manager and coordinator; see `make_team_rewards`."""

    hidden_size: PositiveInt  # units of each layer, in every actor and in the critic
    num_heads: PositiveInt  # of the critic's attention
    message_size: PositiveInt  # numbers that each actor sends to the others
    min_position_limit: Annotated[
        float, Interval(gt=0, le=1)
    ]  # the least share of the coordinator's action that the risk manager must leave
    reward_shaping: NonNegativeFloat
    downside_penalty: NonNegativeFloat
    trend_window: PositiveInt
    momentum_window: PositiveInt

    @property
    def layer_units(self) -> int:
        """The units of a layer of all five actors, which are computed together."""
        return self.hidden_size * len(ROLES)

    def make_networks(self, columns: int) -> tuple[Policy, Critic]:
        """Return five actors, and a critic that attends to all of them."""
        critic = TeamCritic(
            columns,
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            clip_sigma=self.clip_sigma,
            n_atoms=self.learner_config.n_atoms,
        )
        team = TeamPolicy(
            columns,
            hidden_size=self.hidden_size,
            message_size=self.message_size,
            min_position_limit=self.min_position_limit,
            clip_sigma=self.clip_sigma,
        )
        return team, critic

    def make_reward_function(self, env: MarketEnv) -> RewardFunction:
        """Return the function of each role's reward."""
        config = TeamRewardConfig(
            reward_shaping=self.reward_shaping,
            downside_penalty=self.downside_penalty,
            trend_window=self.trend_window,
            momentum_window=self.momentum_window,
        )
        return make_team_rewards(env, config, move_std=self.move_std)

    def describe_backtest(self, backtest: PolicyBacktest) -> dict[str, Any]:
        """Return the metrics of every agent, and each role's contribution by ablation.

        A contribution compares the backtest with that of a team in which the role is ablated; see
        `TeamPolicy.list_layers`.
        """
        contributions = {role: self._ablate(place, backtest) for place, role in enumerate(ROLES)}
        return {**super().describe_backtest(backtest), "contributions": contributions}

    def _ablate(self, role: int, whole: PolicyBacktest) -> dict[str, float]:
        """Return how far a role changes the position on average, and the net return that it adds per bar."""
        without = self.run_backtest(whole.env, ablated=role)
        return {
            "position_change": float(np.abs(whole.result.position - without.result.position).mean()),
            "net_bps": float((whole.result.net - without.result.net).mean()) * 1e4,
        }

    def to_onnx(self, file: Path) -> None:
        """Write the team's graph to `file`, and beside it each actor's, <role>.onnx.

        An actor's graph maps "inputs", "messages" -> "action", "message".
        """
        super().to_onnx(file)
        assert isinstance(self.policy, TeamPolicy)
        inputs = {"inputs": (len(self.input_columns),), "messages": (len(ROLES) * self.message_size,)}
        for place, role in enumerate(ROLES):
            graph = export_onnx(TeamMember(self.policy, place), inputs=inputs, outputs=["action", "message"])
            file.with_name(f"{role}.onnx").write_bytes(graph)


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

    def preactivate_standardized(self, seen: Tensor) -> Tensor:
        """Map (B, F) to (B, roles)."""
        encoded = self.encode(seen)
        return self.decide(encoded, self.send_messages(encoded))

    def encode(self, seen: Tensor) -> Tensor:
        """Map standardized observations (B, F) to (roles, B, hidden_size)."""
        return torch.relu(seen @ self.encoder + self.encoder_bias)

    def send_messages(self, encoded: Tensor) -> Tensor:
        """Map (roles, B, hidden_size) to the messages (B, roles · message_size)."""
        return torch.tanh(encoded @ self.message + self.message_bias).transpose(0, 1).flatten(1)

    def decide(self, encoded: Tensor, messages: Tensor) -> Tensor:
        """Map (roles, B, hidden_size) and (B, roles · message_size) to preactivations (B, roles)."""
        received = messages @ (self.communication * self.others_mask)
        hidden = torch.relu(encoded @ self.hidden + received + self.hidden_bias)
        return (hidden @ self.action + self.action_bias)[..., 0].transpose(0, 1)

    def list_layers(self, ablated: int | None = None) -> tuple[PolicyLayer, ...]:
        """Return encoder, messages, hidden layer and actions; a ablated role sends zeros, its action does not count.

        Without the risk manager the limit is 1; without the coordinator the traders' mean action is the target.
        """
        message, hidden, action = (_make_block_diagonal(each) for each in (self.message, self.hidden, self.action))
        action_bias, message_bias = self.action_bias.flatten(), self.message_bias.flatten()
        if ablated is not None:
            own = slice(ablated * self.message_size, (ablated + 1) * self.message_size)
            message, message_bias, action, action_bias = (
                each.clone() for each in (message, message_bias, action, action_bias)
            )
            message[own], message_bias[own], action[ablated], action_bias[ablated] = 0.0, 0.0, 0.0, 0.0
            if ablated == RISK_MANAGER:
                action_bias[ablated] = FULL_LIMIT
        communication = (self.communication * self.others_mask).transpose(1, 2).flatten(0, 1)
        layers = (
            PolicyLayer(self.encoder.transpose(1, 2).flatten(0, 1), self.encoder_bias.flatten(), RELU),
            PolicyLayer(message, message_bias, TANH, is_skip=True),
            PolicyLayer(torch.cat([hidden, communication], dim=1), self.hidden_bias.flatten(), RELU),
            PolicyLayer(action, action_bias, TANH),
        )
        return (*layers, _average_traders()) if ablated == COORDINATOR else layers


class TeamMember(nn.Module):
    """One actor of a team by itself: observation and messages in, its action and its message out."""

    def __init__(self, team: TeamPolicy, role: int) -> None:
        """Share the weights of the team."""
        super().__init__()
        self.team, self.role = team, role

    def forward(self, observation: Tensor, messages: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, F) and (B, roles · message_size) to (B, 1) and (B, message_size); its own message is ignored."""
        encoded = self.team.encode(self.team.standardize(observation))
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


class TeamCritic(Critic):
    """Forecasts each role's return from its own action, the position, and, by attention, the others' actions.

    A role's own action enters through its own token alone. The others' tokens, to which it attends, do not depend on
    it. A position earns itself times the next move, so action and position are multiplied by what the observation says
    (feature-wise modulation, Perez et al. 2018): layers of sums learn a product slowly.
    """

    def __init__(self, columns: int, *, hidden_size: int, num_heads: int, clip_sigma: float, n_atoms: int) -> None:
        """Build an untrained critic with `num_heads` attention heads, which must divide `hidden_size`."""
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(
                f"hidden_size is {hidden_size}, num_heads {num_heads}; the first must be a multiple of the second"
            )
        self.standardize, self.num_heads = Standardize(columns, clip_sigma=clip_sigma), num_heads
        self.hidden_size = hidden_size
        self.encoder = nn.Linear(columns, hidden_size)
        self.others_encoder = nn.Linear(columns, hidden_size)
        self.modulation = nn.Linear(columns, hidden_size)
        self.own_action, self.others_action = (make_weights(len(ROLES), count, hidden_size) for count in (2, 1))
        self.own_bias, self.others_bias = (
            nn.Parameter(torch.randn(len(ROLES), hidden_size) * OUTPUT_SCALE) for _ in range(2)
        )
        self.hidden = nn.Linear(hidden_size, hidden_size)
        self.query, self.key, self.value = (nn.Linear(hidden_size, hidden_size, bias=False) for _ in range(3))
        self.head = nn.Sequential(nn.Linear(2 * hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, n_atoms))
        narrow_initial_distribution(self.head)
        self.register_buffer("self_mask", torch.eye(len(ROLES), dtype=torch.bool))

    self_mask: Tensor

    def evaluate_standardized(self, seen: Tensor, actions: Tensor, positions: Tensor, others: Tensor) -> Tensor:
        """Map (B, F) and (B, roles) each of actions, positions and others to (B, roles, atoms) logits."""
        action = torch.einsum("bri,rih->brh", torch.stack([actions, positions], dim=2), self.own_action)
        action = action * (1 + self.modulation(seen)[:, None])
        own = torch.relu(self.hidden(torch.relu(self.encoder(seen)[:, None] + action + self.own_bias)))
        tokens = self.others_encoder(seen)[:, None] + others[..., None] * self.others_action[:, 0] + self.others_bias
        logits: Tensor = self.head(torch.cat([own, self._attend(own, torch.relu(tokens))], dim=2))
        return logits

    def _attend(self, own: Tensor, others: Tensor) -> Tensor:
        """Map (B, roles, hidden_size) tokens to each role's attention over the others, (B, roles, hidden_size)."""
        query, key, value = (
            layer(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer, tokens in ((self.query, own), (self.key, others), (self.value, others))
        )  # (B, num_heads, roles, hidden_size / num_heads)
        logits = query @ key.transpose(2, 3) / math.sqrt(self.hidden_size / self.num_heads)
        weights = logits.masked_fill(self.self_mask, -math.inf).softmax(dim=3)
        attended: Tensor = (weights @ value).transpose(1, 2).flatten(2)
        return attended


@dataclass(frozen=True, kw_only=True)
class TeamRewardConfig:
    """The terms by which the roles' rewards differ from the market's."""

    reward_shaping: float  # weight of a trader's own net return
    downside_penalty: float  # of the risk manager: times the square of a loss, in standard deviations of a bar's return
    trend_window: int  # bars of the efficiency ratio of trend follower and mean reverter
    momentum_window: int  # bars of the momentum trader's


def make_team_rewards(env: MarketEnv, config: TeamRewardConfig, *, move_std: float) -> RewardFunction:
    """Return the function of each role's reward, R being the market's.

    - trend follower: R + reward_shaping · e · p, p the net return that its own action as target position would have
      earned from the position held, e the efficiency ratio of the last `trend_window` bars
    - mean reverter: R + reward_shaping · (1 - e) · p
    - momentum trader: R + reward_shaping · (the efficiency ratio of the last `momentum_window` bars) · p
    - risk manager: R - downside_penalty · min(R, 0)² / move_std
    - coordinator: R
    """
    windows = (config.trend_window, config.momentum_window)
    trend, momentum = (measure_efficiency(env, window=window) for window in windows)
    regimes = np.stack([trend, 1 - trend, momentum], axis=1)  # (n, traders)

    def reward_roles(before: EpisodeState, step: EnvStep, actions: np.ndarray) -> np.ndarray:
        proposed, arrays = actions[:, :NUM_TRADERS].astype(np.float64), env.fills.list_arrays()
        earned = earn_alone(proposed, before.position, arrays, before.row, env.terms)  # (E, traders)
        rewards = np.repeat(step.reward[:, None], len(ROLES), axis=1)
        rewards[:, :NUM_TRADERS] += config.reward_shaping * regimes[np.searchsorted(env.rows, before.row)] * earned
        rewards[:, RISK_MANAGER] -= config.downside_penalty * np.minimum(step.reward, 0.0) ** 2 / move_std
        return rewards

    return reward_roles


def measure_efficiency(env: MarketEnv, *, window: int) -> np.ndarray:
    """Return (n,) the efficiency ratio in [0, 1] at each of a market's rows: |sum of moves| / sum of |moves|.

    Kaufman 1995, over the last `window` moves known at the row: the latest is that from the latest known fill to the
    row's close. There are fewer at the start of a run; 0 where none is known or nothing moved.
    """
    move, mark, net, path = env.fills.move, env.fills.mark[env.rows], np.zeros(len(env.rows)), np.zeros(len(env.rows))
    for first, last in env.runs:
        rows = np.arange(first, last + 1)
        latest = rows - env.fills.lag[rows]  # the row of the latest known fill
        start, is_known = np.searchsorted(env.rows, first), latest >= first
        end = np.maximum(latest, first) - first
        begin = np.maximum(end - window + 1, 0)
        signed, total = (np.append(0.0, np.cumsum(each)) for each in (move[rows], np.abs(move[rows])))
        own = slice(start, start + len(rows))
        net[own] = np.where(is_known, np.abs(signed[end] - signed[begin] + mark[own]), 0.0)
        path[own] = np.where(is_known, total[end] - total[begin] + np.abs(mark[own]), 0.0)
    return np.divide(net, path, out=np.zeros_like(net), where=path > LEAST_PATH).clip(0.0, 1.0)
