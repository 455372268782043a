"""Results of a costly module, row by row, that do not depend on which rows are computed together."""

import hashlib

import numpy as np
import torch
from torch import Tensor, nn


class FixedBatches:
    """A module (B, ...) -> (B, outputs) that is called on B = `batch_size` rows alone, and never again on a known one.

    The last bits of a product depend on its shape and on the place of a row in it, not on the other rows. So a row has
    a place in its batch, and batches that lack rows are filled up: a result is a function of the row and its place.
    Results are held by a digest of both, since guards and folds compute the same rows again.
    """

    def __init__(self, module: nn.Module, *, batch_size: int, device: torch.device) -> None:
        """Take a module on `device`, whose calls change nothing in it."""
        self._module, self._batch_size, self._device = module, batch_size, device
        self._known: dict[tuple[bytes, int], np.ndarray] = {}

    def __call__(self, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return (n, outputs) float32 of (n, ...) float32 rows; torch runs on one thread.

        The place of a row is its number, (n,) int64, modulo `batch_size`: consecutive numbers fill batches.
        """
        rows, places = np.ascontiguousarray(rows), (numbers % self._batch_size).tolist()
        keys = [
            (hashlib.blake2b(row.data, digest_size=16).digest(), place) for row, place in zip(rows, places, strict=True)
        ]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for batch in self._plan_batches(keys):
                self._compute(rows, batch, keys)
        finally:
            torch.set_num_threads(threads)
        return np.stack([self._known[key] for key in keys])

    def _plan_batches(self, keys: list[tuple[bytes, int]]) -> list[list[int]]:
        """Return the rows of each batch: unknown ones, of which no two have the same place."""
        batches, filled = list[list[int]](), dict.fromkeys(range(self._batch_size), 0)
        for row in {key: row for row, key in enumerate(keys) if key not in self._known}.values():
            place = keys[row][1]
            if filled[place] == len(batches):
                batches.append([])
            batches[filled[place]].append(row)
            filled[place] += 1
        return batches

    @torch.no_grad()
    def _compute(self, rows: np.ndarray, batch: list[int], keys: list[tuple[bytes, int]]) -> None:
        whole = np.repeat(rows[batch[:1]], self._batch_size, axis=0)
        for row in batch:
            whole[keys[row][1]] = rows[row]
        found: Tensor = self._module(torch.from_numpy(whole).to(self._device))
        results = found.cpu().numpy()
        for row in batch:
            self._known[keys[row]] = results[keys[row][1]].copy()
