"""The files that a running fit writes: checkpoints, its history, and what it takes of time and memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import artifacts
from pipeline.models.live_metrics import LiveMetrics
from pipeline.models.measurements import MEASUREMENTS, FitMeter


@dataclass(frozen=True)
class FitFiles:
    """The files of one fit: its checkpoints, and the CSVs that it shares with the model's other fits."""

    checkpoints: Path  # a folder, shared by the fits of a model
    metrics: Path  # a CSV to which every fit appends its epochs
    measured: Path  # a CSV to which every fit appends its seconds and its peak memory
    name: str  # of the fit, as a file name
    labels: Mapping[str, object]  # of the fit, the first columns of its lines in both CSVs
    meter: FitMeter = field(default_factory=FitMeter)

    def open_measurements(self) -> LiveMetrics:
        """Return what appends the fit's lines to `measured`."""
        return LiveMetrics(self.measured, labels=self.labels, fields=MEASUREMENTS)


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of the fits of a model; a draft that another process is writing stays, with the folder."""
    artifacts.remove_abandoned_drafts(folder)
    for file in folder.glob("*.pt"):
        file.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
