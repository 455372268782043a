"""Checks of a composite against its ONNX graph: the hard inputs of the model that it wraps."""

import numpy as np

from pipeline.models.composites.engine.composite import Composite
from pipeline.models.parity_checks.base import find_parity_checks


def make_edge_cases(model: Composite, inputs: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Return the edge cases of the primary model's family, whose inputs are those of the composite."""
    return find_parity_checks(model.primary["family"]).make_edge_cases(model.primary_model, inputs, rng=rng)
