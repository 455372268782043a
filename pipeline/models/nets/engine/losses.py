"""Losses by name, as params give them; all take the raw outputs of a net."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import config
from pipeline.targets import Kind, Output

Loss = Callable[[Tensor, Tensor], Tensor]  # (B, outputs) raw outputs and y, see TrainingData -> a scalar


class HuberLoss(nn.Module):
    """Mean of e²/2 where |e| <= δ, and of δ (|e| - δ/2) elsewhere (Huber 1964)."""

    def __init__(self, *, delta: float) -> None:
        """`delta` is in standard deviations of y, the unit in which a regression is learned."""
        super().__init__()
        self.delta = delta

    def forward(self, output: Tensor, y: Tensor) -> Tensor:
        """Map (B, 1) values and (B,), or (B, horizons) both -> a scalar."""
        return F.huber_loss(output.reshape(y.shape), y, delta=self.delta)


class MSELoss(nn.Module):
    """Mean of e²."""

    def forward(self, output: Tensor, y: Tensor) -> Tensor:
        """Map (B, 1) values and (B,), or (B, horizons) both -> a scalar."""
        return F.mse_loss(output.reshape(y.shape), y)


class PinballLoss(nn.Module):
    """Mean over rows and levels q of max(q e, (q - 1) e), where e = y - quantile (Koenker & Bassett 1978)."""

    levels: Tensor

    def __init__(self, *, levels: Tensor) -> None:
        """`levels` is (outputs,), within (0, 1)."""
        super().__init__()
        self.register_buffer("levels", levels)

    def forward(self, output: Tensor, y: Tensor) -> Tensor:
        """Map (B, outputs) quantiles and (B,) values -> a scalar."""
        error = y[:, None] - output
        return torch.maximum(self.levels * error, (self.levels - 1) * error).mean()


class CrossEntropyLoss(nn.Module):
    """Mean of -ln p, where p is the probability of the true class; with class weights their weighted mean."""

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None) -> None:
        """`weight` is (classes,)."""
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """Map (B, classes) logits and (B,) codes -> a scalar."""
        return F.cross_entropy(logits, y, weight=self.weight)


class FocalLoss(nn.Module):
    """Mean of -α (1 - p)^γ ln p, where p is the probability of the true class (Lin et al. 2017, eq. 5)."""

    alpha: Tensor

    def __init__(self, *, gamma: float, alpha: Tensor) -> None:
        """`alpha` is (classes,). γ = 0 and α = 1 give the cross-entropy."""
        super().__init__()
        self.gamma = gamma
        self.register_buffer("alpha", alpha)

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """Map (B, classes) logits and (B,) codes -> a scalar."""
        log_p = F.log_softmax(logits, dim=1).gather(1, y[:, None])[:, 0]
        return (-self.alpha[y] * (1 - log_p.exp()) ** self.gamma * log_p).mean()


def weigh_classes(codes: np.ndarray, classes: int) -> Tensor:
    """Return the weights (classes,) n / (classes · count) of (n,) train codes; an absent class counts as one row."""
    counts = np.maximum(np.bincount(codes, minlength=classes), 1)
    return torch.tensor(len(codes) / (classes * counts), dtype=torch.float32)


def _make_weighted(codes: np.ndarray, output: Output) -> nn.Module:
    return CrossEntropyLoss(weigh_classes(codes, len(output.names)))


def _make_focal(
    codes: np.ndarray, output: Output, *, gamma: NonNegativeFloat, alpha: PositiveFloat | list[PositiveFloat]
) -> nn.Module:
    classes = len(output.names)
    by_class = [alpha] * classes if isinstance(alpha, int | float) else list(alpha)
    if len(by_class) != classes:
        raise ValueError(
            f"loss focal: alpha is {alpha}; allowed are a number above 0, or a list of {classes}, one for each class"
        )
    return FocalLoss(gamma=gamma, alpha=torch.tensor(by_class, dtype=torch.float32))


def _make_huber(codes: np.ndarray, output: Output, *, delta: PositiveFloat) -> nn.Module:
    return HuberLoss(delta=delta)


def _make_pinball(codes: np.ndarray, output: Output) -> nn.Module:
    return PinballLoss(levels=torch.tensor(output.levels, dtype=torch.float32))


OF_NUMBERS: dict[str, Callable[..., nn.Module]] = {"mse": lambda codes, output: MSELoss(), "huber": _make_huber}
LOSSES: dict[Kind, dict[str, Callable[..., nn.Module]]] = {  # by what is predicted
    "value": OF_NUMBERS,
    "position": OF_NUMBERS,
    "probability": OF_NUMBERS,
    "horizons": OF_NUMBERS,
    "quantiles": {"pinball": _make_pinball},
    "classes": {
        "cross_entropy": lambda codes, output: CrossEntropyLoss(),
        "weighted_cross_entropy": _make_weighted,
        "focal": _make_focal,
    },
}


def check_loss(block: Mapping[str, Any], output: Output) -> None:
    """Raise ValueError where `block`, such as {name: huber, delta: 1.0}, has an unknown name or other keys."""
    allowed = LOSSES[output.kind]
    if block.get("name") not in allowed:
        raise config.ParamsError(
            f"loss.name is {block.get('name')!r}; where a target asks for {output.kind} it must be one of "
            f"{', '.join(sorted(allowed))}"
        )
    own = {name: value for name, value in block.items() if name != "name"}
    config.check_section(allowed[block["name"]], own, name=f"loss {block['name']}")


def make_loss(block: Mapping[str, Any], codes: np.ndarray, output: Output) -> nn.Module:
    """Return the loss that `block` names.

    Args:
        block: {name: focal, gamma: 2.0, alpha: 0.25} and the like.
        codes: (n,) train codes; used for classes alone.
        output: what is predicted.
    """
    check_loss(block, output)
    hyperparameters = {name: value for name, value in block.items() if name != "name"}
    return LOSSES[output.kind][block["name"]](codes, output, **hyperparameters)
