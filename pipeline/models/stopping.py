"""The criterion that finds the best iteration of a fit: the one whose state is kept and predicts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Mode = Literal["min", "max"]


@dataclass(frozen=True, kw_only=True)
class StoppingCriterion:
    """A field of the history, and when it improves.

    An iteration becomes the best one where it improves on the best before it by more than `min_delta`, as in Keras and
    Lightning. So of equals the first is the best, and many small improvements count once their sum exceeds `min_delta`.
    """

    metric: str = "valid_loss"
    mode: Mode = "min"
    min_delta: float = 0.0  # 0 or more, in the unit of the metric

    @property
    def worst(self) -> float:
        """The value that every finite value improves on."""
        return math.inf if self.mode == "min" else -math.inf

    def is_improvement(self, value: float, best: float) -> bool:
        """Return whether `value` improves on `best` by more than `min_delta`; NaN and the worst value never do.

        >>> criterion = StoppingCriterion(metric="valid_f1", mode="max", min_delta=0.25)
        >>> criterion.is_improvement(0.75, 0.5), criterion.is_improvement(0.875, 0.5)
        (False, True)
        """
        return value + self.min_delta < best if self.mode == "min" else value - self.min_delta > best

    def find_best_entry(self, history: Sequence[dict[str, float]]) -> dict[str, float]:
        """Return the best entry of a history; the last one where none has a finite value.

        >>> history = [{"iteration": 1, "valid_loss": 1.0}, {"iteration": 2, "valid_loss": 0.5}]
        >>> StoppingCriterion().find_best_entry(history)["iteration"]
        2
        """
        found, best = history[-1], self.worst
        for entry in history:
            if self.is_improvement(entry[self.metric], best):
                found, best = entry, entry[self.metric]
        return found


LOWEST_VALID_LOSS = StoppingCriterion()
LATEST = StoppingCriterion(min_delta=-math.inf)  # every iteration improves: the last one is the best
