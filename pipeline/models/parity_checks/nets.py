"""Inputs on which a net and its ONNX graph are most likely to differ."""

import numpy as np

from pipeline.models.nets.engine.net import Net
from pipeline.models.parity_checks import base


def make_edge_cases(model: Net, inputs: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Return windows (n, T, F): those of every family, bars at the edges of the clip, and raw extremes."""
    own = base.make_clip_edge_cases(model.net.standardize, inputs, rng=rng)
    return np.concatenate([base.make_edge_cases(model, inputs, rng=rng), own])
