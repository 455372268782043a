"""Windows of bars as rows for trees: the last bar, the mean, or every bar of a window, in Python and in the graph."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

Flatten = Literal["last", "mean", "flatten"]
FLAT = "flat"  # the name of the graph's rows that trees split on


@dataclass(frozen=True)
class Flattening:
    """The row that trees see of a window (T, F): its last bar (F), its mean (F), or all of it (T · F), oldest first.

    A mean is the sum from the oldest bar to the latest, divided by T, all in float32: in the graph as well, to the bit.
    """

    window: int  # T, bars
    method: Flatten
    columns: tuple[str, ...]  # F names

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values that trees see, such as rsi_14 or, of a whole window, rsi_14[t-2]."""
        if self.method != "flatten" or self.window == 1:
            return self.columns
        ages = range(self.window - 1, -1, -1)
        return tuple(f"{name}[t-{age}]" if age else name for age in ages for name in self.columns)

    def gather(self, x: np.ndarray, segment: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the inputs of rows: (B, F), or windows (B, T, F) that repeat a segment's first row before it."""
        if self.window == 1:
            return np.asarray(x[rows])
        begins = np.flatnonzero(np.diff(segment, prepend=segment[:1] - 1))
        first = begins[np.searchsorted(begins, rows, side="right") - 1]
        return np.asarray(x[np.maximum(rows[:, None] + np.arange(1 - self.window, 1), first[:, None])])

    def flatten(self, inputs: np.ndarray) -> np.ndarray:
        """Return (B, len(names)) float32 of inputs (B, F) or (B, T, F)."""
        if inputs.ndim == 2:
            return inputs
        if self.method == "last":
            return np.ascontiguousarray(inputs[:, -1])
        if self.method == "flatten":
            return inputs.reshape(len(inputs), -1)
        total = inputs[:, 0].copy()
        for bar in range(1, self.window):
            total += inputs[:, bar]
        return np.asarray(total / np.float32(self.window))

    def expand(self, flat: np.ndarray) -> np.ndarray:
        """Return inputs whose `flatten` is `flat`: every bar is the same row, or has its own part.

        A mean of equal bars is `flat` but for rounding; bars are cut so that their sum stays finite.
        """
        if self.window == 1:
            return flat
        if self.method == "flatten":
            return flat.reshape(len(flat), self.window, -1)
        largest = np.finfo(np.float32).max / np.float32(2 * self.window if self.method == "mean" else 1)
        return np.repeat(flat.clip(-largest, largest)[:, None], self.window, axis=1)

    def make_nodes(self) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], list[int]]:
        """Return the nodes from "inputs" to FLAT, their constants, and the shape of "inputs" without the batch axis.

        A window of one bar needs no nodes.
        """
        if self.window == 1:
            return [], [], [len(self.columns)]
        shape = helper.make_tensor("flat_shape", TensorProto.INT64, [2], [-1, len(self.names)])
        nodes, constants, whole = [], [shape], "inputs"
        if self.method == "last":
            constants.append(helper.make_tensor("last_bar", TensorProto.INT64, [1], [self.window - 1]))
            nodes, whole = [helper.make_node("Gather", ["inputs", "last_bar"], ["last"], axis=1)], "last"
        elif self.method == "mean":
            constants.append(helper.make_tensor("bars", TensorProto.FLOAT, [], [self.window]))
            nodes, whole = self._make_mean_nodes(), "mean"
        nodes.append(helper.make_node("Reshape", [whole, "flat_shape"], [FLAT]))
        return nodes, constants, [self.window, len(self.columns)]

    def _make_mean_nodes(self) -> list[onnx.NodeProto]:
        """Return the nodes that add bar by bar: ReduceMean would add in another order."""
        bars = [f"bar_{bar}" for bar in range(self.window)]
        sums = [bars[0], *(f"sum_{bar}" for bar in range(1, self.window))]
        added = [helper.make_node("Add", [sums[bar - 1], bars[bar]], [sums[bar]]) for bar in range(1, self.window)]
        split = helper.make_node("Split", ["inputs"], bars, axis=1)
        return [split, *added, helper.make_node("Div", [sums[-1], "bars"], ["mean"])]
