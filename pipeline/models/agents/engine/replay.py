"""Prioritised replay (Schaul et al. 2016): transitions drawn by their priority, through a sum tree over arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit


class SumTree:
    """Priorities (capacity,) with their sums in a binary tree: drawn and changed many at a time, in O(log n) steps."""

    def __init__(self, capacity: int) -> None:
        """All priorities are 0."""
        self._first = 1 << max(capacity - 1, 1).bit_length()  # leaf of place 0
        self._sums = np.zeros(2 * self._first)

    @property
    def total(self) -> float:
        """Of all priorities."""
        return float(self._sums[1])

    def get(self, places: np.ndarray) -> np.ndarray:
        """(n,) priorities."""
        return np.asarray(self._sums[self._first + places])

    def put(self, places: np.ndarray, priorities: np.ndarray) -> None:
        """The priorities of (n,) places; the last counts where a place stands twice."""
        _put(self._sums, self._first + places, priorities)

    def find(self, sums: np.ndarray) -> np.ndarray:
        """(n,) places where the running sum of priorities first exceeds each of (n,) `sums` in [0, total)."""
        return np.asarray(_found(self._sums, sums.astype(np.float64))) - self._first


@njit(cache=True)
def _put(tree: np.ndarray, leaves: np.ndarray, priorities: np.ndarray) -> None:
    """Each sum above the leaves anew from its children: rounding does not add up."""
    for i in range(len(leaves)):
        tree[leaves[i]] = priorities[i]
        node = leaves[i] >> 1
        while node:
            tree[node] = tree[2 * node] + tree[2 * node + 1]
            node >>= 1


@njit(cache=True)
def _found(tree: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """The leaves, from the root down."""
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
class Batch:
    """Transitions drawn."""

    places: np.ndarray  # (B,) where they stand
    weights: np.ndarray  # (B,) float32 importance weights, the largest 1
    fields: dict[str, np.ndarray]  # (B, ...) each


class Replay:
    """A ring of transitions, each a row of several arrays; the oldest make room for new ones."""

    def __init__(self, capacity: int, *, alpha: float, beta: float, smallest: float) -> None:
        """Drawn with P ∝ (|error| + smallest)^alpha, weighted by (N · P)^-beta over the largest such weight."""
        if capacity < 1 or not 0 <= alpha <= 1 or not 0 <= beta <= 1 or not smallest > 0:
            raise ValueError(
                f"replay: capacity {capacity}, alpha {alpha}, beta {beta}, smallest {smallest}; at least 1 place, "
                "alpha and beta within [0, 1], and a smallest priority above 0 are wanted"
            )
        self.capacity, self.alpha, self.beta, self.smallest = capacity, alpha, beta, smallest
        self._tree, self._fields = SumTree(capacity), dict[str, np.ndarray]()
        self._next = self._count = 0
        self._largest = 1.0  # priority, that new transitions get

    def __len__(self) -> int:
        """How many transitions there are."""
        return self._count

    def add(self, **fields: np.ndarray) -> None:
        """(n, ...) of each field, in the order of time; new ones are drawn as often as the most surprising so far."""
        count = len(next(iter(fields.values())))
        if count > self.capacity:
            raise ValueError(f"replay: {count} transitions at once are more than its {self.capacity} places")
        if not self._fields:
            self._fields = {
                name: np.zeros((self.capacity, *values.shape[1:]), values.dtype) for name, values in fields.items()
            }
        places = (self._next + np.arange(count)) % self.capacity
        for name, values in fields.items():
            self._fields[name][places] = values
        if count:
            self._tree.put(places, np.full(count, self._largest))
        self._next = (self._next + count) % self.capacity
        self._count = min(self._count + count, self.capacity)

    def draw(self, size: int, *, rng: np.random.Generator) -> Batch:
        """`size` transitions, one out of each of as many equal parts of the total priority."""
        if not self._count:
            raise ValueError("replay: nothing to draw from; add transitions first")
        total = self._tree.total
        places = self._tree.find((np.arange(size) + rng.random(size)) * (total / size))
        weights = (self._count * self._tree.get(places) / total) ** -self.beta
        return Batch(
            places,
            (weights / weights.max()).astype(np.float32),
            {name: each[places] for name, each in self._fields.items()},
        )

    def learnt(self, places: np.ndarray, errors: np.ndarray) -> None:
        """The transitions at (B,) places have these errors now."""
        priorities = (np.abs(errors) + self.smallest) ** self.alpha
        self._largest = max(self._largest, float(priorities.max()))
        self._tree.put(places, priorities)

    def state(self) -> dict[str, Any]:
        """All of it, plain values and arrays."""
        return {
            "fields": {name: values[: self._count].copy() for name, values in self._fields.items()},
            "priorities": self._tree.get(np.arange(self._count)),
            "next": self._next,
            "count": self._count,
            "largest": self._largest,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """This stands where it stood when `state` was taken."""
        places, count = state["next"], state["count"]
        self._fields = {}
        for name, values in state["fields"].items():
            self._fields[name] = np.zeros((self.capacity, *values.shape[1:]), values.dtype)
            self._fields[name][:count] = values
        self._tree = SumTree(self.capacity)
        self._tree.put(np.arange(count), np.asarray(state["priorities"]))
        self._next, self._count, self._largest = places, count, float(np.asarray(state["largest"]))
