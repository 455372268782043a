"""The trainer of the nets: windows, standardization, losses, the training loop, checkpoints."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.models.base import Model, Signature
from pipeline.models.fit_files import FitFiles
from pipeline.models.measurements import FitMeter
from pipeline.models.nets.engine.finite_checks import NotFiniteError
from pipeline.models.nets.engine.losses import make_loss, weigh_classes
from pipeline.models.nets.engine.standardized_net import StandardizedNet
from pipeline.models.nets.engine.windows import make_windows
from pipeline.models.parity_checks.nets import make_edge_cases
from pipeline.models.plugins import build
from pipeline.models.torch_runtime.checkpoint import Checkpoint, CheckpointError, fingerprint_fit
from pipeline.models.torch_runtime.standardize import Standardize
from pipeline.samples import Samples
from pipeline.targets import Output
from tests import data
from tests.data import OUTPUTS, plant_samples, plant_signal


def stop_after(patience: int, **changes: object) -> dict[str, object]:
    """Return the section `early_stopping` of params.yaml."""
    return {"metric": "valid_loss", "mode": "min", "patience": patience, "min_delta": 0.0} | changes


ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
SHARED = {
    "device": "cpu",
    "mixed_precision": False,
    "epochs": 4,
    "early_stopping": stop_after(4),
    "batch_size": 64,
    "train_stride": 2,
    "clip_sigma": 5.0,
    "max_grad_norm": 1.0,
    "gradient_log_interval": 2,
    "checkpoint_seconds": 0.0,
}
OPTIMIZER = {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.0}
TRAIN, VALID, TEST = np.arange(20, 620), np.arange(640, 800), np.arange(820, 1000)


def make_samples(rows: int = 1000, *, seed: int = 0, classes: int = 0) -> Samples:
    """Return two segments whose y is column 0 of two bars before, and noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    signal = np.roll(x[:, 0], 2) + 0.3 * rng.normal(size=rows)
    y = np.digitize(signal, [-0.5, 0.5]).astype(np.int32) if classes else signal.astype(np.float32)
    time = 60_000 * np.arange(rows, dtype=np.int64)
    segment = (np.arange(rows) >= rows // 2).astype(np.int32)
    return Samples(time, time + 60_000, segment, x, ("a", "b", "c"), y)


def make_net(*, classes: int = 0, shared: dict | None = None, **changes: object) -> Model:
    """Return a small recurrent net."""
    output = OUTPUTS["barrier" if classes else "return"]
    own = {
        **{"window": 5, "cell": "gru", "hidden_size": 8, "num_layers": 1, "bidirectional": False, "attention": False},
        **{"dropout": 0.2, "optimizer": OPTIMIZER, "lr_schedule": {"name": "constant"}},
        "loss": {"name": "cross_entropy"} if classes else {"name": "mse"},
    }
    block = {"dataset": "d", "target": "t", "plugin": "recurrent", "hyperparameters": own | changes}
    return build("nets", block, Signature(("a", "b", "c"), output), shared=SHARED | (shared or {}), seed=3)


def make_files(folder: Path) -> FitFiles:
    return FitFiles(
        folder / "checkpoints", folder / "history.csv", folder / "measured.csv", "final", {"split": "final"}
    )


def test_a_window_ends_with_its_row_and_never_crosses_a_segment():
    x = np.arange(12, dtype=np.float32)[:, None]
    windows = make_windows(x, np.array([0] * 5 + [1] * 7), length=3, device=CPU)
    found = windows.gather(torch.tensor([4, 5, 6, 7, 0]))[:, :, 0]
    assert found.tolist() == [[2, 3, 4], [5, 5, 5], [5, 5, 6], [5, 6, 7], [0, 0, 0]]


def test_windows_share_the_memory_of_the_table():
    x = np.zeros((100, 2), np.float32)
    windows = make_windows(x, np.zeros(100), length=10, device=CPU)
    x[7, 1] = 3.0
    assert windows.x[7, 1] == 3.0


@pytest.mark.parametrize(("mean", "deviation"), [(60_000.0, 5.0), (1e9, 1e4), (0.0, 1e-6), (-3.0, 2.0)])
def test_standardizing_loses_no_digit_that_float32_had(mean, deviation):
    x = (mean + deviation * np.random.default_rng(0).normal(size=(5000, 1))).astype(np.float32)
    layer, wide = Standardize(1, clip_sigma=5.0), x.astype(np.float64)
    layer.set_statistics(wide.mean(axis=0), wide.std(axis=0))
    exact = np.clip((wide - wide.mean()) / wide.std(), -5, 5)
    np.testing.assert_allclose(layer(torch.from_numpy(x)).numpy(), exact, atol=2e-6)


def test_a_column_that_is_constant_in_train_is_always_zero():
    x = np.full((10, 1), 0.1, np.float32)
    layer = Standardize(1, clip_sigma=5.0)
    layer.set_statistics(x.mean(axis=0, dtype=np.float64), x.astype(np.float64).std(axis=0))
    assert layer(torch.tensor([[0.1], [1e30], [-7.0]])).abs().max() == 0


def test_outliers_are_clipped():
    layer = Standardize(1, clip_sigma=5.0)
    layer.set_statistics(np.zeros(1), np.ones(1))
    assert layer(torch.tensor([[1e30], [-80.0]])).tolist() == [[5.0], [-5.0]]


def test_focal_loss_is_that_of_the_paper():
    logits, y = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]]), torch.tensor([0, 2])
    p = np.array([np.exp(2) / (np.exp(2) + 1 + np.exp(-1)), 1 / 3])
    expected = -(np.array([0.25, 0.5]) * (1 - p) ** 2 * np.log(p)).mean()
    block = {"name": "focal", "gamma": 2.0, "alpha": [0.25, 0.25, 0.5]}
    assert make_loss(block, np.array([0, 1, 2]), OUTPUTS["barrier"])(logits, y).item() == pytest.approx(
        expected, rel=1e-6
    )


def test_focal_loss_without_focus_is_cross_entropy():
    logits, y = torch.randn(50, 3), torch.randint(0, 3, (50,))
    loss = make_loss({"name": "focal", "gamma": 0.0, "alpha": 1.0}, np.arange(3), OUTPUTS["barrier"])
    assert loss(logits, y).item() == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-6)


def test_class_weights_are_inverse_train_frequencies():
    assert weigh_classes(np.array([0] * 6 + [1] * 3 + [3]), 4).tolist() == pytest.approx([10 / 24, 10 / 12, 2.5, 2.5])


@pytest.mark.parametrize(
    ("block", "kind", "message"),
    [
        ({"name": "hubber"}, "return", "must be one of"),
        ({"name": "mse"}, "barrier", "where a target asks for classes it must be one of"),
        ({"name": "huber"}, "return", "loss huber: key 'delta' is missing; its keys are delta"),
        ({"name": "huber", "delta": 0.0}, "return", "delta is 0.0"),
        ({"name": "focal", "gamma": 2.0, "alpha": [0.2, 0.8]}, "barrier", "a list of 3, one for each class"),
    ],
)
def test_an_unknown_or_misconfigured_loss_is_refused(block, kind, message):
    with pytest.raises(ValueError, match=message):
        make_loss(block, np.arange(3), OUTPUTS[kind])


@pytest.mark.parametrize("loss", ["mse", "huber", "cross_entropy", "weighted_cross_entropy", "focal"])
def test_every_loss_learns_a_planted_signal(loss):
    hyperparameters = {"huber": {"delta": 1.0}, "focal": {"gamma": 2.0, "alpha": 0.25}}.get(loss, {})
    classes = 0 if loss in ("mse", "huber") else 3
    shared = {"epochs": 15, "early_stopping": stop_after(15)}
    model = make_net(classes=classes, loss={"name": loss, **hyperparameters}, dropout=0.0, shared=shared)
    table = make_samples(classes=classes)
    model.fit(table, TRAIN, VALID)
    assert np.corrcoef(model.score(table, TEST), table.x[TEST - 2, 0])[0, 1] > 0.6


def assert_resumes(
    make: Callable[[], Model], samples: Samples, killed_after: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit that is killed after so many checkpoints, and resumed, ends as one that was not."""
    whole, again = make(), make()
    history = whole.fit(samples, TRAIN, VALID)
    whole.save(folder / "whole")
    write, written = Checkpoint.write, []

    def write_and_die(self: Checkpoint, state: dict) -> None:
        write(self, state)
        written.append(self)
        if len(written) == killed_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "write", write_and_die)
    with pytest.raises(KeyboardInterrupt):
        make().fit(samples, TRAIN, VALID, files=make_files(folder))
    torch.manual_seed(99)
    assert again.fit(samples, TRAIN, VALID, files=make_files(folder)) == history
    again.save(folder / "again")
    for file in ("weights.npz", "model.json"):
        assert (folder / "again" / file).read_bytes() == (folder / "whole" / file).read_bytes()
    assert again.fit_report == whole.fit_report


@pytest.mark.parametrize(
    "lr_schedule",
    [
        {"name": "constant"},
        {"name": "cosine", "eta_min": 0.001},
        {"name": "plateau", "factor": 0.5, "patience": 0},
    ],
)
@pytest.mark.parametrize("killed_after", [1, 7, 11, 19])
def test_an_interrupted_fit_ends_in_the_same_bytes(lr_schedule, killed_after, tmp_path, monkeypatch):
    assert_resumes(lambda: make_net(lr_schedule=lr_schedule), make_samples(), killed_after, tmp_path, monkeypatch)


def test_the_fit_report_says_how_the_fit_ended():
    model = make_net(classes=3)
    history = model.fit(make_samples(classes=3), TRAIN, VALID)
    assert list(model.fit_report) == ["gradients", "class_metrics", "early_stopping"]
    found = model.fit_report["early_stopping"]
    assert found["best_valid_loss"] == min(entry["valid_loss"] for entry in history)
    assert (found["stopped_early"], found["reached_last_epoch"]) == (False, True)


def test_a_process_killed_at_any_moment_resumes_to_the_same_bytes(tmp_path):
    shared = {"epochs": 12, "early_stopping": stop_after(12)}
    script = (
        "import sys; from pathlib import Path; from tests.test_nets_engine import *\n"
        f"model = make_net(shared={shared}); folder = Path(sys.argv[1])\n"
        "model.fit(make_samples(), TRAIN, VALID, files=make_files(folder)); model.save(folder / 'model')\n"
    )

    def start(folder: Path) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", script, str(folder)], cwd=ROOT, start_new_session=True)

    whole = make_net(shared=shared)
    whole.fit(make_samples(), TRAIN, VALID)
    whole.save(tmp_path / "whole/model")
    rng = np.random.default_rng(0)
    for _ in range(2):
        run = start(tmp_path / "killed")
        while run.poll() is None and not list((tmp_path / "killed/checkpoints").glob("*.pt")):
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.3))
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert start(tmp_path / "killed").wait() == 0
    files = [tmp_path / name / "model/weights.npz" for name in ("killed", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_truncated_or_foreign_checkpoint_is_refused(tmp_path):
    file = tmp_path / "fit.pt"
    Checkpoint(file, fingerprint="this", interval_seconds=0.0, meter=FitMeter()).write({"epoch": 1})
    assert Checkpoint(file, fingerprint="this", interval_seconds=0.0, meter=FitMeter()).read() == {"epoch": 1}
    with pytest.raises(CheckpointError, match="checkpoint of another fit"):
        Checkpoint(file, fingerprint="that", interval_seconds=0.0, meter=FitMeter()).read()
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="damaged or incomplete checkpoint.*delete"):
        Checkpoint(file, fingerprint="this", interval_seconds=0.0, meter=FitMeter()).read()


def test_a_checkpoint_with_a_flipped_bit_anywhere_is_refused_before_torch_reads_it(tmp_path):
    checkpoint = Checkpoint(tmp_path / "fit.pt", fingerprint="this", interval_seconds=0.0, meter=FitMeter())
    checkpoint.write({"weights": torch.arange(4.0)})
    content = checkpoint.file.read_bytes()
    for byte in range(len(content)):
        damaged = bytearray(content)
        damaged[byte] ^= 1 << byte % 8
        checkpoint.file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"its digest is not that of its content\); delete"):
            checkpoint.read()


def test_other_params_or_data_make_another_fingerprint():
    table = make_samples()
    own = fingerprint_fit(make_net(), samples=table, train=TRAIN, valid=VALID)
    others = [
        fingerprint_fit(make_net(hidden_size=9), samples=table, train=TRAIN, valid=VALID),
        fingerprint_fit(make_net(shared={"batch_size": 65}), samples=table, train=TRAIN, valid=VALID),
        fingerprint_fit(make_net(), samples=make_samples(seed=1), train=TRAIN, valid=VALID),
        fingerprint_fit(make_net(), samples=table, train=TRAIN[1:], valid=VALID),
    ]
    assert own not in others
    assert fingerprint_fit(make_net(), samples=table, train=TRAIN, valid=VALID) == own


def test_a_loss_that_is_not_finite_stops_the_fit_naming_epoch_batch_and_layer():
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, -1, :1] * torch.where(x[:, -1, :1] > 2.0, torch.inf, 1.0)

    model = make_net()
    model._make_net = lambda: StandardizedNet(
        nn.Sequential(Broken(), nn.Linear(1, 1)), columns=3, outputs=1, is_classification=False, clip_sigma=5.0
    )
    with pytest.raises(NotFiniteError, match=r"epoch 1, batch \d+: the loss is (inf|nan), first in layer body\.0"):
        model.fit(make_samples(), TRAIN, VALID)


def test_rows_outside_train_and_valid_do_not_matter():
    table, model, other = make_samples(), make_net(), make_net()
    x = table.x.copy()
    x[TEST] = 1e6
    model.fit(table, TRAIN, VALID)
    other.fit(replace(table, x=x, y=np.where(np.isin(np.arange(1000), TEST), 1e6, table.y)), TRAIN, VALID)
    np.testing.assert_array_equal(model.predict_rows(table, TEST), other.predict_rows(table, TEST))


def test_a_prediction_is_the_same_by_rows_and_by_windows():
    table, model = make_samples(), make_net()
    model.fit(table, TRAIN, VALID)
    np.testing.assert_allclose(model.predict_rows(table, TEST), model.predict(model.inputs(table, TEST)), atol=1e-7)


def test_parity_holds_on_columns_of_raw_scale(tmp_path):
    table = make_samples()
    raw = replace(table, x=(table.x * np.float32([5, 1e6, 1e-7]) + np.float32([60_000, 1e9, 0])).astype(np.float32))
    model = make_net(attention=True)
    model.fit(raw, TRAIN, VALID)
    model.to_onnx(tmp_path / "model.onnx")
    inputs = model.inputs(raw, TEST)
    edge_cases = make_edge_cases(model, inputs, rng=np.random.default_rng(0))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for rows in (inputs, edge_cases):
        (prediction,) = session.run(["answer"], {"inputs": rows})
        np.testing.assert_allclose(prediction, model.predict(rows), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"shared": {"clip_sigma": 0.0}}, "nets.clip_sigma is 0.0; it must be above 0"),
        ({"shared": {"train_stride": 0}}, "train_stride is 0"),
        ({"shared": {"max_grad_norm": 0.0}}, "max_grad_norm is 0.0"),
        ({"shared": {"device": "gpu"}}, "device is 'gpu'; it must be 'auto', 'cpu' or 'cuda'"),
        ({"optimizer": {**OPTIMIZER, "name": "sgd"}}, "optimizer.name is 'sgd'; it must be 'adam' or 'adamw'"),
        ({"optimizer": {**OPTIMIZER, "learning_rate": 0.0}}, "optimizer.learning_rate is 0.0; it must be above 0"),
        ({"lr_schedule": {"name": "step"}}, "lr_schedule.name is 'step'; it must be 'constant', 'cosine'"),
        ({"lr_schedule": {"name": "cosine"}}, "key 'eta_min' is missing; its keys are eta_min"),
        ({"lr_schedule": {"name": "cosine", "eta_min": -0.1}}, "lr_schedule.eta_min is -0.1; it must be at least 0"),
        ({"lr_schedule": {"name": "plateau", "factor": 1.5, "patience": 1}}, "factor is 1.5"),
    ],
)
def test_hyperparameters_out_of_range_are_refused_before_any_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        make_net(**changes)


def test_values_that_are_no_class_or_not_finite_are_refused():
    table = make_samples()
    with pytest.raises(ValueError, match="not finite"):
        make_net().fit(replace(table, x=np.where(table.x > 2, np.nan, table.x)), TRAIN, VALID)
    with pytest.raises(ValueError, match="are coded 0, 1"):
        make_net(classes=3).fit(table, TRAIN, VALID)
    with pytest.raises(ValueError, match="train has no rows"):
        make_net().fit(table, TRAIN[:0], VALID)


def test_quantiles_are_learned_by_the_pinball_loss_and_exported(tmp_path):
    samples, levels = plant_samples("return", seed=1), (0.1, 0.5, 0.9)
    output = Output(kind="quantiles", names=("q10", "q50", "q90"), levels=levels)
    own = {"window": 1, "hidden_sizes": [16], "activation": "relu", "dropout": 0.0, "loss": {"name": "pinball"}}
    block = {"dataset": "d", "target": "t", "plugin": "mlp"}
    hyperparameters = own | {"optimizer": OPTIMIZER, "lr_schedule": {"name": "constant"}}
    shared = SHARED | {"epochs": 15, "early_stopping": stop_after(15)}
    signature = Signature(samples.columns, output)
    model = build("nets", block | {"hyperparameters": hyperparameters}, signature, shared=shared, seed=3)
    model.fit(samples, data.TRAIN, data.VALID)
    prediction = model.predict_rows(samples, data.TEST)
    coverage = (samples.y[data.TEST][:, None] <= prediction).mean(axis=0)
    assert coverage == pytest.approx(levels, abs=0.06)
    assert np.corrcoef(model.score(samples, data.TEST), plant_signal(samples.x[data.TEST]))[0, 1] > 0.6
    model.to_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (of_graph,) = session.run(["answer"], {"inputs": model.inputs(samples, data.TEST)})
    assert of_graph == pytest.approx(prediction, abs=1e-5)
