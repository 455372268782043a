"""What looks on at the fit of a net: early stopping, gradients, rates, class metrics, a diagnosis, live metrics, a bar.

An object looks on at one fit. What it adds to the entry of an epoch it adds in `validation_end`, so that the entry is
whole in every `epoch_end`, whatever the order of the callbacks.
"""

import csv
import io
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.models.base import HISTORY
from pipeline.models.nets.engine.callback import Callback, Notes, Progress

VANISHING_NORM = 1e-7  # a gradient below moves nothing
EXPLODING_NORM = 1e3  # a gradient above throws the weights about
NAMED_FAULTS = 20  # as many of a kind are named, the first ones; all are counted
ENTRIES = ("entries", "zero", "nan", "inf")  # of gradients: all, and those that are counted
FAULTS = ("vanishing", "exploding", "undefined")  # of the norm of a layer in a batch
ROOT = "(net)"  # the layer of parameters that the net itself owns

FIELDS = HISTORY  # of a line of live metrics, after its columns

# Shares of a loss, by which a fit is judged.
LEARNT_FALL = 0.01  # train falls by more, or nothing is learnt
DIVERGED_RISE = 0.05  # train ends higher by more: steps lead away
EARLY_BEST_EPOCHS = 2  # a best epoch among these is early
EARLY_BEST_RISE = 0.01  # valid ends higher than an early best by more: train is learnt by heart
LATE_BEST_RISE = 0.10  # the same after any other best, which patience lets a sound fit run past
STILL_FALLING = 0.001  # train falls by more in the last epoch: there is more to learn
STILL_BEST_EPOCHS = 2  # valid has its best among as many last epochs: more epochs would serve it
UNSTABLE_JUMP = 0.05  # valid turns back by more: steps are too long
LEAST_LEVEL = 1e-30  # a loss of exactly zero has shares of this

VERDICTS = ("diverged", "not learning", "unstable", "overfitting", "underfitting")  # the gravest first; else healthy
ADVICE = {
    "loss not finite": ("lower learning_rate", "clip gradients", "look for extreme inputs"),
    "gradients not finite": ("lower learning_rate", "clip gradients", "look for extreme inputs"),
    "train loss rose": ("lower learning_rate", "clip gradients"),
    "train loss did not fall": ("raise learning_rate", "use more units", "ask whether the inputs tell of the target"),
    "vanishing gradients": ("use fewer layers, or residual connections and normalisation", "raise learning_rate"),
    "exploding gradients": ("clip gradients", "lower learning_rate"),
    "valid loss jumps": ("lower learning_rate", "clip gradients", "use larger batches"),
    "valid loss rose while train fell": (
        "lower learning_rate",
        "raise dropout",
        "raise weight_decay",
        "use fewer units",
    ),
    "stopped too soon": ("train for more epochs", "raise learning_rate"),
}  # by sign


class EarlyStopping(Callback):
    """The fit stops after `patience` epochs without a lower valid loss, and the net ends with its best weights.

    The best epoch has the lowest valid loss, the earliest of equals; NaN is never lower. Weights are all that
    `state_dict` holds, buffers too; where no epoch had a finite valid loss they stay as they are.
    """

    def __init__(self, *, patience: int) -> None:
        """`patience` is in epochs, 1 or more."""
        self._patience = _at_least_one("EarlyStopping: patience", patience)
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


@dataclass
class _Layer:
    """What was seen of the gradients of one layer."""

    norms: int = 0  # the finite ones
    total: float = 0.0  # of the finite norms
    lowest: float = math.inf
    highest: float = -math.inf
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*ENTRIES, *FAULTS), 0))

    def add(self, norm: float, counts: Mapping[str, int]) -> None:
        """One more batch: the norm of the layer, and how many of ENTRIES."""
        for kind, count in counts.items():
            self.counts[kind] += count
        fault = _fault(norm)
        if fault is not None:
            self.counts[fault] += 1
        if math.isfinite(norm):
            self.norms, self.total = self.norms + 1, self.total + norm
            self.lowest, self.highest = min(self.lowest, norm), max(self.highest, norm)

    def report(self) -> Notes:
        """Mean, lowest and highest of the finite norms, None where there were none, and all counts."""
        if not self.norms:
            return {"mean": None, "min": None, "max": None, **self.counts}
        return {"mean": self.total / self.norms, "min": self.lowest, "max": self.highest, **self.counts}


class GradientMonitor(Callback):
    """Gradients are measured in the first and then each `every`-th batch of an epoch, before clipping.

    A layer is the module that owns the parameters, such as "recurrent.lstm". Its norm is vanishing below
    VANISHING_NORM, exploding above EXPLODING_NORM (infinite included), and undefined where an entry is NaN. A parameter
    without a gradient is passed over. The entry of the epoch gets "gradient_norm", the mean of the norms over all
    parameters, and "gradient_norm_max"; both are nan where one of these norms was not finite.
    """

    def __init__(self, *, every: int) -> None:
        """`every` is in batches, 1 or more."""
        self._every = _at_least_one("GradientMonitor: every", every)
        self._batches = 0  # measured
        self._norms: list[float] = []  # of this epoch, over all parameters
        self._layers: dict[str, _Layer] = {}
        self._named: dict[str, list[Notes]] = {fault: [] for fault in FAULTS}

    def epoch_start(self, progress: Progress) -> None:
        """No norm of this epoch yet."""
        self._norms = []

    def gradients(self, progress: Progress) -> None:
        """One more batch is measured, where it is its turn."""
        if (progress.batch - 1) % self._every:
            return
        measured = _measured(progress.net)
        for name, (norm, counts) in measured.items():
            if name not in self._layers:
                self._layers[name] = _Layer()
            self._layers[name].add(norm, counts)
            fault = _fault(norm)
            if fault is not None and len(self._named[fault]) < NAMED_FAULTS:
                place = {"layer": name, "epoch": progress.epoch, "batch": progress.batch}
                self._named[fault].append(place | {"norm": norm if math.isfinite(norm) else None})
        self._batches += 1
        self._norms.append(_norm([norm for norm, _ in measured.values()]))

    def validation_end(self, progress: Progress) -> None:
        """The entry has the norms of the epoch."""
        if self._norms:
            is_finite = all(map(math.isfinite, self._norms))
            progress.entry["gradient_norm"] = math.fsum(self._norms) / len(self._norms) if is_finite else math.nan
            progress.entry["gradient_norm_max"] = max(self._norms) if is_finite else math.nan

    def state(self) -> Notes:
        """All that was seen, of the fit and of the epoch under way."""
        return {
            "batches": self._batches,
            "norms": list(self._norms),
            "layers": {name: asdict(layer) for name, layer in self._layers.items()},
            "named": {fault: list(named) for fault, named in self._named.items()},
        }

    def restore(self, state: Notes) -> None:
        """As `state` says."""
        own = deepcopy(state)
        self._batches, self._norms, self._named = own["batches"], own["norms"], own["named"]
        self._layers = {name: _Layer(**seen) for name, seen in own["layers"].items()}

    def report(self) -> Notes:
        """How many batches were measured; each layer's norms and counts; for each fault its layers and first places."""
        faults = {
            fault: {
                "layers": [name for name, layer in self._layers.items() if layer.counts[fault]],
                "count": sum(layer.counts[fault] for layer in self._layers.values()),
                "first": list(self._named[fault]),
            }
            for fault in FAULTS
        }
        return {"batches": self._batches, "layers": {n: layer.report() for n, layer in self._layers.items()}, **faults}


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
        counts = _confusion(progress)  # (classes, classes)
        hits, occurred, called = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)  # each (classes,)
        columns = {
            "precision": (hits / called.clamp(min=1)).tolist(),
            "recall": (hits / occurred.clamp(min=1)).tolist(),
            "f1": (2 * hits / (occurred + called).clamp(min=1)).tolist(),
            "rows": [int(rows) for rows in occurred],
        }
        rows = (dict(zip(columns, figures, strict=True)) for figures in zip(*columns.values(), strict=True))
        progress.entry["valid_accuracy"] = float(hits.sum() / counts.sum())
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


class Sign(NamedTuple):
    """Something that a fit shows, with the numbers behind it."""

    verdict: str  # one of VERDICTS
    sign: str  # one of ADVICE
    figures: dict[str, float]


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


def diagnosis(entries: Sequence[Mapping[str, float]], *, ran_out: bool) -> Notes:
    """What the losses and gradient norms of a fit, an entry an epoch, say of it; `ran_out`: it ended at its last epoch.

    {"verdict": the gravest of VERDICTS that has a sign, else "healthy"; "undetermined" with fewer than two epochs,
     "signs": [{"sign": ..., and the numbers behind it}], "recommendations": [...]}
    """
    if len(entries) < 2:
        return {"verdict": "undetermined", "signs": [], "recommendations": ["train for 2 epochs or more"]}
    rounds, train, valid = (np.array([entry[key] for entry in entries]) for key in ("round", "train", "valid"))
    is_finite = np.isfinite(train) & np.isfinite(valid)  # each (epochs,)
    signs = list(_signs_of_gradients(entries))
    if is_finite.all():
        signs += [*_signs_of_train(train), *_signs_of_valid(train, valid, ran_out=ran_out)]
    else:
        signs.append(Sign("diverged", "loss not finite", _when(rounds[~is_finite])))
    signs.sort(key=lambda sign: VERDICTS.index(sign.verdict))
    return {
        "verdict": signs[0].verdict if signs else "healthy",
        "signs": [{"sign": sign.sign, **sign.figures} for sign in signs],
        "recommendations": list(dict.fromkeys(advice for sign in signs for advice in ADVICE[sign.sign])),
    }


class MetricLogger(Callback):
    """Each epoch adds one line to a CSV that several fits share: `columns`, which tell the fits apart, then FIELDS.

    A field that the entry lacks stays empty. A line is one write to the end of the file, so lines of several processes
    never mix (on local disks; NFS does not promise it). Whoever creates the file writes `header` first. A fit that goes
    on from a checkpoint writes the lines of its earlier epochs again, into a file without them.
    """

    def __init__(self, *, file: Path, columns: Mapping[str, object]) -> None:
        """`columns` are the names and values that every line of this fit begins with, such as {"split": 3}.

        Raises ValueError where a column has the name of a field.
        """
        _check_columns(columns)
        self._file, self._columns = file, dict(columns)
        self._written = 0  # lines, by this object

    def epoch_end(self, progress: Progress) -> None:
        """The file has the line of this epoch, and of those before it."""
        self._catch_up(progress)

    def train_end(self, progress: Progress) -> None:
        """The file has a line for every epoch."""
        self._catch_up(progress)

    def _catch_up(self, progress: Progress) -> None:
        entries = _entries(progress)
        for entry in entries[self._written :]:
            _append(self._file, _line([*self._columns.values(), *(entry.get(name) for name in FIELDS)]))
        self._written = len(entries)


def header(columns: Mapping[str, object]) -> str:
    """The first line of a file of live metrics, its end included.

    Raises ValueError where a column has the name of a field.
    """
    _check_columns(columns)
    return _line([*columns, *FIELDS])


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


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} is {value}; it is a whole number, 1 or more")
    return value


def _entries(progress: Progress) -> list[dict[str, float]]:
    """The entries of all validated epochs in order, the present one among them whether or not it joined the history."""
    entries = {entry["round"]: entry for entry in (*progress.history, progress.entry) if "valid" in entry}
    return list(entries.values())


def _fault(norm: float) -> str | None:
    """The one of FAULTS that the norm of a layer has, if any."""
    if math.isnan(norm):
        return "undefined"
    if norm < VANISHING_NORM:
        return "vanishing"
    return "exploding" if norm > EXPLODING_NORM else None


def _measured(net: nn.Module) -> dict[str, tuple[float, dict[str, int]]]:
    """For each layer that has gradients, their norm and how many there are of each of ENTRIES."""
    gradients: dict[str, list[Tensor]] = {}
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            gradients.setdefault(name.rpartition(".")[0] or ROOT, []).append(parameter.grad)
    together = list(chain.from_iterable(gradients.values()))
    if not together:
        return {}
    norms = iter(torch.stack(torch._foreach_norm(together)).tolist())
    filled = iter(torch.stack([gradient.count_nonzero() for gradient in together]).tolist())
    measured = {}
    for layer, own in gradients.items():
        norm = _norm(list(islice(norms, len(own))))
        entries = sum(gradient.numel() for gradient in own)
        counts = {"entries": entries, "zero": entries - sum(islice(filled, len(own)))}
        if not math.isfinite(norm):
            counts["nan"] = sum(int(gradient.isnan().sum()) for gradient in own)
            counts["inf"] = sum(int(gradient.isinf().sum()) for gradient in own)
        measured[layer] = (norm, counts)
    return measured


def _norm(norms: Sequence[float]) -> float:
    """Of all by the norms of parts; nan where a part is, which hypot lets infinity hide."""
    return math.nan if any(map(math.isnan, norms)) else math.hypot(*norms)


def _confusion(progress: Progress) -> Tensor:
    """Counts (classes, classes) float64 of the last validation: row = the class that came true, column = called."""
    answers, codes, width = progress.valid_answers, progress.valid_y, len(progress.classes)
    assert answers is not None and codes is not None
    if answers.ndim != 2 or answers.shape[1] != width:
        raise ValueError(f"valid answers are {tuple(answers.shape)}; classes {progress.classes} need one column each")
    pairs = torch.bincount(codes * width + answers.argmax(dim=1), minlength=width**2)
    return pairs.reshape(width, width).double()


def _signs_of_train(train: np.ndarray) -> Iterator[Sign]:
    """(epochs,) finite losses."""
    first, lowest, last = (float(loss) for loss in (train[0], train.min(), train[-1]))
    if _rise(first, last) > DIVERGED_RISE:
        yield Sign("diverged", "train loss rose", {"first": first, "last": last, "rise": _rise(first, last)})
    if -_rise(first, lowest) <= LEARNT_FALL:
        figures = {"first": first, "lowest": lowest, "fall": -_rise(first, lowest)}
        yield Sign("not learning", "train loss did not fall", figures)


def _signs_of_valid(train: np.ndarray, valid: np.ndarray, *, ran_out: bool) -> Iterator[Sign]:
    """Two times (epochs,) finite losses."""
    best = int(valid.argmin())
    rise = _rise(float(valid[best]), float(valid[-1]))
    fall_since = -_rise(float(train[best]), float(train[-1]))
    fall_last = -_rise(float(train[-2]), float(train[-1]))
    jump = _jump(valid)
    if jump > UNSTABLE_JUMP:
        yield Sign("unstable", "valid loss jumps", {"jump": jump, "level": float(np.abs(valid).mean())})
    if fall_since > 0 and rise > (EARLY_BEST_RISE if best < EARLY_BEST_EPOCHS else LATE_BEST_RISE):
        figures = {"best_epoch": best + 1, "best_valid": float(valid[best]), "last_valid": float(valid[-1])}
        figures |= {"rise": rise, "train_fall": fall_since}
        yield Sign("overfitting", "valid loss rose while train fell", figures)
    is_at_best = len(valid) - best <= STILL_BEST_EPOCHS and rise <= EARLY_BEST_RISE
    if ran_out and is_at_best and fall_last > STILL_FALLING:
        figures = {"epochs": len(train), "best_epoch": best + 1, "last_train": float(train[-1]), "last_fall": fall_last}
        yield Sign("underfitting", "stopped too soon", figures)


def _signs_of_gradients(entries: Sequence[Mapping[str, float]]) -> Iterator[Sign]:
    """Of the entries that have norms."""
    known = [entry for entry in entries if "gradient_norm" in entry]
    rounds, mean, highest = (
        np.array([e[key] for e in known]) for key in ("round", "gradient_norm", "gradient_norm_max")
    )
    is_finite = np.isfinite(mean) & np.isfinite(highest)
    exploding, vanishing = is_finite & (highest > EXPLODING_NORM), is_finite & (mean < VANISHING_NORM)
    if not is_finite.all():
        yield Sign("diverged", "gradients not finite", _when(rounds[~is_finite]))
    if exploding.any():
        figures = _when(rounds[exploding]) | {"norm_max": float(highest[exploding].max())}
        yield Sign("unstable", "exploding gradients", figures)
    if vanishing.any():
        figures = _when(rounds[vanishing]) | {"norm_min": float(mean[vanishing].min())}
        yield Sign("not learning", "vanishing gradients", figures)


def _when(rounds: np.ndarray) -> dict[str, float]:
    return {"first_epoch": int(rounds[0]), "epochs": len(rounds)}


def _rise(before: float, after: float) -> float:
    """As a share of the level before, negative for a fall."""
    return (after - before) / max(abs(before), LEAST_LEVEL)


def _jump(losses: np.ndarray) -> float:
    """How far (epochs,) losses turn back, as a share of their level: the root of the mean square over inner epochs.

    An epoch where a rise meets a fall turns back by the smaller of the two. The deviation of all differences would call
    a steep, steady fall a jump.
    """
    steps = np.diff(losses)
    turns = np.where(steps[:-1] * steps[1:] < 0, np.minimum(np.abs(steps[:-1]), np.abs(steps[1:])), 0.0)
    return float(np.sqrt(np.mean(turns**2)) / np.abs(losses).mean()) if turns.any() else 0.0


def _check_columns(columns: Mapping[str, object]) -> None:
    doubled = sorted(set(columns) & set(FIELDS))
    if doubled:
        raise ValueError(f"columns {doubled} have the names of fields; any names are allowed but {FIELDS}")


def _line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _append(file: Path, line: str) -> None:
    """One write; OSError where the disk did not take all of it."""
    content = line.encode()
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        written = os.write(handle, content)
    finally:
        os.close(handle)
    if written != len(content):
        raise OSError(f"{file}: {written} of {len(content)} bytes of a line were written; is the disk full?")
