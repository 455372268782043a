"""The fits of a model, what is kept of them, and what the audit finds in them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import artifacts
from pipeline.config import ModelBlock
from pipeline.models import base, plugins
from pipeline.models.cross_fit import FitTask, ModelSpec, fit_fold, plan_fits, predict
from pipeline.models.fit_files import FitFiles
from pipeline.models.predictions import FINAL, read_score_std
from pipeline.models.trees.lightgbm import LightGBM
from pipeline.samples import Samples
from pipeline.stages import audit, train
from pipeline.validation.folds import Folds, cpcv
from pipeline.validation.folds import make_folds as make_folds_of
from tests.data import OUTPUTS, make_dataset, plant_samples
from tests.params import BLOCKS, PARAMS

SAMPLES = plant_samples("return", seed=1)
SHAPE = base.Signature(columns=SAMPLES.columns, output=OUTPUTS["return"])
SPEC = ModelSpec(ModelBlock(*BLOCKS["lightgbm"]), SHAPE, PARAMS["trees"] | {"num_boost_round": 10})


def make_folds() -> Folds:
    return cpcv(SAMPLES.time, SAMPLES.label_end, groups=4, test_groups=2, embargo_pct=0.01, holdout_pct=0.15)


DATA = make_dataset(SAMPLES, make_folds(), kind="return")


def plan(*seeds: int) -> list[FitTask]:
    every = np.ones(len(SAMPLES.time), bool)
    return list(plan_fits(make_folds(), "lightgbm", seeds, every, every, valid_pct=0.15))


def lose_labels(rows: np.ndarray) -> Samples:
    """Return the samples with no label in `rows`, as before a halt; their move is known."""
    is_labeled, y = ~np.isin(np.arange(len(SAMPLES.time)), rows), SAMPLES.y.copy()
    y[rows] = np.nan
    label_end = np.where(is_labeled, SAMPLES.label_end, SAMPLES.time)
    return replace(SAMPLES, is_labeled=is_labeled, y=y, label_end=label_end)


def smallest() -> FitTask:
    return plan(42)[np.argmin(make_folds().count_rows().train)]


def test_fits_are_those_of_the_splits_and_then_the_final_one():
    folds, tasks = make_folds(), plan(42)
    assert [task.split for task in tasks] == [*range(6), FINAL]
    assert len(folds.train(smallest().split)) == min(len(folds.train(split)) for split in range(6))


def test_an_unfitted_copy_has_the_hyperparameters_of_the_saved_model(tmp_path: Path):
    task = smallest()
    model = SPEC.build(task.fit_seed)
    model.fit(SAMPLES, task.train, task.valid)
    model.save(tmp_path)
    again = plugins.build_like(tmp_path, seed=task.fit_seed)
    again.fit(SAMPLES, task.train, task.valid)
    assert np.array_equal(again.predict_rows(SAMPLES, task.predicted), model.predict_rows(SAMPLES, task.predicted))
    assert plugins.build_like(tmp_path, seed=7).seed == 7


def test_an_honest_fit_passes_the_audit(tmp_path: Path):
    task = smallest()
    fit = fit_fold(task, SPEC, DATA, folder=tmp_path)
    of_fit = audit.check_fit(task, SAMPLES, fit.standardization)
    of_model = list(audit.check_model(SPEC.build(task.fit_seed), task, SAMPLES, fit.out_of_sample))
    assert [(found.guard, found.severity) for found in (*of_fit, *of_model)] == [
        ("normalization", "ok"),
        ("fit_rows", "ok"),
        ("unseen_rows", "ok"),
        ("row_order", "ok"),
    ]


def test_a_fit_standardized_by_other_rows_than_its_own_is_found():
    task = smallest()
    mean, scale = SAMPLES.x.mean(axis=0, dtype=np.float64), SAMPLES.x.std(axis=0, dtype=np.float64)
    of_all_rows = pd.DataFrame(
        {"seed": task.seed, "split": task.split, "column": SAMPLES.columns, "mean": mean, "scale": scale}
    )
    normalization, _ = audit.check_fit(task, SAMPLES, of_all_rows)
    assert normalization.severity == "critical"


class LearnsFromTheTable(LightGBM):
    """A model that adds rows of the whole table to the train rows it is given."""

    def fit(
        self, samples: Samples, train: np.ndarray, valid: np.ndarray, *, files: FitFiles | None = None
    ) -> list[dict[str, float]]:
        everywhere = np.union1d(train, np.arange(0, len(samples.time), 3))
        return super().fit(samples, everywhere, valid)


class RemembersPlaces(LightGBM):
    """A model whose prediction depends on the number of a row."""

    def inputs(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        x = super().inputs(samples, rows).copy()
        x += (rows % 7)[:, None]
        return x


@pytest.mark.parametrize(("plugin", "guard"), [(LearnsFromTheTable, "unseen_rows"), (RemembersPlaces, "row_order")])
def test_a_model_that_cheats_is_found_by_its_guard(plugin: type[LightGBM], guard: str, monkeypatch: pytest.MonkeyPatch):
    def build_cheat(
        family: str, block: dict, signature: base.Signature, *, shared: dict, market: dict, seed: int, name: str
    ) -> base.Model:
        return plugin(signature=signature, seed=seed, **block["hyperparameters"], **shared)

    monkeypatch.setattr(plugins, "build", build_cheat)
    task = smallest()
    model = SPEC.build(task.fit_seed)
    model.fit(SAMPLES, task.train, task.valid)
    predictions = predict(model, task, DATA, rows=task.predicted, score_std=1.0)
    found = list(audit.check_model(SPEC.build(task.fit_seed), task, SAMPLES, predictions))
    assert [finding.guard for finding in found if finding.severity == "critical"] == [guard]


def test_the_report_summarizes_every_fit(tmp_path: Path):
    fits = [fit_fold(task, SPEC, DATA, folder=tmp_path) for task in plan(42)]
    assert [train.summarize_fit(fit)["split"] for fit in fits] == [*map(str, range(6)), "final"]
    assert set(train.summarize_fits(fits, stopping_metric="valid_loss")) == {"best_iteration", "best_valid_loss"}
    for fit in fits:
        assert train.summarize_fit(fit)["best"] == min(fit.history, key=lambda entry: entry["valid_loss"])


class Forecaster(LightGBM):
    """A model that makes a forecast of its own."""

    def evaluate(self, samples: Samples, rows: np.ndarray) -> dict[str, float]:
        return {"mean_label": float(samples.y[rows].mean())}


def test_own_forecasts_are_measured_on_the_test_rows_of_every_split_and_never_on_the_holdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def build_forecaster(
        family: str, block: dict, signature: base.Signature, *, shared: dict, market: dict, seed: int, name: str
    ) -> base.Model:
        return Forecaster(signature=signature, seed=seed, **block["hyperparameters"], **shared)

    monkeypatch.setattr(plugins, "build", build_forecaster)
    *_, last_split, final = [train.summarize_fit(fit_fold(task, SPEC, DATA, folder=tmp_path)) for task in plan(42)]
    assert last_split["own_forecasts"] == {
        "mean_label": pytest.approx(SAMPLES.y[plan(42)[-2].predicted].mean(), rel=1e-5)
    }
    assert (final["split"], final.get("own_forecasts")) == ("final", None)


def test_numbers_of_evaluations_become_medians_and_facts_become_shares():
    evaluations = [{"rate": 0.1, "is_wrong": True, "table": {"a": 1}}, {"rate": 0.4}, {"rate": 0.2, "is_wrong": False}]
    assert train.take_medians(evaluations) == {"is_wrong": 0.5, "rate": 0.2}
    assert train.take_medians([{}, {}]) == {}


def test_a_fit_predicts_rows_without_a_label_and_learns_from_none(tmp_path: Path):
    lost = np.concatenate([np.arange(1000, 1020), np.arange(4980, 5000), np.arange(7980, 8000)])
    samples = lose_labels(lost)
    scheme = {"method": "cpcv", "groups": 4, "test_groups": 2, "train_groups": 1, "embargo_pct": 0.01}
    folds = make_folds_of(samples.time, samples.label_end, samples.is_labeled, **scheme, holdout_pct=0.15)
    every = np.ones(len(samples.time), bool)
    first, *_, final = plan_fits(folds, "lightgbm", [42], every, every, valid_pct=0.15)  # tests groups 0 and 1
    data = make_dataset(samples, folds, kind="return")
    fit = fit_fold(first, SPEC, data, folder=tmp_path)
    assert fit.out_of_sample["row"].tolist() == folds.predicted(0).tolist()
    assert np.isin(lost[:20], fit.out_of_sample["row"]).all()
    assert fit.out_of_sample["score"].notna().all()
    assert fit.rows["predicted"] - fit.rows["test"] == 20
    assert not np.isin(lost, fit.in_sample["row"]).any()
    assert final.predicted[-20:].tolist() == lost[-20:].tolist()
    of_fit = audit.check_fit(first, samples, fit.standardization)
    of_model = audit.check_model(SPEC.build(first.fit_seed), first, samples, fit.out_of_sample)
    assert {found.severity for found in (*of_fit, *of_model)} == {"ok"}


def test_a_train_row_that_is_predicted_without_a_label_fails_the_audit():
    task, row = smallest(), int(smallest().predicted[-1])
    samples = lose_labels(np.array([row]))
    seen = replace(task, train=np.append(task.train, row))
    _, of_rows = audit.check_fit(seen, samples, pd.DataFrame(columns=["seed", "split", "column", "mean", "scale"]))
    assert of_rows.severity == "critical"
    assert of_rows.measurements["seen_and_tested"] == 1


def test_the_spread_of_scores_is_that_of_the_train_rows_alone(tmp_path: Path):
    task = plan(42)[-1]
    fit = fit_fold(task, SPEC, DATA, folder=tmp_path)
    model = plugins.load(tmp_path)
    expected = float(np.std(model.score(SAMPLES, task.train).astype(np.float64)))
    assert fit.score_std == pytest.approx(expected, rel=1e-12)
    assert set(fit.out_of_sample["score_std"]) == set(fit.in_sample["score_std"]) == {fit.score_std}
    assert read_score_std(tmp_path) == pytest.approx(expected, rel=1e-9)
    assert train.summarize_fit(fit)["score_std"] == fit.score_std


def test_predictions_written_fit_by_fit_have_the_bytes_of_all_fits_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks = [task for task in plan(1, 2) if task.split in (0, FINAL)]
    fits = [fit_fold(task, SPEC, DATA, folder=tmp_path / str(task.seed)) for task in tasks]
    first, _, second, final = (fit.out_of_sample for fit in fits)  # the final fit of seed 1 is not traded
    artifacts.write_table(tmp_path / "oos.parquet", pd.concat([first, second, final]))
    artifacts.write_table(tmp_path / "in_sample.parquet", pd.concat([fit.in_sample for fit in fits]))
    done = train.write_predictions("m", iter(fits))
    train.keep_traded("m", done, deployed_seed=2)
    assert not any(len(fit.out_of_sample) + len(fit.in_sample) for fit in done)
    for written, expected in ((artifacts.OOS, "oos"), (artifacts.IN_SAMPLE, "in_sample")):
        assert (written / "m.parquet").read_bytes() == (tmp_path / f"{expected}.parquet").read_bytes()
