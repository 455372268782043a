"""Additions of a user to the repository, as the README words them: a target kind, a net, a family, a source of bars."""

TARGET_KIND = '''def fade(bars: pd.DataFrame, *, horizon: Horizon, volatility_window: VolatilityWindow) -> Labels:
    """Return the forward return with the opposite sign: the profit of a position against the market."""
    labels = forward_return(bars, horizon=horizon, volatility_window=volatility_window)
    return Labels(table=labels.table.assign(y=-labels.table["y"]), lost=labels.lost, ties=labels.ties)


'''
TARGET_PLACE = "KINDS: dict["  # the function stands before the registry
TARGET_LINE = '    "fade": TargetKind(fade, Output(kind="value", names=("return",))),\n'  # at the end of the registry
TARGET_BLOCK = "      fade_5: {kind: fade, horizon: 5, volatility_window: 60}\n"

NET = '''"""A temporal convolutional net: dilated causal convolutions (Bai et al. 2018)."""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from pipeline.models.torch_runtime.hyperparameters import Dropout


class Tcn(nn.Module):
    """Two causal convolutions of three bars, the second of every other bar; a linear head reads the last bar."""

    def __init__(
        self,
        *,
        columns: PositiveInt,
        window: PositiveInt,
        outputs: PositiveInt,
        channels: PositiveInt,
        dropout: Dropout,
    ) -> None:
        """Draw the weights from torch's global generator."""
        super().__init__()
        self.first = nn.Conv1d(columns, channels, 3, padding=2)
        self.second = nn.Conv1d(channels, channels, 3, padding=4, dilation=2)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, outputs)."""
        hidden = x.transpose(1, 2)
        for layer in (self.first, self.second):
            hidden = self.dropout(torch.relu(layer(hidden)[:, :, : x.shape[1]]))
        output: Tensor = self.head(hidden[:, :, -1])
        return output
'''
NET_BLOCK = """    tcn:
      dataset: klines
      target: return_5
      plugin: tcn
      hyperparameters:
        window: 9
        channels: 16
        dropout: 0.3
        loss: {name: huber, delta: 1.0}
        optimizer: {name: adamw, learning_rate: 0.002, weight_decay: 0.01}
        lr_schedule: {name: cosine, eta_min: 0.0001}
"""

MODEL = '''"""Ridge regression, fitted in one step."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from pydantic import NonNegativeFloat

from pipeline.models.base import Model
from pipeline.models.fit_files import FitFiles
from pipeline.samples import Samples


@dataclass(kw_only=True, eq=False)
class Ridge(Model):
    """A linear model of the columns with an L2 penalty."""

    output_kinds: ClassVar[tuple[str, ...]] = ("value",)

    alpha: NonNegativeFloat  # penalty per row
    weights: np.ndarray = field(init=False, repr=False)  # (F + 1,) float64, the intercept last

    @property
    def standardization(self) -> None:
        """None: the columns are used as they are."""

    def fit(
        self, samples: Samples, train: np.ndarray, valid: np.ndarray, *, files: FitFiles | None = None
    ) -> list[dict[str, float]]:
        """Solve the normal equations of the train rows."""
        self.check_fit(samples, train, valid)
        x, y = self._extend(samples.x[train]), samples.y[train].astype(np.float64)
        penalty = self.alpha * len(train) * np.diag(np.append(np.ones(x.shape[1] - 1), 0.0))
        self.weights = np.linalg.solve(x.T @ x + penalty, x.T @ y)
        losses = {
            name: float(np.mean((self.predict_rows(samples, rows)[:, 0] - samples.y[rows]) ** 2))
            for name, rows in (("train_loss", train), ("valid_loss", valid))
        }
        return [{"iteration": 1, **losses}]

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return the value (B, 1) float32."""
        return np.asarray(self._extend(inputs) @ self.weights, dtype=np.float32)[:, None]

    def _extend(self, x: np.ndarray) -> np.ndarray:
        return np.column_stack([x.astype(np.float64), np.ones(len(x))])

    def save_fitted(self, folder: Path) -> None:
        """Write the weights as text."""
        (folder / "weights.json").write_text(json.dumps(self.weights.tolist()), encoding="utf-8")

    def load_fitted(self, folder: Path) -> None:
        """Read the weights."""
        self.weights = np.array(json.loads((folder / "weights.json").read_text(encoding="utf-8")))

    def to_onnx(self, file: Path) -> None:
        """Write a matrix product and a sum in float64; the batch axis has no size and no name."""
        constants = {"weights": self.weights[:-1, None], "intercept": self.weights[-1:]}
        nodes = [
            helper.make_node("Cast", ["inputs"], ["inputs64"], to=TensorProto.DOUBLE),
            helper.make_node("MatMul", ["inputs64", "weights"], ["product"]),
            helper.make_node("Add", ["product", "intercept"], ["answer64"]),
            helper.make_node("Cast", ["answer64"], ["answer"], to=TensorProto.FLOAT),
        ]
        graph = helper.make_graph(
            nodes,
            "ridge",
            [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, len(self.weights) - 1])],
            [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [None, 1])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        file.write_bytes(model.SerializeToString(deterministic=True))
'''
MODEL_BLOCK = """  linear:
    ridge:
      dataset: klines
      target: fade_5
      plugin: ridge
      hyperparameters: {alpha: 0.01}
"""

SOURCE = '''"""A random walk in the kline schema."""

import numpy as np
import pandas as pd
from pydantic import NonNegativeInt

from pipeline.market.bars import Days

BARS_A_DAY, BAR_MS = 1440, 60_000


def load(*, symbol: str, days: Days, seed: NonNegativeInt) -> tuple[pd.DataFrame, dict[str, object]]:
    """Return bars of one minute from 2024-01-01 on, and an empty report."""
    rng, count = np.random.default_rng(seed), days * BARS_A_DAY
    close = 100 * np.exp(np.cumsum(rng.normal(scale=1e-3, size=count)))
    first = np.append(100.0, close[:-1])
    time = 1_704_067_200_000 + BAR_MS * np.arange(count)
    volume, taker_share = rng.gamma(2.0, 50.0, size=count), rng.uniform(0.2, 0.8, size=count)
    quote = volume * np.sqrt(first * close)
    table = pd.DataFrame(
        {
            "symbol": pd.Series([symbol] * count, dtype="str"),
            "open_time": time,
            "open": first,
            "high": np.maximum(first, close) * (1 + rng.uniform(0, 1e-3, size=count)),
            "low": np.minimum(first, close) * (1 - rng.uniform(0, 1e-3, size=count)),
            "close": close,
            "volume": volume,
            "close_time": time + BAR_MS - 1,
            "quote_volume": quote,
            "trades": rng.integers(10, 500, size=count),
            "taker_buy_base": volume * taker_share,
            "taker_buy_quote": quote * taker_share,
        }
    )
    return table, {}
'''
COSTS_BLOCK = """  walk: {fee_bps: 1.0, slippage_bps: 0.5, borrow_rate: 0.0}
"""
SOURCE_BLOCK = """  walk:
    kind: walk
    symbol: WALK
    days: 4
    seed: 1
"""
