"""A net as one ONNX graph with a free batch axis, the same bytes for the same weights."""

import tempfile
import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

OPSET = 17
EXAMPLE = 2  # with one window the exporter takes the batch for fixed


def written(net: nn.Module, *, bars: int, columns: int) -> bytes:
    """The graph of a net that turns (B, T, F) into (B, outputs): "inputs" -> "answer", both float32."""
    with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        warnings.simplefilter("ignore")  # of an exporter that is to be replaced by a slower one, and of free batches
        torch.onnx.export(
            net,
            (torch.zeros(EXAMPLE, bars, columns),),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=["inputs"],
            output_names=["answer"],
            dynamic_axes={"inputs": {0: "batch"}, "answer": {0: "batch"}},
        )
        graph = onnx.load(file)
    for node in graph.graph.node:
        node.doc_string = ""  # would hold the lines of code that a node comes from
    return bytes(graph.SerializeToString(deterministic=True))
