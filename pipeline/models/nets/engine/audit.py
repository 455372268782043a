"""Inputs on which a net and its ONNX graph are most likely to differ."""

import numpy as np

from pipeline.models import audit
from pipeline.models.nets.engine.net import Net
from pipeline.models.torch_runtime.audit import make_clip_inputs


def make_hard_inputs(model: Net, inputs: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Return windows (n, T, F): those of every family, bars at the edges of the clip, and raw extremes."""
    own = make_clip_inputs(model.net.standardize, inputs, rng=rng)
    return np.concatenate([audit.make_hard_inputs(model, inputs, rng=rng), own])
