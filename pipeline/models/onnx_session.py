"""Open ONNX graphs, each of which must hold all of its weights itself."""

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
from google.protobuf.message import DecodeError, Message
from onnx.external_data_helper import uses_external_data

from pipeline import digests


def open_session(graph: Path, *, batch: int | None = None) -> onnxruntime.InferenceSession:
    """Return a session of the graph on one thread, see `check_self_contained`.

    With `batch` it is for inputs of that many rows alone, and computes no shapes in a run: the bits are the same.
    """
    check_self_contained(graph)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if batch is not None:
        options.add_free_dimension_override_by_name("batch", batch)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def hash_graphs(folder: Path) -> str:
    """Return the sha256 of the graphs in a folder, one after another: of several agents each has one."""
    return digests.hash_files(sorted(folder.glob("*.onnx")))


def check_self_contained(graph: Path) -> None:
    """Raise ValueError where `graph` is no ONNX, or takes weights from other files, which no digest would cover."""
    try:
        loaded = onnx.load(graph, load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{graph} is no ONNX graph ({error}); export the model again") from error
    if outside := sorted({tensor.name for tensor in _list_tensors(loaded) if uses_external_data(tensor)}):
        raise ValueError(
            f"{graph} takes the weights {', '.join(map(repr, outside))} from other files; a graph must hold all of its "
            "weights: save it without external data"
        )


def _list_tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Yield every tensor in a message, however deep: of initializers, sparse ones, attributes and subgraphs."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if isinstance(value, Message) else value:
                yield from _list_tensors(part)
