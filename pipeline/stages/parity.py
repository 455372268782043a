"""parity <model>: the deployed graph answers as the trained model does, or the line stops here."""

from pathlib import Path

import numpy as np
import onnxruntime

from pipeline import workspace
from pipeline.folds import Folds
from pipeline.models import base
from pipeline.samples import Samples, keyed

BATCHES = (1, 2, 37)  # and all rows at once


class ParityError(ValueError):
    """The graph answers otherwise than the model."""


def main(model: str) -> None:
    """Compare a model's ONNX graph with the model on the holdout and on the inputs where graphs go wrong."""
    blocks = workspace.params()
    block = workspace.entry(blocks, f"models.{model}")
    fitted = base.load(workspace.MODELS / model)
    graph = workspace.ONNX / model / "model.onnx"
    inputs = holdout_inputs(fitted, block)
    hard = fitted.hard_inputs(inputs, rng=np.random.default_rng(workspace.seed_for(blocks["seed"], model, -1)))
    scale = fitted.predict(inputs).std(axis=0, dtype=np.float64)  # (outputs,)
    report = {named: compare(fitted, graph, rows, scale=scale) for named, rows in (("holdout", inputs), ("hard", hard))}
    for named, found in report.items():
        workspace.feed(refuse, found, named, block=workspace.entry(blocks, "parity"), named="parity")
    workspace.write_json(workspace.report("parity", model), report)


def holdout_inputs(fitted: base.Model, block: workspace.Block) -> np.ndarray:
    """What the model is fed for every holdout row."""
    folds, segment = Folds.load(workspace.FOLDS / f"{block['dataset']}.parquet")
    samples = Samples.load(
        workspace.FEATURES / f"{block['dataset']}.parquet",
        workspace.LABELS / block["dataset"] / f"{block['target']}.parquet",
        rows=keyed(segment, folds.time),
    )
    return fitted.inputs(samples, folds.holdout())


def compare(fitted: base.Model, graph: Path, inputs: np.ndarray, *, scale: np.ndarray) -> dict[str, float]:
    """How far the graph's answers lie from the model's, over every batch size, and how many leaves it takes otherwise.

    Args:
        fitted: the model.
        graph: the ONNX file.
        inputs: (B, ...) float32.
        scale: (outputs,) the standard deviation of the model's answers, the unit of the relative differences.
    """
    expected = fitted.predict(inputs).astype(np.float64)
    apart = np.max([distance(run(graph, inputs, batch), expected) for batch in (*BATCHES, len(inputs))], axis=0)
    relative = apart[:, scale > 0] / scale[scale > 0]  # an output that never varies has no relative difference
    worst = np.unravel_index(np.argmax(apart), apart.shape)[0]  # of nan the first, if there is any
    flipped = fitted.flipped(inputs, graph)
    return {
        "rows": len(inputs),
        "mean_abs": float(apart.mean()),
        "max_abs": float(apart.max()),
        "mean_over_std": float(relative.mean()) if relative.size else float("nan"),
        "max_over_std": float(relative.max()) if relative.size else float("nan"),
        "not_finite": int(np.count_nonzero(~np.isfinite(apart))),
        "worst_row": int(worst),
        "flipped_leaves": int(flipped.sum()),
        "flipped_row": int(flipped.argmax()) if flipped.any() else float("nan"),
    }


def distance(answer: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(B, outputs) absolute differences; ParityError where the shapes differ."""
    if answer.shape != expected.shape:
        raise ParityError(f"the graph answers {answer.shape}, the model {expected.shape}; mend the model's to_onnx")
    return np.asarray(np.abs(answer - expected))


def run(graph: Path, inputs: np.ndarray, batch: int) -> np.ndarray:
    """The graph's answers to `inputs`, fed `batch` rows at a time, on one thread as a hot path would."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    fed = [inputs[start : start + batch] for start in range(0, len(inputs), batch)]
    return np.concatenate([session.run(["answer"], {"inputs": rows})[0] for rows in fed])


def refuse(found: dict[str, float], named: str, *, mean_abs: float, max_abs: float) -> None:
    """Raises ParityError, naming the row, where a difference is none, or beyond its limit, or a leaf is flipped."""
    if found["not_finite"]:
        raise ParityError(
            f"{found['not_finite']} answers to the {named} rows differ by no finite number, the first at row "
            f"{found['worst_row']:.0f}; do not deploy this graph: mend the model's to_onnx"
        )
    limits = {"mean_abs": mean_abs, "max_abs": max_abs, "mean_over_std": mean_abs, "max_over_std": max_abs}
    for figure, limit in limits.items():
        if found[figure] > limit:
            raise ParityError(
                f"{figure} is {found[figure]:.3g} on the {named} rows, above {limit:g}; the worst is row "
                f"{found['worst_row']:.0f}; do not deploy this graph: mend the model's to_onnx"
            )
    if found["flipped_leaves"]:
        raise ParityError(
            f"{found['flipped_leaves']} leaves are taken otherwise on the {named} rows, the most at row "
            f"{found['flipped_row']:.0f}; do not deploy this graph: mend the thresholds in the model's to_onnx"
        )


if __name__ == "__main__":
    workspace.run(main)
