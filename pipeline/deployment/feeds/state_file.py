"""The file from which a feed goes on after a restart: the state of its hot path, as an npz."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts import replace_atomically

UNREADABLE = (zipfile.BadZipFile, EOFError, OSError, ValueError)


def write_state(path: Path, state: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write the state of a hot path to an npz that takes the place of `path` once all of it is on the disk."""
    with replace_atomically(path) as draft, draft.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **state)


def read_state(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return what `write_state` wrote, bit for bit; ValueError where the file is damaged or another one."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except UNREADABLE as error:
        fault = " ".join(f"{type(error).__name__} {error}".split())
        raise ValueError(
            f"{path} is no readable state of a feed ({fault}); name another file, or remove it to start without history"
        ) from error
