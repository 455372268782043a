"""Fits on a Dask cluster: the results of this machine, what travels, what a killed worker costs, what is refused."""

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from joblib import delayed

from pipeline import PINNED, artifacts, cli
from pipeline.cluster import entry, machine
from pipeline.cluster.errors import ClusterError
from pipeline.config import ModelBlock
from pipeline.models import base
from pipeline.models.cross_fit import FoldFit, ModelSpec, fit_fold, plan_fits
from pipeline.models.measurements import MEASUREMENTS
from pipeline.models.parallel_fits import run_in_parallel
from pipeline.stages import audit, baseline, train
from pipeline.validation.folds import cpcv
from tests import cluster_fits, test_tuning
from tests.data import OUTPUTS, make_dataset, plant_samples
from tests.params import BLOCKS, PARAMS, output_of, read_market
from tests.small_repository import command
from tests.test_tuning import read_files

ABSENT = [name for name in entry.PACKAGES if importlib.util.find_spec(name) is None]
needs_dask = pytest.mark.skipif(bool(ABSENT), reason=f"the extra `cluster` is not installed: no {', '.join(ABSENT)}")
SAMPLES = plant_samples("return", seed=1)
FOLDS = cpcv(SAMPLES.time, SAMPLES.label_end, groups=4, test_groups=2, embargo_pct=0.01, holdout_pct=0.15)
DATA = make_dataset(SAMPLES, FOLDS, kind="return")
SHAPE = base.Signature(columns=SAMPLES.columns, output=OUTPUTS["return"])
POSITIONS = make_dataset(plant_samples("position", seed=1), FOLDS, kind="position")
SETTINGS = {
    "lightgbm": PARAMS["trees"] | {"num_boost_round": 10},
    "mlp": PARAMS["nets"] | {"epochs": 1, "train_stride": 16},
    "d4pg": PARAMS["agents"] | {"num_evaluations": 1, "learning_starts": 200, "num_envs": 16},
}


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from distributed import Client

    with cluster_fits.start_cluster(tmp_path_factory.mktemp("cluster")) as address:
        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address


@pytest.fixture
def cluster(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which fits run on the cluster."""
    monkeypatch.setenv("PIPELINE_SCHEDULER", scheduler)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(function: Callable[..., Any], *cases: tuple[Any, ...]) -> list[Any]:
    jobs = (delayed(function)(*case) for case in cases)
    return list(run_in_parallel(jobs, workers=1, total=len(cases), desc="train m"))


def count_transitions(scheduler: str) -> int:
    """Return how many changes of the states of tasks a scheduler has seen."""
    from distributed import Client

    with Client(scheduler, timeout=60, set_as_default=False) as client:
        return client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)


def to_bytes(fit: FoldFit) -> dict[str, bytes]:
    """Return the results of a fit as the stage writes them."""
    return {
        name: value.to_parquet() if isinstance(value, pd.DataFrame) else json.dumps(value, default=float).encode()
        for name, value in vars(fit).items()
    }


@needs_dask
@pytest.mark.parametrize("model", SETTINGS)
def test_fits_on_a_cluster_have_the_bytes_of_fits_on_this_machine(model: str, cluster: Path, monkeypatch):
    family, block = BLOCKS[model]
    if family == "agents":
        block = block | {"hyperparameters": block["hyperparameters"] | {"num_episodes": 8, "batch_size": 32}}
    data = POSITIONS if family == "agents" else DATA
    shape = replace(SHAPE, output=output_of(model))
    spec = ModelSpec(ModelBlock(family, block, model), shape, SETTINGS[model], read_market(model))
    every = np.ones(len(SAMPLES.time), bool)
    tasks = list(plan_fits(FOLDS, model, [42], every, every, valid_pct=0.15))[-2:]
    fields = spec.build(0).history_fields
    jobs = [
        delayed(fit_fold)(task, spec, data, folder=Path("m"), files=train.name_files(model, task)) for task in tasks
    ]
    results, files = [], []
    for folder, address in (("local", ""), ("remote", os.environ["PIPELINE_SCHEDULER"])):
        (cluster / folder).mkdir()
        monkeypatch.chdir(cluster / folder)
        monkeypatch.setenv("PIPELINE_SCHEDULER", address)
        train.write_header(artifacts.HISTORY / f"{model}.csv", fields)
        train.write_header(train.name_measurements(model), MEASUREMENTS)
        results.append(list(map(to_bytes, run_in_parallel(jobs, workers=1, total=len(jobs), desc=f"train {model}"))))
        artifacts.remove(artifacts.CHECKPOINTS)
        files.append(read_files(Path()))
    local, remote = (each.pop(str(train.name_measurements(model))).splitlines() for each in files)
    assert results[0] == results[1]
    assert files[0] == files[1] != {}
    assert len(local) == len(remote) > len(tasks)  # seconds


@needs_dask
def test_the_refit_of_an_audit_on_a_cluster_finds_what_it_finds_on_this_machine(cluster: Path, monkeypatch):
    spec = ModelSpec(ModelBlock(*BLOCKS["mlp"]), SHAPE, SETTINGS["mlp"])
    every = np.ones(len(SAMPLES.time), bool)
    task = next(plan_fits(FOLDS, "mlp", [42], every, every, valid_pct=0.15))
    predictions = fit_fold(task, spec, DATA, folder=cluster).out_of_sample
    parts = audit.describe_unfitted(spec.build(task.fit_seed))
    job = delayed(audit.audit_refit)(parts, task, SAMPLES, predictions, params=PARAMS)
    remote = list(run_in_parallel([job], workers=1, total=1, desc="audit mlp"))
    monkeypatch.delenv("PIPELINE_SCHEDULER")
    ((findings, described),) = local = list(run_in_parallel([job], workers=1, total=1, desc="audit mlp"))
    assert remote == local
    assert [finding.severity for finding in findings] == ["ok", "ok"]
    assert described["permutation_importance"]


@needs_dask
def test_searches_on_a_cluster_write_the_bytes_of_searches_on_this_machine(cluster: Path, tmp_path_factory):
    local = test_tuning.run_stage(tmp_path_factory.mktemp("local"), PIPELINE_WORKERS="1", PIPELINE_SCHEDULER="")
    test_tuning.run_stage(cluster, PIPELINE_SCHEDULER=os.environ["PIPELINE_SCHEDULER"])
    assert read_files(cluster) == read_files(local) != {}


@needs_dask
def test_baselines_on_a_cluster_have_the_bytes_of_those_of_this_machine(cluster: Path, monkeypatch):
    remote = [table.to_parquet() for table in baseline.predict_folds(DATA, l2=0.01)]
    monkeypatch.setenv("PIPELINE_SCHEDULER", "")
    monkeypatch.setenv("PIPELINE_WORKERS", "1")
    assert remote == [table.to_parquet() for table in baseline.predict_folds(DATA, l2=0.01)]
    assert len(remote) == FOLDS.n_splits


@needs_dask
def test_dvc_repro_on_a_cluster_by_the_command_of_the_page_leaves_dvc_lock_as_it_was(repo: Path, scheduler: str):
    (line,) = re.findall("`(PIPELINE_SCHEDULER=.* dvc repro)`", cluster_fits.PAGE.read_text())
    line = line.replace("tcp://10.0.0.1:8786", scheduler)
    before = count_transitions(scheduler)
    shown = command(repo, "bash", "-c", f"{line} --force --single-item train_trees@lightgbm")
    assert "Running stage 'train_trees@lightgbm'" in shown
    assert count_transitions(scheduler) > before  # the fits were tasks of the cluster
    assert command(repo, "git", "status", "--porcelain") == ""  # dvc.lock has the md5 of every output


@needs_dask
def test_shared_data_travels_once_to_each_worker_and_results_come_in_order(cluster: Path):
    data = cluster_fits.Counted(cluster / "arrivals", np.ones(100_000))
    assert run(cluster_fits.add_up, *((data, number) for number in range(8))) == [100_000.0 + i for i in range(8)]
    arrivals = (cluster / "arrivals").read_text().split()
    assert len(arrivals) == len(set(arrivals)) == 2


@needs_dask
def test_a_worker_that_joins_during_a_run_takes_fits_and_gets_the_data(cluster: Path, scheduler: str):
    (cluster / "processes").mkdir()
    data = cluster_fits.Counted(cluster / "arrivals", np.ones(100_000))
    cases = [(data, number, cluster / "processes") for number in range(8)]
    with ThreadPoolExecutor() as threads, contextlib.ExitStack() as stack:
        found = threads.submit(run, cluster_fits.meet, *cases)
        cluster_fits.wait_for(lambda: len(list((cluster / "processes").iterdir())) == 2, seconds=60)
        stack.enter_context(cluster_fits.join_cluster(scheduler, cluster))
        assert found.result(timeout=120) == list(range(8))
    processes = {file.name for file in (cluster / "processes").iterdir()}
    assert sorted((cluster / "arrivals").read_text().split()) == sorted(processes)
    assert len(processes) == 3


@needs_dask
def test_files_of_fits_come_back_and_lines_are_appended_in_the_order_of_the_fits(cluster: Path):
    (cluster / "trained").mkdir()
    (cluster / "trained/history.csv").write_text("split,loss\n")
    assert run(cluster_fits.write_as_fits_do, (0,), (1,), (2,)) == [0, 1, 2]
    assert read_files(cluster) == {
        "trained/history.csv": b"split,loss\n0,0.5\n1,0.5\n2,0.5\n",
        **{f"trained/models/.m.draft/{number}.pt": f"weights {number}".encode() for number in range(3)},
    }


@needs_dask
def test_a_worker_that_is_killed_in_a_fit_costs_that_fit_alone(cluster: Path):
    assert run(cluster_fits.die_once, *((number, cluster) for number in range(6))) == list(range(6))
    runs = [len((cluster / f"runs_{number}").read_text().split()) for number in range(6)]
    assert runs == [1, 2, 1, 1, 1, 1]


@needs_dask
def test_a_worker_that_is_killed_loses_no_fit_that_has_ended(cluster: Path):
    found = run(cluster_fits.die_in_second, *((number, cluster) for number in range(3)))
    assert [each.values.tolist() for each in found] == [[0], [1], [2]]
    runs = [len((cluster / f"runs_{number}").read_text().split()) for number in range(3)]
    assert runs in ([1, 1, 2], [1, 2, 1])


@needs_dask
def test_a_worker_that_is_killed_when_the_data_arrives_stops_nothing(cluster: Path):
    data = cluster_fits.Fatal(cluster / "arrivals", np.ones(100_000))
    assert run(cluster_fits.add_up, *((data, number) for number in range(8))) == [100_000.0 + i for i in range(8)]


@needs_dask
def test_a_fit_that_ends_every_worker_stops_the_stage(cluster: Path):
    with pytest.raises(ClusterError, match=r"^train m: a fit ended every worker that it ran on, the last tcp://"):
        run(cluster_fits.die, (cluster,))
    assert len((cluster / "deaths").read_text().split()) == 4


@needs_dask
def test_a_fault_of_a_fit_is_raised_as_on_this_machine(cluster: Path):
    with pytest.raises(ValueError, match="split 3: no train row"):
        run(cluster_fits.fail, (3,))


@needs_dask
def test_workers_start_with_pinned_arithmetic(cluster: Path):
    (found,) = run(cluster_fits.read_pins, (tuple(PINNED),))
    assert found == {**PINNED, "OMP_NUM_THREADS": "1"}


@needs_dask
@pytest.mark.parametrize(
    ("name", "value"),
    [("numpy", "1.0"), (machine.CODE, "0123"), ("NPY_ENABLE_CPU_FEATURES", "X86_V4"), ("Python", "2.7")],
)
def test_a_worker_that_differs_is_refused_by_the_difference(name: str, value: str, cluster: Path, monkeypatch):
    from pipeline.cluster import fits

    facts = fits.describe_client()
    monkeypatch.setattr(fits, "describe_client", lambda: {**facts, name: value})
    with pytest.raises(
        ClusterError, match=rf"^worker tcp://\S+ has {name} {facts[name]}, the client {value}; give both"
    ):
        run(cluster_fits.fail, (3,))


@needs_dask
def test_without_a_scheduler_a_stage_ends_with_one_line(tmp_path: Path, monkeypatch, capsys):
    from pipeline.cluster import fits

    monkeypatch.setattr(fits, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setenv("PIPELINE_SCHEDULER", "tcp://127.0.0.1:9")
    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: run(cluster_fits.fail, (3,)))
    message = str(ended.value)
    assert "\n" not in message
    assert "PIPELINE_SCHEDULER is 'tcp://127.0.0.1:9', where no scheduler responds" in message


@needs_dask
def test_an_address_without_a_port_is_one_line():
    from pipeline.cluster import fits

    with pytest.raises(ClusterError, match=r"PIPELINE_SCHEDULER is '127.0.0.1'; it must be the address that"):
        fits.connect("127.0.0.1")


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in entry.PACKAGES else name)
    monkeypatch.setenv("PIPELINE_SCHEDULER", "tcp://127.0.0.1:9")
    with pytest.raises(
        ClusterError, match=r"needs dask and distributed: install the extra by pip install .*\[cluster\]"
    ):
        run(cluster_fits.fail, (3,))


def test_without_the_variable_fits_load_nothing_of_dask():
    script = "import sys; import pipeline.stages.train; print(*{'dask', 'distributed'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"
