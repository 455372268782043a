"""A fit as it travels to a worker, and the files that it writes there, which travel back."""

import io
import pickle
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from distributed import get_worker

from pipeline import PINNED, artifacts
from pipeline.cluster.errors import ClusterError
from pipeline.cluster.machine import describe_worker

LARGE_BYTES = 100_000  # an argument that several fits share is sent apart from them above this size

Job = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]  # what `joblib.delayed` returns


@dataclass(frozen=True)
class Shared:
    """In the place of an argument that was sent apart: its number."""

    number: int


@dataclass(frozen=True)
class Call:
    """A call of a fit, without the arguments that it shares with others."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    facts: Mapping[str, str]  # that its worker must have
    folders: Sequence[str]  # that the stage has made for the files of its fits


@dataclass(frozen=True)
class Outcome:
    """The result of a fit, and the content of the files that it wrote, by their paths relative to the client's."""

    result: Any
    files: Mapping[str, bytes]


def find_shared(jobs: Sequence[Job]) -> list[Any]:
    """Return the large arguments that more than one of these calls has, or that the only call has."""
    seen: dict[int, Any] = {}
    counts: dict[int, int] = {}
    for _, args, kwargs in jobs:
        for each in {id(value): value for value in (*args, *kwargs.values())}.values():
            seen[id(each)] = each
            counts[id(each)] = counts.get(id(each), 0) + 1
    fewest = min(2, len(jobs))
    return [each for each in seen.values() if counts[id(each)] >= fewest and measure_bytes(each) > LARGE_BYTES]


def measure_bytes(value: Any) -> int:
    """Return the size of a pickled value, without copying the arrays in it."""
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    pickle.Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(value)
    return stream.tell() + sum(buffer.raw().nbytes for buffer in buffers)


def list_folders() -> list[str]:
    """Return the folders of `trained` that are here, where fits may write without making them."""
    found = (each for each in artifacts.TRAINED.rglob("*") if each.is_dir())
    return sorted(each.as_posix() for each in found if not each.is_relative_to(artifacts.CHECKPOINTS))


def make_call(job: Job, shared: Sequence[Any], *, facts: Mapping[str, str], folders: Sequence[str]) -> Call:
    """Return a job as a call in which shared arguments are numbers."""
    function, args, kwargs = job
    numbers = {id(value): Shared(number) for number, value in enumerate(shared)}
    swapped = {name: numbers.get(id(value), value) for name, value in kwargs.items()}
    return Call(function, tuple(numbers.get(id(value), value) for value in args), swapped, facts, folders)


def run_call(call: Call, *shared: Any) -> Outcome:
    """Run a fit on a worker, in a folder that has the client's folders, but no file.

    A checkpoint stays behind: a fit that a killed worker leaves starts anew on another one.

    Raises:
        ClusterError: this worker, which may have joined after the others were checked, is not as the client is.
    """
    worker = get_worker()
    check_facts(call.facts, describe_this_worker(), address=worker.address)

    def restore(value: Any) -> Any:
        return shared[value.number] if isinstance(value, Shared) else value

    args, kwargs = map(restore, call.args), {name: restore(value) for name, value in call.kwargs.items()}
    with tempfile.TemporaryDirectory(dir=worker.local_directory) as folder, chdir(folder):
        for each in call.folders:
            Path(each).mkdir(parents=True, exist_ok=True)
        result = call.function(*args, **kwargs)
        written = (file for file in Path().rglob("*") if file.is_file())
        lasting = (file for file in written if not file.is_relative_to(artifacts.CHECKPOINTS))
        return Outcome(result, {file.as_posix(): file.read_bytes() for file in lasting})


@cache
def describe_this_worker() -> dict[str, str]:
    """Return the facts of this process, as they are at its first fit."""
    return describe_worker(tuple(PINNED))


def check_facts(expected: Mapping[str, str], found: Mapping[str, str], *, address: str) -> None:
    """Raise ClusterError naming the first fact of a worker that differs."""
    for name, value in expected.items():
        if found.get(name) != value:
            raise ClusterError(
                f"worker {address} has {name} {found.get(name)}, the client {value}; give both the same commit and "
                "environment, and start it again by python -m pipeline.cluster.worker"
            )


def write_files(files: Mapping[str, bytes]) -> None:
    """Write the files of a fit; to a CSV that is here its lines are appended, as fits on this machine do."""
    for name, content in files.items():
        file = Path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        with artifacts.name_in_errors(file), file.open("ab" if file.suffix == ".csv" else "wb") as stream:
            stream.write(content)
