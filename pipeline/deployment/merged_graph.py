"""The graphs of several models as one, which a hot path runs by a single call.

Each call of onnxruntime costs as much as some nodes of a graph. Graphs of older operators are converted; the replay of
a bundle compares every bit of what they predict.
"""

from collections.abc import Mapping
from functools import cache, partial

import numpy as np
import onnx
import onnxruntime
from onnx import compose, version_converter

from pipeline.deployment.lane import Bind, Places, Run
from pipeline.models.onnx_session import make_options

Graphs = Mapping[str, onnx.ModelProto]  # by model: `inputs` -> `answer`
SEPARATOR = "/"  # between the name of a model and that of its input or output in a merged graph


def read_shapes(graph: onnx.ModelProto) -> list[list[int]]:
    """Return the axes of all inputs and outputs but the first, which counts rows; 0 is a free one."""
    weights = {each.name for each in graph.graph.initializer}
    values = [value for value in (*graph.graph.input, *graph.graph.output) if value.name not in weights]
    return [[axis.dim_value for axis in value.type.tensor_type.shape.dim][1:] for value in values]


def merge_graphs(graphs: Graphs) -> list[tuple[list[str], onnx.ModelProto]]:
    """Return merged graphs, and the models in each; input and output of a model are `<model>/inputs` and so on.

    They have the newest operators that one of them needs. A graph stays alone where it has functions, where onnx
    cannot bring it to that version, or where operators of another domain are of another version than those before.
    """
    newest = max((_read_opsets(graph).get("", 1) for graph in graphs.values()), default=1)
    merged: list[tuple[list[str], onnx.ModelProto]] = []
    for name, graph in graphs.items():
        own = compose.add_prefix(_convert(graph, newest), f"{name}{SEPARATOR}")
        for names, before in merged:
            if _can_merge(before, own):
                names.append(name)
                _append(before, own)
                break
        else:
            merged.append(([name], own))
    return merged


def _read_opsets(graph: onnx.ModelProto) -> dict[str, int]:
    return {each.domain: each.version for each in graph.opset_import}


def _convert(graph: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a graph of the operators of version `opset`, or the graph itself where onnx cannot convert it."""
    if _read_opsets(graph).get("", opset) == opset:
        return graph
    try:
        return version_converter.convert_version(graph, opset)
    except RuntimeError:  # that it documents
        return graph


def _can_merge(one: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    """Return whether two graphs have no functions, whose names could be the same, and operators of equal versions."""
    known = _read_opsets(other)
    agree = all(known.get(domain, version) == version for domain, version in _read_opsets(one).items())
    return agree and not one.functions and not other.functions


def _append(merged: onnx.ModelProto, graph: onnx.ModelProto) -> None:
    """Add a graph, whose names are others, to a merged one in place."""
    known = _read_opsets(merged)
    merged.opset_import.extend(each for each in graph.opset_import if each.domain not in known)
    merged.ir_version = max(merged.ir_version, graph.ir_version)
    for field in ("node", "initializer", "sparse_initializer", "input", "output", "value_info"):
        getattr(merged.graph, field).extend(getattr(graph.graph, field))


def open_graph(graph: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a session of a graph for one row, on one thread."""
    options = make_options()
    options.add_free_dimension_override_by_name("batch", 1)
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def bind_graphs(graphs: Graphs) -> Bind:
    """Return what binds models to merged graphs: a run reads and writes fixed places, and allocates nothing."""
    options = onnxruntime.RunOptions()  # without them each run makes its own
    options.add_run_config_entry("gpu_graph_id", "-1")  # else each run looks for it, and handles an exception

    @cache
    def open_for(names: tuple[str, ...]) -> list[tuple[list[str], onnxruntime.InferenceSession]]:
        merged = merge_graphs({name: graphs[name] for name in names})
        return [(own, open_graph(graph)) for own, graph in merged]

    def bind(places: Places) -> list[Run]:
        runs: list[Run] = []
        for names, session in open_for(tuple(places)):
            binding = session.io_binding()
            for name in names:
                inputs, prediction = places[name]
                start = f"{name}{SEPARATOR}"
                binding.bind_input(f"{start}inputs", "cpu", 0, np.float32, list(inputs.shape), inputs.ctypes.data)
                shape = list(prediction.shape)
                binding.bind_output(f"{start}answer", "cpu", 0, np.float32, shape, prediction.ctypes.data)
            runs.append(partial(session.run_with_iobinding, binding, options))
        return runs

    return bind
