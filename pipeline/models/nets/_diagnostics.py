"""Measurements of a fitted net: the entropy of its attention."""

import numpy as np
import torch

from pipeline.models.nets.engine.net import Net
from pipeline.models.torch_runtime.device import use_one_thread

NO_ATTENTION = "the net has no attention"


@torch.no_grad()
def diagnose(model: Net, inputs: np.ndarray) -> dict[str, float | str | None]:
    """Return `attention_entropy`, in nats, the mean over windows (B, T, F) and heads of the weights of the bars.

    A module with attention has a method `attend` that maps (B, T, F) to weights (B, …, T), or raises ValueError where
    its hyperparameters leave attention out. Even weights have the entropy ln T.
    """
    attend = getattr(model.net.body, "attend", None)
    if attend is None:
        return {"attention_entropy": None, "reason": NO_ATTENTION}
    with use_one_thread(torch.device("cpu")):
        seen = model.net.standardize(torch.from_numpy(np.ascontiguousarray(inputs)))
        try:
            weights = attend(seen).double()  # (B, …, T)
        except ValueError as error:
            return {"attention_entropy": None, "reason": str(error)}
    return {"attention_entropy": float(torch.special.entr(weights).sum(dim=-1).mean())}
