"""Graphs of wrapped models as parts of one graph."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import TensorProto, compose, helper, version_converter

from pipeline.models.base import Model

INPUTS, OUTPUT = "inputs", "answer"  # of every graph


def export_part(model: Model, name: str) -> onnx.ModelProto:
    """Return the graph of a wrapped model, every name in it with `name` and a slash before it."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "part.onnx"
        model.to_onnx(file)
        return compose.add_prefix(onnx.load(file), f"{name}/")


def align_opsets(parts: Sequence[onnx.ModelProto]) -> list[onnx.ModelProto]:
    """Return graphs with the newest ONNX operators that one of them has."""
    newest = max(read_opsets(part)[""] for part in parts)
    return [
        part if read_opsets(part)[""] == newest else version_converter.convert_version(part, newest) for part in parts
    ]


def read_opsets(graph: onnx.ModelProto) -> dict[str, int]:
    """Return the version of each domain of operators; that of ONNX itself has the name ""."""
    return {each.domain: each.version for each in graph.opset_import}


def find_input_shape(part: onnx.ModelProto) -> list[int]:
    """Return the axes of the only input of a graph, without the free one of rows."""
    weights = {each.name for each in part.graph.initializer}
    (given,) = (value for value in part.graph.input if value.name not in weights)
    return [axis.dim_value for axis in given.type.tensor_type.shape.dim][1:]


def write_graph(
    steps: Sequence[onnx.ModelProto | onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    *,
    shape: Sequence[int],
    outputs: int,
    file: Path,
) -> None:
    """Write one checked graph "inputs" (batch, *shape) -> "answer" (batch, outputs) of parts and of single nodes.

    `steps` are in the order of execution; a node reads and writes `<part>/inputs` and `<part>/answer`.
    """
    parts = [step for step in steps if isinstance(step, onnx.ModelProto)]
    nodes = [node for step in steps for node in (step.graph.node if isinstance(step, onnx.ModelProto) else [step])]
    opsets = {domain: version for part in parts for domain, version in read_opsets(part).items()}
    graph = helper.make_graph(
        nodes,
        "composite",
        [helper.make_tensor_value_info(INPUTS, TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", outputs])],
        [*constants, *(each for part in parts for each in part.graph.initializer)],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())]
    version = max(part.ir_version for part in parts)
    model = helper.make_model(graph, opset_imports=imports, ir_version=version, producer_name="pipeline")
    onnx.checker.check_model(model, full_check=True)
    file.write_bytes(model.SerializeToString(deterministic=True))
