"""The hyperparameters that all agents share, each declared and checked once, in groups that feed one object each."""

import math
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, make_dataclass
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Interval, Len
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from pipeline import config
from pipeline.models.agents.engine import categorical
from pipeline.models.agents.engine.nstep import count_horizon_bars
from pipeline.models.base import Model
from pipeline.models.stopping import LATEST, LOWEST_VALID_LOSS, StoppingCriterion
from pipeline.models.torch_runtime.hyperparameters import LearningRate
from pipeline.trading import Terms, make_terms
from pipeline.trading_rules import AnnualRate, Band, Capital, Participation

Group = TypeVar("Group")
Share = Annotated[float, Interval(ge=0, lt=1)]
TERMS = config.list_keys(make_terms)  # hyperparameters that the sections `trading` and `costs` give


@dataclass(frozen=True, kw_only=True)
class EnvironmentConfig:
    """The market that an agent trades in: all but the last two are those of the backtest, see `trading_rules`."""

    fee_bps: NonNegativeFloat
    slippage_bps: NonNegativeFloat
    borrow_rate: AnnualRate
    no_trade_band: Band
    long_only: bool
    capital: Capital
    max_participation: Participation
    risk_penalty: NonNegativeFloat  # reward = r - risk_penalty · r², r the net return of a bar
    max_drawdown: Annotated[float, Interval(gt=0, le=1)]  # of the equity from its peak; an episode terminates there

    def __post_init__(self) -> None:
        """Raise ValueError naming the first number out of its range."""
        config.check_fields(self, name="agents")

    def make_terms(self) -> Terms:
        """Return the terms of trading."""
        return make_terms(**{name: value for name, value in asdict(self).items() if name in TERMS})


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length of a training, exploration, n-step returns and prioritized replay."""

    num_episodes: PositiveInt  # of all environments together
    episode_bars: Annotated[int, Interval(ge=1, le=1_000_000)]  # of each episode, at most
    num_envs: PositiveInt  # episodes that step at once; each such step is followed by one update
    num_evaluations: PositiveInt  # of the policy on the valid rows, evenly spaced; each adds an entry to the history
    batch_size: PositiveInt
    buffer_size: PositiveInt  # transitions
    n_step: PositiveInt  # bars that a transition spans
    gamma: Annotated[float, Interval(ge=0, lt=1)]  # γ
    exploration_noise: Annotated[
        list[NonNegativeFloat], Len(2, 2)
    ]  # σ of the Gaussian noise added to actions, at the first step and at the last
    per_alpha: NonNegativeFloat  # α, exponent of the priorities; 0 is uniform replay
    per_beta: NonNegativeFloat  # β, exponent of the importance weights
    per_epsilon: PositiveFloat  # ε, added to |error|
    learning_starts: PositiveInt  # transitions before the first update
    critic_warmup_pct: Share = 0.0  # the first fraction of the steps, in which the critic learns alone
    average_pct: Share = 0.0  # the last fraction of the steps, whose mean policy is the result; 0: the best evaluated

    def __post_init__(self) -> None:
        """Raise ValueError naming the first number out of its range."""
        config.check_fields(self, name="agents")
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

    @property
    def stopping(self) -> StoppingCriterion:
        """The criterion that finds the evaluation whose policy is the result."""
        return LATEST if self.average_pct else LOWEST_VALID_LOSS

    def find_interval(self, step: int) -> int:
        """Return the interval between evaluations, from 1 on, of a step, from 0 on."""
        return step * self.num_evaluations // self.steps + 1


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """Networks' updates: the critic's atoms, learning rates, target networks, and the actors' objective."""

    n_atoms: Annotated[int, Ge(2)]
    v_max: PositiveFloat  # return of the highest atom, in standard deviations of a bar's return; v_min = -v_max
    actor_lr: LearningRate
    critic_lr: LearningRate
    max_grad_norm: PositiveFloat
    tau: Annotated[float, Interval(gt=0, le=1)]  # τ of the Polyak update of the target networks
    saturation_penalty: NonNegativeFloat  # times the squared excess of an actor's preactivation over tanh's slope
    risk_aversion: NonNegativeFloat  # λ in E[Z] - λ · ES[Z]; 0 is plain D4PG
    var_level: Annotated[float, Interval(ge=0, lt=1)]  # of value at risk and expected shortfall

    def __post_init__(self) -> None:
        """Raise ValueError naming the first number out of its range."""
        config.check_fields(self, name="agents")

    @property
    def support(self) -> Tensor:
        """(n_atoms,) returns."""
        return categorical.make_support(-self.v_max, self.v_max, self.n_atoms)


@dataclass(frozen=True, kw_only=True)
class EvtConfig:
    """When and on which losses the generalized Pareto tail is fitted (peaks over threshold)."""

    tail_fraction: Annotated[float, Interval(gt=0, lt=1)]  # of the losses, above the threshold
    min_exceedances: PositiveInt  # below, no tail is fitted
    window: PositiveInt  # latest losses
    refit_interval: PositiveInt  # updates between two fits

    def __post_init__(self) -> None:
        """Raise ValueError naming the first number out of its range."""
        config.check_fields(self, name="agents.evt")


def flatten_groups(*groups: type) -> type[Model]:
    """Return a Model whose init fields are those of all groups: params.yaml stays flat, each field has one declaration.

    A field's name must be unique among the groups.
    """
    declared = [(each.name, each.type, _copy_field(each)) for group in groups for each in fields(group)]
    return make_dataclass("FlatModel", declared, bases=(Model,), kw_only=True, eq=False)


def _copy_field(declared: "Field[Any]") -> Any:
    return field() if declared.default is MISSING else field(default=declared.default)


def select_group(group: type[Group], owner: Any) -> Group:
    """Return the group with the values of the owner's attributes of the same names."""
    return group(**{each.name: getattr(owner, each.name) for each in fields(group)})  # type: ignore[arg-type]
