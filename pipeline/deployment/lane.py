"""One symbol's way from a bar to a signal: its stream of features, inputs, graphs and accounts."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipeline.deployment import accounts, kernels
from pipeline.deployment.contract import Contract, ModelPart
from pipeline.deployment.signals import Signal
from pipeline.features.engine import Stream
from pipeline.features.params import separate_cross_section
from pipeline.targets import Output
from pipeline.trading import Terms

ALIGNED = 16  # float32 numbers: each block of inputs and predictions begins on a cache line
NAN = float("nan")
NO_FEATURES = np.zeros(0, np.float32)
Arrays = dict[str, np.ndarray]
Run = Callable[[], None]  # computes predictions from inputs
Places = Mapping[str, tuple[np.ndarray, np.ndarray]]  # by model: its input and its prediction, (1, …) each
Bind = Callable[[Places], list[Run]]  # of all models of a symbol; the runs are made one after another


class Lane:
    """All that one symbol needs: its stream, inputs, graphs and accounts."""

    def __init__(self, bundle: Contract, symbol: str, bind: Bind) -> None:
        """Lay out the memory of a symbol's models, and bind them to it."""
        self.symbol = symbol
        self.models = {name: model for name, model in bundle.models.items() if symbol in model.symbols}
        self.stream, self.columns = make_stream(bundle, symbol), bundle.columns
        among_symbols = list(bundle.cross_section.columns) if bundle.cross_section else []
        if [*self.stream.columns, *among_symbols] != self.columns:
            raise ValueError(
                "contract: this code computes other columns than the bundle was made with; make the bundle again"
            )
        self.warm_up_bars = bundle.warm_up_bars
        self._closes = bundle.bars.calendar.get("positions") == "close"
        self.plan, self.places, self.sizes = _plan(self.models, bundle)
        widths = (self.plan[:, kernels.COLUMNS] + self.plan[:, kernels.ACCOUNT]) * self.plan[:, kernels.WINDOW]
        self.inputs = np.zeros(_align(widths).sum(), np.float32)
        self.predictions = np.full(_align(self.plan[:, kernels.OUTPUTS]).sum(), np.nan, np.float32)
        weights = bundle.ensemble.weights if bundle.ensemble else {}
        self.members = np.array([list(self.models).index(name) for name in weights if name in self.models], np.int64)
        self.accounts, self.clock, self.terms = _make_accounts(self.models, bundle)
        self.seen, self.scores = np.zeros((len(self.accounts), accounts.SEEN)), np.zeros(len(self.models), np.float32)
        self.targets, self.rows = np.full(len(self.accounts), np.nan), 0
        self.names = [*self.models, *([bundle.ensemble.name] if bundle.ensemble else [])]  # of the accounts
        self.band, self.signal = bundle.trading.no_trade_band, bundle.signal
        self.x: np.ndarray | None = None  # (F,) features of the last bar; None while they warm up
        self.runs = bind(self.find_places())
        self.predictions_by_model = [  # name, first and one beyond the last of its predictions, bars of its window
            (name, row[kernels.PREDICTION], row[kernels.PREDICTION] + row[kernels.OUTPUTS], row[kernels.WINDOW])
            for name, row in zip(self.models, self.plan.tolist(), strict=True)
        ]
        self._longest_window = int(self.plan[:, kernels.WINDOW].max())
        places = self._list_places()
        self._full = [(name, start, stop, True) for name, start, stop, _ in places]
        heads = {name: start + 1 for name, start, _, _ in places}
        heads |= dict.fromkeys(self.names[len(self.models) :], places[-1][2])
        self._traded = heads.get(bundle.signal)  # the place of its target; its position follows
        self.numbers = np.full(places[-1][2] + 2, np.nan)  # of a signal

    def find_places(self) -> Places:
        """Return the places of each model in `inputs` and `predictions`."""
        places = {}
        for (name, model), row in zip(self.models.items(), self.plan.tolist(), strict=True):
            width, window = row[kernels.COLUMNS] + row[kernels.ACCOUNT], model.window
            shape = (1, width) if window is None else (1, window, width)
            start, prediction = row[kernels.INPUT], row[kernels.PREDICTION]
            places[name] = (
                self.inputs[start : start + width * (window or 1)].reshape(shape),
                self.predictions[prediction : prediction + row[kernels.OUTPUTS]].reshape(1, -1),
            )
        return places

    def take(
        self, bar: Mapping[str, Any], *, now_ms: float | None, decides: bool, position: float | None = None
    ) -> bool:
        """Advance by a bar; return whether the graphs have predicted: where `decides`, and features are there.

        `position` is what the account of the signal really holds at its close, where that is known.
        """
        x = self.stream.update(bar, now_ms=now_ms)
        return self.decide(x, decides=decides, position=position)

    def decide(self, x: np.ndarray | None, *, decides: bool, position: float | None = None) -> bool:
        """Go on from the columns (F,) of the last bar of the stream, see `take`; None: they are not there."""
        stream, self.x = self.stream, x
        if position is not None:
            self.set_position(position, name=self.signal)
        has_features = x is not None
        starts = has_features and stream.segment_bars == self.warm_up_bars + 1
        self.rows = 1 if starts else self.rows + has_features
        self.prepare(NO_FEATURES if x is None else x, starts=starts, has_features=has_features)
        predicts = has_features and decides
        if predicts:
            for run in self.runs:
                run()
        self.finish(has_predicted=predicts, starts=starts)
        return predicts

    def prepare(self, x: np.ndarray, *, starts: bool, has_features: bool) -> None:
        """Fill what the last bar fills, and the inputs of all models; it `starts` the features of a segment, or not."""
        clock = self.stream.clock
        flags = kernels.AFTER_GAP if clock.missing_bars else 0
        flags |= kernels.CLOSES if self._closes and clock.ends_session else 0
        flags |= (kernels.HAS_FEATURES if has_features else 0) | (kernels.STARTS if starts else 0)
        own = self.accounts, self.clock, self.terms
        kernels.prepare(self.stream.last_bar, x, flags, self.plan, self.places, self.inputs, *own, self.seen)

    def finish(self, *, has_predicted: bool, starts: bool) -> None:
        """Make scores and targets of the predictions, and let the targets wait for their fill."""
        sizes, own = (self.plan, self.sizes, self.members), (self.accounts, self.clock, self.terms, self.seen)
        flags = (kernels.HAS_FEATURES if has_predicted else 0) | (kernels.STARTS if starts else 0)
        kernels.finish(self.predictions, *sizes, flags, self.rows, *own, self.scores, self.targets, self.numbers)

    def set_position(self, position: float, *, name: str) -> None:
        """Let an account hold this position at the close of the next bar; ValueError as `find_account`."""
        self.accounts[self.find_account(name), accounts.GIVEN] = position

    def find_account(self, name: str) -> int:
        """Return the place of the account of a model or an ensemble; ValueError where the symbol has none."""
        if name not in self.names:
            raise ValueError(f"position: {self.symbol} has no account of {name!r}; allowed are {', '.join(self.names)}")
        return self.names.index(name)

    def describe(self) -> Signal:
        """Return the signal of the last bar."""
        clock, numbers = self.stream.clock, self.numbers.tolist()
        places = self._full if self.rows >= self._longest_window else self._list_places()
        target, position = (NAN, 0.0) if self._traded is None else (numbers[self._traded], numbers[self._traded + 1])
        trades = abs(target - position) > self.band
        missing = clock.missing_bars
        return Signal(clock.time_ms, self.symbol, self.signal, target, position, trades, missing, numbers, places)

    def _list_places(self) -> list[tuple[str, int, int, bool]]:
        """Return the places of the models' numbers in a signal, and whether their windows are full at the last bar."""
        places, start = [], 0
        for name, row in zip(self.models, self.plan.tolist(), strict=True):
            stop = start + kernels.HEAD + row[kernels.OUTPUTS]
            places.append((name, start, stop, self.rows >= row[kernels.WINDOW]))
            start = stop
        return places

    def state(self) -> Arrays:
        """Return a copy of all that later signals depend on."""
        copies = {name: array.copy() for name, array in self._list_arrays().items()}
        return self.stream.state() | copies | {"rows": np.array([self.rows])}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Resume from a state of these models, as `HotPath.restore` has checked; ValueError of another stream."""
        self.stream.restore(state)
        for name, array in self._list_arrays().items():
            array[:] = state[name]
        self.rows = int(state["rows"][0])

    def list_terms(self) -> list[Terms]:
        """Return the terms of trading of every account."""
        return [Terms(*row[: accounts.STARTS_FLAT].tolist()) for row in self.terms]

    def _list_arrays(self) -> Arrays:
        return {"inputs": self.inputs, "accounts": self.accounts, "clock_of_accounts": self.clock}


def make_stream(bundle: Contract, symbol: str) -> Stream:
    """Return the stream of a symbol's columns that need no other symbol."""
    own, _ = separate_cross_section(bundle.features)
    bars = {"interval_ms": bundle.bars.interval_ms, "symbols": [symbol], "calendar": bundle.bars.calendar}
    stream = Stream(**own, **bars)
    stream.clock.warm_up_bars = bundle.warm_up_bars  # of which its warnings speak
    return stream


def _make_accounts(models: Mapping[str, ModelPart], bundle: Contract) -> tuple[np.ndarray, ...]:
    """Return accounts, clock and terms of a symbol's models, and of the ensemble behind them."""
    is_agent = [bool(model.account_columns) for model in models.values()] + [False] * (bundle.ensemble is not None)
    rules = bundle.trading
    shared = rules.make_terms(capital=rules.capital / len(bundle.bars.symbols))
    alone = rules.make_terms(capital=rules.capital)  # an agent learned as if all of it were its own
    terms = [alone if agent else shared for agent in is_agent]
    return accounts.make_accounts(terms, starts_flat=is_agent, delay_bars=rules.delay_bars)


def _plan(models: Mapping[str, ModelPart], bundle: Contract) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the plan (M, 10) of a symbol's models, the places of their columns, and their sizes (M, 3 + K)."""
    places: list[int] = []
    weights = bundle.ensemble.weights if bundle.ensemble else {}
    references = (bundle.ensemble.references if bundle.ensemble else None) or {}
    width = kernels.REFERENCE + len(next(iter(references.values()), ()))
    plan, sizes = np.zeros((len(models), 10), np.int64), np.full((len(models), width), np.nan)
    begin = np.zeros(2, np.int64)
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
        sizes[m, : kernels.REFERENCE] = share, full, weights.get(name, NAN)
        sizes[m, kernels.REFERENCE :] = references.get(name, NAN)
    return plan, np.array(places, np.int64), sizes


def _find_score(output: Output) -> tuple[int, int, int, float]:
    """Return how a score is made of a prediction: the kind, two places in it, and the share of the second."""
    if output.no_score_reason:
        return kernels.NO_SCORE, 0, 0, 0.0
    if output.kind == "classes":
        return kernels.DIFFERENCE, 0, len(output.names) - 1, 0.0
    if output.kind == "probability":
        return kernels.PROBABILITY, 0, 0, 0.0
    if output.kind == "quantiles":
        below, above, share = output.find_median()
        return kernels.INTERPOLATED, below, above, share
    last = len(output.names) - 1  # of several horizons; the only one else
    return kernels.NUMBER, last, last, 0.0


def _align(sizes: np.ndarray) -> np.ndarray:
    return -(-sizes // ALIGNED) * ALIGNED
