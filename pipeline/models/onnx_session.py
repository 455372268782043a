"""Open ONNX graphs."""

from pathlib import Path

import onnxruntime


def open_session(graph: Path) -> onnxruntime.InferenceSession:
    """Return a session of the graph on one thread, as a hot path would run it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
