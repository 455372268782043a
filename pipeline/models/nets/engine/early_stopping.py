"""Early stopping: a fit ends when its valid loss no longer improves, with the weights of its best epoch."""

import math
from typing import ClassVar

from torch import Tensor

from pipeline.models.nets.engine.callback_base import Callback, FitState, Report, State


class EarlyStopping(Callback):
    """Stops a fit after `patience` epochs without a lower valid loss, and restores the best weights.

    The best epoch is the first with the lowest valid loss; NaN is never lower. Weights are the whole `state_dict`,
    buffers included; where no epoch had a finite valid loss they stay as they are.
    """

    report_key: ClassVar[str] = "early_stopping"

    def __init__(self, *, patience: int) -> None:
        """`patience` is in epochs, 1 or more."""
        self._patience = patience
        self._best_weights: dict[str, Tensor] = {}
        self._best_loss = math.inf
        self._best_epoch = 0
        self._epochs_since_best = 0
        self._stopped_early = False
        self._reached_last_epoch = False

    def on_validation_end(self, state: FitState) -> None:
        """Store the weights of a new best epoch, or stop the fit where patience is exhausted."""
        if state.entry["valid_loss"] < self._best_loss:
            self._best_loss, self._best_epoch = state.entry["valid_loss"], state.epoch
            self._epochs_since_best = 0
            self._best_weights = {name: values.detach().clone() for name, values in state.net.state_dict().items()}
            return
        self._epochs_since_best += 1
        if self._epochs_since_best >= self._patience:
            state.should_stop = True
            self._stopped_early = state.epoch < state.epochs

    def on_train_end(self, state: FitState) -> None:
        """Restore the weights of the best epoch."""
        self._reached_last_epoch = not state.should_stop and state.epoch >= state.epochs
        if self._best_weights:
            state.net.load_state_dict(self._best_weights)

    def state_dict(self) -> State:
        """Return the best weights, their loss and epoch, and how the fit ended so far."""
        return {
            "best_weights": self._best_weights,
            "best_loss": self._best_loss,
            "best_epoch": self._best_epoch,
            "epochs_since_best": self._epochs_since_best,
            "stopped_early": self._stopped_early,
            "reached_last_epoch": self._reached_last_epoch,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._best_weights, self._best_loss = state["best_weights"], state["best_loss"]
        self._best_epoch, self._epochs_since_best = state["best_epoch"], state["epochs_since_best"]
        self._stopped_early, self._reached_last_epoch = state["stopped_early"], state["reached_last_epoch"]

    def report(self) -> Report:
        """Return the best epoch and its valid loss, None where there is none, and how the fit ended.

        `stopped_early`: before its last epoch. `reached_last_epoch`: it used all epochs, and its patience was not
        exhausted. Both are false where patience ran out in the very last epoch.
        """
        best = (self._best_epoch, self._best_loss) if self._best_epoch else (None, None)
        return {
            "best_epoch": best[0],
            "best_valid_loss": best[1],
            "stopped_early": self._stopped_early,
            "reached_last_epoch": self._reached_last_epoch,
        }
