"""The file from which a feed goes on after a restart: the state of its hot path, and the last bar of each symbol."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.artifacts import replace_atomically

SYMBOLS, LAST_MS = "feed_symbols", "feed_last_ms"  # beside the arrays of the hot path
UNREADABLE = (zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError)


class SavedState(NamedTuple):
    """What a state file has."""

    hot_path: dict[str, npt.NDArray[Any]]
    last_ms: dict[str, int]  # `open_time` of the last bar taken, by symbol


def write_state(path: Path, state: Mapping[str, npt.NDArray[Any]], *, last_ms: Mapping[str, int]) -> None:
    """Write the state of a hot path and the times of its last bars to an npz that takes the place of `path` whole."""
    own = {SYMBOLS: np.array(list(last_ms), dtype=np.str_), LAST_MS: np.array(list(last_ms.values()), dtype=np.int64)}
    with replace_atomically(path) as draft, draft.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **state, **own)


def read_state(path: Path) -> SavedState:
    """Return what `write_state` wrote, bit for bit; ValueError where the file is damaged or another one."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        symbols, times = arrays.pop(SYMBOLS).tolist(), arrays.pop(LAST_MS).tolist()
        return SavedState(arrays, dict(zip(symbols, times, strict=True)))
    except UNREADABLE as error:
        fault = " ".join(f"{type(error).__name__} {error}".split())
        raise ValueError(
            f"{path} is no readable state of a feed ({fault}); name another file, or remove it to start without history"
        ) from error
