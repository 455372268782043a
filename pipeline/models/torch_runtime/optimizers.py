"""Adam and AdamW without torch's compiler, which takes seconds to import and compiles nothing here."""

import inspect
from collections.abc import Callable

import torch
from torch.optim import Optimizer

COMPILER_AWARE = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")  # methods


def _skip_compiler(optimizer: type[Optimizer]) -> Callable[..., Optimizer]:
    """Return the optimizer with its methods as they are beneath the decorators that import the compiler.

    These decorators keep the compiler out of the methods, and gradients out of the step; `torch.no_grad` does the
    latter.
    """
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in COMPILER_AWARE}
    step = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), {**methods, "step": step, "__doc__": optimizer.__doc__})


Adam, AdamW = _skip_compiler(torch.optim.Adam), _skip_compiler(torch.optim.AdamW)
