"""A team of five: who is in it, what each is paid for, how they talk, and who judges them.

Three traders propose, each paid beside the team's return for what its own proposal would have earned in the regime that
is its own; a risk manager limits; a coordinator decides within that limit.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.models.agents.engine.course import Rewards
from pipeline.models.agents.engine.market import Market, State, Step
from pipeline.models.agents.engine.networks import LINEAR, RELU, SMALL, TANH, Critic, Layer, Policy, expect_little
from pipeline.models.neural.checks import check_sizes
from pipeline.models.neural.standardise import Standardise
from pipeline.trading import follow, net_return

ROLES = ("trend_follower", "mean_reverter", "momentum_trader", "risk_manager", "coordinator")
TRADERS, RISK, COORDINATOR = 3, 3, 4  # how many stand first, and the places of the others
OPEN = 1.0  # the risk manager's action before it is squashed, as it begins
WIDE_OPEN = 20.0  # the same for a limit of 1


def paid(market: Market, *, shaping: float, caution: float, slow: int, fast: int, unit: float) -> Rewards:
    """What each role gets for a step: the team's reward R, and its own part.

    - trend follower: R + shaping · trend · p, p what its proposal would have earned net of the costs of coming from the
      position held, `trend` the efficiency ratio of the last `slow` bars: |sum of moves| / sum of |moves|
    - mean reverter: R + shaping · (1 - trend) · p
    - momentum trader: R + shaping · the efficiency ratio of the last `fast` bars · p
    - risk manager: R - caution · min(R, 0)² / unit
    - coordinator: R
    """
    trend, momentum = (efficiency(market, bars=bars) for bars in (slow, fast))
    regimes = np.stack([trend, 1 - trend, momentum], axis=1)  # (n, traders)

    def rewards(before: State, done: Step, actions: np.ndarray) -> np.ndarray:
        held, move = before.position[:, None], market.samples.move[before.row][:, None]
        proposed = follow(actions[:, :TRADERS].astype(np.float64), held, market.band)
        earned = net_return(proposed, held, move, **market.costs)  # (E, traders)
        each = np.repeat(done.reward[:, None], len(ROLES), axis=1)
        each[:, :TRADERS] += shaping * regimes[np.searchsorted(market.rows, before.row)] * earned
        each[:, RISK] -= caution * np.minimum(done.reward, 0.0) ** 2 / unit
        return each

    return rewards


def efficiency(market: Market, *, bars: int) -> np.ndarray:
    """(n,) |sum| over sum of |moves| of the last `bars` moves that are known at each of a market's rows, in [0, 1].

    Kaufman 1995. Of the first rows of a run as many as there are; 0 where none is known or nothing moved.
    """
    move, ratio = market.samples.move, np.zeros(len(market.rows))
    for first, last in market.runs:
        known = np.concatenate([[0.0], move[first:last]])  # at row i the move of the bar before is the last one known
        sums = np.stack([np.cumsum(known), np.cumsum(np.abs(known))])
        sums[:, bars:] -= sums[:, :-bars].copy()
        place = np.searchsorted(market.rows, first)
        net, path = np.abs(sums[0]), sums[1]
        ratio[place : place + len(known)] = np.divide(net, path, out=np.zeros_like(net), where=path > 1e-15)
    return ratio.clip(0.0, 1.0)


class Team(Policy):
    """Five actors that see the same, each with a hidden layer of its own, and hear what the four others say.

    What is said follows from what is seen alone, so that one round of talk is enough; an action follows from what is
    seen and heard. The layers of all five are computed together.
    """

    agents, limiter = len(ROLES), RISK

    def __init__(self, columns: int, *, hidden: int, message: int, floor: float, clip: float) -> None:
        """`hidden` are the units of each actor's layers, `message` the numbers that each says.

        The risk manager leaves the coordinator `floor` of its action at the least: one that shut it out would never
        see what could have been earned.
        """
        super().__init__()
        check_sizes("marl", hidden=hidden, message=message)
        if not 0 < floor <= 1:
            raise ValueError(f"marl: smallest_limit is {floor}; it must be above 0 and at most 1")
        self.floor = floor
        self.standardise, self.hidden, self.message = Standardise(columns, clip=clip), hidden, message
        roles, said = len(ROLES), len(ROLES) * message
        self.see, self.see_bias = weight(roles, columns, hidden), nn.Parameter(torch.zeros(roles, 1, hidden))
        self.say, self.say_bias = weight(roles, hidden, message), nn.Parameter(torch.zeros(roles, 1, message))
        self.think, self.think_bias = weight(roles, hidden, hidden), nn.Parameter(torch.zeros(roles, 1, hidden))
        self.hear = weight(roles, said, hidden)
        self.act, self.act_bias = weight(roles, hidden, 1), nn.Parameter(torch.zeros(roles, 1, 1))
        self.register_buffer("of_others", 1 - torch.eye(roles).repeat_interleave(message, dim=1)[..., None])
        with torch.no_grad():
            self.act.mul_(SMALL)
            self.act_bias[RISK].fill_(OPEN)

    of_others: Tensor  # (roles, roles · message, 1) 0 where a role would hear itself

    def raw(self, observation: Tensor) -> Tensor:
        """(B, F) -> (B, roles)."""
        seen = self._seen(observation)
        return self._decided(seen, self._said(seen))

    def _seen(self, observation: Tensor) -> Tensor:
        """(roles, B, hidden)."""
        return torch.relu(self.standardise(observation) @ self.see + self.see_bias)

    def _said(self, seen: Tensor) -> Tensor:
        """(B, roles · message)."""
        return torch.tanh(seen @ self.say + self.say_bias).transpose(0, 1).flatten(1)

    def _decided(self, seen: Tensor, said: Tensor) -> Tensor:
        """(B, roles)."""
        thought = torch.relu(seen @ self.think + said @ (self.hear * self.of_others) + self.think_bias)
        return (thought @ self.act + self.act_bias)[..., 0].transpose(0, 1)

    def layers(self, silent: int | None = None) -> tuple[Layer, ...]:
        """See, say, think, act. A role that is silent says nothing, and its action does not count.

        Without the risk manager the limit is 1, without the coordinator the mean of the proposals is what is wanted.
        """
        say, think, act = (_blocks(each) for each in (self.say, self.think, self.act))
        act_bias, said = self.act_bias.flatten(), self.say_bias.flatten()
        if silent is not None:
            place = slice(silent * self.message, (silent + 1) * self.message)
            say, said, act, act_bias = say.clone(), said.clone(), act.clone(), act_bias.clone()
            say[place], said[place], act[silent], act_bias[silent] = 0.0, 0.0, 0.0, 0.0
            if silent == RISK:
                act_bias[silent] = WIDE_OPEN
        hear = (self.hear * self.of_others).transpose(1, 2).flatten(0, 1)
        layers = [
            Layer(self.see.transpose(1, 2).flatten(0, 1), self.see_bias.flatten(), RELU),
            Layer(say, said, TANH, keeps=True),
            Layer(torch.cat([think, hear], dim=1), self.think_bias.flatten(), RELU),
            Layer(act, act_bias, TANH),
        ]
        if silent == COORDINATOR:
            mean = torch.eye(len(ROLES))
            mean[COORDINATOR] = torch.tensor([1.0] * TRADERS + [0.0, 0.0]) / TRADERS
            layers.append(Layer(mean, torch.zeros(len(ROLES)), LINEAR))
        return tuple(layers)


class Member(nn.Module):
    """One actor of a team by itself: what it sees and hears in, its action and what it says out."""

    def __init__(self, team: Team, role: int) -> None:
        """The weights are those of the team."""
        super().__init__()
        self.team, self.role = team, role

    def forward(self, observation: Tensor, messages: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F) and (B, roles · message), of which its own part is not heard -> (B, 1) and (B, message)."""
        seen = self.team._seen(observation)
        message, place = self.team.message, self.role * self.team.message
        action = torch.tanh(self.team._decided(seen, messages)[:, self.role : self.role + 1])
        return action, self.team._said(seen)[:, place : place + message]


class TeamCritic(Critic):
    """Judges each role by what all five do: its own action, the position they make, and, by attention, the others'.

    Iqbal & Sha 2019. A role's return depends on its own action through its own token alone; those of the others, which
    it attends to, know nothing of it.
    """

    def __init__(self, columns: int, *, hidden: int, heads: int, clip: float, atoms: int) -> None:
        """`heads` of the attention; `hidden` must be a multiple of them."""
        super().__init__()
        check_sizes("marl", hidden=hidden, heads=heads)
        if hidden % heads:
            raise ValueError(f"marl: hidden is {hidden}, heads {heads}; hidden must be a multiple of heads")
        self.standardise, self.heads, self.hidden = Standardise(columns, clip=clip), heads, hidden
        self.see = nn.Linear(columns, hidden)
        self.see_others = nn.Linear(columns, hidden)
        self.own, self.other = weight(len(ROLES), 2, hidden), weight(len(ROLES), 1, hidden)
        self.own_bias, self.other_bias = (nn.Parameter(torch.randn(len(ROLES), hidden) * SMALL) for _ in range(2))
        self.think = nn.Linear(hidden, hidden)
        self.query, self.key, self.value = (nn.Linear(hidden, hidden, bias=False) for _ in range(3))
        self.judge = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, atoms))
        expect_little(self.judge)
        self.register_buffer("itself", torch.eye(len(ROLES), dtype=torch.bool))

    itself: Tensor

    def forward(self, observation: Tensor, actions: Tensor, positions: Tensor, others: Tensor) -> Tensor:
        """(B, F) and (B, roles) each of actions, of positions, and of the actions as the others see them."""
        seen = self.standardise(observation)
        mine = torch.einsum("bri,rih->brh", torch.stack([actions, positions], dim=2), self.own)
        own = torch.relu(self.think(torch.relu(self.see(seen)[:, None] + mine + self.own_bias)))  # (B, roles, hidden)
        told = self.see_others(seen)[:, None] + others[..., None] * self.other[:, 0] + self.other_bias
        logits: Tensor = self.judge(torch.cat([own, self._attended(own, torch.relu(told))], dim=2))
        return logits

    def _attended(self, own: Tensor, told: Tensor) -> Tensor:
        """(B, roles, hidden) what each role takes from the others' tokens."""
        query, key, value = (
            layer(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, tokens in ((self.query, own), (self.key, told), (self.value, told))
        )  # (B, heads, roles, hidden / heads)
        scores = query @ key.transpose(2, 3) / math.sqrt(self.hidden / self.heads)
        weights = scores.masked_fill(self.itself, -math.inf).softmax(dim=3)
        taken: Tensor = (weights @ value).transpose(1, 2).flatten(2)
        return taken


def _blocks(weights: Tensor) -> Tensor:
    """(roles · out, roles · in), each role's (in, out) turned and in its own block."""
    own = torch.eye(len(weights), device=weights.device)
    return torch.einsum("rio,rs->rosi", weights, own).flatten(2).flatten(0, 1)


def weight(roles: int, inputs: int, outputs: int) -> nn.Parameter:
    """(roles, inputs, outputs), drawn as a linear layer's."""
    bound = 1 / math.sqrt(inputs)
    return nn.Parameter(torch.empty(roles, inputs, outputs).uniform_(-bound, bound))
