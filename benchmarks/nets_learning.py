"""Compare forecasting nets with an LSTM and a linear model on planted tasks: `python benchmarks/nets_learning.py`.

Four planted tasks for the ideas of the architectures; every window is a segment of its own, and only its last row has a
target. `rates`: volatility has a season of 48 bars, drawn anew in each window, and the level one of 6 bars; the target
is the next log volatility plus half the next level. `path`: the same of each of the next 12 bars, which are 12 horizons
of one target. `patches`: y is the log ratio of the energies of two shapes
of 12 bars in the older half of the window; the newer half has its own. `known`: each of four sessions has a column of
its own. The session at the horizon, 5 bars after the window, is known by the columns `session_0_ahead_5m` to
`session_3_ahead_5m`. y is the mean of that session's column over the bars of the window that are in this session; 40
more columns are noise. Nothing inside the window shows which session comes. All nets have the same rows, epochs,
batches and learning rate, which options change; the linear model is a ridge regression on all numbers of a window. The
table has the correlation with y on unseen windows, of several horizons its mean: mean and standard deviation over
seeds, which draw data and weights, and CPU seconds of a fit.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pipeline.labels import KINDS
from pipeline.models import base, plugins
from pipeline.models.nets.engine.net import Net
from pipeline.samples import Samples
from pipeline.targets import Output

TRAIN_WINDOWS, VALID_WINDOWS, TEST_WINDOWS = 6000, 1000, 2000
WINDOWS = TRAIN_WINDOWS + VALID_WINDOWS + TEST_WINDOWS
SESSIONS, COLUMNS, KNOWN_BARS, HORIZON_BARS, PATH_BARS = 4, 44, 10, 5, 12
RIDGE = 100.0  # of standardized columns, whose squares sum to the number of train windows
COMMON: dict[str, Any] = {
    **{"dropout": 0.0, "loss": {"name": "mse"}, "lr_schedule": {"name": "cosine", "eta_min": 1e-4}},
    "optimizer": {"name": "adamw", "weight_decay": 0.01},
}
SHARED: dict[str, Any] = {
    **{"device": "cpu", "mixed_precision": False, "batch_size": 64, "clip_sigma": 5.0},
    **{"max_grad_norm": 1.0, "gradient_log_interval": 10, "checkpoint_seconds": 1e9, "train_stride": 1},
    "early_stopping": {"metric": "valid_loss", "mode": "min", "min_delta": 0.0},
}
LSTM = {"cell": "lstm", "hidden_size": 32, "num_layers": 1, "bidirectional": False, "attention": False}
NHITS = {"horizon": 4, "n_pool_kernel_size": [4, 2, 1], "n_freq_downsample": [4, 2, 1], "mlp_units": [64, 64]}
PATCHTST = {"patch_len": 12, "stride": 12, "d_model": 16, "nhead": 2, "num_layers": 1, "dim_feedforward": 32}
TFT = {"hidden_size": 16, "nhead": 2, "known_columns": "ahead"}
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "LSTM": ("recurrent", LSTM),
    "N-HiTS": ("nhits", NHITS),
    "PatchTST": ("patchtst", PATCHTST),
    "TFT": ("tft", TFT),
}


class Training(NamedTuple):
    """The epochs of a fit, and its first learning rate."""

    epochs: int
    learning_rate: float


def plant_rates(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return windows (n, 96, 1) and y (n,): log volatility and level of the next bar."""
    windows, path = plant_path(rng)
    return windows, path[:, 0]


def plant_path(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return windows (n, 96, 1) and y (n, 12): log volatility and level of each of the next bars."""
    slow = rng.standard_normal((WINDOWS, 12))  # the log volatility of 4 bars each
    fast = rng.standard_normal((WINDOWS, 6))
    volatility = np.tile(np.repeat(np.exp(slow), 4, axis=1), 2)
    x = np.tile(fast, 16) + volatility * rng.standard_normal((WINDOWS, 96))
    bars = np.arange(PATH_BARS)  # the seasons begin anew after the window
    return x[..., None], slow[:, bars // 4] + 0.5 * fast[:, bars % 6]


def plant_patches(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return windows (n, 96, 1) and y (n,): the log ratio of the energies of two shapes in the older half."""
    shapes = np.linalg.qr(rng.standard_normal((12, 2)))[0].T
    log_energy = rng.standard_normal((WINDOWS, 2, 2))  # (n, older and newer half, shapes)
    amplitude = 2 * np.repeat(np.exp(log_energy / 2), 4, axis=1) * rng.standard_normal((WINDOWS, 8, 2))
    x = (amplitude @ shapes).reshape(WINDOWS, 96) + 0.5 * rng.standard_normal((WINDOWS, 96))
    return x[..., None], log_energy[:, 0, 0] - log_energy[:, 0, 1]


def plant_known(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return windows (n, 10, 52) and y (n,): the mean of a column over the bars of the session at the horizon.

    The columns are 44 values, the flags of each bar's session, and those of the session 5 bars later.
    """
    session = rng.integers(SESSIONS, size=(WINDOWS, KNOWN_BARS + HORIZON_BARS))
    values = rng.standard_normal((WINDOWS, KNOWN_BARS, COLUMNS))
    now, ahead = session[:, :KNOWN_BARS], session[:, HORIZON_BARS:]
    of_session = np.take_along_axis(values, now[..., None], axis=2)[..., 0]
    same = now == session[:, -1:]  # the session at the horizon of the last bar
    y = (of_session * same).sum(axis=1) / np.sqrt(np.maximum(same.sum(axis=1), 1))
    flags = np.eye(SESSIONS)
    return np.concatenate([values, flags[now], flags[ahead]], axis=2), y + 0.3 * rng.standard_normal(WINDOWS)


TASKS: dict[str, Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]] = {
    "rates": plant_rates,
    "path": plant_path,
    "patches": plant_patches,
    "known": plant_known,
}


def make_samples(windows: np.ndarray, y: np.ndarray) -> Samples:
    """Return the table in which each window is a segment; y stands in its last row, and is 0 elsewhere."""
    count, length, columns = windows.shape
    time_ms = 60_000 * np.arange(count * length, dtype=np.int64)
    of_rows = np.zeros((count, length, *y.shape[1:]), np.float32)
    of_rows[:, -1] = y
    of_rows = of_rows.reshape(count * length, *y.shape[1:])
    by_horizon = of_rows if y.ndim > 1 else None
    segment = np.repeat(np.arange(count, dtype=np.int32), length)
    x = windows.reshape(-1, columns).astype(np.float32)
    names = [f"column_{i}" for i in range(columns)]
    if columns > COLUMNS:  # `known`
        names[-SESSIONS:] = [f"session_{i}_ahead_{HORIZON_BARS}m" for i in range(SESSIONS)]
    return Samples(
        time_ms,
        time_ms,
        segment,
        x,
        tuple(names),
        of_rows if by_horizon is None else of_rows[:, -1],
        y_by_horizon=by_horizon,
    )


def make_net(name: str, training: Training, samples: Samples, *, window: int, seed: int) -> Net:
    """Return an unfitted net of `NETS` for the columns and horizons of samples."""
    plugin, own = NETS[name]
    output = KINDS["return"].output
    if samples.y_by_horizon is not None:
        bars = range(1, samples.y_by_horizon.shape[1] + 1)
        output = Output(kind="horizons", names=tuple(f"bar_{each}" for each in bars), horizons=tuple(bars))
        own = own | {"horizon": len(bars)} if "horizon" in own else own
    optimizer = COMMON["optimizer"] | {"learning_rate": training.learning_rate}
    own = COMMON | own | {"window": window, "optimizer": optimizer}
    block = {"dataset": "d", "target": "t", "plugin": plugin, "hyperparameters": own}
    stopping = SHARED["early_stopping"] | {"patience": training.epochs}
    shared = SHARED | {"epochs": training.epochs, "early_stopping": stopping}
    net = plugins.build("nets", block, base.Signature(samples.columns, output), shared=shared, seed=seed)
    assert isinstance(net, Net)
    return net


def predict_linearly(windows: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the predictions of a ridge regression on the windows of the test."""
    x = windows.reshape(WINDOWS, -1)
    x = ((x - x[:TRAIN_WINDOWS].mean(axis=0)) / x[:TRAIN_WINDOWS].std(axis=0)).clip(-5, 5)
    train = x[:TRAIN_WINDOWS]
    moments = train.T @ train + RIDGE * np.eye(x.shape[1])
    return np.asarray(x[-TEST_WINDOWS:] @ np.linalg.solve(moments, train.T @ y[:TRAIN_WINDOWS]))


def measure(name: str, task: str, training: Training, *, seed: int) -> float:
    """Return the correlation of a model's predictions with y on the windows of the test."""
    windows, y = TASKS[task](np.random.default_rng(seed))
    if name == "linear":
        return correlate(predict_linearly(windows, y), y[-TEST_WINDOWS:])
    samples, length = make_samples(windows, y), windows.shape[1]
    net = make_net(name, training, samples, window=length, seed=seed)
    train, valid, test = np.split(
        np.arange(length - 1, WINDOWS * length, length), [TRAIN_WINDOWS, TRAIN_WINDOWS + VALID_WINDOWS]
    )
    net.fit(samples, train, valid)
    return correlate(net.predict_rows(samples, test), samples.learned[test])


def correlate(prediction: np.ndarray, y: np.ndarray) -> float:
    """Return the mean correlation of the predictions of each horizon with its y, both (n,) or (n, horizons)."""
    pairs = zip(prediction.reshape(len(y), -1).T, y.reshape(len(y), -1).T, strict=True)
    return float(np.mean([np.corrcoef(predicted, actual)[0, 1] for predicted, actual in pairs]))


def main() -> None:
    """Print a row of the table for each task and net."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--nets", nargs="+", choices=["linear", *NETS], default=["linear", *NETS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=0.003)
    options = parser.parse_args()
    training = Training(options.epochs, options.learning_rate)
    for task in options.tasks:
        for name in options.nets:
            start = time.process_time()
            found = [measure(name, task, training, seed=seed) for seed in options.seeds]
            seconds = (time.process_time() - start) / len(options.seeds)
            print(f"| {task} | {name} | {np.mean(found):.3f} ± {np.std(found):.3f} | {seconds:.1f} s |", flush=True)


if __name__ == "__main__":
    main()
