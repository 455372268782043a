"""ONNX graphs on disk: how they are opened, and what names their bytes."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import onnxruntime


def opened(graph: Path) -> onnxruntime.InferenceSession:
    """The graph, to be run on one thread as a hot path would."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def digest(files: Iterable[Path]) -> str:
    """The sha256 of the files' bytes, one after another."""
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes())
    return total.hexdigest()
