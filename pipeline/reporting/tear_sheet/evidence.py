"""The results of earlier stages that a report is made from, in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
class Bars:
    """The prices of one symbol."""

    time_ms: np.ndarray  # (T,) at which each bar opens
    open: np.ndarray  # (T,), as the rest
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray

    def slice_bars(self, first: int, last: int) -> "Bars":
        """Return bars `first` to `last`, without `last`."""
        part = slice(first, last)
        return Bars(self.time_ms[part], self.open[part], self.high[part], self.low[part], self.close[part])


@dataclass(frozen=True, eq=False)
class Look:
    """An evaluation of a model on the sealed holdout, as the ledger records it."""

    model: str
    target: str
    digest: str  # of the parameters
    first_day: int  # days since 1970-01-01
    daily: Sequence[float | None]  # net return of each day; None on a day without a bar
    sharpe: float  # annualized, of bars; NaN where it is undefined

    @property
    def net_return(self) -> float:
        """Compounded over all days."""
        return float(np.prod([1.0 + value for value in self.daily if value is not None]) - 1.0)


@dataclass(frozen=True, eq=False)
class ModelReports:
    """The reports on one model, which a verdict needs."""

    name: str
    headline: Report  # trained/reports/evaluate/<model>.json
    details: Report  # trained/reports/evaluate/details/<model>.json
    audit: Report | None  # None for a model that is not fitted


@dataclass(frozen=True, eq=False)
class ModelEvidence(ModelReports):
    """The results of one model on every path of the development part."""

    family: str
    target: str
    time_ms: np.ndarray  # (T,)
    paths: np.ndarray  # (T, paths) net returns
    median_path: int
    bars_per_year: float
    round_trips: pd.DataFrame  # of the median path
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
class BundleEvidence:
    """The reports on the bundle of a dataset; None where there is none."""

    gate: Report | None
    prop_firm: Report | None  # trained/reports/prop_firm/<dataset>.json
    prop_firm_details: Report | None  # trained/reports/prop_firm/details/<dataset>.json
    latency: Report | None  # trained/measured/latency/<dataset>.json, of the bundle's contract
    no_latency_reason: str


@dataclass(frozen=True, eq=False)
class DatasetReports:
    """The reports on one dataset, which a verdict needs; they are those of the stages of these names."""

    dataset: str
    source: str
    is_simulated: bool
    split: Report
    guard: Report
    canary: Report
    headline: Report  # trained/reports/compare/<dataset>.json
    compare: Report  # trained/reports/compare/details/<dataset>.json
    models: Sequence[ModelReports]  # those that are traded, in the order of the leaderboard


@dataclass(frozen=True, eq=False)
class DatasetEvidence(DatasetReports):
    """The results of one dataset."""

    models: Sequence[ModelEvidence]
    ingest: Report
    label: Report
    liquidity: Report
    signals: Report  # trained/reports/signals/details/<dataset>.json
    sensitivity: Report
    not_traded: Sequence[str] = ()
    bars: Mapping[str, Bars] = field(default_factory=dict)  # by symbol; none where rows are no bars
    looks: Sequence[Look] = ()  # of the ledger, at the holdout of this market
    bundle: BundleEvidence | None = None  # None on the page of the stage, which is made before the bundle


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two revisions that a page compares."""

    name: str
    params: Report  # params.yaml
    reports: DatasetReports
    gate: Report | None  # trained/reports/gate/<dataset>.json; None where no bundle is judged
