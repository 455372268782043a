"""Small Samples with a planted signal, for tests in which a model has to learn it."""

from dataclasses import replace

import numpy as np
import pandas as pd

from pipeline.fills import Fills
from pipeline.labels import KINDS
from pipeline.models.dataset import LabeledDataset
from pipeline.samples import Samples
from pipeline.targets import Output, Target
from pipeline.validation.folds import Folds, cpcv

BAR_MS = 60_000
ROWS, COLUMNS = 8000, 8
OUTPUTS: dict[str, Output] = {kind: described.output for kind, described in KINDS.items()}
MORE_ROWS = ROWS + 9 * 4600  # ten times as many train rows


def select_parts(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of train, valid and test among so many."""
    return np.arange(200, rows - 3200), np.arange(rows - 2800, rows - 1600), np.arange(rows - 1400, rows)


TRAIN, VALID, TEST = select_parts(ROWS)


def plant_signal(x: np.ndarray) -> np.ndarray:
    """Return (n,) the predictable part of y: a step, a slope and a product of columns; the last columns are noise."""
    return np.where(x[:, 0] > 0.3, 1.0, -1.0) + x[:, 1] + 0.5 * x[:, 2] * x[:, 3]


def plant_samples(
    kind: str,
    *,
    seed: int,
    rows: int = ROWS,
    columns: int = COLUMNS,
    held_rows: int = 1,
    noise: float = 1.0,
    horizons: int = 0,
) -> Samples:
    """Return two segments of bars whose y, of the given kind of target, is the signal plus, by default, as much noise.

    TRAIN ends before segment 0 does. VALID and TEST lie in segment 1, which begins at row 5000, a window before VALID.
    `select_parts` has the parts of other numbers of `rows`. Columns beyond COLUMNS repeat those. Values stay for
    `held_rows` rows. With several `horizons` the y of each has noise of its own, and the shorter ones less signal.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, COLUMNS)).astype(np.float32)
    x[rng.random(rows) < 0.3, 1] = 0.0  # a column that is often zero, as a volume is
    x = x[np.arange(rows) // held_rows * held_rows][:, np.arange(columns) % COLUMNS]
    value = plant_signal(x) / 2 + noise * rng.normal(size=rows)
    time = np.arange(rows, dtype=np.int64) * BAR_MS
    y = express_value(value, kind)
    signal, shares = plant_signal(x) / 2, np.arange(1, horizons) / max(horizons, 1)
    shorter = [share * signal + noise * rng.normal(size=rows) for share in shares]
    return Samples(
        time=time,
        label_end=time + 5 * BAR_MS,
        segment=(np.arange(rows) >= rows - 3000).astype(np.int32),
        x=x,
        columns=tuple(f"column_{i}" for i in range(columns)),
        y=y,
        fills=make_fills(value * 1e-2),
        y_by_horizon=np.column_stack([*shorter, y]).astype(np.float32) if horizons else None,
    )


def make_fills(move: np.ndarray) -> Fills:
    """Return fills of which each earns a move (n,), known at the close of the next row; no bar is idle or too thin."""
    zeros = np.zeros(len(move))
    return Fills(
        move=move,
        years=zeros,
        quote_volume=np.full(len(move), 1e12),
        outcome=np.zeros(len(move), np.int8),
        crosses_gap=np.zeros(len(move), bool),
        mark=np.append(0.0, move[:-1]),
    )


def express_value(value: np.ndarray, kind: str) -> np.ndarray:
    """Return (n,) y of a kind of target that grows with `value`: a value, a number in [0, 1] or the code of a class."""
    output = OUTPUTS[kind]
    if output.kind == "probability":
        return (1 / (1 + np.exp(-value))).astype(np.float32)
    if not output.is_classification:
        return (value if output.has_direction else np.exp(value / 2)).astype(np.float32)
    classes = len(output.names)
    return np.digitize(value, np.arange(1, classes) - classes / 2).astype(np.int32)  # 3 classes: at -0.5 and 0.5


def corrupt_unseen(samples: Samples) -> Samples:
    """Return a copy with invalid y and moves outside TRAIN and VALID, and NaN in x after both."""
    used = np.concatenate([TRAIN, VALID])
    unused = np.setdiff1d(np.arange(ROWS), used)
    beyond = np.concatenate([np.arange(TRAIN[-1] + 1, 5000), np.arange(VALID[-1] + 1, ROWS)])
    assert samples.fills is not None
    x, y, fills = samples.x.copy(), samples.y.copy(), samples.fills.take(np.arange(ROWS))
    x[beyond], fills.move[unused] = np.nan, np.nan
    y[unused] = -1 if np.issubdtype(y.dtype, np.integer) else np.nan
    return replace(samples, x=x, y=y, fills=fills)


def make_target(kind: str, *, name: str = "target") -> Target:
    """Return a target of a kind of labels, with a horizon of five bars."""
    return Target(name=name, horizon_bars=5, output=OUTPUTS[kind])


def make_dataset(
    samples: Samples, folds: Folds | None = None, *, kind: str, symbols: np.ndarray | None = None
) -> LabeledDataset:
    """Return samples as a dataset of one symbol, or of the symbols given row by row."""
    if folds is None:
        folds = cpcv(samples.time, samples.label_end, groups=4, test_groups=2, embargo_pct=0.01, holdout_pct=0.15)
    symbol = pd.Categorical(np.full(len(samples.time), "BTCUSDT") if symbols is None else symbols)
    rows = pd.DataFrame({"segment": samples.segment, "time": samples.time, "symbol": symbol})
    return LabeledDataset(samples, folds, make_target(kind), rows, {"first": ["column_0", "column_1"]})
