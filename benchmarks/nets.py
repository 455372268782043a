"""Training speed in windows a second, and memory: `python benchmarks/nets.py`, beside the usual ways to load windows.

Each method trains the same net on the same table with the same optimizer, in a process of its own and on one thread:
`one batch` repeats one prepared batch, so that its time is the arithmetic of the net alone; it retains freed memory as
the engine does. `engine` is a fit of pipeline/models/nets with all its callbacks, checkpoints and statistics, and a
validation of one row. `array` gathers all windows first and hands them to a DataLoader. `slices` cuts out each window
in a Dataset's `__getitem__`. The last two leave memory to the C library, as is usual. Figures are medians of several
rounds, in which the methods alternate, after one batch to warm up. Memory is the peak of the process less what it held
after its imports. `--rows 525600 --stride 6` is a year of one-minute bars, as params fit it.

`--full-size` takes nets of the sizes of the literature, by the trainer of the pipeline alone. `--device cpu cuda`
measures them on one CPU core and on a GPU, with the ratio of both; memory on a GPU is the peak of torch.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pipeline.labels import KINDS
from pipeline.models import base, plugins
from pipeline.models.fit_files import FitFiles
from pipeline.models.nets.engine.memory import retain_freed_memory
from pipeline.models.nets.engine.net import Net
from pipeline.samples import Samples

COLUMNS, WINDOW, BATCH_SIZE = 44, 60, 512
DEVICES = ("cpu", "cuda")
NETS: dict[str, dict[str, Any]] = {
    "LSTM 1x64": {
        "plugin": "recurrent",
        "own": {"cell": "lstm", "hidden_size": 64, "num_layers": 1, "bidirectional": False, "attention": False},
    },
    "CNN [32, 32], kernel 5": {
        "plugin": "cnn",
        "own": {"channels": [32, 32], "kernel_size": 5, "pool": "last", "batch_norm": True},
    },
}
FULL_SIZE: dict[str, dict[str, Any]] = {  # pipeline/models/nets/README.md, "Full size"
    "LSTM 2x128": {
        "plugin": "recurrent",
        "own": {"cell": "lstm", "hidden_size": 128, "num_layers": 2, "bidirectional": False, "attention": False},
    },
    "PatchTST": {
        "plugin": "patchtst",
        "own": {
            **{"window": 336, "patch_len": 16, "stride": 8, "d_model": 128, "nhead": 16, "num_layers": 3},
            "dim_feedforward": 256,
        },
    },
    "TFT": {"plugin": "tft", "own": {"window": 168, "hidden_size": 160, "nhead": 4, "known_columns": []}},
}
COMMON = {
    **{"window": WINDOW, "dropout": 0.0, "loss": {"name": "mse"}, "lr_schedule": {"name": "constant"}},
    "optimizer": {"name": "adam", "learning_rate": 1e-3, "weight_decay": 0.0},
}
SHARED = {
    **{"device": "cpu", "mixed_precision": False, "batch_size": BATCH_SIZE, "clip_sigma": 5.0},
    **{"max_grad_norm": 1.0, "gradient_log_interval": 10, "checkpoint_seconds": 20.0},
    "early_stopping": {"metric": "valid_loss", "mode": "min", "patience": 99, "min_delta": 0.0},
}


@dataclass(frozen=True)
class Workload:
    """The table and the epochs of a measurement."""

    rows: int  # of the table
    stride: int  # an epoch has every stride-th row
    epochs: int

    @property
    def batches(self) -> int:
        """Whole batches of an epoch."""
        return self.rows // self.stride // BATCH_SIZE


def make_table(rows: int) -> Samples:
    """Return a table of noise, which takes as long to train on as any other."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((rows, COLUMNS), dtype=np.float32), rng.standard_normal(rows, dtype=np.float32)
    time_ms, columns = 60_000 * np.arange(rows, dtype=np.int64), tuple(f"column_{i}" for i in range(COLUMNS))
    return Samples(time_ms, time_ms, np.zeros(rows, np.int32), x, columns, y)


def make_model(name: str, workload: Workload, *, device: str = "cpu") -> Net:
    """Return an unfitted net of `NETS` or `FULL_SIZE`."""
    net = (NETS | FULL_SIZE)[name]
    hyperparameters = COMMON | net["own"]
    block = {"dataset": "d", "target": "t", "plugin": net["plugin"], "hyperparameters": hyperparameters}
    shape = base.Signature(tuple(f"column_{i}" for i in range(COLUMNS)), KINDS["return"].output)
    shared = SHARED | {"device": device, "epochs": workload.epochs, "train_stride": workload.stride}
    model = plugins.build("nets", block, shape, shared=shared, seed=0)
    assert isinstance(model, Net)
    return model


class Slices(Dataset[tuple[Tensor, Tensor]]):
    """A dataset that cuts each window out of the table on access."""

    def __init__(self, x: Tensor, y: Tensor, ends: np.ndarray) -> None:
        """Keep `x` and the rows `ends`, with each of which a window ends."""
        self.x, self.y, self.ends = x, y, ends.tolist()

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.ends)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """Return (T, F) and a scalar."""
        end = self.ends[i]
        return self.x[end - WINDOW + 1 : end + 1], self.y[end]


def train_plainly(net: nn.Module, epochs: int, make_batches: Callable[[], Iterable[Sequence[Tensor]]]) -> None:
    """Train as in any tutorial of torch."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for x, y in make_batches():
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.mse_loss(net(x)[:, 0], y)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            loss.item()


def prepare_one_batch(name: str, samples: Samples, workload: Workload) -> Callable[[], object]:
    """Return a run over the same prepared batch, as often as an epoch has batches."""
    model = make_model(name, workload)
    x = torch.from_numpy(model.inputs(samples, np.arange(workload.rows - BATCH_SIZE, workload.rows)))
    y = torch.from_numpy(samples.y[-BATCH_SIZE:])
    train = retain_freed_memory()(train_plainly)
    return lambda: train(model.net, workload.epochs, lambda: repeat((x, y), workload.batches))


def prepare_engine(name: str, samples: Samples, workload: Workload, *, device: str = "cpu") -> Callable[[], object]:
    """Return a fit by the trainer of the pipeline, which takes the windows of each epoch out of all rows."""
    model, folder = make_model(name, workload, device=device), Path(tempfile.mkdtemp())
    files = FitFiles(folder, folder / "history.csv", folder / "measured.csv", "fit", {"split": 0})
    train = np.arange(workload.rows)[-workload.batches * BATCH_SIZE * workload.stride :]
    return lambda: model.fit(samples, train, train[:1], files=files)


def prepare_array(name: str, samples: Samples, workload: Workload) -> Callable[[], object]:
    """Return a run over one array of all windows, gathered before the time is taken."""
    view = np.lib.stride_tricks.sliding_window_view(samples.x, WINDOW, axis=0).transpose(0, 2, 1)
    ends = list_ends(workload)
    data = TensorDataset(torch.from_numpy(view[ends - WINDOW + 1]), torch.from_numpy(samples.y[ends]))
    return lambda: train_on_loader(name, data, workload)


def prepare_slices(name: str, samples: Samples, workload: Workload) -> Callable[[], object]:
    """Return a run over single windows, which the DataLoader puts together."""
    data = Slices(torch.from_numpy(samples.x), torch.from_numpy(samples.y), list_ends(workload))
    return lambda: train_on_loader(name, data, workload)


def train_on_loader(name: str, data: Dataset[tuple[Tensor, ...]], workload: Workload) -> None:
    """Train on shuffled batches of a DataLoader."""
    net = make_model(name, workload).net
    train_plainly(net, workload.epochs, lambda: DataLoader(data, BATCH_SIZE, shuffle=True))


def list_ends(workload: Workload) -> np.ndarray:
    """Return the last row of each window of an epoch: every stride-th, where a whole window precedes it."""
    ends = np.arange(workload.rows)[:: -workload.stride][: workload.batches * BATCH_SIZE]
    return np.maximum(ends, WINDOW - 1)


METHODS = {
    "one batch": prepare_one_batch,
    "engine": prepare_engine,
    "array": prepare_array,
    "slices": prepare_slices,
}


def measure(method: str, name: str, workload: Workload) -> dict[str, float]:
    """Return windows a second and MiB of one method, in this process."""
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    prepare_array(name, make_table(2 * BATCH_SIZE), Workload(2 * BATCH_SIZE, 1, 1))()
    run = METHODS[method](name, make_table(workload.rows), workload)
    start = time.perf_counter()
    run()
    rate = workload.epochs * workload.batches * BATCH_SIZE / (time.perf_counter() - start)
    return {"rate": rate, "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def measure_full_size(device: str, name: str, workload: Workload) -> dict[str, float]:
    """Return windows a second and MiB of the trainer on a device, in this process; the first fit warms up."""
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    small = Workload(2 * BATCH_SIZE, 1, 1)
    prepare_engine(name, make_table(small.rows), small, device=device)()
    run = prepare_engine(name, make_table(workload.rows), workload, device=device)
    start = time.perf_counter()
    run()  # it ends with numbers on the host
    rate = workload.epochs * workload.batches * BATCH_SIZE / (time.perf_counter() - start)
    mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"rate": rate, "mib": mib if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20}


def measure_in_child(method: str, name: str, workload: Workload) -> dict[str, float]:
    """Return what `measure`, or `measure_full_size` of a device, returns in a process of its own."""
    words = [sys.executable, __file__, *(f"--{key}={value}" for key, value in asdict(workload).items())]
    done = subprocess.run([*words, "--child", method, name], capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def print_figures(name: str, found: dict[str, list[dict[str, float]]], workload: Workload) -> None:
    """Print the medians of each method for one net, and its speed relative to the first method."""
    window = (NETS | FULL_SIZE)[name]["own"].get("window", WINDOW)
    windows = f"{workload.batches * BATCH_SIZE:,} windows of {window} bars x {COLUMNS} columns"
    print(f"{name}, {windows} out of {workload.rows:,} rows")
    first = next(iter(found))
    for method, rounds in found.items():
        ratio = statistics.median(own["rate"] / other["rate"] for own, other in zip(rounds, found[first], strict=True))
        rate, mib = (statistics.median(each[key] for each in rounds) for key in ("rate", "mib"))
        print(f"  {method:10} {rate:9,.0f} windows/s  {ratio:5.2f} of {first}  {mib:7,.0f} MiB", flush=True)


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=30_000, help="of the table")
    parser.add_argument("--stride", type=int, default=1, help="a window for every stride-th row")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--full-size", action="store_true", help="nets of the sizes of the literature")
    parser.add_argument("--device", nargs="+", choices=DEVICES, default=["cpu"], help="of nets of full size")
    parser.add_argument("--nets", nargs="+", help="a part of the nets; all by default")
    parser.add_argument("--child", nargs=2, metavar=("METHOD", "NET"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure every method, or every device, for every net; or, as a child process, one."""
    given = parse_arguments()
    if "cuda" in given.device and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no GPU here; leave it out")
    workload = Workload(given.rows, given.stride, given.epochs)
    if given.child:
        method, name = given.child
        print(json.dumps((measure_full_size if method in DEVICES else measure)(method, name, workload)))
        return
    methods = given.device if given.full_size else given.methods
    for name in given.nets or (FULL_SIZE if given.full_size else NETS):
        found: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
        for _ in range(given.rounds):
            for method in methods:
                found[method].append(measure_in_child(method, name, workload))
        print_figures(name, found, workload)


if __name__ == "__main__":
    main()
