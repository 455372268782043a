"""The hyperparameters that all agents share, each declared and checked once, in groups that feed one object each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, TypeVar

from torch import Tensor

from pipeline.models.agents.engine import categorical
from pipeline.models.agents.engine.nstep import count_horizon_bars
from pipeline.models.base import Model
from pipeline.models.torch_runtime.checks import check_sizes

Group = TypeVar("Group")
TRAINING_SIZES = (  # of TrainingConfig
    "num_episodes",
    "episode_bars",
    "num_envs",
    "num_evaluations",
    "batch_size",
    "buffer_size",
    "n_step",
    "learning_starts",
)


@dataclass(frozen=True, kw_only=True)
class EnvironmentConfig:
    """Costs and rules of the market that an agent trades in."""

    fee_bps: float  # that an agent learns with; `trading` has the costs of the evaluation
    slippage_bps: float
    no_trade_band: float  # the position moves only to targets further than this from it
    risk_penalty: float  # reward = r - risk_penalty · r², r the net return of a bar
    max_drawdown: float  # of the equity from its peak; an episode terminates there

    def __post_init__(self) -> None:
        """Raise ValueError naming the first number out of its range."""
        _check_ranges(
            self,
            fee_bps=(self.fee_bps >= 0, "at least 0"),
            slippage_bps=(self.slippage_bps >= 0, "at least 0"),
            no_trade_band=(0 <= self.no_trade_band < 1, "at least 0 and below 1"),
            risk_penalty=(self.risk_penalty >= 0, "at least 0"),
            max_drawdown=(0 < self.max_drawdown <= 1, "above 0 and at most 1"),
        )

    @property
    def costs(self) -> Mapping[str, float]:
        """The keyword arguments of `trading.net_return`."""
        return {"fee_bps": self.fee_bps, "slippage_bps": self.slippage_bps}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length of a training, exploration, n-step returns and prioritized replay."""

    num_episodes: int  # of all environments together
    episode_bars: int  # of each episode, at most
    num_envs: int  # episodes that step at once; each such step is followed by one update
    num_evaluations: int  # of the policy on the valid rows, evenly spaced; each adds an entry to the history
    batch_size: int
    buffer_size: int  # transitions
    n_step: int  # bars that a transition spans
    gamma: float  # γ
    exploration_noise: list[float]  # σ of the Gaussian noise added to actions, at the first step and at the last
    per_alpha: float  # α, exponent of the priorities; 0 is uniform replay
    per_beta: float  # β, exponent of the importance weights
    per_epsilon: float  # ε, added to |error|
    learning_starts: int  # transitions before the first update

    def __post_init__(self) -> None:
        """Raise ValueError naming the first number out of its range."""
        check_sizes("agents", **{name: getattr(self, name) for name in TRAINING_SIZES})
        _check_ranges(self, gamma=(0 <= self.gamma < 1, "at least 0 and below 1"))
        if len(self.exploration_noise) != 2 or min(self.exploration_noise) < 0:
            raise ValueError(
                f"exploration_noise is {self.exploration_noise}; give two numbers of at least 0: the standard "
                "deviation at the first step and at the last"
            )
        if not self.n_step * self.num_envs <= self.buffer_size >= self.learning_starts:
            raise ValueError(
                f"buffer_size is {self.buffer_size}; it must be at least learning_starts ({self.learning_starts}) and "
                f"n_step · num_envs ({self.n_step} · {self.num_envs})"
            )
        self._check_length()

    def _check_length(self) -> None:
        """Raise ValueError where a training is too short to learn, or an episode to hold one discounted return."""
        if self.steps * self.num_envs < self.learning_starts or self.num_evaluations > self.steps:
            raise ValueError(
                f"{self.num_episodes} episodes of {self.episode_bars} bars, {self.num_envs} at once, are {self.steps} "
                f"steps: too few for {self.num_evaluations} evaluations or learning_starts of {self.learning_starts} "
                "transitions; raise num_episodes"
            )
        if (horizon := count_horizon_bars(self.gamma)) > self.episode_bars:
            raise ValueError(
                f"a gamma of {self.gamma} needs {horizon} bars for a whole return, episodes have {self.episode_bars}; "
                "raise episode_bars or lower gamma"
            )

    @property
    def steps(self) -> int:
        """Of all environments at once, in the whole training."""
        return math.ceil(self.num_episodes * self.episode_bars / self.num_envs)

    def find_interval(self, step: int) -> int:
        """Return the interval between evaluations, from 1 on, of a step, from 0 on."""
        return step * self.num_evaluations // self.steps + 1


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """Networks' updates: the critic's atoms, learning rates, target networks, and the actors' objective."""

    n_atoms: int
    v_max: float  # return of the highest atom, in standard deviations of a bar's move; v_min = -v_max
    actor_lr: float
    critic_lr: float
    max_grad_norm: float
    tau: float  # τ of the Polyak update of the target networks
    saturation_penalty: (
        float  # times the squared excess of an actor's preactivation over the range where tanh has slope
    )
    risk_aversion: float  # λ in E[Z] - λ · ES[Z]; 0 is plain D4PG
    var_level: float  # of value at risk and expected shortfall

    def __post_init__(self) -> None:
        """Raise ValueError naming the first number out of its range."""
        check_sizes("agents", n_atoms=self.n_atoms)
        categorical.make_support(-self.v_max, self.v_max, self.n_atoms)
        _check_ranges(
            self,
            actor_lr=(self.actor_lr > 0, "above 0"),
            critic_lr=(self.critic_lr > 0, "above 0"),
            max_grad_norm=(self.max_grad_norm > 0, "above 0"),
            tau=(0 < self.tau <= 1, "above 0 and at most 1"),
            saturation_penalty=(self.saturation_penalty >= 0, "at least 0"),
            risk_aversion=(self.risk_aversion >= 0, "at least 0"),
            var_level=(0 <= self.var_level < 1, "at least 0 and below 1"),
        )

    @property
    def support(self) -> Tensor:
        """(n_atoms,) returns."""
        return categorical.make_support(-self.v_max, self.v_max, self.n_atoms)


@dataclass(frozen=True, kw_only=True)
class EvtConfig:
    """When and on which losses the generalized Pareto tail is fitted (peaks over threshold)."""

    tail_fraction: float  # of the losses, above the threshold
    min_exceedances: int  # below, no tail is fitted
    window: int  # latest losses
    refit_interval: int  # updates between two fits

    def __post_init__(self) -> None:
        """Raise ValueError naming the first number out of its range."""
        check_sizes("evt", min_exceedances=self.min_exceedances, window=self.window, refit_interval=self.refit_interval)
        if not 0 < self.tail_fraction < 1:
            raise ValueError(f"evt: tail_fraction is {self.tail_fraction}; it must be above 0 and below 1")


def flatten_groups(*groups: type) -> type[Model]:
    """Return a Model whose init fields are those of all groups: params.yaml stays flat, each field has one declaration.

    A field's name must be unique among the groups.
    """
    declared = [(each.name, each.type, field()) for group in groups for each in fields(group)]
    return make_dataclass("FlatModel", declared, bases=(Model,), kw_only=True, eq=False)


def select_group(group: type[Group], owner: Any) -> Group:
    """Return the group with the values of the owner's attributes of the same names."""
    return group(**{each.name: getattr(owner, each.name) for each in fields(group)})  # type: ignore[arg-type]


def _check_ranges(owner: object, **checks: tuple[bool, str]) -> None:
    """Raise ValueError naming the first attribute that is not in its range; a check is (is it?, the range in words)."""
    for name, (is_fine, allowed) in checks.items():
        if not is_fine:
            raise ValueError(f"{name} is {getattr(owner, name)}; it must be {allowed}")
