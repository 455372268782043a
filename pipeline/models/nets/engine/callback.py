"""What looks on while a net is trained: the hooks of a fit, and what they may see and steer."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.base import HISTORY

FIELDS = (*HISTORY, "learning_rate", "gradient_norm", "gradient_norm_max", "valid_accuracy", "valid_f1")  # of an entry
Notes = dict[str, Any]  # JSON-able, or tensors for checkpoints


@dataclass(eq=False)
class Progress:
    """Where a fit stands. Callbacks read it, add figures to `entry`, and may set `stop`."""

    net: nn.Module  # (B, T, F) raw columns -> (B, outputs) raw answers: logits or values
    optimiser: torch.optim.Optimizer
    epochs: int  # at most
    classes: tuple[str, ...] = ()  # their names, in the order of their codes; none for a regression
    epoch: int = 0  # from 1 on
    batch: int = 0  # of this epoch, from 1 on
    entry: dict[str, float] = field(default_factory=dict)  # of this epoch: "round", "train", "valid" and more
    history: list[dict[str, float]] = field(default_factory=list)  # the entries of the epochs before
    valid_answers: Tensor | None = None  # (V, outputs) of the last validation, on the CPU
    valid_y: Tensor | None = None  # (V,) float32 values or int64 codes
    stop: bool = False  # no epoch after this one


class Callback:
    """Looks on while a net is trained: every hook does nothing unless it is overridden.

    The order of an epoch: epoch_start; for each batch batch_start, gradients (after the backward pass, before clipping
    and the step), batch_end; validation_start, validation_end (the entry has "train" and "valid"); epoch_end.
    """

    def train_start(self, progress: Progress) -> None:
        """Before the first epoch; not again where a fit goes on from a checkpoint."""

    def epoch_start(self, progress: Progress) -> None:
        """Before the first batch of an epoch."""

    def batch_start(self, progress: Progress) -> None:
        """Before a batch is gathered."""

    def gradients(self, progress: Progress) -> None:
        """Gradients are there, as the loss gave them."""

    def batch_end(self, progress: Progress) -> None:
        """The step has been made."""

    def validation_start(self, progress: Progress) -> None:
        """Before the valid rows are answered."""

    def validation_end(self, progress: Progress) -> None:
        """Losses, answers and true values of the epoch are known."""

    def epoch_end(self, progress: Progress) -> None:
        """The entry is whole and about to join the history."""

    def train_end(self, progress: Progress) -> None:
        """After the last epoch, early or not; the net holds what the fit ends with."""

    def state(self) -> Notes:
        """What a checkpoint keeps of it: plain values and tensors, as `torch.load(weights_only=True)` reads them."""
        return {}

    def restore(self, state: Notes) -> None:
        """This callback is where it was when `state` was taken."""

    def report(self) -> Notes:
        """What the report of the fit says of it, JSON-able; nothing by default."""
        return {}
