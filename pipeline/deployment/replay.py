"""The replay certificate: bars through a hot path against what the pipeline computes of them in bulk.

No bit may differ of features, of predictions against the same graph, and of targets and positions given the
predictions. These may differ from the trained model's up to the limits of parity. An error names bar and column or
model.
"""

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, cast

import numpy as np
import onnxruntime

from pipeline.deployment import accounts, bulk
from pipeline.deployment.bulk import Stretch
from pipeline.deployment.contract import Contract
from pipeline.deployment.hot_path import HotPath
from pipeline.deployment.lane import Lane
from pipeline.evaluation.voting import count_rows_so_far
from pipeline.fills import Fills
from pipeline.market.bar_reader import describe_time
from pipeline.market.bars import list_columns
from pipeline.models.base import Model

BATCH_ROWS = 4096  # predicted at once in bulk
ROUNDING = 1e-3  # of the capital: positions that differ by no more are those of rounded targets


class ReplayError(ValueError):
    """A hot path departs from what the pipeline computed."""


@dataclass(frozen=True, eq=False)
class Record:
    """The state of a lane at every bar of a stretch from its first on; NaN while features warm up."""

    x: np.ndarray  # (n, F) float32
    predictions: np.ndarray  # (n, numbers of all predictions) float32, as `Lane.predictions`
    targets: np.ndarray  # (n, A)
    seen: np.ndarray  # (n, A, 3)
    filled: np.ndarray  # (n, A), positions after the fill of the latest filled order


def play(
    load: Callable[[], HotPath], stretches: Mapping[str, Stretch], *, restarts: Collection[int] = ()
) -> dict[str, tuple[Record, Lane]]:
    """Return what a hot path had at every bar of each symbol; at `restarts`, open times, another one goes on from it.

    The bars go in one by one, or together where the bundle has columns among symbols.
    """
    hot_path, begin = load(), min(find_begin(stretch) for stretch in stretches.values())
    found: dict[str, list[tuple[np.ndarray, ...]]] = {symbol: [] for symbol in stretches if symbol in hot_path.lanes}
    for time, bars in merge_bars(stretches):
        if time in restarts:
            state = hot_path.state()
            hot_path = load()
            hot_path.restore(state)
        _feed(hot_path, bars, decides=time >= begin)
        for lane in (hot_path.lanes[bar["symbol"]] for bar in bars if bar["symbol"] in found and time >= begin):
            x = np.full(len(lane.columns), np.nan, np.float32) if lane.x is None else lane.x
            own = lane.predictions, lane.targets, lane.seen, lane.accounts[:, accounts.FILLED]
            found[lane.symbol].append((x, *(array.copy() for array in own)))
    return {
        symbol: (Record(*map(np.array, zip(*rows, strict=True))), hot_path.lanes[symbol])
        for symbol, rows in found.items()
        if rows
    }


def find_begin(stretch: Stretch) -> float:
    """Return the open time from which on a hot path decides; infinity where a stretch has no bar from there on."""
    return float(np.append(stretch.bars["open_time"].to_numpy(np.float64), np.inf)[stretch.first])


def merge_bars(stretches: Mapping[str, Stretch]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield each open time with the bars of all symbols that have one, as a feed gives them."""
    by_time = itemgetter("open_time")
    tables = [stretch.bars[list_columns(stretch.bars)].to_dict("records") for stretch in stretches.values()]
    bars = heapq.merge(*cast(list[list[dict[str, Any]]], tables), key=by_time)
    for time, together in groupby(bars, key=by_time):
        yield time, list(together)


def _feed(hot_path: HotPath, bars: Sequence[Mapping[str, Any]], *, decides: bool) -> None:
    if hot_path.contract.cross_section:
        (hot_path.update_together if decides else hot_path.observe_together)(bars)
        return
    for bar in bars:
        (hot_path.update if decides else hot_path.observe)(bar)


@dataclass(frozen=True, eq=False)
class Reference:
    """The trained models that a hot path is compared with, and ordinary sessions of the same graphs."""

    models: Mapping[str, Model]
    sessions: Mapping[str, onnxruntime.InferenceSession]
    mean_abs: float  # limits on |prediction - prediction of the trained model|
    max_abs: float
    max_relative: float
    single_sessions: Mapping[str, onnxruntime.InferenceSession] = field(default_factory=dict)  # of one row, batch fixed


@dataclass(frozen=True)
class Found:
    """The result of a comparison that passed, the part of it that every CPU has, and measurements."""

    bars: int
    rows: int  # with features
    compared: dict[str, int]  # how many features, predictions, targets and positions, none of which differs
    measured: dict[str, Any]  # by model


def compare(record: Record, lane: Lane, stretch: Stretch, reference: Reference, *, hot_path: HotPath) -> Found:
    """Return the comparison of a record with the bulk computations; ReplayError names the first difference."""
    bundle, rows = hot_path.contract, stretch.rows
    at = stretch.place[rows] - stretch.first  # of each row in the record
    _compare_features(record, stretch, at)
    so_far = count_rows_so_far(stretch.samples.segment)[rows]
    all_fills = bulk.find_stretch_fills(stretch, delay_bars=bundle.trading.delay_bars)
    fills = all_fills.take(np.arange(stretch.first, len(stretch.bars)))
    targets, measured, predicted = {}, {}, {}
    for m, (name, start, stop, _) in enumerate(lane.predictions_by_model):
        predictions, seen = record.predictions[at, start:stop], None
        predicted[name] = predictions
        if bundle.models[name].account_columns:
            seen = _compare_account(name, record, m, at, so_far == 1, fills, lane, stretch)
        inputs = bulk.make_inputs(reference.models[name], stretch, seen)
        measured[name] = _compare_predictions(name, predictions, inputs, reference, stretch, rows)
        full = bundle.trading.full_position_std
        targets[name] = bulk.size_targets(predictions, bundle.models[name], full_position_std=full)
        _raise_at(~_equal(record.targets[at, m], targets[name]), f"the target of {name}", stretch, rows)
    if bundle.ensemble:
        combined = bulk.combine(targets, predicted, bundle, so_far)
        _raise_at(~_equal(record.targets[at, -1], combined), f"the target of {bundle.ensemble.name}", stretch, rows)
    positions = _compare_positions(record, lane, stretch, fills)
    native = _predict_targets(stretch, reference, bundle, all_fills, so_far)
    for m, (name, terms) in enumerate(zip(lane.names, lane.list_terms(), strict=True)):
        own = np.full(len(record.x), np.nan)
        own[at] = native[name]
        apart = bulk.hold(own, fills, terms) - bulk.hold(record.targets[:, m], fills, terms)
        differs = np.abs(apart) > ROUNDING
        measured.setdefault(name, {}).update(_count_differences(differs, stretch))
    compared = {
        "features": record.x[at].size,
        "predictions": sum(len(rows) * (stop - start) for _, start, stop, _ in lane.predictions_by_model),
        "targets": len(rows) * len(lane.names),
        "positions": positions,
    }
    return Found(len(stretch.bars) - stretch.first, len(rows), compared, measured)


def _predict_targets(
    stretch: Stretch, reference: Reference, bundle: Contract, fills: Fills, so_far: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the targets (n,) of every trained model and of the ensemble, without a graph or a hot path."""
    targets, predictions, full = {}, {}, bundle.trading.full_position_std
    for name, fitted in reference.models.items():
        samples = stretch.samples.select_columns(fitted.signature.columns)
        predictions[name] = fitted.predict_rows(replace(samples, fills=fills.take(stretch.place)), stretch.rows)
        targets[name] = bulk.size_targets(predictions[name], bundle.models[name], full_position_std=full)
    if bundle.ensemble:
        targets[bundle.ensemble.name] = bulk.combine(targets, predictions, bundle, so_far)
    return targets


def _count_differences(differs: np.ndarray, stretch: Stretch) -> dict[str, Any]:
    """Return how many positions of the trained models' own predictions differ, and the open time of the first bar."""
    first = bulk.find_first(differs)
    time = None if first is None else int(stretch.bars["open_time"].iloc[stretch.first + first])
    return {"positions_different_from_model": int(differs.sum()), "first_at": time}


def _compare_features(record: Record, stretch: Stretch, at: np.ndarray) -> None:
    """Raise ReplayError where a streamed feature, or the rows that have features, are not those in bulk."""
    has = np.zeros(len(record.x), bool)
    has[at] = True
    wrong = bulk.find_first(has != ~np.isnan(record.x).all(axis=1))
    if wrong is not None:
        bar = _describe(stretch, stretch.first + wrong)
        raise ReplayError(f"features: there are some streamed or in bulk alone at bar {bar}")
    differs = record.x[at].view(np.int32) != stretch.samples.x[stretch.rows].view(np.int32)
    if differs.any():
        row, column = np.argwhere(differs)[0]
        raise ReplayError(
            f"feature {stretch.samples.columns[column]}: {differs.sum():,} of {differs.size:,} values differ, first at "
            f"bar {_describe(stretch, stretch.place[stretch.rows[row]])}"
        )


def _compare_account(
    name: str,
    record: Record,
    m: int,
    at: np.ndarray,
    starts: np.ndarray,
    fills: Any,
    lane: Lane,
    stretch: Stretch,
) -> np.ndarray:
    """Return what an agent saw of its account, (n, 3); ReplayError where its targets lead to another account."""
    starts = starts.copy()
    starts[0] = True
    seen = record.seen[at, m].copy()
    seen[:, 2] = np.log1p(seen[:, 2])
    seen = seen.astype(np.float32)
    expected = bulk.follow_account(record.targets[at, m], starts, fills.take(at), lane.list_terms()[m])
    _raise_at((seen != expected).any(axis=1), f"the account of {name}", stretch, stretch.rows)
    return np.asarray(seen)


def _compare_predictions(
    name: str, predictions: np.ndarray, inputs: np.ndarray, reference: Reference, stretch: Stretch, rows: np.ndarray
) -> dict[str, Any]:
    """Return differences of a model's predictions; ReplayError beyond the limits, or against the same graph."""
    session = reference.sessions[name]
    batched = bulk.run_graph(session, inputs, batch=BATCH_ROWS)
    differs = (batched != predictions).any(axis=1)
    remaining = differs.copy()
    for alone in (session, reference.single_sessions.get(name)):  # a graph may round one row otherwise than many,
        if remaining.any() and alone is not None:  # and otherwise again where its batch is fixed at one
            single = bulk.run_graph(alone, inputs[remaining], batch=1)
            remaining[remaining] = (single != predictions[remaining]).any(axis=1)
    _raise_at(remaining, f"the prediction of {name}", stretch, rows)
    native = bulk.predict_in_batches(reference.models[name], inputs).astype(np.float64)
    for other, against in ((native, "the trained model"), (batched, "the graph in batches")):
        difference = np.abs(predictions - other)
        relative = difference / np.maximum(np.abs(native), reference.mean_abs / reference.max_relative)
        is_within = (difference <= reference.max_abs) & (relative <= reference.max_relative)
        _raise_at(
            ~is_within.all(axis=1), f"the prediction of {name}, beyond parity's limits, and {against}'s", stretch, rows
        )
        if not difference.mean() <= reference.mean_abs:
            raise ReplayError(f"{name}: the mean difference from {against} is {difference.mean():.3g}, above mean_abs")
    return {
        "rows_rounded_otherwise_in_batches": int(differs.sum()),
        "max_abs_from_model": float(np.abs(predictions - native).max()),
    }


def _compare_positions(record: Record, lane: Lane, stretch: Stretch, fills: Fills) -> int:
    """Return how many positions of known fills are compared; ReplayError where the backtest has another one."""
    delay = len(lane.clock) - accounts.FLAGS
    place = np.arange(len(record.filled) - delay)
    after_gap = np.flatnonzero(fills.crosses_gap[:-1]) + 1  # bars before which some are missing
    for gap in after_gap.tolist():  # orders that lapse there are filled together
        place = place[(place < gap - delay) | (place >= gap)]
    for m, (name, terms) in enumerate(zip(lane.names, lane.list_terms(), strict=True)):
        expected = bulk.hold(record.targets[:, m], fills, terms)
        differs = expected[place] != record.filled[place + delay, m]
        _raise_at(differs, f"the position of {name}", stretch, None, place=place + stretch.first)
    return len(place) * len(lane.names)


def _equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)))


def _raise_at(
    differs: np.ndarray, what: str, stretch: Stretch, rows: np.ndarray | None, *, place: np.ndarray | None = None
) -> None:
    """Raise ReplayError where anything differs, with the count and the first bar."""
    if differs.any():
        places = stretch.place[rows] if rows is not None else place
        assert places is not None
        first = int(places[int(np.argmax(differs))])
        raise ReplayError(
            f"{what} differs at {differs.sum():,} of {len(differs):,} bars, first at bar {_describe(stretch, first)}"
        )


def _describe(stretch: Stretch, place: int) -> str:
    bar = stretch.bars.iloc[int(place)]
    return f"{place} of {bar['symbol']}, open_time {describe_time(int(bar['open_time']))}"
