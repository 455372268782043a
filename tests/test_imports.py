"""The libraries that a process loads: imports are most of the time of a short stage."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from pipeline.models.torch_runtime import optimizers

LOADED = """
import importlib, sys
for name in {modules}:
    importlib.import_module(name)
{then}
print(*sorted(set(sys.modules) & {unused}))
"""
STEP = """
import torch
from pipeline.models.torch_runtime.optimizers import AdamW
weight = torch.nn.Parameter(torch.ones(2))
optimizer = AdamW([weight], lr=0.1, fused=True)
optimizer.zero_grad(set_to_none=True)
weight.sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
"""
PLUGINS = ["trees.catboost", "trees.lightgbm", "trees.xgboost", "nets.recurrent", "agents.marl"]
UNUSED = {"sklearn", "scipy.stats", "torch._dynamo", "matplotlib"}


def list_loaded(modules: list[str], *, unused: set[str], then: str = "") -> str:
    """Return those of the `unused` packages that a new process has loaded after the import of `modules`."""
    script = LOADED.format(modules=modules, unused=unused, then=then)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_plugins_and_their_optimizers_load_neither_scikit_learn_nor_the_compiler_of_torch() -> None:
    assert list_loaded([f"pipeline.models.{name}" for name in PLUGINS], unused=UNUSED, then=STEP) == ""


def test_the_stage_evaluate_loads_neither_scikit_learn_nor_scipy_stats() -> None:
    assert list_loaded(["pipeline.stages.evaluate"], unused={"sklearn", "scipy.stats", "torch"}) == ""


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_an_optimizer_takes_the_steps_of_torchs_own_to_the_bit(name: str) -> None:
    weights = []
    for module in (optimizers, torch.optim):
        weight = torch.nn.Parameter(torch.linspace(-1.0, 1.0, 7))
        optimizer = getattr(module, name)([weight], lr=0.05, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            (weight**3).sum().backward()
            optimizer.step()
            schedule.step()
            optimizer.load_state_dict(optimizer.state_dict())
        weights.append(weight.detach().numpy())
    assert np.array_equal(*weights)
    assert not np.array_equal(weights[0], np.linspace(-1, 1, 7, dtype=np.float32))
