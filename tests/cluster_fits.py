"""A Dask cluster on loopback, started as users start it, and what its workers run in tests."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.small_repository import ROOT

PAGE = ROOT / "pipeline/cluster/README.md"


@contextlib.contextmanager
def start_cluster(folder: Path, *, workers: int = 2) -> Iterator[str]:
    """Yield the address of a scheduler with workers, started by the commands of the README, but for the address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    scheduler, worker = list_commands(port)
    with run(scheduler, folder), run(f"{worker} --nworkers {workers} --no-dashboard", folder):
        yield f"tcp://127.0.0.1:{port}"


def list_commands(port: str) -> list[str]:
    """Return the commands of the README that start a scheduler and workers, on loopback."""
    block = PAGE.read_text().split("```sh\n")[1].split("```")[0]
    lines = block.replace("10.0.0.1", "127.0.0.1").replace("8786", port).splitlines()
    return [line.split("#")[0] for line in lines]


@contextlib.contextmanager
def join_cluster(address: str, folder: Path) -> Iterator[None]:
    """Start one more worker of a scheduler."""
    _, worker = list_commands(address.rsplit(":", 1)[1])
    with run(f"{worker} --nworkers 1 --no-dashboard", folder):
        yield


@contextlib.contextmanager
def run(text: str, folder: Path) -> Iterator[None]:
    """Run a command in a folder, with its output in a file there, and end it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    words = shlex.split(text)
    with (folder / f"{words[0]}.log").open("w") as log:
        running = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            running.terminate()
            running.wait(timeout=60)


class Counted:
    """Data that writes a line with the process to `file` wherever it arrives."""

    def __init__(self, file: Path, values: np.ndarray) -> None:
        self.file, self.values = file, values

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        append(self.file, str(os.getpid()))


class Fatal(Counted):
    """Data whose second arrival ends the process of the worker."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if len(self.file.read_text().split()) == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def append(file: Path, line: str) -> None:
    with file.open("a") as stream:
        stream.write(f"{line}\n")


def add_up(data: Counted, number: int) -> float:
    """Return a sum; each call takes long enough that every worker has a share."""
    time.sleep(0.2)
    return float(data.values.sum()) + number


def meet(data: Counted, number: int, folder: Path) -> int:
    """Note the process in `folder`, and return once three processes of workers are there."""
    (folder / str(os.getpid())).touch()
    wait_for(lambda: len(list(folder.iterdir())) >= 3, seconds=60)
    return number


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


def die_in_second(number: int, folder: Path) -> Counted:
    """End the process of the worker once, in the later of the fits 1 and 2, when the other one is received.

    The fit 0 holds one of two workers until that fit runs again; its result is the first one of the client.
    """
    append(folder / f"runs_{number}", str(os.getpid()))
    if number == 0:
        wait_for(lambda: any(len(file.read_text().split()) > 1 for file in folder.glob("runs_*")), seconds=120)
    elif (folder / f"runs_{3 - number}").exists() and not (folder / "died").exists():
        wait_for((folder / f"received_{3 - number}").exists, seconds=30)
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Counted(folder / f"received_{number}", np.array([number]))


def wait_for(condition: Callable[[], bool], *, seconds: float) -> None:
    """Return once a condition holds, or after some seconds."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def die(folder: Path) -> None:
    append(folder / "deaths", str(os.getpid()))
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number: int) -> None:
    raise ValueError(f"split {number}: no train row")


def read_pins(names: tuple[str, ...]) -> dict[str, str | None]:
    """Return variables of this process and how many threads its libraries would use."""
    return {name: os.environ.get(name) for name in (*names, "OMP_NUM_THREADS")}
