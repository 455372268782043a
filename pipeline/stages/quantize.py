"""quantize <family.model>: an int8 copy of a model's ONNX graph, and how far its predictions differ on the holdout."""

import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnxruntime
import torch
from annotated_types import Interval
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from scipy.stats import spearmanr

from pipeline import artifacts, cli, config, digests
from pipeline.evaluation import voting
from pipeline.models.dataset import load_dataset
from pipeline.models.nets.engine.windows import make_windows
from pipeline.models.onnx_session import open_session
from pipeline.samples import Samples
from pipeline.targets import Output

LATENCY_RUNS = 2_000  # of each graph
PERCENTILES = (50, 99)


Correlation = Annotated[float, Interval(ge=-1, le=1)]
Share = Annotated[float, Interval(ge=0, le=1)]


class QuantizationError(ValueError):
    """Predictions of the int8 graph that differ too much from those of the float32 graph."""


def main(model: str) -> None:
    """Write the int8 graph of `<family>.<model>`, compare it with the float32 graph, and check the limits."""
    params = config.load_params()
    block = config.look_up(params, f"models.{model}")
    voting.check_is_fitted(model, section="quantize.models")
    source = digests.verify(artifacts.ONNX / model.rpartition(".")[2])
    contract: dict[str, Any] = artifacts.read_json(source / "contract.json")
    data = load_dataset(block["dataset"], block["target"])
    check_columns(contract["columns"], data.samples.columns, model=model)
    samples, folds = data.samples.select_columns(contract["columns"]), data.folds
    shape = contract["graph"]["inputs"]
    with artifacts.replace_atomically(artifacts.INT8 / model) as folder:
        folder.mkdir()
        graph = folder / "model.onnx"
        write_int8_graph(source / "model.onnx", graph, model=model)
        inputs = make_inputs(samples, folds.holdout(), shape=shape)
        report = compare_graphs(source / "model.onnx", graph, inputs, output=data.target.output)
        artifacts.write_json(artifacts.report_path("quantize", model), report)
        limits = {key: limit for key, limit in config.look_up(params, "quantize").items() if key != "models"}
        config.call_with(raise_if_beyond_limits, report, model, block=limits, name="quantize")
        artifacts.write_json(folder / "contract.json", make_contract(contract, graph))
        digests.write_sums(folder)
    some = list(make_inputs(samples, folds.holdout()[:LATENCY_RUNS], shape=shape))
    latency = measure_latency(source / "model.onnx", artifacts.INT8 / model / "model.onnx", some)
    artifacts.write_json(artifacts.report_path("quantize/latency", model), latency)


def check_columns(columns: Sequence[str], known: Sequence[str], *, model: str) -> None:
    """Raise ValueError where a graph needs columns that the features lack, such as an agent's own position."""
    if unknown := [name for name in columns if name not in known]:
        raise ValueError(
            f"the graph needs the inputs {unknown}, which follow from its own predictions; only a graph whose "
            f"inputs are all features can be compared row by row: take {model} out of quantize.models"
        )


def make_inputs(samples: Samples, rows: np.ndarray, *, shape: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the input of each row, (1, columns) or (1, window, columns), for a graph whose inputs have `shape`."""
    if len(shape) == 2:
        yield from (samples.x[row][None] for row in rows)
        return
    windows = make_windows(samples.x, samples.segment, length=shape[1], device=torch.device("cpu"))
    yield from (windows.gather(torch.tensor([row])).numpy() for row in rows)


def write_int8_graph(source: Path, graph: Path, *, model: str) -> None:
    """Write to `graph` a copy of `source` with uint8 weights; activations are quantized dynamically.

    The scale of activations follows from all rows of a batch, so a prediction would depend on the rows beside it.
    The batch axis is therefore fixed to 1. Raises ValueError where `source` has no weights to quantize.
    """
    draft = graph.with_suffix(".draft")
    quant_pre_process(source, draft, skip_symbolic_shape=True)
    quantize_dynamic(draft, graph, weight_type=QuantType.QUInt8)
    draft.unlink()
    copy = onnx.load(graph)
    if not any(weights.data_type == onnx.TensorProto.UINT8 and weights.dims for weights in copy.graph.initializer):
        operators = sorted({node.op_type for node in copy.graph.node})
        raise ValueError(f"the graph of {operators} has no weights to quantize; take {model} out of quantize.models")
    for value in (*copy.graph.input, *copy.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.checker.check_model(copy, full_check=True)
    graph.write_bytes(copy.SerializeToString(deterministic=True))


def compare_graphs(source: Path, graph: Path, inputs: Iterator[np.ndarray], *, output: Output) -> dict[str, float]:
    """Return how the predictions of the int8 `graph` differ from those of `source` on inputs of one row each."""
    sessions = open_session(source), open_session(graph)
    pairs = [[session.run(["answer"], {"inputs": one})[0][0] for session in sessions] for one in inputs]
    float32, int8 = np.array(pairs, dtype=np.float64).transpose(1, 0, 2)  # (rows, outputs) each
    difference, scores = np.abs(int8 - float32), (take_score(float32, output), take_score(int8, output))
    deviation = float32.std(axis=0)
    return {
        "rows": len(float32),
        "rank_correlation": float(spearmanr(*scores).statistic),
        "flipped_share": float(
            np.mean(to_decision(float32, scores[0], output) != to_decision(int8, scores[1], output))
        ),
        "mean_abs": float(difference.mean()),
        "max_abs": float(difference.max()),
        "max_over_std": float((difference.max(axis=0) / deviation).max()) if deviation.all() else float("nan"),
        "int8_bytes": graph.stat().st_size,
        "float32_bytes": source.stat().st_size,
    }


def take_score(prediction: np.ndarray, output: Output) -> np.ndarray:
    """Return the scores (B,) of predictions (B, outputs), or the predicted numbers where they have no score."""
    return output.take_center(prediction) if output.no_score_reason else output.to_score(prediction)


def to_decision(prediction: np.ndarray, score: np.ndarray, output: Output) -> np.ndarray:
    """Return the most probable class of predictions (B, outputs), or the sign of the score (B,) of a number."""
    return np.asarray(prediction.argmax(axis=1) if output.is_classification else np.sign(score))


def raise_if_beyond_limits(
    report: dict[str, float], model: str, *, min_rank_correlation: Correlation, max_flipped_share: Share
) -> None:
    """Raise QuantizationError where the int8 graph misses a limit, or where its scores never vary."""
    source = artifacts.ONNX / model.rpartition(".")[2]
    remedy = f"deploy {source} and take {model} out of quantize.models, or change the limit"
    if not report["rank_correlation"] >= min_rank_correlation:
        raise QuantizationError(
            f"the int8 and float32 scores have a rank correlation of {report['rank_correlation']:.4g}, "
            f"below quantize.min_rank_correlation {min_rank_correlation:g}; {remedy}"
        )
    if not report["flipped_share"] <= max_flipped_share:
        raise QuantizationError(
            f"the int8 and float32 decisions differ on {report['flipped_share']:.3%} of the rows, above "
            f"quantize.max_flipped_share {max_flipped_share:.3%}; {remedy}"
        )


def make_contract(contract: dict[str, Any], graph: Path) -> dict[str, Any]:
    """Return the contract of the float32 graph with the shapes and the digest of the int8 `graph`."""
    signature = {name: [1, *shape[1:]] for name, shape in contract["graph"].items()}
    return contract | {"graph": signature, "sha256": contract["sha256"] | {"graph": digests.hash_file(graph)}}


def measure_latency(source: Path, graph: Path, inputs: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    """Return percentiles of one prediction in microseconds, on one thread of this machine; they differ by run."""
    sessions = {"float32": open_session(source), "int8": open_session(graph)}
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for one in islice(cycle(inputs), LATENCY_RUNS):
        for name, session in sessions.items():
            seconds[name].append(time_prediction(session, one))
    return {
        name: {f"p{share}_us": float(np.percentile(each, share)) * 1e6 for share in PERCENTILES}
        for name, each in seconds.items()
    }


def time_prediction(session: onnxruntime.InferenceSession, inputs: np.ndarray) -> float:
    """Return the seconds that one prediction takes."""
    start = time.perf_counter()
    session.run(["answer"], {"inputs": inputs})
    return time.perf_counter() - start


if __name__ == "__main__":
    cli.run(main)
