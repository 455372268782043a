"""TimesFM 2.5 (Das et al. 2024), zero-shot: the return that published weights forecast from past returns."""

import copy
import math
import shutil
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from annotated_types import Interval
from pydantic import PositiveInt
from torch import Tensor, nn

from pipeline.features.pretrained.fixed_batches import FixedBatches
from pipeline.features.pretrained.timesfm import (
    CONTEXT_LIMIT,
    FILE,
    LEVELS,
    MEDIAN,
    SOURCE,
    Forecaster,
    load_forecaster,
)
from pipeline.features.pretrained.weights import find_weights
from pipeline.models.base import Model, split_into_batches
from pipeline.models.fit_files import FitFiles
from pipeline.models.nets.engine.windows import make_windows
from pipeline.models.torch_runtime.device import select_device, select_prediction_device
from pipeline.models.torch_runtime.hyperparameters import Device
from pipeline.models.torch_runtime.onnx_export import export_onnx
from pipeline.samples import Samples
from pipeline.targets import Kind

RETURN = "return_1"  # the column that is forecast: ln(close / close 1 ago)
LOSS_ROWS = 1000  # about as many rows of train, and of valid, measure losses


class Readout(NamedTuple):
    """The columns and bars that a model reads of its windows, and of the forecast path."""

    column: int  # the place of the return
    volatility_window: int
    horizons: tuple[int, ...]  # bars of the path: one, or one of each of the model's outputs
    places: tuple[int, ...]  # of the model's outputs among the forecaster's; all horizons share one


@dataclass(kw_only=True, eq=False)
class TimesFM(Model):
    """A forecast of ln(close) `horizon` bars ahead, from the returns of a window, in the unit of a target `return`.

    Nothing is learned: a fit verifies the weights and measures losses. The window's returns are summed to a path, which
    is divided by their standard deviation σ over the last `volatility_window` bars. The prediction is the median move
    of the path, or its quantiles, over √horizon; of several horizons the median of each. `horizon` and
    `volatility_window` must be those of the target.
    """

    output_kinds: ClassVar[tuple[Kind, ...]] = ("value", "quantiles", "horizons")
    target_keys: ClassVar[tuple[str, ...]] = ("horizon", "volatility_window")

    weights: str  # the folder of the published file
    sha256: str | None  # of that file
    window: Annotated[int, Interval(ge=2, le=CONTEXT_LIMIT)]  # bars, a multiple of the patches of 32
    horizon: PositiveInt
    volatility_window: Annotated[int, Interval(ge=2)]
    force_flip_invariance: bool  # a mirrored path has the mirrored forecast, for twice the time
    batch_size: PositiveInt  # windows that are forecast at once
    device: Device
    _copy: str | None = field(init=False, repr=False, default=None)  # the folder of a saved model, which has the file

    def __post_init__(self) -> None:
        """Raise ValueError where the target or the columns are not those of a return."""
        super().__post_init__()
        output, columns = self.signature.output, self.signature.columns
        if not output.has_direction:
            raise ValueError(f"timesfm forecasts returns; {', '.join(output.names)} has no direction: choose a return")
        if RETURN not in columns:
            raise ValueError(
                f"timesfm reads the column {RETURN}; it sees {', '.join(columns)}: set columns: [{RETURN}]"
            )
        if unknown := [level for level in output.levels if level not in LEVELS]:
            raise ValueError(f"timesfm has the quantiles {LEVELS}; the target asks for {unknown}")
        if self.volatility_window > self.window:
            raise ValueError(f"volatility_window is {self.volatility_window}, above window, which is {self.window}")

    @property
    def lookback_bars(self) -> int:
        """The bars of a window before its own row."""
        return self.window - 1

    @property
    def fit_device(self) -> str:
        """The device that forecasts."""
        return select_device(self.device).type

    @property
    def needs_sequential_fits(self) -> bool:
        """True: all fits make the same forecasts, which one process makes once."""
        return True

    @property
    def standardization(self) -> None:
        """None: a window is normalized by itself."""

    def fit(
        self, samples: Samples, train: np.ndarray, valid: np.ndarray, *, files: FitFiles | None = None
    ) -> list[dict[str, float]]:
        """Verify the weights, and return one entry with the losses on some of the rows; nothing is learned."""
        self.check_fit(samples, train, valid)
        self._load()
        train_loss, valid_loss = (self._measure_loss(samples, rows) for rows in (train, valid))
        return [{"iteration": 1, "train_loss": train_loss, "valid_loss": valid_loss}]

    def _measure_loss(self, samples: Samples, rows: np.ndarray) -> float:
        """Return the mean squared error, or the mean pinball loss of quantiles, of rows at even distances."""
        some = rows[:: max(len(rows) // LOSS_ROWS, 1)]
        y = samples.learned[some].reshape(len(some), -1).astype(np.float64)
        error = y - self.predict_rows(samples, some)
        levels = np.array(self.signature.output.levels)
        losses = np.maximum(levels * error, (levels - 1) * error) if len(levels) else error**2
        return float(losses.mean())

    def inputs(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """Return the windows (B, T, F) float32 that end with these rows, where a segment begins as those of nets."""
        self.check_columns(samples)
        windows = make_windows(samples.x, samples.segment, length=self.window, device=torch.device("cpu"))
        return np.asarray(windows.gather(torch.from_numpy(np.asarray(rows, dtype=np.int64))).numpy())

    def predict_rows(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """Return the prediction (B, outputs) float32 for these rows: of a row the same bits, whatever the others."""
        batches = (np.asarray(batch) for batch in split_into_batches(np.asarray(rows, dtype=np.int64)))
        predictions = [self._predict(self.inputs(samples, batch), batch) for batch in batches]
        return np.concatenate(predictions) if predictions else np.empty((0, len(self.outputs)), np.float32)

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return the prediction (B, outputs) float32 for (B, T, F) windows."""
        return self._predict(inputs, np.arange(len(inputs)))

    def _predict(self, inputs: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return the prediction for windows, whose numbers are their places in batches."""
        device = select_prediction_device(self.device)
        return _open_forecasts(self._load(), self._readout, self.batch_size, device)(inputs, numbers)

    @property
    def _readout(self) -> Readout:
        levels = self.signature.output.levels
        places = tuple(1 + LEVELS.index(level) for level in levels) if levels else (MEDIAN,)
        horizons = self.signature.output.horizons or (self.horizon,)
        return Readout(self.signature.columns.index(RETURN), self.volatility_window, horizons, places)

    def _load(self) -> Forecaster:
        """Return the forecaster; ValueError where weights are absent or other than pinned, or cannot forecast this."""
        folder = self._copy or self.weights
        found = load_forecaster(folder, sha256=self.sha256, force_flip_invariance=self.force_flip_invariance)
        found.check(window=self.window, horizon=self.horizon)
        return found

    def save_fitted(self, folder: Path) -> None:
        """Copy the weights, so that the folder is all that predictions need."""
        shutil.copyfile(
            find_weights(self._copy or self.weights, FILE, sha256=self.sha256, source=SOURCE), folder / FILE
        )

    def load_fitted(self, folder: Path) -> None:
        """Take the weights in the folder."""
        self._copy = str(folder)

    def to_onnx(self, file: Path) -> None:
        """Write the graph: windows "inputs" (batch, T, F) -> "answer" (batch, outputs)."""
        module = _ReturnForecast(self._load(), self._readout).eval()
        inputs = {"inputs": (self.window, len(self.signature.columns))}
        file.write_bytes(export_onnx(module, inputs=inputs, outputs=["answer"]))


class _ReturnForecast(nn.Module):
    """Windows of columns in, the forecast return in units of σ·√horizon out: one graph with the weights."""

    def __init__(self, forecaster: Forecaster, readout: Readout) -> None:
        super().__init__()
        self.forecaster, self.readout = forecaster, readout

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, outputs)."""
        returns = x[:, :, self.readout.column].double()  # a sum of hundreds would depend on its order in float32
        recent = returns[:, -self.readout.volatility_window :]
        deviations = recent - recent.mean(dim=1, keepdim=True)
        sigma = (deviations.square().sum(dim=1, keepdim=True) / (self.readout.volatility_window - 1)).sqrt()
        masked = _find_padding(x[:, :, self.readout.column])
        path = torch.where(masked, torch.zeros_like(returns), returns).cumsum(dim=1)
        moves = ((path - path[:, -1:]) / torch.where(sigma > 0, sigma, torch.ones_like(sigma))).float()
        forecast = self.forecaster(torch.where(masked, torch.zeros_like(moves), moves), masked)
        horizons, places = self.readout.horizons, list(self.readout.places)
        ahead: Tensor = forecast[:, [bars - 1 for bars in horizons]][:, :, places]  # (B, horizons, places)
        unit = torch.tensor([[math.sqrt(bars)] for bars in horizons], device=ahead.device)
        return (ahead / unit).flatten(1)


def _find_padding(returns: Tensor) -> Tensor:
    """Return which returns (B, T) stand for bars before a segment: the first of them, while the next one is equal.

    They are masked as upstream masks what a short series lacks. Equal returns of bars are masked too where a window
    begins with them: it is then a little shorter.
    """
    differs = (returns[:, 1:] != returns[:, :-1]).float()
    is_first = differs.cumsum(dim=1) == 0  # (B, T - 1)
    return torch.cat([is_first, torch.zeros_like(is_first[:, :1])], dim=1)


@lru_cache(maxsize=1)
def _open_forecasts(forecaster: Forecaster, readout: Readout, batch_size: int, device: torch.device) -> FixedBatches:
    """Return the predictions of a model, which all of its fits share: they are the same."""
    own = forecaster if device.type == "cpu" else copy.deepcopy(forecaster)
    return FixedBatches(_ReturnForecast(own, readout).eval().to(device), batch_size=batch_size, device=device)
