"""Seconds and peak memory of fits: they go on over a resumed fit, and are no part of any result."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.config import ModelBlock
from pipeline.models.base import Signature
from pipeline.models.cross_fit import FitTask, ModelSpec, fit_fold
from pipeline.models.fit_files import FitFiles
from pipeline.models.measurements import MEASUREMENTS, FitMeter, measure_peak_bytes
from pipeline.models.torch_runtime.checkpoint import Checkpoint
from pipeline.models.torch_runtime.device import make_gpu_gauge
from pipeline.stages import train
from tests.data import OUTPUTS, TEST, TRAIN, VALID, make_dataset, plant_samples
from tests.params import BLOCKS, PARAMS
from tests.test_nets_engine import TRAIN as FEW_TRAIN
from tests.test_nets_engine import VALID as FEW_VALID
from tests.test_nets_engine import make_files, make_net, make_samples

ROOT = Path(__file__).parents[1]


def read_lines(files: FitFiles) -> pd.DataFrame:
    return pd.read_csv(files.measured, names=["split", *MEASUREMENTS])


def test_a_meter_goes_on_from_the_state_of_another():
    meter = FitMeter()
    meter.load_state_dict({"seconds": 100.0, "peak_memory_mb": 1e9})
    assert 100.0 < meter.seconds < 160.0
    assert meter.measure(since=100.0)["seconds"] < 60.0
    assert meter.measure()["peak_memory_mb"] == 1e9
    meter.load_state_dict({})
    assert meter.seconds < 60.0
    assert 10.0 < meter.measure()["peak_memory_mb"] < 1e6
    assert set(meter.measure()) == {"seconds", "peak_memory_mb"}


def test_the_peak_of_a_worker_is_not_that_of_the_process_that_started_it():
    held = np.ones(40_000_000)  # 320 MB
    script = "from pipeline.models.measurements import measure_peak_bytes; print(measure_peak_bytes())"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < held.nbytes < measure_peak_bytes()


def test_without_proc_the_peak_is_that_of_getrusage(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert measure_peak_bytes() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_on_a_gpu_the_peak_is_what_torch_has_allocated_there(monkeypatch):
    resets = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2_500_000)
    meter, device = FitMeter(), torch.device("cuda")
    meter.measure_gpu_bytes = make_gpu_gauge(device)
    assert resets == [device]
    assert meter.measure()["peak_gpu_memory_mb"] == 2.5
    assert make_gpu_gauge(torch.device("cpu")) is None


@pytest.mark.parametrize(("name", "epochs"), [("lightgbm", 0), ("mlp", 2)])
def test_a_fit_adds_a_line_and_a_net_one_for_each_epoch_before_it(name: str, epochs: int, tmp_path: Path):
    samples = plant_samples("return", seed=1)
    family, block = BLOCKS[name]
    shared = PARAMS[family] | ({"epochs": 2} if family == "nets" else {"num_boost_round": 5})
    spec = ModelSpec(ModelBlock(family, block, name), Signature(samples.columns, OUTPUTS["return"]), shared)
    dataset = make_dataset(samples, kind="return")
    tasks = [FitTask(split, TRAIN, VALID, TEST, seed=42, fit_seed=split) for split in (0, 1)]
    for task in tasks:
        files = FitFiles(tmp_path, tmp_path / "a.csv", tmp_path / "b.csv", f"{task.split}", {"split": task.split})
        measured = fit_fold(task, spec, dataset, folder=tmp_path, files=files)
        alone = fit_fold(task, spec, dataset, folder=tmp_path)
        assert measured.out_of_sample.equals(alone.out_of_sample)
        assert (measured.history, measured.fit_report) == (alone.history, alone.fit_report)
    table = read_lines(files)
    assert table["split"].tolist() == [0] * (epochs + 1) + [1] * (epochs + 1)
    assert table["iteration"].isna().sum() == 2
    for _, lines in table.groupby("split"):
        assert lines["iteration"].dropna().tolist() == list(range(1, epochs + 1))
        assert lines["seconds"].iloc[:-1].sum() <= lines["seconds"].iloc[-1] + 0.01
    assert (table["peak_memory_mb"] > 10).all()
    assert table["peak_gpu_memory_mb"].isna().all()


def test_a_resumed_fit_writes_the_lines_of_all_its_epochs(tmp_path: Path, monkeypatch):
    write, written = Checkpoint.write, []

    def write_and_die(self: Checkpoint, state: dict) -> None:
        self.meter._earlier["seconds"] = self.meter._earlier.get("seconds", 0.0) + 10.0  # each batch takes 10 s
        write(self, state)
        written.append(self)
        if len(written) == 12:  # an epoch has 5 batches of 64 rows
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "write", write_and_die)
    with pytest.raises(KeyboardInterrupt):
        make_net().fit(make_samples(), FEW_TRAIN, FEW_VALID, files=make_files(tmp_path))
    files = make_files(tmp_path)
    assert read_lines(files)["seconds"].round(-1).tolist() == [50.0, 50.0]
    files.measured.unlink()  # as the stage does when it starts again
    make_net().fit(make_samples(), FEW_TRAIN, FEW_VALID, files=files)
    assert read_lines(files)["iteration"].tolist() == [1, 2, 3, 4]
    assert read_lines(files)["seconds"].round(-1).tolist() == [50.0, 50.0, 50.0, 50.0]
    assert files.meter.seconds == pytest.approx(210.0, abs=9.0)  # the last checkpoint is of the finished fit


def test_the_stage_starts_a_file_outside_of_the_outputs(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = FitTask(3, *(np.empty(0, np.int64) for _ in range(3)), seed=1, fit_seed=2)
    files = train.name_files("lstm", task)
    train.write_header(files.measured, MEASUREMENTS)
    assert files.measured == Path("trained/measured/train/lstm.csv")
    assert files.measured.read_text() == "seed,split,iteration,seconds,peak_memory_mb,peak_gpu_memory_mb\n"
