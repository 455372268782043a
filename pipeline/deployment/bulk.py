"""The computations of the pipeline in bulk that a hot path is compared with, from inputs to positions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
import pandas as pd

from pipeline.deployment.contract import Contract, ModelPart
from pipeline.evaluation.position_sizing import size_scores
from pipeline.evaluation.ranking import rank_scores
from pipeline.evaluation.voting import combine_targets
from pipeline.features.engine import compute
from pipeline.fills import Fills, find_fills
from pipeline.models.base import Model, split_into_batches
from pipeline.samples import Samples
from pipeline.trading import Terms, mark_account, step_account, trade


@dataclass(frozen=True, eq=False)
class Stretch:
    """Bars of one symbol in order, those before `first` as history, and their features."""

    bars: pd.DataFrame  # clean bars, (B,)
    first: int  # the bar from which on a hot path decides
    place: np.ndarray  # (N,) of the bar of each row of the samples
    samples: Samples  # the rows of `bars` that have features

    @property
    def rows(self) -> np.ndarray:
        """The rows of the samples from `first` on."""
        return np.flatnonzero(self.place >= self.first)


def make_samples(bars: pd.DataFrame, place: np.ndarray, x: np.ndarray, columns: Sequence[str]) -> Samples:
    """Return samples without labels of the features (N, F) of the bars at (N,) places."""
    time, segment = (bars[name].to_numpy()[place] for name in ("open_time", "segment"))
    nothing = np.full(len(place), np.nan, np.float32)
    return Samples(time, time, segment.astype(np.int32), x, tuple(columns), nothing, np.zeros(len(place), bool))


def compute_stretch(bars: pd.DataFrame, bundle: Contract) -> Stretch:
    """Return bars of one symbol with their features, computed from the first of them on."""
    (stretch,) = compute_stretches(bars, bundle).values()
    return stretch


def compute_stretches(bars: pd.DataFrame, bundle: Contract) -> dict[str, Stretch]:
    """Return the bars of each symbol with their features, computed together; `bars` are sorted by symbol and time."""
    bars = bars.reset_index(drop=True)
    features, stretches = compute(bars, **bundle.features), {}
    for symbol, own in bars.groupby("symbol", sort=False, observed=True):
        of_symbol = np.isin(features.rows, own.index)
        place, own = features.rows[of_symbol] - own.index[0], own.reset_index(drop=True)
        samples = make_samples(own, place, features.x[of_symbol], features.columns)
        stretches[str(symbol)] = Stretch(own, 0, place, samples)
    return stretches


def find_stretch_fills(stretch: Stretch, *, delay_bars: int) -> Fills:
    """Return the fills (B,) of orders decided at the close of each bar of a stretch."""
    return find_fills(stretch.bars, delay_bars=delay_bars)


def run_graph(session: onnxruntime.InferenceSession, inputs: np.ndarray, *, batch: int) -> np.ndarray:
    """Return the predictions (n, outputs) of a graph, `batch` inputs at a time."""
    parts = [session.run(["answer"], {"inputs": part})[0] for part in split_into_batches(inputs, size=batch)]
    return np.concatenate(parts)


def size_targets(predictions: np.ndarray, model: ModelPart, *, full_position_std: float) -> np.ndarray:
    """Return the target positions (n,) float64 of predictions (n, outputs); NaN where they have no score."""
    output = model.make_output()
    if output.no_score_reason:
        return np.full(len(predictions), np.nan)
    spread = np.full(len(predictions), np.nan if model.score_std is None else model.score_std)
    score = output.to_score(predictions)
    return size_scores(score, spread, kind=output.kind, full_position_std=full_position_std)


def combine(
    targets: Mapping[str, np.ndarray],
    predictions: Mapping[str, np.ndarray],
    bundle: Contract,
    rows_so_far: np.ndarray,
) -> np.ndarray:
    """Return the targets (n,) of the ensemble from those of all models, (n,) each, or from the ranks of their scores.

    `predictions` are (n, outputs) of each model. `rows_so_far` (n,) counts the rows with features of the segment: a
    window is full from its length on.
    """
    assert bundle.ensemble is not None
    weights, references = bundle.ensemble.weights, bundle.ensemble.references
    if references is not None:
        targets = {
            name: rank_scores(bundle.models[name].make_output().to_score(predictions[name]), np.array(references[name]))
            for name in weights
            if name in targets
        }
    members = [name for name in weights if name in targets]
    windows = np.array([bundle.models[name].window or 1 for name in members])
    return combine_targets(
        np.stack([targets[name] for name in members], axis=1),
        rows_so_far[:, None] >= windows,
        np.array([weights[name] for name in members]),
    )


def hold(targets: np.ndarray, fills: Fills, terms: Terms) -> np.ndarray:
    """Return the positions (n,) after the fill of each order; NaN closes."""
    return trade(targets, fills, terms).position


def follow_account(targets: np.ndarray, starts: np.ndarray, fills: Fills, terms: Terms) -> np.ndarray:
    """Return (n, 3) float32 what an agent that decides `targets` sees of its account; it is flat where a run starts."""
    seen, filled = np.zeros((len(targets), 3), np.float32), np.zeros(len(targets))
    before: list[tuple[float, float, int]] = []
    account: tuple[float, float, int] = (0.0, 0.0, 0)
    first = 0
    arrays = zip(*fills.list_arrays(), strict=True)
    for i, (target, (*fill, half_spread)) in enumerate(zip(targets, arrays, strict=True)):
        if starts[i]:
            account, first = (0.0, 0.0, 0), i
        if (at := i - int(fills.lag[i])) >= first:
            weight, unrealized, age = mark_account(filled[at], before[at], fills.mark[i], terms, fills.half_spread[at])
            seen[i] = weight, unrealized, np.log1p(age)
        before.append(account)
        step, held, unrealized, since = step_account(target, *account, tuple(fill), False, terms, half_spread)
        account, filled[i] = (held, unrealized, since), step.position
    return seen


def make_inputs(fitted: Model, stretch: Stretch, account: np.ndarray | None) -> np.ndarray:
    """Return the inputs of a model at the rows of a stretch; `account` (n, 3) follows an agent's columns."""
    samples = stretch.samples.select_columns(fitted.signature.columns)
    if account is None:
        return fitted.inputs(samples, stretch.rows)
    return np.concatenate([samples.x[stretch.rows], account], axis=1)


def predict_in_batches(fitted: Model, inputs: np.ndarray) -> np.ndarray:
    """Return the native predictions (n, outputs), a batch at a time."""
    return np.concatenate([fitted.predict(part) for part in split_into_batches(inputs)])


def find_first(differs: np.ndarray) -> int | None:
    """Return the place of the first difference; None without one."""
    found = np.flatnonzero(differs)
    return int(found[0]) if len(found) else None
