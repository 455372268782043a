"""The life of every net and agent on a GPU: on a simulated one everywhere, on a real one where there is one."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.labels import OUTPUTS
from pipeline.models import base
from pipeline.models.base import FitFiles, Model, Signature
from pipeline.models.cross_fit import FitTask, predict
from pipeline.models.onnx_session import open_session
from pipeline.models.parity_checks.base import find_parity_checks
from pipeline.models.predictions import FINAL
from pipeline.models.torch_runtime.checkpoint import Checkpoint
from pipeline.samples import Samples
from pipeline.stages import audit
from tests.data import TEST, TRAIN, VALID, plant_samples
from tests.params import BLOCKS, build_model
from tests.simulated_gpu import SimulatedGpu, simulate_gpu

TORCH_MODELS = [name for name, (family, _) in BLOCKS.items() if family in ("nets", "agents")]
NETS = [name for name in TORCH_MODELS if BLOCKS[name][0] == "nets"]
SMALL = {
    "nets": {"epochs": 2, "train_stride": 1, "window": 4, "gradient_log_interval": 2},
    "agents": {
        **{"num_episodes": 4, "episode_bars": 30, "num_envs": 8, "num_evaluations": 2, "batch_size": 16},
        **{"buffer_size": 500, "learning_starts": 40},
        "evt": {"tail_fraction": 0.4, "min_exceedances": 1, "window": 50, "refit_interval": 2},
    },
}
LOSSES = {"return": {"name": "huber", "delta": 1.0}, "barrier": {"name": "cross_entropy"}}
FEW_TRAIN, FEW_VALID, FEW_TEST = TRAIN[:600], VALID[:200], TEST[:150]
CASES = [
    *((name, kind) for name in NETS for kind in ("return", "barrier")),
    *((name, "position") for name in TORCH_MODELS if name not in NETS),
]


def build(name: str, kind: str, samples: Samples, *, device: str = "cuda", **changes: Any) -> Model:
    """Return a small unfitted model of a block, for a target of another kind than the block's."""
    family = BLOCKS[name][0]
    signature = Signature(columns=samples.columns, outputs=OUTPUTS[kind])
    loss = {"loss": LOSSES[kind]} if family == "nets" else {}
    return build_model(name, signature, seed=7, changes={"device": device} | SMALL[family] | loss | changes)


def name_files(folder: Path) -> FitFiles:
    return FitFiles(folder / "checkpoints", folder / "metrics.csv", name="0", labels={"split": 0})


def save(model: Model, folder: Path) -> bytes:
    model.save(folder)
    return (folder / "weights.npz").read_bytes()


def copy_often_checkpointed(model: Model) -> Model:
    """Return a model whose fits write a checkpoint after every batch or step."""
    copied = copy.copy(model)
    copied.checkpoint_seconds = 0.0
    return copied


class KilledError(Exception):
    """The process is killed."""


def kill_after(writes: int) -> Callable[[Checkpoint, Any], None]:
    """Return a `Checkpoint.write` that writes so many checkpoints, and then kills the fit."""
    done = []

    def write(self: Checkpoint, state: Any) -> None:
        WRITE(self, state)
        done.append(self)
        if len(done) == writes:
            raise KilledError

    return write


WRITE = Checkpoint.write


@dataclass
class Life:
    """A model that was fitted on the simulated GPU."""

    name: str
    samples: Samples
    model: Model
    kernels: int  # that the fit ran on the GPU


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def life(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Life:
    name, kind = request.param
    samples, folder = plant_samples(kind, seed=1), tmp_path_factory.mktemp(name)
    with simulate_gpu() as gpu:
        model = build(name, kind, samples)
        model.fit(samples, FEW_TRAIN, FEW_VALID, files=name_files(folder))
    return Life(name, samples, model, gpu.kernels)


@pytest.fixture
def gpu() -> Iterator[SimulatedGpu]:
    with simulate_gpu() as gpu:
        yield gpu


def test_a_fit_runs_on_the_gpu_and_ends_on_the_cpu(life: Life) -> None:
    assert life.kernels > 100
    nets = [each for each in vars(life.model).values() if isinstance(each, torch.nn.Module)]
    assert nets
    assert {each.device.type for net in nets for each in net.state_dict().values()} == {"cpu"}


def test_a_fit_killed_on_the_gpu_resumes_and_ends_in_the_same_bytes(
    life: Life, gpu: SimulatedGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, samples = save(life.model, tmp_path / "expected"), life.samples
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "write", kill_after(9 if BLOCKS[life.name][0] == "agents" else 4))
        killed = copy_often_checkpointed(life.model)
        with pytest.raises(KilledError):
            killed.fit(samples, FEW_TRAIN, FEW_VALID, files=name_files(tmp_path))
    torch.rand(3, device="cuda")  # the generator of the GPU is elsewhere by now
    resumed = copy_often_checkpointed(life.model)
    before = gpu.kernels
    resumed.fit(samples, FEW_TRAIN, FEW_VALID, files=name_files(tmp_path))
    assert gpu.kernels > before
    assert save(resumed, tmp_path / "resumed") == expected


def test_rows_are_predicted_on_the_gpu_as_their_inputs_are_on_the_cpu(life: Life, gpu: SimulatedGpu) -> None:
    model, samples = life.model, life.samples
    predicted = model.predict_rows(samples, FEW_TEST)
    assert predicted == pytest.approx(model.predict(model.inputs(samples, FEW_TEST)), abs=1e-5)
    assert model.predict_rows(samples, FEW_TEST[:0]).shape == (0, len(model.outputs))
    assert np.abs(model.score(samples, FEW_TEST)).max() <= 1


def test_a_saved_model_is_loaded_and_exported_as_one_graph(life: Life, gpu: SimulatedGpu, tmp_path: Path) -> None:
    written = save(life.model, tmp_path / "one")
    loaded = base.load(tmp_path / "one")
    assert save(loaded, tmp_path / "two") == written
    inputs = loaded.inputs(life.samples, FEW_TEST)
    loaded.to_onnx(tmp_path / "model.onnx")
    (graph,) = open_session(tmp_path / "model.onnx").run(["answer"], {"inputs": inputs})
    assert graph == pytest.approx(loaded.predict(inputs), abs=1e-5)
    checks = find_parity_checks(BLOCKS[life.name][0])
    edge_cases = checks.make_edge_cases(loaded, inputs, rng=np.random.default_rng(2))
    assert not checks.count_flips(loaded, edge_cases, tmp_path / "model.onnx").any()


def test_the_reports_of_a_fit_can_be_made(life: Life, gpu: SimulatedGpu) -> None:
    mean, scale = life.model.standardization
    assert mean == pytest.approx(life.samples.x[FEW_TRAIN].mean(axis=0), abs=1e-4)
    assert scale == pytest.approx(life.samples.x[FEW_TRAIN].std(axis=0), rel=1e-3)
    assert life.model.fit_report
    assert (BLOCKS[life.name][0] == "agents") == bool(life.model.evaluate(life.samples, FEW_TEST))


def test_the_audit_of_a_fit_on_the_gpu_is_ok(life: Life, gpu: SimulatedGpu) -> None:
    task = FitTask(FINAL, FEW_TRAIN, FEW_VALID, FEW_TEST, seed=7)
    predictions = predict(life.model, FINAL, life.samples, rows=FEW_TEST)
    again = copy.copy(life.model)
    found = list(audit.check_model(again, task, life.samples, predictions))
    assert [finding.severity for finding in found] == ["ok", "ok"]


@pytest.mark.parametrize("name", NETS)
def test_mixed_precision_trains_on_the_gpu_and_predicts_in_float32(name: str, gpu: SimulatedGpu) -> None:
    samples = plant_samples("return", seed=1)
    full, mixed = (build(name, "return", samples, mixed_precision=each) for each in (False, True))
    for model in (full, mixed):
        model.fit(samples, FEW_TRAIN, FEW_VALID)
    predicted = [model.predict_rows(samples, FEW_TEST) for model in (full, mixed)]
    assert gpu.kernels
    assert predicted[1].dtype == np.float32
    assert not np.array_equal(*predicted)
    assert np.corrcoef(*(each[:, 0] for each in predicted))[0, 1] > 0.9
