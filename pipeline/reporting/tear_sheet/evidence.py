"""The results of earlier stages that a report is made from, in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

Report = Mapping[str, Any]
Curve = tuple[np.ndarray, np.ndarray, np.ndarray]  # (bins,) mean prediction, mean outcome, its standard error


@dataclass(frozen=True, eq=False)
class Calibration:
    """The curve of each output that predictions have, or the reason why there is none."""

    curves: Mapping[str, Curve]
    unit: str
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class ModelEvidence:
    """The results of one model on every path of the development part."""

    name: str
    family: str
    target: str
    time_ms: np.ndarray  # (T,)
    paths: np.ndarray  # (T, paths) net returns
    median_path: int
    bars_per_year: float
    round_trips: pd.DataFrame  # of the median path
    headline: Report  # trained/reports/evaluate/<model>.json
    details: Report  # trained/reports/evaluate/details/<model>.json
    audit: Report | None  # None for a model that is not fitted
    training: Report | None  # None for a model that is not fitted
    history: pd.DataFrame  # of the fits; empty for a model that is not fitted
    calibration: Calibration
    class_names: Sequence[str]  # of the confusion matrix

    @property
    def net(self) -> np.ndarray:
        """(T,) net returns of the median path."""
        return np.asarray(self.paths[:, self.median_path])

    @property
    def metrics(self) -> Report:
        """All metrics of the median path."""
        metrics: Report = self.details["model"]["paths"][self.median_path]
        return metrics


@dataclass(frozen=True, eq=False)
class DatasetEvidence:
    """The results of one dataset; reports are those of the stages of these names."""

    dataset: str
    source: str
    ingest: Report
    label: Report
    split: Report
    guard: Report
    canary: Report
    liquidity: Report
    signals: Report  # trained/reports/signals/details/<dataset>.json
    sensitivity: Report
    headline: Report  # trained/reports/compare/<dataset>.json
    compare: Report  # trained/reports/compare/details/<dataset>.json
    models: Sequence[ModelEvidence]  # those that are traded, in the order of the leaderboard
    not_traded: Sequence[str] = ()
