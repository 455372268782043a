"""Early stopping: a fit ends when its metric no longer improves, with the weights of its best epoch."""

from typing import ClassVar

from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from pipeline.models.nets.engine.callback_base import Callback, FitState, Report, State
from pipeline.models.stopping import Mode, StoppingCriterion


class EarlyStopping(Callback):
    """Stops a fit after `patience` epochs without an improvement, and restores the best weights.

    The criterion says what an improvement is; it sees whole entries, in on_epoch_end. Weights are the whole
    `state_dict`, buffers included; where no epoch had a finite value of the metric they stay as they are.
    """

    report_key: ClassVar[str] = "early_stopping"

    def __init__(self, criterion: StoppingCriterion, *, patience: int) -> None:
        """`patience` is in epochs, 1 or more."""
        self.criterion, self._patience = criterion, patience
        self._best_weights: dict[str, Tensor] = {}
        self._best_value = criterion.worst
        self._best_epoch = 0
        self._epochs_since_best = 0
        self._stopped_early = False
        self._reached_last_epoch = False

    def on_epoch_end(self, state: FitState) -> None:
        """Store the weights of a new best epoch, or stop the fit where patience is exhausted."""
        value = state.entry[self.criterion.metric]
        if self.criterion.is_improvement(value, self._best_value):
            self._best_value, self._best_epoch = value, state.epoch
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
        """Return the best weights, their value of the metric and epoch, and how the fit ended so far."""
        return {
            "best_weights": self._best_weights,
            "best_value": self._best_value,
            "best_epoch": self._best_epoch,
            "epochs_since_best": self._epochs_since_best,
            "stopped_early": self._stopped_early,
            "reached_last_epoch": self._reached_last_epoch,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._best_weights, self._best_value = state["best_weights"], state["best_value"]
        self._best_epoch, self._epochs_since_best = state["best_epoch"], state["epochs_since_best"]
        self._stopped_early, self._reached_last_epoch = state["stopped_early"], state["reached_last_epoch"]

    def report(self) -> Report:
        """Return the best epoch and its value of the metric, None where there is none, and how the fit ended.

        `stopped_early`: before its last epoch. `reached_last_epoch`: it used all epochs, and its patience was not
        exhausted. Both are false where patience ran out in the very last epoch.
        """
        best = (self._best_epoch, self._best_value) if self._best_epoch else (None, None)
        return {
            "best_epoch": best[0],
            f"best_{self.criterion.metric}": best[1],
            "stopped_early": self._stopped_early,
            "reached_last_epoch": self._reached_last_epoch,
        }


def make_early_stopping(
    *, metric: str, mode: Mode, patience: PositiveInt, min_delta: NonNegativeFloat
) -> EarlyStopping:
    """Return the callback that the section `early_stopping` of params.yaml describes."""
    return EarlyStopping(StoppingCriterion(metric=metric, mode=mode, min_delta=min_delta), patience=patience)
