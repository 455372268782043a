"""Windows a second of a training epoch, and memory: `python benchmarks/nets.py`, beside the usual ways to load them.

Each way trains the same net on the same table with the same optimiser, in a process of its own and on one thread:
`one batch` takes one prepared batch again and again, so that its time is the arithmetic of the net alone; `engine` is
the loop of pipeline/models/nets with all its callbacks and a validation of no size; `array` gathers all windows first
and hands them to a DataLoader; `slices` cuts each window out in a Dataset's `__getitem__`. The medians of several
rounds, in which the ways take turns. Memory is the most that the process held over what it held after its imports.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pipeline.models import base
from pipeline.samples import Samples

ROWS, COLUMNS, BARS, BATCH = 129_600, 44, 60, 512
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
    **{"device": "cpu", "mixed_precision": False, "epochs": 1, "patience": 1, "batch": BATCH, "stride": 1, "clip": 5.0},
    **{"gradient_norm": 1.0, "monitor_batches": 10, "checkpoint_seconds": 20.0},
}


def table() -> Samples:
    """A table of noise: what a net makes of it takes as long as of anything else."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32), rng.normal(size=ROWS).astype(np.float32)
    time_ms, columns = 60_000 * np.arange(ROWS, dtype=np.int64), tuple(f"column_{i}" for i in range(COLUMNS))
    return Samples(time_ms, time_ms, np.zeros(ROWS, np.int32), x, columns, y, np.zeros(ROWS))


def model(name: str) -> base.Model:
    """An unfitted net of `NETS`."""
    build = {
        **{"bars": BARS, "dropout": 0.0, "loss": {"name": "mse"}, "schedule": {"name": "constant"}},
        "optimiser": {"name": "adam", "learning_rate": 1e-3, "weight_decay": 0.0},
    }
    block = {"dataset": "d", "target": "t", "family": "nets", "plugin": NETS[name]["plugin"]}
    shape = base.Shape(tuple(f"column_{i}" for i in range(COLUMNS)), ("return",))
    return base.build(block | {"build": build | NETS[name]["tunables"]}, shape, shared=SHARED, seed=0)


class Slices(Dataset[tuple[Tensor, Tensor]]):
    """Each window cut out of the table when it is asked for."""

    def __init__(self, x: Tensor, y: Tensor, windows: int) -> None:
        """The last `windows` rows have a window each."""
        self.x, self.y, self.windows = x, y, windows

    def __len__(self) -> int:
        """So many windows."""
        return self.windows

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """(T, F) and a scalar."""
        end = len(self.x) - self.windows + i + 1
        return self.x[end - BARS : end], self.y[end - 1]


def steps(net: nn.Module, batches: Iterator[tuple[Tensor, Tensor]] | DataLoader[tuple[Tensor, ...]]) -> None:
    """One epoch as everybody writes it."""
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for x, y in batches:
        optimiser.zero_grad(set_to_none=True)
        loss = nn.functional.mse_loss(net(x)[:, 0], y)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        loss.item()


def one_batch(name: str, samples: Samples, windows: int) -> Callable[[], object]:
    """The same prepared batch, as often as an epoch has batches."""
    made = model(name)
    x = torch.from_numpy(made.inputs(samples, np.arange(ROWS - BATCH, ROWS)))
    y = torch.from_numpy(samples.y[-BATCH:])
    return lambda: steps(made.whole, ((x, y) for _ in range(windows // BATCH)))


def engine(name: str, samples: Samples, windows: int) -> Callable[[], object]:
    """The loop of the pipeline."""
    made, folder = model(name), Path(tempfile.mkdtemp())
    bench = base.Bench(folder, folder / "history.csv", "fit", {"split": 0})
    train = np.arange(ROWS - windows, ROWS)
    return lambda: made.fit(samples, train, train[:1], bench=bench)


def array(name: str, samples: Samples, windows: int) -> Callable[[], object]:
    """All windows gathered into one array, as long as it takes outside of the time that counts."""
    view = np.lib.stride_tricks.sliding_window_view(samples.x, BARS, axis=0).transpose(0, 2, 1)[-windows:]
    every = TensorDataset(torch.from_numpy(np.ascontiguousarray(view)), torch.from_numpy(samples.y[-windows:]))
    return lambda: steps(model(name).whole, DataLoader(every, batch_size=BATCH, shuffle=True))


def slices(name: str, samples: Samples, windows: int) -> Callable[[], object]:
    """One window after another, put together by the DataLoader."""
    every = Slices(torch.from_numpy(samples.x), torch.from_numpy(samples.y), windows)
    return lambda: steps(model(name).whole, DataLoader(every, batch_size=BATCH, shuffle=True))


WAYS = {"one batch": one_batch, "engine": engine, "array": array, "slices": slices}


def measured(way: str, name: str, windows: int) -> dict[str, float]:
    """Windows a second and MiB of one way, in this process."""
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    epoch = WAYS[way](name, table(), windows)
    start = time.perf_counter()
    epoch()
    seconds = time.perf_counter() - start
    return {"rate": windows / seconds, "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def main() -> None:
    """Measure every way for every net, or, as a child, one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=50_000, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("WAY", "NET"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    windows = asked.windows // BATCH * BATCH
    if asked.child:
        print(json.dumps(measured(*asked.child, windows)))
        return
    for name in NETS:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(asked.rounds):
            for way in WAYS:
                words = [sys.executable, __file__, "--windows", str(windows), "--child", way, name]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
        best = statistics.median(each["rate"] for each in found["one batch"])
        print(f"{name}, {windows:,} windows of {BARS} bars x {COLUMNS} columns")
        for way, all_found in found.items():
            rate = statistics.median(each["rate"] for each in all_found)
            mib = statistics.median(each["mib"] for each in all_found)
            print(f"  {way:10} {rate:9,.0f} windows/s  {rate / best:5.2f} of one batch  {mib:7,.0f} MiB")


if __name__ == "__main__":
    main()
