"""The one loop that every net is trained by."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.models.nets.engine.callback import Callback, Progress
from pipeline.models.nets.engine.losses import Loss
from pipeline.models.nets.engine.windows import Windows
from pipeline.models.neural.checkpoint import Checkpoint, State
from pipeline.models.neural.checks import check_sizes

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
Schedule = torch.optim.lr_scheduler.LRScheduler


class NotFiniteError(ValueError):
    """A loss or a gradient is no number: the fit is over."""


@dataclass(frozen=True, eq=False)
class Part:
    """Rows with what came true: what a fit learns from, or stops by."""

    rows: np.ndarray  # (n,) int64 rows of the windows' table
    y: Tensor  # (N,) values or codes of all rows of the table, on the device of the fit

    def batches(self, order: np.ndarray, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """(B,) rows and (B,) y, `size` at a time in the given (n,) order."""
        for start in range(0, len(order), size):
            rows = torch.from_numpy(order[start : start + size]).to(device)
            yield rows, self.y[rows]


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a fit goes: what params say of it."""

    epochs: int
    batch: int  # rows of a batch
    stride: int  # an epoch learns from every stride-th train row, from another offset each time
    optimiser: Mapping[str, Any]  # {name: adamw, learning_rate: 1e-3, weight_decay: 1e-4}
    schedule: Mapping[str, Any]  # {name: constant | cosine, floor | plateau, factor, patience}
    gradient_norm: float  # gradients with a larger one are scaled down to it
    mixed_precision: bool  # bfloat16 products on a GPU; a CPU knows nothing of it

    def __post_init__(self) -> None:
        """Every number is one that a fit can go by."""
        check_sizes("nets", epochs=self.epochs, batch=self.batch, stride=self.stride)
        if not self.gradient_norm > 0:
            raise ValueError(f"gradient_norm is {self.gradient_norm}; it must be above 0, as 1.0")


class Loop:
    """One fit of one net: epochs of batches, validation after each, callbacks at every turn."""

    def __init__(
        self,
        net: nn.Module,
        loss: Loss,
        windows: Windows,
        train: Part,
        valid: Part,
        *,
        course: Course,
        seed: int,
        callbacks: Sequence[Callback],
        checkpoint: Checkpoint | None,
        classes: tuple[str, ...],
    ) -> None:
        """Nothing has been learnt yet; torch's own random numbers are those that dropout will use."""
        self.net, self.loss, self.windows, self.train, self.valid = net, loss, windows, train, valid
        self.course, self.seed, self.callbacks, self.checkpoint = course, seed, callbacks, checkpoint
        self.device = windows.x.device
        self.optimiser = optimiser(net, **course.optimiser)
        self.schedule = schedule(self.optimiser, course.epochs, **course.schedule)
        self.progress = Progress(
            net=net,
            optimiser=self.optimiser,
            epochs=course.epochs,
            classes=classes,
        )
        self.total = 0.0  # of the losses of this epoch's rows so far

    def run(self) -> list[dict[str, float]]:
        """The net is trained, from the checkpoint on where there is one; returns the history, an entry an epoch."""
        found = self.checkpoint.read() if self.checkpoint else None
        if found:
            self.restore(found)
        else:
            self._tell("train_start")
        progress = self.progress
        while progress.batch or not (progress.stop or progress.epoch == progress.epochs):
            self._epoch()
        if self.checkpoint:
            self.checkpoint.write(self.state())
        self._tell("train_end")
        return progress.history

    def _epoch(self) -> None:
        """One epoch, from its first batch or from where the checkpoint left it."""
        progress = self.progress
        if not progress.batch:  # an epoch begins
            progress.epoch, progress.entry, self.total = progress.epoch + 1, {"round": progress.epoch + 1}, 0.0
            self._tell("epoch_start")
        order = self._order(progress.epoch)
        seen = progress.batch * self.course.batch
        self.net.train()
        for rows, y in self.train.batches(order[seen:], self.course.batch, self.device):
            progress.batch += 1
            self._tell("batch_start")
            self._step(rows, y)
            self._tell("batch_end")
            if self.checkpoint and self.checkpoint.is_due():
                self.checkpoint.write(self.state())
        progress.entry["train"] = self.total / len(order)
        self._tell("validation_start")
        progress.entry["valid"] = self._validate()
        self._tell("validation_end")
        advance(self.schedule, progress.entry["valid"])
        self._tell("epoch_end")
        progress.history.append(progress.entry)
        progress.batch = 0

    def _order(self, epoch: int) -> np.ndarray:
        """The train rows of an epoch, shuffled; the same whenever it is asked."""
        rng = np.random.default_rng([self.seed, epoch])
        return rng.permutation(self.train.rows[epoch % self.course.stride :: self.course.stride])

    def _step(self, rows: Tensor, y: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        x = self.windows.gather(rows)
        with self._precision():
            loss = self.loss(self.net(x), y)
        value = loss.item()
        if not math.isfinite(value):
            raise NotFiniteError(self._where(f"the loss is {value}", first_bad_output(self.net, x)))
        torch.autograd.backward(loss)
        self._tell("gradients")
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.course.gradient_norm).item()
        if not math.isfinite(norm):
            raise NotFiniteError(self._where(f"the gradient's norm is {norm}", first_bad_gradient(self.net)))
        self.optimiser.step()
        self.total += value * len(rows)

    def _where(self, what: str, layer: str) -> str:
        progress = self.progress
        return (
            f"epoch {progress.epoch}, batch {progress.batch}: {what}, first in layer {layer}; lower "
            "optimiser.learning_rate or gradient_norm, or look for values that are not finite among the features"
        )

    @torch.no_grad()
    def _validate(self) -> float:
        """The loss on the valid rows, as a mean over them."""
        self.net.eval()
        answers, truths, total = [], [], 0.0
        for rows, y in self.valid.batches(self.valid.rows, self.course.batch, self.device):
            with self._precision():
                answer = self.net(self.windows.gather(rows))
                total += self.loss(answer, y).item() * len(rows)
            answers.append(answer.float().cpu())
            truths.append(y.cpu())
        self.net.train()
        self.progress.valid_answers, self.progress.valid_y = torch.cat(answers), torch.cat(truths)
        return total / len(self.valid.rows)

    def _precision(self) -> torch.autocast:
        enabled = self.course.mixed_precision and self.device.type == "cuda"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _tell(self, hook: str) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self.progress)

    def state(self) -> State:
        """All that the further course depends on."""
        progress = self.progress
        return {
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": {name: value for name, value in self.schedule.state_dict().items() if _is_plain(value)},
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "total": self.total,
            "progress": {name: getattr(progress, name) for name in KEPT},
            "callbacks": [callback.state() for callback in self.callbacks],
        }

    def restore(self, state: State) -> None:
        """The fit stands where it stood when `state` was taken."""
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.total = state["total"]
        for name, value in state["progress"].items():
            setattr(self.progress, name, value)
        for callback, kept in zip(self.callbacks, state["callbacks"], strict=True):
            callback.restore(kept)


KEPT = ("epoch", "batch", "entry", "history", "stop")  # of the progress, in checkpoints


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float | str | bool | list | type(None))


def optimiser(net: nn.Module, *, name: str, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019) over all parameters of `net`.

    Fused, since torch's other kernels take square roots on a CPU by an approximation that differs from CPU to CPU.
    """
    if name not in OPTIMISERS:
        raise ValueError(f"optimiser {name!r}; there are {sorted(OPTIMISERS)}")
    if not learning_rate > 0 or not weight_decay >= 0:
        raise ValueError(
            f"optimiser: learning_rate {learning_rate}, weight_decay {weight_decay}; the rate must be above 0, the "
            "decay at least 0"
        )
    return OPTIMISERS[name](net.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)


def _constant(optimiser: torch.optim.Optimizer, epochs: int) -> Schedule:
    return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)


def _cosine(optimiser: torch.optim.Optimizer, epochs: int, *, floor: float) -> Schedule:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=epochs, eta_min=floor)


def _plateau(optimiser: torch.optim.Optimizer, epochs: int, *, factor: float, patience: int) -> Schedule:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=factor, patience=patience)


SCHEDULES: dict[str, Callable[..., Schedule]] = {"constant": _constant, "cosine": _cosine, "plateau": _plateau}


def schedule(optimiser: torch.optim.Optimizer, epochs: int, *, name: str, **tunables: float) -> Schedule:
    """How the learning rate changes after each epoch: not, by a half cosine to its `floor`, or by `factor` wherever the
    valid loss has not improved for more than `patience` epochs."""
    if name not in SCHEDULES:
        raise ValueError(f"schedule {name!r}; there are {sorted(SCHEDULES)}")
    known = [key for key in inspect.signature(SCHEDULES[name]).parameters if key not in ("optimiser", "epochs")]
    if sorted(known) != sorted(tunables):
        raise ValueError(f"schedule {name}: got the keys {sorted(tunables)}, its keys are {sorted(known)}")
    return SCHEDULES[name](optimiser, epochs, **tunables)


def advance(schedule: Schedule, valid_loss: float) -> None:
    """An epoch is over."""
    if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
        schedule.step(valid_loss)
    else:
        schedule.step()


@torch.no_grad()
def first_bad_output(net: nn.Module, x: Tensor) -> str:
    """The name of the first layer that answers `x` with what is not finite; "loss" where none does."""
    bad: list[str] = []

    def look(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if not torch.isfinite(first).all():
                bad.append(name)

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in net.named_modules() if name]
    net(x)
    for handle in handles:
        handle.remove()
    return bad[0] if bad else "loss"


def first_bad_gradient(net: nn.Module) -> str:
    """The name of the first layer whose gradient is not finite."""
    return next(
        (
            name.rpartition(".")[0]
            for name, parameter in net.named_parameters()
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
        ),
        "unknown",
    )
