"""quantise <model>: a copy of a graph with its weights in eight bits, what that costs, and a gate of its own."""

import json
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from scipy.stats import spearmanr

from pipeline import dataset, workspace
from pipeline.graphs import digest, opened
from pipeline.models import base
from pipeline.models.nets.engine.windows import Windows
from pipeline.samples import Samples

RUNS = 2_000  # of either graph, from which the latency follows


class QuantisationError(ValueError):
    """The copy answers too much otherwise than the graph that it was made of."""


def main(model: str) -> None:
    """Make the copy of a model's graph, compare the two on the holdout, one row at a time, and keep it if it passes."""
    blocks = workspace.params()
    block, source = workspace.entry(blocks, f"models.{model}"), workspace.ONNX / model
    promised: dict[str, Any] = json.loads((source / "contract.json").read_text())
    samples, folds = dataset.load(block["dataset"], block["target"])
    refuse_own(promised["columns"], samples.columns, model=model)
    with workspace.replacing(workspace.INT8 / model) as folder:
        folder.mkdir()
        graph = folder / "model.onnx"
        write(source / "model.onnx", graph, model=model)
        rows = inputs(samples, folds.holdout(), shape=promised["graph"]["inputs"])
        found = compared(source / "model.onnx", graph, rows, outputs=tuple(promised["outputs"]))
        workspace.write_json(workspace.report("quantise", model), found)
        gate = {name: limit for name, limit in workspace.entry(blocks, "quantise").items() if name != "models"}
        workspace.feed(refuse, found, model, block=gate, named="quantise")
        workspace.write_json(folder / "contract.json", contract(promised, graph))
    some = list(inputs(samples, folds.holdout()[:RUNS], shape=promised["graph"]["inputs"]))
    taken = latencies(source / "model.onnx", workspace.INT8 / model / "model.onnx", some)
    workspace.write_json(workspace.report("quantise/latency", model), taken)


def refuse_own(taken: Sequence[str], known: Sequence[str], *, model: str) -> None:
    """Raises ValueError where a graph takes columns that no table has, such as what an agent holds."""
    if own := [name for name in taken if name not in known]:
        raise ValueError(
            f"{model}: its graph takes {own}, which follow from its own answers; copies are of models that "
            f"answer a row by its columns, so take {model} out of quantise.models"
        )


def inputs(samples: Samples, rows: np.ndarray, *, shape: Sequence[int]) -> Iterator[np.ndarray]:
    """What a graph that takes `shape`, (batch, columns) or (batch, bars, columns), is fed for each row, one by one."""
    if len(shape) == 2:
        yield from (samples.x[row][None] for row in rows)
        return
    windows = Windows.over(samples.x, samples.segment, length=shape[1], device=torch.device("cpu"))
    yield from (windows.gather(torch.tensor([row])).numpy() for row in rows)


def write(source: Path, graph: Path, *, model: str) -> None:
    """`graph` is the copy of `source`: weights as uint8 with a scale each, activations quantised as they come.

    Their scale follows from all rows of a batch, so an answer would depend on the rows beside it: the copy takes one
    row at a time and refuses more. Raises ValueError where `source` has no weights to make smaller.
    """
    draft = graph.with_suffix(".draft")
    quant_pre_process(source, draft, skip_symbolic_shape=True)
    quantize_dynamic(draft, graph, weight_type=QuantType.QUInt8)
    draft.unlink()
    copy = onnx.load(graph)
    if not any(weights.data_type == onnx.TensorProto.UINT8 and weights.dims for weights in copy.graph.initializer):
        kinds = sorted({node.op_type for node in copy.graph.node})
        raise ValueError(
            f"{model}: its graph, of {kinds}, has no weights that eight bits could hold; take it off quantise.models"
        )
    for value in (*copy.graph.input, *copy.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.checker.check_model(copy, full_check=True)
    graph.write_bytes(copy.SerializeToString(deterministic=True))


def compared(source: Path, graph: Path, rows: Iterator[np.ndarray], *, outputs: tuple[str, ...]) -> dict[str, float]:
    """How the copy's answers to these rows, each (1, ...), differ from those of the graph it was made of."""
    sessions = opened(source), opened(graph)
    both = [[session.run(["answer"], {"inputs": row})[0][0] for session in sessions] for row in rows]
    exact, copied = np.array(both, dtype=np.float64).transpose(1, 0, 2)  # (rows, outputs) each
    apart, scores = np.abs(copied - exact), (base.score_of(exact, outputs), base.score_of(copied, outputs))
    deviation = exact.std(axis=0)
    return {
        "rows": len(exact),
        "rank_correlation": float(spearmanr(*scores).statistic),
        "flipped_decisions": float(np.mean(decided(exact, scores[0]) != decided(copied, scores[1]))),
        "mean_abs": float(apart.mean()),
        "max_abs": float(apart.max()),
        "max_over_std": float((apart.max(axis=0) / deviation).max()) if deviation.all() else float("nan"),
        "bytes": graph.stat().st_size,
        "bytes_of_float32": source.stat().st_size,
    }


def decided(answer: np.ndarray, score: np.ndarray) -> np.ndarray:
    """(B,) what an answer (B, outputs) decides: the class that it calls, or the side of neutral of its score (B,)."""
    return np.asarray(answer.argmax(axis=1) if answer.shape[1] > 1 else np.sign(score))


def refuse(found: dict[str, float], model: str, *, rank_correlation: float, flipped_decisions: float) -> None:
    """Raises QuantisationError where the copy passes a limit, or has none because its answers never vary."""
    remedy = f"deploy trained/onnx/{model} and take {model} off quantise.models, or move the limit"
    if not found["rank_correlation"] >= rank_correlation:
        raise QuantisationError(
            f"{model}: the scores of the int8 copy have a rank correlation of {found['rank_correlation']:.4g} with the "
            f"graph's, below {rank_correlation:g}; {remedy}"
        )
    if not found["flipped_decisions"] <= flipped_decisions:
        raise QuantisationError(
            f"{model}: the int8 copy decides otherwise on {found['flipped_decisions']:.3%} of the rows, above "
            f"{flipped_decisions:.3%}; {remedy}"
        )


def contract(promised: dict[str, Any], graph: Path) -> dict[str, Any]:
    """The contract of the graph that the copy was made of, with what is other about the copy."""
    signature = {name: [1, *shape[1:]] for name, shape in promised["graph"].items()}
    return promised | {"graph": signature, "sha256": promised["sha256"] | {"graph": digest([graph])}}


def latencies(source: Path, graph: Path, rows: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    """Microseconds of one answer on one thread of this machine: the one report that differs from run to run."""
    sessions = {"float32": opened(source), "int8": opened(graph)}
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for row in islice(cycle(rows), RUNS):
        for name, session in sessions.items():
            taken[name].append(seconds(session, row))
    return {
        name: {f"p{share}_us": float(np.percentile(each, share)) * 1e6 for share in (50, 99)}
        for name, each in taken.items()
    }


def seconds(session: onnxruntime.InferenceSession, row: np.ndarray) -> float:
    """How long one answer takes."""
    start = time.perf_counter()
    session.run(["answer"], {"inputs": row})
    return time.perf_counter() - start


if __name__ == "__main__":
    workspace.run(main)
