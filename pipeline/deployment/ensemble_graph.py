"""The ensemble of a bundle as one ONNX graph: from the inputs of its members to the target that it trades.

`python -m pipeline.deployment.ensemble_graph --bundle FOLDER --out FILE.onnx` writes it. Inputs are `<model>/inputs` of
each member and `rows` (batch,) int64, the bars with features of the segment so far; outputs are `<model>/answer` and
`target` (batch,) float64. Operators are those of the compiled hot path, one after another, so the bits are the same.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.deployment.contract import Contract, ModelPart
from pipeline.deployment.hot_path import open_graphs
from pipeline.deployment.merged_graph import SEPARATOR, Graphs, merge_graphs

OLDEST_OPSET = 13  # in which Unsqueeze and ReduceSum take their axes as inputs


class _Builder:
    """Nodes and constants that follow a merged graph; each step returns the name of its result."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph, self._count = graph, 0

    def add(
        self, operator: str, *inputs: str, axis: int | None = None, to: int | None = None, keepdims: int | None = None
    ) -> str:
        name = self._name(operator)
        node = helper.make_node(operator, list(inputs), [name])
        attributes = {"axis": axis, "to": to, "keepdims": keepdims}
        node.attribute.extend(helper.make_attribute(*each) for each in attributes.items() if each[1] is not None)
        self.graph.node.append(node)
        return name

    def constant(self, value: object, dtype: type[np.generic]) -> str:
        name = self._name("constant")
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def _name(self, operator: str) -> str:
        self._count += 1
        return f"ensemble{SEPARATOR}{operator}_{self._count}"


def make_ensemble_graph(bundle: Contract, graphs: Graphs, *, symbol: str) -> onnx.ModelProto:
    """Return the graph of a bundle's ensemble for one of its symbols.

    Raises:
        ValueError: the bundle has no ensemble, none of its members predicts the symbol, or their graphs cannot be one.
    """
    if bundle.ensemble is None:
        raise ValueError(f"the bundle of {bundle.dataset} has no ensemble; enable one, such as models.ensembles.voting")
    members = {name: bundle.models[name] for name in bundle.ensemble.weights if symbol in bundle.models[name].symbols}
    if not members:
        known = ", ".join(bundle.bars.symbols)
        raise ValueError(f"no member of {bundle.ensemble.name} predicts {symbol!r}; the bundle has {known}")
    merged = merge_graphs({name: graphs[name] for name in members})
    if len(merged) != 1:
        groups = "; ".join(", ".join(names) for names, _ in merged)
        raise ValueError(f"the graphs of the members have operators of several versions and cannot be one: {groups}")
    ((_, model),) = merged
    opset = next(each.version for each in model.opset_import if not each.domain)
    if opset < OLDEST_OPSET:
        raise ValueError(f"the graphs have operators of version {opset}; an ensemble needs {OLDEST_OPSET} or later")
    model.graph.input.append(helper.make_tensor_value_info("rows", TensorProto.INT64, ["batch"]))
    model.graph.output.append(helper.make_tensor_value_info("target", TensorProto.DOUBLE, ["batch"]))
    _sum_votes(_Builder(model.graph), bundle, members)
    return model


def _sum_votes(build: _Builder, bundle: Contract, members: dict[str, ModelPart]) -> None:
    """Append the weighted sum of the members' votes, from the first to the last, clipped to [-1, 1]."""
    assert bundle.ensemble is not None
    nothing, low, high = (build.constant(value, np.float64) for value in (0.0, -1.0, 1.0))
    total, references = nothing, bundle.ensemble.references
    for name, model in members.items():
        score = _add_score(build, f"{name}{SEPARATOR}answer", model)
        if references is None:
            vote = _add_position(build, score, model, full_position_std=bundle.trading.full_position_std)
        else:
            vote = _add_rank(build, score, references[name])
        is_full = build.add("GreaterOrEqual", "rows", build.constant(model.window or 1, np.int64))
        counted = build.add("Where", is_full, vote, nothing)
        weight = build.constant(bundle.ensemble.weights[name], np.float64)
        total = build.add("Add", total, build.add("Mul", weight, counted))
    clipped = build.add("Clip", total, low, high)
    build.graph.node.append(helper.make_node("Identity", [clipped], ["target"]))


def _add_score(build: _Builder, prediction: str, model: ModelPart) -> str:
    """Append the score (batch,) of a prediction (batch, outputs): as `Output.to_score`, in float32, then in float64."""
    output = model.make_output()

    def pick(place: int) -> str:
        return build.add("Gather", prediction, build.constant(place, np.int64), axis=1)

    if output.kind == "classes":
        score = build.add("Sub", pick(len(output.names) - 1), pick(0))
    elif output.kind == "probability":
        doubled = build.add("Mul", build.constant(2.0, np.float32), pick(0))
        score = build.add("Sub", doubled, build.constant(1.0, np.float32))
    elif output.kind == "quantiles":
        below, above, share = output.find_median()
        gap = build.add("Sub", pick(above), pick(below))
        score = build.add("Add", pick(below), build.add("Mul", build.constant(share, np.float32), gap))
    else:
        score = pick(len(output.names) - 1)  # the only one, or that of the longest horizon
    limits = (build.constant(value, np.float32) for value in (-1.0, 1.0))
    return build.add("Cast", build.add("Clip", score, *limits), to=TensorProto.DOUBLE)


def _add_position(build: _Builder, score: str, model: ModelPart, *, full_position_std: float) -> str:
    """Append the target position (batch,) of a score, as `size_scores`."""
    full = (model.score_std or 0.0) * full_position_std
    if model.output.kind != "position":
        if not full > 0:  # scores that never vary
            return build.add("Mul", score, build.constant(0.0, np.float64))
        score = build.add("Div", score, build.constant(full, np.float64))
    return build.add("Clip", score, *(build.constant(value, np.float64) for value in (-1.0, 1.0)))


def _add_rank(build: _Builder, score: str, reference: list[float]) -> str:
    """Append the rank (batch,) of a score in a reference, as `rank_scores`: counts of whole numbers."""
    among, last = build.constant([reference], np.float64), build.constant([1], np.int64)
    column = build.add("Unsqueeze", score, last)
    counts = [
        build.add(
            "ReduceSum", build.add("Cast", build.add(compare, among, column), to=TensorProto.INT64), last, keepdims=0
        )
        for compare in ("Less", "LessOrEqual")
    ]
    count = build.add("Cast", build.add("Add", *counts), to=TensorProto.DOUBLE)
    share = build.add("Div", count, build.constant(len(reference), np.float64))
    return build.add("Sub", share, build.constant(1.0, np.float64))


def main() -> None:
    """Write the ensemble of a bundle as one graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder, such as trained/bundles/klines")
    parser.add_argument("--out", type=Path, required=True, help="file of the graph")
    parser.add_argument("--symbol", help="of the bundle; the first by default")
    given = parser.parse_args()
    try:
        bundle, graphs = open_graphs(given.bundle)
        symbol = given.symbol or bundle.bars.symbols[0]
        onnx.save(make_ensemble_graph(bundle, graphs, symbol=symbol), given.out)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    sys.stdout.write(f"{given.out}: the ensemble of {given.bundle} for {symbol}\n")


if __name__ == "__main__":
    main()
