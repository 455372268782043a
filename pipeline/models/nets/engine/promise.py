"""What all nets share: raw windows in, the same answers from torch, from disk and from ONNX."""

import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.models.base import Bench, Model, in_parts
from pipeline.models.nets.engine import losses
from pipeline.models.nets.engine.callback import FIELDS, Callback
from pipeline.models.nets.engine.callbacks import (
    ClassMetrics,
    Diagnostics,
    EarlyStopping,
    LearningRate,
    MetricLogger,
    ProgressBar,
)
from pipeline.models.nets.engine.gradients import GradientMonitor
from pipeline.models.nets.engine.loop import Course, Loop, Part, optimiser, schedule
from pipeline.models.nets.engine.windows import Windows
from pipeline.models.neural.checkpoint import kept
from pipeline.models.neural.checks import check_sizes
from pipeline.models.neural.device import device_of, one_thread, seeded
from pipeline.models.neural.graph import written
from pipeline.models.neural.heap import kept_memory
from pipeline.models.neural.standardise import Standardise, statistics
from pipeline.samples import Samples

WEIGHTS = "weights.npz"
GIVEN = ("columns", "bars", "outputs")  # what a plugin's module is told beside its tunables


class Whole(nn.Module):
    """Raw columns in, raw answers out: standardised, through the plugin's module, and back to the unit of y.

    A regression is learnt in deviations of y from its mean, classes from the logarithms of their frequencies on: an
    untrained net whose module answers 0 answers as the best constant does.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, body: nn.Module, *, columns: int, outputs: int, clip: float) -> None:
        """`clip` is in deviations of a column."""
        super().__init__()
        self.standardise, self.body = Standardise(columns, clip=clip), body
        self.register_buffer("offset", torch.zeros(outputs))
        self.register_buffer("scale", torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, outputs) values in deviations of y, or logits."""
        raw: Tensor = self.body(self.standardise(x))
        return raw + self.offset if self.offset.shape[0] > 1 else raw


class Answering(nn.Module):
    """What is deployed: raw columns in, the answer out."""

    def __init__(self, whole: Whole) -> None:
        """The weights are those of `whole`."""
        super().__init__()
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, outputs) probabilities, or one value in the unit of y."""
        raw: Tensor = self.whole(x)
        if self.whole.offset.shape[0] > 1:
            return torch.softmax(raw, dim=1)
        return self.whole.offset + self.whole.scale * raw


@dataclass(kw_only=True, eq=False)
class Net(Model):
    """A net over windows of bars: `module` is the plugin's, its tunables are fields of the class that `promised` makes.

    Fitted by one thread on a CPU, so that its bytes do not depend on how many fits run beside it.
    """

    tells: ClassVar[tuple[str, ...]] = FIELDS
    module: ClassVar[type[nn.Module]]

    bars: int  # the length of a window
    clip: float  # standardised columns beyond ± this many deviations are cut off
    loss: dict[str, Any]  # {name: huber, delta: 1.0}, see losses
    optimiser: dict[str, Any]
    schedule: dict[str, Any]
    epochs: int
    patience: int  # epochs without a lower valid loss after which a fit stops
    batch: int
    stride: int
    gradient_norm: float
    mixed_precision: bool
    device: str  # auto, cpu or cuda
    monitor_batches: int  # gradients are looked at once in so many batches
    checkpoint_seconds: float
    whole: Whole = field(init=False, repr=False)
    notes: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """The tunables are such as a fit can go by."""
        losses.check(self.loss, is_classification=self.shape.is_classification)
        check_sizes("nets", bars=self.bars)
        with seeded(self.seed, torch.device("cpu")):
            self.whole = self._untrained()
        schedule(optimiser(self.whole, **self.optimiser), self.epochs, **self.schedule)
        self._course()
        device_of(self.device)

    def _untrained(self) -> Whole:
        shape = {"columns": len(self.shape.columns), "outputs": len(self.outputs)}
        tunables = {name: getattr(self, name) for name in tunables_of(self.module)}
        return Whole(self.module(bars=self.bars, **shape, **tunables), **shape, clip=self.clip)

    def _course(self) -> Course:
        return Course(**{each.name: getattr(self, each.name) for each in dataclasses.fields(Course)})

    @property
    def reach_bars(self) -> int:
        """A window holds so many bars before its own."""
        return self.bars - 1

    @property
    def fits_alone(self) -> bool:
        """On a GPU one fit follows another; on a CPU each has a thread of its own."""
        return device_of(self.device).type == "cuda"

    def fit(
        self, samples: Samples, train: np.ndarray, valid: np.ndarray, *, bench: Bench | None = None
    ) -> list[dict[str, float]]:
        """Trains until `valid` has not improved for `patience` epochs, and ends with the weights of the best one."""
        self.check_fit(samples, train, valid)
        device = device_of(self.device)
        with kept_memory(), one_thread(device), seeded(self.seed, device):
            self.whole = self._untrained()
            self._standardise(samples.x, samples.y, train)
            self.whole.to(device)
            loop, callbacks = self._loop(samples, train, valid, device=device, bench=bench)
            history = loop.run()
            self.whole.to("cpu").eval()
        self.notes = {key: value for callback in callbacks for key, value in callback.report().items()}
        return history

    def _loop(
        self, samples: Samples, train: np.ndarray, valid: np.ndarray, *, device: torch.device, bench: Bench | None
    ) -> tuple[Loop, list[Callback]]:
        classes = self.outputs if self.shape.is_classification else ()
        loss = losses.built(self.loss, samples.y[train], classes=len(classes)).to(device)
        y = self._targets(samples.y).to(device)
        callbacks: list[Callback] = [
            LearningRate(),
            GradientMonitor(every=self.monitor_batches),
            ClassMetrics(),
            EarlyStopping(patience=self.patience),
            Diagnostics(),
        ]
        if bench:
            callbacks += [MetricLogger(file=bench.metrics, columns=bench.labels), ProgressBar(name=bench.name)]
        loop = Loop(
            self.whole,
            loss,
            Windows.over(samples.x, samples.segment, length=self.bars, device=device),
            Part(train, y),
            Part(valid, y),
            course=self._course(),
            seed=self.seed,
            callbacks=callbacks,
            checkpoint=kept(bench, self, samples, train, valid, seconds=self.checkpoint_seconds) if bench else None,
            classes=classes,
        )
        return loop, callbacks

    def _targets(self, y: np.ndarray) -> Tensor:
        """(N,) codes, or deviations of y from its train mean in train deviations."""
        if self.shape.is_classification:
            return torch.from_numpy(y.astype(np.int64))
        offset, scale = self.whole.offset.double().numpy(), self.whole.scale.double().numpy()
        return torch.from_numpy(((y - offset) / scale).astype(np.float32))

    def _standardise(self, x: np.ndarray, y: np.ndarray, train: np.ndarray) -> None:
        """The statistics of columns and of y are those of the train rows."""
        self.whole.standardise.learn(*statistics(x, train))
        if self.shape.is_classification:
            counts = np.bincount(y[train], minlength=len(self.outputs)) + 1.0  # Laplace: an absent class is rare
            self.whole.offset.copy_(torch.from_numpy(np.log(counts / counts.sum())))
        else:
            spread = float(y[train].std(dtype=np.float64))
            self.whole.offset.fill_(float(y[train].mean(dtype=np.float64)))
            self.whole.scale.fill_(spread if spread > 0 else 1.0)

    def inputs(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """(B, T, F) float32: the windows that end with these rows, all at once; ask for few."""
        self.check_columns(samples)
        windows = Windows.over(samples.x, samples.segment, length=self.bars, device=torch.device("cpu"))
        return np.asarray(windows.gather(torch.from_numpy(np.asarray(rows, dtype=np.int64))).numpy())

    def answer(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """(B, outputs) float32 for these rows; windows are gathered a batch at a time."""
        self.check_columns(samples)
        device = device_of(self.device)
        windows = Windows.over(samples.x, samples.segment, length=self.bars, device=device)
        parts = (torch.from_numpy(part).to(device) for part in in_parts(np.asarray(rows, dtype=np.int64)))
        return self._answered(windows.gather(part) for part in parts)

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """(B, outputs) float32 for (B, T, F) raw windows."""
        return self._answered(torch.from_numpy(np.ascontiguousarray(part)) for part in in_parts(inputs))

    @torch.no_grad()
    def _answered(self, batches: Iterator[Tensor]) -> np.ndarray:
        answering = Answering(self.whole).eval()
        with one_thread(torch.device("cpu")):
            parts = [self._answer_on(answering, batch) for batch in batches]
        self.whole.to("cpu")
        return np.concatenate(parts) if parts else np.empty((0, len(self.outputs)), np.float32)

    def _answer_on(self, answering: Answering, batch: Tensor) -> np.ndarray:
        answering.to(batch.device)
        return np.asarray(answering(batch).float().cpu().numpy())

    def standardisation(self) -> tuple[np.ndarray, np.ndarray]:
        """The (mean, scale), each (F,) float64, of the first layer; a column that is constant in train has scale 0."""
        return self.whole.standardise.statistics()

    def diagnosis(self) -> dict[str, Any]:
        """What the callbacks say of the fit."""
        return self.notes

    def hard_inputs(self, inputs: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
        """Those of every family, raw extremes, and windows at the very edges of the clip."""
        own = self.whole.standardise.hard_inputs(inputs, rng=rng)
        return np.concatenate([super().hard_inputs(inputs, rng=rng), own])

    def save_fitted(self, folder: Path) -> None:
        """`folder` holds weights and statistics, as plain arrays."""
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in self.whole.state_dict().items()}
        np.savez(folder / WEIGHTS, **arrays)

    def load_fitted(self, folder: Path) -> None:
        """The weights and statistics are those of `folder`."""
        with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
            self.whole.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
        self.whole.eval()

    def to_onnx(self, file: Path) -> None:
        """`file` holds the graph: raw windows "inputs" (batch, T, F) -> "answer" (batch, outputs)."""
        inputs = {"inputs": (self.bars, len(self.shape.columns))}
        file.write_bytes(written(Answering(self.whole).eval(), inputs=inputs, outputs=["answer"]))


@cache
def promised(module: type[nn.Module]) -> type[Net]:
    """The model whose net is a plugin's `module`: its tunables join those that all nets have."""
    return dataclasses.make_dataclass(
        module.__name__,
        [(name, Any) for name in tunables_of(module)],
        bases=(Net,),
        namespace={"module": module, "__module__": module.__module__, "__doc__": module.__doc__},
        kw_only=True,
        eq=False,
    )


def tunables_of(module: type[nn.Module]) -> tuple[str, ...]:
    """What params must give for a plugin's module."""
    return tuple(name for name in inspect.signature(module).parameters if name not in GIVEN)
