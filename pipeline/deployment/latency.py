"""The latency of a hot path: bars arrive on a schedule that does not wait for it, and each is timed from its arrival.

A loop that feeds the next bar once the last is done would hide every delay behind the ones before ("coordinated
omission"). Here a bar that arrives while another is processed waits, and its wait counts.
"""

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import onnxruntime
import pandas as pd
from annotated_types import MinLen
from pydantic import PositiveFloat, PositiveInt

from pipeline.deployment.contract import Contract
from pipeline.deployment.hot_path import HotPath
from pipeline.deployment.lane import NO_FEATURES, Lane, bind_sessions

Bar = Mapping[str, Any]
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
NS = 1e9


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A service level agreement."""

    p50_us: PositiveFloat
    p99_us: PositiveFloat
    bars_per_second: PositiveFloat  # at saturation
    memory_mb: PositiveFloat  # resident, of the process
    ratio_to_parts: PositiveFloat  # of the median latency to the sum of its parts alone


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """The section `latency` of params.yaml, but its datasets."""

    bars: PositiveInt  # that are timed, of each schedule
    arrivals: Annotated[list[Literal["constant", "poisson"]], MinLen(1)]
    bars_per_second: Annotated[list[PositiveFloat], MinLen(1)]
    models: dict[str, list[str]]  # by name of a selection; an empty list: all
    limits: dict[str, float]


@dataclass(frozen=True)
class Latency:
    """Latencies of one schedule."""

    arrivals: str
    bars_per_second: float
    ns: np.ndarray  # (n,) from the scheduled arrival to the signal

    def describe(self) -> dict[str, Any]:
        """Return the schedule and its percentiles in µs."""
        values = {f"p{p:g}_us": float(np.percentile(self.ns, p)) / 1e3 for p in PERCENTILES}
        largest = {"max_us": float(self.ns.max()) / 1e3}
        return {"arrivals": self.arrivals, "bars_per_second": self.bars_per_second, **values, **largest}


def select_models(bundle: Contract, names: Sequence[str]) -> Contract:
    """Return the contract with these models alone; the weights of the ensemble stay as they are.

    Raises:
        ValueError: there is no such model.
    """
    if unknown := [name for name in names if name not in bundle.models]:
        raise ValueError(f"latency.models has {unknown}; the bundle has {', '.join(bundle.models)}")
    models = {name: bundle.models[name] for name in names or bundle.models}
    if bundle.ensemble is None:
        return bundle.model_copy(update={"models": models, "signal": next(iter(models))})
    weights = {name: weight for name, weight in bundle.ensemble.weights.items() if name in models}
    return bundle.model_copy(
        update={"models": models, "ensemble": bundle.ensemble.model_copy(update={"weights": weights})}
    )


def schedule(arrivals: str, bars: int, *, bars_per_second: float, seed: int) -> np.ndarray:
    """Return (bars,) ns of arrival after the start: equally spaced, or of a Poisson process."""
    if arrivals == "constant":
        return np.asarray(np.arange(bars) * (NS / bars_per_second)).astype(np.int64)
    gaps = np.random.default_rng(seed).exponential(NS / bars_per_second, bars)
    return np.asarray(np.cumsum(gaps)).astype(np.int64)


def measure_open_loop(update: Callable[[Bar], object], bars: Sequence[Bar], arrival_ns: np.ndarray) -> np.ndarray:
    """Return (n,) ns from the scheduled arrival of each bar to the end of its update."""
    clock, latency = time.perf_counter_ns, np.empty(len(bars), np.int64)
    begin = clock()
    for i, (bar, arrival) in enumerate(zip(bars, (arrival_ns + begin).tolist(), strict=True)):
        while clock() < arrival:
            pass
        update(bar)
        latency[i] = clock() - arrival
    return latency


def measure_saturation(update: Callable[[Bar], object], bars: Sequence[Bar]) -> tuple[float, float]:
    """Return bars per second without any wait, and µs of CPU time a bar."""
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    for bar in bars:
        update(bar)
    wall, cpu = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
    return len(bars) / wall * NS, cpu / len(bars) / 1e3


def measure_parts(lane: Lane, bars: Sequence[Bar]) -> dict[str, float]:
    """Return the median µs of each part of an update, one after another as in `Lane.take`, of the same bars."""
    clock, names = time.perf_counter_ns, ("features", *lane.models, "glue")
    spent = np.empty((len(bars), len(names)))
    for i, bar in enumerate(bars):
        begin = clock()
        x = lane.stream.update(bar)
        ends = [clock()]
        lane.prepare(NO_FEATURES if x is None else x, starts=False, has_features=x is not None)
        prepared = clock()
        for run in lane.runs:
            run()
            ends.append(clock())
        last = ends[-1]
        lane.finish(has_predicted=x is not None, starts=False)
        lane.describe()
        glue = clock() - last + prepared - ends[0]
        spent[i] = [ends[0] - begin, *np.diff([prepared, *ends[1:]]), glue]
    return dict(zip(names, (np.median(spent, axis=0) / 1e3).tolist(), strict=True))


def measure_alone(lane: Lane, bars: Sequence[Bar]) -> dict[str, float]:
    """Return the median µs of the features and of each model, each in a loop of its own."""
    clock, medians = time.perf_counter_ns, {}
    steps: dict[str, Callable[[Bar], object]] = {"features": lane.stream.update}
    for name, run in zip(lane.models, lane.runs, strict=True):
        steps[name] = lambda _, run=run: run()  # type: ignore[misc]
    for name, step in steps.items():
        spent = np.empty(len(bars), np.int64)
        for i, bar in enumerate(bars):
            begin = clock()
            step(bar)
            spent[i] = clock() - begin
        medians[name] = float(np.median(spent)) / 1e3
    return medians


def measure_naive(lane: Lane, sessions: Mapping[str, onnxruntime.InferenceSession], bars: Sequence[Bar]) -> float:
    """Return the median µs of the usual way: a row of pandas, columns by name, and new arrays for every graph."""
    columns, models, clock = list(lane.stream.columns), lane.models, time.perf_counter_ns
    rows = pd.DataFrame(columns=columns, dtype=np.float32)
    longest = max(model.window or 1 for model in models.values())
    spent = []
    for bar in bars:
        begin = clock()
        x = lane.stream.update(bar)
        if x is None:
            continue
        rows = pd.concat([rows, pd.DataFrame([x], columns=columns)]).tail(longest)
        for name, model in models.items():
            own = rows[model.columns].to_numpy(np.float32)
            account = np.zeros(len(model.account_columns), np.float32)
            inputs = np.append(own[-1], account)[None] if model.window is None else own[None, -model.window :]
            if inputs.shape[-2] == (model.window or 1):
                sessions[name].run(["answer"], {"inputs": inputs})
        spent.append(clock() - begin)
    return float(np.median(spent)) / 1e3


def measure_memory_mb() -> float:
    """Return the peak of the resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def make_hot_path(
    bundle: Contract, sessions: Mapping[str, onnxruntime.InferenceSession], names: Sequence[str]
) -> HotPath:
    """Return a hot path of some models of a bundle."""
    return HotPath(select_models(bundle, names), bind_sessions(sessions))


def judge(found: Mapping[str, float], limits: Limits) -> dict[str, dict[str, Any]]:
    """Return value, limit and verdict of each figure of a service level agreement; a throughput must be above its."""
    return {
        name: {
            "value": value,
            "limit": (limit := getattr(limits, name)),
            "holds": value >= limit if name == "bars_per_second" else value <= limit,
        }
        for name, value in found.items()
    }
