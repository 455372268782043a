"""sensitivity <dataset>: measure how the IC of a model that memorizes depends on the embargo."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval, MinLen
from joblib import delayed
from pydantic import NonNegativeFloat, PositiveInt

from pipeline import artifacts, cli, config, digests
from pipeline.leakage.embargo_sensitivity import (
    GUARD,
    MIN_BLOCKS,
    SHIFTS,
    EmbargoScores,
    EmbargoTask,
    bootstrap_ic,
    check_ic_drop,
    number_time_blocks,
    plan_tasks,
    scale_embargo,
)
from pipeline.leakage.findings import Finding
from pipeline.models import base, plugins
from pipeline.models.dataset import load_dataset
from pipeline.models.parallel_fits import run_in_parallel
from pipeline.samples import Samples
from pipeline.targets import Target
from pipeline.validation.folds import Folds

FAMILY = "trees"  # of the model that memorizes; dvc.yaml lists its code
NO_TARGET = "no target of the dataset is a number with a direction"
INTERVAL = [0.025, 0.975]  # quantiles of the resampled ICs that are shown


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The block `embargo_sensitivity` of params.yaml."""

    plugin: str
    hyperparameters: dict[str, Any]  # every argument of the plugin, those that its family shares too
    embargo_factors: Annotated[list[NonNegativeFloat], MinLen(2)]  # multiples of the embargo of the folds
    resamples: PositiveInt
    significance: Annotated[float, Interval(gt=0, lt=1)]  # of the one-sided p-value
    min_ic_drop: NonNegativeFloat

    def __post_init__(self) -> None:
        """Raise ValueError for factors that do not ascend from 0."""
        factors = self.embargo_factors
        if len(factors) < 2 or factors[0] != 0 or not np.all(np.diff(factors) > 0):
            raise ValueError(
                f"embargo_sensitivity.embargo_factors is {list(factors)}; give 0 and then rising multiples of the "
                "embargo"
            )


def main(dataset: str) -> None:
    """Fit a model that memorizes against the embargo, on the first target of a dataset whose y is a scored number."""
    params = config.load_params()
    target = find_target(dataset, list(config.look_up(params, f"datasets.{dataset}.targets")))
    block = config.look_up(params, "embargo_sensitivity")
    settings = config.call_with(Settings, block=block, name="embargo_sensitivity")
    if target is None:
        report = explain_missing(NO_TARGET)
    else:
        data = load_dataset(dataset, target)
        signature = base.Signature(columns=data.samples.columns, output=data.target.output)
        report = measure_sensitivity(
            data.samples, data.folds, signature=signature, settings=settings, seed=params["seed"]
        )
    artifacts.write_report("sensitivity", dataset, {"target": target, **report})


def find_target(dataset: str, targets: Sequence[str]) -> str | None:
    """Return the first target whose y is a number that is its own score; None where there is none."""
    for name in targets:
        output = Target.load(digests.verify(artifacts.LABELS / dataset / f"{name}.parquet")).output
        if output.kind in ("value", "position", "probability") and not output.no_score_reason:
            return name
    return None


def measure_sensitivity(
    samples: Samples, folds: Folds, *, signature: base.Signature, settings: Settings, seed: int
) -> dict[str, Any]:
    """Return the report: ICs at multiples of the embargo of `folds`, and whether they fall by more than chance."""
    if not folds.embargo_bars:
        key = folds.scheme.describe_embargo()
        return explain_missing(f"the embargo is 0 bars, split.{key}: it has no multiples; raise it or set it to null")
    factors = settings.embargo_factors
    tasks = [task for shift in range(SHIFTS) for task in plan_tasks(folds, factors, shift=shift, seed=seed)]
    scores = predict_tasks(samples, tasks, signature=signature, settings=settings)
    block = number_time_blocks(folds, scores)
    if block.max() + 1 < MIN_BLOCKS:
        return explain_missing(f"{block.max() + 1} blocks of time lie near a test's end, {MIN_BLOCKS} are needed")
    rng = np.random.default_rng(seed)
    curve = bootstrap_ic(scores, samples.y[scores.rows], block, rng=rng, resamples=settings.resamples)
    if np.isnan(curve.boundary_ic).any():
        return explain_missing("predictions or labels near a test's end never vary")
    embargo_bars = scale_embargo(folds, factors)
    finding = check_ic_drop(
        curve,
        embargo_factors=factors,
        embargo_bars=embargo_bars,
        significance=settings.significance,
        min_ic_drop=settings.min_ic_drop,
    )
    low, high = np.quantile(curve.resampled, INTERVAL, axis=0)
    return {
        "embargo_factors": list(factors),
        "embargo_bars": embargo_bars,
        "rows": {"tested": len(scores.rows), "boundary": len(block), "blocks": block.max() + 1},
        "ic": curve.ic,
        "boundary_ic": curve.boundary_ic,
        "boundary_ic_low": low,
        "boundary_ic_high": high,
        "reason": None,
        "finding": asdict(finding),
    }


def explain_missing(reason: str) -> dict[str, Any]:
    """Return the report where nothing can be measured."""
    return {"reason": reason, "finding": asdict(Finding(GUARD, "ok", f"not measured: {reason}", {}))}


def predict_tasks(
    samples: Samples, tasks: Sequence[EmbargoTask], *, signature: base.Signature, settings: Settings
) -> EmbargoScores:
    """Return the scores of one fit for every task and embargo."""
    jobs = [
        delayed(predict_fit)(samples, train, task.test, settings=settings, signature=signature, seed=task.seed)
        for task in tasks
        for train in task.trains
    ]
    scores = run_in_parallel(jobs, workers=config.count_workers(), total=len(jobs), desc="sensitivity")
    return EmbargoScores(
        rows=np.concatenate([task.test for task in tasks]),
        score=np.concatenate([np.column_stack([next(scores) for _ in task.trains]) for task in tasks]),
        is_boundary=np.concatenate([task.is_boundary for task in tasks]),
    )


def predict_fit(
    samples: Samples, train: np.ndarray, test: np.ndarray, *, settings: Settings, signature: base.Signature, seed: int
) -> np.ndarray:
    """Return (n,) scores of a model that memorizes `train`: its valid rows are train's, and never stop it."""
    model = plugins.build_plugin(
        FAMILY,
        settings.plugin,
        signature,
        hyperparameters=settings.hyperparameters,
        seed=seed,
        name="embargo_sensitivity",
    )
    model.fit(samples, train, train)
    return model.score(samples, test)


if __name__ == "__main__":
    cli.run(main)
