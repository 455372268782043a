"""Export of a net as one ONNX graph with a free batch axis; the same weights give the same bytes."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import nn

OPSET = 17
TRACED_BATCH = 2  # with a batch of one the exporter takes the batch axis for fixed


def export_onnx(net: nn.Module, *, inputs: Mapping[str, tuple[int, ...]], outputs: Sequence[str]) -> bytes:
    """Return the graph of a net, float32 in and out; `inputs` are names and shapes without the batch axis."""
    names = [*inputs, *outputs]
    with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        warnings.simplefilter("ignore")  # of an exporter whose successor is slower, and of free batch axes
        torch.onnx.export(
            net,
            tuple(torch.zeros(TRACED_BATCH, *shape) for shape in inputs.values()),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch"} for name in names},
        )
        graph = onnx.load(file)
    for node in graph.graph.node:
        node.doc_string = ""  # it holds source lines, which differ between checkouts
    return bytes(graph.SerializeToString(deterministic=True))
