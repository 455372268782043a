"""Purged folds within the train rows of one fit, and out-of-sample predictions of these rows."""

from collections.abc import Callable, Iterator

import numpy as np

from pipeline.models.base import Model
from pipeline.samples import Samples


def make_inner_folds(
    samples: Samples, train: np.ndarray, *, folds: int, embargo_bars: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each of `folds` equal blocks of the train times the rows to fit on, and the rows of the block.

    A row is fitted on where its label ends before the block, or where it is later than the block's labels by more than
    the embargo (AFML 7.4).

    Raises:
        ValueError: a block leaves no row to fit on.
    """
    time, label_end = samples.time[train], samples.label_end[train]
    clock = np.unique(samples.time)
    for block in np.array_split(np.unique(time), folds):
        is_predicted = (time >= block[0]) & (time <= block[-1]) if len(block) else np.zeros(len(train), bool)
        last = label_end[is_predicted].max() if is_predicted.any() else 0
        until = min(int(np.searchsorted(clock, last, "right")) - 1 + embargo_bars, len(clock) - 1)
        is_fitted = (label_end < block[0]) | (time > clock[until]) if len(block) else is_predicted
        if not is_fitted.any():
            raise ValueError(
                f"inner_folds is {folds}: purge and an embargo of {embargo_bars} bars leave none of {len(train)} train "
                "rows; lower embargo_bars, or give the fit more rows"
            )
        yield train[is_fitted], train[is_predicted]


def predict_out_of_sample(
    build: Callable[[int], Model],
    samples: Samples,
    train: np.ndarray,
    valid: np.ndarray,
    *,
    folds: int,
    embargo_bars: int,
) -> np.ndarray:
    """Return the predictions (n, outputs) of the train rows, each by a model that was fitted without the row's block.

    `build` makes the unfitted model of a fold's number. All of them are stopped by the rows `valid`, of which no fold
    predicts one.
    """
    predicted, found = [], []
    for number, (rows, block) in enumerate(make_inner_folds(samples, train, folds=folds, embargo_bars=embargo_bars)):
        model = build(number)
        model.fit(samples, rows, valid)
        predicted.append(block)
        found.append(model.predict_rows(samples, block))
    order = np.argsort(np.concatenate(predicted), kind="stable")
    return np.concatenate(found)[order][np.argsort(np.argsort(train, kind="stable"), kind="stable")]
