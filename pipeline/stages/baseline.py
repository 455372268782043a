"""baseline <dataset>: constant, previous-label and linear predictions on the same folds, for every target."""

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from pydantic import NonNegativeFloat
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from pipeline import artifacts, cli, config, labels
from pipeline.models.base import to_score
from pipeline.models.predictions import FINAL, make_predictions
from pipeline.samples import Samples, make_keys
from pipeline.validation.folds import Folds

MAX_ITERATIONS = 500  # of the logistic regression


def main(dataset: str) -> None:
    """Predict every target of a dataset by the simplest models."""
    params = config.load_params()
    targets = config.look_up(params, f"datasets.{dataset}.targets")
    block = config.look_up(params, "baseline")
    folds, segment = Folds.load(artifacts.FOLDS / f"{dataset}.parquet")
    rows = make_keys(segment, folds.time)
    with artifacts.replace_atomically(artifacts.BASELINES / dataset) as folder:
        folder.mkdir()
        for target, target_block in targets.items():
            file = artifacts.LABELS / dataset / f"{target}.parquet"
            samples = Samples.load(artifacts.FEATURES / f"{dataset}.parquet", file, rows=rows)
            outputs = labels.OUTPUTS[target_block["kind"]]
            table = config.call_with(predict_folds, samples, folds, outputs, target, block=block, name="baseline")
            artifacts.write_table(folder / f"{target}.parquet", table)


def predict_folds(
    samples: Samples, folds: Folds, outputs: tuple[str, ...], target: str, *, l2: NonNegativeFloat
) -> pd.DataFrame:
    """Return the predictions of every baseline for the test rows of every split and for the holdout."""
    previous = find_previous_labels(samples)
    jobs = [
        delayed(predict_fold)(
            split,
            samples,
            previous,
            train=folds.development() if split == FINAL else folds.train(split),
            test=folds.holdout() if split == FINAL else folds.test(split),
            outputs=outputs,
            l2=l2,
        )
        for split in [*range(folds.n_splits), FINAL]
    ]
    pool = Parallel(n_jobs=config.count_workers(), return_as="generator")
    return pd.concat(tqdm(pool(jobs), total=len(jobs), desc=f"baseline {target}", unit="fit"))


def predict_fold(
    split: int,
    samples: Samples,
    previous: np.ndarray,
    *,
    train: np.ndarray,
    test: np.ndarray,
    outputs: tuple[str, ...],
    l2: float,
) -> pd.DataFrame:
    """Return the predictions of every baseline, fitted on `train`, for `test`."""
    constant = predict_constant(samples.y[train], classes=len(outputs))
    predictions = {
        "constant": np.tile(constant, (len(test), 1)),
        "previous": predict_previous(previous[test], constant),
        "linear": predict_linear(samples, train=train, test=test, classes=len(outputs), l2=l2),
    }
    tables = [
        make_predictions(
            split, test, prediction=prediction, outputs=outputs, score=to_score(prediction, outputs)
        ).assign(baseline=pd.Categorical([name] * len(test), categories=list(predictions)))
        for name, prediction in predictions.items()
    ]
    return pd.concat(tables)


def find_previous_labels(samples: Samples) -> np.ndarray:
    """Return the latest label of the row's segment that was known when the row's bar closed, (N,); NaN for none."""
    latest = np.full(len(samples.time), np.nan)
    for rows in np.split(np.arange(len(latest)), np.flatnonzero(np.diff(samples.segment)) + 1):
        known = np.searchsorted(np.maximum.accumulate(samples.label_end[rows]), samples.time[rows], side="right")
        latest[rows[known > 0]] = samples.y[rows][known[known > 0] - 1]
    return latest


def predict_constant(y: np.ndarray, *, classes: int) -> np.ndarray:
    """Return the mean of a regression's labels, or the share of each class: (classes,)."""
    return np.bincount(y, minlength=classes) / len(y) if classes > 1 else np.array([y.mean(dtype=np.float64)])


def predict_previous(previous: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """Return the previous label, (n, classes): one-hot for a class; `constant` where there is no previous label."""
    exists = ~np.isnan(previous)
    prediction = np.tile(constant, (len(previous), 1))
    known = previous[exists]
    prediction[exists] = np.eye(len(constant))[known.astype(np.int64)] if len(constant) > 1 else known[:, None]
    return prediction


def predict_linear(samples: Samples, *, train: np.ndarray, test: np.ndarray, classes: int, l2: float) -> np.ndarray:
    """Return predictions, (n, classes), of ridge or logistic regression on columns standardized by the train rows.

    `l2` is the penalty per row, on coefficients of standardized columns, with the squared or the log loss.
    """
    scaler = StandardScaler().fit(samples.x[train].astype(np.float64))
    x_train, x_test = scaler.transform(samples.x[train]), scaler.transform(samples.x[test])
    with threadpool_limits(limits=1):  # one thread a fit: the bytes do not depend on the machine's load
        if classes == 1:
            return np.asarray(Ridge(alpha=l2 * len(train)).fit(x_train, samples.y[train]).predict(x_test)[:, None])
        fitted = LogisticRegression(C=1.0 / (l2 * len(train)), max_iter=MAX_ITERATIONS).fit(x_train, samples.y[train])
        prediction = np.zeros((len(test), classes))
        prediction[:, fitted.classes_] = fitted.predict_proba(x_test)
    return prediction


if __name__ == "__main__":
    cli.run(main)
