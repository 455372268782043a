"""The layer in which a loss or a gradient that is not finite first arose."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class NotFiniteError(ValueError):
    """A loss or a gradient that is NaN or infinite, which ends the fit."""


@torch.no_grad()
def find_bad_output(net: nn.Module, x: Tensor) -> str:
    """Return the name of the first layer whose output for `x` is not finite; "loss" where there is none."""
    bad: list[str] = []

    def make_hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def note_bad_output(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if not torch.isfinite(first).all():
                bad.append(name)

        return note_bad_output

    handles = [module.register_forward_hook(make_hook(name)) for name, module in net.named_modules() if name]
    net(x)
    for handle in handles:
        handle.remove()
    return bad[0] if bad else "loss"


def find_bad_gradient(net: nn.Module) -> str:
    """Return the name of the first layer whose gradient is not finite; "unknown" where there is none."""
    return next(
        (
            name.rpartition(".")[0]
            for name, parameter in net.named_parameters()
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
        ),
        "unknown",
    )
