"""Inputs on which a standardizing layer and its ONNX graph are most likely to differ."""

import numpy as np

from pipeline.models.audit import SAMPLED_INPUTS
from pipeline.models.torch_runtime.standardize import Standardize

EXTREMES = np.array([-1e30, -1e9, -1e3, 1e3, 1e9, 1e30], dtype=np.float32)
EXTREME_SHARE = 0.1  # of the entries of an input


def make_clip_inputs(layer: Standardize, inputs: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Return inputs (n, …, F) float32, made from ordinary ones: rows at the edges of the clip, and raw extremes."""
    edges = _list_clip_edges(layer)
    some = inputs[rng.integers(len(inputs), size=min(len(inputs), SAMPLED_INPUTS))]
    at_edges = edges[rng.integers(len(edges), size=some.shape[:-1])]
    extreme = np.where(rng.random(some.shape) < EXTREME_SHARE, rng.choice(EXTREMES, size=some.shape), some)
    return np.concatenate([at_edges, extreme]).astype(np.float32)


def _list_clip_edges(layer: Standardize) -> np.ndarray:
    """Return (6, F) float32: both edges of the clip, and one float32 step to either side of each."""
    mean, std = layer.statistics
    edges = np.stack([mean - layer.clip_sigma * std, mean + layer.clip_sigma * std]).astype(np.float32)  # (2, F)
    steps = (np.nextafter(edges, np.float32(to)) for to in (-np.inf, np.inf))
    return np.concatenate([edges, *steps])
