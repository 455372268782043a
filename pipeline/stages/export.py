"""export <model>: write the final model as one ONNX graph, and the contract that a deployment relies on."""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import onnx

from pipeline import artifacts, cli, config, digests
from pipeline.datasets import kinds
from pipeline.models import base, plugins
from pipeline.models.dataset import check_sources, hash_dataset
from pipeline.models.onnx_session import hash_graphs, load_self_contained
from pipeline.models.predictions import read_score_std
from pipeline.prediction_sets import read_rule
from pipeline.row_groups import TableFile

# keys of the section `trading` that turn scores into trades
TRADING = ("full_position_std", "no_trade_band", "delay_bars", "long_only")
PACKAGES = ("lightgbm", "numba", "numpy", "onnx", "onnxmltools", "onnxruntime", "torch", "xgboost")


def main(model: str) -> None:
    """Export the final fit of a model."""
    params = config.load_params()
    block, source = config.find_model(params, model).block, artifacts.MODELS / model
    fitted = plugins.load(source)
    data = hash_dataset(block["dataset"], block["target"])
    check_sources(artifacts.read_json(source / base.DATA), data, source=source)
    with artifacts.replace_atomically(artifacts.ONNX / model) as folder:
        folder.mkdir()
        fitted.to_onnx(folder / "model.onnx")
        for graph in sorted(folder.glob("*.onnx")):
            load_self_contained(graph)
            onnx.checker.check_model(str(graph), full_check=True)
        contract = make_contract(model, fitted, params, folder / "model.onnx", data=data)
        artifacts.write_json(folder / "contract.json", contract)
        digests.write_sums(folder)


def make_contract(
    model: str, fitted: base.Model, params: config.Block, graph: Path, *, data: Mapping[str, str]
) -> dict[str, object]:
    """Return what goes in, what comes out, and what it was made from; `data` are the sha256 of its files by name."""
    block = config.find_model(params, model).block
    target = config.look_up(params, f"datasets.{block['dataset']}.targets.{block['target']}")
    described, rule = base.read_description(artifacts.MODELS / model), read_rule(artifacts.MODELS / model)
    return {
        "model": model,
        "graph": read_signature(graph),
        "columns": fitted.input_columns,
        "output": fitted.signature.output.describe(),
        **({"prediction_set": asdict(rule)} if rule else {}),
        "score_std": read_score_std(artifacts.MODELS / model),
        "target": {"name": block["target"], **target},
        "features": artifacts.read_report("featurize", block["dataset"])["params"],
        "bars": describe_bars(params, block),
        "trading": {key: config.look_up(params, f"trading.{key}") for key in TRADING},
        "model_spec": {key: described[key] for key in ("family", "plugin", "hyperparameters", "seed")},
        "sha256": {
            "graph": hash_graphs(graph.parent),
            "model": digests.hash_file(artifacts.MODELS / model / digests.SUMS),
            "data": dict(data),
        },
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def describe_bars(params: config.Block, block: config.Block) -> object:
    """Return what the kind of a model's dataset says about its bars; None where it has no bars."""
    part = kinds.find_optional_part(params, block["dataset"], "contract")
    if part is None:
        return None
    clean = TableFile(digests.verify(artifacts.CLEAN / f"{block['dataset']}.parquet"))
    calendar = config.look_up(params, f"datasets.{block['dataset']}.calendar")
    known = {"fields": clean.schema.names, "calendar": calendar, "symbols": block.get("include_symbols")}
    return part.describe_bars(clean.read(part.COLUMNS), **known)


def read_signature(graph: Path) -> dict[str, object]:
    """Return names and shapes of the graph's inputs and outputs, float32; null is the free batch axis."""
    loaded = onnx.load(graph).graph
    return {
        value.name: [axis.dim_value or None for axis in value.type.tensor_type.shape.dim]
        for value in (*loaded.input, *loaded.output)
    }


if __name__ == "__main__":
    cli.run(main)
