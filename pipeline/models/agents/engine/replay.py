"""Prioritized experience replay (Schaul et al. 2016) over arrays, sampled through a sum tree."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit


class SumTree:
    """Priorities (capacity,) and their sums in a binary tree: many are sampled or changed at once, each in O(log n)."""

    def __init__(self, capacity: int) -> None:
        """Start with all priorities 0."""
        self._first_leaf = 1 << max(capacity - 1, 1).bit_length()
        self._sums = np.zeros(2 * self._first_leaf)

    @property
    def total(self) -> float:
        """The sum of all priorities."""
        return float(self._sums[1])

    def get(self, indices: np.ndarray) -> np.ndarray:
        """Return the priorities (n,) at `indices` (n,)."""
        return np.asarray(self._sums[self._first_leaf + indices])

    def set(self, indices: np.ndarray, priorities: np.ndarray) -> None:
        """Set the priorities at `indices` (n,); of equal indices the last one counts."""
        _set_leaves(self._sums, self._first_leaf + indices, priorities)

    def find(self, sums: np.ndarray) -> np.ndarray:
        """Return the indices (n,) where the cumulative sum of priorities first exceeds each of `sums` in [0, total)."""
        return np.asarray(_find_leaves(self._sums, sums.astype(np.float64))) - self._first_leaf


@njit(cache=True)
def _set_leaves(tree: np.ndarray, leaves: np.ndarray, priorities: np.ndarray) -> None:
    """Set leaves, and recompute each sum above them from its children, so that rounding errors do not accumulate."""
    for i in range(len(leaves)):
        tree[leaves[i]] = priorities[i]
        node = leaves[i] >> 1
        while node:
            tree[node] = tree[2 * node] + tree[2 * node + 1]
            node >>= 1


@njit(cache=True)
def _find_leaves(tree: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Return the leaves, descending from the root."""
    leaves = np.empty(len(sums), np.int64)
    for i, rest in enumerate(sums):
        node = 1
        while 2 * node < len(tree):
            left = tree[2 * node]
            node *= 2
            if rest >= left and tree[node + 1] > 0:
                rest -= left
                node += 1
        leaves[i] = node
    return leaves


@dataclass(frozen=True, eq=False)
class ReplayBatch:
    """Sampled transitions."""

    indices: np.ndarray  # (B,) in the buffer
    weights: np.ndarray  # (B,) float32 importance weights, the largest 1
    fields: dict[str, np.ndarray]  # (B, ...) each


class PrioritizedReplayBuffer:
    """A ring buffer of transitions, one array for each of their fields; new ones replace the oldest."""

    def __init__(self, buffer_size: int, *, alpha: float, beta: float, epsilon: float) -> None:
        """Sample with P ∝ (|error| + ε)^α and weights (N · P)^-β, divided by the largest of the batch."""
        if buffer_size < 1 or not 0 <= alpha <= 1 or not 0 <= beta <= 1 or not epsilon > 0:
            raise ValueError(
                f"replay: buffer_size {buffer_size}, alpha {alpha}, beta {beta}, epsilon {epsilon}; buffer_size must "
                "be at least 1, alpha and beta within [0, 1], epsilon above 0"
            )
        self.buffer_size, self.alpha, self.beta, self.epsilon = buffer_size, alpha, beta, epsilon
        self._tree, self._fields = SumTree(buffer_size), dict[str, np.ndarray]()
        self._next = self._count = 0
        self._max_priority = 1.0  # so far; new transitions get it

    def __len__(self) -> int:
        """Return the number of transitions held."""
        return self._count

    def add(self, **fields: np.ndarray) -> None:
        """Add n transitions, (n, ...) of each field in time order, with the largest priority so far."""
        count = len(next(iter(fields.values())))
        if count > self.buffer_size:
            raise ValueError(f"replay: {count} transitions at once are more than its buffer_size of {self.buffer_size}")
        if not self._fields:
            self._fields = {
                name: np.zeros((self.buffer_size, *values.shape[1:]), values.dtype) for name, values in fields.items()
            }
        indices = (self._next + np.arange(count)) % self.buffer_size
        for name, values in fields.items():
            self._fields[name][indices] = values
        if count:
            self._tree.set(indices, np.full(count, self._max_priority))
        self._next = (self._next + count) % self.buffer_size
        self._count = min(self._count + count, self.buffer_size)

    def sample(self, batch_size: int, *, rng: np.random.Generator) -> ReplayBatch:
        """Return `batch_size` transitions, stratified: one from each of as many equal parts of the total priority."""
        if not self._count:
            raise ValueError("replay: the buffer is empty; add transitions first")
        total = self._tree.total
        indices = self._tree.find((np.arange(batch_size) + rng.random(batch_size)) * (total / batch_size))
        weights = (self._count * self._tree.get(indices) / total) ** -self.beta
        return ReplayBatch(
            indices,
            (weights / weights.max()).astype(np.float32),
            {name: each[indices] for name, each in self._fields.items()},
        )

    def update_priorities(self, indices: np.ndarray, errors: np.ndarray) -> None:
        """Set the priorities at `indices` (B,) from new errors (B,)."""
        priorities = (np.abs(errors) + self.epsilon) ** self.alpha
        self._max_priority = max(self._max_priority, float(priorities.max()))
        self._tree.set(indices, priorities)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later results depend on, as plain values and arrays."""
        return {
            "fields": {name: values[: self._count].copy() for name, values in self._fields.items()},
            "priorities": self._tree.get(np.arange(self._count)),
            "next": self._next,
            "count": self._count,
            "max_priority": self._max_priority,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        following, count = state["next"], state["count"]
        self._fields = {}
        for name, values in state["fields"].items():
            self._fields[name] = np.zeros((self.buffer_size, *values.shape[1:]), values.dtype)
            self._fields[name][:count] = values
        self._tree = SumTree(self.buffer_size)
        self._tree.set(np.arange(count), np.asarray(state["priorities"]))
        self._next, self._count = following, count
        self._max_priority = float(np.asarray(state["max_priority"]))
