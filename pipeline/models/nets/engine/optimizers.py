"""Optimizers and learning rate schedules by name, as params give them."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import nn
from torch.optim import lr_scheduler

from pipeline import config
from pipeline.models.torch_runtime.hyperparameters import LearningRate
from pipeline.models.torch_runtime.optimizers import Adam, AdamW

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": Adam, "adamw": AdamW}


def make_optimizer(
    net: nn.Module, *, name: Literal["adam", "adamw"], learning_rate: LearningRate, weight_decay: NonNegativeFloat
) -> torch.optim.Optimizer:
    """Return Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019) over all parameters of `net`.

    Fused: torch's other kernels approximate square roots on a CPU, differently from CPU to CPU.
    """
    return OPTIMIZERS[name](net.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)


def _make_constant(optimizer: torch.optim.Optimizer, epochs: int) -> lr_scheduler.LRScheduler:
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _make_cosine(
    optimizer: torch.optim.Optimizer, epochs: int, *, eta_min: NonNegativeFloat
) -> lr_scheduler.LRScheduler:
    return lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs, eta_min=eta_min)


def _make_plateau(
    optimizer: torch.optim.Optimizer,
    epochs: int,
    *,
    factor: Annotated[float, Interval(gt=0, lt=1)],
    patience: NonNegativeInt,
) -> lr_scheduler.LRScheduler:
    return lr_scheduler.ReduceLROnPlateau(optimizer, factor=factor, patience=patience)


LR_SCHEDULES: dict[str, Callable[..., lr_scheduler.LRScheduler]] = {
    "constant": _make_constant,
    "cosine": _make_cosine,
    "plateau": _make_plateau,
}


def check_lr_schedule(block: Mapping[str, Any]) -> None:
    """Raise ParamsError where `block`, such as {name: cosine, eta_min: 1e-4}, is not one of the schedules."""
    own = {key: value for key, value in block.items() if key != "name"}
    config.check_section(_declare_name, {"name": block.get("name")}, name="lr_schedule")
    config.check_section(LR_SCHEDULES[block["name"]], own, name="lr_schedule")


def _declare_name(*, name: Literal["constant", "cosine", "plateau"]) -> None:
    """Declare the names of the schedules."""


def make_lr_schedule(
    optimizer: torch.optim.Optimizer, epochs: int, *, name: str, **hyperparameters: float
) -> lr_scheduler.LRScheduler:
    """Return the learning rate schedule, which changes the rate after each epoch.

    `constant` leaves it. `cosine` lowers it by half a cosine to `eta_min` at the last epoch. `plateau` multiplies it by
    `factor` whenever the valid loss has not improved for more than `patience` epochs.
    """
    return LR_SCHEDULES[name](optimizer, epochs, **hyperparameters)


def step_lr_schedule(lr_schedule: lr_scheduler.LRScheduler, valid_loss: float) -> None:
    """Advance the schedule by one epoch."""
    if isinstance(lr_schedule, lr_scheduler.ReduceLROnPlateau):
        lr_schedule.step(valid_loss)
    else:
        lr_schedule.step()
