"""tune <model>: search hyperparameters within the rows of every fit of a model; `train` reads what was found."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, get_args

import numpy as np
from joblib import delayed

from pipeline import PINNED, artifacts, cli, config
from pipeline.cluster.machine import describe_machine
from pipeline.evaluation.forecast import measure_forecast
from pipeline.models import tuned
from pipeline.models.base import Model
from pipeline.models.cross_fit import ModelSpec, load_tasks, make_spec
from pipeline.models.dataset import hash_dataset
from pipeline.models.parallel_fits import run_in_parallel
from pipeline.models.predictions import name_split
from pipeline.models.tuning.search_space import Corner, describe_space, parse_space, suggest
from pipeline.models.tuning.study import Metric, Search, TuneSettings, check_space, search
from pipeline.samples import Samples

FOLDER = artifacts.CHECKPOINTS / tuned.STAGE


def main(model: str) -> None:
    """Search the hyperparameters of a model of `models.tuned`, once for each split and once for the final fit."""
    params = config.load_params()
    entry = config.find_model(params, model)
    name = f"models.{entry.family}.{model}"
    if entry.family != tuned.FAMILY:
        raise config.ParamsError(f"{name} is not tuned; entries of models.{tuned.FAMILY} are")
    settings = config.call_with(TuneSettings, block=config.look_up(params, "tune"), name="tune")
    data, tasks = load_tasks(params, model)
    spec = make_spec(params, model, data=data)
    space = parse_space(spec.model.block["hyperparameters"], name=f"{name}.hyperparameters")
    check_space(spec, space, name=name)
    tasks = [task for task in tasks if task.seed == tasks[0].seed]  # what it finds serves the fits of every seed
    folder = FOLDER / model / digest_search(params, spec)
    jobs = (
        delayed(search)(
            task,
            spec,
            data,
            space=space,
            settings=settings,
            valid_pct=params["train"]["valid_pct"],
            measure=partial(measure, metric=settings.metric),
            storage=folder / f"{name_split(task.split)}.jsonl",
        )
        for task in tasks
    )
    workers = choose_workers(spec, tasks[0].fit_seed, space=space)
    searches = list(run_in_parallel(jobs, workers=workers, total=len(tasks), desc=f"tune {model}"))
    write_results(model, searches, space=space, settings=settings)
    artifacts.remove(FOLDER / model)


def choose_workers(spec: ModelSpec, seed: int, *, space: Mapping[str, Any]) -> int:
    """Return how many searches run at once: one where fits share a GPU."""
    model = spec.build(seed, suggest(space, Corner(is_high=False, choice=0)))
    return 1 if model.needs_sequential_fits else config.count_workers()


def measure(model: Model, samples: Samples, rows: np.ndarray, *, metric: str) -> tuple[float, str]:
    """Return a metric of a model's forecasts on some rows, and why it is NaN.

    Raises:
        ParamsError: forecasts of the target have no such metric; names those that they have.
    """
    found, reasons = measure_forecast(samples.learned[rows], model.predict_rows(samples, rows), model.signature.output)
    if metric not in found:
        known = [name for name in get_args(Metric) if name in found]
        raise config.ParamsError(
            f"tune.metric is {metric}; forecasts of {', '.join(model.outputs)} have {', '.join(known)}"
        )
    return found[metric], reasons.get(metric, "")


def digest_search(params: config.Block, spec: ModelSpec) -> str:
    """Return a digest of all that a search depends on: its data, settings and code, the packages and the machine.

    A search in which one of them differs does not go on from it.
    """
    block = spec.model.block
    names = ("seed", "seeds", "train", "tune", "split")
    used = {
        "family": spec.model.family,
        "block": block,
        "shared": spec.shared,
        "market": spec.market,
        "data": hash_dataset(block["dataset"], block["target"]),
        "machine": describe_machine(os.environ, tuple(PINNED)),
        **{each: params.get(each) for each in names},
    }
    text = json.dumps(used, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_results(model: str, searches: Sequence[Search], *, space: Mapping[str, Any], settings: TuneSettings) -> None:
    """Write the hyperparameters that were found, and to the details all trials; `evaluate` draws the final search."""
    splits = {
        name_split(each.split): {"hyperparameters": each.hyperparameters, settings.metric: each.value}
        for each in searches
    }
    inner = {
        "inner_trials": sum(len(each.trials) for each in searches),
        "inner_fits": sum(each.fits for each in searches),
    }
    artifacts.write_report(tuned.STAGE, model, {**inner, "splits": splits})
    details = {
        "metric": settings.metric,
        "direction": settings.direction,
        "space": describe_space(space),
        **inner,
        "searches": {
            name_split(each.split): {"trials": each.trials, "importances": each.importances} for each in searches
        },
    }
    artifacts.write_report(f"{tuned.STAGE}/details", model, details)


if __name__ == "__main__":
    cli.run(main)
