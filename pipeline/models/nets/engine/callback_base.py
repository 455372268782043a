"""The hooks of a fit, and the state that callbacks read and steer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pipeline.models.base import HISTORY

NET_HISTORY = (*HISTORY, "learning_rate", "grad_norm", "grad_norm_max")
MEAN_CLASS_METRICS = ("valid_accuracy", "valid_f1")  # over all classes
CLASS_METRICS = ("precision", "recall", "f1")  # of each class
State = dict[str, Any]  # plain values and tensors, as `torch.load(weights_only=True)` reads them
Report = dict[str, Any]  # JSON-able


def list_history_fields(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the fields of an epoch's entry of a net that predicts these classes, none for a regression.

    >>> list_history_fields(("down", "up"))[6:9]
    ('valid_accuracy', 'valid_f1', 'valid_precision_down')
    """
    of_classes = (name_class_metric(metric, name) for name in classes for metric in CLASS_METRICS)
    return (*NET_HISTORY, *(MEAN_CLASS_METRICS if classes else ()), *of_classes)


def name_class_metric(metric: str, name: str) -> str:
    """Return the history field of one of CLASS_METRICS of the class `name`."""
    return f"valid_{metric}_{name}"


@dataclass(eq=False)
class FitState:
    """The state of a fit. Callbacks read it, add metrics to `entry`, and may set `should_stop`."""

    net: nn.Module  # (B, T, F) raw columns -> (B, outputs): logits, or values in deviations of y
    optimizer: torch.optim.Optimizer
    epochs: int  # at most
    classes: tuple[str, ...] = ()  # their names, in the order of their codes; empty for a regression
    epoch: int = 0  # from 1 on
    batch: int = 0  # of this epoch, from 1 on
    entry: dict[str, float] = field(default_factory=dict)  # of this epoch: "iteration", "train_loss", "valid_loss", ...
    history: list[dict[str, float]] = field(default_factory=list)  # the entries of the previous epochs
    valid_outputs: Tensor | None = None  # (V, outputs) of the last validation, on the CPU
    valid_y: Tensor | None = None  # (V,) float32 values or int64 codes
    should_stop: bool = False  # no epoch follows this one


class Callback:
    """A base class with hooks that do nothing unless they are overridden.

    The order within an epoch: on_epoch_start; for each batch on_batch_start, on_after_backward (before clipping and the
    optimizer's step), on_batch_end; on_validation_start, on_validation_end (the entry has both losses); on_epoch_end.
    What a callback adds to the entry it adds in on_validation_end: so the entry is complete in every on_epoch_end,
    whatever the order of the callbacks. A callback belongs to one fit.
    """

    report_key: ClassVar[str] = ""  # of its report within the report of the fit

    def on_train_start(self, state: FitState) -> None:
        """Run before the first epoch; not again where a fit resumes from a checkpoint."""

    def on_epoch_start(self, state: FitState) -> None:
        """Run before the first batch of an epoch."""

    def on_batch_start(self, state: FitState) -> None:
        """Run before the windows of a batch are gathered."""

    def on_after_backward(self, state: FitState) -> None:
        """Run after the backward pass, before gradients are clipped."""

    def on_batch_end(self, state: FitState) -> None:
        """Run after the optimizer's step."""

    def on_validation_start(self, state: FitState) -> None:
        """Run before the valid rows are predicted."""

    def on_validation_end(self, state: FitState) -> None:
        """Run when losses, outputs and true values of the epoch are known."""

    def on_epoch_end(self, state: FitState) -> None:
        """Run when the entry is complete, before it joins the history."""

    def on_train_end(self, state: FitState) -> None:
        """Run after the last epoch, whether or not the fit stopped early."""

    def state_dict(self) -> State:
        """Return what a checkpoint stores of this callback; empty by default."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""

    def report(self) -> Report:
        """Return what the report of the fit says under `report_key`; empty by default."""
        return {}
