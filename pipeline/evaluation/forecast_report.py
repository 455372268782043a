"""The forecasts of one path beyond its metrics: calibration, tiers, sessions, signals, and gains over the baselines."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from annotated_types import Interval, Len, MinLen
from pydantic import PositiveInt
from threadpoolctl import threadpool_limits

from pipeline import config
from pipeline.evaluation.calibration import measure_calibration
from pipeline.evaluation.evaluation_data import EvaluationData
from pipeline.evaluation.execution import Ascending
from pipeline.evaluation.forecast_gains import measure_gains
from pipeline.evaluation.forecast_parts import (
    find_sides,
    measure_sessions,
    measure_signals,
    measure_tiers,
    name_sessions,
)
from pipeline.evaluation.predictions import select_labeled
from pipeline.evaluation.strategy_metrics import describe_strategy

Share = Annotated[float, Interval(gt=0, lt=1)]
Hour = Annotated[float, Interval(ge=0, le=24)]


@dataclass(frozen=True, kw_only=True)
class ForecastSettings:
    """The section `forecasts` of params.yaml: how the forecasts of a path are divided and compared."""

    calibration_bins: PositiveInt  # of equally many rows
    tiers: Annotated[list[Share], MinLen(1), Ascending]  # quantiles of |score| between tiers
    sessions: dict[str, Annotated[list[Hour], Len(2, 2)]]  # first and last hour of the day, UTC, of each
    confidence: Share  # of the intervals of gains
    resamples: Annotated[int, Interval(ge=100)]
    interval_blocks: PositiveInt  # equal parts of the times of a path, of which intervals have a coverage each
    adaptive_gamma: Share  # step of adaptive conformal inference
    adaptive_window: PositiveInt  # of its scores


def read_settings(params: config.Block) -> ForecastSettings:
    """Return the section `forecasts` of params."""
    return config.call_with(ForecastSettings, block=config.look_up(params, "forecasts"), name="forecasts")


def describe_forecasts(
    predictions: pd.DataFrame,
    baselines: Mapping[str, pd.DataFrame],
    data: EvaluationData,
    *,
    settings: ForecastSettings,
    seed: int,
) -> dict[str, Any]:
    """Return calibration, tiers, sessions, signals and gains of the predictions of one path, JSON-able.

    `baselines` have predictions of the same rows by their names. Rows without a label do not count. Tiers and sessions
    need a score, signals classes with a direction; what does not apply to a target is None. A target with a strategy
    has its metrics too, see `describe_strategy`.
    """
    labeled = select_labeled(predictions, data.is_labeled)
    rows = labeled["row"].to_numpy()
    y, time = data.y[rows], data.rows["time"].to_numpy()[rows]
    instant = np.unique(time, return_inverse=True)[1]
    names = list(data.output.names)
    predicted = labeled[names].to_numpy(np.float64)
    others = {name: select_labeled(table, data.is_labeled)[names].to_numpy() for name, table in baselines.items()}
    with threadpool_limits(limits=1):  # more threads add up in another order
        bins = settings.calibration_bins
        metrics, undefined = measure_calibration(y, predicted, instant, output=data.output, bins=bins)
        gains = measure_gains(
            y,
            predicted,
            others,
            instant,
            output=data.output,
            confidence=settings.confidence,
            resamples=settings.resamples,
            seed=seed,
        )
        strategy = (
            {}
            if data.strategy is None
            else describe_strategy(
                predictions,
                others,
                gains,
                data,
                quantiles=settings.tiers,
                confidence=settings.confidence,
                resamples=settings.resamples,
                seed=seed,
            )
        )
    calibration = {**metrics, "undefined": undefined}
    parts = _divide_forecasts(labeled, y, predicted, data, settings)
    return {"calibration": calibration, "gains": gains, **parts, **strategy}


def _divide_forecasts(
    labeled: pd.DataFrame, y: np.ndarray, predicted: np.ndarray, data: EvaluationData, settings: ForecastSettings
) -> dict[str, Any]:
    if "score" not in labeled or not data.output.has_direction:
        return dict.fromkeys(("tiers", "sessions", "signals"))
    score, side = labeled["score"].to_numpy(np.float64), find_sides(y, data.output)
    decided = data.to_ms(labeled["time"].to_numpy()) + (data.bar_ms or 0)  # at the close of the row's bar
    return {
        "tiers": measure_tiers(score, side, quantiles=settings.tiers),
        "sessions": measure_sessions(name_sessions(decided, settings.sessions), score, side),
        "signals": measure_signals(y, predicted, data.output) if data.output.is_classification else None,
    }
