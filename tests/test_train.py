"""The fits of a model, and what the guards are asked about them."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.folds import Folds, cpcv
from pipeline.labels import OUTPUTS
from pipeline.models import base
from pipeline.models.trees.lightgbm import LightGBM
from pipeline.predictions import FINAL
from pipeline.samples import Samples
from pipeline.stages import train
from tests.data import planted

PARAMS = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
BLOCK, SHARED = PARAMS["models"]["lightgbm"], PARAMS["trees"] | {"rounds": 10}
SAMPLES = planted("return", seed=1)
SHAPE = base.Shape(columns=SAMPLES.columns, outputs=OUTPUTS["return"])


def folds() -> Folds:
    return cpcv(SAMPLES.time, SAMPLES.label_end, groups=4, test_groups=2, embargo_pct=0.01, holdout_pct=0.15)


def planned() -> list[train.Task]:
    return list(train.tasks(folds(), "lightgbm", 42, valid_pct=0.15))


def fitted(task: train.Task, folder: Path) -> train.Fit:
    return train.fit(task, BLOCK, SHAPE, samples=SAMPLES, shared=SHARED, folder=folder)


def test_the_split_with_the_fewest_train_rows_is_the_one_that_is_probed():
    cut, tasks = folds(), planned()
    (probed,) = [task for task in tasks if task.is_probed]
    assert [task.split for task in tasks] == [*range(6), FINAL]
    assert len(cut.train(probed.split)) == min(len(cut.train(split)) for split in range(6))


def test_a_fit_is_asked_about_its_rows_and_the_probed_one_about_its_model(tmp_path: Path):
    tasks = planned()
    probed = next(task for task in tasks if task.is_probed)
    plain = next(task for task in tasks if not task.is_probed)
    asked = {task.split: fitted(task, tmp_path) for task in (plain, probed)}
    for fit in asked.values():
        assert [(found.guard, found.severity) for found in fit.guards] == [("normalization", "ok"), ("fit_rows", "ok")]
    assert [(found.guard, found.severity) for found in asked[probed.split].probes] == [
        ("unseen_rows", "ok"),
        ("row_order", "ok"),
    ]
    assert asked[plain.split].probes == []


class LearnsFromTheTable(LightGBM):
    """A model that adds rows of the whole table to the train rows it is given."""

    def fit(
        self, samples: Samples, train: np.ndarray, valid: np.ndarray, *, bench: base.Bench | None = None
    ) -> list[dict[str, float]]:
        everywhere = np.union1d(train, np.arange(0, len(samples.time), 3))
        return super().fit(samples, everywhere, valid)


class RemembersPlaces(LightGBM):
    """A model whose answer has something of the number of a row."""

    def inputs(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        x = super().inputs(samples, rows).copy()
        x[:, 1] += rows % 7
        return x


@pytest.mark.parametrize(("plugin", "guilty"), [(LearnsFromTheTable, "unseen_rows"), (RemembersPlaces, "row_order")])
def test_a_model_that_cheats_is_named_by_the_guard_of_it(
    plugin: type[LightGBM], guilty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def built(block: dict, shape: base.Shape, *, shared: dict, seed: int) -> base.Model:
        return plugin(shape=shape, seed=seed, **block["build"], **shared)

    monkeypatch.setattr(train.base, "build", built)
    fit = fitted(next(task for task in planned() if task.is_probed), tmp_path)
    assert [found.guard for found in fit.probes if found.severity == "critical"] == [guilty]


def test_the_report_holds_what_was_said_of_every_fit_and_of_the_model(tmp_path: Path):
    fits = [fitted(task, tmp_path) for task in planned()]
    report = train.report(fits, importances=None)
    assert [found["guard"] for found in report["guards"]] == ["unseen_rows", "row_order"]
    assert {tuple(found["guard"] for found in fit["guards"]) for fit in report["fits"]} == {
        ("normalization", "fit_rows")
    }
    assert [fit["split"] for fit in report["fits"]] == [*map(str, range(6)), "final"]


def test_of_what_models_say_of_their_forecasts_the_median_is_told_and_of_what_is_true_how_often_it_is():
    told = [{"rate": 0.1, "is_wrong": True, "table": {"a": 1}}, {"rate": 0.4}, {"rate": 0.2, "is_wrong": False}]
    assert train.medians(told) == {"is_wrong": 0.5, "rate": 0.2}
    assert train.medians([{}, {}]) == {}
