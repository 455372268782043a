"""The libraries that a process loads: imports are most of the time of a short stage."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.models.torch_runtime import optimizers
from tests.run_stages import LOADED as LOADED_BY_STAGES

IMPORT = """
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
MODULES = {  # of the packages of each extra
    "catboost": {"catboost"},
    "calendars": {"exchange_calendars"},
    "cluster": {"dask", "distributed"},
    "live": {"websockets"},
    "mlflow": {"mlflow", "alembic", "sqlalchemy"},
    "s3": {"dvc_s3", "s3fs", "aiobotocore", "boto3", "botocore"},
    "tensorboard": {"tensorboard"},
    "timesfm": {"timesfm"},
    "tune": {"optuna"},
}
OPTIONAL = set.union(*MODULES.values())


def list_loaded(modules: list[str], *, unused: set[str], then: str = "") -> str:
    """Return those of the `unused` packages that a new process has loaded after the import of `modules`."""
    script = IMPORT.format(modules=modules, unused=unused, then=then)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_plugins_and_their_optimizers_load_neither_scikit_learn_nor_the_compiler_of_torch() -> None:
    assert (
        list_loaded([f"pipeline.models.{name}" for name in PLUGINS], unused=UNUSED | OPTIONAL - {"catboost"}, then=STEP)
        == ""
    )


def test_the_stage_evaluate_loads_neither_scikit_learn_nor_scipy_stats() -> None:
    assert list_loaded(["pipeline.stages.evaluate"], unused={"sklearn", "scipy.stats", "torch"}) == ""


def test_default_stages_load_no_package_of_an_extra(ran: Path) -> None:
    loaded = {name.partition(".")[0] for name in (ran / LOADED_BY_STAGES).read_text().split()}
    assert loaded >= {"lightgbm", "xgboost", "torch", "onnxruntime", "matplotlib"}
    assert not loaded & OPTIONAL


def test_the_default_install_has_no_package_of_an_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert MODULES.keys() == extras.keys() - {"dev"}
    packages = {re.split("[<>=[]", each)[0] for name in MODULES for each in extras[name]}
    assert not packages & {re.split("[<>=[]", each)[0] for each in project["dependencies"]}


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
