"""The time of an update of a hot path, beside its parts alone, the trained models, and the usual way to serve them.

All take the same bars in turns, a block of them each, so that whatever else the machine does meets all of them.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pandas as pd

from pipeline.deployment.contract import Contract
from pipeline.deployment.hot_path import HotPath
from pipeline.deployment.lane import NO_FEATURES, Lane
from pipeline.deployment.merged_graph import Graphs, bind_graphs, open_graph

Bar = Mapping[str, Any]
Predict = Callable[[np.ndarray], object]  # of a trained model
BLOCK_BARS = 50
NATIVE_BARS = 5  # of each block, which trained models predict


class Parts(NamedTuple):
    """Median µs of an update, and of what it consists of."""

    whole_us: float
    within_us: dict[str, float]  # features, models and all else, in an update
    alone_us: dict[str, float]  # features and each model, each in a loop of its own
    native_us: dict[str, float]  # the prediction of trained models, by their own library
    naive_us: float  # a row of pandas, columns by name, and new arrays for every graph


class Spent:
    """Times in ns, by group and name."""

    def __init__(self) -> None:
        """Begin without times."""
        self._ns: dict[str, dict[str, list[int]]] = {}

    def add(self, group: str, name: str, ns: int) -> None:
        """Add a time."""
        self._ns.setdefault(group, {}).setdefault(name, []).append(ns)

    def time_each(self, group: str, name: str, step: Callable[[Any], object], given: Iterable[Any]) -> None:
        """Time a step for each of what it is given."""
        clock = time.perf_counter_ns
        for each in given:
            begin = clock()
            step(each)
            self.add(group, name, clock() - begin)

    def find_medians(self, group: str) -> dict[str, float]:
        """Return the median µs of each name of a group."""
        return {name: float(np.median(ns)) / 1e3 for name, ns in self._ns.get(group, {}).items()}


def measure_parts(
    bundle: Contract,
    graphs: Graphs,
    bars: Sequence[Bar],
    *,
    native: Mapping[str, Predict],
    warm_up_bars: int,
) -> Parts:
    """Return the times of the bars after the first `warm_up_bars`, of the first symbol, without waits."""
    symbol, spent = bundle.bars.symbols[0], Spent()
    whole, other = (HotPath(bundle, bind_graphs(graphs)) for _ in range(2))
    within = other.lanes[symbol]
    alone, naive = PartsAlone(symbol, bundle, graphs, native), NaiveServer(symbol, bundle, graphs)
    for bar in bars[:warm_up_bars]:
        for path in (whole, other):
            path.update(bar)
        for stream in (alone.lane.stream, naive.stream):
            stream.update(bar)
    for start in range(warm_up_bars, len(bars), BLOCK_BARS):
        block = bars[start : start + BLOCK_BARS]
        spent.time_each("whole", "", whole.update, block)
        recorded = []
        for bar in block:
            for name, ns in _time_update(within, bar).items():
                spent.add("within", name, ns)
            recorded.append(within.inputs.copy())
        alone.take(block, recorded, spent)
        spent.time_each("naive", "", naive.update, block)
    within_us, alone_us, native_us = (spent.find_medians(group) for group in ("within", "alone", "native"))
    return Parts(spent.find_medians("whole")[""], within_us, alone_us, native_us, spent.find_medians("naive")[""])


class PartsAlone:
    """The features, each graph, and each trained model, by itself."""

    def __init__(self, symbol: str, bundle: Contract, graphs: Graphs, native: Mapping[str, Predict]) -> None:
        """Bind each graph of a symbol by itself to the inputs of a lane."""
        self.lane = HotPath(bundle, lambda places: []).lanes[symbol]
        places = self.lane.find_places()
        self.runs = {name: bind_graphs({name: graphs[name]})({name: place}) for name, place in places.items()}
        self.native = {name: partial(native[name], place[0]) for name, place in places.items() if name in native}

    def take(self, block: Sequence[Bar], recorded: Sequence[np.ndarray], spent: Spent) -> None:
        """Time each part for a block of bars, of which a lane's inputs were `recorded`."""
        spent.time_each("alone", "features", self.lane.stream.update, block)
        for name, (run,) in self.runs.items():
            spent.time_each("alone", name, lambda run: run(), _replay(self.lane, recorded, run))
        for name, predict in self.native.items():
            spent.time_each("native", name, lambda run: run(), _replay(self.lane, recorded[:NATIVE_BARS], predict))


def _replay(lane: Lane, recorded: Sequence[np.ndarray], run: Callable[[], object]) -> Iterator[Callable[[], object]]:
    """Yield a run for each bar, once the inputs of a lane are those of the bar."""
    for inputs in recorded:
        lane.inputs[:] = inputs
        yield run


def _time_update(lane: Lane, bar: Bar) -> dict[str, int]:
    """Return the ns of each part of an update, one after another as in `Lane.take`, where features are there."""
    clock = time.perf_counter_ns
    begin = clock()
    x = lane.stream.update(bar)
    computed = clock()
    lane.prepare(NO_FEATURES if x is None else x, starts=False, has_features=x is not None)
    prepared = clock()
    for run in lane.runs:
        run()
    predicted = clock()
    lane.finish(has_predicted=x is not None, starts=False)
    lane.describe()
    glue = clock() - predicted + prepared - computed
    return {"features": computed - begin, "models": predicted - prepared, "glue": glue}


class NaiveServer:
    """The usual way: a row of pandas, columns by name, and new arrays for every graph."""

    def __init__(self, symbol: str, bundle: Contract, graphs: Graphs) -> None:
        """Open a session of each graph of a symbol's models."""
        lane = HotPath(bundle, lambda places: []).lanes[symbol]
        self.stream, self.models = lane.stream, lane.models
        self.sessions: dict[str, onnxruntime.InferenceSession] = {
            name: open_graph(graphs[name]) for name in self.models
        }
        self.rows = pd.DataFrame(columns=list(self.stream.columns), dtype=np.float32)
        self.longest = max(model.window or 1 for model in self.models.values())

    def update(self, bar: Bar) -> dict[str, Any]:
        """Return the predictions of all models whose windows are full."""
        x = self.stream.update(bar)
        if x is None:
            return {}
        columns, predictions = list(self.stream.columns), {}
        self.rows = pd.concat([self.rows, pd.DataFrame([x], columns=columns)]).tail(self.longest)
        for name, model in self.models.items():
            own = self.rows[model.columns].to_numpy(np.float32)
            account = np.zeros(len(model.account_columns), np.float32)
            inputs = np.append(own[-1], account)[None] if model.window is None else own[None, -model.window :]
            if inputs.shape[-2] == (model.window or 1):
                (predictions[name],) = self.sessions[name].run(["answer"], {"inputs": inputs})
        return predictions
