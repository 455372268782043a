"""The training loop: environments step, transitions enter the replay buffer, and each step is followed by an update."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from pipeline.models.agents.engine.hyperparameters import EvtConfig, TrainingConfig
from pipeline.models.agents.engine.learner import Learner
from pipeline.models.agents.engine.loss_tail import LossTail
from pipeline.models.agents.engine.market_env import POSITION_COLUMNS, EnvStep, EpisodeState, MarketEnv
from pipeline.models.agents.engine.nstep import NStepAccumulator
from pipeline.models.agents.engine.replay import PrioritizedReplayBuffer
from pipeline.models.live_metrics import LiveMetrics
from pipeline.models.torch_runtime.checkpoint import Checkpoint
from pipeline.models.torch_runtime.standardize import measure_statistics

UNREALIZED_STD = 5.0  # by which the unrealized return is standardized, in standard deviations of a bar's return
LOG_BARS_STD = 2.0  # the same for ln(1 + bars since entry)
RewardFunction = Callable[[EpisodeState, EnvStep, np.ndarray], np.ndarray]  # before, step, (E, actors) -> (E, actors)
History = list[dict[str, float]]


def measure_observations(
    x: np.ndarray, rows: np.ndarray, *, move_std: float, unscaled: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation, (F + 3,) float64, of observations at `rows` of the columns (N, F).

    The position columns get fixed scales, since their distribution depends on the policy. Columns at the places
    `unscaled` stay as they are.
    """
    mean, deviation = measure_statistics(x, rows, unscaled=unscaled)
    account = np.array([1.0, UNREALIZED_STD * move_std, LOG_BARS_STD])
    return np.concatenate([mean, np.zeros(len(POSITION_COLUMNS))]), np.concatenate([deviation, account])


class TrainingLoop:
    """One training, step by step; later steps depend on `state_dict` alone."""

    def __init__(
        self,
        learner: Learner,
        env: MarketEnv,
        config: TrainingConfig,
        *,
        evt: EvtConfig,
        reward_function: RewardFunction,
        move_std: float,
        seed: int,
    ) -> None:
        """Start the episodes; `move_std` is the standard deviation of a bar's return, the unit of rewards."""
        self.learner, self.env, self.config = learner, env, config
        self.reward_function, self.move_std = reward_function, move_std
        self.rng = np.random.default_rng(seed)
        self.replay = PrioritizedReplayBuffer(
            config.buffer_size, alpha=config.per_alpha, beta=config.per_beta, epsilon=config.per_epsilon
        )
        self.nstep = NStepAccumulator(config.n_step, gamma=config.gamma, num_envs=config.num_envs)
        self.losses = LossTail(evt, gamma=config.gamma, num_envs=config.num_envs)
        self.episodes = env.sample_episodes(config.num_envs, rng=self.rng)
        self.step = self.updates = self.averaged_updates = 0
        self.average: list[torch.Tensor] = []  # of the policy's weights over `averaged_updates` updates
        self.metrics: dict[str, list[float]] = defaultdict(list)  # since the last evaluation

    def advance(self) -> None:
        """Step all environments by one bar, and update the networks once when enough transitions are held."""
        self._step_environments()
        self.step += 1
        if len(self.replay) < self.config.learning_starts:
            return
        if self.updates % self.losses.config.refit_interval == 0:
            self.losses.refit()
        batch = self.replay.sample(self.config.batch_size, rng=self.rng)
        with_actors = self.step > self.config.critic_warmup_pct * self.config.steps
        errors, metrics = self.learner.update(batch, tail=self.losses.tail, with_actors=with_actors)
        self.replay.update_priorities(batch.indices, errors)
        self.updates += 1
        if self.step > (1 - self.config.average_pct) * self.config.steps:
            self._average_policy()
        for name, value in metrics.items():
            self.metrics[name].append(value)

    @torch.no_grad()
    def _average_policy(self) -> None:
        """Add the policy's weights to their mean."""
        self.averaged_updates += 1
        self.average = self.average or [torch.zeros_like(each) for each in self.learner.weights["policy"]]
        torch._foreach_lerp_(self.average, self.learner.weights["policy"], 1 / self.averaged_updates)

    @torch.no_grad()
    def use_average(self) -> None:
        """Set the policy's weights to their mean, where there is one; nothing is learned afterwards."""
        for weight, mean in zip(self.learner.weights["policy"], self.average, strict=False):
            weight.copy_(mean)

    @property
    def exploration_noise(self) -> float:
        """The standard deviation of the noise at the coming step, by linear interpolation."""
        return float(np.interp(self.step, [0, max(self.config.steps - 1, 1)], self.config.exploration_noise))

    def _step_environments(self) -> None:
        """Act with noise, store the completed transitions, and restart finished episodes at random rows."""
        before, seen = self.episodes, self.env.observe(self.episodes)
        wanted = self.learner.act(seen)
        noise = self.exploration_noise * self.rng.standard_normal(wanted.shape)
        actions = np.clip(wanted + noise, -1, 1).astype(np.float32)
        step = self.env.step(before, self.learner.combine_actions(actions))
        ends = {"terminated": step.terminated, "truncated": step.truncated}
        transitions = self.nstep.add(
            {"observation": seen, "actions": actions},
            self.reward_function(before, step, actions) / self.move_std,
            {"observation": self.env.observe(step.state)},
            **ends,
        )
        self.replay.add(**{name: each.astype(np.float32) for name, each in transitions.items()})
        self.losses.add(step.reward / self.move_std, **ends)
        is_over = step.terminated | step.truncated
        self.metrics["episode_return"] += (step.state.equity[is_over] - 1).tolist()
        self.episodes = step.state.replace_where(is_over, self.env.sample_episodes(len(seen), rng=self.rng))

    def is_evaluation_due(self, *, evaluations: int) -> bool:
        """Return whether the interval after the first `evaluations` evaluations has ended."""
        return self.step == self.config.steps or self.config.find_interval(self.step) > evaluations + 1

    def summarize_interval(self) -> dict[str, float]:
        """Return the means since the last evaluation's metrics, and start the next round."""
        entry = {name: float(np.mean(values)) for name, values in self.metrics.items() if values}
        if values := self.metrics["value"]:
            entry["value_std"] = float(np.std(values))
        self.metrics = defaultdict(list)
        return {**entry, "exploration_noise": self.exploration_noise}

    def take_snapshot(self) -> dict[str, Any]:
        """Return the present networks, the tail, and its description."""
        policy, critic = (deepcopy(net.state_dict()) for net in (self.learner.policy, self.learner.critic))
        tail = asdict(self.losses.tail) if self.losses.tail else None
        return {"policy": policy, "critic": critic, "tail": tail, "report": self.losses.describe()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later steps depend on, for `torch.load(weights_only=True)`."""
        parts = {
            "replay": self.replay.state_dict(),
            "nstep": self.nstep.state_dict(),
            "losses": self.losses.state_dict(),
            "episodes": asdict(self.episodes),
            "random": json.dumps(self.rng.bit_generator.state),
            "step": self.step,
            "updates": self.updates,
            "averaged_updates": self.averaged_updates,
            "metrics": dict(self.metrics),
        }
        average = [each.clone() for each in self.average]
        return {"learner": self.learner.state_dict(), "average": average, **convert_to_tensors(parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.learner.load_state_dict(state["learner"])
        self.average = [each.to(self.learner.device) for each in state["average"]]
        parts = convert_to_arrays({name: part for name, part in state.items() if name not in ("learner", "average")})
        for name in ("replay", "nstep", "losses"):
            getattr(self, name).load_state_dict(parts[name])
        self.episodes = EpisodeState(**parts["episodes"])
        self.rng.bit_generator.state = json.loads(parts["random"])
        for name in ("step", "updates", "averaged_updates"):
            setattr(self, name, parts[name])
        self.metrics = defaultdict(list, parts["metrics"])


@dataclass
class TrainingRecord:
    """The history of a training so far, and the snapshot at its best evaluation."""

    history: History = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)


def run_training(
    loop: TrainingLoop,
    evaluate: Callable[[], dict[str, float]],
    *,
    live_metrics: LiveMetrics | None,
    checkpoint: Checkpoint | None,
) -> TrainingRecord:
    """Run the loop to its last step, from its checkpoint on where there is one; evaluate after each interval."""
    record = TrainingRecord()
    if found := checkpoint.read() if checkpoint else None:
        loop.load_state_dict(found["training"])
        record = TrainingRecord(found["history"], found["best"])
    while loop.step < loop.config.steps:
        loop.advance()
        if loop.is_evaluation_due(evaluations=len(record.history)):
            _close_interval(loop, evaluate, record)
            if live_metrics:
                live_metrics.append_new(record.history)
        if checkpoint and checkpoint.is_due():
            _write_checkpoint(checkpoint, loop, record)
    if checkpoint:
        _write_checkpoint(checkpoint, loop, record)
    if live_metrics:
        live_metrics.append_new(record.history)
    return record


def _close_interval(loop: TrainingLoop, evaluate: Callable[[], dict[str, float]], record: TrainingRecord) -> None:
    """Add an evaluation's entry to the history; snapshot the networks where it is the best so far.

    The last evaluation is of the mean policy, if the training has one.
    """
    if loop.step == loop.config.steps:
        loop.use_average()
    entry = {"iteration": len(record.history) + 1, **evaluate(), **loop.summarize_interval()}
    if loop.config.stopping.find_best_entry([*record.history, entry]) is entry:
        record.best = loop.take_snapshot()
    record.history.append(entry)


def _write_checkpoint(checkpoint: Checkpoint, loop: TrainingLoop, record: TrainingRecord) -> None:
    checkpoint.write({"training": loop.state_dict(), "history": record.history, "best": record.best})


def convert_to_tensors(state: Any) -> Any:
    """Return nested dicts with tensors for arrays, as `torch.load(weights_only=True)` reads them."""
    if isinstance(state, np.ndarray):
        return torch.from_numpy(state)
    return {name: convert_to_tensors(part) for name, part in state.items()} if isinstance(state, dict) else state


def convert_to_arrays(state: Any) -> Any:
    """Return nested dicts with arrays for tensors."""
    if isinstance(state, torch.Tensor):
        return state.numpy()
    return {name: convert_to_arrays(part) for name, part in state.items()} if isinstance(state, dict) else state
