"""parity <model>: compare the ONNX graph with the trained model; a difference beyond its limit stops the pipeline."""

import platform
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
from pydantic import PositiveFloat

from pipeline import artifacts, cli, config, has_avx2
from pipeline.models import base, plugins
from pipeline.models.dataset import load_dataset
from pipeline.models.onnx_session import open_session
from pipeline.models.parity_checks.base import find_parity_checks

BATCHES = (1, 2, 37)  # and all rows at once
PACKAGES = ("numpy", "onnxruntime", "torch", "lightgbm", "xgboost")
Flips = Callable[[base.Model, np.ndarray, Path], np.ndarray]


class ParityError(ValueError):
    """The graph's predictions are not the model's."""


def main(model: str) -> None:
    """Compare a model's ONNX graph with the model on the holdout and on inputs on which graphs often differ."""
    params = config.load_params()
    family, block, _ = config.find_model(params, model)
    fitted, checks = plugins.load(artifacts.MODELS / model), find_parity_checks(family)
    graph = artifacts.ONNX / model / "model.onnx"
    data = load_dataset(block["dataset"], block["target"])
    data = data.add_fills(fitted.load_fills(params, block["dataset"], data.rows))
    samples, rows = data.samples.select_columns(fitted.signature.columns), data.folds.holdout()
    rng = np.random.default_rng(fitted.seed)
    some = fitted.inputs(samples, np.sort(rng.permutation(rows)[: base.BATCH_ROWS]))
    scale = fitted.predict_rows(samples, rows).std(axis=0, dtype=np.float64)  # (outputs,)
    ordinary = (fitted.inputs(samples, part) for part in base.split_into_batches(rows))
    hard = base.split_into_batches(checks.make_edge_cases(fitted, some, rng=rng))
    found = {
        name: compare(fitted, graph, inputs, scale=scale, count_flips=checks.count_flips)
        for name, inputs in (("holdout", ordinary), ("edge_cases", hard))
    }
    measured = {**found, "machine": describe_machine()}
    artifacts.write_json(artifacts.MEASURED / "parity" / f"{model}.json", measured)
    limits = config.look_up(params, "parity")
    for name, differences in found.items():
        config.call_with(check_limits, differences, name, block=limits, name="parity")
    report = {name: summarize_comparison(differences, limits) for name, differences in found.items()}
    artifacts.write_json(artifacts.report_path("parity", model), report)


def summarize_comparison(found: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, object]:
    """Return the part of a passed comparison that is the same on every CPU: onnxruntime's rounding is not."""
    return {"rows": found["rows"], "limits": dict(limits), "flipped_decisions": found["flipped_decisions"]}


def describe_machine() -> dict[str, object]:
    """Return the CPU, the instruction set that is used, and the versions of the libraries."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "architecture": platform.machine(),
        "instruction_set": "AVX2" if has_avx2() else "unpinned",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def compare(
    fitted: base.Model, graph: Path, inputs: Iterable[np.ndarray], *, scale: np.ndarray, count_flips: Flips
) -> dict[str, float]:
    """Return how far the graph's predictions are from the model's, over every batch size, and its flipped decisions.

    Args:
        fitted: the model.
        graph: the ONNX file.
        inputs: arrays of (B, ...) float32, one after another.
        scale: (outputs,) the standard deviation of the model's predictions, the unit of the relative differences.
        count_flips: the parity check of the model's family.
    """
    session, differences, flips = open_session(graph), [], []
    for batch in inputs:
        expected = fitted.predict(batch).astype(np.float64)
        predictions = (run_graph(session, batch, size) for size in (*BATCHES, len(batch)))
        differences.append(np.max([subtract(prediction, expected) for prediction in predictions], axis=0))
        flips.append(count_flips(fitted, batch, graph))
    return summarize_differences(np.concatenate(differences), np.concatenate(flips), scale=scale)


def summarize_differences(difference: np.ndarray, flipped: np.ndarray, *, scale: np.ndarray) -> dict[str, float]:
    """Return means, maxima and worst rows of (n, outputs) differences and (n,) counts of flipped decisions."""
    relative = difference[:, scale > 0] / scale[scale > 0]  # a constant output has no relative difference
    worst = np.unravel_index(np.argmax(difference), difference.shape)[0]  # the first NaN, if there is one
    return {
        "rows": len(difference),
        "mean_abs": float(difference.mean()),
        "max_abs": float(difference.max()),
        "mean_over_std": float(relative.mean()) if relative.size else float("nan"),
        "max_over_std": float(relative.max()) if relative.size else float("nan"),
        "not_finite": int(np.count_nonzero(~np.isfinite(difference))),
        "worst_row": int(worst),
        "flipped_decisions": int(flipped.sum()),
        "flipped_row": int(flipped.argmax()) if flipped.any() else float("nan"),
    }


def subtract(prediction: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return (B, outputs) absolute differences; ParityError where the shapes differ."""
    if prediction.shape != expected.shape:
        raise ParityError(f"the graph predicts {prediction.shape}, the model {expected.shape}; fix the model's to_onnx")
    return np.asarray(np.abs(prediction - expected))


def run_graph(session: onnxruntime.InferenceSession, inputs: np.ndarray, batch_size: int) -> np.ndarray:
    """Return the graph's predictions for `inputs`, fed `batch_size` rows at a time."""
    parts = [inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size)]
    return np.concatenate([session.run(["answer"], {"inputs": rows})[0] for rows in parts])


def check_limits(found: Mapping[str, float], name: str, *, mean_abs: PositiveFloat, max_abs: PositiveFloat) -> None:
    """Raise ParityError, naming the row, where a difference is NaN or beyond its limit, or a decision is flipped."""
    if found["not_finite"]:
        raise ParityError(
            f"{found['not_finite']} predictions of the {name} rows differ by NaN or infinity, the first at row "
            f"{found['worst_row']:.0f}; do not deploy this graph: fix the model's to_onnx"
        )
    limits = {"mean_abs": mean_abs, "max_abs": max_abs, "mean_over_std": mean_abs, "max_over_std": max_abs}
    for statistic, limit in limits.items():
        if found[statistic] > limit:
            raise ParityError(
                f"{statistic} is {found[statistic]:.3g} on the {name} rows, above {limit:g}; the worst is row "
                f"{found['worst_row']:.0f}; do not deploy this graph: fix the model's to_onnx"
            )
    if found["flipped_decisions"]:
        raise ParityError(
            f"{found['flipped_decisions']} decisions (a tree's leaf, an agent's trade) are flipped on the {name} rows, "
            f"most at row {found['flipped_row']:.0f}; do not deploy this graph: fix the thresholds in the model's "
            "to_onnx"
        )


if __name__ == "__main__":
    cli.run(main)
