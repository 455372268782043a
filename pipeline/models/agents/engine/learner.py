"""D4PG (Barth-Maron et al. 2018): a distributional critic, an actor that climbs it, and both their slow targets.

The actor makes E[Z] - risk_aversion · ES[Z] large, Z the return that the critic foresees: its expected shortfall takes
the probability of an extreme loss from the critic and what comes then from a tail fitted to losses that came true.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.models.agents.engine import categorical
from pipeline.models.agents.engine.networks import Actor, Critic, follow
from pipeline.models.agents.engine.replay import Batch
from pipeline.tails import Tail

SMALLEST = 1e-8  # of a probability under a logarithm
SATURATED = 1.5  # from here on tanh is above 0.9 and passes on less than a fifth of a gradient


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a learner learns: what params say of it."""

    hidden: list[int]
    clip: float  # of standardised columns, in deviations
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


class Learner:
    """An actor and a critic, learning from transitions; rewards are in deviations of a bar's move."""

    def __init__(self, mean: np.ndarray, deviation: np.ndarray, *, plan: Plan) -> None:
        """Observations are standardised by these (F,) statistics; weights come from torch's global generator."""
        self.plan = plan
        columns, self.support = len(mean), categorical.atoms(-plan.highest, plan.highest, plan.atoms)
        self.actor = Actor(columns, hidden=plan.hidden, clip=plan.clip)
        self.critic = Critic(columns, hidden=plan.hidden, clip=plan.clip, atoms=plan.atoms)
        for net in (self.actor, self.critic):
            net.standardise.learn(mean, deviation)
        self.slow_actor, self.slow_critic = deepcopy(self.actor), deepcopy(self.critic)
        self.actor_steps = torch.optim.Adam(self.actor.parameters(), lr=plan.actor_rate)
        self.critic_steps = torch.optim.Adam(self.critic.parameters(), lr=plan.critic_rate)

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """(B,) float32 positions for (B, F) observations."""
        return np.asarray(self.actor(torch.from_numpy(observation))[:, 0].numpy())

    def learn(self, batch: Batch, *, tail: Tail | None) -> tuple[np.ndarray, dict[str, float]]:
        """One update of both nets and their targets.

        A batch has the fields observation (B, F), position (B,), reward (B,), discount (B,), next_observation (B, F).
        Without a `tail` the shortfall is that of the critic's own atoms. Returns the (B,) errors, by which the
        transitions are drawn again, and what there is to tell.
        """
        fields = {name: torch.from_numpy(np.asarray(each, dtype=np.float32)) for name, each in batch.fields.items()}
        target = self._target(fields)
        logits = self.critic(fields["observation"], fields["position"][:, None]).log_softmax(dim=1)
        entropy = -(target * target.clamp(min=SMALLEST).log()).sum(dim=1)
        errors = -(target * logits).sum(dim=1) - entropy  # (B,) Kullback-Leibler: 0 where nothing is left to learn
        loss = (torch.from_numpy(batch.weights) * errors).mean()
        self._step(self.critic_steps, self.critic, loss)
        told = {"critic_loss": loss.item(), **self._climb(fields["observation"], tail)}
        follow(self.slow_actor, self.actor, share=self.plan.target_share)
        follow(self.slow_critic, self.critic, share=self.plan.target_share)
        return errors.detach().numpy(), told

    @torch.no_grad()
    def _target(self, fields: Mapping[str, Tensor]) -> Tensor:
        """(B, atoms) what the slow nets say that the return is, given what came true."""
        after = fields["next_observation"]
        follows = self.slow_critic(after, self.slow_actor(after)).softmax(dim=1)
        shifted = fields["reward"][:, None] + fields["discount"][:, None] * self.support
        return categorical.projected(follows, shifted, self.support)

    def _climb(self, observation: Tensor, tail: Tail | None) -> dict[str, float]:
        """The actor's update."""
        raw = self.actor.raw(observation)
        beyond = ((raw.abs() - SATURATED).relu() ** 2).mean()
        foreseen = self.critic(observation, torch.tanh(raw)).softmax(dim=1)
        value = categorical.mean(foreseen, self.support).mean()
        if tail is None:
            shortfall = categorical.shortfall(foreseen, self.support, level=self.plan.level).mean()
        else:
            shortfall = categorical.extreme_shortfall(foreseen, self.support, tail, level=self.plan.level).mean()
        loss = self.plan.risk_aversion * shortfall + self.plan.saturation * beyond - value
        self._step(self.actor_steps, self.actor, loss)
        return {"value": value.item(), "shortfall": shortfall.item()}

    def _step(self, steps: torch.optim.Optimizer, net: nn.Module, loss: Tensor) -> None:
        """One step of one net down its loss; ValueError where the loss is no number."""
        if not torch.isfinite(loss):
            raise ValueError(f"the loss of the {type(net).__name__.lower()} is {loss.item()}; lower its rate")
        steps.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(net.parameters(), self.plan.gradient_norm)
        steps.step()

    def state(self) -> dict[str, Any]:
        """All of it, for `torch.load(weights_only=True)`."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """This stands where it stood when `state` was taken."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        names = ("actor", "critic", "slow_actor", "slow_critic", "actor_steps", "critic_steps")
        return {name: getattr(self, name) for name in names}
