"""Canaries of fits: a model has learnt from rows that it should not know, or answers by the place of a row."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from pipeline.canaries import learners
from pipeline.canaries.canary import Canary, Outcome
from pipeline.canaries.folds import folds_of
from pipeline.canaries.ground import Ground
from pipeline.canaries.learners import Fit, Parts
from pipeline.leakage.findings import Finding
from pipeline.leakage.fits import fit_rows, normalization, row_order, unseen_rows
from pipeline.samples import Samples

VALID_PCT = 0.15
COLUMNS = 8  # of the dataset's; the models are tiny
ASKED_ROWS = 300  # of the test, that a model has to answer

Fitting = Callable[[Samples, Parts], Fit]


def asked(fitting: Fitting, *, samples: Samples, parts: Parts, seed: int) -> list[Finding]:
    """What the guards of fits say."""
    fit = fitting(samples, parts)
    train, valid, test = fit.parts
    some = np.sort(np.random.default_rng(seed).choice(test, size=min(ASKED_ROWS, len(test)), replace=False))

    def refit(others: Samples) -> np.ndarray:
        return fitting(others, parts).answer(samples, some)

    return [
        normalization(fit.statistics, samples.x[train]),
        fit_rows(train, valid, test, time=samples.time, label_end=samples.label_end),
        unseen_rows(samples, np.concatenate([train, valid]), refit, reach_bars=0, seed=seed),
        row_order(fit.answer, samples, some, seed=seed),
    ]


def questioned(ground: Ground) -> Iterator[Outcome]:
    """What the guards say of every canary of this room: models fitted as the final one is, tested on the holdout."""
    folds = folds_of(ground, method="cpcv")
    train, valid = folds.early_stopping(folds.development(), VALID_PCT)
    samples = replace(ground.samples, x=ground.samples.x[:, :COLUMNS], columns=ground.samples.columns[:COLUMNS])
    parts = Parts(train, valid, folds.holdout())
    for canary in CANARIES:
        leak, twin = (
            asked(side, samples=samples, parts=parts, seed=ground.seed) for side in (canary.leak, canary.twin)
        )
        yield canary.outcome(leak, twin)


def stopped_by_valid(samples: Samples, parts: Parts) -> Fit:
    """Ridge as it should be fitted."""
    return learners.ridge(samples, parts, design=learners.plain)


def stopped_by_test(samples: Samples, parts: Parts) -> Fit:
    """Ridge that takes the test rows for valid ones."""
    return stopped_by_valid(samples, parts._replace(valid=parts.test))


def reaching_into_valid(samples: Samples, parts: Parts) -> Fit:
    """Ridge on all rows that begin before the valid part does."""
    train = np.flatnonzero(samples.time < samples.time[parts.valid].min())
    return stopped_by_valid(samples, parts._replace(train=train))


def scaled(samples: Samples, parts: Parts, *, with_test: bool) -> Fit:
    """Ridge on columns standardised by the train rows, or by those and the test rows."""
    rows = np.concatenate([parts.train, parts.test]) if with_test else parts.train
    return learners.standardising(samples, parts, scaled_by=rows)


def clipped(samples: Samples, parts: Parts, *, by_all: bool) -> Fit:
    """Ridge on columns clipped at quantiles of the train rows or of all."""
    return learners.clipping(samples, parts, clipped_by=every_row(samples) if by_all else parts.train)


def encoded(samples: Samples, parts: Parts, *, by_all: bool) -> Fit:
    """Ridge with the mean label of the hour, over the train rows or over all."""
    return learners.encoding(samples, parts, encoded_by=every_row(samples) if by_all else parts.train)


def screened(samples: Samples, parts: Parts, *, by_all: bool) -> Fit:
    """Columns selected by their correlation with the label, over the train rows or over all."""
    return learners.screening(samples, parts, screened_by=every_row(samples) if by_all else parts.train)


def with_threshold(samples: Samples, parts: Parts, *, on_test: bool) -> Fit:
    """Ridge with a threshold chosen on the valid rows or on the holdout."""
    return learners.with_threshold(samples, parts, chosen_on=parts.test if on_test else parts.valid)


def every_row(samples: Samples) -> np.ndarray:
    """(N,) all rows."""
    return np.arange(len(samples.time))


CANARIES: tuple[Canary[Fitting], ...] = (
    Canary(
        "scaler_fitted_on_test_rows",
        "normalization",
        partial(scaled, with_test=True),
        partial(scaled, with_test=False),
        "a model's scaler is fitted on train and test rows",
        "on train rows alone",
    ),
    Canary(
        "early_stopping_on_test_rows",
        "fit_rows",
        stopped_by_test,
        stopped_by_valid,
        "a fit stops early by the loss on the test rows",
        "by that on valid rows, which are not tested",
    ),
    Canary(
        "train_reaches_into_valid",
        "fit_rows",
        reaching_into_valid,
        stopped_by_valid,
        "train rows are kept whose labels end in the valid part",
        "they are purged against it",
    ),
    Canary(
        "threshold_chosen_on_holdout",
        "unseen_rows",
        partial(with_threshold, on_test=True),
        partial(with_threshold, on_test=False),
        "the threshold of a position is the one that earns most on the holdout",
        "on the valid rows",
    ),
    Canary(
        "columns_selected_on_all_rows",
        "unseen_rows",
        partial(screened, by_all=True),
        partial(screened, by_all=False),
        "columns are selected and weighted by their correlation with the label over all rows",
        "over train rows",
    ),
    Canary(
        "target_encoded_on_all_rows",
        "unseen_rows",
        partial(encoded, by_all=True),
        partial(encoded, by_all=False),
        "inside the model, the hour of day is replaced by the mean label in it over all rows",
        "over train rows",
    ),
    Canary(
        "clipped_at_quantiles_of_all_rows",
        "unseen_rows",
        partial(clipped, by_all=True),
        partial(clipped, by_all=False),
        "inside the model, columns are clipped at quantiles of all rows",
        "of train rows",
    ),
    Canary(
        "model_memorises_row_order",
        "row_order",
        learners.nearest_by_number,
        learners.nearest_by_features,
        "a model answers with the label of the train row whose number is nearest",
        "whose features are nearest",
    ),
    Canary(
        "answers_smoothed_as_asked",
        "row_order",
        learners.smoothing,
        stopped_by_valid,
        "a model smooths its answers in the order in which rows are asked for",
        "each answer stands alone",
    ),
)
