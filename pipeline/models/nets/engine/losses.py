"""What a net is trained to make small: losses by name, of raw answers."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]  # (B, outputs) raw answers and (B,) values or codes -> a scalar


class Huber(nn.Module):
    """Mean of e²/2 where |e| <= δ, else δ (|e| - δ/2) (Huber 1964)."""

    def __init__(self, *, delta: float) -> None:
        """`delta` is in deviations of y: a regression is learnt in those."""
        super().__init__()
        if not delta > 0:
            raise ValueError(f"loss huber: delta is {delta}; it must be above 0, as 1.0")
        self.delta = delta

    def forward(self, answer: Tensor, y: Tensor) -> Tensor:
        """(B, 1) values and (B,) -> a scalar."""
        return F.huber_loss(answer[:, 0], y, delta=self.delta)


class Mse(nn.Module):
    """Mean of e²."""

    def forward(self, answer: Tensor, y: Tensor) -> Tensor:
        """(B, 1) values and (B,) -> a scalar."""
        return F.mse_loss(answer[:, 0], y)


class CrossEntropy(nn.Module):
    """Mean of -ln p, p the probability of the true class; with weights of classes their weighted mean."""

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None) -> None:
        """`weight` is (classes,)."""
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """(B, classes) logits and (B,) codes -> a scalar."""
        return F.cross_entropy(logits, y, weight=self.weight)


class Focal(nn.Module):
    """Mean of -α (1 - p)^γ ln p, p the probability of the true class (Lin et al. 2017, eq. 5)."""

    alpha: Tensor

    def __init__(self, *, gamma: float, alpha: Tensor) -> None:
        """`alpha` is (classes,). γ 0 and α 1 give cross-entropy."""
        super().__init__()
        if not gamma >= 0:
            raise ValueError(f"loss focal: gamma is {gamma}; it must be at least 0, as 2.0")
        self.gamma = gamma
        self.register_buffer("alpha", alpha)

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """(B, classes) logits and (B,) codes -> a scalar."""
        log_p = F.log_softmax(logits, dim=1).gather(1, y[:, None])[:, 0]
        return (-self.alpha[y] * (1 - log_p.exp()) ** self.gamma * log_p).mean()


def weights(codes: np.ndarray, classes: int) -> Tensor:
    """(classes,) n / (classes · count) of (n,) train codes; an absent class counts as one row."""
    counts = np.maximum(np.bincount(codes, minlength=classes), 1)
    return torch.tensor(len(codes) / (classes * counts), dtype=torch.float32)


def _weighted(codes: np.ndarray, classes: int) -> nn.Module:
    return CrossEntropy(weights(codes, classes))


def _focal(codes: np.ndarray, classes: int, *, gamma: float, alpha: float | list[float]) -> nn.Module:
    each = [alpha] * classes if isinstance(alpha, int | float) else list(alpha)
    if len(each) != classes or min(each) <= 0:
        raise ValueError(f"loss focal: alpha is {alpha}; give one number above 0, or one for each of {classes} classes")
    return Focal(gamma=gamma, alpha=torch.tensor(each, dtype=torch.float32))


def _huber(codes: np.ndarray, classes: int, *, delta: float) -> nn.Module:
    return Huber(delta=delta)


LOSSES: dict[bool, dict[str, Callable[..., nn.Module]]] = {  # by whether outputs are classes
    False: {"mse": lambda codes, classes: Mse(), "huber": _huber},
    True: {
        "cross_entropy": lambda codes, classes: CrossEntropy(),
        "weighted_cross_entropy": _weighted,
        "focal": _focal,
    },
}


def check(block: Mapping[str, Any], *, is_classification: bool) -> None:
    """Raises ValueError where `block`, as {name: huber, delta: 1.0}, names no loss of such outputs or other keys."""
    allowed = LOSSES[is_classification]
    if block.get("name") not in allowed:
        kind = "classes" if is_classification else "a value"
        raise ValueError(f"loss {dict(block)} for {kind}; its name must be one of {sorted(allowed)}")
    known = [name for name in inspect.signature(allowed[block["name"]]).parameters if name not in ("codes", "classes")]
    given = [name for name in block if name != "name"]
    if sorted(known) != sorted(given):
        raise ValueError(f"loss {block['name']}: got the keys {sorted(given)}, its keys are {sorted(known)}")


def built(block: Mapping[str, Any], codes: np.ndarray, *, classes: int) -> nn.Module:
    """The loss that `block` names; `codes` are (n,) train codes, unused by a regression, which has no `classes`."""
    check(block, is_classification=classes > 0)
    tunables = {name: value for name, value in block.items() if name != "name"}
    return LOSSES[classes > 0][block["name"]](codes, classes, **tunables)
