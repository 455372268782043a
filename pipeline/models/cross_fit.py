"""Fit one model on every split and, for the holdout, on the whole development part, once for each seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from annotated_types import Interval

from pipeline import config
from pipeline.config import ModelBlock
from pipeline.models import base, plugins, tuned
from pipeline.models.dataset import LabeledDataset, load_dataset
from pipeline.models.fit_files import FitFiles
from pipeline.models.predictions import FINAL, make_predictions, measure_score_std, save_score_std
from pipeline.models.target_keys import check_target_keys
from pipeline.samples import Samples
from pipeline.validation.folds import Folds

# the columns of predictions that are saved of rows that a fit has seen
IN_SAMPLE = ("seed", "split", "row", "score", "score_std")


@dataclass(frozen=True)
class FitTask:
    """One fit to make: its split, its rows and its seed."""

    split: int
    train: np.ndarray
    valid: np.ndarray
    predicted: np.ndarray  # the test rows, and the unlabeled ones of their times
    seed: int  # of params.yaml, shared by all fits of one repetition
    fit_seed: int  # of this fit alone, derived from the seed, the model's name and the split
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)  # as tuned for the split; empty: those of params


@dataclass(frozen=True)
class ModelSpec:
    """Everything that a model is built from, but its seed."""

    model: ModelBlock
    signature: base.Signature
    shared: config.Block  # the section of its family; empty where params has none
    market: config.Block = field(default_factory=dict)  # see `Model.read_market`

    def build(self, seed: int, hyperparameters: Mapping[str, Any] | None = None) -> base.Model:
        """Return the unfitted model, with `hyperparameters` in place of those of params where there are some."""
        family, block, name = self.model
        block = {**block, "hyperparameters": hyperparameters or block["hyperparameters"]}
        sections = {"shared": self.shared, "market": self.market}
        return plugins.build(family, block, self.signature, **sections, seed=seed, name=name)


@dataclass(frozen=True)
class CrossFit:
    """All fits of one model: what it is built from, the data, and the rows and seed of each fit."""

    spec: ModelSpec
    data: LabeledDataset  # with the columns that the model sees
    tasks: list[FitTask]


@dataclass(frozen=True)
class FoldFit:
    """The results of one fit."""

    seed: int  # of params.yaml
    split: int
    history: list[dict[str, float]]
    best: dict[str, float]  # the entry of the history whose iteration predicts
    fit_report: dict[str, Any]
    evaluation: dict[str, Any]  # of the model's own forecasts, on the test rows; empty of the final fit
    rows: dict[str, int]
    out_of_sample: pd.DataFrame
    in_sample: pd.DataFrame
    standardization: pd.DataFrame  # column, mean, scale; empty where nothing is standardized
    score_std: float  # of its predictions for its train rows; NaN where undefined

    def drop_predictions(self) -> "FoldFit":
        """Return the fit with tables of predictions that have no rows."""
        out_of_sample, in_sample = (table.iloc[:0].copy() for table in (self.out_of_sample, self.in_sample))
        return replace(self, out_of_sample=out_of_sample, in_sample=in_sample)


def plan_cross_fit(params: config.Block, model: str) -> CrossFit:
    """Return the fits of a model of params.yaml on the dataset and target of its block."""
    data, tasks = load_fits(params, model)
    return CrossFit(make_spec(params, model, data=data), data, tasks)


def make_spec(params: config.Block, model: str, *, data: LabeledDataset) -> ModelSpec:
    """Return what a model of params.yaml is built from; of a tuned one without its hyperparameters."""
    entry, section = tuned.find_fitted(params, model), config.find_model(params, model).family
    plugin = plugins.find_plugin_of(entry, section=section)
    check_target_keys(params, model, entry, horizon_bars=data.target.horizon_bars)
    _check_embargo(entry, least=data.folds.embargo_bars)
    signature = base.Signature(columns=data.samples.columns, output=data.target.output)
    market = plugin.read_market(params, entry.block["dataset"])
    return ModelSpec(entry, signature, params.get(entry.family) or {}, market)


def _check_embargo(entry: config.ModelBlock, *, least: int) -> None:
    """Raise ParamsError where a model whose hyperparameters have an embargo gives it fewer bars than the folds have."""
    own = entry.block["hyperparameters"].get("embargo_bars")
    if isinstance(own, int) and own < least:
        raise config.ParamsError(
            f"models.{entry.family}.{entry.name}.hyperparameters.embargo_bars is {own}; it must be at least {least}, "
            "the embargo of the folds"
        )


def load_fits(params: config.Block, model: str) -> tuple[LabeledDataset, list[FitTask]]:
    """Return what `load_tasks` returns, a tuned model's fits with the hyperparameters that `tune` found for them."""
    data, tasks = load_tasks(params, model)
    if not tuned.is_tuned(params, model):
        return data, tasks
    found = tuned.read_hyperparameters(model, splits={task.split for task in tasks})
    return data, [replace(task, hyperparameters=found[task.split]) for task in tasks]


def load_tasks(params: config.Block, model: str) -> tuple[LabeledDataset, list[FitTask]]:
    """Return the data of a model of params.yaml, with the columns and the fills that it sees, and its fits."""
    entry, section = tuned.find_fitted(params, model), config.find_model(params, model).family
    block, plugin = entry.block, plugins.find_plugin_of(entry, section=section)
    data = load_dataset(block["dataset"], block["target"])
    data = data.add_fills(plugin.load_fills(params, block["dataset"], data.rows))
    try:
        data = data.select_columns(block.get("columns"))
        is_included = data.mark_symbols(block.get("include_symbols"))
        is_learned = is_included & ~data.mark_neutrals() if block.get("exclude_neutrals") else is_included
    except ValueError as error:
        raise config.ParamsError(f"models.{section}.{model}: {error}") from error
    train = config.look_up(params, "train")
    seeds = config.list_seeds(params)
    fits = config.call_with(plan_fits, data.folds, model, seeds, is_included, is_learned, block=train, name="train")
    return data, list(fits)


def plan_fits(
    folds: Folds,
    model: str,
    seeds: Sequence[int],
    is_included: np.ndarray,
    is_learned: np.ndarray,
    *,
    valid_pct: Annotated[float, Interval(gt=0, lt=1)],
) -> Iterator[FitTask]:
    """Yield the fits of a model: for each seed one of each split, and last the final one, on the development part.

    A fit learns from labeled rows that are `is_learned` and predicts those, labeled or not, that are `is_included`,
    both (N,) bool. It may predict none: a symbol that is listed later has no row in the first groups.

    Raises:
        ValueError: a fit has no row to learn from; names its split.
    """
    rows_of: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}  # train, valid and predicted by split
    for split in (*range(folds.n_splits), FINAL):
        rows = folds.development() if split == FINAL else folds.train(split)
        predicted = folds.predicted_holdout() if split == FINAL else folds.predicted(split)
        train, valid = _divide_rows(folds, rows[is_learned[rows]], valid_pct, split=split)
        rows_of[split] = (train, valid, predicted[is_included[predicted]])
    for seed in seeds:
        for split, (train, valid, predicted) in rows_of.items():
            yield FitTask(split, train, valid, predicted, seed, config.derive_seed(seed, model, split))


def _divide_rows(folds: Folds, rows: np.ndarray, valid_pct: float, *, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the train and the valid rows of a fit; ValueError where none is left to learn from."""
    name = "the final fit" if split == FINAL else f"split {split}"
    if not len(rows):
        raise ValueError(
            f"{name}: no train row is of a symbol and class that the model learns from; add symbols with a longer "
            "history to include_symbols, or lower split.groups or split.test_groups"
        )
    try:
        return folds.split_validation(rows, valid_pct)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def fit_fold(
    task: FitTask, spec: ModelSpec, data: LabeledDataset, *, folder: Path, files: FitFiles | None = None
) -> FoldFit:
    """Return the results of one fit; the final one is saved to `folder`, with its `score_std` beside the model."""
    model, samples = spec.build(task.fit_seed, task.hyperparameters), data.samples
    history = fit_measured(model, task, samples, files=files)
    fitted_on = np.sort(np.concatenate([task.train, task.valid]))
    prediction = model.predict_rows(samples, fitted_on)
    score_std = measure_score_std(prediction[np.isin(fitted_on, task.train)], data.target.output)
    in_sample = tabulate(prediction, task, data, rows=fitted_on, score_std=score_std)
    if task.split == FINAL:
        save_score_std(folder, score_std)
        model.save(folder)
    test = task.predicted[samples.is_labeled[task.predicted]]
    return FoldFit(
        seed=task.seed,
        split=task.split,
        history=history,
        best=model.stopping.find_best_entry(history),
        fit_report=model.fit_report,
        # the holdout stays closed; a split of groups in which a symbol is not listed tests nothing
        evaluation={} if task.split == FINAL or not len(test) else model.evaluate(samples, test),
        rows={
            "train": len(task.train),
            "valid": len(task.valid),
            "test": len(test),
            "predicted": len(task.predicted),
        },
        out_of_sample=predict(model, task, data, rows=task.predicted, score_std=score_std),
        in_sample=in_sample[[name for name in IN_SAMPLE if name in in_sample]],
        standardization=tabulate_standardization(model, task),
        score_std=score_std,
    )


def fit_measured(
    model: base.Model, task: FitTask, samples: Samples, *, files: FitFiles | None
) -> list[dict[str, float]]:
    """Fit the model and return the history; with `files` append the seconds and the peak memory of the fit."""
    if files is None:
        return model.fit(samples, task.train, task.valid)
    files.meter.load_state_dict({})  # the clock of this process, which may not be the one that made the files
    history = model.fit(samples, task.train, task.valid, files=files)
    files.open_measurements().append_new([files.meter.measure()])
    return history


def predict(
    model: base.Model, task: FitTask, data: LabeledDataset, *, rows: np.ndarray, score_std: float
) -> pd.DataFrame:
    """Return the predictions for `rows` of the model that a task has fitted, as a table with the task's seed."""
    nothing = np.empty((0, len(data.target.output.names)))
    prediction = model.predict_rows(data.samples, rows) if len(rows) else nothing
    return tabulate(prediction, task, data, rows=rows, score_std=score_std)


def tabulate(
    prediction: np.ndarray, task: FitTask, data: LabeledDataset, *, rows: np.ndarray, score_std: float
) -> pd.DataFrame:
    """Return predictions (n, outputs) of a task's fit for `rows` as a table with the task's seed."""
    table = make_predictions(
        task.split, data.rows, rows, prediction=prediction, target=data.target, score_std=score_std
    )
    table.insert(0, "seed", np.full(len(table), task.seed, np.int64))
    return table


def tabulate_standardization(model: base.Model, task: FitTask) -> pd.DataFrame:
    """Return the mean and the scale of each column that a fitted model standardizes, one row a column."""
    mean, scale = model.standardization or (np.empty(0), np.empty(0))
    return pd.DataFrame(
        {
            "seed": np.full(len(mean), task.seed, np.int64),
            "split": np.full(len(mean), task.split, np.int16),
            "column": list(model.signature.columns[: len(mean)]),
            "mean": np.asarray(mean, np.float64),
            "scale": np.asarray(scale, np.float64),
        }
    )
