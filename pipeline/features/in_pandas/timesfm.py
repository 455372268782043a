"""Forecasts of TimesFM as columns: how far it expects a series to move, and how sure it is."""

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from annotated_types import Interval, MinLen
from pydantic import PositiveInt
from torch import Tensor, nn

from pipeline.features.pretrained.fixed_batches import FixedBatches
from pipeline.features.pretrained.timesfm import (
    CONTEXT_LIMIT,
    HIGHEST,
    LOWEST,
    MEDIAN,
    Forecaster,
    load_forecaster,
)

Context = Annotated[int, Interval(ge=2, le=CONTEXT_LIMIT)]
BLOCK_WINDOWS = 4096  # windows that are in memory at once; no value depends on it


def compute(
    bars: pd.DataFrame,
    *,
    weights: str,
    sha256: str | None,
    series: Annotated[list[Literal["close", "volume", "range"]], MinLen(1)],
    context: Context,
    horizons: Annotated[list[PositiveInt], MinLen(1)],
    every: PositiveInt,
    batch_size: PositiveInt,
    force_flip_invariance: bool,
) -> pd.DataFrame:
    """Return the columns of a segment: of each series and horizon the median move, and the gap of the outer deciles.

    A move is that from the value of the bar at which the forecast is made to `horizon` bars later. Forecasts are made
    at the first bar that has `context` bars up to it, and then at every `every`-th bar; each holds until the next. The
    series are ln(close), ln(1 + volume over the mean volume of the context), and ln(high / low).

    Raises:
        ValueError: the weights are absent or not the pinned ones, or cannot forecast so far.
    """
    forecasts = _open_forecasts(
        load_forecaster(weights, sha256=sha256, force_flip_invariance=force_flip_invariance),
        context,
        tuple(horizons),
        batch_size,
    )
    names = [
        name for each in series for h in horizons for name in (f"timesfm_{each}_{h}", f"timesfm_{each}_{h}_spread")
    ]
    table = np.full((len(bars), len(names)), np.nan, dtype=np.float32)
    origins = np.arange(context - 1, len(bars), every)
    for start in range(0, len(origins), BLOCK_WINDOWS):
        rows = origins[start : start + BLOCK_WINDOWS]
        numbers = np.arange(start, start + len(rows))
        table[rows] = np.hstack([_forecast(forecasts, SERIES[each](bars, rows, context), numbers) for each in series])
    held = (np.arange(context - 1, len(bars)) - (context - 1)) // every
    table[context - 1 :] = table[origins[held]]
    return pd.DataFrame(table, columns=names)


def count_warm_up_bars(*, context: Context) -> int:
    """Return the number of bars at a segment's start without a forecast."""
    return context - 1


class _Moves(nn.Module):
    """Map windows (B, T) whose last value is 0 -> (B, 2 · horizons): median and gap of the outer deciles of each."""

    def __init__(self, forecaster: Forecaster, *, horizons: tuple[int, ...]) -> None:
        super().__init__()
        self.forecaster, self.steps = forecaster, [horizon - 1 for horizon in horizons]

    def forward(self, windows: Tensor) -> Tensor:
        found = self.forecaster(windows, torch.zeros_like(windows, dtype=torch.bool))[:, self.steps]
        return torch.stack([found[:, :, MEDIAN], found[:, :, HIGHEST] - found[:, :, LOWEST]], dim=2).flatten(1)


@lru_cache(maxsize=1)
def _open_forecasts(forecaster: Forecaster, context: int, horizons: tuple[int, ...], batch_size: int) -> FixedBatches:
    """Return the forecasts, which segments, guards and cuts share."""
    forecaster.check(window=context, horizon=max(horizons))
    return FixedBatches(_Moves(forecaster, horizons=horizons), batch_size=batch_size, device=torch.device("cpu"))


def _forecast(forecasts: FixedBatches, windows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return (n, 2 · horizons) float32 of windows (n, T) float64, forecast in their own standard deviations."""
    moves = windows - windows[:, -1:]
    scale = moves.std(axis=1, keepdims=True)
    scale[~moves.any(axis=1)] = 1.0  # a window of equal values
    return np.asarray(forecasts((moves / scale).astype(np.float32), numbers) * scale, dtype=np.float32)


def _take_windows(values: np.ndarray, rows: np.ndarray, context: int) -> np.ndarray:
    return np.asarray(np.lib.stride_tricks.sliding_window_view(values, context)[rows - (context - 1)])  # (n, T)


def _read_close(bars: pd.DataFrame, rows: np.ndarray, context: int) -> np.ndarray:
    return _take_windows(np.log(bars["close"].to_numpy(np.float64)), rows, context)


def _read_volume(bars: pd.DataFrame, rows: np.ndarray, context: int) -> np.ndarray:
    windows = _take_windows(bars["volume"].to_numpy(np.float64), rows, context)
    mean = windows.mean(axis=1, keepdims=True)
    return np.asarray(np.log1p(np.divide(windows, mean, out=np.zeros_like(windows), where=mean > 0)))


def _read_range(bars: pd.DataFrame, rows: np.ndarray, context: int) -> np.ndarray:
    high, low = (bars[name].to_numpy(np.float64) for name in ("high", "low"))
    return _take_windows(np.log(high / low), rows, context)


SERIES: dict[str, Callable[[pd.DataFrame, np.ndarray, int], np.ndarray]] = {
    "close": _read_close,
    "volume": _read_volume,
    "range": _read_range,
}
