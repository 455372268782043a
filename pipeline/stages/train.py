"""train <model>: fit it on every split and on the whole development part; save predictions and the final model."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import delayed

from pipeline import artifacts, cli, config, digests
from pipeline.models import plugins, tuned
from pipeline.models.base import DATA
from pipeline.models.cross_fit import FitTask, FoldFit, fit_fold, plan_cross_fit
from pipeline.models.dataset import hash_dataset
from pipeline.models.fit_files import FitFiles, remove_checkpoints
from pipeline.models.fit_memory import limit_workers
from pipeline.models.measurements import MEASUREMENTS
from pipeline.models.parallel_fits import run_in_parallel
from pipeline.models.predictions import FINAL, name_split
from pipeline.row_groups import TableFile, open_table

LABELS = ("seed", "split")  # of a fit, the first columns of its lines
GROUP_ROWS = 1 << 20  # of a row group of predictions

log = logging.getLogger(__name__)

METRICS = (
    "iteration",
    "valid_loss",
    "grad_norm",
    "episode_return",
    "exploration_noise",
    "value_std",
)  # of the best iteration


def main(model: str) -> None:
    """Fit a model on every split and on the whole development part, once for each seed."""
    params = config.load_params()
    plan = plan_cross_fit(params, model)
    sources = hash_dataset(plan.spec.model.block["dataset"], plan.spec.model.block["target"])
    unfitted = plan.spec.build(plan.tasks[0].fit_seed, plan.tasks[0].hyperparameters)
    write_header(artifacts.HISTORY / f"{model}.csv", unfitted.history_fields)
    write_header(name_measurements(model), MEASUREMENTS)
    with artifacts.replace_atomically(artifacts.MODELS / model) as folder:
        jobs = (
            delayed(fit_fold)(task, plan.spec, plan.data, folder=folder / str(task.seed), files=name_files(model, task))
            for task in plan.tasks
        )
        workers = 1 if unfitted.needs_sequential_fits else config.count_workers()
        fit_bytes = unfitted.estimate_fit_bytes(max(len(task.train) + len(task.valid) for task in plan.tasks))
        workers = limit_workers(workers, fit_bytes=fit_bytes, desc=f"train {model}")
        log.info("train %s: fits run on %s, %d at a time", model, unfitted.fit_device, workers)
        done = run_in_parallel(jobs, workers=workers, total=len(plan.tasks), desc=f"train {model}")
        fits = write_predictions(model, done)
        deployed_seed = choose_deployed_seed(fits, metric=unfitted.stopping.metric)
        keep_traded(model, fits, deployed_seed=deployed_seed)
        keep_deployed(folder, seed=deployed_seed)
        artifacts.write_json(folder / DATA, sources)
        digests.write_sums(folder)
        importances = plugins.load(folder).measure_importances()
        report: dict[str, Any] = {"fits": [summarize_fit(fit) for fit in fits], "importances": importances}
        report["parameters"] = list_parameters(params, model, market=plan.spec.market)
        if tuned.is_tuned(params, model):
            report |= describe_tuning(params, model, parameters=report["parameters"])
        summary = summarize_fits(fits, stopping_metric=unfitted.stopping.metric)
        artifacts.write_json(artifacts.report_path("train", model), {"deployed_seed": deployed_seed, **summary})
        artifacts.write_table(artifacts.STATISTICS / f"{model}.parquet", pd.concat(fit.standardization for fit in fits))
        write_history(model, fits, fields=unfitted.history_fields)
        report["history_sha256"] = digests.hash_file(artifacts.HISTORY / f"{model}.csv")
        artifacts.write_report("train/details", model, report)
    remove_checkpoints(artifacts.CHECKPOINTS / model)


def list_parameters(params: config.Block, model: str, *, market: config.Block) -> dict[str, Any]:
    """Return the parameters that the fits of a model depend on, which identify its trials.

    The name counts, because seeds are derived from it; the names of its dataset and of its target do not. `market` are
    the rules and costs that it learns to trade with, if it does.
    """
    family, block, name = config.find_model(params, model)
    own = {key: value for key, value in block.items() if key not in ("dataset", "target")}
    section = params.get(tuned.find_fitted(params, model).family) or {}
    shared = {"shared": section, "train": params["train"], "seeds": config.list_seeds(params)}
    traded = {"market": dict(market)} if market else {}
    return {"model": name, "family": family, **own, **shared, **traded}


def describe_tuning(params: config.Block, model: str, *, parameters: config.Block) -> dict[str, Any]:
    """Return the entries of a tuned model's report: its search, and `parameters` with the procedure that made it."""
    tuning = artifacts.read_report(f"{tuned.STAGE}/details", model)
    procedure = {"tune": params["tune"], "inner_trials": tuning["inner_trials"]}
    return {"parameters": {**parameters, **procedure}, "tuning": tuning}


def name_files(model: str, task: FitTask) -> FitFiles:
    """Return the files of one fit: its checkpoints, and the history and measurements that grow while fits run."""
    labels = label_fit(task)
    return FitFiles(
        checkpoints=artifacts.CHECKPOINTS / model,
        metrics=artifacts.HISTORY / f"{model}.csv",
        measured=name_measurements(model),
        name="-".join(map(str, labels.values())),
        labels=labels,
    )


def label_fit(fit: FitTask | FoldFit) -> dict[str, object]:
    """Return the values of LABELS of one fit."""
    return {"seed": fit.seed, "split": name_split(fit.split)}


def name_measurements(model: str) -> Path:
    """Return the CSV of the seconds and the peak memory of a model's fits on this machine."""
    return artifacts.MEASURED / "train" / f"{model}.csv"


def write_header(file: Path, fields: Sequence[str]) -> None:
    """Start a CSV to which fits append their lines while they run."""
    artifacts.write_text(file, ",".join((*LABELS, *fields)) + "\n")


def choose_deployed_seed(fits: Sequence[FoldFit], *, metric: str) -> int:
    """Return the seed whose final fit has the median of a metric of its best iteration; of two medians the lower.

    The best seed would be the luckiest one. Of equal fits the first counts as lower; NaN is above all numbers.
    """
    finals = [fit for fit in fits if fit.split == FINAL]
    ascending = sorted(finals, key=lambda fit: (np.isnan(fit.best[metric]), fit.best[metric]))
    return ascending[(len(finals) - 1) // 2].seed


def keep_deployed(folder: Path, *, seed: int) -> None:
    """Move the model of one seed from its folder, within `folder`, to `folder`; remove those of the others."""
    for candidate in sorted(folder.iterdir()):
        if candidate.name == str(seed):
            for part in candidate.iterdir():
                part.rename(folder / part.name)
        artifacts.remove(candidate)


def write_predictions(model: str, fits: Iterable[FoldFit]) -> list[FoldFit]:
    """Write the predictions of each fit once it has ended, and return the fits without them: they may fill the memory.

    The out-of-sample ones include those of all final fits, see `keep_traded`.
    """
    done = []
    with (
        open_table(artifacts.OOS / f"{model}.parquet", group_rows=GROUP_ROWS) as out_of_sample,
        open_table(artifacts.IN_SAMPLE / f"{model}.parquet", group_rows=GROUP_ROWS) as in_sample,
    ):
        for fit in fits:
            out_of_sample.append(fit.out_of_sample)
            in_sample.append(fit.in_sample)
            done.append(fit.drop_predictions())
            del fit  # before the next fit: its tables may be large
    return done


def keep_traded(model: str, fits: Sequence[FoldFit], *, deployed_seed: int) -> None:
    """Remove from the out-of-sample predictions those that final fits of other seeds made for the holdout."""
    if all(fit.split != FINAL or fit.seed == deployed_seed for fit in fits):
        return
    file = artifacts.OOS / f"{model}.parquet"
    table, start = TableFile(file), 0
    with open_table(file, group_rows=GROUP_ROWS) as writer:
        for fit in fits:
            stop = start + fit.rows["predicted"]
            if fit.split != FINAL or fit.seed == deployed_seed:
                writer.append(table.read(start=start, stop=stop))
            start = stop


def write_history(model: str, fits: Sequence[FoldFit], *, fields: Sequence[str]) -> None:
    """Write the history of every fit, by seed and split."""
    entries = [{**label_fit(fit), **entry} for fit in fits for entry in fit.history]
    history = pd.DataFrame(entries, columns=[*LABELS, *fields])
    artifacts.write_text(artifacts.HISTORY / f"{model}.csv", history.to_csv(index=False))


def summarize_fit(fit: FoldFit) -> dict[str, object]:
    """Return the report of one fit: its rows, its iterations and the best of them, and the spread of its scores."""
    optional = {"fit_report": fit.fit_report, "own_forecasts": fit.evaluation}
    return {
        **label_fit(fit),
        "rows": fit.rows,
        "iterations": len(fit.history),
        "best": fit.best,
        "score_std": fit.score_std,
        **{name: found for name, found in optional.items() if found},
    }


def summarize_fits(fits: Sequence[FoldFit], *, stopping_metric: str) -> dict[str, float]:
    """Return medians over the fits, as metrics; a metric that no fit has is left out."""
    names = dict.fromkeys((*METRICS, stopping_metric))
    values = {name: [fit.best[name] for fit in fits if name in fit.best] for name in names}
    of_best = {f"best_{name}": float(np.median(found)) for name, found in values.items() if found}
    return {**of_best, **take_medians([fit.evaluation for fit in fits])}


def take_medians(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the median of every number, and the share of fits in which a fact is true."""
    values: dict[str, list[float]] = defaultdict(list)
    for evaluation in evaluations:
        for name, value in evaluation.items():
            if isinstance(value, bool | int | float):
                values[name].append(value)
    return {
        name: float(np.mean(found) if isinstance(found[0], bool) else np.median(found))
        for name, found in sorted(values.items())
    }


if __name__ == "__main__":
    cli.run(main)
