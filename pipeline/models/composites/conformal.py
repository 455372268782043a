"""Conformal intervals around the predictions of another model, calibrated on rows that it did not learn from."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipeline.models.composites.engine import graphs
from pipeline.models.composites.engine.calibrated import Calibrated
from pipeline.models.composites.engine.composite import save_wrapped
from pipeline.models.composites.engine.conformity import (
    find_conformal_quantile,
    list_coverages,
    measure_excess,
    measure_residuals,
)
from pipeline.samples import Samples
from pipeline.targets import Kind, Output

MARGINS = "margins.json"
VALUE = Output(kind="value", names=("value",))


@dataclass(kw_only=True, eq=False)
class Conformal(Calibrated):
    """Quantiles of y whose intervals hold their coverage: split-conformal, or conformalized quantile regression.

    Two levels, such as 0.05 and 0.95, bound an interval whose coverage is their difference. With the conformity score
    `absolute_residual` the primary model predicts a number; the interval is that number ± a margin (Lei et al. 2018).
    With `quantile` it predicts the quantiles, and a margin widens or narrows each interval (Romano et al. 2019). It is
    the conformal quantile of the scores of the calibration rows. Coverage is guaranteed for rows that are exchangeable
    with these, on average over all of them; rows of a later time need not be.
    """

    output_kinds: ClassVar[tuple[Kind, ...]] = ("quantiles",)

    conformity_score: Literal["absolute_residual", "quantile"]
    margins: np.ndarray = field(init=False, repr=False)  # (pairs,) float32, of the outermost interval first
    report: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError where the levels are no pairs around the median, or the primary model is not allowed."""
        super().__post_init__()
        list_coverages(self.signature.output.levels)

    def choose_primary_output(self) -> Output:
        """Return the quantiles themselves, or one number."""
        return self.signature.output if self.conformity_score == "quantile" else VALUE

    @property
    def coverages(self) -> list[float]:
        """The coverage of each interval, the outermost first."""
        return list_coverages(self.signature.output.levels)

    @property
    def fit_report(self) -> dict[str, Any]:
        """The calibration rows and the margins, beside the facts of the primary model's fit."""
        return {**self.primary_model.fit_report, "conformal": self.report}

    def calibrate(self, samples: Samples, rows: np.ndarray) -> None:
        """Find the margins on the calibration rows; ValueError where these are too few for the coverage."""
        scores = self.measure_scores(samples, rows)
        pairs = zip(scores.T, self.coverages, strict=True)
        margins = np.array([find_conformal_quantile(own, coverage) for own, coverage in pairs])
        if not np.isfinite(margins).all():
            raise ValueError(
                f"{len(rows)} calibration rows are too few for a coverage of {max(self.coverages):g}; raise "
                "train.valid_pct, or choose quantiles nearer to the median"
            )
        self.margins = round_up_to_float32(margins)
        self.report = {"rows": len(rows), "coverages": self.coverages, "margins": self.margins.tolist()}

    def measure_scores(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """Return the conformity scores (n, pairs) of rows."""
        prediction = self.primary_model.predict_rows(samples, rows)
        if self.conformity_score == "quantile":
            return measure_excess(samples.y[rows], prediction)
        return measure_residuals(samples.y[rows], prediction[:, 0], len(self.coverages))

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return the quantiles (B, levels) float32, ascending."""
        primary = np.asarray(self.primary_model.predict(inputs), np.float32)  # (B, 1), or (B, levels)
        shifted = primary + self._make_shifts()
        for inner, outer, narrow in self._list_steps():  # a margin may narrow an interval beyond the median
            shifted[:, outer] = narrow(shifted[:, outer], shifted[:, inner])
        return np.asarray(shifted)

    def _make_shifts(self) -> np.ndarray:
        """Return (1, levels) float32 what is added to each quantile of the primary model, or to its number."""
        return np.concatenate([-self.margins, [0.0], self.margins[::-1]]).astype(np.float32)[None]

    def _list_steps(self) -> list[tuple[int, int, Callable[..., np.ndarray]]]:
        """Return the places of neighboring quantiles from the median outward, and which of both the outer becomes."""
        pairs = len(self.coverages)
        below = [(place + 1, place, np.minimum) for place in reversed(range(pairs))]
        return below + [(place - 1, place, np.maximum) for place in range(pairs + 1, 2 * pairs + 1)]

    def to_onnx(self, file: Path) -> None:
        """Write the primary model's graph and the shifts of its prediction behind it."""
        part = graphs.export_part(self.primary_model, "primary")
        names = [f"shifted_{place}" for place in range(len(self.outputs))]
        nodes: list[onnx.ModelProto | onnx.NodeProto] = [
            helper.make_node("Identity", [graphs.INPUTS], ["primary/inputs"]),
            part,
            helper.make_node("Add", ["primary/answer", "shifts"], ["shifted"]),
            helper.make_node("Split", ["shifted", "ones"], names, axis=1),
        ]
        for inner, outer, narrow in self._list_steps():
            kind, made = ("Min" if narrow is np.minimum else "Max"), f"quantile_{outer}"
            nodes.append(helper.make_node(kind, [names[outer], names[inner]], [made]))
            names[outer] = made
        nodes.append(helper.make_node("Concat", names, [graphs.OUTPUT], axis=1))
        constants = {"shifts": self._make_shifts(), "ones": np.ones(len(names), np.int64)}
        graphs.write_graph(
            nodes,
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
            shape=graphs.find_input_shape(part),
            outputs=len(names),
            file=file,
        )

    def save_fitted(self, folder: Path) -> None:
        """Write the margins, and the primary model to a folder of its own."""
        (folder / MARGINS).write_text(json.dumps(self.margins.tolist()) + "\n", encoding="utf-8")
        save_wrapped(self.primary_model, folder / "primary")

    def load_fitted(self, folder: Path) -> None:
        """Read the margins and the primary model."""
        self.margins = np.array(json.loads((folder / MARGINS).read_text(encoding="utf-8")), np.float32)
        self.primary_model.load_fitted(folder / "primary")


def round_up_to_float32(values: np.ndarray) -> np.ndarray:
    """Return the smallest float32 numbers that are not below values (n,): no interval becomes narrower by rounding."""
    nearest = values.astype(np.float32)
    return np.where(nearest.astype(np.float64) < values, np.nextafter(nearest, np.float32(np.inf)), nearest)
