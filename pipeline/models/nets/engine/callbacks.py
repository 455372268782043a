"""What looks on at the fit of a net: early stopping, rates, class metrics, a diagnosis, live metrics, a bar.

An object looks on at one fit. What it adds to the entry of an epoch it adds in `validation_end`, so that the entry is
whole in every `epoch_end`, whatever the order of the callbacks.
"""

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_fscore_support
from torch import Tensor
from tqdm import tqdm

from pipeline.models.nets.engine.callback import FIELDS, Callback, Notes, Progress
from pipeline.models.nets.engine.diagnosis import diagnosis
from pipeline.models.neural.checks import check_sizes
from pipeline.models.neural.lines import Lines


class EarlyStopping(Callback):
    """The fit stops after `patience` epochs without a lower valid loss, and the net ends with its best weights.

    The best epoch has the lowest valid loss, the earliest of equals; NaN is never lower. Weights are all that
    `state_dict` holds, buffers too; where no epoch had a finite valid loss they stay as they are.
    """

    def __init__(self, *, patience: int) -> None:
        """`patience` is in epochs, 1 or more."""
        check_sizes("EarlyStopping", patience=patience)
        self._patience = patience
        self._weights: dict[str, Tensor] = {}  # of the best epoch
        self._loss = math.inf  # of the best epoch
        self._epoch = 0  # the best
        self._since = 0  # epochs
        self._is_early = False

    def validation_end(self, progress: Progress) -> None:
        """The best weights are kept; `progress.stop` is set where patience is at its end."""
        if progress.entry["valid"] < self._loss:
            self._loss, self._epoch, self._since = progress.entry["valid"], progress.epoch, 0
            self._weights = {name: values.detach().clone() for name, values in progress.net.state_dict().items()}
            return
        self._since += 1
        if self._since >= self._patience:
            progress.stop = True
            self._is_early = progress.epoch < progress.epochs

    def train_end(self, progress: Progress) -> None:
        """The net has the weights of the best epoch."""
        if self._weights:
            progress.net.load_state_dict(self._weights)

    def state(self) -> Notes:
        """The best weights, their loss and epoch, and the epochs since."""
        return {
            "weights": self._weights,
            "loss": self._loss,
            "epoch": self._epoch,
            "since": self._since,
            "is_early": self._is_early,
        }

    def restore(self, state: Notes) -> None:
        """As `state` says."""
        self._weights, self._loss, self._epoch = state["weights"], state["loss"], state["epoch"]
        self._since, self._is_early = state["since"], state["is_early"]

    def report(self) -> Notes:
        """The best epoch and its valid loss, None where there is none, and whether the fit ended before its limit."""
        best = (self._epoch, self._loss) if self._epoch else (None, None)
        return {"best_epoch": best[0], "best_valid": best[1], "stopped_early": self._is_early}


class LearningRate(Callback):
    """The entry has "learning_rate": the rate of the first group of parameters as the epoch began."""

    def __init__(self) -> None:
        """No epoch has begun."""
        self._rate = math.nan

    def epoch_start(self, progress: Progress) -> None:
        """The rate is known."""
        self._rate = float(progress.optimiser.param_groups[0]["lr"])

    def validation_end(self, progress: Progress) -> None:
        """The entry has it."""
        progress.entry["learning_rate"] = self._rate

    def state(self) -> Notes:
        """The rate of the epoch under way."""
        return {"rate": self._rate}

    def restore(self, state: Notes) -> None:
        """As `state` says."""
        self._rate = state["rate"]


class ClassMetrics(Callback):
    """Precision, recall and F1 of each class on the valid rows; nothing where the net answers values.

    The class called is the one with the highest logit, the first of equals. What has no row to be a share of is 0, as
    scikit-learn has it with zero_division=0. The entry gets "valid_accuracy", the share of rows called rightly, and
    "valid_f1", the mean F1 of all classes.
    """

    def __init__(self) -> None:
        """No epoch has been validated."""
        self._loss = math.inf  # of the best epoch
        self._epochs: dict[str, Notes] = {}  # "last" and "best"

    def validation_end(self, progress: Progress) -> None:
        """The entry and the record have the metrics of this epoch."""
        if not progress.classes:
            return
        codes, called = _called(progress)
        table = precision_recall_fscore_support(codes, called, labels=range(len(progress.classes)), zero_division=0.0)
        columns = {name: each.tolist() for name, each in zip(("precision", "recall", "f1", "rows"), table, strict=True)}
        rows = (dict(zip(columns, figures, strict=True)) for figures in zip(*columns.values(), strict=True))
        progress.entry["valid_accuracy"] = float(np.mean(codes == called))
        progress.entry["valid_f1"] = math.fsum(columns["f1"]) / len(columns["f1"])
        self._epochs["last"] = {"epoch": progress.epoch, "classes": dict(zip(progress.classes, rows, strict=True))}
        if progress.entry["valid"] < self._loss:
            self._loss, self._epochs["best"] = progress.entry["valid"], self._epochs["last"]

    def state(self) -> Notes:
        """The metrics of the last and the best epoch, and the loss of the best."""
        return {"loss": self._loss, "epochs": dict(self._epochs)}

    def restore(self, state: Notes) -> None:
        """As `state` says."""
        self._loss, self._epochs = state["loss"], dict(state["epochs"])

    def report(self) -> Notes:
        """Of the "last" and of the "best" epoch (by valid loss): its number and each class's metrics and rows."""
        return dict(self._epochs)


class Diagnostics(Callback):
    """The report says at the end of a fit how it went, by `diagnosis`."""

    def __init__(self) -> None:
        """Nothing can be said yet."""
        self._diagnosis: Notes = {}

    def train_end(self, progress: Progress) -> None:
        """The fit is judged."""
        entries = _entries(progress)
        self._diagnosis = diagnosis(entries, ran_out=not progress.stop and len(entries) >= progress.epochs)

    def state(self) -> Notes:
        """The diagnosis."""
        return dict(self._diagnosis)

    def restore(self, state: Notes) -> None:
        """As `state` says."""
        self._diagnosis = dict(state)

    def report(self) -> Notes:
        """The diagnosis, nothing before the end of the fit."""
        return dict(self._diagnosis)


class MetricLogger(Callback):
    """Each epoch adds one line to a CSV that several fits share: `columns`, which tell the fits apart, then FIELDS.

    A fit that goes on from a checkpoint writes the lines of its earlier epochs again, into a file without them.
    """

    def __init__(self, *, file: Path, columns: Mapping[str, object]) -> None:
        """`columns` are the names and values that every line of this fit begins with, such as {"split": 3}.

        Raises ValueError where a column has the name of a field.
        """
        self._lines = Lines(file, labels=columns, fields=FIELDS)

    def epoch_end(self, progress: Progress) -> None:
        """The file has the line of this epoch, and of those before it."""
        self._lines.catch_up(_entries(progress))

    def train_end(self, progress: Progress) -> None:
        """The file has a line for every epoch."""
        self._lines.catch_up(_entries(progress))


class ProgressBar(Callback):
    """A bar over the epochs on stderr, with the losses of the last one.

    There is none where stderr is no terminal, nor where TQDM_DISABLE is set.
    """

    def __init__(self, *, name: str) -> None:
        """`name` stands before the bar."""
        self._name = name
        self._bar: tqdm[Any] | None = None

    def epoch_start(self, progress: Progress) -> None:
        """The bar is to be seen, with the epochs that are done."""
        if self._bar is None:
            is_hidden = bool(os.environ.get("TQDM_DISABLE")) or not sys.stderr.isatty()
            done, total = progress.epoch - 1, progress.epochs
            self._bar = tqdm(total=total, initial=done, desc=self._name, unit="epoch", leave=False, disable=is_hidden)

    def epoch_end(self, progress: Progress) -> None:
        """The bar is one epoch on."""
        if self._bar is not None:
            losses = {key: f"{progress.entry[key]:.5g}" for key in ("train", "valid")}
            self._bar.set_postfix(losses, refresh=False)
            self._bar.update()

    def train_end(self, progress: Progress) -> None:
        """The bar is closed."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _entries(progress: Progress) -> list[dict[str, float]]:
    """The entries of all validated epochs in order, the present one among them whether or not it joined the history."""
    entries = {entry["round"]: entry for entry in (*progress.history, progress.entry) if "valid" in entry}
    return list(entries.values())


def _called(progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """The codes that came true and those called at the last validation, (V,) each."""
    answers, codes, width = progress.valid_answers, progress.valid_y, len(progress.classes)
    assert answers is not None and codes is not None
    if answers.ndim != 2 or answers.shape[1] != width:
        raise ValueError(f"valid answers are {tuple(answers.shape)}; classes {progress.classes} need one column each")
    return codes.numpy(), answers.argmax(dim=1).numpy()
