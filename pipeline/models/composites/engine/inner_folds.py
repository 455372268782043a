"""Purged folds within the train rows of one fit, and out-of-sample predictions of these rows."""

from collections.abc import Callable, Iterator

import numpy as np

from pipeline.models.base import Model
from pipeline.samples import Samples
from pipeline.validation.kfolds import make_kfolds


def make_inner_folds(
    samples: Samples, train: np.ndarray, *, folds: int, embargo_bars: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each of `folds` equal blocks of the train times the rows to fit on, and the rows of the block.

    Times are numbers on the clock of all samples: the closed hours of a market with sessions use up no embargo.

    Raises:
        ValueError: a block leaves no row to fit on.
    """
    clock = np.unique(samples.time)
    begin, end = clock.searchsorted(samples.time[train]), clock.searchsorted(samples.label_end[train], "right") - 1
    try:
        inner = make_kfolds(begin, end, groups=folds, embargo_bars=embargo_bars)
        for split in range(folds):
            yield train[inner.train(split)], train[inner.test(split)]
    except ValueError as error:
        raise ValueError(
            f"inner_folds is {folds}: purge and an embargo of {embargo_bars} bars leave none of {len(train)} train "
            "rows; lower embargo_bars, or give the fit more rows"
        ) from error


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
