"""How an agent learns: many episodes step at once, their transitions are remembered, and each step brings an update."""

import json
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from pipeline.models.agents.engine.extremes import Losses, Peaks
from pipeline.models.agents.engine.learner import Learner
from pipeline.models.agents.engine.market import OWN, Market, State, Step
from pipeline.models.agents.engine.nstep import NStep
from pipeline.models.agents.engine.replay import Replay
from pipeline.models.neural.checks import check_sizes
from pipeline.models.neural.standardise import statistics

UNREALISED, SINCE = 5.0, 2.0  # deviations of these parts of an observation: in moves of a bar, and of ln(1 + bars)
Rewards = Callable[[State, Step, np.ndarray], np.ndarray]  # before, after, (E, agents) actions -> (E, agents)


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long, and by what, an agent is trained: what params say of it."""

    episodes: int  # in all
    episode_bars: int  # of each, at most
    together: int  # that step at once; each such step brings one update
    rounds: int  # into which the training is divided
    batch: int
    memory: int  # transitions
    bars: int  # that a transition spans
    discount: float
    noise: list[float]  # standard deviation of what is added to actions, at the first step and at the last
    alpha: float  # of the priorities
    beta: float
    smallest_priority: float
    warm_up: int  # transitions before the first update

    def __post_init__(self) -> None:
        """Every number is one that a training can go by."""
        sizes = ("episodes", "episode_bars", "together", "rounds", "batch", "memory", "bars", "warm_up")
        check_sizes("agents", **{name: getattr(self, name) for name in sizes})
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount is {self.discount}; it must be at least 0 and below 1")
        if len(self.noise) != 2 or min(self.noise) < 0:
            raise ValueError(
                f"noise is {self.noise}; give two numbers of at least 0, of the first step and of the last"
            )
        if not self.bars * self.together <= self.memory >= self.warm_up:
            raise ValueError(
                f"memory of {self.memory} transitions; it must hold a warm_up of {self.warm_up}, and {self.bars} "
                f"bars of {self.together} episodes"
            )
        if self.steps * self.together < self.warm_up or self.rounds > self.steps:
            raise ValueError(
                f"{self.episodes} episodes of {self.episode_bars} bars, {self.together} at once, are {self.steps} "
                f"steps: too few for {self.rounds} rounds or a warm_up of {self.warm_up} transitions; give more"
            )

    @property
    def steps(self) -> int:
        """Of all episodes together."""
        return math.ceil(self.episodes * self.episode_bars / self.together)

    def round_of(self, step: int) -> int:
        """The round, from 1 on, that a step, from 0 on, belongs to."""
        return step * self.rounds // self.steps + 1


def observed(x: np.ndarray, rows: np.ndarray, *, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the deviation, (F + 3,) float64, of an observation whose columns are those of rows of (N, F).

    `unit` is the deviation of a bar's move. What an episode adds is on scales of its own, whatever the agent does.
    """
    mean, deviation = statistics(x, rows)
    own = np.array([1.0, UNREALISED * unit, SINCE])
    return np.concatenate([mean, np.zeros(len(OWN))]), np.concatenate([deviation, own])


class Training:
    """One training, step by step; what it does next depends on `state` alone."""

    def __init__(
        self,
        learner: Learner,
        market: Market,
        course: Course,
        *,
        peaks: Peaks,
        rewards: Rewards,
        unit: float,
        seed: int,
    ) -> None:
        """Nothing has been learnt; `unit` is the deviation of a bar's move, in which rewards are measured."""
        self.learner, self.market, self.course, self.rewards, self.unit = learner, market, course, rewards, unit
        self.rng = np.random.default_rng(seed)
        self.replay = Replay(course.memory, alpha=course.alpha, beta=course.beta, smallest=course.smallest_priority)
        self.spans = NStep(course.bars, discount=course.discount, episodes=course.together)
        self.losses = Losses(peaks, discount=course.discount, episodes=course.together)
        self.episodes = market.drawn(course.together, rng=self.rng)
        self.step = self.updates = 0
        self.told: dict[str, list[float]] = defaultdict(list)  # in this round

    def advance(self) -> None:
        """All episodes are one bar on, and what they remember has been learnt from once more."""
        self._explore()
        self.step += 1
        if len(self.replay) < self.course.warm_up:
            return
        if self.updates % self.losses.peaks.every == 0:
            self.losses.fit()
        drawn = self.replay.draw(self.course.batch, rng=self.rng)
        errors, learnt = self.learner.learn(drawn, tail=self.losses.tail)
        self.replay.learnt(drawn.places, errors)
        self.updates += 1
        for name, value in learnt.items():
            self.told[name].append(value)

    @property
    def noise(self) -> float:
        """Of the step to come."""
        return float(np.interp(self.step, [0, max(self.course.steps - 1, 1)], self.course.noise))

    def _explore(self) -> None:
        """All episodes are one bar on, those that are over at another row, and what they saw is remembered."""
        before, seen = self.episodes, self.market.observe(self.episodes)
        wanted = self.learner.act(seen)
        actions = np.clip(wanted + self.noise * self.rng.standard_normal(wanted.shape), -1, 1).astype(np.float32)
        done = self.market.step(before, self.learner.joint(actions))
        ends = {"terminated": done.terminated, "truncated": done.truncated}
        whole = self.spans.add(
            {"observation": seen, "actions": actions},
            self.rewards(before, done, actions) / self.unit,
            {"observation": self.market.observe(done.state)},
            **ends,
        )
        self.replay.add(**{name: each.astype(np.float32) for name, each in whole.items()})
        self.losses.add(done.reward / self.unit, **ends)
        is_over = done.terminated | done.truncated
        self.told["episode_return"] += (done.state.equity[is_over] - 1).tolist()
        self.episodes = done.state.where(is_over, self.market.drawn(len(seen), rng=self.rng))

    def summary(self) -> dict[str, float]:
        """What this round has told, as means; the next one begins."""
        entry = {name: float(np.mean(values)) for name, values in self.told.items() if values}
        if values := self.told["value"]:
            entry["value_deviation"] = float(np.std(values))
        self.told = defaultdict(list)
        return {**entry, "noise": self.noise}

    def state(self) -> dict[str, Any]:
        """All of it, for `torch.load(weights_only=True)`."""
        parts = {
            "replay": self.replay.state(),
            "spans": self.spans.state(),
            "losses": self.losses.state(),
            "episodes": asdict(self.episodes),
            "random": json.dumps(self.rng.bit_generator.state),
            "step": self.step,
            "updates": self.updates,
            "told": dict(self.told),
        }
        return {"learner": self.learner.state(), **packed(parts)}

    def restore(self, state: dict[str, Any]) -> None:
        """This stands where it stood when `state` was taken."""
        self.learner.restore(state["learner"])
        parts = unpacked({name: part for name, part in state.items() if name != "learner"})
        for name in ("replay", "spans", "losses"):
            getattr(self, name).restore(parts[name])
        self.episodes = State(**parts["episodes"])
        self.rng.bit_generator.state = json.loads(parts["random"])
        self.step, self.updates = parts["step"], parts["updates"]
        self.told = defaultdict(list, parts["told"])


def packed(state: Any) -> Any:
    """The same with tensors for arrays, as `torch.load(weights_only=True)` reads them."""
    if isinstance(state, np.ndarray):
        return torch.from_numpy(state)
    return {name: packed(part) for name, part in state.items()} if isinstance(state, dict) else state


def unpacked(state: Any) -> Any:
    """What `packed` was given."""
    if isinstance(state, torch.Tensor):
        return state.numpy()
    return {name: unpacked(part) for name, part in state.items()} if isinstance(state, dict) else state
