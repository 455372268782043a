"""Conformal sets of classes: of each row those classes that another model's probabilities cannot rule out."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Interval

from pipeline.models.composites.engine.composite import Composite, save_wrapped
from pipeline.models.composites.engine.conformity import divide_valid, find_conformal_quantile
from pipeline.models.fit_files import FitFiles
from pipeline.models.prediction_sets import PredictionSet, read_rule, write_rule
from pipeline.samples import Samples
from pipeline.targets import Kind, Output


@dataclass(kw_only=True, eq=False)
class ConformalSets(Composite):
    """Probabilities of a primary model, with a threshold: classes of at least that probability are the prediction set.

    The sets are split-conformal, by the least ambiguous score, 1 − the probability of the true class (Sadinle, Lei &
    Wasserman 2019). The threshold is the probability that the conformal quantile of the calibration rows' scores
    leaves. A new row that is exchangeable with these has its class in its set with a probability of at least
    `coverage`, on average over all rows: not within each class, and not at each time. A set may be empty.

    Predictions and graph are those of the primary model. `calibration_rows` are as of the plugin `conformal`.
    """

    output_kinds: ClassVar[tuple[Kind, ...]] = ("classes",)

    coverage: Annotated[float, Interval(gt=0, lt=1)]
    calibration_rows: Literal["valid", "later_half"] = "valid"
    rule: PredictionSet = field(init=False, repr=False)
    report: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def choose_primary_output(self) -> Output:
        """Return the classes of the target."""
        return self.signature.output

    @property
    def fit_report(self) -> dict[str, Any]:
        """The calibration rows, the coverage and the threshold, beside the facts of the primary model's fit."""
        return {**self.primary_model.fit_report, "prediction_set": self.report}

    def fit(
        self, samples: Samples, train: np.ndarray, valid: np.ndarray, *, files: FitFiles | None = None
    ) -> list[dict[str, float]]:
        """Fit the primary model, then find the threshold on the calibration rows; return the primary's history.

        Raises:
            ValueError: there are too few calibration rows for the coverage.
        """
        self.check_fit(samples, train, valid)
        stopping, calibration = valid, valid
        if self.calibration_rows == "later_half":
            stopping, calibration = divide_valid(samples, valid)
        history = self.primary_model.fit(samples, train, stopping, files=files)
        of_class = np.take_along_axis(
            np.asarray(self.primary_model.predict_rows(samples, calibration), np.float32),
            samples.y[calibration, None].astype(np.int64),
            axis=1,
        )[:, 0]
        threshold = -find_conformal_quantile(-of_class, self.coverage)  # −p has the order of 1 − p, without rounding
        if not np.isfinite(threshold):
            raise ValueError(
                f"{len(calibration)} calibration rows are too few for a coverage of {self.coverage:g}; raise "
                "train.valid_pct, or lower coverage"
            )
        self.rule = PredictionSet(self.coverage, threshold)
        self.report = {"rows": len(calibration), **asdict(self.rule)}
        return history

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return the probabilities (B, classes) of the primary model."""
        return self.primary_model.predict(inputs)

    def find_sets(self, probabilities: np.ndarray) -> np.ndarray:
        """Return (B, classes) bool, whether a class is in the set of a row, of probabilities (B, classes)."""
        return np.asarray(probabilities >= self.rule.threshold)

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
