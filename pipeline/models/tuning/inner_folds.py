"""Folds of the rows that one fit learns from: a search sees no other row."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pipeline.validation.folds import Folds
from pipeline.validation.kfolds import make_kfolds


class InnerFold(NamedTuple):
    """The rows of one inner fit, and those that it is measured on; all of them are rows of the outer fit."""

    train: np.ndarray
    valid: np.ndarray  # for early stopping
    test: np.ndarray


def make_inner_folds(folds: Folds, rows: np.ndarray, *, groups: int, valid_pct: float) -> Iterator[InnerFold]:
    """Yield the purged k-fold of `rows`, ascending, that a fit of `folds` learns from, with the embargo of `folds`.

    Raises:
        ValueError: purge and embargo leave an inner fit no row.
    """
    spans = folds.time[rows], folds.label_end[rows]
    inner = make_kfolds(*spans, groups=groups, embargo_bars=folds.embargo_bars)
    for split in range(inner.n_splits):
        train, valid = inner.split_validation(inner.train(split), valid_pct)
        yield InnerFold(rows[train], rows[valid], rows[inner.test(split)])
