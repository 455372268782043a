"""D4PG (Barth-Maron et al. 2018): distributional critics, deterministic actors, and the target networks of both.

Every actor maximizes E[Z] - λ · ES[Z], Z its critic's return distribution and λ the risk aversion. The expected
shortfall takes the probability of an extreme loss from the critic, and the distribution beyond from a tail fitted to
realized losses. Several actors learn as one does: each follows the gradient of its own critic, with the actions of the
others given (Lowe et al. 2017). Only through messages does a gradient flow back to the actor that sends them.
"""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.models.agents.engine import categorical
from pipeline.models.agents.engine.hyperparameters import LearnerConfig
from pipeline.models.agents.engine.networks import Critic, Policy, polyak_update
from pipeline.models.agents.engine.replay import ReplayBatch
from pipeline.models.base import split_into_batches
from pipeline.models.torch_runtime.device import use_one_thread
from pipeline.models.torch_runtime.optimizers import Adam
from pipeline.tail_risk import GpdTail

LEAST_PROBABILITY = 1e-8  # under a logarithm
SATURATION_START = 1.5  # |preactivation| from which tanh is above 0.9 and passes less than a fifth of a gradient
NETWORKS = ("policy", "critic", "target_policy", "target_critic")
OPTIMIZERS = ("actor_optimizer", "critic_optimizer")


class Learner:
    """A policy and its critic, updated from transitions; rewards are in standard deviations of a bar's return."""

    def __init__(self, policy: Policy, critic: Critic, *, config: LearnerConfig, device: torch.device) -> None:
        """Move both networks to `device`; the target networks start as their copies."""
        self.policy, self.critic, self.config, self.device = policy.to(device), critic.to(device), config, device
        self.support = config.support.to(device)
        self._own = torch.eye(policy.num_actors, device=device)[:, None]  # (actors, 1, actors)
        self._others = 1 - self._own
        self.target_policy, self.target_critic = deepcopy(self.policy), deepcopy(self.critic)
        self.weights: dict[str, list[Tensor]] = {  # listing them takes time
            name: list(getattr(self, name).parameters()) for name in NETWORKS
        }
        self.actor_optimizer = Adam(self.weights["policy"], lr=config.actor_lr, fused=True)
        self.critic_optimizer = Adam(self.weights["critic"], lr=config.critic_lr, fused=True)

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """Return the actions (B, actors), float32, for observations (B, F)."""
        raw = self.policy.preactivate(torch.from_numpy(observation).to(self.device))
        return np.asarray(torch.tanh(raw).cpu().numpy())

    @torch.no_grad()
    def combine_actions(self, actions: np.ndarray) -> np.ndarray:
        """Return the positions (B,) that actions (B, actors) form."""
        return np.asarray(self.policy.combine_actions(torch.from_numpy(actions).to(self.device))[:, 0].cpu().numpy())

    def update(
        self, batch: ReplayBatch, *, tail: GpdTail | None, with_actors: bool = True
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Update the critic, the policy too `with_actors`, and their targets once; return (B,) errors and the metrics.

        A batch has the fields observation (B, F), actions and reward (B, actors), discount (B,) and next_observation
        (B, F). Without a `tail` the expected shortfall is that of the critic's own atoms.
        """
        fields = {name: self._to_tensor(each) for name, each in batch.fields.items()}
        seen, after = (self.policy.standardize(fields[name]) for name in ("observation", "next_observation"))
        target = self._project_targets(fields, after)
        logits = self._evaluate_critic(self.critic, seen, fields["actions"]).log_softmax(dim=2)
        entropy = -(target * target.clamp(min=LEAST_PROBABILITY).log()).sum(dim=2)  # of the target, per actor
        errors = (-(target * logits).sum(dim=2) - entropy).mean(dim=1)  # (B,) Kullback-Leibler divergence
        loss = (self._to_tensor(batch.weights) * errors).mean()
        metrics = {"critic_loss": self._take_step(self.critic_optimizer, "critic", loss)}
        if with_actors:
            metrics |= self._update_actors(seen, tail)
        for name in ("policy", "critic"):
            polyak_update(self.weights[f"target_{name}"], self.weights[name], tau=self.config.tau)
        return errors.detach().cpu().numpy(), metrics

    def _to_tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(self.device)

    @torch.no_grad()
    def _project_targets(self, fields: Mapping[str, Tensor], after: Tensor) -> Tensor:
        """Return (B, actors, atoms), the target networks' n-step return distributions on the support.

        `after` are the standardized next observations (B, F).
        """
        actions = torch.tanh(self.target_policy.preactivate_standardized(after))
        follows = self._evaluate_critic(self.target_critic, after, actions).softmax(dim=2)
        shifted = fields["reward"][..., None] + fields["discount"][:, None, None] * self.support
        flat = categorical.project_onto_support(follows.flatten(0, 1), shifted.flatten(0, 1), self.support)
        return flat.view_as(follows)

    def _update_actors(self, seen: Tensor, tail: GpdTail | None) -> dict[str, float]:
        """Update the policy once by standardized observations (B, F); return its metrics."""
        raw = self.policy.preactivate_standardized(seen)
        excess = ((raw.abs() - SATURATION_START).relu() ** 2).mean(dim=0).sum()
        forecast = self._evaluate_critic(self.critic, seen, torch.tanh(raw)).softmax(dim=2)  # (B, actors, atoms)
        value = categorical.average_returns(forecast.flatten(0, 1), self.support)
        metrics, objective = {"value": value.mean().item()}, value.mean()
        if self.config.risk_aversion:
            shortfall = self._estimate_shortfall(forecast, tail).mean()
            metrics |= {"expected_shortfall": shortfall.item()}
            objective = objective - self.config.risk_aversion * shortfall
        loss = self.config.saturation_penalty * excess - self.policy.num_actors * objective
        self._take_step(self.actor_optimizer, "policy", loss)
        return metrics

    def _estimate_shortfall(self, forecast: Tensor, tail: GpdTail | None) -> Tensor:
        """Return (B, actors) of (B, actors, atoms) distributions.

        The tail applies to the last actor alone, whose reward is the market's: it is fitted to such rewards.
        """
        level = self.config.var_level
        by_atoms = forecast if tail is None else forecast[:, :-1]
        shortfalls = []
        if by_atoms.shape[1]:
            flat = categorical.estimate_shortfall(by_atoms.flatten(0, 1), self.support, level=level)
            shortfalls.append(flat.view(by_atoms.shape[:2]))
        if tail is not None:
            last = categorical.estimate_evt_shortfall(forecast[:, -1], self.support, tail, level=level)
            shortfalls.append(last[:, None])
        return torch.cat(shortfalls, dim=1)

    def _evaluate_critic(self, critic: Critic, seen: Tensor, actions: Tensor) -> Tensor:
        """Return (B, actors, atoms) logits; an actor's logits have a gradient to that actor's own action alone.

        `seen` are standardized observations (B, F).
        """
        given, views = actions.detach(), actions
        if self.policy.num_actors > 1:
            views = (actions * self._own + given * self._others).flatten(0, 1)  # (actors · B, actors)
        positions = self.policy.combine_actions(views).view(self.policy.num_actors, -1).T  # (B, actors)
        return critic.evaluate_standardized(seen, actions, positions, given)

    def _take_step(self, optimizer: torch.optim.Optimizer, network: Literal["policy", "critic"], loss: Tensor) -> float:
        """Take one gradient step of one network and return its loss; raise ValueError where that is not finite."""
        value = loss.item()
        if not math.isfinite(value):
            rate = "actor_lr" if network == "policy" else "critic_lr"
            raise ValueError(f"the loss of the {type(getattr(self, network)).__name__} is {value}; lower {rate}")
        for weight in self.weights[network]:  # the optimizer's own method takes ten times as long
            weight.grad = None
        torch.autograd.backward(loss, inputs=self.weights[network])
        nn.utils.clip_grad_norm_(self.weights[network], self.config.max_grad_norm)
        optimizer.step()
        return value

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later results depend on, for `torch.load(weights_only=True)`."""
        return {name: deepcopy(getattr(self, name).state_dict()) for name in (*NETWORKS, *OPTIMIZERS)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in (*NETWORKS, *OPTIMIZERS):
            getattr(self, name).load_state_dict(state[name])


@torch.no_grad()
def forecast_var(
    policy: Policy, critic: Critic, observation: np.ndarray, *, config: LearnerConfig, tail: GpdTail | None
) -> np.ndarray:
    """Return the value at risk (B,) of the last actor's return, in standard deviations of a bar's return."""
    device = next(policy.parameters()).device
    support, found = config.support.to(device), [np.empty(0, np.float32)]
    with use_one_thread(device):
        for part in split_into_batches(observation):
            seen = torch.from_numpy(part).to(device)
            actions = torch.tanh(policy.preactivate(seen))
            positions = policy.combine_actions(actions).expand(-1, policy.num_actors)
            forecast = critic(seen, actions, positions, actions)[:, -1].softmax(dim=1)
            found.append(categorical.estimate_var(forecast, support, tail, level=config.var_level).cpu().numpy())
    return np.concatenate(found)
