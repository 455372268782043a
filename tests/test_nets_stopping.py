"""Early stopping by any metric of the validation: the epoch that is kept, what is reported, and what is refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from pipeline.config import ParamsError
from pipeline.models.base import HISTORY, Model, Signature
from pipeline.models.cross_fit import FitTask, fit_fold
from pipeline.models.nets.engine.callback_base import FitState
from pipeline.models.nets.engine.monitors import ClassMetrics
from pipeline.models.plugins import build
from pipeline.models.predictions import FINAL
from pipeline.models.stopping import LOWEST_VALID_LOSS, StoppingCriterion
from pipeline.stages import train
from tests.data import OUTPUTS, make_dataset
from tests.params import BLOCKS, PARAMS, SAMPLES, build_model, output_of
from tests.test_nets_engine import TRAIN, VALID, assert_resumes, make_net, make_samples, stop_after

CLASSES = ("down", "flat", "up")
BY_F1 = {"metric": "valid_f1", "mode": "max"}
TABLE = make_samples(classes=3)


def make_classifier(*, epochs: int = 12, patience: int = 3, **stopping: object) -> Model:
    """Return a net whose valid loss and valid F1 have their best values in different epochs."""
    shared = {"epochs": epochs, "early_stopping": stop_after(patience, **stopping), "train_stride": 1}
    optimizer = {"name": "adamw", "learning_rate": 0.06, "weight_decay": 0.0}
    return make_net(classes=3, shared=shared, optimizer=optimizer, hidden_size=16, dropout=0.0)


@pytest.mark.parametrize(
    ("mode", "min_delta", "values", "best"),  # `best`: the iteration, from 1 on
    [
        ("min", 0.0, [3.0, 2.0, 2.0, 2.5], 2),  # the first of equals
        ("max", 0.0, [0.1, 0.3, 0.3, 0.2], 2),
        ("min", 0.5, [3.0, 2.5, 2.25, 2.0], 3),  # by more than min_delta; 2.5 is not enough, and 2.0 is not over 2.25
        ("max", 0.25, [0.0, 0.25, 0.5, 0.75], 3),
        ("min", 9.0, [3.0, 2.0], 1),  # the first finite value is always the best so far
        ("min", 0.0, [math.nan, 2.0, math.nan, 1.0], 4),
        ("max", 0.0, [math.nan, -5.0, -math.inf], 2),
        ("min", 0.0, [math.nan, math.inf], 2),  # none is finite: the last state stays
    ],
)
def test_an_improvement_exceeds_min_delta(mode: Any, min_delta: float, values: list[float], best: int):
    history = [{"iteration": n, "value": value} for n, value in enumerate(values, start=1)]
    criterion = StoppingCriterion(metric="value", mode=mode, min_delta=min_delta)
    assert criterion.find_best_entry(history)["iteration"] == best


def test_min_delta_is_measured_from_the_best_value_so_that_small_steps_add_up():
    history = [{"iteration": n, "valid_loss": 1.0 - n / 8} for n in range(1, 9)]
    assert StoppingCriterion(min_delta=0.25).find_best_entry(history)["iteration"] == 7  # 1, 4, 7


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "marl"])
def test_by_default_every_model_has_its_best_iteration_at_the_lowest_valid_loss(name: str):
    columns = tuple(f"column_{i}" for i in range(SAMPLES.get(name, {}).get("columns", 2)))
    assert build_model(name, Signature(columns, output_of(name)), seed=1).stopping == LOWEST_VALID_LOSS


def test_a_fit_stopped_by_f1_keeps_its_best_epoch_by_f1():
    model = make_classifier(**BY_F1)
    history = model.fit(TABLE, TRAIN, VALID)
    f1, losses = ([entry[name] for entry in history] for name in ("valid_f1", "valid_loss"))
    best = int(np.argmax(f1))
    assert best != np.argmin(losses)
    assert len(history) == best + 1 + 3 < 12
    report = model.fit_report["early_stopping"]
    assert report == {
        "best_epoch": best + 1,
        "best_valid_f1": f1[best],
        "stopped_early": True,
        "reached_last_epoch": False,
    }
    assert model.fit_report["class_metrics"]["best"]["epoch"] == best + 1
    predicted = model.predict_rows(TABLE, VALID).argmax(axis=1)
    assert f1_score(TABLE.y[VALID], predicted, average="macro") == pytest.approx(f1[best])
    same_epochs = make_classifier(epochs=best + 1, **BY_F1)
    assert same_epochs.fit(TABLE, TRAIN, VALID) == history[: best + 1]
    assert np.array_equal(same_epochs.predict_rows(TABLE, VALID), model.predict_rows(TABLE, VALID))


def test_a_fit_stops_after_improvements_that_do_not_exceed_min_delta():
    patient, impatient = make_classifier(epochs=5, patience=5), make_classifier(epochs=5, patience=2, min_delta=10.0)
    assert len(patient.fit(TABLE, TRAIN, VALID)) == 5
    assert len(impatient.fit(TABLE, TRAIN, VALID)) == 3
    assert impatient.fit_report["early_stopping"]["best_epoch"] == 1


@pytest.mark.parametrize("killed_after", [5, 42, 76])
def test_a_fit_stopped_by_f1_resumes_to_the_same_bytes(killed_after: int, tmp_path: Path, monkeypatch):
    assert_resumes(lambda: make_classifier(**BY_F1), TABLE, killed_after, tmp_path, monkeypatch)


def test_the_reports_name_the_epoch_that_is_kept(tmp_path: Path):
    class Spec:
        def build(self, seed: int, hyperparameters: None) -> Model:
            return make_classifier(**BY_F1)

    task = FitTask(FINAL, TRAIN, VALID, np.arange(820, 1000), seed=3, fit_seed=3)
    fit = fit_fold(task, Spec(), make_dataset(TABLE, kind="barrier"), folder=tmp_path)  # type: ignore[arg-type]
    best = fit.fit_report["early_stopping"]["best_epoch"]
    assert train.summarize_fit(fit)["best"] == fit.history[best - 1]
    summary = train.summarize_fits([fit], stopping_metric="valid_f1")
    assert (summary["best_iteration"], summary["best_valid_f1"]) == (best, fit.history[best - 1]["valid_f1"])


def test_every_epoch_has_the_metrics_of_each_class_as_scikit_learn_computes_them(monkeypatch):
    validate, seen = ClassMetrics.on_validation_end, []

    def note_outputs(self: ClassMetrics, state: FitState) -> None:
        validate(self, state)
        seen.append((state.valid_y.numpy(), state.valid_outputs.argmax(dim=1).numpy()))

    monkeypatch.setattr(ClassMetrics, "on_validation_end", note_outputs)
    model = make_classifier(epochs=4, patience=4)
    history = model.fit(TABLE, TRAIN, VALID)
    assert len(history) == len(seen) == 4
    for entry, (y, predicted) in zip(history, seen, strict=True):
        assert tuple(sorted(entry)) == tuple(sorted(model.history_fields))
        assert entry["valid_accuracy"] == pytest.approx(accuracy_score(y, predicted))
        for metric, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
            expected = score(y, predicted, labels=range(3), average=None, zero_division=0)
            assert [entry[f"valid_{metric}_{name}"] for name in CLASSES] == pytest.approx(expected, rel=1e-12)


def test_only_nets_that_predict_classes_have_columns_of_class_metrics():
    gradients = ("learning_rate", "grad_norm", "grad_norm_max")
    assert make_net().history_fields == (*HISTORY, *gradients)
    of_classes = [f"valid_{metric}_{name}" for name in CLASSES for metric in ("precision", "recall", "f1")]
    expected = (*HISTORY, *gradients, "valid_accuracy", "valid_f1", *of_classes)
    assert make_net(classes=3).history_fields == expected


@pytest.mark.parametrize("metric", ["valid_accuracy", "valid_precision_down", "valid_recall_flat"])
def test_every_metric_of_the_classes_can_stop_a_fit(metric: str):
    model = make_classifier(epochs=2, metric=metric, mode="max")
    history = model.fit(TABLE, TRAIN, VALID)
    expected = max(entry[metric] for entry in history)
    assert model.fit_report["early_stopping"][f"best_{metric}"] == expected


@pytest.mark.parametrize(
    ("classes", "metric", "allowed"),
    [
        (0, "valid_f1", "with the outputs return it must be one of valid_loss; where nets"),
        (0, "train_loss", "must be one of valid_loss; where"),
        (3, "valid_recall_sideways", "outputs down, flat, up it must be one of valid_loss, valid_accuracy, valid_f1, "),
        (3, "grad_norm", "valid_f1_up; where nets need different metrics, move early_stopping from nets to"),
    ],
)
def test_a_metric_that_no_entry_will_have_is_refused_before_any_fit(classes: int, metric: str, allowed: str):
    with pytest.raises(ParamsError, match=f"early_stopping.metric is '{metric}'; .*{allowed}") as error:
        make_net(classes=classes, shared={"early_stopping": stop_after(3, metric=metric)})
    assert "\n" not in str(error.value)


def test_early_stopping_can_stand_under_the_hyperparameters_of_each_model():
    own = {**BLOCKS["lstm"][1]["hyperparameters"], "early_stopping": stop_after(7)}
    block = BLOCKS["lstm"][1] | {"hyperparameters": own}
    shared = {key: value for key, value in PARAMS["nets"].items() if key != "early_stopping"}
    signature = Signature(("a", "b"), OUTPUTS["return"])
    assert build("nets", block, signature, shared=shared, seed=1).early_stopping["patience"] == 7
    with pytest.raises(ParamsError, match=r"\['early_stopping'\] stands both under .* give it once"):
        build("nets", block, signature, shared=PARAMS["nets"], seed=1)


@pytest.mark.parametrize(("metric", "mode"), [("valid_loss", "max"), ("valid_f1", "min"), ("valid_recall_up", "min")])
def test_a_direction_that_would_keep_the_worst_epoch_is_refused(metric: str, mode: str):
    with pytest.raises(ParamsError, match=f"early_stopping.mode is '{mode}'; of {metric} it must be"):
        make_net(classes=3, shared={"early_stopping": stop_after(3, metric=metric, mode=mode)})
