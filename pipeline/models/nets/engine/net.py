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
from pipeline.models.base import BATCH_ROWS, Model, Window, split_into_batches
from pipeline.models.fit_files import FitFiles
from pipeline.models.nets.engine.callback_base import Callback, list_history_fields
from pipeline.models.nets.engine.early_stopping import EarlyStopping, make_early_stopping
from pipeline.models.nets.engine.gradient_monitor import GradientMonitor
from pipeline.models.nets.engine.loggers import CSVLogger, MeasurementLogger, ProgressBar
from pipeline.models.nets.engine.losses import LOSSES, check_loss, make_loss
from pipeline.models.nets.engine.memory import retain_freed_memory
from pipeline.models.nets.engine.monitors import ClassMetrics, LearningRateMonitor
from pipeline.models.nets.engine.optimizers import LR_SCHEDULES, check_lr_schedule, make_optimizer
from pipeline.models.nets.engine.standardized_net import DeployedNet, StandardizedNet
from pipeline.models.nets.engine.trainer import Trainer, TrainingData, TrainingOptions
from pipeline.models.nets.engine.windows import make_windows
from pipeline.models.stopping import StoppingCriterion
from pipeline.models.torch_runtime.checkpoint import Checkpoint, make_checkpoint
from pipeline.models.torch_runtime.device import (
    fork_rng,
    make_gpu_gauge,
    select_device,
    select_prediction_device,
    use_one_thread,
)
from pipeline.models.torch_runtime.hyperparameters import Device
from pipeline.models.torch_runtime.onnx_export import export_onnx
from pipeline.models.torch_runtime.standardize import check_unscaled, locate_columns
from pipeline.samples import Samples
from pipeline.targets import Kind

WEIGHTS = "weights.npz"
CPU_BATCH_ROWS = 1024  # windows predicted at once on a CPU: the states of more do not fit its cache
# arguments of a plugin's module that are not its hyperparameters; `horizons` is given to those that have it
SHAPE_ARGUMENTS = ("columns", "window", "outputs", "horizons")


@dataclass(kw_only=True, eq=False)
class Net(Model):
    """A net over windows of bars; `make_model_class` adds a plugin's module and its hyperparameters.

    A fit on a CPU has one thread, so that its bytes do not depend on how many fits run beside it.
    """

    output_kinds: ClassVar[tuple[Kind, ...]] = ("value", "position", "probability", "classes", "quantiles", "horizons")
    sections: ClassVar[Mapping[str, Any]] = {
        "loss": {name: make for losses in LOSSES.values() for name, make in losses.items()},
        "optimizer": make_optimizer,
        "lr_schedule": LR_SCHEDULES,
        "early_stopping": make_early_stopping,
    }
    module: ClassVar[type[nn.Module]]

    window: Window  # bars
    clip_sigma: PositiveFloat  # standardized columns are clipped at ± this many standard deviations
    loss: dict[str, Any]  # {name: huber, delta: 1.0}, see losses
    optimizer: dict[str, Any]
    lr_schedule: dict[str, Any]
    epochs: PositiveInt
    early_stopping: dict[str, Any]  # {metric: valid_loss, mode: min, patience: 3, min_delta: 0.0}
    batch_size: PositiveInt
    train_stride: PositiveInt
    max_grad_norm: PositiveFloat
    mixed_precision: bool
    device: Device
    gradient_log_interval: PositiveInt  # in batches
    checkpoint_seconds: NonNegativeFloat
    unscaled_columns: list[str] = field(default_factory=list)  # left as they are, but clipped at ± clip_sigma
    net: StandardizedNet = field(init=False, repr=False)
    callback_reports: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError naming the first hyperparameter that is not allowed."""
        super().__post_init__()
        locate_columns(self.unscaled_columns, self.signature.columns)
        check_loss(self.loss, self.signature.output)
        with fork_rng(self.seed, torch.device("cpu")):
            self.net = self._make_net()
        config.check_section(make_optimizer, self.optimizer, name="optimizer")
        check_lr_schedule(self.lr_schedule)
        self._check_metric(self.stopping.metric, self.stopping.mode)

    def _check_metric(self, metric: str, mode: str) -> None:
        """Raise ParamsError where no entry of a history will have the metric, or `mode` would keep its worst one."""
        if metric not in (allowed := [name for name in self.history_fields if name.startswith("valid_")]):
            raise config.ParamsError(
                f"early_stopping.metric is {metric!r}; with the outputs {', '.join(self.outputs)} it must be one of "
                f"{', '.join(allowed)}; where nets need different metrics, move early_stopping from nets to the "
                "hyperparameters of each"
            )
        if mode != (best := "min" if metric == "valid_loss" else "max"):
            raise config.ParamsError(f"early_stopping.mode is {mode!r}; of {metric} it must be {best!r}")

    def _make_net(self) -> StandardizedNet:
        shape = {"columns": len(self.signature.columns), "outputs": len(self.outputs)}
        hyperparameters = {name: getattr(self, name) for name in list_hyperparameters(self.module)}
        horizons = {"horizons": self.signature.output.horizons} if _takes_horizons(self.module) else {}
        module = self.module(window=self.window, **shape, **horizons, **hyperparameters)
        is_classification = self.signature.is_classification
        return StandardizedNet(module, **shape, is_classification=is_classification, clip_sigma=self.clip_sigma)

    def _make_options(self) -> TrainingOptions:
        return TrainingOptions(**{each.name: getattr(self, each.name) for each in dataclasses.fields(TrainingOptions)})

    @property
    def history_fields(self) -> tuple[str, ...]:
        """The fields of an epoch's entry; those of class metrics only where it predicts classes."""
        return list_history_fields(self._classes)

    @property
    def stopping(self) -> StoppingCriterion:
        """The criterion of early stopping."""
        return self._make_early_stopping().criterion

    def _make_early_stopping(self) -> EarlyStopping:
        return config.call_with(make_early_stopping, block=self.early_stopping, name="early_stopping")

    @property
    def lookback_bars(self) -> int:
        """The bars of a window before its own row."""
        return self.window - 1

    @property
    def fit_device(self) -> str:
        """The device that a fit runs on: a GPU that fits share, or a CPU on which each has a thread of its own."""
        return select_device(self.device).type

    @property
    def standardization(self) -> tuple[np.ndarray, np.ndarray]:
        """The (mean, scale), each (F,) float64, of the first layer; a column that is constant in train has scale 0."""
        return self.net.standardize.statistics

    def list_unscaled(self) -> tuple[str, ...]:
        """Return the columns that the first layer leaves as they are."""
        return tuple(self.unscaled_columns)

    def check_fit(self, samples: Samples, train: np.ndarray, valid: np.ndarray) -> None:
        """Raise ValueError also where the clip would cut off what is unscaled."""
        super().check_fit(samples, train, valid)
        columns, clip_sigma = samples.columns, self.clip_sigma
        check_unscaled(samples.x, train, unscaled=self.unscaled_columns, columns=columns, clip_sigma=clip_sigma)

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
        """Train until `early_stopping` ends the fit, and keep the weights of the best epoch."""
        self.check_fit(samples, train, valid)
        unscaled = locate_columns(self.unscaled_columns, samples.columns)
        device = torch.device(self.fit_device)
        with retain_freed_memory(), use_one_thread(device), fork_rng(self.seed, device):
            self.net = self._make_net()
            self.net.set_statistics(samples.x, samples.learned, train, unscaled=unscaled)
            self.net.to(device)
            if files:
                files.meter.measure_gpu_bytes = make_gpu_gauge(device)
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
            make_loss(self.loss, samples.y[train], self.signature.output).to(device),
            TrainingData(windows, self.net.scale_targets(samples.learned).to(device), train, valid),
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
            ClassMetrics(self.stopping),
            self._make_early_stopping(),
        ]
        if files:
            fields = self.history_fields
            callbacks += [CSVLogger(file=files.metrics, labels=files.labels, fields=fields), MeasurementLogger(files)]
            callbacks.append(ProgressBar(name=files.name))
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
        device = select_prediction_device(self.device)
        windows = make_windows(samples.x, samples.segment, length=self.window, device=device)
        size = CPU_BATCH_ROWS if device.type == "cpu" else BATCH_ROWS
        batches = split_into_batches(np.asarray(rows, dtype=np.int64), size=size)
        inputs = (windows.gather(torch.from_numpy(batch).to(device)) for batch in batches)
        return self._predict_batches(inputs, device=device)

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return the prediction (B, outputs) float32 for (B, T, F) raw windows."""
        batches = split_into_batches(inputs, size=CPU_BATCH_ROWS)
        windows = (torch.from_numpy(np.ascontiguousarray(batch)) for batch in batches)
        return self._predict_batches(windows, device=torch.device("cpu"))

    @torch.no_grad()
    def _predict_batches(self, batches: Iterator[Tensor], *, device: torch.device) -> np.ndarray:
        """Return the predictions (B, outputs) for batches on `device`; the net is on the CPU before and after."""
        deployed = DeployedNet(self.net).eval()
        try:
            with use_one_thread(device):
                deployed.to(device)
                predictions = [deployed(batch).cpu().numpy() for batch in batches]
        finally:
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
        namespace={"module": module, "__doc__": module.__doc__, "target_keys": getattr(module, "target_keys", ())},
        kw_only=True,
        eq=False,
    )
    made.__module__ = module.__module__  # not in the namespace: from Python 3.12 on, make_dataclass replaces it
    return made


def _takes_horizons(module: type[nn.Module]) -> bool:
    return "horizons" in inspect.signature(module).parameters


def list_hyperparameters(module: type[nn.Module]) -> tuple[str, ...]:
    """Return the names of a module's hyperparameters, which params give."""
    return tuple(name for name in inspect.signature(module).parameters if name not in SHAPE_ARGUMENTS)
