"""Compare a fitted model with its ONNX graph: inputs on which graphs often differ, and flipped decisions.

A family has its own in `pipeline/models/parity_checks/<family>.py`; these are the defaults.
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from pipeline.models.base import Model

DECISIONS = "decisions"  # the name of what `count_flips` counts
SAMPLED_INPUTS = 256
EXTREMES = np.array([-1e30, -1e9, -1e3, 1e3, 1e9, 1e30], dtype=np.float32)
EXTREME_SHARE = 0.1  # of the entries of an input


class ParityChecks(NamedTuple):
    """The functions by which a family's graphs are checked."""

    make_edge_cases: Callable[..., np.ndarray]  # (model, inputs, *, rng) -> (n, ...)
    count_flips: Callable[..., np.ndarray]  # (model, inputs, file) -> (B,)
    decisions: str  # what it counts, for messages


class StandardizingLayer(Protocol):
    """A layer that standardizes columns and clips them, such as `torch_runtime.standardize.Standardize`."""

    clip_sigma: float

    @property
    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, std), each (F,) float64."""


def find_parity_checks(family: str) -> ParityChecks:
    """Return a family's own checks, and the defaults of this module for those that it lacks."""
    name = f"pipeline.models.parity_checks.{family}"
    found = vars(importlib.import_module(name)) if importlib.util.find_spec(name) else {}
    return ParityChecks(
        found.get("make_edge_cases", make_edge_cases),
        found.get("count_flips", count_flips),
        found.get("DECISIONS", DECISIONS),
    )


def make_edge_cases(model: Model, inputs: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
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


def make_clip_edge_cases(layer: StandardizingLayer, inputs: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Return inputs (n, …, F) float32, made from ordinary ones: rows at the edges of the clip, and raw extremes."""
    edges = _list_clip_edges(layer)
    some = inputs[rng.integers(len(inputs), size=min(len(inputs), SAMPLED_INPUTS))]
    at_edges = edges[rng.integers(len(edges), size=some.shape[:-1])]
    extreme = np.where(rng.random(some.shape) < EXTREME_SHARE, rng.choice(EXTREMES, size=some.shape), some)
    return np.concatenate([at_edges, extreme]).astype(np.float32)


def _list_clip_edges(layer: StandardizingLayer) -> np.ndarray:
    """Return (6, F) float32: both edges of the clip, and one float32 step to either side of each."""
    mean, std = layer.statistics
    edges = np.stack([mean - layer.clip_sigma * std, mean + layer.clip_sigma * std]).astype(np.float32)  # (2, F)
    steps = (np.nextafter(edges, np.float32(to)) for to in (-np.inf, np.inf))
    return np.concatenate([edges, *steps])
