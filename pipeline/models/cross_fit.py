"""Fit one model on every split and, for the holdout, on the whole development part."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from annotated_types import Interval

from pipeline import config, labels
from pipeline.config import ModelBlock
from pipeline.models import base
from pipeline.models.dataset import load_dataset
from pipeline.models.predictions import FINAL, make_predictions
from pipeline.samples import Samples
from pipeline.validation.folds import Folds


@dataclass(frozen=True)
class FitTask:
    """One fit to make: its split, its rows and its seed."""

    split: int
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    seed: int


@dataclass(frozen=True)
class ModelSpec:
    """Everything that a model is built from, but its seed."""

    model: ModelBlock
    signature: base.Signature
    shared: config.Block  # the section of its family; empty where params has none

    def build(self, seed: int) -> base.Model:
        """Return the unfitted model."""
        family, block, name = self.model
        return base.build(family, block, self.signature, shared=self.shared, seed=seed, name=name)


@dataclass(frozen=True)
class CrossFit:
    """All fits of one model: what it is built from, the samples, and the rows and seed of each fit."""

    spec: ModelSpec
    samples: Samples
    tasks: list[FitTask]


@dataclass(frozen=True)
class FoldFit:
    """The results of one fit."""

    split: int
    history: list[dict[str, float]]
    fit_report: dict[str, Any]
    evaluation: dict[str, Any]  # of the model's own forecasts, on the test rows
    rows: dict[str, int]
    out_of_sample: pd.DataFrame
    in_sample: pd.DataFrame
    standardization: pd.DataFrame  # column, mean, scale; empty where nothing is standardized


def plan_cross_fit(params: config.Block, model: str) -> CrossFit:
    """Return the fits of a model of params.yaml on the dataset and target of its block."""
    entry = config.find_model(params, model)
    family, block = entry.family, entry.block
    samples, _, tasks = load_fits(params, model)
    kind = config.look_up(params, f"datasets.{block['dataset']}.targets.{block['target']}.kind")
    signature = base.Signature(columns=samples.columns, outputs=labels.OUTPUTS[kind])
    spec = ModelSpec(entry, signature, params.get(family, {}))
    return CrossFit(spec, samples, tasks)


def load_fits(params: config.Block, model: str) -> tuple[Samples, Folds, list[FitTask]]:
    """Return the samples and the folds of a model of params.yaml, and the rows and the seed of each of its fits."""
    block = config.find_model(params, model).block
    samples, folds = load_dataset(block["dataset"], block["target"])
    train = config.look_up(params, "train")
    fits = config.call_with(plan_fits, folds, model, params["seed"], block=train, name="train")
    return samples, folds, list(fits)


def plan_fits(
    folds: Folds, model: str, seed: int, *, valid_pct: Annotated[float, Interval(gt=0, lt=1)]
) -> Iterator[FitTask]:
    """Yield the fits of a model: one for each split and last the final one, on the whole development part."""
    for split in (*range(folds.n_splits), FINAL):
        rows = folds.development() if split == FINAL else folds.train(split)
        train, valid = folds.split_validation(rows, valid_pct)
        test = folds.holdout() if split == FINAL else folds.test(split)
        yield FitTask(split, train, valid, test, config.derive_seed(seed, model, split))


def fit_fold(
    task: FitTask, spec: ModelSpec, samples: Samples, *, folder: Path, files: base.FitFiles | None = None
) -> FoldFit:
    """Return the results of one fit; the final one is saved to `folder`."""
    model = spec.build(task.seed)
    history = model.fit(samples, task.train, task.valid, files=files)
    if task.split == FINAL:
        model.save(folder)
    fitted_on = np.sort(np.concatenate([task.train, task.valid]))
    return FoldFit(
        split=task.split,
        history=history,
        fit_report=model.fit_report,
        evaluation=model.evaluate(samples, task.test),
        rows={"train": len(task.train), "valid": len(task.valid), "test": len(task.test)},
        out_of_sample=predict(model, task.split, samples, rows=task.test),
        in_sample=predict(model, task.split, samples, rows=fitted_on)[["split", "row", "score"]],
        standardization=tabulate_standardization(model, task.split),
    )


def predict(model: base.Model, split: int, samples: Samples, *, rows: np.ndarray) -> pd.DataFrame:
    """Return a fitted model's predictions for `rows` as a table."""
    prediction = model.predict_rows(samples, rows)
    score = base.to_score(prediction, model.outputs)
    return make_predictions(split, rows, prediction=prediction, outputs=model.outputs, score=score)


def tabulate_standardization(model: base.Model, split: int) -> pd.DataFrame:
    """Return the mean and the scale of each column that a fitted model standardizes, one row a column."""
    mean, scale = model.standardization or (np.empty(0), np.empty(0))
    return pd.DataFrame(
        {
            "split": np.full(len(mean), split, np.int16),
            "column": list(model.signature.columns[: len(mean)]),
            "mean": np.asarray(mean, np.float64),
            "scale": np.asarray(scale, np.float64),
        }
    )


def find_best_entry(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the iteration with the lowest valid loss, the first of equals: the one that predicts."""
    return min(history, key=lambda entry: entry["valid_loss"])


def name_split(split: int) -> str:
    """Return the number of a split as text, or "final"."""
    return "final" if split == FINAL else str(split)
