"""From a closed bar to a signal: features, windows, graphs, ensemble, no-trade band and positions of a bundle.

`python -m pipeline.deployment.hot_path --bundle FOLDER --bars FILE.parquet` writes the signals as JSON lines.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from pipeline.deployment import accounts, contract, kernels
from pipeline.deployment.contract import Contract, ModelPart
from pipeline.features.engine import Stream
from pipeline.models.onnx_session import open_session
from pipeline.targets import Output
from pipeline.trading import Terms

log = logging.getLogger(__name__)

ALIGNED = 16  # float32 numbers: each block of inputs and answers begins on a cache line
NAN = float("nan")
NO_FEATURES = np.zeros(0, np.float32)
Arrays = dict[str, np.ndarray]
Run = Callable[[], None]  # computes the answer of a model to its input
Bind = Callable[[str, np.ndarray, np.ndarray], Run]  # of a model's name, its input (1, …) and its answer (1, outputs)


class ModelSignal(NamedTuple):
    """What one model says at a close."""

    answer: tuple[float, ...]
    score: float  # NaN where its answers have none
    target: float  # position in [-1, 1]
    position: float  # weight that its own account holds at this close
    is_full: bool  # whether its window has bars of this segment alone, none repeated


class Signal(NamedTuple):
    """What a bundle says when a bar has closed."""

    open_time: int  # of the bar, ms
    symbol: str
    model: str  # whose target it is: the ensemble, or a model
    target: float  # position in [-1, 1] to be held from the next fill on
    position: float  # weight held at this close, by the bundle's own account
    trades: bool  # whether the target is further than the no-trade band from the position
    missing_bars: int  # before the bar
    models: dict[str, ModelSignal]

    def to_dict(self) -> dict[str, Any]:
        """Return the signal as a mapping for JSON; what is undefined is None."""
        models = {name: _to_json(each._asdict()) for name, each in self.models.items()}
        return {key: _to_json(value) for key, value in self._asdict().items()} | {"models": models}


def bind_sessions(sessions: Mapping[str, onnxruntime.InferenceSession]) -> Bind:
    """Return what binds models to sessions: a run reads and writes fixed places in memory, and allocates nothing."""

    def bind(name: str, inputs: np.ndarray, answer: np.ndarray) -> Run:
        binding = sessions[name].io_binding()
        binding.bind_input("inputs", "cpu", 0, np.float32, list(inputs.shape), inputs.ctypes.data)
        binding.bind_output("answer", "cpu", 0, np.float32, list(answer.shape), answer.ctypes.data)
        return partial(sessions[name].run_with_iobinding, binding)

    return bind


def open_sessions(folder: Path) -> tuple[Contract, dict[str, onnxruntime.InferenceSession]]:
    """Return the contract of a bundle, and a session of each of its graphs; see `HotPath.load` for the errors."""
    bundle = contract.read_contract(folder)
    sessions = {name: open_session(folder / model.graph) for name, model in bundle.models.items()}
    for name, session in sessions.items():
        _check_graph(name, bundle.models[name], session)
    return bundle, sessions


class Lane:
    """All that one symbol needs: its stream, inputs, graphs and accounts."""

    def __init__(self, bundle: Contract, symbol: str, bind: Bind) -> None:
        """Lay out the memory of a symbol's models, and bind them to it."""
        self.symbol, self.signal = symbol, bundle.signal
        self.models = {name: model for name, model in bundle.models.items() if symbol in model.symbols}
        bars = {"interval_ms": bundle.bars.interval_ms, "symbols": [symbol], "calendar": bundle.bars.calendar}
        self.stream = Stream(**bundle.features, **bars)
        if list(self.stream.columns) != bundle.columns:
            raise ValueError(
                "contract: this code computes other columns than the bundle was made with; make the bundle again"
            )
        self.warm_up_bars = bundle.warm_up_bars
        self._closes = bundle.bars.calendar.get("positions") == "close"
        self.plan, self.places, self.sizes = _plan(self.models, bundle)
        widths = (self.plan[:, kernels.COLUMNS] + self.plan[:, kernels.ACCOUNT]) * self.plan[:, kernels.WINDOW]
        self.inputs = np.zeros(_align(widths).sum(), np.float32)
        self.answers = np.full(_align(self.plan[:, kernels.OUTPUTS]).sum(), np.nan, np.float32)
        weights = bundle.ensemble.weights if bundle.ensemble else {}
        self.members = np.array([list(self.models).index(name) for name in weights if name in self.models], np.int64)
        self.accounts, self.clock, self.terms = _make_accounts(self.models, bundle)
        self.seen, self.scores = np.zeros((len(self.accounts), accounts.SEEN)), np.zeros(len(self.models), np.float32)
        self.targets, self.rows = np.full(len(self.accounts), np.nan), 0
        self.names = [*self.models, *([bundle.ensemble.name] if bundle.ensemble else [])]  # of the accounts
        self.band, self.signal = bundle.trading.no_trade_band, bundle.signal
        self.traded = self.names.index(bundle.signal) if bundle.signal in self.names else None
        self.x: np.ndarray | None = None  # (F,) features of the last bar; None while they warm up
        self._runs = [self._bind(bind, name, row) for name, row in zip(self.models, self.plan.tolist(), strict=True)]
        self.answers_by_model = [  # name, first and one beyond the last of its numbers, bars of its window
            (name, row[kernels.ANSWER], row[kernels.ANSWER] + row[kernels.OUTPUTS], row[kernels.WINDOW])
            for name, row in zip(self.models, self.plan.tolist(), strict=True)
        ]

    def _bind(self, bind: Bind, name: str, row: list[int]) -> Run:
        """Return what computes the answer of a model, bound to its places in `inputs` and `answers`."""
        width, window = row[kernels.COLUMNS] + row[kernels.ACCOUNT], self.models[name].window
        shape = (1, width) if window is None else (1, window, width)
        start, answer = row[kernels.INPUT], row[kernels.ANSWER]
        inputs = self.inputs[start : start + width * (window or 1)].reshape(shape)
        return bind(name, inputs, self.answers[answer : answer + row[kernels.OUTPUTS]].reshape(1, -1))

    def take(self, bar: Mapping[str, Any], *, now_ms: float | None, decides: bool) -> bool:
        """Advance by a bar; return whether the graphs have answered: where `decides`, and features are there."""
        stream = self.stream
        x = self.x = stream.update(bar, now_ms=now_ms)
        clock, has_features = stream.clock, x is not None
        starts = has_features and stream.segment_bars == self.warm_up_bars + 1
        self.rows = 1 if starts else self.rows + has_features
        own = self.accounts, self.clock, self.terms
        flags = clock.missing_bars > 0, self._closes and clock.ends_session, has_features, starts
        x = NO_FEATURES if x is None else x
        kernels.prepare(stream.last_bar, x, flags, self.plan, self.places, self.inputs, *own, self.seen)
        answers = has_features and decides
        if answers:
            for run in self._runs:
                run()
        made = self.scores, self.targets
        sizes = self.plan, self.sizes, self.members
        kernels.finish(self.answers, *sizes, (answers, starts), self.rows, *own, *made)
        return answers

    def describe(self) -> Signal:
        """Return the signal of the last bar."""
        clock, positions = self.stream.clock, self.seen[:, 0].tolist()
        targets, scores, answers = self.targets.tolist(), self.scores.tolist(), self.answers.tolist()
        models = {
            name: ModelSignal(tuple(answers[start:stop]), scores[m], targets[m], positions[m], self.rows >= window)
            for m, (name, start, stop, window) in enumerate(self.answers_by_model)
        }
        target, position = (NAN, 0.0) if self.traded is None else (targets[self.traded], positions[self.traded])
        trades = abs(target - position) > self.band
        return Signal(clock.time_ms, self.symbol, self.signal, target, position, trades, clock.missing_bars, models)

    def state(self) -> Arrays:
        """Return a copy of all that later signals depend on."""
        copies = {name: array.copy() for name, array in self._list_arrays().items()}
        return self.stream.state() | copies | {"rows": np.array([self.rows])}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Resume from a state; ValueError, with nothing changed, where it is of other models or another stream."""
        own = self._list_arrays()
        for name, array in own.items():
            if name not in state or state[name].shape != array.shape:
                raise ValueError(
                    f"state: {name} is missing or of another shape; restore the state of a HotPath of this bundle"
                )
        self.stream.restore(state)
        for name, array in own.items():
            array[:] = state[name]
        self.rows = int(state["rows"][0])

    def list_terms(self) -> list[Terms]:
        """Return the terms of trading of every account."""
        return [Terms(*row[: accounts.STARTS_FLAT].tolist()) for row in self.terms]

    def _list_arrays(self) -> Arrays:
        return {"inputs": self.inputs, "accounts": self.accounts, "clock_of_accounts": self.clock}


class HotPath:
    """The signals of a bundle, bar by bar, for each of its symbols.

    Not for several threads at once. `counts` are the bars taken and the bars that were missing, by symbol and in all.
    """

    def __init__(self, bundle: Contract, bind: Bind, *, digest: str = "") -> None:
        """Serve a contract by models that `bind` binds to their inputs and answers; `load` reads all from a folder."""
        self.contract, self._digest = bundle, digest
        self.lanes = {symbol: Lane(bundle, symbol, bind) for symbol in bundle.bars.symbols}
        self.counts = {"bars": 0, "signals": 0, "missing_bars": 0}

    @classmethod
    def load(cls, folder: str | Path) -> "HotPath":
        """Return the hot path of a bundle, once the digests of its files are verified.

        Raises:
            ArtifactError: a file is missing or damaged.
            ValueError: the contract does not fit the graphs or this version of the code.
        """
        folder = Path(folder)
        bundle, sessions = open_sessions(folder)
        if (code := contract.hash_code()) != bundle.sha256.code:
            log.warning(
                "%s was made by other code (%.12s, here %.12s): `python -m pipeline.deployment.verify` says whether "
                "it answers alike",
                folder,
                bundle.sha256.code,
                code,
            )
        return cls(bundle, bind_sessions(sessions), digest=contract.hash_contract(folder))

    def update(self, bar: Mapping[str, Any], *, now_ms: float | None = None) -> Signal | None:
        """Return the signal now that `bar` has closed; None while the features of its segment warm up.

        A bar is a mapping with the kline fields and `symbol`. Missing bars end a segment: what is held is held until
        the next fill, which closes it. `now_ms` is the time of receipt, see `Stream.update`.

        Raises:
            ValueError: the bar is invalid, late, repeated, not closed, or of another symbol; nothing has changed.
        """
        lane = self._find_lane(bar)
        answered = lane.take(bar, now_ms=now_ms, decides=True)
        self.counts["bars"] += 1
        self.counts["missing_bars"] += lane.stream.clock.missing_bars
        if not answered:
            return None
        self.counts["signals"] += 1
        return lane.describe()

    def observe(self, bar: Mapping[str, Any]) -> None:
        """Take a past bar into features and windows without a decision: history before the first live bar.

        Raises:
            ValueError: as `update`.
        """
        lane = self._find_lane(bar)
        lane.take(bar, now_ms=None, decides=False)
        self.counts["bars"] += 1
        self.counts["missing_bars"] += lane.stream.clock.missing_bars

    def state(self) -> Arrays:
        """Return a copy of all that later signals depend on, as arrays: `np.savez` stores them."""
        lanes = {f"{symbol}/{key}": value for symbol, lane in self.lanes.items() for key, value in lane.state().items()}
        return lanes | {"contract": np.array([self._digest]), "counts": np.array(list(self.counts.values()))}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Resume from the `state` of a hot path of the same bundle: the signals go on bit for bit.

        Raises:
            ValueError: it is of another bundle, or lacks something.
        """
        if "contract" not in state or str(state["contract"][0]) != self._digest:
            raise ValueError("state: it is of another bundle; restore it where it was made, or start anew")
        for symbol, lane in self.lanes.items():
            prefix = f"{symbol}/"
            lane.restore({key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)})
        self.counts = dict(zip(self.counts, state["counts"].tolist(), strict=True))

    def _find_lane(self, bar: Mapping[str, Any]) -> Lane:
        try:
            symbol, has_segment = bar.get("symbol"), "segment" in bar
        except (AttributeError, TypeError):
            raise ValueError(f"bar is {bar!r:.40} ({type(bar).__name__}); allowed is a mapping") from None
        if has_segment:
            raise ValueError("bar: it has a segment; leave it out: the hot path finds missing bars itself")
        lane = self.lanes.get(symbol) if isinstance(symbol, str) else None
        if lane is None:
            raise ValueError(f"bar: symbol is {symbol!r}; this bundle is for {', '.join(self.lanes)}")
        return lane


def _make_accounts(models: Mapping[str, ModelPart], bundle: Contract) -> tuple[np.ndarray, ...]:
    """Return accounts, clock and terms of a symbol's models, and of the ensemble behind them."""
    is_agent = [bool(model.account_columns) for model in models.values()] + [False] * (bundle.ensemble is not None)
    rules = bundle.trading
    shared = rules.make_terms(capital=rules.capital / len(bundle.bars.symbols))
    alone = rules.make_terms(capital=rules.capital)  # an agent learned as if all of it were its own
    terms = [alone if agent else shared for agent in is_agent]
    return accounts.make_accounts(terms, starts_flat=is_agent, delay_bars=rules.delay_bars)


def _plan(models: Mapping[str, ModelPart], bundle: Contract) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the plan (M, 10) of a symbol's models, the places of their columns, and their sizes (M, 3)."""
    places: list[int] = []
    plan, sizes = np.zeros((len(models), 10), np.int64), np.full((len(models), 3), np.nan)
    begin = np.zeros(2, np.int64)
    weights = bundle.ensemble.weights if bundle.ensemble else {}
    for m, (name, model) in enumerate(models.items()):
        kind, low, high, share = _find_score(model.make_output())
        columns, window = len(model.columns), model.window or 1
        plan[m] = (
            *(begin[0], window, columns, len(places), len(model.account_columns)),
            *(begin[1], len(model.output.names), kind, low, high),
        )
        places += [bundle.columns.index(column) for column in model.columns]
        begin += _align(np.array([window * (columns + len(model.account_columns)), len(model.output.names)]))
        is_position = model.output.kind == "position"
        full = NAN if is_position else (model.score_std or 0.0) * bundle.trading.full_position_std
        sizes[m] = share, full, weights.get(name, NAN)
    return plan, np.array(places, np.int64), sizes


def _find_score(output: Output) -> tuple[int, int, int, float]:
    """Return how a score is made of an answer: the kind, two places in it, and the share of the second."""
    if output.no_score_reason:
        return kernels.NO_SCORE, 0, 0, 0.0
    if output.kind == "classes":
        return kernels.DIFFERENCE, 0, len(output.names) - 1, 0.0
    if output.kind == "probability":
        return kernels.PROBABILITY, 0, 0, 0.0
    if output.kind == "quantiles":
        below, above, share = output.find_median()
        return kernels.INTERPOLATED, below, above, share
    return kernels.NUMBER, 0, 0, 0.0


def _align(sizes: np.ndarray) -> np.ndarray:
    return -(-sizes // ALIGNED) * ALIGNED


def _check_graph(name: str, model: ModelPart, session: onnxruntime.InferenceSession) -> None:
    """Raise ValueError where a graph has another input or answer than its contract says."""
    width = len(model.columns) + len(model.account_columns)
    expected = [[width] if model.window is None else [model.window, width], [len(model.output.names)]]
    found = [each.shape[1:] for each in (*session.get_inputs(), *session.get_outputs())]
    if found != expected:
        raise ValueError(
            f"{model.graph}: its input and answer are {found}, models.{name} says {expected}; make the bundle again"
        )


def _to_json(value: Any) -> Any:
    """Return a value whose NaN, in mappings and lists too, are None."""
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, dict):
        return {key: _to_json(each) for key, each in value.items()}
    return [_to_json(each) for each in value] if isinstance(value, (list, tuple)) else value
