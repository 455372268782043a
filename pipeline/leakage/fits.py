"""Guards of fits: a model has learnt from its train rows alone, and what was tried is counted."""

from collections.abc import Sequence

import numpy as np

from pipeline.leakage.findings import Finding, verdict

ROUNDING, FLOAT32_ROUNDING = 1e-4, 1e-6  # what float32 sums may miss of a mean: in scales, and of the mean itself


def normalization(statistics: tuple[np.ndarray, np.ndarray] | None, x_train: np.ndarray) -> Finding:
    """Critical where the (mean, scale), each (F,), that a model standardises with are not those of its train rows.

    `None` says that the model standardises nothing. The scale of a column that is constant in train may be anything.
    """
    if statistics is None:
        return Finding("normalization", "ok", "the model standardises nothing", {"columns": 0, "differing": 0})
    x = x_train.astype(np.float64)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    allowed = ROUNDING * scale + FLOAT32_ROUNDING * np.abs(mean)
    is_constant = scale <= FLOAT32_ROUNDING * np.abs(mean)
    mean_off, scale_off = np.abs(statistics[0] - mean), np.abs(statistics[1] - scale)
    is_fit = (mean_off <= allowed) & (is_constant | (scale_off <= allowed))
    problems = [
        f"column {j} is standardised by mean {statistics[0][j]:.6g} and scale {statistics[1][j]:.6g}, its {len(x)} "
        f"train rows have {mean[j]:.6g} and {scale[j]:.6g}: fit them on train rows alone"
        for j in np.flatnonzero(~is_fit)
    ]
    figures = {"columns": len(mean), "differing": int((~is_fit).sum())}
    return verdict("normalization", problems, f"mean and scale of {len(mean)} columns are those of train", figures)


def data_snooping(models: Sequence[str], targets: Sequence[str], *, trials: int) -> Finding:
    """How much was tried, for whoever reads a Sharpe ratio: never critical."""
    figures = {"models": len(models), "targets": len(targets), "trials": trials}
    message = f"{trials} trials: {len(models)} models of {len(targets)} targets, and those tried before: deflate by all"
    return Finding("data_snooping", "ok", message, figures)
