"""Train and test rows by split: what the guards of folds need to know, however the folds were made."""

from typing import Protocol

import numpy as np


class TrainTestSplits(Protocol):
    """Rows with spans [time, label_end], their train and test side in every split, and the holdout.

    `pipeline.validation.folds.Folds` is the pipeline's own. Canaries have deliberately wrong ones.
    """

    @property
    def time(self) -> np.ndarray:
        """(N,) int64 ms."""

    @property
    def label_end(self) -> np.ndarray:
        """(N,) int64 ms."""

    @property
    def embargo_bars(self) -> int:
        """Bars after a test label in which no train row may begin."""

    @property
    def embargo_ms(self) -> int:
        """The same in ms."""

    @property
    def n_splits(self) -> int:
        """Number of splits."""

    @property
    def is_walk_forward(self) -> bool:
        """Whether each split trains on the past of its test alone."""

    def train(self, split: int) -> np.ndarray:
        """Return the train rows of a split."""

    def test(self, split: int) -> np.ndarray:
        """Return the test rows of a split."""

    def development(self) -> np.ndarray:
        """Return the rows before the holdout."""

    def holdout(self) -> np.ndarray:
        """Return the rows that no split contains."""
