"""D4PG (Barth-Maron et al. 2018): distributional critics, actors that climb them, and the slow targets of both.

Every actor makes E[Z] - risk_aversion · ES[Z] large, Z the return that its critic foresees: the expected shortfall
takes the probability of an extreme loss from the critic and what comes then from a tail fitted to losses that came
true. A team learns as one actor does: each member climbs its own critic, and what the others do counts as given (Lowe
et al. 2017), but for what they say, through which the gradient goes back to who says it.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.models.agents.engine import categorical
from pipeline.models.agents.engine.networks import Critic, Policy, follow
from pipeline.models.agents.engine.replay import Batch
from pipeline.models.base import in_parts
from pipeline.models.neural.checks import check_sizes
from pipeline.models.neural.device import one_thread
from pipeline.tails import Tail

SMALLEST = 1e-8  # of a probability under a logarithm
SATURATED = 1.5  # from here on tanh is above 0.9 and passes on less than a fifth of a gradient


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a learner learns: what params say of it."""

    atoms: int
    highest: float  # return that an atom stands for, in deviations of a bar's move; the lowest is its negative
    actor_rate: float
    critic_rate: float
    gradient_norm: float
    target_share: float  # of the way that the targets go after each update
    saturation: float  # what it costs an actor to be beyond where tanh still has a slope: none comes back by itself
    risk_aversion: float  # 0 is plain D4PG
    level: float  # of the expected shortfall

    def __post_init__(self) -> None:
        """Every number is one that a learner can go by."""
        check_sizes("agents", atoms=self.atoms)
        categorical.atoms(-self.highest, self.highest, self.atoms)
        for name, is_fine, wanted in (
            ("actor_rate", self.actor_rate > 0, "above 0"),
            ("critic_rate", self.critic_rate > 0, "above 0"),
            ("gradient_norm", self.gradient_norm > 0, "above 0"),
            ("target_share", 0 < self.target_share <= 1, "above 0 and at most 1"),
            ("saturation", self.saturation >= 0, "at least 0"),
            ("risk_aversion", self.risk_aversion >= 0, "at least 0"),
            ("level", 0 <= self.level < 1, "at least 0 and below 1"),
        ):
            if not is_fine:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {wanted}")

    @property
    def support(self) -> Tensor:
        """(atoms,) returns."""
        return categorical.atoms(-self.highest, self.highest, self.atoms)


class Learner:
    """A policy and its critic, learning from transitions; rewards are in deviations of a bar's move."""

    def __init__(self, policy: Policy, critic: Critic, *, plan: Plan, device: torch.device) -> None:
        """Both nets are moved to `device`, and learn there."""
        self.policy, self.critic, self.plan, self.device = policy.to(device), critic.to(device), plan, device
        self.support = plan.support.to(device)
        self.slow_policy, self.slow_critic = deepcopy(self.policy), deepcopy(self.critic)
        self.policy_steps = torch.optim.Adam(self.policy.parameters(), lr=plan.actor_rate, fused=True)
        self.critic_steps = torch.optim.Adam(self.critic.parameters(), lr=plan.critic_rate, fused=True)

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """(B, agents) float32 actions for (B, F) observations."""
        raw = self.policy.raw(torch.from_numpy(observation).to(self.device))
        return np.asarray(torch.tanh(raw).cpu().numpy())

    @torch.no_grad()
    def joint(self, actions: np.ndarray) -> np.ndarray:
        """(B,) the positions that (B, agents) actions make."""
        return np.asarray(self.policy.joint(torch.from_numpy(actions).to(self.device))[:, 0].cpu().numpy())

    def learn(self, batch: Batch, *, tail: Tail | None) -> tuple[np.ndarray, dict[str, float]]:
        """One update of both nets and their targets.

        A batch has the fields observation (B, F), actions and reward (B, agents), discount (B,) and next_observation
        (B, F). Without a `tail` the shortfall is that of the critic's own atoms. Returns the (B,) errors, by which the
        transitions are drawn again, and what there is to tell.
        """
        fields = {name: self._tensor(each) for name, each in batch.fields.items()}
        target = self._target(fields)
        actions = fields["actions"]
        logits = self._judged(self.critic, fields["observation"], actions).log_softmax(dim=2)
        entropy = -(target * target.clamp(min=SMALLEST).log()).sum(dim=2)
        errors = (-(target * logits).sum(dim=2) - entropy).mean(dim=1)  # (B,) Kullback-Leibler: 0 where nothing is left
        loss = (self._tensor(batch.weights) * errors).mean()
        self._step(self.critic_steps, self.critic, loss)
        told = {"critic_loss": loss.item(), **self._climb(fields["observation"], tail)}
        follow(self.slow_policy, self.policy, share=self.plan.target_share)
        follow(self.slow_critic, self.critic, share=self.plan.target_share)
        return errors.detach().cpu().numpy(), told

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(self.device)

    @torch.no_grad()
    def _target(self, fields: Mapping[str, Tensor]) -> Tensor:
        """(B, agents, atoms) what the slow nets say that the returns are, given what came true."""
        after = fields["next_observation"]
        actions = torch.tanh(self.slow_policy.raw(after))
        follows = self._judged(self.slow_critic, after, actions).softmax(dim=2)
        shifted = fields["reward"][..., None] + fields["discount"][:, None, None] * self.support
        flat = categorical.projected(follows.flatten(0, 1), shifted.flatten(0, 1), self.support)
        return flat.view_as(follows)

    def _climb(self, observation: Tensor, tail: Tail | None) -> dict[str, float]:
        """The actors' update."""
        raw = self.policy.raw(observation)
        beyond = ((raw.abs() - SATURATED).relu() ** 2).mean(dim=0).sum()
        foreseen = self._judged(self.critic, observation, torch.tanh(raw)).softmax(dim=2)  # (B, agents, atoms)
        value = categorical.mean(foreseen.flatten(0, 1), self.support)
        told, worth = {"value": value.mean().item()}, value.mean()
        if self.plan.risk_aversion:
            shortfall = self._shortfall(foreseen, tail).mean()
            told, worth = {**told, "shortfall": shortfall.item()}, worth - self.plan.risk_aversion * shortfall
        self._step(self.policy_steps, self.policy, self.plan.saturation * beyond - self.policy.agents * worth)
        return told

    def _shortfall(self, foreseen: Tensor, tail: Tail | None) -> Tensor:
        """(B, agents) of (B, agents, atoms) distributions; the tail is of the market's reward, the last one's pay."""
        level, flat = self.plan.level, foreseen.flatten(0, 1)
        shortfall = categorical.shortfall(flat, self.support, level=level).view(foreseen.shape[:2])
        if tail is None:
            return shortfall
        last = categorical.extreme_shortfall(foreseen[:, -1], self.support, tail, level=level)
        return torch.cat([shortfall[:, :-1], last[:, None]], dim=1)

    def _judged(self, critic: Critic, observation: Tensor, actions: Tensor) -> Tensor:
        """(B, agents, atoms) logits; what a critic says of an actor has a gradient to the action of that one alone."""
        given = actions.detach()
        own = torch.eye(self.policy.agents, device=self.device)[:, None]  # (agents, 1, agents)
        views = (actions * own + given * (1 - own)).flatten(0, 1)  # (agents · B, agents)
        positions = self.policy.joint(views).view(self.policy.agents, -1).T  # (B, agents)
        logits: Tensor = critic(observation, actions, positions, given)
        return logits

    def _step(self, steps: torch.optim.Optimizer, net: nn.Module, loss: Tensor) -> None:
        """One step of one net down its loss; ValueError where the loss is no number."""
        if not torch.isfinite(loss):
            raise ValueError(f"the loss of the {type(net).__name__.lower()} is {loss.item()}; lower its rate")
        steps.zero_grad(set_to_none=True)
        torch.autograd.backward(loss, inputs=list(net.parameters()))
        nn.utils.clip_grad_norm_(net.parameters(), self.plan.gradient_norm)
        steps.step()

    def state(self) -> dict[str, Any]:
        """All of it, for `torch.load(weights_only=True)`."""
        return {name: deepcopy(part.state_dict()) for name, part in self._parts().items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """This stands where it stood when `state` was taken."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        names = ("policy", "critic", "slow_policy", "slow_critic", "policy_steps", "critic_steps")
        return {name: getattr(self, name) for name in names}


@torch.no_grad()
def feared(policy: Policy, critic: Critic, observation: np.ndarray, *, plan: Plan, tail: Tail | None) -> np.ndarray:
    """(B,) value at risk of the return that the last actor's critic foresees, in deviations of a bar's move."""
    device = next(policy.parameters()).device
    support, found = plan.support.to(device), [np.empty(0, np.float32)]
    with one_thread(device):
        for part in in_parts(observation):
            seen = torch.from_numpy(part).to(device)
            actions = torch.tanh(policy.raw(seen))
            positions = policy.joint(actions).expand(-1, policy.agents)
            foreseen = critic(seen, actions, positions, actions)[:, -1].softmax(dim=1)
            found.append(categorical.value_at_risk(foreseen, support, tail, level=plan.level).cpu().numpy())
    return np.concatenate(found)
