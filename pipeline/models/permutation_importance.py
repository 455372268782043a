"""Permutation importance (Breiman 2001; Fisher, Rudin & Dominici 2019) of the columns of any fitted model.

The loss on rows that the fit has not seen rises where a column is permuted among their inputs: the rise is what the
model owes to it. A window is permuted as a whole, so that its order in time stays. A net and an agent have no other
importance; for trees it stands beside the gain, which is of train rows.
"""

from typing import Annotated, Any

import numpy as np
from annotated_types import Interval
from pydantic import PositiveInt

from pipeline.models.base import Model
from pipeline.samples import Samples
from pipeline.targets import Output

STRETCHES = 40  # of consecutive rows, in which agents hold their positions; errors are of their means
LEAST_PROBABILITY = 1e-7  # under a logarithm


def select_stretches(rows: np.ndarray, *, count: int) -> np.ndarray:
    """Return (n,) of the ascending `rows`, about `count`, in STRETCHES of consecutive ones, evenly spread.

    >>> select_stretches(np.arange(400), count=80)[:4].tolist()
    [0, 1, 10, 11]
    """
    if len(rows) <= count:
        return rows
    length = max(count // STRETCHES, 1)
    parts = np.array_split(rows, min(STRETCHES, count))
    return np.concatenate([part[:length] for part in parts])


def measure_losses(y: np.ndarray, prediction: np.ndarray, output: Output) -> tuple[np.ndarray, str]:
    """Return (B,) the loss of each prediction (B, outputs), and its name.

    It is the log loss of classes, the pinball loss of quantiles, the squared error of values, of horizons that of the
    last, and of a position minus what it earns before costs, in the unit of y.
    """
    prediction = prediction.astype(np.float64)
    if output.is_classification:
        chosen = prediction[np.arange(len(y)), y.astype(np.int64)]
        return -np.log(np.maximum(chosen, LEAST_PROBABILITY)), "log_loss"
    if output.kind == "quantiles":
        error, levels = y[:, None] - prediction, np.asarray(output.levels)
        return np.maximum(levels * error, (levels - 1) * error).mean(axis=1), "pinball_loss"
    if output.kind == "position":
        return -prediction[:, 0] * y, "negative_gross_return"
    return (y - output.take_center(prediction)) ** 2, "squared_error"


def measure_permutation_importance(
    model: Model,
    samples: Samples,
    test: np.ndarray,
    seed: int,
    *,
    rows: Annotated[int, Interval(ge=2)],
    repeats: PositiveInt,
) -> dict[str, Any]:
    """Return how much the mean loss rises where each input column is permuted, with its error, JSON-able.

    Args:
        model: fitted on rows whose spans do not overlap those of `test`.
        samples: the rows of the dataset, labeled where `test` says.
        test: labeled rows, ascending, that the fit has not seen.
        seed: of the permutations.
        rows: how many of `test` are predicted, in evenly spread stretches.
        repeats: permutations of each column, whose mean is the importance.
    """
    chosen = select_stretches(test, count=rows)
    inputs, y = model.inputs(samples, chosen), samples.y[chosen].astype(np.float64)
    output, rng = model.signature.output, np.random.default_rng(seed)
    expected, loss = measure_losses(y, model.predict(inputs), output)
    importances: dict[str, float] = {}
    errors: dict[str, float] = {}
    for place, column in enumerate(model.input_columns):
        rise = np.zeros(len(chosen))
        for _ in range(repeats):
            altered = inputs.copy()
            altered[..., place] = inputs[rng.permutation(len(chosen)), ..., place]
            rise += (measure_losses(y, model.predict(altered), output)[0] - expected) / repeats
        importances[column], errors[column] = float(rise.mean()), estimate_stretch_error(rise)
    return {
        "rows": len(chosen),
        "loss": loss,
        "loss_unpermuted": float(expected.mean()),
        "importances": importances,
        "errors": errors,
    }


def estimate_stretch_error(rise: np.ndarray) -> float:
    """Return the standard error of the mean of (n,) rises from the means of STRETCHES parts; NaN for one part."""
    parts = np.array([part.mean() for part in np.array_split(rise, min(STRETCHES, len(rise)))])
    return float(parts.std(ddof=1) / np.sqrt(len(parts))) if len(parts) > 1 else float("nan")
