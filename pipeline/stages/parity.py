"""parity <model>: the deployed graph answers as the trained model does, or the line stops here."""

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime

from pipeline import dataset, has_avx2, workspace
from pipeline.graphs import opened
from pipeline.models import base

BATCHES = (1, 2, 37)  # and as many at once as there are
PACKAGES = ("numpy", "onnxruntime", "torch", "lightgbm", "xgboost")


class ParityError(ValueError):
    """The graph answers otherwise than the model."""


def main(model: str) -> None:
    """Compare a model's ONNX graph with the model on the holdout and on the inputs where graphs go wrong."""
    blocks = workspace.params()
    block = workspace.entry(blocks, f"models.{model}")
    fitted = base.load(workspace.MODELS / model)
    graph = workspace.ONNX / model / "model.onnx"
    samples, folds = dataset.load(block["dataset"], block["target"])
    rows = folds.holdout()
    rng = np.random.default_rng(workspace.seed_for(blocks["seed"], model, -1))
    some = fitted.inputs(samples, np.sort(rng.permutation(rows)[: base.ROWS_AT_ONCE]))
    scale = fitted.answer(samples, rows).std(axis=0, dtype=np.float64)  # (outputs,)
    ordinary = (fitted.inputs(samples, part) for part in base.in_parts(rows))
    found = {
        "holdout": compare(fitted, graph, ordinary, scale=scale),
        "hard": compare(fitted, graph, base.in_parts(fitted.hard_inputs(some, rng=rng)), scale=scale),
    }
    workspace.write_json(workspace.MEASURED / "parity" / f"{model}.json", {**found, "machine": machine()})
    limits = workspace.entry(blocks, "parity")
    for named, figures in found.items():
        workspace.feed(refuse, figures, named, block=limits, named="parity")
    workspace.write_json(
        workspace.report("parity", model), {name: passed(each, limits) for name, each in found.items()}
    )


def passed(found: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, object]:
    """Return what of a comparison within its limits is the same on every CPU: onnxruntime's rounding is not."""
    return {"rows": found["rows"], "within": dict(limits), "flipped_leaves": found["flipped_leaves"]}


def machine() -> dict[str, object]:
    """Return the CPU, its instruction set as far as it is used, and the libraries that a comparison was made with."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "architecture": platform.machine(),
        "instruction_set": "AVX2" if has_avx2() else "unpinned",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def compare(fitted: base.Model, graph: Path, inputs: Iterable[np.ndarray], *, scale: np.ndarray) -> dict[str, float]:
    """How far the graph's answers lie from the model's, over every batch size, and how many leaves it takes otherwise.

    Args:
        fitted: the model.
        graph: the ONNX file.
        inputs: arrays of (B, ...) float32, one after another.
        scale: (outputs,) the standard deviation of the model's answers, the unit of the relative differences.
    """
    session, differences, flips = opened(graph), [], []
    for some in inputs:
        expected = fitted.predict(some).astype(np.float64)
        answers = (run(session, some, batch) for batch in (*BATCHES, len(some)))
        differences.append(np.max([distance(answer, expected) for answer in answers], axis=0))
        flips.append(fitted.flipped(some, graph))
    apart, flipped = np.concatenate(differences), np.concatenate(flips)
    relative = apart[:, scale > 0] / scale[scale > 0]  # an output that never varies has no relative difference
    worst = np.unravel_index(np.argmax(apart), apart.shape)[0]  # of nan the first, if there is any
    return {
        "rows": len(apart),
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


def run(session: onnxruntime.InferenceSession, inputs: np.ndarray, batch: int) -> np.ndarray:
    """The graph's answers to `inputs`, fed `batch` rows at a time."""
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
