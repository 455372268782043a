"""What the pipeline computes in bulk, as a hot path is compared with it: inputs, answers, targets, positions, accounts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime
import pandas as pd

from pipeline.deployment.contract import Contract, ModelPart
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


def find_stretch_fills(stretch: Stretch, *, delay_bars: int) -> Fills:
    """Return the fills (B,) of orders decided at the close of each bar of a stretch."""
    return find_fills(stretch.bars, delay_bars=delay_bars)


def answer(session: onnxruntime.InferenceSession, inputs: np.ndarray, *, batch: int) -> np.ndarray:
    """Return the answers (n, outputs) of a graph, `batch` inputs at a time."""
    parts = [session.run(["answer"], {"inputs": part})[0] for part in split_into_batches(inputs, size=batch)]
    return np.concatenate(parts)


def size_targets(answers: np.ndarray, model: ModelPart, *, full_position_std: float) -> np.ndarray:
    """Return the target positions (n,) float64 of answers (n, outputs); NaN where they have no score."""
    output = model.make_output()
    if output.no_score_reason:
        return np.full(len(answers), np.nan)
    score = output.to_score(answers).astype(np.float64)
    if output.kind == "position":
        return np.asarray(score.clip(-1, 1))
    full = (model.score_std or 0.0) * full_position_std
    return np.asarray((score / full).clip(-1, 1)) if full > 0 else np.zeros(len(score))


def combine_targets(targets: Mapping[str, np.ndarray], bundle: Contract, bars_of_run: np.ndarray) -> np.ndarray:
    """Return the targets (n,) of the ensemble from those of its members, (n,) each.

    `bars_of_run` (n,) counts the bars with features since the start of the segment: a window is full from its length on.
    """
    total = np.zeros(len(bars_of_run))
    assert bundle.ensemble is not None
    for name, target in targets.items():
        if name in bundle.ensemble.weights:
            is_full = bars_of_run >= (bundle.models[name].window or 1)
            total += bundle.ensemble.weights[name] * np.where(is_full, target, 0.0)
    return np.asarray(total.clip(-1, 1))


def count_bars_of_run(segment: np.ndarray) -> np.ndarray:
    """Return (N,) the number of each row in its segment, from 1 on."""
    begins = np.flatnonzero(np.diff(segment, prepend=segment[:1] - 1))
    return np.arange(len(segment)) - np.repeat(begins, np.diff(begins, append=len(segment))) + 1


def hold(targets: np.ndarray, fills: Fills, terms: Terms) -> np.ndarray:
    """Return the positions (n,) after the fill of each order; NaN closes."""
    return trade(targets, fills, terms).position


def follow_account(targets: np.ndarray, starts: np.ndarray, fills: Fills, terms: Terms) -> np.ndarray:
    """Return (n, 3) float32 what an agent that decides `targets` sees of its account; it is flat where a run starts."""
    seen, filled = np.zeros((len(targets), 3), np.float32), np.zeros(len(targets))
    before: list[tuple[float, float, int]] = []
    account, first = (0.0, 0.0, 0), 0
    arrays = zip(*fills.list_arrays(), strict=True)
    for i, (target, fill) in enumerate(zip(targets, arrays, strict=True)):
        if starts[i]:
            account, first = (0.0, 0.0, 0), i
        if (at := i - int(fills.lag[i])) >= first:
            weight, unrealized, age = mark_account(filled[at], before[at], fills.mark[i], terms)
            seen[i] = weight, unrealized, np.log1p(age)
        before.append(account)
        step, *rest = step_account(target, *account, fill, False, terms)
        account, filled[i] = (rest[0], rest[1], rest[2]), step.position
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


def find_first(differs: Iterable[bool]) -> int | None:
    """Return the place of the first difference; None without one."""
    found = np.flatnonzero(np.asarray(list(differs)))
    return int(found[0]) if len(found) else None
