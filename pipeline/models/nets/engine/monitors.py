"""Callbacks that add the learning rate and class metrics to each entry of the history."""

import math
from typing import ClassVar

import numpy as np

from pipeline.models.nets.engine.callback_base import (
    CLASS_METRICS,
    Callback,
    FitState,
    Report,
    State,
    name_class_metric,
)
from pipeline.models.stopping import StoppingCriterion


class LearningRateMonitor(Callback):
    """Adds "learning_rate" to the entry: the rate of the first parameter group at the start of the epoch."""

    def __init__(self) -> None:
        """Before the first epoch the rate is NaN."""
        self._learning_rate = math.nan

    def on_epoch_start(self, state: FitState) -> None:
        """Read the rate from the optimizer."""
        self._learning_rate = float(state.optimizer.param_groups[0]["lr"])

    def on_validation_end(self, state: FitState) -> None:
        """Add the rate to the entry."""
        state.entry["learning_rate"] = self._learning_rate

    def state_dict(self) -> State:
        """Return the rate of the current epoch."""
        return {"learning_rate": self._learning_rate}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._learning_rate = state["learning_rate"]


class ClassMetrics(Callback):
    """Precision, recall and F1 of each class on the valid rows; nothing for a regression.

    The predicted class has the highest logit, the first of equals. A metric that would divide by zero is 0, as in
    scikit-learn with zero_division=0. The entry gets "valid_accuracy", "valid_f1", the mean F1 of all classes, and the
    metrics of each class, such as "valid_recall_up".
    """

    report_key: ClassVar[str] = "class_metrics"

    def __init__(self, criterion: StoppingCriterion) -> None:
        """`criterion` finds the best epoch; before the first validation there are no metrics."""
        self._criterion, self._best_value = criterion, criterion.worst
        self._epochs: dict[str, Report] = {}  # "last" and "best"

    def on_validation_end(self, state: FitState) -> None:
        """Add the metrics of this epoch to the entry and to the report."""
        if not state.classes:
            return
        from sklearn.metrics import precision_recall_fscore_support  # takes a second, which a regression saves

        codes, predicted = _predict_classes(state)
        table = precision_recall_fscore_support(codes, predicted, labels=range(len(state.classes)), zero_division=0.0)
        columns = {name: each.tolist() for name, each in zip((*CLASS_METRICS, "rows"), table, strict=True)}
        rows = (dict(zip(columns, metrics, strict=True)) for metrics in zip(*columns.values(), strict=True))
        by_class = dict(zip(state.classes, rows, strict=True))
        state.entry["valid_accuracy"] = float(np.mean(codes == predicted))
        state.entry["valid_f1"] = math.fsum(columns["f1"]) / len(columns["f1"])
        for name, metrics in by_class.items():
            state.entry |= {name_class_metric(metric, name): metrics[metric] for metric in CLASS_METRICS}
        self._epochs["last"] = {"epoch": state.epoch, "classes": by_class}
        value = state.entry[self._criterion.metric]
        if self._criterion.is_improvement(value, self._best_value):
            self._best_value, self._epochs["best"] = value, self._epochs["last"]

    def state_dict(self) -> State:
        """Return the metrics of the last and of the best epoch, and the best value of the criterion."""
        return {"best_value": self._best_value, "epochs": dict(self._epochs)}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._best_value, self._epochs = state["best_value"], dict(state["epochs"])

    def report(self) -> Report:
        """Return epoch, and metrics and rows of each class, for the "last" and the "best" epoch."""
        return dict(self._epochs)


def _predict_classes(state: FitState) -> tuple[np.ndarray, np.ndarray]:
    """Return the true and the predicted codes of the last validation, (V,) each."""
    outputs, codes, width = state.valid_outputs, state.valid_y, len(state.classes)
    assert outputs is not None and codes is not None
    if outputs.ndim != 2 or outputs.shape[1] != width:
        raise ValueError(f"valid outputs are {tuple(outputs.shape)}; classes {state.classes} need one column each")
    return codes.numpy(), outputs.argmax(dim=1).numpy()
