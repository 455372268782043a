"""The predictions of a fit for rows that it has not seen: one record for each (split, row)."""

import numpy as np
import pandas as pd

from pipeline.targets import Target

FINAL = -1  # the split of the final fit, which predicts the holdout from its inputs


def make_predictions(
    split: int, keys: pd.DataFrame, rows: np.ndarray, *, prediction: np.ndarray, target: Target
) -> pd.DataFrame:
    """Return the predictions (n, outputs) of one fit for `rows` of the samples, as a table.

    Its columns are split, row, time, symbol, target and horizon (bars), one for each output, and `score` where
    predictions of the target have one. `keys` has the time and symbol of all rows.
    """
    output = target.output
    own = keys.iloc[rows]
    columns = {
        "split": np.full(len(rows), split, np.int16),
        "row": rows.astype(np.int32),
        "time": own["time"].to_numpy(),
        "symbol": pd.Categorical(own["symbol"]),
        "target": pd.Categorical([target.name] * len(rows), categories=[target.name]),
        "horizon": np.full(len(rows), target.horizon_bars, np.int32),
        **{name: prediction[:, i].astype(np.float32) for i, name in enumerate(output.names)},
    }
    score = {} if output.no_score_reason else {"score": output.to_score(prediction).astype(np.float32)}
    return pd.DataFrame(columns | score)
