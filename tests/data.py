"""Small Samples whose truth is known, for tests that need a model to find it."""

from dataclasses import replace

import numpy as np

from pipeline.samples import Samples

BAR_MS = 60_000
ROWS, COLUMNS = 8000, 8
TRAIN, VALID, TEST = np.arange(200, 4800), np.arange(5200, 6400), np.arange(6600, 8000)


def planted_signal(x: np.ndarray) -> np.ndarray:
    """What can be known of y: a step, a slope and a product of columns; the last columns mean nothing."""
    return np.where(x[:, 0] > 0.3, 1.0, -1.0) + x[:, 1] + 0.5 * x[:, 2] * x[:, 3]


def planted(kind: str, *, seed: int) -> Samples:
    """Two segments of bars whose y, of the given kind of target, follows the signal and as much noise again.

    TRAIN ends before segment 0 does; VALID and TEST lie in segment 1, which begins at row 5000, with room for a window.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    x[rng.random(ROWS) < 0.3, 1] = 0.0  # a column that often says nothing, as a volume does
    value = planted_signal(x) / 2 + rng.normal(size=ROWS)
    y = {
        "return": value.astype(np.float32),
        "position": value.astype(np.float32),
        "trend": (1 / (1 + np.exp(-value))).astype(np.float32),
        "direction": (value > 0).astype(np.int32),
        "barrier": np.digitize(value, [-0.5, 0.5]).astype(np.int32),
    }[kind]
    time = np.arange(ROWS, dtype=np.int64) * BAR_MS
    return Samples(
        time=time,
        label_end=time + 5 * BAR_MS,
        segment=(np.arange(ROWS) >= 5000).astype(np.int32),
        x=x,
        columns=tuple(f"column_{i}" for i in range(COLUMNS)),
        y=y,
        move=value * 1e-2,
    )


def spoilt(samples: Samples) -> Samples:
    """The same, but for nonsense in y and move outside TRAIN and VALID, and in x where no window of theirs reaches."""
    seen = np.concatenate([TRAIN, VALID])
    unseen = np.setdiff1d(np.arange(ROWS), seen)
    beyond = np.concatenate([np.arange(TRAIN[-1] + 1, 5000), np.arange(VALID[-1] + 1, ROWS)])
    x, y, move = samples.x.copy(), samples.y.copy(), samples.move.copy()
    x[beyond], move[unseen] = np.nan, np.nan
    y[unseen] = -1 if np.issubdtype(y.dtype, np.integer) else np.nan
    return replace(samples, x=x, y=y, move=move)
