"""Discounted n-step returns from the steps of many environments at once."""

import math
from typing import Any

import numpy as np

REMAINDER = 0.05  # of a discounted return, beyond its horizon


def count_horizon_bars(gamma: float) -> int:
    """Return the number of bars after which less than `REMAINDER` of a discounted return is left: the least n, γ^n."""
    return max(1, math.ceil(math.log(REMAINDER) / math.log(gamma))) if gamma > 0 else 1


class NStepAccumulator:
    """Turns single steps into n-step transitions: Σ γ^i r_i, and the discount γ^n of the value that follows.

    At the end of an episode all its open transitions close over fewer bars. The discount is 0 where the episode was
    terminated; where it was truncated, the value of its last state is bootstrapped.
    """

    def __init__(self, n_step: int, *, gamma: float, num_envs: int) -> None:
        """Start without open transitions. Raise ValueError for no step or a gamma outside [0, 1]."""
        if n_step < 1 or not 0 <= gamma <= 1:
            raise ValueError(f"n_step is {n_step}, gamma {gamma}; n_step must be at least 1 and gamma within [0, 1]")
        self.n_step, self.gamma = n_step, gamma
        self._start: dict[str, np.ndarray] = {}  # (n_step, E, ...) fields at the first step of each open transition
        self._sums, self._discounts = np.empty(0), np.zeros((n_step, num_envs))
        self._is_open = np.zeros((n_step, num_envs), dtype=bool)
        self._slot = 0

    def add(
        self,
        before: dict[str, np.ndarray],
        reward: np.ndarray,
        after: dict[str, np.ndarray],
        *,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Add one step of all environments and return the transitions that it completes, n of them.

        `before`, `reward` and `after` are (E, ...), `terminated` and `truncated` (E,) bool. Returned are the fields of
        `before`, `reward` (n, ...) and `discount` (n,) float64, and the fields of `after` with the prefix "next_".
        """
        if not self._start:
            self._start = {
                name: np.zeros((self.n_step, *values.shape), values.dtype) for name, values in before.items()
            }
            self._sums = np.zeros((self.n_step, *reward.shape))
        slot = self._slot
        for name, values in before.items():
            self._start[name][slot] = values
        self._sums[slot], self._discounts[slot], self._is_open[slot] = 0.0, 1.0, True
        weights = self._discounts * self._is_open
        self._sums += weights.reshape(*weights.shape, *[1] * (reward.ndim - 1)) * reward
        self._discounts *= self.gamma
        self._slot = oldest = (slot + 1) % self.n_step
        is_complete = self._is_open & (terminated | truncated)
        is_complete[oldest] |= self._is_open[oldest]
        slots, envs = np.nonzero(is_complete)
        self._is_open &= ~is_complete
        return {
            **{name: values[slots, envs] for name, values in self._start.items()},
            "reward": self._sums[slots, envs],
            "discount": np.where(terminated[envs], 0.0, self._discounts[slots, envs]),
            **{f"next_{name}": values[envs] for name, values in after.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later results depend on, as plain values and arrays."""
        return {
            "start": {name: values.copy() for name, values in self._start.items()},
            "sums": self._sums.copy(),
            "discounts": self._discounts.copy(),
            "is_open": self._is_open.copy(),
            "slot": self._slot,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._start, self._slot = {name: values.copy() for name, values in state["start"].items()}, state["slot"]
        self._sums, self._discounts, self._is_open = (
            np.array(state[name]) for name in ("sums", "discounts", "is_open")
        )
