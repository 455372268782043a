"""The Model that all agents share: fitted by trading train rows, evaluated by rollouts, exported as one graph."""

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from pydantic import NonNegativeFloat, PositiveFloat

from pipeline import config
from pipeline.fills import Fills
from pipeline.models.agents.engine import hyperparameters
from pipeline.models.agents.engine.hyperparameters import EnvironmentConfig, EvtConfig, LearnerConfig, TrainingConfig
from pipeline.models.agents.engine.learner import Learner
from pipeline.models.agents.engine.market_env import POSITION_COLUMNS, MarketEnv
from pipeline.models.agents.engine.market_fills import read_fills
from pipeline.models.agents.engine.networks import Critic, Policy
from pipeline.models.agents.engine.policy_evaluation import PolicyBacktest
from pipeline.models.agents.engine.rollout import Rollout, roll_out
from pipeline.models.agents.engine.training import (
    History,
    RewardFunction,
    TrainingLoop,
    measure_observations,
    run_training,
)
from pipeline.models.base import HISTORY, Model, split_into_batches
from pipeline.models.fit_files import FitFiles
from pipeline.models.live_metrics import LiveMetrics
from pipeline.models.stopping import StoppingCriterion
from pipeline.models.torch_runtime.checkpoint import make_checkpoint
from pipeline.models.torch_runtime.device import fork_rng, make_gpu_gauge, select_device, use_one_thread
from pipeline.models.torch_runtime.hyperparameters import Device
from pipeline.models.torch_runtime.onnx_export import export_onnx
from pipeline.models.torch_runtime.standardize import check_unscaled, locate_columns
from pipeline.samples import Samples
from pipeline.tail_risk import GpdTail
from pipeline.targets import Kind
from pipeline.trading_rules import list_terms, read_costs, read_rules

WEIGHTS = "weights.npz"
LEAST_RANGE = 1e-12  # of moves that differ, relative to the ratio of two prices: rounding leaves 1e-16
# Of one layer, over a batch. On a GPU (H200) an update takes about 20 ms whatever its size: launches and copies. On one
# CPU core d4pg's takes 19 ms at 8,192 units, 32 ms at 262,144, and 310 ms at 2,097,152.
MIN_GPU_UNITS = 131_072
HISTORY_FIELDS = (
    *HISTORY,
    "episode_return",
    "exploration_noise",
    "value",
    "value_std",
    "critic_loss",
    "expected_shortfall",
    "var_violation_rate",
    "turnover",
)

if TYPE_CHECKING:
    FlatModel = Model
else:
    FlatModel = hyperparameters.flatten_groups(EnvironmentConfig, TrainingConfig, LearnerConfig)


@dataclass(kw_only=True, eq=False)
class Agent(FlatModel):
    """A policy fitted by trading train rows; a subclass builds its networks and defines the rewards of its actors.

    Its init fields are the hyperparameters of `EnvironmentConfig`, `TrainingConfig` and `LearnerConfig`, and those
    below. The predicted position depends on the position held, so rows are predicted in time order, and each run of
    consecutive bars starts flat. A fit uses one thread on a CPU, so that its bytes do not depend on parallel fits.
    """

    output_kinds: ClassVar[tuple[Kind, ...]] = ("position",)
    sections: ClassVar[Mapping[str, Any]] = {"evt": EvtConfig}
    market_arguments: ClassVar[tuple[str, ...]] = hyperparameters.TERMS

    device: Device
    clip_sigma: PositiveFloat  # standardized columns are clipped at ± this many standard deviations
    evt: dict[str, Any]  # see EvtConfig
    checkpoint_seconds: NonNegativeFloat
    unscaled_columns: list[str] = field(default_factory=list)  # left as they are, but clipped at ± clip_sigma
    policy: Policy = field(init=False, repr=False)
    critic: Critic = field(init=False, repr=False)
    tail: GpdTail | None = field(init=False, repr=False, default=None)
    move_std: float = field(init=False, repr=False, default=float("nan"))  # of a bar's return in the train rows
    report: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    @classmethod
    def read_market(cls, params: config.Block, dataset: str) -> Mapping[str, Any]:
        """Return the terms of trading: an agent learns with those of the backtest."""
        return list_terms(read_rules(params), read_costs(params, dataset))

    @classmethod
    def load_fills(cls, params: config.Block, dataset: str, rows: pd.DataFrame) -> Fills:
        """Return the fills of the orders decided at `rows` (segment, time), from the clean bars of the dataset."""
        return read_fills(params, dataset, rows)

    def __post_init__(self) -> None:
        """Check all hyperparameters and build untrained networks."""
        super().__post_init__()
        locate_columns(self.unscaled_columns, self.signature.columns)
        _ = self.environment_config, self.training_config, self.learner_config, self.evt_config
        with fork_rng(self.seed, torch.device("cpu")):
            self.policy, self.critic = self.make_networks(len(self.input_columns))

    @property
    def environment_config(self) -> EnvironmentConfig:
        """Costs and rules of the market that it learns in."""
        return hyperparameters.select_group(EnvironmentConfig, self)

    @property
    def training_config(self) -> TrainingConfig:
        """Length, exploration and replay of its training."""
        return hyperparameters.select_group(TrainingConfig, self)

    @property
    def learner_config(self) -> LearnerConfig:
        """The updates of its networks."""
        return hyperparameters.select_group(LearnerConfig, self)

    @property
    def evt_config(self) -> EvtConfig:
        """The fits of the tail of its losses."""
        return config.call_with(EvtConfig, block=self.evt, name="agents.evt")

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The samples' columns, then the account's: position, unrealized return and ln(1 + bars since entry)."""
        return (*self.signature.columns, *POSITION_COLUMNS)

    @property
    def history_fields(self) -> tuple[str, ...]:
        """The fields of an evaluation's entry."""
        return HISTORY_FIELDS

    @property
    @abstractmethod
    def layer_units(self) -> int:
        """The units of the widest layer of all actors together."""

    @property
    def stopping(self) -> StoppingCriterion:
        """The criterion that finds the evaluation whose policy is the result: the lowest valid loss, or the last."""
        return self.training_config.stopping

    @property
    def fit_device(self) -> str:
        """The device that a fit runs on; `auto` takes a GPU only for updates of MIN_GPU_UNITS or more."""
        units = self.training_config.batch_size * self.layer_units
        return select_device(self.device, is_gpu_worthwhile=units >= MIN_GPU_UNITS).type

    @property
    def standardization(self) -> tuple[np.ndarray, np.ndarray]:
        """The (mean, std), each (F,) float64, of the samples' columns; std is 0 for a column constant in train."""
        mean, std = self.policy.standardize.statistics
        return mean[: -len(POSITION_COLUMNS)], std[: -len(POSITION_COLUMNS)]

    def list_unscaled(self) -> tuple[str, ...]:
        """Return the samples' columns that the first layers leave as they are."""
        return tuple(self.unscaled_columns)

    def check_fit(self, samples: Samples, train: np.ndarray, valid: np.ndarray) -> None:
        """Raise ValueError also where the clip would cut off what is unscaled."""
        super().check_fit(samples, train, valid)
        columns, clip_sigma = samples.columns, self.clip_sigma
        check_unscaled(samples.x, train, unscaled=self.unscaled_columns, columns=columns, clip_sigma=clip_sigma)

    @property
    def fit_report(self) -> dict[str, Any]:
        """The number of updates, the unit of rewards, and the fits of the tail of losses."""
        return self.report

    @abstractmethod
    def make_networks(self, columns: int) -> tuple[Policy, Critic]:
        """Return an untrained policy and its critic, over observations of `columns` columns."""

    @abstractmethod
    def make_reward_function(self, env: MarketEnv) -> RewardFunction:
        """Return the function that gives each actor's reward of a step of `env`."""

    def make_env(self, samples: Samples, rows: np.ndarray) -> MarketEnv:
        """Return the market of sorted rows, with the costs that the agent learns with."""
        return MarketEnv(samples, rows, config=self.environment_config, episode_bars=self.training_config.episode_bars)

    def fit(self, samples: Samples, train: np.ndarray, valid: np.ndarray, *, files: FitFiles | None = None) -> History:
        """Train on `train` to the last episode; the policy is that of the best evaluation by `stopping`."""
        self.check_fit(samples, train, valid)
        device = torch.device(self.fit_device)
        with use_one_thread(device), fork_rng(self.seed, device):
            self._prepare(samples, train)
            loop = self._start_training(samples, train, device=device)
            valid_env = self.make_env(samples, np.sort(valid))
            live_metrics = checkpoint = None
            if files:
                files.meter.measure_gpu_bytes = make_gpu_gauge(device)
                live_metrics = LiveMetrics(files.metrics, labels=files.labels, fields=HISTORY_FIELDS)
                rows, seconds = {"train": train, "valid": valid}, self.checkpoint_seconds
                checkpoint = make_checkpoint(files, self, samples=samples, **rows, interval_seconds=seconds)
            record = run_training(
                loop,
                lambda: self._evaluate_policy(loop, valid_env),
                live_metrics=live_metrics,
                checkpoint=checkpoint,
            )
            self._load_snapshot(record.best)
            self.report = {"move_std": self.move_std, "updates": loop.updates, "tail": record.best["report"]}
            self.policy.to("cpu").eval()
            self.critic.to("cpu").eval()
        return record.history

    def _prepare(self, samples: Samples, train: np.ndarray) -> None:
        """Build the networks anew, with the statistics of the train rows."""
        move = self.make_env(samples, np.sort(train)).fills.move[train]
        if not np.isfinite(move).all():
            raise ValueError("train holds moves that are not finite; drop such rows where they arise")
        if np.ptp(move) <= LEAST_RANGE * np.abs(1 + move).max():
            raise ValueError("move is the same in every train row: there is nothing to trade")
        self.move_std = float(move.std())
        self.policy, self.critic = self.make_networks(len(self.input_columns))
        unscaled = locate_columns(self.unscaled_columns, samples.columns)
        statistics = measure_observations(samples.x, train, move_std=self.move_std, unscaled=unscaled)
        for net in (self.policy, self.critic):
            net.standardize.set_statistics(*statistics)

    def _start_training(self, samples: Samples, train: np.ndarray, *, device: torch.device) -> TrainingLoop:
        """Return the loop of a training that starts from the networks as they are."""
        learner = Learner(self.policy, self.critic, config=self.learner_config, device=device)
        env = self.make_env(samples, np.sort(train))
        return TrainingLoop(
            learner,
            env,
            self.training_config,
            evt=self.evt_config,
            reward_function=self.make_reward_function(env),
            move_std=self.move_std,
            seed=self.seed,
        )

    def _load_snapshot(self, best: dict[str, Any]) -> None:
        """Set networks and tail to those of a snapshot."""
        self.policy.load_state_dict(best["policy"])
        self.critic.load_state_dict(best["critic"])
        self.tail = GpdTail(**best["tail"]) if best["tail"] else None

    def _evaluate_policy(self, loop: TrainingLoop, valid_env: MarketEnv) -> dict[str, float]:
        """Return the present policy's losses on train and valid rows, and on valid its turnover and VaR violations."""
        config = self.learner_config
        backtests = {"train_loss": self.run_backtest(loop.env), "valid_loss": self.run_backtest(valid_env)}
        valid = backtests["valid_loss"]
        violations = valid.find_violations(self.policy, self.critic, config=config, tail=loop.losses.tail)
        return {
            **{
                name: each.measure_loss(risk_aversion=config.risk_aversion, var_level=config.var_level)
                for name, each in backtests.items()
            },
            "turnover": float(valid.result.turnover.mean()),
            **({"var_violation_rate": float(violations.mean())} if len(violations) else {}),
        }

    def run_backtest(self, env: MarketEnv, *, ablated: int | None = None) -> PolicyBacktest:
        """Return the backtest of the policy on a market, optionally with one of its actors ablated."""
        rollout = roll_out(self.policy, env, ablated=ablated)
        return PolicyBacktest(env, rollout, move_std=self.move_std, gamma=self.training_config.gamma)

    def inputs(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """Return (B, F + 3) float32: the samples' columns, then the position columns of the rollout."""
        return np.concatenate([samples.x[rows], self._roll_out_rows(samples, rows).account], axis=1)

    def predict_rows(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """Return (B, 1) float32, the target positions at these rows."""
        return self._roll_out_rows(samples, rows).target[:, None]

    def _roll_out_rows(self, samples: Samples, rows: np.ndarray) -> Rollout:
        """Return the rollout at (B,) rows in any order; the policy trades them in time order."""
        self.check_columns(samples)
        if not len(rows):
            return Rollout(np.empty(0, np.float32), np.empty((0, len(POSITION_COLUMNS)), np.float32))
        rows, back = np.unique(rows, return_inverse=True)
        found = roll_out(self.policy, self.make_env(samples, rows))
        return Rollout(found.target[back], found.account[back])

    @torch.no_grad()
    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return (B, 1) float32, the target positions for observations (B, F + 3)."""
        with use_one_thread(torch.device("cpu")):
            batches = (torch.from_numpy(np.ascontiguousarray(part)) for part in split_into_batches(inputs))
            parts = [self.policy(batch).numpy() for batch in batches]
        return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)

    def evaluate(self, samples: Samples, rows: np.ndarray) -> dict[str, Any]:
        """Return the backtest of the value at risk on unseen rows, and turnover, net return and expected shortfall."""
        return self.describe_backtest(self.run_backtest(self.make_env(samples, np.sort(rows))))

    def describe_backtest(self, backtest: PolicyBacktest) -> dict[str, Any]:
        """Return the metrics of a backtest on unseen rows, JSON-able."""
        config = self.learner_config
        violations = backtest.find_violations(self.policy, self.critic, config=config, tail=self.tail)
        return backtest.describe(violations, var_level=config.var_level)

    def save_fitted(self, folder: Path) -> None:
        """Write weights, statistics and the tail to `folder` as plain arrays."""
        nets = {"policy": self.policy, "critic": self.critic}
        arrays = {
            f"{name}.{key}": tensor.detach().cpu().numpy()
            for name, net in nets.items()
            for key, tensor in net.state_dict().items()
        }
        tail = dataclasses.asdict(self.tail) if self.tail else {}
        arrays |= {f"tail.{name}": np.array(value) for name, value in tail.items()}
        arrays["move_std"] = np.array(self.move_std)
        np.savez(folder / WEIGHTS, allow_pickle=False, **arrays)

    def load_fitted(self, folder: Path) -> None:
        """Read weights, statistics and the tail from `folder`."""
        with np.load(folder / WEIGHTS, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        for name, net in (("policy", self.policy), ("critic", self.critic)):
            net.load_state_dict({key: torch.from_numpy(each) for key, each in _filter_prefix(arrays, name).items()})
            net.eval()
        tail = {name: each.item() for name, each in _filter_prefix(arrays, "tail").items()}
        self.tail, self.move_std = GpdTail(**tail) if tail else None, float(arrays["move_std"])

    def to_onnx(self, file: Path) -> None:
        """Write the graph to `file`: raw observations "inputs" (batch, F + 3) -> "answer" (batch, 1)."""
        inputs = {"inputs": (len(self.input_columns),)}
        file.write_bytes(export_onnx(self.policy, inputs=inputs, outputs=["answer"]))


def _filter_prefix(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return the arrays named `name`.<key>, by <key>."""
    return {key.removeprefix(f"{name}."): each for key, each in arrays.items() if key.startswith(f"{name}.")}
