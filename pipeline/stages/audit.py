"""audit <model>: check that its fits learned from their train rows alone, by refitting one of them on altered rows."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import delayed

from pipeline import artifacts, cli, config
from pipeline.leakage.findings import Finding, raise_if_critical
from pipeline.leakage.fits import fit_rows, normalization, row_order, unseen_rows
from pipeline.models import base, plugins
from pipeline.models.cross_fit import FitTask, load_fits
from pipeline.models.diagnostics import diagnose_model
from pipeline.models.parallel_fits import run_in_parallel
from pipeline.models.permutation_importance import measure_permutation_importance, select_stretches
from pipeline.models.predictions import name_split
from pipeline.samples import Samples


class UnfittedModel(NamedTuple):
    """All that a model is built from, but its seed."""

    family: str
    plugin: str
    signature: base.Signature
    hyperparameters: dict[str, Any]


def main(model: str) -> None:
    """Audit the fits of a model; a leak stops the pipeline."""
    params = config.load_params()
    data, tasks = load_fits(params, model)
    samples = data.samples
    statistics = artifacts.read_table(artifacts.STATISTICS / f"{model}.parquet")
    predictions = artifacts.read_table(artifacts.OOS / f"{model}.parquet")
    smallest = min(tasks, key=lambda task: len(task.train))
    unfitted = plugins.build_like(
        artifacts.MODELS / model, seed=smallest.fit_seed, hyperparameters=smallest.hyperparameters
    )
    unscaled = unfitted.list_unscaled()
    of_fits = [check_fit(task, samples, statistics, unscaled=unscaled) for task in tasks]
    parts = describe_unfitted(unfitted)
    refit = delayed(audit_refit)(parts, smallest, samples, predictions, params=params)
    ((of_model, described),) = run_in_parallel([refit], workers=1, total=1, desc=f"audit {model}")
    report = {
        "fits": [describe_audit(task, found) for task, found in zip(tasks, of_fits, strict=True)],
        "refitted_seed": smallest.seed,
        "refitted_split": name_split(smallest.split),
        "findings": [asdict(finding) for finding in of_model],
        **described,
    }
    artifacts.write_report("audit", model, report)
    raise_if_critical(finding for found in (*of_fits, of_model) for finding in found)


def describe_audit(task: FitTask, found: Sequence[Finding]) -> dict[str, object]:
    """Return the entry of one fit in the report."""
    return {"seed": task.seed, "split": name_split(task.split), "findings": list(map(asdict, found))}


def check_fit(
    task: FitTask, samples: Samples, statistics: pd.DataFrame, *, unscaled: Sequence[str] = ()
) -> list[Finding]:
    """Return what the guards find in the rows and the standardization of one fit.

    `unscaled` are the columns that the model says it leaves as they are.
    """
    own = select_fit(statistics, task)
    saved = (own["mean"].to_numpy(), own["scale"].to_numpy()) if len(own) else None
    return [
        normalization(saved, samples.x[task.train], unscaled=np.flatnonzero(own["column"].isin(unscaled)).tolist()),
        fit_rows(task.train, task.valid, task.predicted, time=samples.time, label_end=samples.label_end),
    ]


def describe_unfitted(model: base.Model) -> UnfittedModel:
    """Return what an unfitted model is built from: classes of nets are made at run time, and cannot be pickled."""
    family, plugin = type(model).__module__.rsplit(".", 2)[-2:]
    return UnfittedModel(family, plugin, model.signature, base.list_hyperparameters(model))


def audit_refit(
    parts: UnfittedModel, task: FitTask, samples: Samples, predictions: pd.DataFrame, *, params: config.Block
) -> tuple[list[Finding], dict[str, Any]]:
    """Return what the guards find in one refit of a model, and the description of the refitted one."""
    plugin = plugins.find_plugin(parts.family, parts.plugin)
    model = plugin(signature=parts.signature, seed=task.fit_seed, **parts.hyperparameters)
    findings = list(check_model(model, task, samples, predictions))
    return findings, describe_refit(model, task, samples, params, family=parts.family)


def check_model(model: base.Model, task: FitTask, samples: Samples, predictions: pd.DataFrame) -> Iterator[Finding]:
    """Yield what the guards find in one refit: the model learns from its rows and predicts from inputs alone.

    `predictions` are those of the fits that `train` made; the refit, on altered rows, must give the same to the bit.
    """
    seen = np.concatenate([task.train, task.valid])

    def refit(table: Samples) -> np.ndarray:
        if table is samples:
            return select_predictions(predictions, task, model.outputs)
        model.fit(table, task.train, task.valid)
        return model.predict_rows(samples, task.predicted).astype(np.float32)

    yield unseen_rows(samples, seen, refit, lookback_bars=model.lookback_bars, seed=task.fit_seed)
    yield row_order(model.predict_rows, samples, task.predicted, seed=task.fit_seed)


def describe_refit(
    model: base.Model, task: FitTask, samples: Samples, params: config.Block, *, family: str
) -> dict[str, Any]:
    """Return the permutation importance and the diagnosis of the refitted model, on test rows of its split.

    The refit saw other values in the rows outside of its train part alone, so that it is the fit of the stage `train`.
    Both are None where the split tests no labeled row.
    """
    test = np.sort(task.predicted[samples.is_labeled[task.predicted]])
    if not len(test):
        return {"permutation_importance": None, "diagnosis": None}
    block = config.look_up(params, "permutation_importance")
    name, seed = "permutation_importance", task.fit_seed
    importance = config.call_with(measure_permutation_importance, model, samples, test, seed, block=block, name=name)
    inputs = model.inputs(samples, select_stretches(test, count=block["rows"]))
    return {name: importance, "diagnosis": diagnose_model(model, inputs, family=family)}


def select_predictions(predictions: pd.DataFrame, task: FitTask, outputs: Sequence[str]) -> np.ndarray:
    """Return the saved predictions (n, outputs) float32 of the rows that a fit predicts, in their order."""
    own = select_fit(predictions, task).set_index("row")
    return own.loc[task.predicted, list(outputs)].to_numpy(np.float32)


def select_fit(table: pd.DataFrame, task: FitTask) -> pd.DataFrame:
    """Return the rows of a table that one fit has written."""
    return table[(table["seed"] == task.seed) & (table["split"] == task.split)]


if __name__ == "__main__":
    cli.run(main)
