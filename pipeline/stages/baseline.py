"""baseline <dataset>: constant, previous-label and linear predictions on the same folds, for every target."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from joblib import delayed
from pydantic import NonNegativeFloat
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from pipeline import artifacts, cli, config
from pipeline.models.dataset import LabeledDataset, load_dataset
from pipeline.models.linear_in_chunks import StandardizedRows, fit_logistic, fit_ridge
from pipeline.models.parallel_fits import run_in_parallel
from pipeline.models.predictions import make_predictions, measure_score_std
from pipeline.row_groups import open_table
from pipeline.samples import Samples
from pipeline.scale import is_constant
from pipeline.targets import Output

MAX_ITERATIONS = 500  # of the logistic regression
MAX_ROWS_IN_MEMORY = 1 << 21  # train rows of one fit that are standardized together; of more the sums go by chunks
GROUP_ROWS = 1 << 20  # of a row group of predictions


def main(dataset: str) -> None:
    """Predict every target of a dataset by the simplest models."""
    params = config.load_params()
    block = config.look_up(params, "baseline")
    with artifacts.replace_atomically(artifacts.BASELINES / dataset) as folder:
        folder.mkdir()
        for target in config.look_up(params, f"datasets.{dataset}.targets"):
            tables = config.call_with(predict_folds, load_dataset(dataset, target), block=block, name="baseline")
            with open_table(folder / f"{target}.parquet", group_rows=GROUP_ROWS) as writer:
                for table in tables:
                    writer.append(table)
                    del table  # before the next split


def predict_folds(data: LabeledDataset, *, l2: NonNegativeFloat) -> Iterator[pd.DataFrame]:
    """Yield by split the predictions of every baseline for the rows that it predicts; none of the holdout is made."""
    previous, folds = find_previous_labels(data.samples), data.folds
    jobs = (
        delayed(predict_fold)(split, data, previous, train=folds.train(split), predicted=folds.predicted(split), l2=l2)
        for split in range(folds.n_splits)
    )
    workers, desc = config.count_workers(), f"baseline {data.target.name}"
    yield from run_in_parallel(jobs, workers=workers, total=folds.n_splits, desc=desc)


def predict_fold(
    split: int, data: LabeledDataset, previous: np.ndarray, *, train: np.ndarray, predicted: np.ndarray, l2: float
) -> pd.DataFrame:
    """Return the predictions of every baseline, fitted on `train`, for the rows `predicted`, labeled or not."""
    output, samples = data.target.output, data.samples
    rows, seen = np.concatenate([train, predicted]), len(train)
    constant = predict_constant(samples.learned[train], output)
    predictions = {  # for train rows, then for predicted ones
        "constant": np.tile(constant, (len(rows), 1)),
        "previous": predict_previous(previous[rows], constant, output),
        "linear": predict_linear(samples, train=train, test=rows, output=output, l2=l2),
    }
    tables = [
        make_predictions(
            split,
            data.rows,
            predicted,
            prediction=prediction[seen:],
            target=data.target,
            score_std=measure_score_std(prediction[:seen], output),
        ).assign(baseline=pd.Categorical([name] * len(predicted), categories=list(predictions)))
        for name, prediction in predictions.items()
    ]
    return pd.concat(tables)


def find_previous_labels(samples: Samples) -> np.ndarray:
    """Return the latest label of the row's segment that was known when the row's bar closed, (N,); NaN for none.

    Of several horizons it is (N, horizons), of the latest row whose longest horizon has ended.
    """
    learned = samples.learned
    latest = np.full(learned.shape, np.nan)
    labeled = np.flatnonzero(samples.is_labeled)
    for rows in np.split(np.arange(len(latest)), np.flatnonzero(np.diff(samples.segment)) + 1):
        own = labeled[(labeled >= rows[0]) & (labeled <= rows[-1])]
        known = np.searchsorted(np.maximum.accumulate(samples.label_end[own]), samples.time[rows], side="right")
        latest[rows[known > 0]] = learned[own][known[known > 0] - 1]
    return latest


def predict_constant(y: np.ndarray, output: Output) -> np.ndarray:
    """Return the share of each class, the quantiles, or the mean of the labels of each horizon: (outputs,)."""
    if output.is_classification:
        return np.bincount(y, minlength=len(output.names)) / len(y)
    return np.quantile(y, output.levels) if output.levels else np.atleast_1d(y.mean(axis=0, dtype=np.float64))


def predict_previous(previous: np.ndarray, constant: np.ndarray, output: Output) -> np.ndarray:
    """Return the previous label, (n, outputs): one-hot for a class; `constant` where there is no previous label."""
    exists = ~np.isnan(previous.reshape(len(previous), -1)).any(axis=1)
    prediction = np.tile(constant, (len(previous), 1))
    known = previous[exists]
    prediction[exists] = np.eye(len(constant))[known.astype(np.int64)] if output.is_classification else _stand_up(known)
    return prediction


def predict_linear(samples: Samples, *, train: np.ndarray, test: np.ndarray, output: Output, l2: float) -> np.ndarray:
    """Return predictions, (n, outputs), of ridge or logistic regression on columns standardized by the train rows.

    `l2` is the penalty per row, on coefficients of standardized columns, with the squared or the log loss. Quantiles
    are those of the train residuals around the ridge regression. A class that `train` lacks has probability 0; where
    it has one class alone, that has probability 1.
    """
    with threadpool_limits(limits=1):  # one thread a fit: the bytes do not depend on the machine's load
        if len(train) > MAX_ROWS_IN_MEMORY:
            return _predict_in_chunks(samples, train=train, test=test, output=output, l2=l2)
        scaler = StandardScaler().fit(samples.x[train].astype(np.float64))
        x_train, x_test = scaler.transform(samples.x[train]), scaler.transform(samples.x[test])
        if not output.is_classification:
            ridge = Ridge(alpha=l2 * len(train)).fit(x_train, samples.learned[train])
            center = _stand_up(ridge.predict(x_test))
            residual = np.quantile(samples.y[train] - ridge.predict(x_train), output.levels) if output.levels else 0.0
            return np.asarray(center + residual)
        prediction = np.zeros((len(test), len(output.names)))
        if is_constant(samples.y[train]):  # one class alone, which the logistic regression refuses
            prediction[:, samples.y[train[0]]] = 1.0
            return prediction
        fitted = LogisticRegression(C=1.0 / (l2 * len(train)), max_iter=MAX_ITERATIONS).fit(x_train, samples.y[train])
        prediction[:, fitted.classes_] = fitted.predict_proba(x_test)
    return prediction


def _stand_up(numbers: np.ndarray) -> np.ndarray:
    """Return (n, outputs) of (n,) numbers, or of those of each horizon, which are (n, outputs)."""
    return numbers.reshape(len(numbers), -1)


def _predict_in_chunks(
    samples: Samples, *, train: np.ndarray, test: np.ndarray, output: Output, l2: float
) -> np.ndarray:
    """Return the predictions of `predict_linear` up to rounding, with one chunk of standardized rows in memory."""
    z, y = StandardizedRows.measure(samples.x, train), samples.learned[train]
    tested = replace(z, rows=test)
    if not output.is_classification:
        ridge = fit_ridge(z, y, penalty=l2 * len(train))
        residual = np.quantile(y - ridge.predict(z)[:, 0], output.levels) if output.levels else 0.0
        return np.asarray(ridge.predict(tested) + residual)
    prediction = np.zeros((len(test), len(output.names)))
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) == 1:
        prediction[:, classes] = 1.0
    else:
        fitted = fit_logistic(z, codes, classes=len(classes), l2=l2, max_iterations=MAX_ITERATIONS)
        prediction[:, classes] = fitted.predict_probabilities(tested)
    return prediction


if __name__ == "__main__":
    cli.run(main)
