"""What all agents share: learnt in episodes over train rows, rolled forward over any, exported as one graph."""

import dataclasses
from abc import abstractmethod
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from pipeline import tails, trading
from pipeline.graphs import opened
from pipeline.models.agents.engine.course import Course, Rewards, Training, observed
from pipeline.models.agents.engine.extremes import Peaks, horizon
from pipeline.models.agents.engine.learner import Learner, Plan, feared
from pipeline.models.agents.engine.market import OWN, Market
from pipeline.models.agents.engine.networks import Critic, Policy
from pipeline.models.agents.engine.rollout import Rollout, rolled
from pipeline.models.agents.engine.trial import Trial, shortfall
from pipeline.models.base import HISTORY, Bench, Model, in_parts
from pipeline.models.neural.checkpoint import Checkpoint, kept
from pipeline.models.neural.device import device_of, one_thread, seeded
from pipeline.models.neural.graph import written
from pipeline.models.neural.lines import Lines
from pipeline.samples import Samples
from pipeline.tails import Tail

WEIGHTS = "weights.npz"
REJECTED = 0.05  # a p-value below, and a value at risk is called wrong
FIELDS = (  # of an entry of the history
    *HISTORY,
    "episode_return",
    "noise",
    "value",
    "value_deviation",
    "critic_loss",
    "shortfall",
    "violations",
    "turnover",
)


@dataclass(kw_only=True, eq=False)
class Agent(Model):
    """A policy that was learnt by trading train rows: it wants a position, and holds it as the backtest would.

    What it answers depends on what it holds, so that rows are answered in the order of time, each run of consecutive
    bars from flat on. Fitted by one thread on a CPU, so that its bytes do not depend on how many fits run beside it.
    """

    tells: ClassVar[tuple[str, ...]] = FIELDS

    device: str  # auto, cpu or cuda
    fee_bps: float  # what it learns to pay
    slippage_bps: float
    band: float  # a position is changed when what is wanted lies further than this from it
    risk_penalty: float  # times the square of a bar's net return, that a reward is less by
    drawdown_limit: float  # of the equity's peak, at which an episode ends in ruin
    episodes: int
    episode_bars: int
    together: int
    rounds: int
    batch: int
    memory: int
    bars: int
    discount: float
    noise: list[float]
    alpha: float
    beta: float
    smallest_priority: float
    warm_up: int
    clip: float  # standardised columns beyond ± this many deviations are cut off
    atoms: int
    highest: float
    actor_rate: float
    critic_rate: float
    gradient_norm: float
    target_share: float
    saturation: float
    risk_aversion: float
    level: float
    extremes: dict[str, Any]  # see Peaks
    checkpoint_seconds: float
    policy: Policy = field(init=False, repr=False)
    critic: Critic = field(init=False, repr=False)
    tail: Tail | None = field(init=False, repr=False, default=None)
    unit: float = field(init=False, repr=False, default=float("nan"))  # the deviation of a bar's move among train rows
    notes: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """The tunables are such as a fit can go by."""
        if self.shape.outputs != ("position",):
            raise ValueError(f"an agent answers a position; its target's kind is position, not that of {self.outputs}")
        self._plan(), self._course(), Peaks(**self.extremes), device_of(self.device)
        if (reach := horizon(self.discount)) > self.episode_bars:
            raise ValueError(
                f"a discount of {self.discount} reaches {reach} bars, episodes have {self.episode_bars}: no return "
                "would be whole; give longer episodes or a lower discount"
            )
        with seeded(self.seed, torch.device("cpu")):
            self.policy, self.critic = self.untrained(len(self.input_columns))

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The columns, then the position held, what it has earned before costs, and ln(1 + for how many bars)."""
        return (*self.shape.columns, *OWN)

    @property
    def fits_alone(self) -> bool:
        """On a GPU one fit follows another; on a CPU each has a thread of its own."""
        return device_of(self.device).type == "cuda"

    @abstractmethod
    def untrained(self, columns: int) -> tuple[Policy, Critic]:
        """A policy and its critic, over observations of so many columns."""

    @abstractmethod
    def paid(self, market: Market) -> Rewards:
        """What each actor gets for a step on a market."""

    def _plan(self) -> Plan:
        return Plan(**{each.name: getattr(self, each.name) for each in dataclasses.fields(Plan)})

    def _course(self) -> Course:
        return Course(**{each.name: getattr(self, each.name) for each in dataclasses.fields(Course)})

    def market(self, samples: Samples, rows: np.ndarray) -> Market:
        """The market that it learns in, over sorted rows."""
        names = ("fee_bps", "slippage_bps", "band", "risk_penalty", "drawdown_limit", "episode_bars")
        return Market(samples, rows, **{name: getattr(self, name) for name in names})

    def fit(
        self, samples: Samples, train: np.ndarray, valid: np.ndarray, *, bench: Bench | None = None
    ) -> list[dict[str, float]]:
        """Trains all its episodes, and ends with the policy of the round that was best on `valid`."""
        self.check_fit(samples, train, valid)
        device = device_of(self.device)
        with one_thread(device), seeded(self.seed, device):
            learner = self._pupil(samples, train, device=device)
            market = self.market(samples, np.sort(train))
            training = Training(
                learner,
                market,
                self._course(),
                peaks=Peaks(**self.extremes),
                rewards=self.paid(market),
                unit=self.unit,
                seed=self.seed,
            )
            markets = {"train": market, "valid": self.market(samples, np.sort(valid))}
            lines = Lines(bench.metrics, labels=bench.labels, fields=FIELDS) if bench else None
            seconds = self.checkpoint_seconds
            checkpoint = kept(bench, self, samples, train, valid, seconds=seconds) if bench else None
            history = self._taught(training, markets, lines, checkpoint)
            self.policy.to("cpu").eval()
            self.critic.to("cpu").eval()
        return history

    def _pupil(self, samples: Samples, train: np.ndarray, *, device: torch.device) -> Learner:
        """Untrained nets that know the statistics of the train rows."""
        move = samples.move[train]
        if not np.isfinite(move).all():
            raise ValueError("train holds moves that are not finite; drop such rows where they are born")
        if np.ptp(move) == 0:
            raise ValueError("move is the same at every train row: there is nothing to trade")
        self.unit = float(move.std())
        self.policy, self.critic = self.untrained(len(self.input_columns))
        for net in (self.policy, self.critic):
            net.standardise.learn(*observed(samples.x, train, unit=self.unit))
        return Learner(self.policy, self.critic, plan=self._plan(), device=device)

    def _taught(
        self, training: Training, markets: dict[str, Market], lines: Lines | None, checkpoint: Checkpoint | None
    ) -> list[dict[str, float]]:
        """The history of a training that is over, from its checkpoint on where there is one; the best nets are kept."""
        history: list[dict[str, float]] = []
        best: dict[str, Any] = {}
        if found := checkpoint.read() if checkpoint else None:
            training.restore(found["training"])
            history, best = found["history"], found["best"]
        course = training.course
        while training.step < course.steps:
            training.advance()
            if training.step == course.steps or course.round_of(training.step) > len(history) + 1:
                entry = {"round": len(history) + 1, **self._examined_round(training, markets), **training.summary()}
                if not history or entry["valid"] < min(each["valid"] for each in history):
                    best = self._kept(training)
                history.append(entry)
                if lines:
                    lines.catch_up(history)
            if checkpoint and checkpoint.is_due():
                checkpoint.write({"training": training.state(), "history": history, "best": best})
        if checkpoint:
            checkpoint.write({"training": training.state(), "history": history, "best": best})
        if lines:
            lines.catch_up(history)
        self._take(best)
        self.notes = {"unit": self.unit, "updates": training.updates, "tail": best["report"]}
        return history

    def _kept(self, training: Training) -> dict[str, Any]:
        """The nets as they are, and the tail."""
        nets, tail = (training.learner.policy, training.learner.critic), training.losses.tail
        policy, critic = (deepcopy(net.state_dict()) for net in nets)
        told = {"tail": dataclasses.asdict(tail) if tail else None, "report": training.losses.report()}
        return {"policy": policy, "critic": critic, **told}

    def _take(self, best: dict[str, Any]) -> None:
        """The nets and the tail are those that were kept."""
        self.policy.load_state_dict(best["policy"])
        self.critic.load_state_dict(best["critic"])
        self.tail = Tail(**best["tail"]) if best["tail"] else None

    def _examined_round(self, training: Training, markets: dict[str, Market]) -> dict[str, float]:
        """Losses of the policy as it is on both parts; on the valid one, how it trades and how good its VaR is."""
        trials = {name: self.trial(market) for name, market in markets.items()}
        trial = trials["valid"]
        violations = self._violations(trial, training.losses.tail)
        return {
            **{name: each.loss(risk_aversion=self.risk_aversion, level=self.level) for name, each in trials.items()},
            "turnover": float(trial.traded.turnover.mean()),
            **({"violations": float(violations.mean())} if len(violations) else {}),
        }

    def trial(self, market: Market) -> Trial:
        """What the policy does on a market, and what that brings."""
        return Trial(market, rolled(self.policy, market), unit=self.unit, discount=self.discount)

    def _violations(self, trial: Trial, tail: Tail | None) -> np.ndarray:
        """(S,) whether what each stretch of bars returned was worse than the VaR foreseen as it began."""
        places, returns = trial.returns()
        return -returns > feared(self.policy, self.critic, trial.seen(places), plan=self._plan(), tail=tail)

    def inputs(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """(B, F + 3) float32: the columns, then what it holds, what that has earned, and ln(1 + for how many bars)."""
        return np.concatenate([samples.x[rows], self._in_order(samples, rows).own], axis=1)

    def answer(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """(B, 1) float32 positions wanted at these rows."""
        return self._in_order(samples, rows).target[:, None]

    def _in_order(self, samples: Samples, rows: np.ndarray) -> Rollout:
        """What is done at (B,) rows, which may stand in any order, in the order of time."""
        self.check_columns(samples)
        if not len(rows):
            return Rollout(np.empty(0, np.float32), np.empty((0, len(OWN)), np.float32))
        rows, back = np.unique(rows, return_inverse=True)
        found = rolled(self.policy, self.market(samples, rows))
        return Rollout(found.target[back], found.own[back])

    @torch.no_grad()
    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """(B, 1) float32 positions wanted for (B, F + 3) observations."""
        with one_thread(torch.device("cpu")):
            parts = [self.policy(torch.from_numpy(np.ascontiguousarray(part))).numpy() for part in in_parts(inputs)]
        return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)

    def examined(self, samples: Samples, rows: np.ndarray) -> dict[str, Any]:
        """How often its value at risk was passed on rows that it has not seen, with two tests, and how it traded."""
        return self.judged(self.trial(self.market(samples, np.sort(rows))))

    def judged(self, trial: Trial) -> dict[str, Any]:
        """What is told of a trial on rows that the fit has not seen."""
        told = tails.violations(self._violations(trial, self.tail), level=self.level)
        tested = {"var_rate": told.rate, "var_rejected": told.joint_p < REJECTED} if told.observations else {}
        return {
            "value_at_risk": dataclasses.asdict(told),
            **tested,
            "turnover": float(trial.traded.turnover.mean()),
            "net_bps": float(trial.traded.net.mean()) * 1e4,
            "shortfall_bps": shortfall(trial.traded.net, level=self.level) * 1e4,
        }

    def standardisation(self) -> tuple[np.ndarray, np.ndarray]:
        """The (mean, scale), each (F,) float64, of the columns; a column that is constant in train has scale 0."""
        mean, scale = self.policy.standardise.statistics()
        return mean[: -len(OWN)], scale[: -len(OWN)]

    def diagnosis(self) -> dict[str, Any]:
        """How many updates there were, and what is known of the tail of losses."""
        return self.notes

    def hard_inputs(self, inputs: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
        """Those of every family, raw extremes, and observations at the very edges of the clip."""
        own = self.policy.standardise.hard_inputs(inputs, rng=rng)
        return np.concatenate([super().hard_inputs(inputs, rng=rng), own])

    def flipped(self, inputs: np.ndarray, file: Path) -> np.ndarray:
        """(B,) 1 where the graph trades and the policy does not, or the other way round, or to the other side."""
        graph, held = opened(file), np.clip(inputs[:, -len(OWN)].astype(np.float64), -1.0, 1.0)
        theirs = np.concatenate([graph.run(["answer"], {"inputs": part})[0][:, 0] for part in in_parts(inputs)])
        own = self.predict(inputs)[:, 0]
        moves = [np.sign(trading.follow(wanted.astype(np.float64), held, self.band) - held) for wanted in (own, theirs)]
        return np.asarray(moves[0] != moves[1], dtype=np.int64)

    def save_fitted(self, folder: Path) -> None:
        """`folder` holds weights, statistics and the tail, as plain arrays."""
        nets = {"policy": self.policy, "critic": self.critic}
        arrays = {
            f"{name}.{key}": tensor.detach().cpu().numpy()
            for name, net in nets.items()
            for key, tensor in net.state_dict().items()
        }
        tail = dataclasses.asdict(self.tail) if self.tail else {}
        arrays |= {f"tail.{name}": np.array(value) for name, value in tail.items()}
        arrays["unit"] = np.array(self.unit)
        np.savez(folder / WEIGHTS, allow_pickle=False, **arrays)

    def load_fitted(self, folder: Path) -> None:
        """The weights, statistics and the tail are those of `folder`."""
        with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
            parts = {name: arrays[name] for name in arrays.files}
        for name, net in (("policy", self.policy), ("critic", self.critic)):
            net.load_state_dict({key: torch.from_numpy(each) for key, each in _within(parts, name).items()})
            net.eval()
        tail = {name: each.item() for name, each in _within(parts, "tail").items()}
        self.tail, self.unit = Tail(**tail) if tail else None, float(parts["unit"])

    def to_onnx(self, file: Path) -> None:
        """`file` holds the graph: raw observations "inputs" (batch, F + 3) -> "answer" (batch, 1)."""
        inputs = {"inputs": (len(self.input_columns),)}
        file.write_bytes(written(self.policy, inputs=inputs, outputs=["answer"]))


def _within(parts: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{name}."): each for key, each in parts.items() if key.startswith(f"{name}.")}
