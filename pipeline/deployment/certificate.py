"""Certify a bundle: replay recorded bars, bars with holes, restarts and a cold start, see `replay`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from pipeline.deployment import bulk, contract, replay
from pipeline.deployment.bulk import Stretch
from pipeline.deployment.hot_path import HotPath
from pipeline.deployment.replay import Found, Reference, ReplayError
from pipeline.market.bars import number_segments

LONGEST_HOLE = 5  # bars


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """The section `replay` of params.yaml."""

    bars: PositiveInt  # the last ones, of all symbols together
    restarts: NonNegativeInt  # among them, at random: a hot path is made anew from the state of the one before
    holes: NonNegativeInt  # bars taken out at random, in the last `hole_bars`
    hole_bars: PositiveInt
    cold_start_bars: PositiveInt  # of history, with which a hot path starts in the middle
    cold_start_tolerance: PositiveFloat  # in standard deviations of a feature: from then on it differs by no more


@dataclass(frozen=True, eq=False)
class Market:
    """The clean bars of a dataset, and the features of the pipeline."""

    bars: pd.DataFrame  # all symbols
    x: np.ndarray  # (N, F) float32
    columns: tuple[str, ...]
    keys: pd.DataFrame  # segment, time of each row of x


def certify(
    load: Callable[[], HotPath],
    market: Market,
    reference: Reference,
    *,
    settings: ReplaySettings,
    restarts_at_closings: bool,
    seed: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the certificate of a bundle, and measurements of this machine.

    Raises:
        ReplayError: something differs; names bar, column or model.
    """
    rng, hot_path = np.random.default_rng(seed), load()
    symbols = hot_path.contract.bars.symbols
    found: dict[str, Any] = {"recorded": {}, "holes": {}, "cold_start": {}}
    measured: dict[str, Any] = {"recorded": {}, "holes": {}}
    for symbol in symbols:
        stretch = take_stretch(market, symbol, bars=max(1, settings.bars // len(symbols)))
        last = len(stretch.bars)
        count = min(settings.restarts, last - stretch.first)
        restarts = sorted(rng.choice(np.arange(stretch.first, last), count, replace=False).tolist())
        parts = {"recorded": (stretch, restarts)}
        if settings.holes:
            cut = make_holes(stretch, hot_path, settings=settings, restarts_at_closings=restarts_at_closings, rng=rng)
            parts["holes"] = (cut, [])
        for name, (part, places) in parts.items():
            record, lane = replay.play(load, part, restarts=places)
            compared = replay.compare(record, lane, part, reference, hot_path=hot_path)
            found[name][symbol] = describe_stretch(part, compared, places)
            measured[name][symbol] = compared.measured
        found["cold_start"][symbol] = start_cold(stretch, hot_path, settings)
    return found, measured


def take_stretch(market: Market, symbol: str, *, bars: int) -> Stretch:
    """Return the last bars of a symbol, and before them the rest of the segment that they begin in, as history."""
    own = market.bars[market.bars["symbol"] == symbol].reset_index(drop=True)
    segment, first = own["segment"].to_numpy(), max(0, len(own) - bars)
    begin = int(np.argmax(segment == segment[first]))
    own = own.iloc[begin:].reset_index(drop=True)
    places = pd.MultiIndex.from_arrays([own["segment"], own["open_time"]])
    keys = pd.MultiIndex.from_arrays([market.keys["segment"], market.keys["time"]])
    place = places.get_indexer(keys)
    rows = np.flatnonzero(place >= 0)
    return Stretch(own, first - begin, place[rows], bulk.make_samples(own, place[rows], market.x[rows], market.columns))


def make_holes(
    stretch: Stretch,
    hot_path: HotPath,
    *,
    settings: ReplaySettings,
    restarts_at_closings: bool,
    rng: np.random.Generator,
) -> Stretch:
    """Return the last bars of a stretch with holes of 1 to LONGEST_HOLE bars, and their features anew."""
    bars = stretch.bars.tail(settings.hole_bars).reset_index(drop=True)
    begins = rng.choice(np.arange(1, len(bars) - 1), min(settings.holes, len(bars) // 10), replace=False)
    lengths = rng.integers(1, LONGEST_HOLE + 1, len(begins))
    gone = np.concatenate([np.arange(a, a + n) for a, n in zip(begins, lengths, strict=True)] or [np.empty(0, int)])
    remaining = np.setdiff1d(np.arange(len(bars)), gone)
    bars = bars.iloc[remaining].reset_index(drop=True)
    bars["segment"] = number_segments(bars, at_closings=restarts_at_closings)
    return bulk.compute_stretch(bars, hot_path.contract)


def start_cold(stretch: Stretch, hot_path: HotPath, settings: ReplaySettings) -> dict[str, Any]:
    """Return how many bars after a cold start every feature is within a tolerance of the pipeline's, and stays there.

    Raises:
        ReplayError: some are not after `cold_start_bars`; names the worst.
    """
    begin = max(0, stretch.first - settings.cold_start_bars)
    cold = bulk.compute_stretch(stretch.bars.iloc[begin:].reset_index(drop=True), hot_path.contract)
    place, mine, theirs = np.intersect1d(cold.place + begin, stretch.place, return_indices=True)
    x, expected = cold.samples.x[mine].astype(np.float64), stretch.samples.x[theirs].astype(np.float64)
    difference = np.abs(x - expected) / np.maximum(expected.std(axis=0), np.finfo(np.float32).tiny)
    beyond = np.flatnonzero((difference > settings.cold_start_tolerance).any(axis=1))
    bars = 0 if not len(beyond) else int(place[beyond[-1]] - begin + 1)
    if bars > settings.cold_start_bars:
        row = beyond[-1]
        worst = int(np.argmax(difference[row]))
        raise ReplayError(
            f"cold start: after {bars:,} bars {stretch.samples.columns[worst]} still differs by "
            f"{difference[row, worst]:.3g} standard deviations, above replay.cold_start_tolerance, "
            f"{settings.cold_start_tolerance:g}; raise replay.cold_start_bars"
        )
    return {
        "history_bars": stretch.first - begin,
        "tolerance_std": settings.cold_start_tolerance,
        "within_after_bars": bars,
    }


def describe_stretch(stretch: Stretch, found: Found, restarts: Sequence[int]) -> dict[str, Any]:
    """Return what a replay covered, and how much was compared: nothing of it differs, else there is no certificate."""
    own = stretch.bars.iloc[stretch.first :]
    return {
        "bars": found.bars,
        "first_open_time": int(own["open_time"].iloc[0]),
        "last_open_time": int(own["open_time"].iloc[-1]),
        "segments": int(own["segment"].nunique()),
        "bars_with_features": found.rows,
        "restarts_at": [int(own["open_time"].iloc[place - stretch.first]) for place in restarts],
        "compared": found.compared,
    }


def describe(
    folder: Path, found: Mapping[str, Any], *, limits: Mapping[str, float], models: Sequence[str]
) -> dict[str, Any]:
    """Return the content of `certificate.json`."""
    return {
        "contract_sha256": contract.hash_contract(folder),
        "models": list(models),
        "limits_from_trained_model": dict(limits),
        **found,
    }
