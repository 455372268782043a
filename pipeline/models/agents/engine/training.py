"""How an agent learns: many episodes step at once, their transitions are remembered, and each step brings an update."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.models.agents.engine.learner import Learner
from pipeline.models.agents.engine.market import OWN, Market, State
from pipeline.models.agents.engine.nstep import NStep
from pipeline.models.agents.engine.replay import Replay
from pipeline.models.nets.engine.checks import check_sizes
from pipeline.tails import Tail

UNREALISED, SINCE = 5.0, 2.0  # deviations of these parts of an observation: in moves of a bar, and of ln(1 + bars)


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long, and by what, an agent is trained: what params say of it."""

    steps: int  # of all episodes together; each brings one update
    episodes: int  # at once
    batch: int
    memory: int  # transitions
    bars: int  # that a transition spans
    discount: float
    noise: tuple[float, float]  # standard deviation of what is added to positions, at the first step and at the last
    alpha: float  # of the priorities
    beta: float
    smallest_priority: float
    warm_up: int  # transitions before the first update

    def __post_init__(self) -> None:
        """Every number is one that a training can go by."""
        sizes = {name: getattr(self, name) for name in ("steps", "episodes", "batch", "memory", "warm_up")}
        check_sizes("agent", **sizes)
        if len(self.noise) != 2 or min(self.noise) < 0:
            raise ValueError(
                f"noise is {self.noise}; give two numbers of at least 0, of the first step and of the last"
            )


def statistics(x: np.ndarray, *, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the deviation, (F + 3,) float64, of an observation whose columns are those of (n, F) train rows.

    `unit` is the deviation of a bar's move. What an episode adds is on scales of its own, whatever the agent does.
    """
    mean, deviation = (each(x, axis=0, dtype=np.float64) for each in (np.mean, np.std))
    own = np.array([1.0, UNREALISED * unit, SINCE])
    return np.concatenate([mean, np.zeros(len(OWN))]), np.concatenate([deviation, own])


def trained(
    learner: Learner, market: Market, course: Course, *, unit: float, rng: np.random.Generator, tail: Tail | None = None
) -> Iterator[dict[str, float]]:
    """The learner learns, an update each time that this is asked on; what each update tells, and how trading goes."""
    replay = Replay(course.memory, alpha=course.alpha, beta=course.beta, smallest=course.smallest_priority)
    spans = NStep(course.bars, discount=course.discount, episodes=course.episodes)
    state = market.drawn(course.episodes, rng=rng)
    for step in range(course.steps):
        noise = np.interp(step, [0, max(course.steps - 1, 1)], course.noise)
        state, told = _stepped(learner, market, state, spans, replay, noise=float(noise), unit=unit, rng=rng)
        if len(replay) < course.warm_up:
            continue
        drawn = replay.draw(course.batch, rng=rng)
        errors, learnt = learner.learn(drawn, tail=tail)
        replay.learnt(drawn.places, errors)
        yield {"step": step, "noise": float(noise), **told, **learnt}


def _stepped(
    learner: Learner,
    market: Market,
    state: State,
    spans: NStep,
    replay: Replay,
    *,
    noise: float,
    unit: float,
    rng: np.random.Generator,
) -> tuple[State, dict[str, float]]:
    """All episodes are one bar on, those that are over at another row, and what they saw is remembered."""
    seen = market.observe(state)
    explored = np.clip(learner.act(seen) + noise * rng.standard_normal(len(seen)), -1, 1).astype(np.float32)
    done = market.step(state, explored)
    whole = spans.add(
        {"observation": seen, "position": explored},
        done.reward / unit,
        {"observation": market.observe(done.state)},
        terminated=done.terminated,
        truncated=done.truncated,
    )
    replay.add(**{name: each.astype(np.float32) for name, each in whole.items()})
    fresh = market.drawn(len(seen), rng=rng)
    told = {
        "reward": float(done.reward.mean()) / unit,
        "turnover": float(np.abs(done.state.position - state.position).mean()),
    }
    return done.state.where(done.terminated | done.truncated, fresh), told


def rolled(learner: Learner, market: Market) -> np.ndarray:
    """(n,) float32 positions of a learner that decides at each of the market's rows in order, flat as a run begins."""
    positions, state = np.empty(len(market.rows), np.float32), market.begin(market.rows[:1])
    for at, row in enumerate(market.rows):
        if state.row[0] != row:
            state = market.begin(np.array([row]))
        positions[at : at + 1] = learner.act(market.observe(state))
        state = market.step(state, positions[at : at + 1]).state
    return positions
