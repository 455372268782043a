"""Purged k-folds of some rows, such as those that one fit learns from."""

import numpy as np

from pipeline.validation.folds import Folds, make_folds


def make_kfolds(time: np.ndarray, label_end: np.ndarray, *, groups: int, embargo_bars: int) -> Folds:
    """Return purged k-folds of rows with spans [time, label_end], without a holdout; they count the rows from 0."""
    return make_folds(
        time,
        label_end,
        method="purged_kfold",
        groups=groups,
        test_groups=1,
        train_groups=1,
        embargo_bars=embargo_bars,
        holdout_pct=0.0,
    )
