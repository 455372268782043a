"""Optimizers and learning rate schedules by name, as params give them."""

import inspect
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import lr_scheduler

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def check_optimizer(*, name: str, learning_rate: float, weight_decay: float) -> None:
    """Raise ValueError where these are not arguments of `make_optimizer`; no optimizer is made, which takes seconds."""
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer: name is {name!r}; allowed are {sorted(OPTIMIZERS)}")
    if not learning_rate > 0 or not weight_decay >= 0:
        raise ValueError(
            f"optimizer: learning_rate is {learning_rate} and weight_decay is {weight_decay}; allowed are a rate above "
            "0 and a decay of 0 or more"
        )


def make_optimizer(net: nn.Module, *, name: str, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019) over all parameters of `net`.

    Fused: torch's other kernels approximate square roots on a CPU, differently from CPU to CPU.
    """
    return OPTIMIZERS[name](net.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)


def _make_constant(optimizer: torch.optim.Optimizer, epochs: int) -> lr_scheduler.LRScheduler:
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _make_cosine(optimizer: torch.optim.Optimizer, epochs: int, *, eta_min: float) -> lr_scheduler.LRScheduler:
    return lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs, eta_min=eta_min)


def _make_plateau(
    optimizer: torch.optim.Optimizer, epochs: int, *, factor: float, patience: int
) -> lr_scheduler.LRScheduler:
    return lr_scheduler.ReduceLROnPlateau(optimizer, factor=factor, patience=patience)


LR_SCHEDULES: dict[str, Callable[..., lr_scheduler.LRScheduler]] = {
    "constant": _make_constant,
    "cosine": _make_cosine,
    "plateau": _make_plateau,
}
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {  # of the schedules' own keys
    "eta_min": (lambda rate: rate >= 0, "a rate of 0 or more"),
    "factor": (lambda factor: 0 < factor < 1, "a factor between 0 and 1"),
    "patience": (lambda epochs: isinstance(epochs, int) and epochs >= 0, "an integer of 0 or more"),
}


def check_lr_schedule(*, name: str, **hyperparameters: float) -> None:
    """Raise ValueError where these are not arguments of `make_lr_schedule`."""
    if name not in LR_SCHEDULES:
        raise ValueError(f"lr_schedule: name is {name!r}; allowed are {sorted(LR_SCHEDULES)}")
    known = [key for key in inspect.signature(LR_SCHEDULES[name]).parameters if key not in ("optimizer", "epochs")]
    if sorted(known) != sorted(hyperparameters):
        raise ValueError(f"lr_schedule {name}: got the keys {sorted(hyperparameters)}, its keys are {sorted(known)}")
    for key, (is_allowed, allowed) in RANGES.items():
        if key in hyperparameters and not is_allowed(hyperparameters[key]):
            raise ValueError(f"lr_schedule {name}: {key} is {hyperparameters[key]!r}; allowed is {allowed}")


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
