"""The life of every net and agent on a GPU: on a simulated one everywhere, on a real one where there is one."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.models import plugins
from pipeline.models.base import Model, Signature
from pipeline.models.cross_fit import FitTask, predict
from pipeline.models.fit_files import FitFiles
from pipeline.models.onnx_session import open_session
from pipeline.models.parity_checks.base import find_parity_checks
from pipeline.models.predictions import FINAL
from pipeline.models.torch_runtime.checkpoint import Checkpoint
from pipeline.samples import Samples
from pipeline.stages import audit
from tests.data import OUTPUTS, TEST, TRAIN, VALID, make_dataset, plant_samples
from tests.params import BLOCKS, SAMPLES, build_model, kind_of
from tests.simulated_gpu import SimulatedGpu, simulate_gpu

TORCH_MODELS = [name for name, (family, _) in BLOCKS.items() if family in ("nets", "agents") and name != "lstm_book"]
NETS = [name for name in TORCH_MODELS if BLOCKS[name][0] == "nets"]
SMALL = {
    "nets": {"epochs": 2, "train_stride": 1, "window": 4, "gradient_log_interval": 2},
    "agents": {
        **{"num_episodes": 4, "episode_bars": 30, "num_envs": 8, "num_evaluations": 2, "batch_size": 16},
        **{"buffer_size": 500, "learning_starts": 40, "gamma": 0.5},
        "evt": {"tail_fraction": 0.4, "min_exceedances": 1, "window": 50, "refit_interval": 2},
    },
}
LOSSES = {"return": {"name": "huber", "delta": 1.0}, "barrier": {"name": "cross_entropy"}}
FEW_TRAIN, FEW_VALID, FEW_TEST = TRAIN[:600], VALID[:200], TEST[:150]
CASES = [
    *((name, kind) for name in NETS for kind in ("return", "barrier") if kind == "barrier" or name not in SAMPLES),
    *((name, "position") for name in TORCH_MODELS if name not in NETS),
]


def build(name: str, kind: str, samples: Samples, *, device: str = "cuda", **changes: Any) -> Model:
    """Return a small unfitted model of a block, for a target of another kind than the block's."""
    family = BLOCKS[name][0]
    signature = Signature(columns=samples.columns, output=OUTPUTS[kind])
    loss = {"loss": LOSSES[kind]} if family == "nets" else {}
    return build_model(name, signature, seed=7, changes={"device": device} | SMALL[family] | loss | changes)


def draw_samples(name: str, kind: str) -> Samples:
    """Return samples that a model can take, with a target of another kind than the block's."""
    return plant_samples(kind, seed=1, **SAMPLES.get(name, {}))


def name_files(folder: Path) -> FitFiles:
    files = folder / "metrics.csv", folder / "measured.csv"
    return FitFiles(folder / "checkpoints", *files, name="0", labels={"split": 0})


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
    kind: str  # of target
    samples: Samples
    model: Model
    kernels: int  # that the fit ran on the GPU


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def life(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Life:
    name, kind = request.param
    samples, folder = draw_samples(name, kind), tmp_path_factory.mktemp(name)
    with simulate_gpu() as gpu:
        model = build(name, kind, samples)
        model.fit(samples, FEW_TRAIN, FEW_VALID, files=name_files(folder))
    return Life(name, kind, samples, model, gpu.kernels)


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
    loaded = plugins.load(tmp_path / "one")
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
    task = FitTask(FINAL, FEW_TRAIN, FEW_VALID, FEW_TEST, seed=7, fit_seed=7)
    dataset = make_dataset(life.samples, kind=life.kind)
    predictions = predict(life.model, task, dataset, rows=FEW_TEST, score_std=float("nan"))
    again = copy.copy(life.model)
    found = list(audit.check_model(again, task, life.samples, predictions))
    assert [finding.severity for finding in found] == ["ok", "ok"]


@pytest.mark.parametrize("name", NETS)
def test_mixed_precision_trains_on_the_gpu_and_predicts_in_float32(name: str, gpu: SimulatedGpu) -> None:
    samples = draw_samples(name, "return")
    full, mixed = (build(name, "return", samples, mixed_precision=each) for each in (False, True))
    for model in (full, mixed):
        model.fit(samples, FEW_TRAIN, FEW_VALID)
    predicted = [model.predict_rows(samples, FEW_TEST) for model in (full, mixed)]
    assert gpu.kernels
    assert predicted[1].dtype == np.float32
    assert not np.array_equal(*predicted)
    if name not in SAMPLES:  # those learn from more rows
        assert np.corrcoef(*(each[:, 0] for each in predicted))[0, 1] > 0.9


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("d4pg", {}, "cpu"),
        ("d4pg", {"batch_size": 1024, "hidden_sizes": [256, 256]}, "cuda"),
        ("d4pg", {"batch_size": 256, "hidden_sizes": [256, 256]}, "cpu"),
        ("marl", {}, "cpu"),
        ("marl", {"batch_size": 2048}, "cuda"),
        ("lstm", {}, "cuda"),
    ],
)
def test_auto_is_a_gpu_for_nets_and_for_agents_whose_updates_are_large(
    name: str, changes: dict[str, Any], expected: str, gpu: SimulatedGpu
) -> None:
    assert build_default(name, device="auto", **changes).fit_device == expected
    assert build_default(name, device="cuda", **changes).needs_sequential_fits
    assert build_default(name, device="cpu", **changes).fit_device == "cpu"


def build_default(name: str, **changes: Any) -> Model:
    """Return the unfitted model of a block of params, with these changes."""
    columns = tuple(f"column_{i}" for i in range(SAMPLES.get(name, {}).get("columns", 2)))
    return build_model(name, Signature(columns, OUTPUTS[kind_of(name)]), seed=7, changes=changes)


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    large = {"batch_size": 1024, "hidden_sizes": [256, 256]}
    assert {build_default(name, device="auto").fit_device for name in TORCH_MODELS} == {"cpu"}
    assert build_default("d4pg", device="auto", **large).fit_device == "cpu"


@pytest.mark.parametrize("name", ["mlp", "d4pg"])
def test_a_model_trained_on_a_gpu_predicts_where_there_is_none_but_is_not_fitted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = kind_of(name)
    samples = draw_samples(name, kind)
    with simulate_gpu():
        model = build(name, kind, samples)
        model.fit(samples, FEW_TRAIN, FEW_VALID)
        expected = model.predict_rows(samples, FEW_TEST)
        model.save(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    loaded = plugins.load(tmp_path)
    assert np.array_equal(loaded.predict_rows(samples, FEW_TEST), expected)
    loaded.to_onnx(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="device is cuda, but torch sees no GPU; set cpu, or auto"):
        loaded.fit(samples, FEW_TRAIN, FEW_VALID)


def test_predictions_on_a_gpu_use_deterministic_algorithms(gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, seen = plant_samples("return", seed=1), []
    model = build("mlp", "return", samples)
    forward = type(model.net.body).forward

    def note_settings(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32))
        return forward(self, x)

    monkeypatch.setattr(type(model.net.body), "forward", note_settings)
    model.predict_rows(samples, FEW_TEST)
    assert seen == [(True, False)]
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32) == (False, True)


# On a real GPU

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
SHORT = {
    "nets": {"epochs": 2},
    "agents": {"num_evaluations": 2, "learning_starts": 500, "num_episodes": 20},
}


@needs_gpu
@pytest.mark.parametrize("name", TORCH_MODELS)
def test_a_fit_on_a_real_gpu_predicts_what_its_weights_do_on_the_cpu(name: str, tmp_path: Path) -> None:
    samples, family = draw_samples(name, kind_of(name)), BLOCKS[name][0]
    signature = Signature(columns=samples.columns, output=OUTPUTS[kind_of(name)])
    fits = {}
    for device in ("cuda", "cuda again", "cpu"):
        changes = SHORT[family] | {"device": device.split()[0]}
        fits[device] = build_model(name, signature, seed=7, changes=changes)
        torch.cuda.init()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        fits[device].fit(samples, TRAIN, VALID, files=name_files(tmp_path / device))
        assert (torch.cuda.max_memory_allocated() > before) == device.startswith("cuda")
    on_gpu, again, on_cpu = (fit.predict_rows(samples, TEST) for fit in fits.values())
    assert np.array_equal(on_gpu, again)
    assert save(fits["cuda"], tmp_path / "one") == save(fits["cuda again"], tmp_path / "two")
    loaded = plugins.load(tmp_path / "one")
    assert on_gpu == pytest.approx(loaded.predict(loaded.inputs(samples, TEST)), abs=1e-4)
    assert np.corrcoef(on_gpu[:, -1], on_cpu[:, -1])[0, 1] > 0.8  # other random numbers: dropout draws on the device


@needs_gpu
@pytest.mark.parametrize("name", TORCH_MODELS)
def test_a_fit_killed_on_a_real_gpu_resumes_and_ends_in_the_same_bytes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = kind_of(name)
    samples = draw_samples(name, kind)
    whole, parted = (build(name, kind, samples, checkpoint_seconds=0.0) for _ in range(2))
    whole.fit(samples, FEW_TRAIN, FEW_VALID)
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "write", kill_after(9 if BLOCKS[name][0] == "agents" else 4))
        with pytest.raises(KilledError):
            parted.fit(samples, FEW_TRAIN, FEW_VALID, files=name_files(tmp_path))
    parted.fit(samples, FEW_TRAIN, FEW_VALID, files=name_files(tmp_path))
    assert save(parted, tmp_path / "parted") == save(whole, tmp_path / "whole")
