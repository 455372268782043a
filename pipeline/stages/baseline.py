"""baseline <dataset>: what constant, previous label and a linear model answer on the same folds, for every target."""

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from pipeline import labels, predictions, workspace
from pipeline.folds import Folds
from pipeline.leakage.findings import raise_if_critical
from pipeline.leakage.fits import normalization
from pipeline.models.base import score_of
from pipeline.predictions import FINAL
from pipeline.samples import Samples, keyed

Answers = dict[str, np.ndarray]


def main(dataset: str) -> None:
    """Answer for every target of a dataset by the simplest means."""
    blocks = workspace.params()
    targets = workspace.entry(blocks, f"datasets.{dataset}.targets")
    folds, segment = Folds.load(workspace.FOLDS / f"{dataset}.parquet")
    rows = keyed(segment, folds.time)
    with workspace.replacing(workspace.BASELINES / dataset) as folder:
        folder.mkdir()
        for target, block in targets.items():
            file = workspace.LABELS / dataset / f"{target}.parquet"
            samples = Samples.load(workspace.FEATURES / f"{dataset}.parquet", file, rows=rows)
            outputs = labels.OUTPUTS[block["kind"]]
            answered = workspace.feed(
                on_every_fold,
                samples,
                folds,
                outputs,
                target,
                block=workspace.entry(blocks, "baseline"),
                named="baseline",
            )
            workspace.write_table(folder / f"{target}.parquet", answered)


def on_every_fold(samples: Samples, folds: Folds, outputs: tuple[str, ...], named: str, *, l2: float) -> pd.DataFrame:
    """The answers of every baseline for the test rows of every split and for the holdout."""
    previous = previous_labels(samples)
    jobs = [
        delayed(on_fold)(
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
    pool = Parallel(n_jobs=workspace.workers(), return_as="generator")
    return pd.concat(tqdm(pool(jobs), total=len(jobs), desc=f"baseline {named}", unit="fit"))


def on_fold(
    split: int,
    samples: Samples,
    previous: np.ndarray,
    *,
    train: np.ndarray,
    test: np.ndarray,
    outputs: tuple[str, ...],
    l2: float,
) -> pd.DataFrame:
    """The answers of every baseline, learnt from `train`, for `test`."""
    constant = constant_answer(samples.y[train], classes=len(outputs))
    answers = {
        "constant": np.tile(constant, (len(test), 1)),
        "previous": previous_answer(previous[test], constant),
        "linear": linear_answer(samples, train=train, test=test, classes=len(outputs), l2=l2),
    }
    records = [
        predictions.record(split, test, answer=answer, outputs=outputs, score=score_of(answer, outputs)).assign(
            baseline=pd.Categorical([name] * len(test), categories=list(answers))
        )
        for name, answer in answers.items()
    ]
    return pd.concat(records)


def previous_labels(samples: Samples) -> np.ndarray:
    """(N,) the latest label of the row's segment that had come true when the row's bar closed; nan where none had."""
    latest = np.full(len(samples.time), np.nan)
    for rows in np.split(np.arange(len(latest)), np.flatnonzero(np.diff(samples.segment)) + 1):
        known = np.searchsorted(np.maximum.accumulate(samples.label_end[rows]), samples.time[rows], side="right")
        latest[rows[known > 0]] = samples.y[rows][known[known > 0] - 1]
    return latest


def constant_answer(y: np.ndarray, *, classes: int) -> np.ndarray:
    """(classes,) the mean of a regression's labels, or the share of each class."""
    return np.bincount(y, minlength=classes) / len(y) if classes > 1 else np.array([y.mean(dtype=np.float64)])


def previous_answer(previous: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """(n, classes) the previous label itself, certain where it is a class; the constant where there is none."""
    exists = ~np.isnan(previous)
    answer = np.tile(constant, (len(previous), 1))
    known = previous[exists]
    answer[exists] = np.eye(len(constant))[known.astype(np.int64)] if len(constant) > 1 else known[:, None]
    return answer


def linear_answer(samples: Samples, *, train: np.ndarray, test: np.ndarray, classes: int, l2: float) -> np.ndarray:
    """(n, classes) ridge or logistic regression on the columns standardised by the train rows.

    `l2` is the penalty per row, on coefficients of standardised columns, with the squared or the log loss.
    """
    scaler = StandardScaler().fit(samples.x[train].astype(np.float64))
    raise_if_critical([normalization((scaler.mean_, scaler.scale_), samples.x[train])])
    x, unseen = scaler.transform(samples.x[train]), scaler.transform(samples.x[test])
    with threadpool_limits(limits=1):  # one thread a fit: the bytes do not depend on the machine's load
        if classes == 1:
            return np.asarray(Ridge(alpha=l2 * len(train)).fit(x, samples.y[train]).predict(unseen)[:, None])
        fitted = LogisticRegression(C=1.0 / (l2 * len(train)), max_iter=500).fit(x, samples.y[train])
        answer = np.zeros((len(test), classes))
        answer[:, fitted.classes_] = fitted.predict_proba(unseen)
    return answer


if __name__ == "__main__":
    workspace.run(main)
