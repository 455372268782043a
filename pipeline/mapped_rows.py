"""Rows of numbers in a file that is mapped into memory: processes share them, and need memory for none of them."""

import fcntl
import glob
import os
import secrets
import shutil
import weakref
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.artifacts import name_in_errors, remove_abandoned_drafts

FILE = "rows.f32"


def map_rows(blocks: Iterable[np.ndarray], *, columns: int, beside: Path) -> np.ndarray:
    """Return (N, columns) float32 of blocks (n, columns), in a file beside the table `beside`, which is not changed.

    The file lies in a folder `.*.draft`, which git and DVC ignore, and is removed with the array, or when the process
    ends; that of a killed process is removed by the next one that maps rows of the table. The array may be written to:
    what a process writes is seen by no other, and is not stored.

    Raises:
        OSError: the file cannot be written, as on a full disk; it names `beside`.
    """
    with name_in_errors(beside):
        remove_abandoned_drafts(beside.parent, glob.escape(beside.name))
        folder, lock = _make_folder(beside)
        try:
            rows = 0
            with (folder / FILE).open("wb") as file:
                for block in blocks:
                    np.ascontiguousarray(block, dtype=np.float32).tofile(file)
                    rows += len(block)
            mapped = np.memmap(folder / FILE, dtype=np.float32, mode="c", shape=(rows, columns))
        except BaseException:
            _remove(folder, lock)
            raise
    weakref.finalize(mapped, _remove, folder, lock)
    return np.asarray(mapped)


def _make_folder(beside: Path) -> tuple[Path, int]:
    """Return a new folder beside a table, and the file descriptor that locks it until this process ends."""
    folder = beside.with_name(f".{beside.name}.{os.getpid()}-{secrets.token_hex(4)}")
    folder.mkdir()
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # before it has the name of a draft, which any process may remove
    return folder.rename(f"{folder}.draft"), lock


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
