"""The one training loop of all nets."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.models.nets.engine.callback_base import Callback, FitState
from pipeline.models.nets.engine.finite_checks import NotFiniteError, find_bad_gradient, find_bad_output
from pipeline.models.nets.engine.losses import Loss
from pipeline.models.nets.engine.optimizers import make_lr_schedule, make_optimizer, step_lr_schedule
from pipeline.models.nets.engine.windows import Windows
from pipeline.models.torch_runtime.checkpoint import Checkpoint, CheckpointState

RESUMED_FIELDS = ("epoch", "batch", "entry", "history", "should_stop")  # of the FitState, in checkpoints


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Windows and their true values, and the rows that a fit learns from and stops by."""

    windows: Windows
    y: Tensor  # values or codes of all rows of the windows' table, (N,), or (N, horizons); on the device of the fit
    train: np.ndarray  # (n,) int64 rows
    valid: np.ndarray  # (m,) int64 rows

    def iterate_batches(self, rows: np.ndarray, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (B,) rows and their y, `size` at a time, in the order of `rows`."""
        for start in range(0, len(rows), size):
            batch = torch.from_numpy(rows[start : start + size]).to(self.windows.x.device)
            yield batch, self.y[batch]


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The options of a fit, as params give them."""

    epochs: int
    batch_size: int
    train_stride: int  # an epoch learns from every train_stride-th train row, with another offset in each epoch
    optimizer: Mapping[str, Any]  # {name: adamw, learning_rate: 1e-3, weight_decay: 1e-4}
    lr_schedule: Mapping[str, Any]  # {name: constant | cosine, eta_min | plateau, factor, patience}
    max_grad_norm: float  # a larger gradient norm is scaled down to it
    mixed_precision: bool  # bfloat16 products on a GPU; ignored on a CPU


class Trainer:
    """One fit of one net: epochs of batches, a validation after each epoch, and callbacks at every step."""

    def __init__(
        self,
        net: nn.Module,
        loss: Loss,
        data: TrainingData,
        *,
        options: TrainingOptions,
        seed: int,
        callbacks: Sequence[Callback],
        checkpoint: Checkpoint | None,
        classes: tuple[str, ...],
    ) -> None:
        """`seed` shuffles the train rows; dropout draws from torch's global generator."""
        self.net, self.loss, self.data = net, loss, data
        self.options, self.seed, self.callbacks, self.checkpoint = options, seed, callbacks, checkpoint
        self.device = data.windows.x.device
        self.optimizer = make_optimizer(net, **options.optimizer)
        self.lr_schedule = make_lr_schedule(self.optimizer, options.epochs, **options.lr_schedule)
        self.state = FitState(net=net, optimizer=self.optimizer, epochs=options.epochs, classes=classes)
        self.loss_sum = 0.0  # over the rows of this epoch so far

    def run(self) -> list[dict[str, float]]:
        """Train the net, from the checkpoint on where there is one; return the history, one entry for each epoch."""
        found = self.checkpoint.read() if self.checkpoint else None
        if found:
            self.load_state_dict(found)
        else:
            self._notify("on_train_start")
        state = self.state
        while state.batch or not (state.should_stop or state.epoch == state.epochs):
            self._run_epoch()
        if self.checkpoint:
            self.checkpoint.write(self.state_dict())
        self._notify("on_train_end")
        return state.history

    def _run_epoch(self) -> None:
        """Run one epoch, from its first batch or from the batch after a checkpoint."""
        state = self.state
        if not state.batch:  # not resumed within the epoch
            state.epoch, state.entry, self.loss_sum = state.epoch + 1, {"iteration": state.epoch + 1}, 0.0
            self._notify("on_epoch_start")
        rows = self._shuffle_rows(state.epoch)
        self._train_batches(rows[state.batch * self.options.batch_size :])
        state.entry["train_loss"] = self.loss_sum / len(rows)
        self._notify("on_validation_start")
        state.entry["valid_loss"] = self._validate()
        self._notify("on_validation_end")
        step_lr_schedule(self.lr_schedule, state.entry["valid_loss"])
        self._notify("on_epoch_end")
        state.history.append(state.entry)
        state.batch = 0

    def _shuffle_rows(self, epoch: int) -> np.ndarray:
        """Return the train rows of an epoch, shuffled; the order depends on the seed and the epoch alone."""
        rng = np.random.default_rng([self.seed, epoch])
        stride = self.options.train_stride
        return rng.permutation(self.data.train[epoch % stride :: stride])

    def _train_batches(self, rows: np.ndarray) -> None:
        self.net.train()
        for batch, y in self.data.iterate_batches(rows, self.options.batch_size):
            self.state.batch += 1
            self._notify("on_batch_start")
            self._train_batch(batch, y)
            self._notify("on_batch_end")
            if self.checkpoint and self.checkpoint.is_due():
                self.checkpoint.write(self.state_dict())

    def _train_batch(self, rows: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        x = self.data.windows.gather(rows)
        with self._autocast():
            loss = self.loss(self.net(x), y)
        value = loss.item()
        if not math.isfinite(value):
            raise self._make_error(f"the loss is {value}", layer=find_bad_output(self.net, x))
        torch.autograd.backward(loss)
        self._notify("on_after_backward")
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.options.max_grad_norm).item()
        if not math.isfinite(norm):
            raise self._make_error(f"the gradient norm is {norm}", layer=find_bad_gradient(self.net))
        self.optimizer.step()
        self.loss_sum += value * len(rows)

    def _make_error(self, fault: str, *, layer: str) -> NotFiniteError:
        return NotFiniteError(
            f"epoch {self.state.epoch}, batch {self.state.batch}: {fault}, first in layer {layer}; lower "
            "optimizer.learning_rate or max_grad_norm, or look for values that are not finite among the features"
        )

    @torch.no_grad()
    def _validate(self) -> float:
        """Return the mean loss over the valid rows."""
        self.net.eval()
        outputs, truths, loss_sum = [], [], 0.0
        for rows, y in self.data.iterate_batches(self.data.valid, self.options.batch_size):
            with self._autocast():
                output = self.net(self.data.windows.gather(rows))
                loss_sum += self.loss(output, y).item() * len(rows)
            outputs.append(output.float().cpu())
            truths.append(y.cpu())
        self.net.train()
        self.state.valid_outputs, self.state.valid_y = torch.cat(outputs), torch.cat(truths)
        return loss_sum / len(self.data.valid)

    def _autocast(self) -> torch.autocast:
        enabled = self.options.mixed_precision and self.device.type == "cuda"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _notify(self, hook: str) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self.state)

    def state_dict(self) -> CheckpointState:
        """Return everything that the rest of the fit depends on."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_schedule": {name: value for name, value in self.lr_schedule.state_dict().items() if _is_plain(value)},
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "loss_sum": self.loss_sum,
            "state": {name: getattr(self.state, name) for name in RESUMED_FIELDS},
            "callbacks": [callback.state_dict() for callback in self.callbacks],
        }

    def load_state_dict(self, state: CheckpointState) -> None:
        """Restore what `state_dict` returned."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_schedule.load_state_dict(state["lr_schedule"])
        torch.set_rng_state(state["rng"])
        if state["rng_cuda"] is not None:
            torch.cuda.set_rng_state(state["rng_cuda"], self.device)
        self.loss_sum = state["loss_sum"]
        for name, value in state["state"].items():
            setattr(self.state, name, value)
        for callback, own in zip(self.callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(own)


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float | str | bool | list | type(None))
