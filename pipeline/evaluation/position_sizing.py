"""The target position of a score."""

import numpy as np

from pipeline.targets import Kind


def size_scores(score: np.ndarray, score_std: np.ndarray, *, kind: Kind, full_position_std: float) -> np.ndarray:
    """Return (n,) float64 target positions in [-1, 1]: a position as predicted, another score in units of its spread.

    The spread is `score_std`, of the scores of the rows that the fit learned from. Where that is undefined, because
    these scores never vary, the target is 0. `full_position_std` is that of the section `trading`.

    Args:
        score: (n,) scores of predictions of one `kind`.
        score_std: (n,) the spread of the fit that made each of them; NaN where it is undefined.
    """
    score = score.astype(np.float64)
    if kind == "position":
        return np.asarray(score.clip(-1, 1))
    full = score_std.astype(np.float64) * full_position_std
    scaled = np.divide(score, full, out=np.zeros(len(score)), where=full > 0)
    return np.asarray(scaled.clip(-1, 1))
