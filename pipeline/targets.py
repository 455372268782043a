"""Targets: the kind of prediction that each asks for, its horizon, and the score of a prediction."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from pipeline import artifacts

Kind = Literal["value", "position", "probability", "classes", "quantiles", "horizons"]
NEUTRAL: dict[Kind, float] = {"value": 0.0, "position": 0.0, "probability": 0.5, "quantiles": 0.0, "horizons": 0.0}
MEDIAN = 0.5
SHORTER = "y_"  # of labels over several horizons: y_1 is that over 1 bar, and y that over the longest


@dataclass(frozen=True, kw_only=True)
class Output:
    """The kind of a target's predictions.

    A "value" is a number in the unit of y, a "position" one in [-1, 1], a "probability" one in [0, 1] that is neutral
    at 0.5. "classes" are probabilities with sum 1, from the lowest class to the highest; "quantiles" are those of y.
    "horizons" are values over each of several horizons, the shortest first: the last is the target's, whose y is y.
    """

    kind: Kind
    names: tuple[str, ...]  # of a prediction's columns; class codes are their indices
    levels: tuple[float, ...] = ()  # of the quantiles, ascending in (0, 1)
    neutral_class: str | None = None  # the class that is neither up nor down
    has_direction: bool = True  # whether it says where the price goes; a forecast of volatility does not
    horizons: tuple[int, ...] = ()  # bars, ascending: of each name, where a prediction has several horizons

    @property
    def is_classification(self) -> bool:
        """Whether y is a class code."""
        return self.kind == "classes"

    @property
    def neutral(self) -> float:
        """The y without a direction; NaN where y is a class, or where no y has a direction."""
        return NEUTRAL[self.kind] if self.has_direction and self.kind in NEUTRAL else float("nan")

    @property
    def no_score_reason(self) -> str | None:
        """Why predictions have no score, so that they are evaluated but never traded; None where they have one."""
        if not self.has_direction:
            return f"a prediction of {', '.join(self.names)} has no direction"
        if self.kind == "quantiles" and not self.levels[0] <= MEDIAN <= self.levels[-1]:
            return f"the quantiles {', '.join(self.names)} do not enclose the median"
        return None

    def to_score(self, prediction: np.ndarray) -> np.ndarray:
        """Return the score that is traded, (B,) in [-1, 1], of a prediction (B, len(names)).

        A value (of a return, in units of σ·√horizon) and a position are scores themselves. A probability is centered.
        Classes give P(highest) - P(lowest), quantiles the median, interpolated between levels, horizons the last.

        Raises:
            ValueError: predictions of this kind have no score; says why.
        """
        if self.no_score_reason:
            raise ValueError(f"{self.no_score_reason}: it has no score")
        score: np.ndarray
        if self.kind == "classes":
            score = prediction[:, -1] - prediction[:, 0]
        elif self.kind == "probability":
            score = 2 * prediction[:, 0] - 1
        else:
            score = self.take_center(prediction)
        return score.clip(-1.0, 1.0)

    def take_center(self, prediction: np.ndarray) -> np.ndarray:
        """Return the one number (B,) that a prediction (B, len(names)) of no classes is compared with y by.

        Of quantiles it is the median, or the nearest level where they do not enclose it; of horizons the last.
        """
        if self.kind != "quantiles":
            return prediction[:, -1]
        below, above, share = self.find_median()
        gap = prediction[:, above] - prediction[:, below]
        return np.asarray(prediction[:, below] + prediction.dtype.type(share) * gap)

    def find_median(self) -> tuple[int, int, float]:
        """Return the places of the levels below and above the median, and the share of their distance up to it.

        Both are the nearest level where the levels do not enclose it.
        """
        above = min(int(np.searchsorted(self.levels, MEDIAN)), len(self.levels) - 1)
        below = above if self.levels[above] <= MEDIAN or above == 0 else above - 1
        gap = self.levels[above] - self.levels[below]
        return below, above, (MEDIAN - self.levels[below]) / gap if gap else 0.0

    def describe(self) -> dict[str, Any]:
        """Return the fields as files have them: `horizons` only where there are some."""
        return {key: value for key, value in asdict(self).items() if key != "horizons" or value}

    @classmethod
    def from_description(cls, described: Mapping[str, Any]) -> "Output":
        """Return the output that `describe` described, in JSON or not."""
        lists = {key: tuple(described.get(key) or ()) for key in ("names", "levels", "horizons")}
        return cls(**{**described, **lists})


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target of a dataset: its name, the most bars that its y spans, and what its predictions are."""

    name: str
    horizon_bars: int
    output: Output
    strategy: dict[str, Any] | None = None  # kind and terms, where reports have metrics of that kind of strategy

    @property
    def attributes(self) -> dict[str, Any]:
        """The `attrs` of a table of labels, which parquet stores: the table says what it is."""
        described = asdict(self) | {"output": self.output.describe()}
        return {"target": {key: value for key, value in described.items() if key != "strategy" or value is not None}}

    @classmethod
    def load(cls, labels: Path) -> "Target":
        """Return the target of a parquet of labels.

        Raises:
            ValueError: the file does not say what its target is.
        """
        described = artifacts.read_attributes(pq.read_schema(labels)).get("target")
        if described is None:
            raise ValueError(f"{labels}: does not say what its target is; run `dvc repro label`")
        return cls(**described | {"output": Output.from_description(described["output"])})


def list_shorter(columns: Iterable[str]) -> list[str]:
    """Return the columns of labels over shorter horizons than the target's, in their order."""
    return [name for name in columns if name.startswith(SHORTER)]
