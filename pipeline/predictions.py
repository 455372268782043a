"""What was answered for rows that the answering fit had not seen: one record per (split, row)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

FINAL = -1  # the split of the final fit, which answers for the holdout
HOLDOUT = -1  # the path that stands for the holdout


def record(
    split: int, rows: np.ndarray, *, answer: np.ndarray, outputs: Sequence[str], score: np.ndarray
) -> pd.DataFrame:
    """One fit's answers (n, outputs) and scores (n,) for `rows` of the samples."""
    columns = {name: answer[:, i].astype(np.float32) for i, name in enumerate(outputs)}
    key = {"split": np.full(len(rows), split, np.int16), "row": rows.astype(np.int32)}
    return pd.DataFrame(key | columns | {"score": score.astype(np.float32)})


def on_paths(predictions: pd.DataFrame, *, paths: np.ndarray, group: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(paths, rows) places in `predictions`: who answered for each of `rows` on each path.

    Args:
        predictions: the records of every split, in any order.
        paths: (paths, groups) the split that tests group g on path p.
        group: (n,) the group of each of `rows`.
        rows: (n,) rows of the samples.

    Raises:
        ValueError: a (split, row) that a path needs has no record.
    """
    stride = int(max(predictions["row"].max(), rows.max())) + 1
    key = predictions["split"].to_numpy(np.int64) * stride + predictions["row"].to_numpy(np.int64)
    order = np.argsort(key, kind="stable")
    wanted = paths[:, group].astype(np.int64) * stride + rows  # (paths, n)
    place = np.minimum(np.searchsorted(key[order], wanted), len(key) - 1)
    missing = np.argwhere(key[order][place] != wanted)
    if len(missing):
        path, at = missing[0]
        raise ValueError(
            f"predictions: split {paths[path, group[at]]} has no answer for row {rows[at]}; run `dvc repro`"
        )
    return np.asarray(order[place])
