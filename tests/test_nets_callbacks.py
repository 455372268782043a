"""What each callback sees, adds, says and survives: a fit cut anywhere and taken up again ends as an uncut one."""

import io
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from torch import Tensor, nn

from pipeline.models.nets.engine.callback import FIELDS, Callback, Progress
from pipeline.models.nets.engine.callbacks import (
    ClassMetrics,
    Diagnostics,
    EarlyStopping,
    LearningRate,
    MetricLogger,
    ProgressBar,
)
from pipeline.models.nets.engine.diagnosis import ADVICE, VERDICTS, diagnosis
from pipeline.models.nets.engine.gradients import NAMED_FAULTS, GradientMonitor

Callbacks = dict[str, Callback]

CLASSES = ("down", "flat", "up")
EPOCHS, BATCHES = 5, 2
X = torch.randn(BATCHES, 8, 4, generator=torch.Generator().manual_seed(1))
Y = (X[..., 0] > 0).long() + (X[..., 1] > 0).long()  # (BATCHES, 8)
VALID_LOSSES = (0.9, 0.7, 0.8, 0.7, 0.6)  # best in epoch 2; a patience of 2 ends the fit after epoch 4


def header(*columns: str) -> str:
    """The first line of a file of live metrics."""
    return ",".join((*columns, *FIELDS)) + "\n"


def progress_of(net: nn.Module, **known: Any) -> Progress:
    known.setdefault("optimiser", torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9))
    return Progress(net=net, **{"epochs": EPOCHS, **known})


def small() -> Progress:
    torch.manual_seed(3)
    return progress_of(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)), classes=CLASSES)


class Fit:
    """A fit of a small net as a list of steps, so that it can be cut after any of them."""

    def __init__(self, callbacks: Callbacks) -> None:
        self.callbacks, self.progress, self.done = callbacks, small(), 0
        batch = ("batch_start", "backward", "gradients", "step", "batch_end")
        epoch = ("begin", "epoch_start", *BATCHES * batch, "validation_start", "validate", "validation_end")
        self.steps = ["train_start", *EPOCHS * (*epoch, "epoch_end", "join"), "train_end"]

    def run(self, until: int | None = None) -> "Fit":
        for name in self.steps[self.done : until]:
            self.done += 1
            if self.is_skipped(name):
                continue
            if hasattr(self, name):
                getattr(self, name)()
            if hasattr(Callback, name):
                for callback in self.callbacks.values():
                    getattr(callback, name)(self.progress)
        return self

    def is_skipped(self, name: str) -> bool:
        return self.progress.stop and self.progress.entry in self.progress.history and name != "train_end"

    def checkpoint(self) -> bytes:
        seen = ("epoch", "batch", "entry", "history", "valid_answers", "valid_y", "stop")
        saved = {
            "done": self.done,
            "seen": {name: getattr(self.progress, name) for name in seen},
            "net": self.progress.net.state_dict(),
            "optimiser": self.progress.optimiser.state_dict(),
            "gradients": [parameter.grad for parameter in self.progress.net.parameters()],
            "callbacks": {name: callback.state() for name, callback in self.callbacks.items()},
        }
        torch.save(saved, file := io.BytesIO())
        return file.getvalue()

    def restore(self, checkpoint: bytes) -> "Fit":
        saved = torch.load(io.BytesIO(checkpoint), weights_only=True)
        self.progress.net.load_state_dict(saved["net"])
        self.progress.optimiser.load_state_dict(saved["optimiser"])
        for parameter, gradient in zip(self.progress.net.parameters(), saved["gradients"], strict=True):
            parameter.grad = gradient
        self.progress, self.done = replace(self.progress, **saved["seen"]), saved["done"]
        for name, callback in self.callbacks.items():
            callback.restore(saved["callbacks"][name])
        return self

    def begin(self) -> None:
        self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
        self.progress.entry = {"round": self.progress.epoch}
        self.progress.optimiser.param_groups[0]["lr"] *= 0.9

    def batch_start(self) -> None:
        self.progress.batch += 1

    def backward(self) -> None:
        at = self.progress.batch - 1
        self.progress.optimiser.zero_grad()
        nn.functional.cross_entropy(self.progress.net(X[at]), Y[at]).backward()

    def step(self) -> None:
        self.progress.optimiser.step()

    def validate(self) -> None:
        with torch.no_grad():
            self.progress.valid_answers, self.progress.valid_y = self.progress.net(X[0]), Y[0]
        self.progress.entry |= {"train": 1 / self.progress.epoch, "valid": VALID_LOSSES[self.progress.epoch - 1]}

    def join(self) -> None:
        self.progress.history.append(self.progress.entry)


def every_callback(file: Path) -> Callbacks:
    file.write_text(header("split"))
    return {
        "early_stopping": EarlyStopping(patience=2),
        "gradient_monitor": GradientMonitor(every=1),
        "learning_rate": LearningRate(),
        "class_metrics": ClassMetrics(),
        "diagnostics": Diagnostics(),
        "metric_logger": MetricLogger(file=file, columns={"split": 3}),
        "progress_bar": ProgressBar(name="fit"),
    }


def outcome(fit: Fit) -> dict[str, Any]:
    reports = {name: callback.report() for name, callback in fit.callbacks.items()}
    weights = {name: values.tolist() for name, values in fit.progress.net.state_dict().items()}
    return {**reports, "entries": fit.progress.history, "stop": fit.progress.stop, "weights": weights}


def test_a_fit_cut_after_any_step_ends_as_an_uncut_one(tmp_path: Path):
    whole, resumed = tmp_path / "whole.csv", tmp_path / "resumed.csv"
    expected = outcome(Fit(every_callback(whole)).run())
    assert set(FIELDS) == set(expected["entries"][-1])
    assert len(expected["entries"]) == 4 == len(pd.read_csv(whole))
    begun = Fit(every_callback(tmp_path / "begun.csv"))
    for cut in range(len(begun.steps)):
        checkpoint = begun.run(cut).checkpoint()
        assert outcome(Fit(every_callback(resumed)).restore(checkpoint).run()) == expected
        assert resumed.read_text() == whole.read_text()


def test_reports_of_a_finished_fit_outlive_it_in_its_checkpoint(tmp_path: Path):
    ended = Fit(every_callback(tmp_path / "a.csv")).run()
    assert outcome(Fit(every_callback(tmp_path / "b.csv")).restore(ended.checkpoint())) == outcome(ended)


def test_a_state_is_not_changed_by_the_fit_it_was_taken_from_nor_by_one_it_was_given_to(tmp_path: Path):
    fit, other = Fit(every_callback(tmp_path / "a.csv")).run(20), every_callback(tmp_path / "b.csv")
    states = {name: callback.state() for name, callback in fit.callbacks.items()}
    before = repr(states)
    for name, callback in other.items():
        callback.restore(states[name])
    fit.run()
    Fit(other).run()
    assert repr(states) == before


def test_reports_are_json_without_nan_or_infinity_before_and_after_a_fit(tmp_path: Path):
    fit = Fit(every_callback(tmp_path / "live.csv"))
    json.dumps(outcome(fit), allow_nan=False)
    json.dumps(outcome(fit.run()), allow_nan=False)


@pytest.mark.parametrize("make", [lambda n: EarlyStopping(patience=n), lambda n: GradientMonitor(every=n)])
def test_counts_below_one_are_refused(make: Callable[[int], Callback]):
    with pytest.raises(ValueError, match=r"is 0; allowed are whole numbers from 1 on"):
        make(0)


# Early stopping


def stopping(losses: list[float], *, patience: int) -> tuple[EarlyStopping, Progress, list[dict[str, Tensor]]]:
    """Epochs with these valid losses, the net with other weights after each, until the fit is told to stop."""
    callback, progress = EarlyStopping(patience=patience), progress_of(nn.BatchNorm1d(2), epochs=len(losses))
    weights = []
    for progress.epoch, loss in enumerate(losses, start=1):
        with torch.no_grad():
            for values in progress.net.state_dict().values():
                values.fill_(progress.epoch)
        progress.entry = {"round": progress.epoch, "train": 1.0, "valid": loss}
        callback.validation_end(progress)
        weights.append({name: values.clone() for name, values in progress.net.state_dict().items()})
        if progress.stop:
            break
    callback.train_end(progress)
    return callback, progress, weights


@pytest.mark.parametrize(
    ("losses", "best", "epochs"),
    [
        ([3.0, 2.0, 2.5, 2.4, 1.0], 2, 4),
        ([3.0, 2.0, 2.0, 2.0, 1.0], 2, 4),  # the earliest of equals
        ([3.0, math.nan, 2.0, math.nan, 2.5, 1.0], 3, 5),
        ([math.inf, 3.0, 2.0], 3, 3),
    ],
)
def test_the_net_ends_with_the_weights_and_buffers_of_its_best_epoch(losses: list[float], best: int, epochs: int):
    callback, progress, weights = stopping(losses, patience=2)
    assert progress.epoch == epochs
    for name, values in progress.net.state_dict().items():
        assert torch.equal(values, weights[best - 1][name]), name
    assert callback.report() == {
        "best_epoch": best,
        "best_valid": losses[best - 1],
        "stopped_early": epochs < len(losses),
    }


def test_without_a_finite_valid_loss_the_net_stays_as_it_is():
    callback, progress, weights = stopping([math.nan] * 4, patience=2)
    assert torch.equal(progress.net.state_dict()["weight"], weights[-1]["weight"])
    assert callback.report() == {"best_epoch": None, "best_valid": None, "stopped_early": True}


def test_patience_that_ends_with_the_last_epoch_has_not_stopped_early():
    callback, progress, _ = stopping([1.0, 2.0, 3.0], patience=2)
    assert progress.stop
    assert not callback.report()["stopped_early"]


# Gradients


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.ModuleDict({"lstm": nn.LSTM(2, 3)})
        self.head = nn.Linear(3, 1)
        self.scale = nn.Parameter(torch.ones(2))


def with_gradients(**by_layer: float) -> Progress:
    """A net each of whose gradient entries has the value of its layer."""
    progress = progress_of(Recurrent(), epoch=4, batch=1)
    for name, parameter in progress.net.named_parameters():
        parameter.grad = torch.full_like(parameter, by_layer[name.split(".")[0]])
    return progress


def measured(progress: Progress) -> dict[str, Any]:
    monitor = GradientMonitor(every=1)
    monitor.gradients(progress)
    monitor.validation_end(progress)
    return monitor.report()


def test_norms_are_those_of_all_weights_that_a_module_owns():
    progress = with_gradients(recurrent=0.5, head=2.0, scale=0.0)
    layers = measured(progress)["layers"]
    lstm = [p.grad.flatten() for p in progress.net.recurrent["lstm"].parameters()]
    assert layers["recurrent.lstm"]["mean"] == pytest.approx(float(torch.cat(lstm).norm()))
    assert layers["head"]["max"] == pytest.approx(2.0 * math.sqrt(4))
    assert list(layers) == ["(net)", "recurrent.lstm", "head"]
    assert progress.entry["gradient_norm"] == pytest.approx(
        float(nn.utils.get_total_norm([*lstm, torch.full((4,), 2.0)]))
    )


def test_mean_lowest_and_highest_norms_are_those_of_the_measured_batches():
    monitor, progress = GradientMonitor(every=2), progress_of(nn.Linear(1, 1, bias=False))
    for progress.batch, gradient in enumerate([3.0, 100.0, -6.0, 100.0, 9.0], start=1):
        progress.net.weight.grad = torch.tensor([[gradient]])
        monitor.gradients(progress)
    monitor.validation_end(progress)
    report = monitor.report()
    assert report["batches"] == 3
    assert {key: report["layers"]["(net)"][key] for key in ("mean", "min", "max")} == {"mean": 6, "min": 3, "max": 9}
    assert progress.entry == {"gradient_norm": 6.0, "gradient_norm_max": 9.0}


def test_norms_in_the_entry_are_of_its_own_epoch():
    monitor, progress = GradientMonitor(every=1), with_gradients(recurrent=1.0, head=1.0, scale=1.0)
    monitor.gradients(progress)
    progress = with_gradients(recurrent=0.0, head=2.0, scale=0.0)
    monitor.epoch_start(progress)
    monitor.gradients(progress)
    monitor.validation_end(progress)
    assert progress.entry["gradient_norm_max"] == pytest.approx(4.0)


def test_vanishing_and_exploding_layers_are_named_with_epoch_and_batch():
    report = measured(with_gradients(recurrent=1e-9, head=1e3, scale=1.0))
    assert report["vanishing"]["layers"] == ["recurrent.lstm"]
    (place,) = report["exploding"]["first"]
    assert place == {"layer": "head", "epoch": 4, "batch": 1, "norm": pytest.approx(2e3)}
    assert (report["vanishing"]["count"], report["exploding"]["count"], report["undefined"]["count"]) == (1, 1, 0)


def test_zero_nan_and_infinite_entries_are_counted_and_leave_the_norms_finite():
    progress = with_gradients(recurrent=1.0, head=1.0, scale=0.0)
    progress.net.head.weight.grad = torch.tensor([[math.nan, math.inf, 0.0]])
    report = measured(progress)
    head = report["layers"]["head"]
    assert {kind: head[kind] for kind in ("entries", "zero", "nan", "inf")} == {
        "entries": 4,
        "zero": 1,
        "nan": 1,
        "inf": 1,
    }
    assert report["layers"]["(net)"]["zero"] == 2
    assert report["undefined"]["first"] == [{"layer": "head", "epoch": 4, "batch": 1, "norm": None}]
    assert head["mean"] is None
    assert math.isnan(progress.entry["gradient_norm"]) and math.isnan(progress.entry["gradient_norm_max"])


def test_an_infinite_gradient_explodes_and_one_that_is_nan_is_not_hidden_by_it():
    progress = with_gradients(recurrent=1.0, head=math.inf, scale=1.0)
    assert measured(progress)["exploding"]["layers"] == ["head"]
    progress.net.head.bias.grad = torch.tensor([math.nan])
    assert measured(progress)["undefined"]["layers"] == ["head"]


def test_all_faults_are_counted_and_the_first_named():
    monitor, progress = GradientMonitor(every=1), with_gradients(recurrent=1.0, head=0.0, scale=1.0)
    for progress.batch in range(1, NAMED_FAULTS + 6):
        monitor.gradients(progress)
    vanishing = monitor.report()["vanishing"]
    assert vanishing["count"] == NAMED_FAULTS + 5
    assert [place["batch"] for place in vanishing["first"]] == list(range(1, NAMED_FAULTS + 1))


def test_a_parameter_without_a_gradient_is_passed_over():
    progress = with_gradients(recurrent=1.0, head=1.0, scale=1.0)
    progress.net.scale.grad = None
    assert list(measured(progress)["layers"]) == ["recurrent.lstm", "head"]


# Learning rate


def test_the_learning_rate_is_the_first_group_s_as_the_epoch_began():
    net = nn.Linear(1, 1)
    optimiser = torch.optim.SGD([{"params": [net.weight], "lr": 0.5}, {"params": [net.bias], "lr": 0.1}])
    progress, callback = progress_of(net, optimiser=optimiser), LearningRate()
    callback.epoch_start(progress)
    optimiser.param_groups[0]["lr"] = 0.25  # as a schedule does within the epoch
    callback.validation_end(progress)
    assert progress.entry == {"learning_rate": 0.5}


# Class metrics


def validated(callback: ClassMetrics, *, epoch: int, loss: float, called: list[int], y: list[int]) -> Progress:
    answers = nn.functional.one_hot(torch.tensor(called), len(CLASSES)).float()
    progress = progress_of(
        nn.Linear(1, 1), classes=CLASSES, epoch=epoch, valid_answers=answers, valid_y=torch.tensor(y)
    )
    progress.entry = {"round": epoch, "train": 1.0, "valid": loss}
    callback.validation_end(progress)
    return progress


@pytest.mark.parametrize("least", [0, 1])  # 1: the first class neither occurs nor is called
def test_class_metrics_are_scikit_learns(least: int):
    rng, callback = np.random.default_rng(7), ClassMetrics()
    called, y = rng.integers(least, 3, size=(2, 50)).tolist()
    progress = validated(callback, epoch=1, loss=1.0, called=called, y=y)
    expected = precision_recall_fscore_support(y, called, labels=range(3), zero_division=0)
    classes = callback.report()["last"]["classes"]
    assert list(classes) == list(CLASSES)
    for name, *figures in zip(CLASSES, *expected, strict=True):
        assert list(classes[name].values()) == pytest.approx(figures, rel=1e-12)
        assert list(classes[name]) == ["precision", "recall", "f1", "rows"]
    assert progress.entry["valid_accuracy"] == pytest.approx(accuracy_score(y, called))
    assert progress.entry["valid_f1"] == pytest.approx(expected[2].mean())


def test_the_record_is_of_the_last_and_of_the_best_epoch_the_earliest_of_equals():
    callback = ClassMetrics()
    for epoch, (loss, called) in enumerate([(2.0, 0), (1.0, 1), (1.0, 2), (math.nan, 0)], start=1):
        validated(callback, epoch=epoch, loss=loss, called=[called], y=[1])
    report = callback.report()
    assert (report["best"]["epoch"], report["last"]["epoch"]) == (2, 4)
    assert report["best"]["classes"]["flat"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "rows": 1}
    assert report["last"]["classes"]["flat"]["f1"] == 0.0


def test_a_regression_has_no_class_metrics():
    callback = ClassMetrics()
    progress = progress_of(nn.Linear(1, 1), valid_answers=torch.zeros(5, 1), valid_y=torch.zeros(5))
    callback.validation_end(progress)
    assert (progress.entry, callback.report()) == ({}, {})


def test_answers_of_another_width_than_the_classes_are_refused():
    progress = progress_of(nn.Linear(1, 1), classes=CLASSES, valid_answers=torch.zeros(5, 2), valid_y=torch.zeros(5))
    with pytest.raises(
        ValueError, match=r"valid answers are \(5, 2\); classes \('down', 'flat', 'up'\) need one column"
    ):
        ClassMetrics().validation_end(progress)


# Diagnosis


def entries(train: list[float], valid: list[float], **more: list[float]) -> list[dict[str, float]]:
    columns = {"round": list(range(1, len(train) + 1)), "train": train, "valid": valid, **more}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


FALLING = [1.0, 0.9, 0.85, 0.83, 0.82, 0.8199]


@pytest.mark.parametrize(
    ("train", "valid", "ran_out", "verdict", "signs"),
    [
        (FALLING, [1.0, 0.95, 0.91, 0.9, 0.91, 0.905], False, "healthy", []),
        (FALLING, [1.0, 0.95, 0.91, 0.9, 0.91, 0.905], True, "healthy", []),  # train has come to rest
        ([1.0, 0.5, 0.25, 0.125, 0.1249], [1.0, 0.5, 0.25, 0.125, 0.1249], True, "healthy", []),  # steep is no jump
        ([1.0, 0.995, 0.992], [1.0, 1.0, 1.0], False, "not learning", ["train loss did not fall"]),
        ([1.0, 0.8, 1.2], [1.0, 0.9, 1.3], False, "diverged", ["train loss rose", "valid loss jumps"]),
        ([1.0, math.nan], [1.0, 1.0], False, "diverged", ["loss not finite"]),
        ([1.0, 0.9], [1.0, math.inf], False, "diverged", ["loss not finite"]),
        (FALLING, [0.9, 1.0, 0.9, 1.0, 0.9, 1.0], False, "unstable", None),
        (FALLING, [0.90, 0.90, 0.905, 0.91, 0.915, 0.92], False, "overfitting", ["valid loss rose while train fell"]),
        (FALLING, [0.95, 0.92, 0.9, 0.91, 0.92, 0.93], False, "healthy", []),  # no more than patience lets pass
        (FALLING, [0.95, 0.92, 0.9, 0.92, 0.95, 1.0], False, "overfitting", ["valid loss rose while train fell"]),
        (FALLING[:5], [1.0, 0.95, 0.92, 0.91, 0.9], True, "underfitting", ["stopped too soon"]),
        (FALLING[:5], [1.0, 0.95, 0.92, 0.91, 0.9], False, "healthy", []),
        (FALLING[:5], [1.0, 0.9, 0.903, 0.903, 0.903], True, "healthy", []),  # more epochs would not serve valid
        ([1.0], [1.0], True, "undetermined", []),
        ([], [], False, "undetermined", []),
    ],
)
def test_a_fit_is_judged_by_its_losses(
    train: list[float], valid: list[float], ran_out: bool, verdict: str, signs: list[str] | None
):
    found = diagnosis(entries(train, valid), ran_out=ran_out)
    assert found["verdict"] == verdict
    assert signs is None or [sign["sign"] for sign in found["signs"]] == signs
    assert bool(found["recommendations"]) == (verdict != "healthy")
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("mean", "highest", "verdict", "sign"),
    [
        (1.0, 2.0, "healthy", None),
        (1.0, 2e3, "unstable", {"sign": "exploding gradients", "first_epoch": 3, "epochs": 1, "norm_max": 2e3}),
        (1e-8, 1.0, "not learning", {"sign": "vanishing gradients", "first_epoch": 3, "epochs": 1, "norm_min": 1e-8}),
        (math.nan, math.nan, "diverged", {"sign": "gradients not finite", "first_epoch": 3, "epochs": 1}),
    ],
)
def test_gradient_norms_in_the_entries_are_signs(
    mean: float, highest: float, verdict: str, sign: dict[str, Any] | None
):
    norms = {"gradient_norm": [1.0, 1.0, mean], "gradient_norm_max": [1.0, 1.0, highest]}
    found = diagnosis(entries([1.0, 0.9, 0.8], [1.0, 0.9, 0.85], **norms), ran_out=False)
    assert found["verdict"] == verdict
    assert found["signs"] == ([sign] if sign else [])


def test_signs_come_with_their_numbers_and_advice():
    found = diagnosis(entries([1.0, 0.5, 0.25], [1.0, 0.8, 1.0]), ran_out=False)
    jump, rose = found["signs"]
    assert jump == {"sign": "valid loss jumps", "jump": pytest.approx(0.2 / (2.8 / 3)), "level": pytest.approx(2.8 / 3)}
    assert rose == {
        "sign": "valid loss rose while train fell",
        "best_epoch": 2,
        "best_valid": 0.8,
        "last_valid": 1.0,
        "rise": pytest.approx(0.25),
        "train_fall": 0.5,
    }
    advice = [*ADVICE["valid loss jumps"], *ADVICE["valid loss rose while train fell"]]
    assert found["recommendations"] == sorted(set(advice), key=advice.index)
    assert found["verdict"] == "unstable" == VERDICTS[2]


def test_the_gravest_sign_comes_first_and_gives_the_verdict():
    norms = {"gradient_norm": [1.0, 5e3], "gradient_norm_max": [1.0, 5e3]}
    found = diagnosis(entries([1.0, math.nan], [1.0, 1.0], **norms), ran_out=False)
    assert [sign["sign"] for sign in found["signs"]] == ["loss not finite", "exploding gradients"]
    assert found["verdict"] == "diverged"


def test_a_loss_of_exactly_zero_has_finite_shares():
    json.dumps(diagnosis(entries([0.0, 5.0, 4.0], [0.0, 5.0, 4.0]), ran_out=True), allow_nan=False)


@pytest.mark.parametrize("has_joined", [True, False])
def test_the_last_epoch_counts_once_whether_or_not_it_joined_the_history(has_joined: bool):
    every = entries([1.0, 0.8, 0.7], [1.0, 0.9, 0.8])
    progress = progress_of(nn.Linear(1, 1), epochs=3, entry=every[-1], history=every if has_joined else every[:-1])
    callback = Diagnostics()
    callback.train_end(progress)
    assert callback.report()["signs"][0]["epochs"] == 3


def test_a_fit_that_was_stopped_has_not_ended_too_soon():
    every = entries([1.0, 0.8, 0.7], [1.0, 0.9, 0.8])
    callback = Diagnostics()
    callback.train_end(progress_of(nn.Linear(1, 1), epochs=3, entry=every[-1], history=every, stop=True))
    assert callback.report()["verdict"] == "healthy"


# Live metrics


def test_a_line_has_its_columns_the_fields_and_nothing_for_what_is_unknown(tmp_path: Path):
    file = tmp_path / "live.csv"
    file.write_text(header("split", "model"))
    callback = MetricLogger(file=file, columns={"split": 3, "model": "lstm, small"})
    entry = {"round": 1, "train": 0.1, "valid": 1 / 3, "valid_f1": 0.5, "gradient_norm": math.nan, "other": 9.0}
    callback.epoch_end(progress_of(nn.Linear(1, 1), entry=entry))
    head, line = file.read_text().splitlines()
    assert head == ",".join(("split", "model", *FIELDS))
    assert line == '3,"lstm, small",1,0.1,0.3333333333333333,,nan,,,0.5'
    assert pd.read_csv(file)["valid"][0] == 1 / 3


def test_a_logger_that_joins_late_first_writes_the_lines_of_the_history(tmp_path: Path):
    history, file = entries([3.0, 2.0, 1.0], [3.0, 2.0, 1.0]), tmp_path / "live.csv"
    callback = MetricLogger(file=file, columns={})
    callback.epoch_end(progress_of(nn.Linear(1, 1), entry=history[2], history=history[:2]))
    callback.train_end(progress_of(nn.Linear(1, 1), entry=history[2], history=history))
    assert [line.split(",")[0] for line in file.read_text().splitlines()] == ["1", "2", "3"]


def test_columns_that_are_fields_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"columns \['train'\] have the names of fields"):
        MetricLogger(file=tmp_path / "live.csv", columns={"train": 1})


def write_together(file: Path, process: int, start: Any) -> None:
    callback = MetricLogger(file=file, columns={"split": process, "name": f"{process}" * 5000})
    start.wait()
    epochs = entries([process / 7] * 50, [process / 3] * 50)
    for epoch, entry in enumerate(epochs):
        callback.epoch_end(progress_of(nn.Linear(1, 1), entry=entry, history=epochs[:epoch]))


def test_lines_of_processes_that_write_at_once_never_mix(tmp_path: Path):
    file, context = tmp_path / "live.csv", multiprocessing.get_context("fork")
    file.write_text(header("split", "name"))
    start = context.Barrier(4)
    writers = [context.Process(target=write_together, args=(file, process, start)) for process in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    table = pd.read_csv(file)
    assert len(table) == 200
    for process, lines in table.groupby("split"):
        assert lines["round"].tolist() == list(range(1, 51))
        assert (lines["name"].astype(str).str.strip(f"{process}") == "").all()
        assert (lines["valid"] == process / 3).all()


# The bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a bar of a fit that goes on after epoch 2 writes within the next epoch and as the fit ends."""
    monkeypatch.setattr(sys, "stderr", stderr)
    callback, progress = ProgressBar(name="lstm, split 3"), progress_of(nn.Linear(1, 1), epoch=3)
    progress.entry = {"round": 3, "train": 0.25, "valid": 0.5}
    callback.epoch_start(progress)
    time.sleep(0.15)  # a bar is not drawn more often than every 0.1 s
    callback.epoch_end(progress)
    callback.train_end(progress)
    return stderr.getvalue()


def test_the_bar_shows_epochs_and_losses_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    drawn = shown(Terminal(), monkeypatch)
    assert "lstm, split 3:  40%" in drawn
    assert "3/5" in drawn and "train=0.25, valid=0.5" in drawn


def test_there_is_no_bar_where_tqdm_is_disabled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert shown(Terminal(), monkeypatch) == ""


def test_there_is_no_bar_where_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    assert shown(io.StringIO(), monkeypatch) == ""
