"""The predictions of a fit for rows that it has not seen: one record for each (split, row)."""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import artifacts
from pipeline.targets import Output, Target

FINAL = -1  # the split of the final fit, which predicts the holdout from its inputs
SCORE_STD = "score_std.json"  # in the folder of a saved model
CONSTANT_SHARE = 1e-12  # of the largest |score|: a standard deviation up to it is rounding


def name_split(split: int) -> str:
    """Return the number of a split as text, or "final"."""
    return "final" if split == FINAL else str(split)


def measure_score_std(prediction: np.ndarray, output: Output) -> float:
    """Return the standard deviation of the score of predictions (n, outputs): those of a fit for its train rows.

    It is the unit of a position's size, and NaN where there is none: predictions without a score, positions, which are
    sizes themselves, or scores that are constant within rounding.
    """
    if output.no_score_reason or output.kind == "position" or not len(prediction):
        return float("nan")
    score = output.to_score(prediction).astype(np.float64)
    std = float(score.std())
    return std if std > CONSTANT_SHARE * float(np.abs(score).max()) else float("nan")


def save_score_std(folder: Path, score_std: float) -> None:
    """Write the `score_std` of a final fit to the folder of its model, to ten digits; null where it is undefined."""
    artifacts.write_json(folder / SCORE_STD, {"score_std": score_std})


def read_score_std(folder: Path) -> float | None:
    """Return the `score_std` of the final fit whose model is saved in `folder`; None where it is undefined."""
    found: float | None = artifacts.read_json(folder / SCORE_STD)["score_std"]
    return found


def make_predictions(
    split: int,
    keys: pd.DataFrame,
    rows: np.ndarray,
    *,
    prediction: np.ndarray,
    target: Target,
    score_std: float = float("nan"),
) -> pd.DataFrame:
    """Return the predictions (n, outputs) of one fit for `rows` of the samples, as a table.

    Its columns are split, row, time, symbol, target and horizon (bars), one for each output, `score` where predictions
    of the target have one, and the fit's `score_std`, see `measure_score_std`. `keys` has the time and symbol of all
    rows.
    """
    output = target.output
    own = keys[["time", "symbol"]].iloc[rows]
    columns = {
        "split": np.full(len(rows), split, np.int16),
        "row": rows.astype(np.int32),
        "time": own["time"].to_numpy(),
        "symbol": pd.Categorical(own["symbol"]),
        "target": pd.Categorical.from_codes(np.zeros(len(rows), np.int8), categories=pd.Index([target.name])),
        "horizon": np.full(len(rows), target.horizon_bars, np.int32),
        **{name: prediction[:, i].astype(np.float32) for i, name in enumerate(output.names)},
    }
    score = {} if output.no_score_reason else {"score": output.to_score(prediction).astype(np.float32)}
    return pd.DataFrame(columns | score | {"score_std": np.full(len(rows), score_std, np.float64)})
