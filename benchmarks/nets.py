"""Windows a second of a training epoch, and memory: `python benchmarks/nets.py`, beside the usual ways to load them.

Each way trains the same net on the same table with the same optimiser, in a process of its own and on one thread:
`one batch` takes one prepared batch again and again, so that its time is the arithmetic of the net alone, in memory
that the process keeps as the engine does; `engine` is a fit of pipeline/models/nets with all its callbacks, checkpoints
and statistics, and a validation of no size; `array` gathers all windows first and hands them to a DataLoader; `slices`
cuts each window out in a Dataset's `__getitem__`; both leave memory to the C library, as is usual. The medians of
several rounds, in which the ways take turns, after one batch that warms the process up. Memory is the most that the
process held over what it held after its imports. `--rows 525600 --stride 6` is a year, as params fit it.
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

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pipeline.models import base
from pipeline.models.neural.heap import kept_memory
from pipeline.samples import Samples

COLUMNS, BARS, BATCH = 44, 60, 512
NETS = {
    "LSTM 1x64": {
        "plugin": "recurrent",
        "tunables": {"cell": "lstm", "hidden": 64, "layers": 1, "bidirectional": False, "attention": False},
    },
    "CNN [32, 32], kernel 5": {
        "plugin": "cnn",
        "tunables": {"channels": [32, 32], "kernel": 5, "pool": "last", "batch_norm": True},
    },
}
SHARED = {
    **{"device": "cpu", "mixed_precision": False, "patience": 99, "batch": BATCH, "clip": 5.0},
    **{"gradient_norm": 1.0, "monitor_batches": 10, "checkpoint_seconds": 20.0},
}


@dataclass(frozen=True)
class Asked:
    """What an epoch is made of."""

    rows: int  # of the table
    stride: int  # a window for every so many rows
    epochs: int

    @property
    def batches(self) -> int:
        """Whole ones of an epoch."""
        return self.rows // self.stride // BATCH


def table(rows: int) -> Samples:
    """A table of noise: what a net makes of it takes as long as of anything else."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((rows, COLUMNS), dtype=np.float32), rng.standard_normal(rows, dtype=np.float32)
    time_ms, columns = 60_000 * np.arange(rows, dtype=np.int64), tuple(f"column_{i}" for i in range(COLUMNS))
    return Samples(time_ms, time_ms, np.zeros(rows, np.int32), x, columns, y, np.zeros(rows))


def model(name: str, asked: Asked) -> base.Model:
    """An unfitted net of `NETS`."""
    build = {
        **{"bars": BARS, "dropout": 0.0, "loss": {"name": "mse"}, "schedule": {"name": "constant"}},
        "optimiser": {"name": "adam", "learning_rate": 1e-3, "weight_decay": 0.0},
    }
    block = {"dataset": "d", "target": "t", "family": "nets", "plugin": NETS[name]["plugin"]}
    shape = base.Shape(tuple(f"column_{i}" for i in range(COLUMNS)), ("return",))
    shared = SHARED | {"epochs": asked.epochs, "stride": asked.stride}
    return base.build(block | {"build": build | NETS[name]["tunables"]}, shape, shared=shared, seed=0)


class Slices(Dataset[tuple[Tensor, Tensor]]):
    """Each window cut out of the table when it is asked for."""

    def __init__(self, x: Tensor, y: Tensor, ends: np.ndarray) -> None:
        """A window ends with each of the rows `ends`."""
        self.x, self.y, self.ends = x, y, ends.tolist()

    def __len__(self) -> int:
        """So many windows."""
        return len(self.ends)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """(T, F) and a scalar."""
        end = self.ends[i]
        return self.x[end - BARS + 1 : end + 1], self.y[end]


def steps(net: nn.Module, epochs: int, batches: Callable[[], Iterable[Sequence[Tensor]]]) -> None:
    """So many epochs as everybody writes them."""
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for x, y in batches():
            optimiser.zero_grad(set_to_none=True)
            loss = nn.functional.mse_loss(net(x)[:, 0], y)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            loss.item()


def one_batch(name: str, samples: Samples, asked: Asked) -> Callable[[], object]:
    """The same prepared batch, as often as an epoch has batches."""
    made = model(name, asked)
    x = torch.from_numpy(made.inputs(samples, np.arange(asked.rows - BATCH, asked.rows)))
    y = torch.from_numpy(samples.y[-BATCH:])
    with_memory_kept = kept_memory()(steps)
    return lambda: with_memory_kept(made.whole, asked.epochs, lambda: repeat((x, y), asked.batches))


def engine(name: str, samples: Samples, asked: Asked) -> Callable[[], object]:
    """The loop of the pipeline, which draws the windows of each epoch out of all rows."""
    made, folder = model(name, asked), Path(tempfile.mkdtemp())
    bench = base.Bench(folder, folder / "history.csv", "fit", {"split": 0})
    train = np.arange(asked.rows)[-asked.batches * BATCH * asked.stride :]
    return lambda: made.fit(samples, train, train[:1], bench=bench)


def array(name: str, samples: Samples, asked: Asked) -> Callable[[], object]:
    """All windows gathered into one array, as long as it takes outside of the time that counts."""
    view = np.lib.stride_tricks.sliding_window_view(samples.x, BARS, axis=0).transpose(0, 2, 1)
    ends = drawn(asked)
    every = TensorDataset(torch.from_numpy(view[ends - BARS + 1]), torch.from_numpy(samples.y[ends]))
    return lambda: steps(model(name, asked).whole, asked.epochs, lambda: DataLoader(every, BATCH, shuffle=True))


def slices(name: str, samples: Samples, asked: Asked) -> Callable[[], object]:
    """One window after another, put together by the DataLoader."""
    every = Slices(torch.from_numpy(samples.x), torch.from_numpy(samples.y), drawn(asked))
    return lambda: steps(model(name, asked).whole, asked.epochs, lambda: DataLoader(every, BATCH, shuffle=True))


def drawn(asked: Asked) -> np.ndarray:
    """The last row of each window of an epoch: every stride-th, where a whole window is before it."""
    return np.maximum(np.arange(asked.rows)[:: -asked.stride][: asked.batches * BATCH], BARS - 1)


WAYS = {"one batch": one_batch, "engine": engine, "array": array, "slices": slices}


def measured(way: str, name: str, asked: Asked) -> dict[str, float]:
    """Windows a second and MiB of one way, in this process."""
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    array(name, table(2 * BATCH), Asked(2 * BATCH, 1, 1))()
    epoch = WAYS[way](name, table(asked.rows), asked)
    start = time.perf_counter()
    epoch()
    rate = asked.epochs * asked.batches * BATCH / (time.perf_counter() - start)
    return {"rate": rate, "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def main() -> None:
    """Measure every way for every net, or, as a child, one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=30_000, help="of the table")
    parser.add_argument("--stride", type=int, default=1, help="a window for every so many rows")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--child", nargs=2, metavar=("WAY", "NET"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    asked = Asked(given.rows, given.stride, given.epochs)
    if given.child:
        print(json.dumps(measured(*given.child, asked)))
        return
    words = [sys.executable, __file__, *(f"--{name}={value}" for name, value in asdict(asked).items())]
    for name in NETS:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in given.ways}
        for _ in range(given.rounds):
            for way in given.ways:
                done = subprocess.run([*words, "--child", way, name], capture_output=True, text=True, check=True)
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
        print(
            f"{name}, {asked.batches * BATCH:,} windows of {BARS} bars x {COLUMNS} columns out of {asked.rows:,} rows"
        )
        for way, all_found in found.items():
            shares = [one["rate"] / first["rate"] for one, first in zip(all_found, found[given.ways[0]], strict=True)]
            rate = statistics.median(each["rate"] for each in all_found)
            mib = statistics.median(each["mib"] for each in all_found)
            share = f"{statistics.median(shares):5.2f} of {given.ways[0]}"
            print(f"  {way:10} {rate:9,.0f} windows/s  {share}  {mib:7,.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
