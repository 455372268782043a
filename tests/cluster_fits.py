"""A Dask cluster on loopback, started as users start it, and what its workers run in tests."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.small_repository import ROOT


@contextlib.contextmanager
def start_cluster(folder: Path, *, workers: int = 2) -> Iterator[str]:
    """Yield the address of a scheduler with workers, each a process."""
    file = folder / "scheduler.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}
    options = ["--scheduler-file", str(file), "--no-dashboard", "--host", "127.0.0.1"]
    parts = {"dask": ["scheduler", "--port", "0"], "pipeline.cluster.worker": ["--nworkers", str(workers)]}
    with contextlib.ExitStack() as stack:
        for module, own in parts.items():
            log = stack.enter_context((folder / f"{module}.log").open("w"))
            words = [sys.executable, "-m", module, *own, *options]
            running = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)
            stack.callback(stop, running)
            wait_for(file)
        yield json.loads(file.read_text())["address"]


def stop(running: subprocess.Popen) -> None:
    running.terminate()
    running.wait(timeout=60)


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists() or not file.read_text().endswith("}"):
        assert time.monotonic() < deadline, f"{file} was not written"
        time.sleep(0.05)


class Counted:
    """Data that writes a line with the process to `file` wherever it arrives."""

    def __init__(self, file: Path, values: np.ndarray) -> None:
        self.file, self.values = file, values

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        append(self.file, str(os.getpid()))


def append(file: Path, line: str) -> None:
    with file.open("a") as stream:
        stream.write(f"{line}\n")


def add_up(data: Counted, number: int) -> float:
    """Return a sum; each call takes long enough that every worker has a share."""
    time.sleep(0.2)
    return float(data.values.sum()) + number


def write_as_fits_do(number: int) -> int:
    """Append to a CSV that fits share, and write a model and a checkpoint, all by relative paths."""
    for folder in ("trained/models/.m.draft", "trained/checkpoints/m"):
        Path(folder).mkdir(parents=True)
        (Path(folder) / f"{number}.pt").write_text(f"weights {number}")
    append(Path("trained/history.csv"), f"{number},0.5")
    return number


def die_once(number: int, folder: Path) -> int:
    """End the process of the worker at the first run of the fit 1; note every run in `folder`."""
    append(folder / f"runs_{number}", str(os.getpid()))
    if number == 1 and len((folder / "runs_1").read_text().split()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number: int) -> None:
    raise ValueError(f"split {number}: no train row")


def read_pins(names: tuple[str, ...]) -> dict[str, str | None]:
    """Return variables of this process and how many threads its libraries would use."""
    return {name: os.environ.get(name) for name in (*names, "OMP_NUM_THREADS")}
