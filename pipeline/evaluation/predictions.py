"""The predictions of the CPCV paths: which split predicts which row."""

import numpy as np
import pandas as pd


def locate_on_paths(predictions: pd.DataFrame, *, paths: np.ndarray, group: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return (paths, n) positions in `predictions`: those of the prediction for each of `rows` on each path.

    Args:
        predictions: one record for each (split, row), in any order.
        paths: (paths, groups) the split that tests group g on path p.
        group: (n,) the group of each of `rows`.
        rows: (n,) rows of the samples.

    Raises:
        ValueError: a (split, row) that a path needs has no record.
    """
    stride = int(max(predictions["row"].max(), rows.max())) + 1
    key = predictions["split"].to_numpy(np.int64) * stride + predictions["row"].to_numpy(np.int64)
    order = np.argsort(key, kind="stable")
    needed = paths[:, group].astype(np.int64) * stride + rows  # (paths, n)
    position = np.minimum(np.searchsorted(key[order], needed), len(key) - 1)
    missing = np.argwhere(key[order][position] != needed)
    if len(missing):
        path, i = missing[0]
        raise ValueError(
            f"predictions: split {paths[path, group[i]]} has no prediction for row {rows[i]}; run `dvc repro`"
        )
    return np.asarray(order[position])


def select_labeled(predictions: pd.DataFrame, is_labeled: np.ndarray) -> pd.DataFrame:
    """Return the predictions of rows that have a label, the only ones that can be compared with y, in their order.

    Trading uses all predictions: at a row without a label a model decides as at any other.

    Args:
        predictions: one record for each (split, row), with the column `row`.
        is_labeled: (N,) bool of all rows of the samples.
    """
    selected: pd.DataFrame = predictions[is_labeled[predictions["row"].to_numpy()]]
    return selected
