"""The file in a saved model's folder that makes sets of classes of its probabilities."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

FILE = "prediction_set.json"


@dataclass(frozen=True)
class PredictionSet:
    """The rule of a prediction set: all classes whose probability is at least the threshold."""

    coverage: float  # the share of rows whose class should be in their set
    threshold: float  # a float32 number


def write_rule(rule: PredictionSet, folder: Path) -> None:
    """Write a rule to the folder of a model."""
    (folder / FILE).write_text(json.dumps(asdict(rule)) + "\n", encoding="utf-8")


def read_rule(folder: Path) -> PredictionSet | None:
    """Return the rule in the folder of a model; None where it has none."""
    file = folder / FILE
    return PredictionSet(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def select_classes(probabilities: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Return (n, classes) bool, whether a class is in its row's set; `threshold` (n,) is that of each row's fit."""
    return np.asarray(probabilities >= threshold[:, None].astype(np.float32))
