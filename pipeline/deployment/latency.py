"""The latency of a hot path: bars arrive on a schedule that does not wait for it, and each is timed from its arrival.

A loop that feeds the next bar once the last is done would hide every delay behind the ones before ("coordinated
omission"). Here a bar that arrives while another is processed waits, and its wait counts.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import MinLen
from pydantic import PositiveFloat, PositiveInt

from pipeline.deployment.contract import Contract
from pipeline.deployment.hot_path import HotPath
from pipeline.deployment.latency_rule import THROUGHPUT
from pipeline.models.measurements import BYTES_PER_MB, measure_peak_bytes

Bar = Mapping[str, Any]
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
NS = 1e9
RESERVE_NS = 500_000  # before an arrival, in which caches are not warmed


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A service level agreement."""

    p50_us: PositiveFloat
    p99_us: PositiveFloat
    bars_per_second: PositiveFloat  # at saturation
    memory_mb: PositiveFloat  # resident, of the process
    ratio_to_parts: PositiveFloat  # of the median update without waits to the medians of its features and models


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """The section `latency` of params.yaml, but its datasets."""

    bars: PositiveInt  # that are timed, of each schedule
    arrivals: Annotated[list[Literal["constant", "poisson"]], MinLen(1)]
    bars_per_second: Annotated[list[PositiveFloat], MinLen(1)]
    warms_caches: Annotated[list[bool], MinLen(1)]  # whether `HotPath.warm_caches` runs between bars
    models: dict[str, list[str]]  # by name of a selection; an empty list: all
    limits: dict[str, float]


@dataclass(frozen=True)
class Latency:
    """Latencies of one schedule."""

    arrivals: str
    bars_per_second: float
    warms_caches: bool
    ns: np.ndarray  # (n,) from the scheduled arrival to the signal

    @property
    def name(self) -> str:
        """The kind of schedule, as a plot has it."""
        return f"{self.arrivals} arrivals" + (", warm caches" if self.warms_caches else "")

    def describe(self) -> dict[str, Any]:
        """Return the schedule and its percentiles in µs."""
        values = {f"p{p:g}_us": float(np.percentile(self.ns, p)) / 1e3 for p in PERCENTILES}
        largest = {"max_us": float(self.ns.max()) / 1e3}
        named = {name: getattr(self, name) for name in ("arrivals", "bars_per_second", "warms_caches")}
        return {**named, **values, **largest}


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


def measure_open_loop(
    update: Callable[[Bar], object],
    bars: Sequence[Bar],
    arrival_ns: np.ndarray,
    *,
    while_waiting: Callable[[], object] | None = None,
) -> np.ndarray:
    """Return (n,) ns from the scheduled arrival of each bar to the end of its update.

    `while_waiting` is called again and again until RESERVE_NS before an arrival.
    """
    clock, latency = time.perf_counter_ns, np.empty(len(bars), np.int64)
    begin = clock()
    for i, (bar, arrival) in enumerate(zip(bars, (arrival_ns + begin).tolist(), strict=True)):
        while (now := clock()) < arrival:
            if while_waiting is not None and arrival - now > RESERVE_NS:
                while_waiting()
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


def measure_memory_mb(folder: Path, bars: Sequence[Bar]) -> float:
    """Return the peak of the resident memory in MB of a process that loads a bundle and takes bars."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_find_peak_mb, (folder, list(bars)))


def _find_peak_mb(folder: Path, bars: Sequence[Bar]) -> float:
    hot_path = HotPath.load(folder)
    for bar in bars:
        hot_path.update(bar)
    return measure_peak_bytes() / BYTES_PER_MB


def judge(found: Mapping[str, float], limits: Limits) -> dict[str, dict[str, Any]]:
    """Return value, limit and verdict of each figure of a service level agreement; a throughput must be above its."""
    return {
        name: {
            "value": value,
            "limit": (limit := getattr(limits, name)),
            "holds": value >= limit if name == THROUGHPUT else value <= limit,
        }
        for name, value in found.items()
    }
