"""export <model>: the final model as one ONNX graph, and the contract that whoever deploys it keeps."""

import platform
from importlib.metadata import version
from pathlib import Path

import onnx

from pipeline import workspace
from pipeline.graphs import digest
from pipeline.models import base

PACKAGES = ("lightgbm", "numba", "numpy", "onnx", "onnxmltools", "onnxruntime", "torch", "xgboost")


def main(model: str) -> None:
    """Export the final fit of a model."""
    blocks = workspace.params()
    fitted = base.load(workspace.MODELS / model)
    with workspace.replacing(workspace.ONNX / model) as folder:
        folder.mkdir()
        fitted.to_onnx(folder / "model.onnx")
        for graph in sorted(folder.glob("*.onnx")):
            onnx.checker.check_model(str(graph), full_check=True)
        workspace.write_json(folder / "contract.json", contract(model, fitted, blocks, folder / "model.onnx"))


def contract(model: str, fitted: base.Model, blocks: workspace.Block, graph: Path) -> dict[str, object]:
    """What goes in, what comes out, and where it all came from."""
    block = workspace.entry(blocks, f"models.{model}")
    dataset = workspace.entry(blocks, f"datasets.{block['dataset']}")
    data = [
        workspace.FEATURES / f"{block['dataset']}.parquet",
        workspace.LABELS / block["dataset"] / f"{block['target']}.parquet",
        workspace.FOLDS / f"{block['dataset']}.parquet",
    ]
    trained = sorted(path for path in (workspace.MODELS / model).rglob("*") if path.is_file())
    return {
        "model": model,
        "graph": signature(graph),
        "columns": fitted.input_columns,
        "outputs": fitted.outputs,
        "target": {"name": block["target"], **dataset["targets"][block["target"]]},
        "features": dataset["features"],
        "params": {"model": block, block["family"]: blocks[block["family"]], "seed": blocks["seed"]},
        "sha256": {
            "graph": digest(sorted(graph.parent.glob("*.onnx"))),
            "model": digest(trained),
            "data": {path.as_posix(): digest([path]) for path in data},
        },
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def signature(graph: Path) -> dict[str, object]:
    """Names and shapes of what the graph takes and gives, float32; null is the free batch axis."""
    loaded = onnx.load(graph).graph
    return {
        value.name: [axis.dim_value or None for axis in value.type.tensor_type.shape.dim]
        for value in (*loaded.input, *loaded.output)
    }


if __name__ == "__main__":
    workspace.run(main)
