"""Returns over several bars, out of the steps of many episodes at once."""

from typing import Any

import numpy as np


class NStep:
    """Turns single steps into transitions over `steps` bars: Σ γ^i r_i, and the discount of what comes after them.

    An episode that ends gives up all it has begun, over the fewer bars that were left: where it was terminated nothing
    comes after (discount 0), where it was truncated the value of its last state does.
    """

    def __init__(self, steps: int, *, discount: float, episodes: int) -> None:
        """Nothing has been seen of `episodes` episodes."""
        if steps < 1 or not 0 <= discount <= 1:
            raise ValueError(
                f"{steps} steps, discount {discount}; at least 1 step and a discount within [0, 1] are wanted"
            )
        self.steps, self.discount = steps, discount
        self._begun: dict[str, np.ndarray] = {}  # (steps, E, ...) what stood at the beginning of each
        self._sums, self._discounts = np.empty(0), np.zeros((steps, episodes))
        self._is_open = np.zeros((steps, episodes), dtype=bool)
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
        """One step of all episodes: (E, ...) of what stood before and after it and of rewards, and (E,) ends.

        Returns the transitions that are whole now, (n, ...): the fields of `before` as they were, `reward` and
        `discount` (n,) float64, and those of `after` with the prefix "next_".
        """
        if not self._begun:
            self._begun = {name: np.zeros((self.steps, *values.shape), values.dtype) for name, values in before.items()}
            self._sums = np.zeros((self.steps, *reward.shape))
        slot = self._slot
        for name, values in before.items():
            self._begun[name][slot] = values
        self._sums[slot], self._discounts[slot], self._is_open[slot] = 0.0, 1.0, True
        weights = self._discounts * self._is_open
        self._sums += weights.reshape(*weights.shape, *[1] * (reward.ndim - 1)) * reward
        self._discounts *= self.discount
        self._slot = oldest = (slot + 1) % self.steps
        is_whole = self._is_open & (terminated | truncated)
        is_whole[oldest] |= self._is_open[oldest]
        slots, episodes = np.nonzero(is_whole)
        self._is_open &= ~is_whole
        return {
            **{name: values[slots, episodes] for name, values in self._begun.items()},
            "reward": self._sums[slots, episodes],
            "discount": np.where(terminated[episodes], 0.0, self._discounts[slots, episodes]),
            **{f"next_{name}": values[episodes] for name, values in after.items()},
        }

    def state(self) -> dict[str, Any]:
        """All of it, plain values and arrays."""
        return {
            "begun": {name: values.copy() for name, values in self._begun.items()},
            "sums": self._sums.copy(),
            "discounts": self._discounts.copy(),
            "is_open": self._is_open.copy(),
            "slot": self._slot,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """This stands where it stood when `state` was taken."""
        begun, slot = state["begun"], state["slot"]
        self._begun, self._slot = {name: values.copy() for name, values in begun.items()}, slot
        self._sums, self._discounts, self._is_open = (
            np.array(state[name]) for name in ("sums", "discounts", "is_open")
        )
