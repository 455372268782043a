"""Windows of bars, gathered batch by batch from the one table of features; none crosses a segment, none is stored."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows over a table: that of row i is the `length` rows of its segment that end with i.

    Where the segment has fewer rows up to i, its first row is repeated in place of the missing ones. So every row has a
    prediction, and nothing of another segment enters.
    """

    x: Tensor  # (N, F) float32, on the device of the fit
    first: Tensor  # (N,) int64, the first row of each row's segment
    length: int

    def gather(self, rows: Tensor) -> Tensor:
        """Return the windows (B, T, F) of (B,) int64 `rows`."""
        back = torch.arange(1 - self.length, 1, device=rows.device)
        places = torch.maximum(rows[:, None] + back, self.first[rows][:, None])  # (B, T)
        return self.x.index_select(0, places.view(-1)).view(len(rows), self.length, -1)


def make_windows(x: np.ndarray, segment: np.ndarray, *, length: int, device: torch.device) -> Windows:
    """Return windows over (N, F) float32 rows, which are grouped by segment; on a CPU they share the memory of `x`."""
    begins = np.flatnonzero(np.diff(segment, prepend=segment[:1] - 1))
    first = np.repeat(begins, np.diff(begins, append=len(segment)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of read-only arrays, as between processes
        table = torch.from_numpy(x)
    return Windows(table.to(device), torch.from_numpy(first).to(device), length)
