"""Callbacks: entries, reports and states; a fit interrupted anywhere and resumed ends as an uninterrupted one."""

import io
import json
import math
import multiprocessing
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from torch import Tensor, nn

from pipeline.models.nets.engine.callback_base import Callback, FitState, list_history_fields
from pipeline.models.nets.engine.early_stopping import EarlyStopping
from pipeline.models.nets.engine.gradient_monitor import MAX_LISTED, GradientMonitor
from pipeline.models.nets.engine.loggers import CSVLogger, ProgressBar
from pipeline.models.nets.engine.monitors import ClassMetrics, LearningRateMonitor
from pipeline.models.stopping import LOWEST_VALID_LOSS, StoppingCriterion

Callbacks = dict[str, Callback]

CLASSES = ("down", "flat", "up")
FIELDS = list_history_fields(CLASSES)
EPOCHS, BATCHES = 5, 2
X = torch.randn(BATCHES, 8, 4, generator=torch.Generator().manual_seed(1))
Y = (X[..., 0] > 0).long() + (X[..., 1] > 0).long()  # (BATCHES, 8)
VALID_LOSSES = (0.9, 0.7, 0.8, 0.7, 0.6)  # best in epoch 2; a patience of 2 ends the fit after epoch 4


def make_header(*columns: str) -> str:
    """Return the first line of a file of live metrics."""
    return ",".join((*columns, *FIELDS)) + "\n"


def make_state(net: nn.Module, **known: Any) -> FitState:
    known.setdefault("optimizer", torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9))
    return FitState(net=net, **{"epochs": EPOCHS, **known})


def make_small_state() -> FitState:
    torch.manual_seed(3)
    return make_state(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)), classes=CLASSES)


class Fit:
    """A fit of a small net as a list of steps, so that it can be interrupted after any of them."""

    def __init__(self, callbacks: Callbacks) -> None:
        self.callbacks, self.state, self.done = callbacks, make_small_state(), 0
        batch = ("on_batch_start", "backward", "on_after_backward", "step", "on_batch_end")
        epoch = ("begin", "on_epoch_start", *BATCHES * batch, "on_validation_start", "validate", "on_validation_end")
        self.steps = ["on_train_start", *EPOCHS * (*epoch, "on_epoch_end", "join"), "on_train_end"]

    def run(self, until: int | None = None) -> "Fit":
        for name in self.steps[self.done : until]:
            self.done += 1
            if self.is_skipped(name):
                continue
            if hasattr(self, name):
                getattr(self, name)()
            if hasattr(Callback, name):
                for callback in self.callbacks.values():
                    getattr(callback, name)(self.state)
        return self

    def is_skipped(self, name: str) -> bool:
        return self.state.should_stop and self.state.entry in self.state.history and name != "on_train_end"

    def checkpoint(self) -> bytes:
        seen = ("epoch", "batch", "entry", "history", "valid_outputs", "valid_y", "should_stop")
        saved = {
            "done": self.done,
            "state": {name: getattr(self.state, name) for name in seen},
            "net": self.state.net.state_dict(),
            "optimizer": self.state.optimizer.state_dict(),
            "gradients": [parameter.grad for parameter in self.state.net.parameters()],
            "callbacks": {name: callback.state_dict() for name, callback in self.callbacks.items()},
        }
        torch.save(saved, file := io.BytesIO())
        return file.getvalue()

    def restore(self, checkpoint: bytes) -> "Fit":
        saved = torch.load(io.BytesIO(checkpoint), weights_only=True)
        self.state.net.load_state_dict(saved["net"])
        self.state.optimizer.load_state_dict(saved["optimizer"])
        for parameter, gradient in zip(self.state.net.parameters(), saved["gradients"], strict=True):
            parameter.grad = gradient
        self.state, self.done = replace(self.state, **saved["state"]), saved["done"]
        for name, callback in self.callbacks.items():
            callback.load_state_dict(saved["callbacks"][name])
        return self

    def begin(self) -> None:
        self.state.epoch, self.state.batch = self.state.epoch + 1, 0
        self.state.entry = {"iteration": self.state.epoch}
        self.state.optimizer.param_groups[0]["lr"] *= 0.9

    def on_batch_start(self) -> None:
        self.state.batch += 1

    def backward(self) -> None:
        at = self.state.batch - 1
        self.state.optimizer.zero_grad()
        nn.functional.cross_entropy(self.state.net(X[at]), Y[at]).backward()

    def step(self) -> None:
        self.state.optimizer.step()

    def validate(self) -> None:
        with torch.no_grad():
            self.state.valid_outputs, self.state.valid_y = self.state.net(X[0]), Y[0]
        self.state.entry |= {"train_loss": 1 / self.state.epoch, "valid_loss": VALID_LOSSES[self.state.epoch - 1]}

    def join(self) -> None:
        self.state.history.append(self.state.entry)


def make_callbacks(file: Path) -> Callbacks:
    file.write_text(make_header("split"))
    return {
        "early_stopping": EarlyStopping(LOWEST_VALID_LOSS, patience=2),
        "gradient_monitor": GradientMonitor(interval=1),
        "learning_rate": LearningRateMonitor(),
        "class_metrics": ClassMetrics(LOWEST_VALID_LOSS),
        "csv_logger": CSVLogger(file=file, labels={"split": 3}, fields=FIELDS),
        "progress_bar": ProgressBar(name="fit"),
    }


def collect_outcome(fit: Fit) -> dict[str, Any]:
    reports = {name: callback.report() for name, callback in fit.callbacks.items()}
    weights = {name: values.tolist() for name, values in fit.state.net.state_dict().items()}
    return {**reports, "entries": fit.state.history, "should_stop": fit.state.should_stop, "weights": weights}


def test_a_fit_interrupted_after_any_step_ends_as_an_uninterrupted_one(tmp_path: Path):
    whole, resumed = tmp_path / "whole.csv", tmp_path / "resumed.csv"
    expected = collect_outcome(Fit(make_callbacks(whole)).run())
    assert set(FIELDS) == set(expected["entries"][-1])
    assert len(expected["entries"]) == 4 == len(pd.read_csv(whole))
    begun = Fit(make_callbacks(tmp_path / "begun.csv"))
    for cut in range(len(begun.steps)):
        checkpoint = begun.run(cut).checkpoint()
        assert collect_outcome(Fit(make_callbacks(resumed)).restore(checkpoint).run()) == expected
        assert resumed.read_text() == whole.read_text()


def test_reports_of_a_finished_fit_are_in_its_checkpoint(tmp_path: Path):
    ended = Fit(make_callbacks(tmp_path / "a.csv")).run()
    assert collect_outcome(Fit(make_callbacks(tmp_path / "b.csv")).restore(ended.checkpoint())) == collect_outcome(
        ended
    )


def test_a_state_dict_is_changed_neither_by_the_fit_that_gave_it_nor_by_one_that_loaded_it(tmp_path: Path):
    fit, other = Fit(make_callbacks(tmp_path / "a.csv")).run(20), make_callbacks(tmp_path / "b.csv")
    states = {name: callback.state_dict() for name, callback in fit.callbacks.items()}
    before = repr(states)
    for name, callback in other.items():
        callback.load_state_dict(states[name])
    fit.run()
    Fit(other).run()
    assert repr(states) == before


def test_reports_are_json_without_nan_or_infinity_before_and_after_a_fit(tmp_path: Path):
    fit = Fit(make_callbacks(tmp_path / "live.csv"))
    json.dumps(collect_outcome(fit), allow_nan=False)
    json.dumps(collect_outcome(fit.run()), allow_nan=False)


# Early stopping


def run_early_stopping(
    losses: list[float], *, patience: int, criterion: StoppingCriterion = LOWEST_VALID_LOSS
) -> tuple[EarlyStopping, FitState, list[dict[str, Tensor]]]:
    """Run epochs with these valid losses, the net with other weights after each, until `should_stop` is set."""
    callback = EarlyStopping(criterion, patience=patience)
    state = make_state(nn.BatchNorm1d(2), epochs=len(losses))
    weights = []
    for state.epoch, loss in enumerate(losses, start=1):
        with torch.no_grad():
            for values in state.net.state_dict().values():
                values.fill_(state.epoch)
        state.entry = {"iteration": state.epoch, "train_loss": 1.0, "valid_loss": loss}
        callback.on_epoch_end(state)
        weights.append({name: values.clone() for name, values in state.net.state_dict().items()})
        if state.should_stop:
            break
    callback.on_train_end(state)
    return callback, state, weights


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
    callback, state, weights = run_early_stopping(losses, patience=2)
    assert state.epoch == epochs
    for name, values in state.net.state_dict().items():
        assert torch.equal(values, weights[best - 1][name]), name
    assert callback.report() == {
        "best_epoch": best,
        "best_valid_loss": losses[best - 1],
        "stopped_early": epochs < len(losses),
        "reached_last_epoch": epochs == len(losses),
    }


def test_without_a_finite_valid_loss_the_net_stays_as_it_is():
    callback, state, weights = run_early_stopping([math.nan] * 4, patience=2)
    assert torch.equal(state.net.state_dict()["weight"], weights[-1]["weight"])
    assert callback.report() == {
        "best_epoch": None,
        "best_valid_loss": None,
        "stopped_early": True,
        "reached_last_epoch": False,
    }


def test_patience_that_ends_with_the_last_epoch_has_not_stopped_early():
    callback, state, _ = run_early_stopping([1.0, 2.0, 3.0], patience=2)
    assert state.should_stop
    assert not callback.report()["stopped_early"]


@pytest.mark.parametrize(("losses", "reached"), [([1.0, 0.9, 0.8], True), ([1.0, 2.0, 3.0], False)])
def test_a_fit_that_patience_stopped_has_not_reached_its_last_epoch(losses: list[float], reached: bool):
    callback, _, _ = run_early_stopping(losses, patience=2)
    assert callback.report()["reached_last_epoch"] is reached


# Gradients


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.ModuleDict({"lstm": nn.LSTM(2, 3)})
        self.head = nn.Linear(3, 1)
        self.scale = nn.Parameter(torch.ones(2))


def set_gradients(**by_layer: float) -> FitState:
    """Return the state of a net whose gradient entries have the value of their layer."""
    state = make_state(Recurrent(), epoch=4, batch=1)
    for name, parameter in state.net.named_parameters():
        parameter.grad = torch.full_like(parameter, by_layer[name.split(".")[0]])
    return state


def measure(state: FitState) -> dict[str, Any]:
    monitor = GradientMonitor(interval=1)
    monitor.on_after_backward(state)
    monitor.on_validation_end(state)
    return monitor.report()


def test_norms_are_those_of_all_weights_that_a_module_owns():
    state = set_gradients(recurrent=0.5, head=2.0, scale=0.0)
    layers = measure(state)["layers"]
    lstm = [p.grad.flatten() for p in state.net.recurrent["lstm"].parameters()]
    assert layers["recurrent.lstm"]["mean"] == pytest.approx(float(torch.cat(lstm).norm()))
    assert layers["head"]["max"] == pytest.approx(2.0 * math.sqrt(4))
    assert list(layers) == ["(net)", "recurrent.lstm", "head"]
    assert state.entry["grad_norm"] == pytest.approx(float(nn.utils.get_total_norm([*lstm, torch.full((4,), 2.0)])))


def test_mean_lowest_and_highest_norms_are_those_of_the_measured_batches():
    monitor, state = GradientMonitor(interval=2), make_state(nn.Linear(1, 1, bias=False))
    for state.batch, gradient in enumerate([3.0, 100.0, -6.0, 100.0, 9.0], start=1):
        state.net.weight.grad = torch.tensor([[gradient]])
        monitor.on_after_backward(state)
    monitor.on_validation_end(state)
    report = monitor.report()
    assert report["batches"] == 3
    assert {key: report["layers"]["(net)"][key] for key in ("mean", "min", "max")} == {"mean": 6, "min": 3, "max": 9}
    assert state.entry == {"grad_norm": 6.0, "grad_norm_max": 9.0}


def test_norms_in_the_entry_are_of_its_own_epoch():
    monitor, state = GradientMonitor(interval=1), set_gradients(recurrent=1.0, head=1.0, scale=1.0)
    monitor.on_after_backward(state)
    state = set_gradients(recurrent=0.0, head=2.0, scale=0.0)
    monitor.on_epoch_start(state)
    monitor.on_after_backward(state)
    monitor.on_validation_end(state)
    assert state.entry["grad_norm_max"] == pytest.approx(4.0)


def test_vanishing_and_exploding_layers_are_listed_with_epoch_and_batch():
    report = measure(set_gradients(recurrent=1e-9, head=1e3, scale=1.0))
    assert report["vanishing"]["layers"] == ["recurrent.lstm"]
    (place,) = report["exploding"]["first"]
    assert place == {"layer": "head", "epoch": 4, "batch": 1, "norm": pytest.approx(2e3)}
    assert (report["vanishing"]["count"], report["exploding"]["count"], report["undefined"]["count"]) == (1, 1, 0)


def test_zero_nan_and_infinite_entries_are_counted_and_leave_the_norms_finite():
    state = set_gradients(recurrent=1.0, head=1.0, scale=0.0)
    state.net.head.weight.grad = torch.tensor([[math.nan, math.inf, 0.0]])
    report = measure(state)
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
    assert math.isnan(state.entry["grad_norm"]) and math.isnan(state.entry["grad_norm_max"])


def test_an_infinite_gradient_explodes_and_does_not_hide_a_nan():
    state = set_gradients(recurrent=1.0, head=math.inf, scale=1.0)
    assert measure(state)["exploding"]["layers"] == ["head"]
    state.net.head.bias.grad = torch.tensor([math.nan])
    assert measure(state)["undefined"]["layers"] == ["head"]


def test_all_faults_are_counted_and_the_first_are_listed():
    monitor, state = GradientMonitor(interval=1), set_gradients(recurrent=1.0, head=0.0, scale=1.0)
    for state.batch in range(1, MAX_LISTED + 6):
        monitor.on_after_backward(state)
    vanishing = monitor.report()["vanishing"]
    assert vanishing["count"] == MAX_LISTED + 5
    assert [place["batch"] for place in vanishing["first"]] == list(range(1, MAX_LISTED + 1))


def test_a_parameter_without_a_gradient_is_skipped():
    state = set_gradients(recurrent=1.0, head=1.0, scale=1.0)
    state.net.scale.grad = None
    assert list(measure(state)["layers"]) == ["recurrent.lstm", "head"]


# Learning rate


def test_the_learning_rate_is_the_first_group_s_as_the_epoch_began():
    net = nn.Linear(1, 1)
    optimizer = torch.optim.SGD([{"params": [net.weight], "lr": 0.5}, {"params": [net.bias], "lr": 0.1}])
    state, callback = make_state(net, optimizer=optimizer), LearningRateMonitor()
    callback.on_epoch_start(state)
    optimizer.param_groups[0]["lr"] = 0.25  # as a schedule does within the epoch
    callback.on_validation_end(state)
    assert state.entry == {"learning_rate": 0.5}


# Class metrics


def validate(callback: ClassMetrics, *, epoch: int, loss: float, predicted: list[int], y: list[int]) -> FitState:
    outputs = nn.functional.one_hot(torch.tensor(predicted), len(CLASSES)).float()
    state = make_state(nn.Linear(1, 1), classes=CLASSES, epoch=epoch, valid_outputs=outputs, valid_y=torch.tensor(y))
    state.entry = {"iteration": epoch, "train_loss": 1.0, "valid_loss": loss}
    callback.on_validation_end(state)
    return state


@pytest.mark.parametrize("least", [0, 1])  # 1: the first class neither occurs nor is predicted
def test_class_metrics_are_scikit_learns(least: int):
    rng, callback = np.random.default_rng(7), ClassMetrics(LOWEST_VALID_LOSS)
    predicted, y = rng.integers(least, 3, size=(2, 50)).tolist()
    state = validate(callback, epoch=1, loss=1.0, predicted=predicted, y=y)
    expected = precision_recall_fscore_support(y, predicted, labels=range(3), zero_division=0)
    classes = callback.report()["last"]["classes"]
    assert list(classes) == list(CLASSES)
    for name, *metrics in zip(CLASSES, *expected, strict=True):
        assert list(classes[name].values()) == pytest.approx(metrics, rel=1e-12)
        assert list(classes[name]) == ["precision", "recall", "f1", "rows"]
    assert state.entry["valid_accuracy"] == pytest.approx(accuracy_score(y, predicted))
    assert state.entry["valid_f1"] == pytest.approx(expected[2].mean())
    for metric, values in zip(("precision", "recall", "f1"), expected, strict=False):
        assert [state.entry[f"valid_{metric}_{name}"] for name in CLASSES] == pytest.approx(values, rel=1e-12)


def test_class_metrics_report_the_last_and_the_best_epoch_the_earliest_of_equals():
    callback = ClassMetrics(LOWEST_VALID_LOSS)
    for epoch, (loss, predicted) in enumerate([(2.0, 0), (1.0, 1), (1.0, 2), (math.nan, 0)], start=1):
        validate(callback, epoch=epoch, loss=loss, predicted=[predicted], y=[1])
    report = callback.report()
    assert (report["best"]["epoch"], report["last"]["epoch"]) == (2, 4)
    assert report["best"]["classes"]["flat"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "rows": 1}
    assert report["last"]["classes"]["flat"]["f1"] == 0.0


def test_the_best_epoch_of_class_metrics_is_that_of_the_criterion():
    criterion = StoppingCriterion(metric="valid_recall_flat", mode="max", min_delta=0.4)
    early_stopping, callback = EarlyStopping(criterion, patience=9), ClassMetrics(criterion)
    for epoch, predicted in enumerate([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]], start=1):  # recall 0, 1/3, 2/3, 1
        state = validate(callback, epoch=epoch, loss=float(epoch), predicted=predicted, y=[1, 1, 1])
        early_stopping.on_epoch_end(state)
    assert callback.report()["best"]["epoch"] == early_stopping.report()["best_epoch"] == 3
    assert early_stopping.report()["best_valid_recall_flat"] == pytest.approx(2 / 3)


def test_a_regression_has_no_class_metrics():
    callback = ClassMetrics(LOWEST_VALID_LOSS)
    state = make_state(nn.Linear(1, 1), valid_outputs=torch.zeros(5, 1), valid_y=torch.zeros(5))
    callback.on_validation_end(state)
    assert (state.entry, callback.report()) == ({}, {})


def test_outputs_of_another_width_than_the_classes_are_refused():
    state = make_state(nn.Linear(1, 1), classes=CLASSES, valid_outputs=torch.zeros(5, 2), valid_y=torch.zeros(5))
    with pytest.raises(
        ValueError, match=r"valid outputs are \(5, 2\); classes \('down', 'flat', 'up'\) need one column"
    ):
        ClassMetrics(LOWEST_VALID_LOSS).on_validation_end(state)


def make_entries(train: list[float], valid: list[float]) -> list[dict[str, float]]:
    columns = {"iteration": list(range(1, len(train) + 1)), "train_loss": train, "valid_loss": valid}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


# Live metrics


def test_a_line_has_the_labels_then_the_fields_and_nothing_for_a_missing_one(tmp_path: Path):
    file = tmp_path / "live.csv"
    file.write_text(make_header("split", "model"))
    callback = CSVLogger(file=file, labels={"split": 3, "model": "lstm, small"}, fields=FIELDS)
    entry = {
        "iteration": 1,
        "train_loss": 0.1,
        "valid_loss": 1 / 3,
        "valid_f1": 0.5,
        "grad_norm": math.nan,
        "other": 9.0,
    }
    callback.on_epoch_end(make_state(nn.Linear(1, 1), entry=entry))
    head, line = file.read_text().splitlines()
    assert head == ",".join(("split", "model", *FIELDS))
    assert line == '3,"lstm, small",1,0.1,0.3333333333333333,,nan,,,0.5' + 9 * ","
    assert pd.read_csv(file)["valid_loss"][0] == 1 / 3


def test_a_logger_of_a_resumed_fit_first_writes_the_lines_of_the_history(tmp_path: Path):
    history, file = make_entries([3.0, 2.0, 1.0], [3.0, 2.0, 1.0]), tmp_path / "live.csv"
    callback = CSVLogger(file=file, labels={}, fields=FIELDS)
    callback.on_epoch_end(make_state(nn.Linear(1, 1), entry=history[2], history=history[:2]))
    callback.on_train_end(make_state(nn.Linear(1, 1), entry=history[2], history=history))
    assert [line.split(",")[0] for line in file.read_text().splitlines()] == ["1", "2", "3"]


@pytest.mark.parametrize("has_joined", [True, False])
def test_the_last_epoch_counts_once_whether_or_not_it_joined_the_history(has_joined: bool, tmp_path: Path):
    every, file = make_entries([1.0, 0.8, 0.7], [1.0, 0.9, 0.8]), tmp_path / "live.csv"
    state = make_state(nn.Linear(1, 1), epochs=3, entry=every[-1], history=every if has_joined else every[:-1])
    CSVLogger(file=file, labels={}, fields=FIELDS).on_train_end(state)
    assert [line.split(",")[0] for line in file.read_text().splitlines()] == ["1", "2", "3"]


def test_labels_that_are_fields_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"labels \['train_loss'\] are fields too"):
        CSVLogger(file=tmp_path / "live.csv", labels={"train_loss": 1}, fields=FIELDS)


def write_lines(file: Path, process: int, start: Any) -> None:
    callback = CSVLogger(file=file, labels={"split": process, "name": f"{process}" * 5000}, fields=FIELDS)
    start.wait()
    epochs = make_entries([process / 7] * 50, [process / 3] * 50)
    for epoch, entry in enumerate(epochs):
        callback.on_epoch_end(make_state(nn.Linear(1, 1), entry=entry, history=epochs[:epoch]))


def test_lines_of_processes_that_write_at_once_never_mix(tmp_path: Path):
    file, context = tmp_path / "live.csv", multiprocessing.get_context("fork")
    file.write_text(make_header("split", "name"))
    start = context.Barrier(4)
    writers = [context.Process(target=write_lines, args=(file, process, start)) for process in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    table = pd.read_csv(file)
    assert len(table) == 200
    for process, lines in table.groupby("split"):
        assert lines["iteration"].tolist() == list(range(1, 51))
        assert (lines["name"].astype(str).str.strip(f"{process}") == "").all()
        assert (lines["valid_loss"] == process / 3).all()


# Progress bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def draw_bar(stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what the bar of a fit resumed after epoch 2 writes in the next epoch and at the end."""
    monkeypatch.setattr(sys, "stderr", stderr)
    callback, state = ProgressBar(name="lstm, split 3"), make_state(nn.Linear(1, 1), epoch=3)
    state.entry = {"iteration": 3, "train_loss": 0.25, "valid_loss": 0.5}
    callback.on_epoch_start(state)
    time.sleep(0.15)  # a bar is not drawn more often than every 0.1 s
    callback.on_epoch_end(state)
    callback.on_train_end(state)
    return stderr.getvalue()


def test_the_bar_shows_epochs_and_losses_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    drawn = draw_bar(Terminal(), monkeypatch)
    assert "lstm, split 3:  40%" in drawn
    assert "3/5" in drawn and "train_loss=0.25, valid_loss=0.5" in drawn


def test_there_is_no_bar_where_tqdm_is_disabled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert draw_bar(Terminal(), monkeypatch) == ""


def test_there_is_no_bar_where_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    assert draw_bar(io.StringIO(), monkeypatch) == ""
