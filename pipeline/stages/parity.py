"""parity <model>: compare the ONNX graph with the trained model; a difference beyond its limit stops the pipeline."""

import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
from pydantic import PositiveFloat

from pipeline import artifacts, cli, config, digests, has_avx2, read_cpu, remedies
from pipeline.models import base, plugins, tuned
from pipeline.models.dataset import check_sources, hash_dataset, load_dataset
from pipeline.models.onnx_session import hash_graphs, open_session
from pipeline.models.parity_checks.base import find_parity_checks
from pipeline.targets import Output

BATCHES = (1, 2, 37)  # and all rows at once
PACKAGES = ("numpy", "onnxruntime", "torch", "lightgbm", "xgboost")
UNBOUNDED = ("value", "quantiles", "horizons")  # kinds of predictions that are numbers in a unit of their own
STATISTICS = {  # measured differences, by the key of their limit
    "mean_abs": "mean_abs",
    "max_abs": "max_abs",
    "max_relative": "max_relative",
    "mean_over_std": "mean_abs",
    "max_over_std": "max_abs",
}
Flips = Callable[[base.Model, np.ndarray, Path], np.ndarray]


class ParityError(ValueError):
    """The graph's predictions are not the model's."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The section `parity` of params.yaml: limits on |graph - model|, which is measured in three units."""

    mean_abs: PositiveFloat  # in the prediction's unit, and in its spread; see `find_unit`
    max_abs: PositiveFloat  # in both, too
    max_relative: PositiveFloat  # in |model|; a difference up to mean_abs is allowed whatever the prediction

    @property
    def floor(self) -> float:
        """The |model| below which a difference of `mean_abs` decides, because relative errors grow near 0."""
        return self.mean_abs / self.max_relative


def main(model: str) -> None:
    """Compare a model's ONNX graph with the model on the holdout and on inputs on which graphs often differ."""
    params = config.load_params()
    family, block, _ = tuned.find_fitted(params, model)
    fitted, checks = plugins.load(artifacts.MODELS / model), find_parity_checks(family)
    folder = digests.verify(artifacts.ONNX / model)
    check_contract(folder, model, hash_dataset(block["dataset"], block["target"]))
    graph = folder / "model.onnx"
    data = load_dataset(block["dataset"], block["target"])
    data = data.add_fills(fitted.load_fills(params, block["dataset"], data.rows))
    samples, rows = data.samples.select_columns(fitted.signature.columns), data.folds.holdout()
    rng = np.random.default_rng(fitted.seed)
    limits = config.call_with(Limits, block=config.look_up(params, "parity"), name="parity")
    some = fitted.inputs(samples, np.sort(rng.permutation(rows)[: base.BATCH_ROWS]))
    ordinary = (fitted.inputs(samples, part) for part in base.split_into_batches(rows))
    hard = list(base.split_into_batches(checks.make_edge_cases(fitted, some, rng=rng)))
    unit, edge_unit = (
        find_unit(predictions, fitted.signature.output, mean_abs=limits.mean_abs)
        for predictions in (fitted.predict_rows(samples, rows), np.concatenate([*map(fitted.predict, hard)]))
    )
    edge_unit = np.maximum(unit, edge_unit)  # extreme inputs spread predictions further
    found = {
        name: compare(fitted, graph, inputs, unit=spread, floor=limits.floor, count_flips=checks.count_flips)
        for name, inputs, spread in (("holdout", ordinary, unit), ("edge_cases", hard, edge_unit))
    }
    measured = {**found, "machine": describe_machine()}
    artifacts.write_json(artifacts.MEASURED / "parity" / f"{model}.json", measured)
    for name, differences in found.items():
        check_limits(differences, name, limits, decisions=checks.decisions)
    report = {name: summarize_comparison(differences, limits) for name, differences in found.items()}
    artifacts.write_report("parity", model, report)


def check_contract(folder: Path, model: str, data: Mapping[str, str]) -> None:
    """Raise ArtifactError where a graph is not of the model and the `data`, sha256 by file, that lie on disk now."""
    contract = folder / "contract.json"
    recorded = artifacts.read_json(contract)["sha256"]
    check_sources(recorded["data"], data, source=contract)
    sums = artifacts.MODELS / model / digests.SUMS
    digests.verify_digest(sums, recorded["model"], source=contract)
    if hash_graphs(folder) != recorded["graph"]:
        raise digests.ArtifactError(
            f"{contract} is of other graphs than those in its folder; {remedies.describe_writing(contract)}"
        )


def find_unit(predictions: np.ndarray, output: Output, *, mean_abs: float) -> np.ndarray:
    """Return the unit (outputs,) of the limits relative to the spread of predictions (n, outputs); 0 without spread.

    It is the standard deviation, but so large that `mean_abs` of it is no finer than float32. That resolves a position
    or a probability to one epsilon of 1, and a number without bounds to one of its root mean square.
    """
    predictions = predictions.astype(np.float64)
    size = np.sqrt(np.square(predictions).mean(axis=0)) if output.kind in UNBOUNDED else np.ones(predictions.shape[1])
    resolution, std = np.finfo(np.float32).eps * size, predictions.std(axis=0)
    return np.asarray(np.where(std > resolution, np.maximum(std, resolution / mean_abs), 0.0))


def summarize_comparison(found: Mapping[str, float], limits: Limits) -> dict[str, object]:
    """Return the part of a passed comparison that is the same on every CPU: onnxruntime's rounding is not."""
    return {"rows": found["rows"], "limits": asdict(limits), "flipped_decisions": found["flipped_decisions"]}


def describe_machine() -> dict[str, object]:
    """Return the CPU, the instruction set that is used, and the versions of the libraries."""
    return {
        "cpu": read_cpu().get("model name", platform.processor()),
        "architecture": platform.machine(),
        "instruction_set": "AVX2" if has_avx2() else "unpinned",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def compare(
    fitted: base.Model,
    graph: Path,
    inputs: Iterable[np.ndarray],
    *,
    unit: np.ndarray,
    floor: float,
    count_flips: Flips,
) -> dict[str, float]:
    """Return how far the graph's predictions are from the model's, over every batch size, and its flipped decisions.

    Args:
        fitted: the model.
        graph: the ONNX file.
        inputs: arrays of (B, ...) float32, one after another.
        unit: (outputs,) the spread of the model's predictions, see `find_unit`.
        floor: relative differences are divided by |prediction|, at least by this, see `Limits.floor`.
        count_flips: the parity check of the model's family.
    """
    session, differences, predicted, flips = open_session(graph), [], [], []
    for batch in inputs:
        expected = fitted.predict(batch).astype(np.float64)
        predictions = (run_graph(session, batch, size) for size in (*BATCHES, len(batch)))
        differences.append(np.max([subtract(prediction, expected) for prediction in predictions], axis=0))
        predicted.append(expected)
        flips.append(count_flips(fitted, batch, graph))
    difference, values = np.concatenate(differences), np.concatenate(predicted)
    relative = difference / np.maximum(np.abs(values), floor)
    return summarize_differences(difference, relative, np.concatenate(flips), unit=unit)


def summarize_differences(
    difference: np.ndarray, relative: np.ndarray, flipped: np.ndarray, *, unit: np.ndarray
) -> dict[str, float]:
    """Return means, maxima and worst rows of (n, outputs) differences and (n,) counts of flipped decisions."""
    over_std = difference[:, unit > 0] / unit[unit > 0]  # a constant output has no spread
    worst = np.unravel_index(np.argmax(difference), difference.shape)[0]  # the first NaN, if there is one
    return {
        "rows": len(difference),
        "mean_abs": float(difference.mean()),
        "max_abs": float(difference.max()),
        "max_relative": float(relative.max()),
        "mean_over_std": float(over_std.mean()) if over_std.size else float("nan"),
        "max_over_std": float(over_std.max()) if over_std.size else float("nan"),
        "not_finite": int(np.count_nonzero(~np.isfinite(difference))),
        "worst_row": int(worst),
        "worst_relative_row": int(np.unravel_index(np.argmax(relative), relative.shape)[0]),
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


def check_limits(found: Mapping[str, float], name: str, limits: Limits, *, decisions: str = "decisions") -> None:
    """Raise ParityError, naming the row, where a difference is NaN or beyond its limit, or `decisions` are flipped."""
    if found["not_finite"]:
        raise ParityError(
            f"{found['not_finite']} predictions of the {name} rows differ by NaN or infinity, the first at row "
            f"{found['worst_row']:.0f}; do not deploy this graph: fix the model's to_onnx"
        )
    for statistic, key in STATISTICS.items():
        if found[statistic] > (limit := getattr(limits, key)):
            row = found["worst_relative_row" if key == "max_relative" else "worst_row"]
            raise ParityError(
                f"{statistic} is {found[statistic]:.3g} on the {name} rows, above {limit:g}; the worst is row "
                f"{row:.0f}; do not deploy this graph: fix the model's to_onnx, or raise parity.{key} if such "
                "differences do not matter"
            )
    if found["flipped_decisions"]:
        raise ParityError(
            f"{found['flipped_decisions']} {decisions} are flipped on the {name} rows, most at row "
            f"{found['flipped_row']:.0f}; do not deploy this graph: fix the model's to_onnx"
        )


if __name__ == "__main__":
    cli.run(main)
