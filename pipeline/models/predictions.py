"""The predictions of a fit for rows that it has not seen: one record for each (split, row)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

FINAL = -1  # the split of the final fit, which predicts the holdout


def make_predictions(
    split: int, rows: np.ndarray, *, prediction: np.ndarray, outputs: Sequence[str], score: np.ndarray
) -> pd.DataFrame:
    """Return the predictions (n, outputs) and scores (n,) of one fit for `rows` of the samples, as a table."""
    columns = {name: prediction[:, i].astype(np.float32) for i, name in enumerate(outputs)}
    key = {"split": np.full(len(rows), split, np.int16), "row": rows.astype(np.int32)}
    return pd.DataFrame(key | columns | {"score": score.astype(np.float32)})
