"""A net as one ONNX graph with a free batch axis, the same bytes for the same weights."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import nn

OPSET = 17
EXAMPLE = 2  # with one window the exporter takes the batch for fixed


def written(net: nn.Module, *, inputs: Mapping[str, tuple[int, ...]], outputs: Sequence[str]) -> bytes:
    """The graph of a net, float32 in and out: `inputs` are the names and shapes of what it takes, but for the batch."""
    names = [*inputs, *outputs]
    with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        warnings.simplefilter("ignore")  # of an exporter that is to be replaced by a slower one, and of free batches
        torch.onnx.export(
            net,
            tuple(torch.zeros(EXAMPLE, *shape) for shape in inputs.values()),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch"} for name in names},
        )
        graph = onnx.load(file)
    for node in graph.graph.node:
        node.doc_string = ""  # would hold the lines of code that a node comes from
    return bytes(graph.SerializeToString(deterministic=True))
