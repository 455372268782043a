"""The base class of composites that calibrate the primary model's predictions on rows that it did not learn from."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.models.composites.engine.composite import Composite
from pipeline.models.fit_files import FitFiles
from pipeline.samples import Samples


@dataclass(kw_only=True, eq=False)
class Calibrated(Composite):
    """A composite whose calibration rows are the valid rows of its fit.

    The primary model has not learned from them, but `valid` ones have chosen its best iteration, which makes their
    residuals a little too small. With `later_half` the earlier half of the valid times stops the fit, and the later
    half, less labels that reach into it, calibrates alone.
    """

    calibration_rows: Literal["valid", "later_half"] = "valid"

    def fit(
        self, samples: Samples, train: np.ndarray, valid: np.ndarray, *, files: FitFiles | None = None
    ) -> list[dict[str, float]]:
        """Fit the primary model, then calibrate; return the primary's history.

        Raises:
            ValueError: there are too few calibration rows for the coverage.
        """
        self.check_fit(samples, train, valid)
        stopping, calibration = valid, valid
        if self.calibration_rows == "later_half":
            stopping, calibration = divide_valid(samples, valid)
        history = self.primary_model.fit(samples, train, stopping, files=files)
        self.calibrate(samples, calibration)
        return history

    @abstractmethod
    def calibrate(self, samples: Samples, rows: np.ndarray) -> None:
        """Calibrate the fitted primary model on these rows; ValueError where they are too few for the coverage."""


def divide_valid(samples: Samples, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the earlier half of the valid times, and those of the later half; labels of both are apart.

    Raises:
        ValueError: one of them is empty.
    """
    times = np.unique(samples.time[valid])
    first = times[len(times) // 2]
    stopping = valid[samples.label_end[valid] < first]
    if not len(stopping):
        raise ValueError(
            f"the {len(times)} valid times are too few to be divided: the labels of the earlier half end in the later "
            "one; raise train.valid_pct, or set calibration_rows to valid"
        )
    return stopping, valid[samples.time[valid] >= first]
