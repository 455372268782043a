"""Windows of bars, gathered batch by batch from the one table of features; never materialised, never over a border."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Windows:
    """The window of row i is the `length` rows of its segment that end with i.

    Where the segment is younger than that, its first row stands for the bars before it: a row has an answer from its
    first bar on, and nothing of another segment enters.
    """

    x: Tensor  # (N, F) float32, on the device of the fit
    first: Tensor  # (N,) int64, the first row of each row's segment
    length: int

    @classmethod
    def over(cls, x: np.ndarray, segment: np.ndarray, *, length: int, device: torch.device) -> "Windows":
        """Windows over (N, F) float32 rows that stand segment after segment; shares the memory of `x` on a CPU."""
        begins = np.flatnonzero(np.diff(segment, prepend=segment[:1] - 1))
        first = np.repeat(begins, np.diff(begins, append=len(segment)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of arrays that are read-only, as between processes
            table = torch.from_numpy(x)
        return cls(table.to(device), torch.from_numpy(first).to(device), length)

    def gather(self, rows: Tensor) -> Tensor:
        """(B, T, F): the windows of (B,) int64 `rows`."""
        back = torch.arange(1 - self.length, 1, device=rows.device)
        places = torch.maximum(rows[:, None] + back, self.first[rows][:, None])  # (B, T)
        return self.x.index_select(0, places.view(-1)).view(len(rows), self.length, -1)
