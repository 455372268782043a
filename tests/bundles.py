"""Small bundles of graphs whose predictions are known, and bars to feed them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper

from pipeline import digests
from pipeline.deployment import contract
from pipeline.features.engine import Stream
from tests.params import PARAMS

SYMBOL = "BTCUSDT"
WINDOW = 4
FEATURES = PARAMS["datasets"]["klines"]["features"] | {
    "groups": ["price"],
    "sma_windows": [5, 8, 12],
    "ema_windows": [3, 4, 5],
    "return_windows": [1, 2],
    "volatility_windows": [5, 6],
    "range_window": 5,
    "bollinger_window": 5,
}
TRADING = {
    "full_position_std": 2.0,
    "no_trade_band": 0.3,
    "delay_bars": 0,
    "long_only": False,
    "fee_bps": 3.0,
    "slippage_bps": 0.5,
    "borrow_rate": 0.05,
    "capital": 1e5,
    "max_participation": 0.05,
}
OUTPUTS = {
    "value": {"kind": "value", "names": ["return"]},
    "classes": {"kind": "classes", "names": ["down", "flat", "up"]},
    "position": {"kind": "position", "names": ["position"]},
    "probability": {"kind": "probability", "names": ["up"]},
    "quantiles": {"kind": "quantiles", "names": ["q20", "q60", "q90"], "levels": [0.2, 0.6, 0.9]},
    "volatility": {"kind": "value", "names": ["volatility"], "has_direction": False},
    "horizons": {"kind": "horizons", "names": ["return_ahead_1", "return_ahead_5"], "horizons": [1, 5]},
}


def make_bars(rows: int, *, seed: int = 0, idle_share: float = 0.1, missing: tuple[int, ...] = ()) -> pd.DataFrame:
    """Clean bars of one symbol; some have no volume, and those at `missing` are taken out."""
    rng = np.random.default_rng(seed)
    move = rng.normal(size=rows) * 2e-3
    close = 100 * np.exp(np.cumsum(move))
    opened = np.append(100.0, close[:-1]) * np.exp(rng.normal(size=rows) * 1e-4)
    high, low = np.maximum(opened, close) * 1.001, np.minimum(opened, close) * 0.999
    is_idle = rng.random(rows) < idle_share
    volume = np.where(is_idle, 0.0, rng.lognormal(3, 2, rows))
    for array in (opened, high, low):
        array[is_idle] = close[is_idle]
    time = 1_700_000_040_000 + np.arange(rows) * 60_000
    table = pd.DataFrame(
        {
            "symbol": SYMBOL,
            "open_time": time,
            "open": opened,
            "high": high,
            "low": low,
            "close": close,
            "volume": volume,
            "close_time": time + 59_999,
            "quote_volume": volume * close,
            "trades": np.where(is_idle, 0, 5),
            "taker_buy_base": volume / 2,
            "taker_buy_quote": volume * close / 2,
        }
    )
    table = table.drop(index=list(missing)).reset_index(drop=True)
    table["segment"] = np.append(0, np.cumsum(np.diff(table["open_time"]) != 60_000)).astype(np.int32)
    return table


def list_bars(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The bars of a table as a feed gives them."""
    return table.drop(columns="segment").to_dict("records")


def make_graph(columns: int, outputs: int, *, window: int | None, seed: int) -> onnx.ModelProto:
    """A graph: tanh of a linear function of all inputs, scaled."""
    rng = np.random.default_rng(seed)
    size = columns * (window or 1)
    weight = (rng.normal(size=(size, outputs)) * 40 / np.sqrt(size)).astype(np.float32)
    nodes = [
        helper.make_node("Reshape", ["inputs", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["product"]),
        helper.make_node("Tanh", ["product"], ["answer"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([-1, size], np.int64), "shape"),
        numpy_helper.from_array(weight, "weight"),
    ]
    axes = [columns] if window is None else [window, columns]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["batch", *axes])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", outputs])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def describe(**trading: Any) -> dict[str, Any]:
    """The contract of a bundle with a model of every kind of prediction, one with a window, and an agent."""
    stream = Stream(**FEATURES)
    names = list(stream.columns)
    models = {kind: describe_model(kind, output, names) for kind, output in OUTPUTS.items()}
    models["window"] = describe_model("window", OUTPUTS["value"], names[2:5]) | {"window": WINDOW}
    account = ["position", "unrealized", "log_bars_since_entry"]
    models["agent"] = describe_model("agent", OUTPUTS["position"], names[:3]) | {"account_columns": account}
    return {
        "schema_version": contract.SCHEMA_VERSION,
        "dataset": "klines",
        "signal": "voting",
        "bars": {
            "interval_ms": 60_000,
            "symbols": [SYMBOL],
            "calendar": {"exchange": None, "features": "continue", "positions": "hold"},
            "time_unit": "ms",
            "columns": {name: "unit" for name in make_bars(2).columns if name != "segment"},
        },
        "features": FEATURES,
        "columns": names,
        "warm_up_bars": stream.layout.warm_up_bars,
        "models": models,
        "ensemble": {"name": "voting", "weights": {"window": 0.4, "value": 0.35, "agent": 0.25}},
        "trading": TRADING | trading,
        "sha256": {"graphs": {}, "models": {}, "data": {}, "code": contract.hash_code()},
        "versions": contract.list_versions(),
    }


def describe_model(name: str, output: Mapping[str, Any], columns: list[str]) -> dict[str, Any]:
    """The part of a contract that a model has."""
    given = {"levels": [], "neutral_class": None, "has_direction": True} | output
    return {
        "family": "trees",
        "plugin": name,
        "graph": f"{name}.onnx",
        "columns": columns,
        "account_columns": [],
        "window": None,
        "symbols": [SYMBOL],
        "output": given,
        "target": {"name": name, "kind": "return"},
        "score_std": None if output["kind"] == "position" else 0.4,
    }


def write_bundle(folder: Path, described: Mapping[str, Any]) -> Path:
    """A bundle without golden rows and certificate."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, model in enumerate(described["models"].values()):
        columns = len(model["columns"]) + len(model["account_columns"])
        graph = make_graph(columns, len(model["output"]["names"]), window=model["window"], seed=seed)
        onnx.save(graph, folder / model["graph"])
    (folder / contract.CONTRACT).write_text(json.dumps(described))
    digests.write_sums(folder)
    return folder
