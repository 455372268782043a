"""Conformal sets of classes: of each row those classes that another model's probabilities cannot rule out."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Interval

from pipeline.models.composites.engine.calibrated import Calibrated
from pipeline.models.composites.engine.composite import save_wrapped
from pipeline.models.composites.engine.conformity import find_conformal_quantile
from pipeline.prediction_sets import PredictionSet, read_rule, select_classes, write_rule
from pipeline.samples import Samples
from pipeline.targets import Kind, Output


@dataclass(kw_only=True, eq=False)
class ConformalSets(Calibrated):
    """Probabilities of a primary model, with a threshold: classes of at least that probability are the prediction set.

    The sets are split-conformal, by the least ambiguous score, 1 − the probability of the true class (Sadinle, Lei &
    Wasserman 2019). The threshold is the probability that the conformal quantile of the calibration rows' scores
    leaves. A new row that is exchangeable with these has its class in its set with a probability of at least
    `coverage`, on average over all rows: not within each class, and not at each time. A set may be empty.

    Predictions and graph are those of the primary model.
    """

    output_kinds: ClassVar[tuple[Kind, ...]] = ("classes",)

    coverage: Annotated[float, Interval(gt=0, lt=1)]
    rule: PredictionSet = field(init=False, repr=False)
    report: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def choose_primary_output(self) -> Output:
        """Return the classes of the target."""
        return self.signature.output

    @property
    def fit_report(self) -> dict[str, Any]:
        """The calibration rows, the coverage and the threshold, beside the facts of the primary model's fit."""
        return {**self.primary_model.fit_report, "prediction_set": self.report}

    def calibrate(self, samples: Samples, rows: np.ndarray) -> None:
        """Find the threshold on the calibration rows; ValueError where these are too few for the coverage."""
        of_class = np.take_along_axis(
            np.asarray(self.primary_model.predict_rows(samples, rows), np.float32),
            samples.y[rows, None].astype(np.int64),
            axis=1,
        )[:, 0]
        threshold = -find_conformal_quantile(-of_class, self.coverage)  # −p has the order of 1 − p, without rounding
        if not np.isfinite(threshold):
            raise ValueError(
                f"{len(rows)} calibration rows are too few for a coverage of {self.coverage:g}; raise "
                "train.valid_pct, or lower coverage"
            )
        self.rule = PredictionSet(self.coverage, threshold)
        self.report = {"rows": len(rows), **asdict(self.rule)}

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return the probabilities (B, classes) of the primary model."""
        return self.primary_model.predict(inputs)

    def find_sets(self, probabilities: np.ndarray) -> np.ndarray:
        """Return (B, classes) bool, whether a class is in the set of a row, of probabilities (B, classes)."""
        return select_classes(probabilities, np.full(len(probabilities), self.rule.threshold))

    def to_onnx(self, file: Path) -> None:
        """Write the graph of the primary model."""
        self.primary_model.to_onnx(file)

    def save_fitted(self, folder: Path) -> None:
        """Write the threshold, and the primary model to a folder of its own."""
        write_rule(self.rule, folder)
        save_wrapped(self.primary_model, folder / "primary")

    def load_fitted(self, folder: Path) -> None:
        """Read the threshold and the primary model."""
        rule = read_rule(folder)
        assert rule is not None  # `save_fitted` wrote it
        self.rule = rule
        self.primary_model.load_fitted(folder / "primary")
