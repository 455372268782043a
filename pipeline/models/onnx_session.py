"""Open ONNX graphs, each of which must hold all of its weights itself."""

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
from google.protobuf.message import DecodeError, Message
from onnx.external_data_helper import uses_external_data

from pipeline import digests


def open_session(graph: Path) -> onnxruntime.InferenceSession:
    """Return a session of the graph on one thread; ValueError as `load_self_contained`."""
    load_self_contained(graph)
    return onnxruntime.InferenceSession(graph, make_options(), providers=["CPUExecutionProvider"])


def make_options() -> onnxruntime.SessionOptions:
    """Return the options of a session on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options


def hash_graphs(folder: Path) -> str:
    """Return the sha256 of the graphs in a folder, one after another: of several agents each has one."""
    return digests.hash_files(sorted(folder.glob("*.onnx")))


def load_self_contained(graph: Path) -> onnx.ModelProto:
    """Return a graph; ValueError where it is no ONNX, or has weights in other files, which no digest would cover."""
    try:
        loaded = onnx.load(graph, load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{graph} is no ONNX graph ({error}); export the model again") from error
    if outside := sorted({tensor.name for tensor in _list_tensors(loaded) if uses_external_data(tensor)}):
        raise ValueError(
            f"{graph} takes the weights {', '.join(map(repr, outside))} from other files; a graph must hold all of its "
            "weights: save it without external data"
        )
    return loaded


def _list_tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Yield every tensor in a message, however deep: of initializers, sparse ones, attributes and subgraphs."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if isinstance(value, Message) else value:
                yield from _list_tensors(part)
