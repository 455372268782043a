"""Canaries of fits: a model learns from rows outside its train part, or predicts by the position of a row."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from pipeline.leakage.canaries import learners
from pipeline.leakage.canaries.canary import Canary
from pipeline.leakage.canaries.canary_market import CanaryMarket
from pipeline.leakage.canaries.fold_tables import divide_rows
from pipeline.leakage.canaries.learners import FitRows, SmallFit
from pipeline.leakage.findings import Finding
from pipeline.leakage.fits import fit_rows, normalization, row_order, unseen_rows
from pipeline.samples import Samples

GUARDS = ("normalization", "fit_rows", "unseen_rows", "row_order")
VALID_PCT = 0.15
MAX_COLUMNS = 8  # of the dataset's; the models are tiny
MAX_PREDICTED_ROWS = 300  # of the test
LOST_LABELS = 20  # rows at the end of the data, which are predicted without a label

FitModel = Callable[[Samples, FitRows], SmallFit]


def run_guards(fit_model: FitModel, market: CanaryMarket) -> list[Finding]:
    """Return the findings about a model, fitted as the final one is and tested on the holdout."""
    samples, rows = select_columns(market.samples), split_rows(market)
    fit = fit_model(samples, rows)
    train, valid, test = fit.rows
    rng = np.random.default_rng(market.seed)
    some = np.sort(rng.choice(test, size=min(MAX_PREDICTED_ROWS, len(test)), replace=False))

    def refit(others: Samples) -> np.ndarray:
        return fit_model(others, rows).predict_rows(samples, some)

    return [
        normalization(fit.statistics, samples.x[train]),
        fit_rows(train, valid, test, time=samples.time, label_end=samples.label_end),
        unseen_rows(samples, np.concatenate([train, valid]), refit, lookback_bars=0, seed=market.seed),
        row_order(fit.predict_rows, samples, some, seed=market.seed),
    ]


def split_rows(market: CanaryMarket) -> FitRows:
    """Return the rows of the final fit, with the holdout as test."""
    folds = divide_rows(market, method="cpcv")
    train, valid = folds.split_validation(folds.development(), VALID_PCT)
    return FitRows(train, valid, folds.holdout())


def select_columns(samples: Samples) -> Samples:
    """Return the samples with their first MAX_COLUMNS columns."""
    return replace(samples, x=samples.x[:, :MAX_COLUMNS], columns=samples.columns[:MAX_COLUMNS])


def stop_by_test(samples: Samples, rows: FitRows) -> SmallFit:
    """Fit ridge with the test rows as valid rows."""
    return learners.fit_ridge(samples, rows._replace(valid=rows.test))


def train_until_valid(samples: Samples, rows: FitRows) -> SmallFit:
    """Fit ridge on all rows that begin before the valid part, without a purge."""
    train = np.flatnonzero(samples.time < samples.time[rows.valid].min())
    return learners.fit_ridge(samples, rows._replace(train=train))


def train_on_unlabeled_rows(samples: Samples, rows: FitRows, *, is_filled: bool) -> SmallFit:
    """Fit ridge where the last test rows have lost their label; with `is_filled` train on them with the last known."""
    lost, y, label_end = rows.test[-LOST_LABELS:], samples.y.copy(), samples.label_end.copy()
    y[lost], label_end[lost] = y[rows.train[-1]], samples.time[lost]
    is_labeled = samples.is_labeled & ~np.isin(np.arange(len(y)), lost)
    halted = replace(samples, y=y, label_end=label_end, is_labeled=is_labeled)
    train = np.append(rows.train, lost) if is_filled else rows.train
    return learners.fit_ridge(halted, rows._replace(train=train))


CANARIES: tuple[Canary[FitModel], ...] = (
    Canary(
        "scaler_fitted_on_test_rows",
        "normalization",
        partial(learners.fit_standardized, select=learners.select_train_and_test),
        partial(learners.fit_standardized, select=learners.select_train),
        "a model's scaler is fitted on train and test rows",
        "it is fitted on train rows alone",
    ),
    Canary(
        "early_stopping_on_test_rows",
        "fit_rows",
        stop_by_test,
        learners.fit_ridge,
        "a fit stops early by the loss on the test rows",
        "it stops by the loss on valid rows, which are not tested",
    ),
    Canary(
        "train_reaches_into_valid",
        "fit_rows",
        train_until_valid,
        learners.fit_ridge,
        "train contains rows whose labels end in the valid part",
        "they are purged",
    ),
    Canary(
        "unlabeled_row_in_train",
        "fit_rows",
        partial(train_on_unlabeled_rows, is_filled=True),
        partial(train_on_unlabeled_rows, is_filled=False),
        "rows before a halt, whose label is lost, are given the last known label and trained on",
        "they are only predicted",
    ),
    Canary(
        "threshold_chosen_on_holdout",
        "unseen_rows",
        partial(learners.fit_with_threshold, select=learners.select_test),
        partial(learners.fit_with_threshold, select=learners.select_valid),
        "the threshold of a position is the one that earns most on the holdout",
        "it is the one that earns most on the valid rows",
    ),
    Canary(
        "stacked_on_reused_predictions",
        "unseen_rows",
        partial(learners.fit_stacked, is_naive=True),
        partial(learners.fit_stacked, is_naive=False),
        "a stack's weights are fitted on out-of-sample predictions of other splits, whose fits have seen the test rows",
        "they are fitted on the valid rows of its own members",
    ),
    Canary(
        "columns_selected_on_all_rows",
        "unseen_rows",
        partial(learners.fit_screened, select=learners.select_all),
        partial(learners.fit_screened, select=learners.select_train),
        "columns are selected and weighted by their correlation with the label over all rows",
        "the correlation is over train rows",
    ),
    Canary(
        "target_encoded_on_all_rows",
        "unseen_rows",
        partial(learners.fit_encoded, select=learners.select_all),
        partial(learners.fit_encoded, select=learners.select_train),
        "inside the model, the hour of day is replaced by its mean label over all rows",
        "the mean is over train rows",
    ),
    Canary(
        "clipped_at_quantiles_of_all_rows",
        "unseen_rows",
        partial(learners.fit_clipped, select=learners.select_all),
        partial(learners.fit_clipped, select=learners.select_train),
        "inside the model, columns are clipped at quantiles of all rows",
        "they are clipped at quantiles of train rows",
    ),
    Canary(
        "model_memorizes_row_order",
        "row_order",
        learners.memorize_numbers,
        learners.fit_nearest_neighbor,
        "a model predicts the label of the train row whose number is nearest",
        "it predicts the label of the train row whose features are nearest",
    ),
    Canary(
        "predictions_smoothed_over_rows",
        "row_order",
        learners.fit_smoothed,
        learners.fit_ridge,
        "a model smooths its predictions in the order of the rows that it is given",
        "each prediction depends on its own row alone",
    ),
)
