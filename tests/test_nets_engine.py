"""The trainer of the nets: windows, standardising, losses, the loop, checkpoints."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.models.base import Bench, Model, Shape, build
from pipeline.models.nets.engine import losses
from pipeline.models.nets.engine.loop import NotFiniteError
from pipeline.models.nets.engine.promise import Whole
from pipeline.models.nets.engine.windows import Windows
from pipeline.models.neural.checkpoint import Checkpoint, CheckpointError, fingerprint
from pipeline.models.neural.standardise import Standardise
from pipeline.samples import Samples

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
SHARED = {
    "device": "cpu",
    "mixed_precision": False,
    "epochs": 4,
    "patience": 4,
    "batch": 64,
    "stride": 2,
    "clip": 5.0,
    "gradient_norm": 1.0,
    "monitor_batches": 2,
    "checkpoint_seconds": 0.0,
}
OPTIMISER = {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.0}
TRAIN, VALID, TEST = np.arange(20, 620), np.arange(640, 800), np.arange(820, 1000)


def samples(rows: int = 1000, *, seed: int = 0, classes: int = 0) -> Samples:
    """Two segments; what comes true is the column 0 of two bars before, and noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    signal = np.roll(x[:, 0], 2) + 0.3 * rng.normal(size=rows)
    y = np.digitize(signal, [-0.5, 0.5]).astype(np.int32) if classes else signal.astype(np.float32)
    time = 60_000 * np.arange(rows, dtype=np.int64)
    segment = (np.arange(rows) >= rows // 2).astype(np.int32)
    return Samples(time, time + 60_000, segment, x, ("a", "b", "c"), y, np.zeros(rows))


def net(*, classes: int = 0, shared: dict | None = None, **changes: object) -> Model:
    """A small recurrent net."""
    outputs = ("down", "flat", "up") if classes else ("return",)
    own = {
        **{"bars": 5, "cell": "gru", "hidden": 8, "layers": 1, "bidirectional": False, "attention": False},
        **{"dropout": 0.2, "optimiser": OPTIMISER, "schedule": {"name": "constant"}},
        "loss": {"name": "cross_entropy"} if classes else {"name": "mse"},
    }
    block = {"dataset": "d", "target": "t", "family": "nets", "plugin": "recurrent", "build": own | changes}
    return build(block, Shape(("a", "b", "c"), outputs), shared=SHARED | (shared or {}), seed=3)


def bench(folder: Path) -> Bench:
    return Bench(folder / "checkpoints", folder / "history.csv", "final", {"split": "final"})


def test_a_window_ends_with_its_row_and_never_crosses_a_segment():
    x = np.arange(12, dtype=np.float32)[:, None]
    windows = Windows.over(x, np.array([0] * 5 + [1] * 7), length=3, device=CPU)
    found = windows.gather(torch.tensor([4, 5, 6, 7, 0]))[:, :, 0]
    assert found.tolist() == [[2, 3, 4], [5, 5, 5], [5, 5, 6], [5, 6, 7], [0, 0, 0]]


def test_windows_share_the_memory_of_the_table():
    x = np.zeros((100, 2), np.float32)
    windows = Windows.over(x, np.zeros(100), length=10, device=CPU)
    x[7, 1] = 3.0
    assert windows.x[7, 1] == 3.0


@pytest.mark.parametrize(("mean", "deviation"), [(60_000.0, 5.0), (1e9, 1e4), (0.0, 1e-6), (-3.0, 2.0)])
def test_standardising_loses_nothing_that_float32_had(mean, deviation):
    x = (mean + deviation * np.random.default_rng(0).normal(size=(5000, 1))).astype(np.float32)
    layer, wide = Standardise(1, clip=5.0), x.astype(np.float64)
    layer.learn(wide.mean(axis=0), wide.std(axis=0))
    exact = np.clip((wide - wide.mean()) / wide.std(), -5, 5)
    np.testing.assert_allclose(layer(torch.from_numpy(x)).numpy(), exact, atol=2e-6)


def test_a_column_that_is_constant_in_train_says_nothing_ever():
    x = np.full((10, 1), 0.1, np.float32)
    layer = Standardise(1, clip=5.0)
    layer.learn(x.mean(axis=0, dtype=np.float64), x.astype(np.float64).std(axis=0))
    assert layer(torch.tensor([[0.1], [1e30], [-7.0]])).abs().max() == 0


def test_outliers_are_clipped():
    layer = Standardise(1, clip=5.0)
    layer.learn(np.zeros(1), np.ones(1))
    assert layer(torch.tensor([[1e30], [-80.0]])).tolist() == [[5.0], [-5.0]]


def test_focal_loss_is_that_of_the_paper():
    logits, y = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]]), torch.tensor([0, 2])
    p = np.array([np.exp(2) / (np.exp(2) + 1 + np.exp(-1)), 1 / 3])
    expected = -(np.array([0.25, 0.5]) * (1 - p) ** 2 * np.log(p)).mean()
    block = {"name": "focal", "gamma": 2.0, "alpha": [0.25, 0.25, 0.5]}
    assert losses.built(block, np.array([0, 1, 2]), classes=3)(logits, y).item() == pytest.approx(expected, rel=1e-6)


def test_focal_loss_without_focus_is_cross_entropy():
    logits, y = torch.randn(50, 3), torch.randint(0, 3, (50,))
    loss = losses.built({"name": "focal", "gamma": 0.0, "alpha": 1.0}, np.arange(3), classes=3)
    assert loss(logits, y).item() == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-6)


def test_weights_of_classes_come_from_train_counts():
    assert losses.weights(np.array([0] * 6 + [1] * 3 + [3]), 4).tolist() == pytest.approx([10 / 24, 10 / 12, 2.5, 2.5])


@pytest.mark.parametrize(
    ("block", "classes", "message"),
    [
        ({"name": "hubber"}, 0, "must be one of"),
        ({"name": "mse"}, 3, "for classes"),
        ({"name": "huber"}, 0, r"its keys are \['delta'\]"),
        ({"name": "huber", "delta": 0.0}, 0, "delta is 0.0"),
        ({"name": "focal", "gamma": 2.0, "alpha": [0.2, 0.8]}, 3, "one for each of 3 classes"),
    ],
)
def test_a_loss_that_is_none_is_refused(block, classes, message):
    with pytest.raises(ValueError, match=message):
        losses.built(block, np.arange(3), classes=classes)


@pytest.mark.parametrize("loss", ["mse", "huber", "cross_entropy", "weighted_cross_entropy", "focal"])
def test_every_loss_learns_what_is_planted(loss):
    tunables = {"huber": {"delta": 1.0}, "focal": {"gamma": 2.0, "alpha": 0.25}}.get(loss, {})
    classes = 0 if loss in ("mse", "huber") else 3
    model = net(classes=classes, loss={"name": loss, **tunables}, dropout=0.0, shared={"epochs": 15, "patience": 15})
    told = samples(classes=classes)
    model.fit(told, TRAIN, VALID)
    assert np.corrcoef(model.score(told, TEST), told.x[TEST - 2, 0])[0, 1] > 0.6


@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "constant"},
        {"name": "cosine", "floor": 0.001},
        {"name": "plateau", "factor": 0.5, "patience": 0},
    ],
)
@pytest.mark.parametrize("killed_after", [1, 7, 11, 19])
def test_a_fit_that_was_interrupted_ends_in_the_same_bytes(schedule, killed_after, tmp_path, monkeypatch):
    whole = net(schedule=schedule)
    history = whole.fit(samples(), TRAIN, VALID)
    whole.save(tmp_path / "whole")
    write, written = Checkpoint.write, []

    def write_and_die(self: Checkpoint, state: dict) -> None:
        write(self, state)
        written.append(self)
        if len(written) == killed_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "write", write_and_die)
    with pytest.raises(KeyboardInterrupt):
        net(schedule=schedule).fit(samples(), TRAIN, VALID, bench=bench(tmp_path))
    again = net(schedule=schedule)
    torch.manual_seed(99)
    assert again.fit(samples(), TRAIN, VALID, bench=bench(tmp_path)) == history
    again.save(tmp_path / "again")
    for file in ("weights.npz", "model.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert again.diagnosis() == whole.diagnosis()


def test_a_process_killed_at_any_moment_goes_on_to_the_same_bytes(tmp_path):
    script = (
        "import sys; from pathlib import Path; from tests.test_nets_engine import *\n"
        "model = net(shared={'epochs': 12, 'patience': 12}); folder = Path(sys.argv[1])\n"
        "model.fit(samples(), TRAIN, VALID, bench=bench(folder)); model.save(folder / 'model')\n"
    )

    def started(folder: Path) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", script, str(folder)], cwd=ROOT, start_new_session=True)

    assert started(tmp_path / "whole").wait() == 0
    rng = np.random.default_rng(0)
    for _ in range(2):
        run = started(tmp_path / "killed")
        while run.poll() is None and not list((tmp_path / "killed/checkpoints").glob("*.pt")):
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.3))
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert started(tmp_path / "killed").wait() == 0
    killed, whole = (tmp_path / name / "model/weights.npz" for name in ("killed", "whole"))
    assert killed.read_bytes() == whole.read_bytes()


def test_a_truncated_or_foreign_checkpoint_is_refused(tmp_path):
    file = tmp_path / "fit.pt"
    Checkpoint(file, fingerprint="this", seconds=0.0).write({"epoch": 1})
    assert Checkpoint(file, fingerprint="this", seconds=0.0).read() == {"epoch": 1}
    with pytest.raises(CheckpointError, match="a checkpoint of another fit"):
        Checkpoint(file, fingerprint="that", seconds=0.0).read()
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="not a whole checkpoint.*delete"):
        Checkpoint(file, fingerprint="this", seconds=0.0).read()


def test_other_params_or_data_make_another_fingerprint():
    told = samples()
    mark = fingerprint(net(), told, TRAIN, VALID)
    others = [
        fingerprint(net(hidden=9), told, TRAIN, VALID),
        fingerprint(net(shared={"batch": 65}), told, TRAIN, VALID),
        fingerprint(net(), samples(seed=1), TRAIN, VALID),
        fingerprint(net(), told, TRAIN[1:], VALID),
    ]
    assert mark not in others
    assert fingerprint(net(), told, TRAIN, VALID) == mark


def test_a_loss_that_is_no_number_stops_the_fit_naming_epoch_batch_and_layer():
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, -1, :1] * torch.where(x[:, -1, :1] > 2.0, torch.inf, 1.0)

    model = net()
    model._untrained = lambda: Whole(nn.Sequential(Broken(), nn.Linear(1, 1)), columns=3, outputs=1, clip=5.0)
    with pytest.raises(NotFiniteError, match=r"epoch 1, batch \d+: the loss is (inf|nan), first in layer body\.0"):
        model.fit(samples(), TRAIN, VALID)


def test_rows_that_no_one_may_see_do_not_matter():
    told, model, other = samples(), net(), net()
    x = told.x.copy()
    x[TEST] = 1e6
    model.fit(told, TRAIN, VALID)
    other.fit(replace(told, x=x, y=np.where(np.isin(np.arange(1000), TEST), 1e6, told.y)), TRAIN, VALID)
    np.testing.assert_array_equal(model.answer(told, TEST), other.answer(told, TEST))


def test_an_answer_is_that_of_its_window_however_it_is_asked_for():
    told, model = samples(), net()
    model.fit(told, TRAIN, VALID)
    np.testing.assert_allclose(model.answer(told, TEST), model.predict(model.inputs(told, TEST)), atol=1e-7)


def test_parity_holds_on_columns_of_raw_scale(tmp_path):
    told = samples()
    raw = replace(told, x=(told.x * np.float32([5, 1e6, 1e-7]) + np.float32([60_000, 1e9, 0])).astype(np.float32))
    model = net(attention=True)
    model.fit(raw, TRAIN, VALID)
    model.to_onnx(tmp_path / "model.onnx")
    inputs = model.inputs(raw, TEST)
    hard = model.hard_inputs(inputs, rng=np.random.default_rng(0))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for rows in (inputs, hard):
        (answer,) = session.run(["answer"], {"inputs": rows})
        np.testing.assert_allclose(answer, model.predict(rows), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bars": 0}, "bars is 0"),
        ({"shared": {"clip": 0.0}}, "clip is 0.0; give one above 0"),
        ({"shared": {"stride": 0}}, "stride is 0"),
        ({"shared": {"gradient_norm": 0.0}}, "gradient_norm is 0.0"),
        ({"shared": {"device": "gpu"}}, "auto, cpu or cuda"),
        ({"optimiser": {**OPTIMISER, "name": "sgd"}}, "there are \\['adam', 'adamw'\\]"),
        ({"optimiser": {**OPTIMISER, "learning_rate": 0.0}}, "must be above 0"),
        ({"schedule": {"name": "step"}}, "there are"),
        ({"schedule": {"name": "cosine"}}, "its keys are \\['floor'\\]"),
    ],
)
def test_what_no_fit_can_go_by_is_refused_before_any(changes, message):
    with pytest.raises(ValueError, match=message):
        net(**changes)


def test_what_is_no_class_or_not_finite_is_refused():
    told = samples()
    with pytest.raises(ValueError, match="not finite"):
        net().fit(replace(told, x=np.where(told.x > 2, np.nan, told.x)), TRAIN, VALID)
    with pytest.raises(ValueError, match="are coded 0, 1"):
        net(classes=3).fit(told, TRAIN, VALID)
    with pytest.raises(ValueError, match="train has no rows"):
        net().fit(told, TRAIN[:0], VALID)
