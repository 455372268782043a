"""The labels of every row, the prices and the costs of trading, against which predictions of a model are measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from pipeline import artifacts, config
from pipeline.evaluation import performance
from pipeline.samples import read_labels
from pipeline.targets import Output, Target


@dataclass(frozen=True)
class EvaluationData:
    """The labels of every row of a dataset, its prices, and the costs of trading it."""

    rows: pd.DataFrame  # segment, time
    clean: pd.DataFrame  # symbol, segment, time, close of every bar
    y: np.ndarray
    move: np.ndarray
    output: Output
    target: str  # its name
    is_included: np.ndarray  # (N,) bool, whether the model predicts the row's symbol
    symbols: int  # that it predicts
    bar_ms: int | None  # None where the clock is no grid: then no bar is missing
    bars_per_year: float
    costs: Mapping[str, Any]
    risk_free_rate: float = 0.0  # per year
    to_ms: Callable[[np.ndarray], np.ndarray] = np.asarray  # from the clock to the instants that plots show


def load_evaluation_data(
    params: config.Block, block: config.Block, rows: pd.DataFrame, *, symbols: Sequence[str], clock: ModuleType
) -> EvaluationData:
    """Return the labels, prices and costs of the target that a model block names; `symbols` are those it predicts.

    `clock` is the module of that name of the dataset's kind.
    """
    dataset, file = block["dataset"], artifacts.LABELS / block["dataset"] / f"{block['target']}.parquet"
    labels = read_labels(file, rows=rows)
    clean = pd.read_parquet(artifacts.CLEAN / f"{dataset}.parquet", columns=[*clock.COLUMNS, "close"])
    return EvaluationData(
        rows=rows,
        clean=clean.rename(columns={clock.TIME: "time"}),
        y=labels["y"],
        move=labels["move"],
        output=Target.load(file).output,
        target=block["target"],
        is_included=rows["symbol"].isin(symbols).to_numpy(),
        symbols=len(symbols),
        bar_ms=clock.find_step(clean),
        bars_per_year=clock.count_rows_per_year(clean),
        costs=config.look_up(params, "trading"),
        risk_free_rate=read_risk_free_rate(params),
        to_ms=partial(clock.to_ms, clean),
    )


def read_risk_free_rate(params: config.Block) -> float:
    """Return the annual risk-free rate of the section `performance`."""
    section = config.look_up(params, "performance")
    return config.call_with(performance.declare_rate, block=section, name="performance")
