"""Where a fit that was interrupted goes on: everything that its further course depends on, in one file."""

import dataclasses
import hashlib
import json
import os
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.models.base import Bench, Model
from pipeline.samples import Samples

DAMAGE = (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile)
State = dict[str, Any]  # of plain values and tensors


class CheckpointError(ValueError):
    """A checkpoint is damaged, or of another fit."""


class Checkpoint:
    """One file of one fit, replaced as a whole: whoever is killed while writing leaves the one before."""

    def __init__(self, file: Path, *, fingerprint: str, seconds: float) -> None:
        """`fingerprint` says of what fit; `seconds` must pass between two of them."""
        self.file, self.fingerprint, self.seconds = file, fingerprint, seconds
        self.written = time.monotonic()

    def is_due(self) -> bool:
        """Whether enough time has passed since the last one."""
        return time.monotonic() - self.written >= self.seconds

    def write(self, state: State) -> None:
        """The file holds `state` and nothing half-written."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_name(f".{self.file.name}.draft")
        with draft.open("wb") as stream:
            torch.save({"fingerprint": self.fingerprint, "state": state}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(self.file)
        self.written = time.monotonic()

    def read(self) -> State | None:
        """What was written last, or None where nothing was.

        Raises:
            CheckpointError: the file is truncated, or of another fit.
        """
        if not self.file.exists():
            return None
        remedy = f"delete {self.file} to train this fit from its beginning"
        try:
            found = torch.load(self.file, map_location="cpu", weights_only=True)
        except DAMAGE as error:
            raise CheckpointError(f"{self.file}: not a whole checkpoint ({error}); {remedy}") from error
        if not isinstance(found, dict) or found.get("fingerprint") != self.fingerprint:
            raise CheckpointError(f"{self.file}: a checkpoint of another fit, data or version; {remedy}")
        state: State = found["state"]
        return state


def kept(
    bench: Bench, model: Model, samples: Samples, train: np.ndarray, valid: np.ndarray, *, seconds: float
) -> Checkpoint:
    """The checkpoint of a fit on a bench; with other params, data or rows a fit has a file of its own."""
    mark = fingerprint(model, samples, train, valid)
    return Checkpoint(bench.folder / f"{bench.name}-{mark[:16]}.pt", fingerprint=mark, seconds=seconds)


def fingerprint(model: Model, samples: Samples, train: np.ndarray, valid: np.ndarray) -> str:
    """What a fit depends on, in 64 letters: params, seed, data, rows and torch's version."""
    plain = {each.name: getattr(model, each.name) for each in dataclasses.fields(model) if each.init}
    plain |= {"shape": dataclasses.asdict(model.shape), "torch": torch.__version__, "model": type(model).__module__}
    total = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode())
    for array in (samples.x, samples.y, samples.segment, samples.move, train, valid):
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
