"""Certify a bundle: replay recorded bars, bars with holes, restarts and a cold start, see `replay`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from pipeline import config
from pipeline.deployment import bulk, contract, replay
from pipeline.deployment.bulk import Stretch
from pipeline.deployment.contract import Contract
from pipeline.deployment.hot_path import HotPath
from pipeline.deployment.replay import Found, Reference, ReplayError
from pipeline.features.params import separate_cross_section
from pipeline.market.bars import number_segments

LONGEST_HOLE = 5  # bars

log = logging.getLogger(__name__)


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
        ParamsError: no bar with holes before it has features, so that nothing of them was compared.
    """
    rng, bundle = np.random.default_rng(seed), load().contract
    found: dict[str, Any] = {"recorded": {}, "holes": {}, "cold_start": {}}
    measured: dict[str, Any] = {"recorded": {}, "holes": {}}
    for symbols in list_groups(bundle):
        stretches = take_stretches(market, symbols, bundle, bars=max(1, settings.bars // len(bundle.bars.symbols)))
        times = np.unique(np.concatenate([each.bars["open_time"].iloc[each.first :] for each in stretches.values()]))
        restarts = sorted(rng.choice(times, min(settings.restarts, len(times)), replace=False).tolist())
        parts = {"recorded": (stretches, restarts)}
        if settings.holes:
            torn = make_holes(stretches, bundle, settings=settings, restarts_at_closings=restarts_at_closings, rng=rng)
            parts["holes"] = (torn, [])
            log.info("replay: %d holes are cut into the last bars of each symbol, which warnings name", settings.holes)
        for name, (part, places) in parts.items():
            compared = play_and_compare(load, part, reference, restarts=places)
            found[name] |= {key: describe_stretch(part[key], each, places) for key, each in compared.items()}
            measured[name] |= {key: each.measured for key, each in compared.items()}
        found["cold_start"] |= start_cold(stretches, bundle, settings)
    if settings.holes and found["recorded"] and not found["holes"]:
        raise config.ParamsError(
            f"replay.hole_bars is {settings.hole_bars}: so few bars, less {settings.holes} holes, have no features: "
            f"the warm-up has {bundle.warm_up_bars} bars. Raise it, or set replay.holes to 0 to certify none"
        )
    return found, measured


def list_groups(bundle: Contract) -> list[list[str]]:
    """Return the symbols whose bars are fed together: each by itself, or all where there are columns among them."""
    return [bundle.cross_section.symbols] if bundle.cross_section else [[name] for name in bundle.bars.symbols]


def play_and_compare(
    load: Callable[[], HotPath], stretches: Mapping[str, Stretch], reference: Reference, *, restarts: Sequence[int]
) -> dict[str, Found]:
    """Return the comparison of each symbol that is predicted and has features; ReplayError names a difference."""
    hot_path = load()
    return {
        symbol: replay.compare(record, lane, stretches[symbol], reference, hot_path=hot_path)
        for symbol, (record, lane) in replay.play(load, stretches, restarts=restarts).items()
        if len(stretches[symbol].rows)
    }


def take_stretches(market: Market, symbols: Sequence[str], bundle: Contract, *, bars: int) -> dict[str, Stretch]:
    """Return the bars of symbols at their last `bars` open times, and as history all that their features rest on.

    That is the rest of the segments that they begin in; where there are columns among symbols, so many bars before,
    and the rest of the segments of all symbols there.
    """
    tables = {name: market.bars[market.bars["symbol"] == name].reset_index(drop=True) for name in symbols}
    times = {name: own["open_time"].to_numpy() for name, own in tables.items()}
    all_times = np.unique(np.concatenate([*times.values()]))
    first = {name: int(np.searchsorted(own, all_times[-bars:][0])) for name, own in times.items()}
    _, among = separate_cross_section(bundle.features)
    lookback = max(among.warm_up_bars.values()) if among else 0
    earliest = min(own[max(0, min(first[name], len(own) - 1) - lookback)] for name, own in times.items())
    begin = min(find_segment_start(own, earliest) for own in tables.values())
    keys = pd.MultiIndex.from_arrays([market.keys["segment"], market.keys["time"]])
    stretches = {}
    for name, own in tables.items():
        skipped = int(np.searchsorted(times[name], begin))
        own = own.iloc[skipped:].reset_index(drop=True)
        place = pd.MultiIndex.from_arrays([own["segment"], own["open_time"]]).get_indexer(keys)
        rows = np.flatnonzero(place >= 0)
        samples = bulk.make_samples(own, place[rows], market.x[rows], market.columns)
        stretches[name] = Stretch(own, first[name] - skipped, place[rows], samples)
    return stretches


def find_segment_start(bars: pd.DataFrame, time_ms: int) -> float:
    """Return when the segment begins of the first bar of a symbol from a time on; infinity where there is none."""
    time, segment = bars["open_time"].to_numpy(), bars["segment"].to_numpy()
    place = int(np.searchsorted(time, time_ms))
    return float(time[np.argmax(segment == segment[place])]) if place < len(time) else np.inf


def make_holes(
    stretches: Mapping[str, Stretch],
    bundle: Contract,
    *,
    settings: ReplaySettings,
    restarts_at_closings: bool,
    rng: np.random.Generator,
) -> dict[str, Stretch]:
    """Return the last bars of each symbol with holes of 1 to LONGEST_HOLE bars of its own, and their features anew."""
    tables = []
    for stretch in stretches.values():
        bars = stretch.bars.tail(settings.hole_bars).reset_index(drop=True)
        count = min(settings.holes, len(bars) // 10)
        begins = rng.choice(np.arange(1, len(bars) - 1), count, replace=False)
        lengths = rng.integers(1, LONGEST_HOLE + 1, len(begins))
        gone = np.concatenate([np.arange(a, a + n) for a, n in zip(begins, lengths, strict=True)] or [np.empty(0, int)])
        tables.append(bars.iloc[np.setdiff1d(np.arange(len(bars)), gone)])
    bars = pd.concat(tables, ignore_index=True)
    bars["segment"] = number_segments(bars, at_closings=restarts_at_closings)
    return bulk.compute_stretches(bars, bundle)


def start_cold(stretches: Mapping[str, Stretch], bundle: Contract, settings: ReplaySettings) -> dict[str, Any]:
    """Return by symbol how many bars after a cold start every feature stays within a tolerance of the pipeline's.

    Raises:
        ReplayError: some are not after `cold_start_bars`; names the worst.
    """
    begins = {name: max(0, stretch.first - settings.cold_start_bars) for name, stretch in stretches.items()}
    cold = bulk.compute_stretches(
        pd.concat([stretch.bars.iloc[begins[name] :] for name, stretch in stretches.items()]), bundle
    )
    return {
        name: {
            "history_bars": stretches[name].first - begins[name],
            "tolerance_std": settings.cold_start_tolerance,
            "within_after_bars": count_cold_bars(cold[name], stretches[name], settings, begin=begins[name]),
        }
        for name in bundle.bars.symbols
        if name in cold and len(stretches[name].rows)
    }


def count_cold_bars(cold: Stretch, stretch: Stretch, settings: ReplaySettings, *, begin: int) -> int:
    """Return after how many bars of `cold`, those from place `begin` on, every feature stays within the tolerance."""
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
    return bars


def describe_stretch(stretch: Stretch, found: Found, restarts: Sequence[int]) -> dict[str, Any]:
    """Return what a replay covered, and how much was compared: nothing of it differs, else there is no certificate."""
    own = stretch.bars.iloc[stretch.first :]
    return {
        "bars": found.bars,
        "first_open_time": int(own["open_time"].iloc[0]),
        "last_open_time": int(own["open_time"].iloc[-1]),
        "segments": int(own["segment"].nunique()),
        "bars_with_features": found.rows,
        "restarts_at": list(restarts),
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
