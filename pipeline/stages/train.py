"""train <model>: every fold's fit and the final one; what each answered out of sample and in it; the final model."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from tqdm import tqdm

from pipeline import curves, dataset, labels, plots, predictions, workspace
from pipeline.folds import Folds
from pipeline.leakage.findings import Finding, raise_if_critical
from pipeline.leakage.fits import fit_rows, normalization, row_order, unseen_rows
from pipeline.models import base
from pipeline.predictions import FINAL
from pipeline.samples import Samples

TOLD = ("round", "valid", "gradient_norm", "episode_return", "noise", "value_deviation")  # in metrics
Importances = dict[str, dict[str, float]] | None


@dataclass(frozen=True)
class Task:
    """One fit to be made: which split, on which rows, with which seed."""

    split: int
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    seed: int
    is_probed: bool  # whether the model itself is questioned, by one more fit


@dataclass(frozen=True)
class Fit:
    """All that is kept of one fit."""

    split: int
    history: list[dict[str, float]]
    diagnosis: dict[str, Any]
    examined: dict[str, Any]  # on the test rows
    rows: dict[str, int]
    tested: pd.DataFrame
    trained: pd.DataFrame
    guards: list[Finding]  # of this fit
    probes: list[Finding]  # of the model


def main(model: str) -> None:
    """Fit a model on every fold and on the whole development part."""
    blocks = workspace.params()
    block = workspace.entry(blocks, f"models.{model}")
    samples, folds = dataset.load(block["dataset"], block["target"])
    kind = workspace.entry(blocks, f"datasets.{block['dataset']}.targets.{block['target']}.kind")
    shape = base.Shape(columns=samples.columns, outputs=labels.OUTPUTS[kind])
    block_of_train = workspace.entry(blocks, "train")
    planned = workspace.feed(tasks, folds, model, blocks["seed"], block=block_of_train, named="train")
    shared = workspace.entry(blocks, block["family"])
    unfitted = base.build(block, shape, shared=shared, seed=blocks["seed"])
    live = workspace.HISTORY / f"{model}.csv"
    workspace.write_text(live, ",".join(("split", *unfitted.tells)) + "\n")  # fits add to it as they go
    with workspace.replacing(workspace.MODELS / model) as folder:
        jobs = (
            delayed(fit)(task, block, shape, samples=samples, shared=shared, folder=folder, bench=bench(model, task))
            for task in planned
        )
        pool = Parallel(n_jobs=1 if unfitted.fits_alone else workspace.workers(), return_as="generator")
        fits = list(tqdm(pool(jobs), total=folds.n_splits + 1, desc=f"train {model}", unit="fit"))
        importances = base.load(folder).importances()
        workspace.write_json(workspace.report("train/details", model), report(fits, importances))
        workspace.write_json(workspace.report("train", model), figures(fits))
        raise_if_critical(finding for done in fits for finding in [*done.guards, *done.probes])
        write(model, fits, importances, fields=unfitted.tells)
    workspace.remove(workspace.CHECKPOINTS / model)


def bench(model: str, task: Task) -> base.Bench:
    """Where a fit keeps what it needs after an interruption, and tells how it goes."""
    return base.Bench(
        folder=workspace.CHECKPOINTS / model,
        metrics=workspace.HISTORY / f"{model}.csv",
        name=named(task.split),
        labels={"split": named(task.split)},
    )


def named(split: int) -> str:
    """The number of a split, or that it is the final fit."""
    return "final" if split == FINAL else str(split)


def tasks(folds: Folds, model: str, seed: int, *, valid_pct: float) -> Iterator[Task]:
    """The fits of a model: one a split, and last the final one on the whole development part.

    The split with the fewest train rows, the first of several, is the one that the model is probed on.
    """
    cheapest = int(np.argmin(folds.counts().train))
    for split in (*range(folds.n_splits), FINAL):
        rows = folds.development() if split == FINAL else folds.train(split)
        train, valid = folds.early_stopping(rows, valid_pct)
        test = folds.holdout() if split == FINAL else folds.test(split)
        yield Task(split, train, valid, test, workspace.seed_for(seed, model, split), split == cheapest)


def fit(
    task: Task,
    block: workspace.Block,
    shape: base.Shape,
    *,
    samples: Samples,
    shared: workspace.Block,
    folder: Path,
    bench: base.Bench | None = None,
) -> Fit:
    """One fit and its answers; the final one is saved to `folder`."""
    model = base.build(block, shape, shared=shared, seed=task.seed)
    history = model.fit(samples, task.train, task.valid, bench=bench)
    if task.split == FINAL:
        model.save(folder)
    twin = base.build(block, shape, shared=shared, seed=task.seed)
    fitted_on = np.sort(np.concatenate([task.train, task.valid]))
    return Fit(
        split=task.split,
        history=history,
        diagnosis=model.diagnosis(),
        examined=model.examined(samples, task.test),
        rows={"train": len(task.train), "valid": len(task.valid), "test": len(task.test)},
        tested=answers(model, task.split, samples=samples, rows=task.test),
        trained=answers(model, task.split, samples=samples, rows=fitted_on)[["split", "row", "score"]],
        guards=[
            normalization(model.standardisation(), samples.x[task.train]),
            fit_rows(task.train, task.valid, task.test, time=samples.time, label_end=samples.label_end),
        ],
        probes=list(probes(model, twin, task, samples=samples)) if task.is_probed else [],
    )


def probes(model: base.Model, twin: base.Model, task: Task, *, samples: Samples) -> Iterator[Finding]:
    """What the guards say of a fitted model, by its unfitted twin: it learns from its rows and answers inputs alone."""
    seen = np.concatenate([task.train, task.valid])

    def refit(table: Samples) -> np.ndarray:
        if table is samples:  # that fit has been made
            return model.answer(samples, task.test)
        twin.fit(table, task.train, task.valid)
        return twin.answer(samples, task.test)

    yield unseen_rows(samples, seen, refit, reach_bars=model.reach_bars, seed=task.seed)
    yield row_order(model.answer, samples, task.test, seed=task.seed)


def answers(model: base.Model, split: int, *, samples: Samples, rows: np.ndarray) -> pd.DataFrame:
    """What a fitted model answers for `rows`."""
    answer = model.answer(samples, rows)
    score = base.score_of(answer, model.outputs)
    return predictions.record(split, rows, answer=answer, outputs=model.outputs, score=score)


def report(fits: Sequence[Fit], importances: Importances) -> dict[str, object]:
    """How every fit went, and what the guards say of the model."""
    asked = [asdict(finding) for done in fits for finding in done.probes]
    return {"fits": [summary(done) for done in fits], "importances": importances, "guards": asked}


def figures(fits: Sequence[Fit]) -> dict[str, float]:
    """How the fits went in a few numbers: what nothing is known of is left out."""
    best = [best_entry(fit.history) for fit in fits]
    verdicts = [fit.diagnosis["verdict"] for fit in fits if "verdict" in fit.diagnosis]
    told = {name: [entry[name] for entry in best if name in entry] for name in TOLD}
    return {
        **{f"best_{name}": float(np.median(values)) for name, values in told.items() if values},
        **({"healthy_fits": verdicts.count("healthy") / len(verdicts)} if verdicts else {}),
        **medians([fit.examined for fit in fits]),
    }


def medians(told: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of every number the median over the fits that tell it; of what is true or not, how often it is."""
    values: dict[str, list[float]] = defaultdict(list)
    for each in told:
        for name, value in each.items():
            if isinstance(value, bool | int | float):
                values[name].append(value)
    return {
        name: float(np.mean(each) if isinstance(each[0], bool) else np.median(each))
        for name, each in sorted(values.items())
    }


def best_entry(history: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The round with the lowest valid loss, the first of equals: the one that answers."""
    return min(history, key=lambda entry: entry["valid"])


def write(model: str, fits: Sequence[Fit], importances: Importances, *, fields: Sequence[str]) -> None:
    """Answers and plots of a trained model are in their places."""
    workspace.write_table(workspace.OOS / f"{model}.parquet", pd.concat([fit.tested for fit in fits]))
    workspace.write_table(workspace.IN_SAMPLE / f"{model}.parquet", pd.concat([fit.trained for fit in fits]))
    told = [{"split": named(fit.split), **entry} for fit in fits for entry in fit.history]
    history = pd.DataFrame(told, columns=["split", *fields])
    workspace.write_text(workspace.HISTORY / f"{model}.csv", history.to_csv(index=False))
    folder = workspace.PLOTS / model
    learnt = curves.learning_curves([fit.history for fit in fits], title=f"{model}: learning curves, {len(fits)} fits")
    workspace.write_figure(folder / "learning_curves.png", learnt)
    gain = next(iter(importances.values())) if importances else {}
    kind = next(iter(importances)) if importances else "undefined"
    workspace.write_figure(folder / "importances.png", plots.importances(gain, title=f"{model}: importance by {kind}"))


def summary(fit: Fit) -> dict[str, object]:
    """How a fit went: its rows, its rounds and the best of them."""
    return {
        "split": named(fit.split),
        "rows": fit.rows,
        "rounds": len(fit.history),
        "best": best_entry(fit.history),
        **({"diagnosis": fit.diagnosis} if fit.diagnosis else {}),
        **({"examined": fit.examined} if fit.examined else {}),
        "guards": [asdict(finding) for finding in fit.guards],
    }


if __name__ == "__main__":
    workspace.run(main)
