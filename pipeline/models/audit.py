"""Check a fitted model against its ONNX graph: inputs on which deployments fail, and flipped decisions.

A family has its own in `pipeline/models/<family>/engine/audit.py`; these are the defaults.
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.models.base import Model

SAMPLED_INPUTS = 256


class Audit(NamedTuple):
    """The two functions of a family's audit."""

    make_hard_inputs: Callable[..., np.ndarray]  # (model, inputs, *, rng) -> (n, ...)
    count_flips: Callable[..., np.ndarray]  # (model, inputs, file) -> (B,)


def find_audit(family: str) -> Audit:
    """Return a family's own audit functions, and the defaults of this module for those that it lacks."""
    name = f"pipeline.models.{family}.engine.audit"
    found = vars(importlib.import_module(name)) if importlib.util.find_spec(name) else {}
    return Audit(
        found.get("make_hard_inputs", make_hard_inputs),
        found.get("count_flips", count_flips),
    )


def make_hard_inputs(model: Model, inputs: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Return inputs (n, ...), made from ordinary ones, with zeros of both signs and tiny numbers.

    A family adds its own: the places where its decisions change, and extreme values for which it is defined.
    """
    tiny = np.finfo(np.float32)
    odd = np.array([0.0, -0.0, tiny.tiny, -tiny.tiny, tiny.smallest_subnormal], dtype=np.float32)
    constant = np.broadcast_to(odd.reshape(-1, *[1] * (inputs.ndim - 1)), (len(odd), *inputs.shape[1:]))
    some = inputs[rng.integers(len(inputs), size=min(len(inputs), SAMPLED_INPUTS))]
    sprinkled = np.where(rng.random(some.shape) < 0.2, rng.choice(odd, size=some.shape), some)
    return np.concatenate([constant, sprinkled])


def count_flips(model: Model, inputs: np.ndarray, file: Path) -> np.ndarray:
    """Return how many discrete decisions the ONNX graph in `file` takes differently, (B,); 0 where there are none."""
    return np.zeros(len(inputs), dtype=np.int64)
