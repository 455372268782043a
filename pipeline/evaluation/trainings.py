"""The results of a model's training: what `train` has written of a fitted model, and `combine` of an ensemble."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import artifacts, config, digests
from pipeline.evaluation import voting
from pipeline.evaluation.fit_diagnosis import diagnose_fit

NOT_FITTED = "an ensemble is not fitted"

History = dict[str, list[dict[str, float]]]  # of each fit by its name


@dataclass(frozen=True, eq=False)
class Training:
    """The predictions of a model, and the record of its fits; an ensemble has no fits."""

    out_of_sample: pd.DataFrame  # of the splits and of the final fit
    in_sample: pd.DataFrame
    history: History = field(default_factory=dict)
    diagnoses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of fits that early stopping reports on
    importances: Mapping[str, Mapping[str, float]] | None = None
    fits: Sequence[Mapping[str, Any]] = ()  # their entries in the report
    audit: Mapping[str, Any] = field(default_factory=lambda: {"permutation_importance": None, "diagnosis": None})
    parameters: Mapping[str, Any] = field(default_factory=dict)  # of the fits, as `read_parameters` returns them
    tuning: Mapping[str, Any] | None = None  # the search for hyperparameters; None where params give them
    not_fitted: str | None = None  # why there is no history

    @property
    def targets(self) -> dict[str, float]:
        """The values that fields of the history should have: the share of returns beyond the value at risk."""
        blocks = [self.parameters.get(name) or {} for name in ("shared", "hyperparameters")]
        levels = [block["var_level"] for block in blocks if "var_level" in block]
        return {"var_violation_rate": 1.0 - levels[-1]} if levels else {}


def load_training(entry: config.ModelBlock) -> Training:
    """Return the training of a model of params; ArtifactError where a file is missing or damaged."""
    if entry.family == voting.FAMILY:
        folder = voting.ENSEMBLES / entry.name
        out_of_sample, in_sample = folder / voting.OUT_OF_SAMPLE, folder / voting.IN_SAMPLE
        return Training(artifacts.read_table(out_of_sample), artifacts.read_table(in_sample), not_fitted=NOT_FITTED)
    model = entry.name
    report, source = artifacts.read_report("train/details", model), artifacts.report_path("train/details", model)
    digests.verify_digest(artifacts.HISTORY / f"{model}.csv", report["history_sha256"], source=source)
    history = read_history(artifacts.HISTORY / f"{model}.csv")
    return Training(
        artifacts.read_table(artifacts.OOS / f"{model}.parquet"),
        artifacts.read_table(artifacts.IN_SAMPLE / f"{model}.parquet"),
        history=history,
        diagnoses=diagnose_fits(history, report["fits"]),
        importances=report["importances"],
        fits=report["fits"],
        audit=artifacts.read_report("audit", model),
        parameters=report["parameters"],
        tuning=report.get("tuning"),
    )


def read_parameters(entry: config.ModelBlock) -> dict[str, Any]:
    """Return the parameters that the training of a model depended on."""
    stage = "combine/details" if entry.family == voting.FAMILY else "train/details"
    parameters: dict[str, Any] = artifacts.read_report(stage, entry.name)["parameters"]
    return parameters


def read_history(file: Path) -> History:
    """Return the history of each fit by its name, without the fields that an entry lacks."""
    table = pd.read_csv(file, dtype={"split": str})
    one_seed = table["seed"].nunique() == 1
    return {
        name_fit(*key, one_seed=one_seed): [
            {str(name): value for name, value in zip(part, row, strict=True) if not np.isnan(value)}
            for row in part.to_numpy()
        ]
        for key, part in table.set_index(["seed", "split"]).groupby(level=["seed", "split"], sort=False)
    }


def name_fit(seed: object, split: object, *, one_seed: bool) -> str:
    """Return the name of a fit: its split, after its seed where there are several."""
    return str(split) if one_seed else f"{seed}-{split}"


def diagnose_fits(history: History, fits: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the diagnosis of each fit that early stopping reports on, by its name."""
    one_seed = len({fit["seed"] for fit in fits}) == 1
    stopping = {
        name_fit(fit["seed"], fit["split"], one_seed=one_seed): fit.get("fit_report", {}).get("early_stopping")
        for fit in fits
    }
    return {
        fit: diagnose_fit(
            history[fit], best_epoch=report["best_epoch"], reached_last_epoch=report["reached_last_epoch"]
        )
        for fit, report in stopping.items()
        if report
    }


def summarize_diagnoses(diagnoses: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the share of fits whose diagnosis is "healthy"; nothing for a family without diagnoses."""
    verdicts = [diagnosis["verdict"] for diagnosis in diagnoses.values()]
    return {"healthy_fit_share": verdicts.count("healthy") / len(verdicts)} if verdicts else {}
