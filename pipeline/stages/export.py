"""export <model>: write the final model as one ONNX graph, and the contract that a deployment relies on."""

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import onnx
import pandas as pd

from pipeline import artifacts, cli, config
from pipeline.datasets import kinds
from pipeline.models import base, plugins
from pipeline.models.predictions import read_score_std

# keys of the section `trading` that turn scores into trades
TRADING = ("full_position_std", "no_trade_band", "delay_bars", "long_only")
PACKAGES = ("lightgbm", "numba", "numpy", "onnx", "onnxmltools", "onnxruntime", "torch", "xgboost")


def main(model: str) -> None:
    """Export the final fit of a model."""
    params = config.load_params()
    fitted = plugins.load(artifacts.MODELS / model)
    with artifacts.replace_atomically(artifacts.ONNX / model) as folder:
        folder.mkdir()
        fitted.to_onnx(folder / "model.onnx")
        for graph in sorted(folder.glob("*.onnx")):
            onnx.checker.check_model(str(graph), full_check=True)
        artifacts.write_json(folder / "contract.json", make_contract(model, fitted, params, folder / "model.onnx"))


def make_contract(model: str, fitted: base.Model, params: config.Block, graph: Path) -> dict[str, object]:
    """Return what goes in, what comes out, and what it was made from."""
    block = config.find_model(params, model).block
    target = config.look_up(params, f"datasets.{block['dataset']}.targets.{block['target']}")
    described = base.read_description(artifacts.MODELS / model)
    data = [
        artifacts.FEATURES / f"{block['dataset']}.parquet",
        artifacts.LABELS / block["dataset"] / f"{block['target']}.parquet",
        artifacts.FOLDS / f"{block['dataset']}.parquet",
    ]
    trained = sorted(path for path in (artifacts.MODELS / model).rglob("*") if path.is_file())
    return {
        "model": model,
        "graph": read_signature(graph),
        "columns": fitted.input_columns,
        "output": asdict(fitted.signature.output),
        "score_std": read_score_std(artifacts.MODELS / model),
        "target": {"name": block["target"], **target},
        "features": artifacts.read_json(artifacts.report_path("featurize", block["dataset"]))["params"],
        "bars": describe_bars(params, block),
        "trading": {key: config.look_up(params, f"trading.{key}") for key in TRADING},
        "model_spec": {key: described[key] for key in ("family", "plugin", "hyperparameters", "seed")},
        "sha256": {
            "graph": artifacts.hash_files(sorted(graph.parent.glob("*.onnx"))),
            "model": artifacts.hash_files(trained),
            "data": {path.as_posix(): artifacts.hash_files([path]) for path in data},
        },
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def describe_bars(params: config.Block, block: config.Block) -> object:
    """Return what the kind of a model's dataset says about its bars; None where it has no bars."""
    part = kinds.find_optional_part(params, block["dataset"], "contract")
    if part is None:
        return None
    clean = pd.read_parquet(artifacts.CLEAN / f"{block['dataset']}.parquet")
    calendar = config.look_up(params, f"datasets.{block['dataset']}.calendar")
    return part.describe_bars(clean, calendar=calendar, symbols=block.get("include_symbols"))


def read_signature(graph: Path) -> dict[str, object]:
    """Return names and shapes of the graph's inputs and outputs, float32; null is the free batch axis."""
    loaded = onnx.load(graph).graph
    return {
        value.name: [axis.dim_value or None for axis in value.type.tensor_type.shape.dim]
        for value in (*loaded.input, *loaded.output)
    }


if __name__ == "__main__":
    cli.run(main)
