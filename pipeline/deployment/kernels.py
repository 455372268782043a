"""The compiled part of a hot path: from features to the graphs' inputs, and from their predictions to targets."""

from collections.abc import Callable
from typing import cast

import numpy as np
from numba import njit

from pipeline.deployment import accounts
from pipeline.features.chunks import CLOSE, OPEN, OPEN_TIME, QUOTE_VOLUME, VOLUME

# columns of the plan (M, 10), whole numbers of each model
INPUT, WINDOW, COLUMNS, PLACES, ACCOUNT, PREDICTION, OUTPUTS, KIND, LOW, HIGH = range(10)
DIFFERENCE, PROBABILITY, NUMBER, INTERPOLATED, NO_SCORE = range(5)  # KIND: how a score is made from LOW and HIGH
AFTER_GAP, CLOSES, HAS_FEATURES, STARTS = (
    1,
    2,
    4,
    8,
)  # flags of a bar; numba takes a number faster than a tuple of bools
HEAD = 3  # numbers of a model in a signal before its prediction: score, target and position
# columns of the sizes (M, 3 + K): share of HIGH in an interpolated score; score of a full position; weight in the
# ensemble; and the K scores among which a member's score is ranked, none where the ensemble sums positions
SHARE, FULL, WEIGHT, REFERENCE = range(4)

Kernel = Callable[..., None]
SOURCES = accounts.hash_sources()  # closed over: numba's cache key has the values that a function closes over


@njit(cache=True)
def _fill_input(
    x: np.ndarray, seen: np.ndarray, model: np.ndarray, places: np.ndarray, inputs: np.ndarray, starts: bool
) -> None:
    """Append a bar to the input of a model: the newest row of its window, or of all rows where features start."""
    width, window = model[COLUMNS] + model[ACCOUNT], model[WINDOW]
    block = inputs[model[INPUT] : model[INPUT] + window * width]
    newest = block[(window - 1) * width :]
    for i in range((window - 1) * width if not starts else 0):
        block[i] = block[i + width]
    for k in range(model[COLUMNS]):
        newest[k] = x[places[model[PLACES] + k]]
    if model[ACCOUNT]:
        newest[width - 3], newest[width - 2], newest[width - 1] = seen[0], seen[1], np.log1p(seen[2])
    if starts:
        for i in range((window - 1) * width):
            block[i] = newest[i % width]


@njit(cache=True)
def _make_score(prediction: np.ndarray, model: np.ndarray, share: float) -> np.float32:
    """Return the score of a prediction, in float32 as `Output.to_score` computes it; NaN where there is none."""
    low, high = prediction[model[LOW]], prediction[model[HIGH]]
    if model[KIND] == DIFFERENCE:
        score = high - low
    elif model[KIND] == PROBABILITY:
        score = np.float32(2) * low - np.float32(1)
    elif model[KIND] == INTERPOLATED:
        score = low + np.float32(share) * (high - low)
    elif model[KIND] == NUMBER:
        score = low
    else:
        score = np.float32(np.nan)
    return np.float32(min(max(score, np.float32(-1)), np.float32(1))) if score == score else score


@njit(cache=True)
def _size_score(score: np.float32, full: float) -> float:
    """Return the target position of a score; `full` is that of a full position, NaN where a score is a position."""
    target = float(score)
    if full == full:
        target = target / full if full > 0 else 0.0
    return min(max(target, -1.0), 1.0) if target == target else target


@njit(cache=True)
def _rank_score(score: float, reference: np.ndarray) -> float:
    """Return the rank of a score in [-1, 1], as `ranking.rank_scores` does."""
    count = 0
    for each in reference:
        count += (each < score) + (each <= score)
    return count / len(reference) - 1.0 if score == score else score


@njit(cache=True)
def _combine(
    scores: np.ndarray, targets: np.ndarray, plan: np.ndarray, sizes: np.ndarray, members: np.ndarray, rows: int
) -> float:
    """Return the target of the ensemble: as `voting.combine_targets`, one member after another."""
    total, is_ranked = 0.0, sizes.shape[1] > REFERENCE
    for m in members:
        vote = 0.0
        if rows >= plan[m, WINDOW]:
            vote = _rank_score(float(scores[m]), sizes[m, REFERENCE:]) if is_ranked else targets[m]
        total += sizes[m, WEIGHT] * vote
    return min(max(total, -1.0), 1.0) if total == total else total


@njit(cache=True)
def _size_scores(
    predictions: np.ndarray, plan: np.ndarray, sizes: np.ndarray, scores: np.ndarray, targets: np.ndarray
) -> None:
    """Fill the scores and the targets of all models from their predictions."""
    for m in range(len(plan)):
        prediction = predictions[plan[m, PREDICTION] : plan[m, PREDICTION] + plan[m, OUTPUTS]]
        scores[m] = _make_score(prediction, plan[m], sizes[m, SHARE])
        targets[m] = _size_score(scores[m], sizes[m, FULL])


@njit(cache=True)
def _fill_inputs(
    x: np.ndarray,
    seen: np.ndarray,
    plan: np.ndarray,
    places: np.ndarray,
    inputs: np.ndarray,
    own: np.ndarray,
    terms: np.ndarray,
    starts: bool,
) -> None:
    """Append a bar to the inputs of all models."""
    for m in range(len(plan)):
        if starts and terms[m, accounts.STARTS_FLAT] and own[m, accounts.GIVEN_PRICE] == 0:
            seen[m] = 0.0
        _fill_input(x, seen[m], plan[m], places, inputs, starts)


@njit(cache=True)
def _fill_numbers(
    predictions: np.ndarray,
    plan: np.ndarray,
    seen: np.ndarray,
    scores: np.ndarray,
    targets: np.ndarray,
    numbers: np.ndarray,
) -> None:
    """Fill the numbers of a signal: HEAD and prediction of each model, then target and position of the ensemble."""
    at = 0
    for m in range(len(plan)):
        numbers[at], numbers[at + 1], numbers[at + 2] = scores[m], targets[m], seen[m, 0]
        for k in range(plan[m, OUTPUTS]):
            numbers[at + HEAD + k] = predictions[plan[m, PREDICTION] + k]
        at += HEAD + plan[m, OUTPUTS]
    for a in range(len(plan), len(targets)):
        numbers[at], numbers[at + 1] = targets[a], seen[a, 0]


def _compile_prepare(sources: int) -> Kernel:
    @njit(cache=True)
    def prepare(
        bar: np.ndarray,
        x: np.ndarray,
        flags: int,
        plan: np.ndarray,
        places: np.ndarray,
        inputs: np.ndarray,
        own: np.ndarray,
        clock: np.ndarray,
        terms: np.ndarray,
        seen: np.ndarray,
    ) -> None:
        _ = sources
        is_after_gap, closes_positions, starts = flags & AFTER_GAP > 0, flags & CLOSES > 0, flags & STARTS > 0
        quote = bar[QUOTE_VOLUME] if bar[QUOTE_VOLUME] == bar[QUOTE_VOLUME] else bar[VOLUME] * bar[CLOSE]
        filling = (bar[OPEN_TIME], bar[OPEN], bar[CLOSE], bar[VOLUME], quote)
        accounts.take_bar(own, clock, terms, filling, is_after_gap, closes_positions, seen)
        if flags & HAS_FEATURES:
            _fill_inputs(x, seen, plan, places, inputs, own, terms, starts)

    return cast(Kernel, prepare)


def _compile_finish(sources: int) -> Kernel:
    @njit(cache=True)
    def finish(
        predictions: np.ndarray,
        plan: np.ndarray,
        sizes: np.ndarray,
        members: np.ndarray,
        flags: int,
        rows: int,
        own: np.ndarray,
        clock: np.ndarray,
        terms: np.ndarray,
        seen: np.ndarray,
        scores: np.ndarray,
        targets: np.ndarray,
        numbers: np.ndarray,
    ) -> None:
        _ = sources
        has_features = flags & HAS_FEATURES > 0
        scores[:] = np.nan
        targets[:] = np.nan
        if has_features:
            _size_scores(predictions, plan, sizes, scores, targets)
        if has_features and len(targets) > len(plan):
            targets[len(plan)] = _combine(scores, targets, plan, sizes, members, rows)
        accounts.decide(own, clock, terms, targets, flags & STARTS > 0)
        _fill_numbers(predictions, plan, seen, scores, targets, numbers)

    return cast(Kernel, finish)


prepare, finish = _compile_prepare(SOURCES), _compile_finish(SOURCES)
