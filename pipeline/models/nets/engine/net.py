"""The model class of all nets: raw windows in, predictions of the plugin's module out."""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pipeline import config
from pipeline.models.base import FitFiles, Model, split_into_batches
from pipeline.models.nets.engine.callback_base import NET_HISTORY, Callback
from pipeline.models.nets.engine.early_stopping import EarlyStopping
from pipeline.models.nets.engine.gradient_monitor import GradientMonitor
from pipeline.models.nets.engine.loggers import CSVLogger, ProgressBar
from pipeline.models.nets.engine.losses import LOSSES, check_loss, make_loss
from pipeline.models.nets.engine.memory import retain_freed_memory
from pipeline.models.nets.engine.monitors import ClassMetrics, LearningRateMonitor
from pipeline.models.nets.engine.optimizers import LR_SCHEDULES, check_lr_schedule, make_optimizer
from pipeline.models.nets.engine.standardized_net import DeployedNet, StandardizedNet
from pipeline.models.nets.engine.trainer import Trainer, TrainingData, TrainingOptions
from pipeline.models.nets.engine.windows import make_windows
from pipeline.models.torch_runtime.checkpoint import Checkpoint, make_checkpoint
from pipeline.models.torch_runtime.device import fork_rng, select_device, use_one_thread
from pipeline.models.torch_runtime.hyperparameters import Device
from pipeline.models.torch_runtime.onnx_export import export_onnx
from pipeline.samples import Samples

WEIGHTS = "weights.npz"
SHAPE_ARGUMENTS = ("columns", "window", "outputs")  # arguments of a plugin's module that are not its hyperparameters


@dataclass(kw_only=True, eq=False)
class Net(Model):
    """A net over windows of bars; `make_model_class` adds a plugin's module and its hyperparameters.

    A fit on a CPU has one thread, so that its bytes do not depend on how many fits run beside it.
    """

    history_fields: ClassVar[tuple[str, ...]] = NET_HISTORY
    output_kinds: ClassVar[tuple[str, ...]] = ("value", "probability", "classes")
    sections: ClassVar[Mapping[str, Any]] = {
        "loss": {name: make for losses in LOSSES.values() for name, make in losses.items()},
        "optimizer": make_optimizer,
        "lr_schedule": LR_SCHEDULES,
    }
    module: ClassVar[type[nn.Module]]

    window: PositiveInt  # bars
    clip_sigma: PositiveFloat  # standardized columns are clipped at ± this many standard deviations
    loss: dict[str, Any]  # {name: huber, delta: 1.0}, see losses
    optimizer: dict[str, Any]
    lr_schedule: dict[str, Any]
    epochs: PositiveInt
    patience: PositiveInt  # epochs without a lower validation loss after which a fit stops
    batch_size: PositiveInt
    train_stride: PositiveInt
    max_grad_norm: PositiveFloat
    mixed_precision: bool
    device: Device
    gradient_log_interval: PositiveInt  # in batches
    checkpoint_seconds: NonNegativeFloat
    net: StandardizedNet = field(init=False, repr=False)
    callback_reports: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError naming the first hyperparameter that is not allowed."""
        check_loss(self.loss, is_classification=self.signature.is_classification)
        with fork_rng(self.seed, torch.device("cpu")):
            self.net = self._make_net()
        config.check_section(make_optimizer, self.optimizer, name="optimizer")
        check_lr_schedule(self.lr_schedule)
        select_device(self.device)

    def _make_net(self) -> StandardizedNet:
        shape = {"columns": len(self.signature.columns), "outputs": len(self.outputs)}
        hyperparameters = {name: getattr(self, name) for name in list_hyperparameters(self.module)}
        module = self.module(window=self.window, **shape, **hyperparameters)
        return StandardizedNet(module, **shape, clip_sigma=self.clip_sigma)

    def _make_options(self) -> TrainingOptions:
        return TrainingOptions(**{each.name: getattr(self, each.name) for each in dataclasses.fields(TrainingOptions)})

    @property
    def lookback_bars(self) -> int:
        """The bars of a window before its own row."""
        return self.window - 1

    @property
    def needs_sequential_fits(self) -> bool:
        """Whether fits share a GPU; on a CPU each has a thread of its own."""
        return select_device(self.device).type == "cuda"

    @property
    def standardization(self) -> tuple[np.ndarray, np.ndarray]:
        """The (mean, scale), each (F,) float64, of the first layer; a column that is constant in train has scale 0."""
        return self.net.standardize.statistics

    @property
    def fit_report(self) -> dict[str, Any]:
        """The reports of the callbacks of the last fit, by `report_key`; those of a regression lack class metrics."""
        return self.callback_reports

    @property
    def _classes(self) -> tuple[str, ...]:
        return self.outputs if self.signature.is_classification else ()

    def fit(
        self, samples: Samples, train: np.ndarray, valid: np.ndarray, *, files: FitFiles | None = None
    ) -> list[dict[str, float]]:
        """Train until the valid loss has not improved for `patience` epochs, and keep the weights of the best epoch."""
        self.check_fit(samples, train, valid)
        device = select_device(self.device)
        with retain_freed_memory(), use_one_thread(device), fork_rng(self.seed, device):
            self.net = self._make_net()
            self.net.set_statistics(samples.x, samples.y, train)
            self.net.to(device)
            trainer = self._make_trainer(samples, train=train, valid=valid, files=files)
            history = trainer.run()
            self.net.to("cpu").eval()
        self.callback_reports = {each.report_key: each.report() for each in trainer.callbacks if each.report()}
        return history

    def _make_trainer(
        self, samples: Samples, *, train: np.ndarray, valid: np.ndarray, files: FitFiles | None
    ) -> Trainer:
        """Return the trainer of the net as it stands, on the net's device."""
        device = self.net.offset.device
        windows = make_windows(samples.x, samples.segment, length=self.window, device=device)
        return Trainer(
            self.net,
            make_loss(self.loss, samples.y[train], classes=len(self._classes)).to(device),
            TrainingData(windows, self.net.scale_targets(samples.y).to(device), train, valid),
            options=self._make_options(),
            seed=self.seed,
            callbacks=self._make_callbacks(files),
            checkpoint=self._make_checkpoint(files, samples=samples, train=train, valid=valid) if files else None,
            classes=self._classes,
        )

    def _make_callbacks(self, files: FitFiles | None) -> list[Callback]:
        callbacks: list[Callback] = [
            LearningRateMonitor(),
            GradientMonitor(interval=self.gradient_log_interval),
            ClassMetrics(),
            EarlyStopping(patience=self.patience),
        ]
        if files:
            callbacks += [CSVLogger(file=files.metrics, labels=files.labels), ProgressBar(name=files.name)]
        return callbacks

    def _make_checkpoint(
        self, files: FitFiles, *, samples: Samples, train: np.ndarray, valid: np.ndarray
    ) -> Checkpoint:
        seconds = self.checkpoint_seconds
        return make_checkpoint(files, self, samples=samples, train=train, valid=valid, interval_seconds=seconds)

    def inputs(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """Return the windows (B, T, F) float32 that end with these rows, all at once: meant for few rows."""
        self.check_columns(samples)
        windows = make_windows(samples.x, samples.segment, length=self.window, device=torch.device("cpu"))
        return np.asarray(windows.gather(torch.from_numpy(np.asarray(rows, dtype=np.int64))).numpy())

    def predict_rows(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """Return the prediction (B, outputs) float32 for these rows; windows are gathered a batch at a time."""
        self.check_columns(samples)
        device = select_device(self.device)
        windows = make_windows(samples.x, samples.segment, length=self.window, device=device)
        batches = split_into_batches(np.asarray(rows, dtype=np.int64))
        return self._predict_batches(windows.gather(torch.from_numpy(batch).to(device)) for batch in batches)

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return the prediction (B, outputs) float32 for (B, T, F) raw windows."""
        batches = split_into_batches(inputs)
        return self._predict_batches(torch.from_numpy(np.ascontiguousarray(batch)) for batch in batches)

    @torch.no_grad()
    def _predict_batches(self, batches: Iterator[Tensor]) -> np.ndarray:
        deployed = DeployedNet(self.net).eval()
        with use_one_thread(torch.device("cpu")):
            predictions = [deployed.to(batch.device)(batch).float().cpu().numpy() for batch in batches]
        self.net.to("cpu")
        return np.concatenate(predictions) if predictions else np.empty((0, len(self.outputs)), np.float32)

    def save_fitted(self, folder: Path) -> None:
        """Write weights and statistics to `folder` as plain arrays."""
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in self.net.state_dict().items()}
        np.savez(folder / WEIGHTS, **arrays)

    def load_fitted(self, folder: Path) -> None:
        """Read weights and statistics from `folder`."""
        with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
            self.net.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
        self.net.eval()

    def to_onnx(self, file: Path) -> None:
        """Write the graph: raw windows "inputs" (batch, T, F) -> "answer" (batch, outputs)."""
        inputs = {"inputs": (self.window, len(self.signature.columns))}
        file.write_bytes(export_onnx(DeployedNet(self.net).eval(), inputs=inputs, outputs=["answer"]))


@cache
def make_model_class(module: type[nn.Module]) -> type[Net]:
    """Return the model class of a plugin's `module`: its hyperparameters join those of all nets."""
    made = dataclasses.make_dataclass(
        module.__name__,
        [(name, inspect.signature(module).parameters[name].annotation) for name in list_hyperparameters(module)],
        bases=(Net,),
        namespace={"module": module, "__doc__": module.__doc__},
        kw_only=True,
        eq=False,
    )
    made.__module__ = module.__module__  # not in the namespace: from Python 3.12 on, make_dataclass replaces it
    return made


def list_hyperparameters(module: type[nn.Module]) -> tuple[str, ...]:
    """Return the names of a module's hyperparameters, which params give."""
    return tuple(name for name in inspect.signature(module).parameters if name not in SHAPE_ARGUMENTS)
