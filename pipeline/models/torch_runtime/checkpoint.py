"""Checkpoints of a fit: one file with everything that the rest of the fit depends on."""

import dataclasses
import hashlib
import io
import json
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import artifacts
from pipeline.digests import ArtifactError
from pipeline.models.base import Model
from pipeline.models.fit_files import FitFiles
from pipeline.models.measurements import FitMeter
from pipeline.samples import Samples

READ_ERRORS = (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile)
DIGEST_BYTES = 32  # of the sha256 of the rest, at the end: torch reads damaged numbers without an error
CheckpointState = dict[str, Any]  # of plain values and tensors


class CheckpointError(ArtifactError):
    """A checkpoint that is damaged, or that belongs to another fit."""


class Checkpoint:
    """The checkpoint file of one fit, always replaced as a whole: a kill while writing leaves the previous one."""

    def __init__(self, file: Path, *, fingerprint: str, interval_seconds: float, meter: FitMeter) -> None:
        """Store the state of a fit, and its meter, no more often than every `interval_seconds`.

        `fingerprint` identifies the fit.
        """
        self.file, self.fingerprint, self.interval_seconds = file, fingerprint, interval_seconds
        self.meter = meter
        self.last_write = time.monotonic()

    def is_due(self) -> bool:
        """Return whether enough time has passed since the last checkpoint."""
        return time.monotonic() - self.last_write >= self.interval_seconds

    def write(self, state: CheckpointState) -> None:
        """Replace the file by one that holds `state`."""
        buffer = io.BytesIO()  # of a full disk torch would raise a RuntimeError without a cause
        content = {"fingerprint": self.fingerprint, "state": state, "measured": self.meter.state_dict()}
        torch.save(content, buffer)
        saved = buffer.getbuffer()
        with artifacts.replace_atomically(self.file) as draft, draft.open("wb") as stream:
            stream.write(saved)
            stream.write(hashlib.sha256(saved).digest())
        self.last_write = time.monotonic()

    def read(self) -> CheckpointState | None:
        """Return the state that was written last, or None where there is no file.

        Raises:
            CheckpointError: the file is truncated or has a flipped bit, or belongs to another fit.
        """
        remedy = f"delete {self.file} to train this fit from the start"
        try:
            content = self.file.read_bytes()
        except FileNotFoundError:
            return None
        saved = memoryview(content)[:-DIGEST_BYTES]
        if hashlib.sha256(saved).digest() != content[-DIGEST_BYTES:]:
            raise CheckpointError(
                f"{self.file}: damaged or incomplete checkpoint (its digest is not that of its content); {remedy}"
            )
        try:
            found = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
        except READ_ERRORS as error:
            raise CheckpointError(
                f"{self.file}: damaged or incomplete checkpoint ({type(error).__name__}); {remedy}"
            ) from error
        if not isinstance(found, dict) or found.get("fingerprint") != self.fingerprint or "measured" not in found:
            raise CheckpointError(f"{self.file}: checkpoint of another fit, data or version; {remedy}")
        self.meter.load_state_dict(found["measured"])
        state: CheckpointState = found["state"]
        return state


def make_checkpoint(
    files: FitFiles, model: Model, *, samples: Samples, train: np.ndarray, valid: np.ndarray, interval_seconds: float
) -> Checkpoint:
    """Return the checkpoint of a fit; with other params, data or rows a fit has a file of its own."""
    fingerprint = fingerprint_fit(model, samples=samples, train=train, valid=valid)
    file = files.checkpoints / f"{files.name}-{fingerprint[:16]}.pt"
    return Checkpoint(file, fingerprint=fingerprint, interval_seconds=interval_seconds, meter=files.meter)


def fingerprint_fit(model: Model, *, samples: Samples, train: np.ndarray, valid: np.ndarray) -> str:
    """Return a SHA-256 of what a fit depends on: params, seed, data, rows and the version of torch."""
    settings = {each.name: getattr(model, each.name) for each in dataclasses.fields(model) if each.init}
    settings |= {
        "shape": dataclasses.asdict(model.signature),
        "torch": torch.__version__,
        "model": type(model).__module__,
    }
    total = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    filled = vars(samples.fills).values() if samples.fills else ()
    for array in (samples.x, samples.learned, samples.segment, *filled, train, valid):
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
