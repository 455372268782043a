"""Seeds are an axis: every model is fitted once for each, its tables name the seed, and the median one is deployed."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml

from pipeline import artifacts, config
from pipeline.models.base import read_description
from pipeline.models.predictions import FINAL
from pipeline.models.torch_runtime.checkpoint import Checkpoint
from pipeline.stages import (
    audit,
    baseline,
    evaluate,
    export,
    featurize,
    fetch,
    guard,
    ingest,
    label,
    parity,
    split,
    train,
)
from tests.params import BLOCKS, PARAMS

SEEDS = [5, 3]
MODELS = ("lightgbm", "mlp")
SMALL: dict[str, dict[str, Any]] = {
    "trees": {"num_boost_round": 5},
    "nets": {"epochs": 2, "train_stride": 16, "batch_size": 32, "checkpoint_seconds": 0.0},
    "split": {"groups": 3, "test_groups": 1},
}


def set_seeds(*, seed: int = 42, seeds: list[int] | None = None) -> None:
    """Write the params of a small market and two small models, with these seeds."""
    params = {**PARAMS, "seed": seed, "seeds": seeds or []}
    params |= {section: PARAMS[section] | values for section, values in SMALL.items()}
    params["sources"] = PARAMS["sources"] | {"simulated": PARAMS["sources"]["simulated"] | {"days": 3}}
    params["models"] = {BLOCKS[name][0]: {name: BLOCKS[name][1]} for name in MODELS}
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small market's data, ready to be fitted."""
    folder = tmp_path_factory.mktemp("seeds")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        set_seeds()
        for stage in (fetch, ingest, featurize, label, guard, split, baseline):
            stage.main("klines")
    return folder


@pytest.fixture
def folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one test's own, with the data."""
    for part in ("data", "trained/baselines", "trained/reports/featurize"):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part).symlink_to(data / part)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIPELINE_WORKERS", "1")
    return tmp_path


def fit(model: str, *, seed: int = 42, seeds: list[int] | None = None) -> dict[str, bytes]:
    """Return the bytes of everything that a training writes, but what it measures of the machine."""
    set_seeds(seed=seed, seeds=seeds)
    train.main(model)
    return read_results(model)


def read_results(model: str) -> dict[str, bytes]:
    skipped = {"measured", "baselines", "featurize"}
    found = sorted(path for path in Path("trained").rglob(f"*{model}*") if not skipped & set(path.parts))
    files = [file for path in found for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return {file.as_posix(): file.read_bytes() for file in files if file.is_file()}


def test_no_seeds_are_the_seed_alone():
    assert config.list_seeds({"seed": 7, "seeds": []}) == config.list_seeds({"seed": 7}) == [7]
    assert config.list_seeds({"seed": 7, "seeds": [2, 1]}) == [2, 1]


@pytest.mark.parametrize("model", MODELS)
def test_one_seed_in_the_list_gives_the_bytes_of_that_seed_alone(model: str, folder: Path):
    alone = fit(model, seed=7)
    assert {"trained/models", "trained/oos", "trained/in_sample", "trained/statistics", "trained/history"} <= {
        "/".join(name.split("/")[:2]) for name in alone
    }
    assert fit(model, seeds=[7]) == alone


@pytest.mark.parametrize("model", MODELS)
def test_two_seeds_give_the_rows_of_each_and_the_holdout_of_one(model: str, folder: Path):
    tables = ("oos", "in_sample", "statistics")
    of_one = {}
    for seed in SEEDS:
        fit(model, seed=seed)
        of_one[seed] = {name: pd.read_parquet(f"trained/{name}/{model}.parquet") for name in tables}
    fit(model, seeds=SEEDS)
    deployed = artifacts.read_json(artifacts.report_path("train", model))["deployed_seed"]
    for name in tables:
        table = pd.read_parquet(f"trained/{name}/{model}.parquet")
        if name == "oos":
            assert set(table["seed"][table["split"] == FINAL]) == {deployed}
            own = [
                part[(part["split"] != FINAL) | (part["seed"] == deployed)] for part in (of_one[s][name] for s in SEEDS)
            ]
        else:
            own = [of_one[seed][name] for seed in SEEDS]
        pd.testing.assert_frame_equal(table, pd.concat(own, ignore_index=True))
    first, second = (of_one[seed]["oos"]["score"] for seed in SEEDS)
    assert not first.equals(second)
    history = pd.read_csv(f"trained/history/{model}.csv", dtype={"split": str})
    fits = artifacts.read_json(artifacts.report_path("train/details", model))["fits"]
    expected = [(seed, name) for seed in SEEDS for name in ("0", "1", "2", "final")]
    assert [(each["seed"], each["split"]) for each in fits] == expected
    assert list(history.groupby(["seed", "split"], sort=False).groups) == expected


def make_fit(seed: int, value: float, split: int = FINAL) -> Any:
    return SimpleNamespace(seed=seed, split=split, best={"valid_loss": value})


@pytest.mark.parametrize(
    ("losses", "deployed"),
    [
        ({9: 0.5}, 9),
        ({1: 0.3, 2: 0.1, 3: 0.2}, 3),
        ({1: 0.4, 2: 0.1, 3: 0.2, 4: 0.3}, 3),  # of 0.2 and 0.3 the lower
        ({1: 0.2, 2: 0.2, 3: 0.2}, 2),
        ({1: float("nan"), 2: 0.1}, 2),
    ],
)
def test_the_deployed_seed_has_the_median_criterion_of_the_final_fits(losses: dict[int, float], deployed: int):
    fits = [fit for seed, value in losses.items() for fit in (make_fit(seed, -seed, split=0), make_fit(seed, value))]
    assert train.choose_deployed_seed(fits, metric="valid_loss") == deployed


@pytest.mark.parametrize("model", MODELS)
def test_the_deployed_model_is_that_of_the_deployed_seed_and_passes_audit_export_and_parity(model: str, folder: Path):
    fit(model, seeds=SEEDS)
    report = artifacts.read_json(artifacts.report_path("train", model))
    finals = [
        f for f in artifacts.read_json(artifacts.report_path("train/details", model))["fits"] if f["split"] == "final"
    ]
    assert report["deployed_seed"] == min(finals, key=lambda each: each["best"]["valid_loss"])["seed"]
    own_seed = config.derive_seed(report["deployed_seed"], model, FINAL)
    assert read_description(artifacts.MODELS / model)["seed"] == own_seed
    assert not [path for path in (artifacts.MODELS / model).iterdir() if path.is_dir()]
    for stage in (audit, evaluate, export, parity):
        stage.main(model)
    audited = artifacts.read_json(artifacts.report_path("audit", model))
    assert [(each["seed"], each["split"]) for each in audited["fits"]] == [
        (f["seed"], f["split"]) for f in read_fits(model)
    ]
    assert audited["refitted_seed"] == SEEDS[0]
    contract = artifacts.read_json(artifacts.ONNX / model / "contract.json")
    assert contract["model_spec"]["seed"] == own_seed


def read_fits(model: str) -> list[dict[str, Any]]:
    fits: list[dict[str, Any]] = artifacts.read_json(artifacts.report_path("train/details", model))["fits"]
    return fits


def test_killed_and_resumed_two_seeds_end_in_the_same_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch):
    expected = fit("mlp", seeds=SEEDS)
    artifacts.remove(artifacts.MODELS)
    write, written = Checkpoint.write, []

    def write_and_die(self: Checkpoint, state: dict) -> None:
        write(self, state)
        written.append(self.file.name)
        if len({name.rpartition("-")[0] for name in written}) == 6:  # in the second split of the second seed
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "write", write_and_die)
    with pytest.raises(KeyboardInterrupt):
        train.main("mlp")
    names = {path.name.rpartition("-")[0] for path in (artifacts.CHECKPOINTS / "mlp").iterdir()}
    assert names == {"5-0", "5-1", "5-2", "5-final", "3-0", "3-1"}
    assert not (artifacts.MODELS / "mlp").exists()
    monkeypatch.setattr(Checkpoint, "write", write)
    train.main("mlp")
    assert read_results("mlp") == expected
    assert not (artifacts.CHECKPOINTS / "mlp").exists()


def test_the_number_of_workers_changes_no_byte(folder: Path):
    alone = fit("lightgbm", seeds=SEEDS)
    artifacts.remove(artifacts.MODELS)
    words = [sys.executable, "-m", "pipeline.stages.train", "lightgbm"]
    paths = os.pathsep.join([str(Path(train.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "PIPELINE_WORKERS": "2"}
    subprocess.run(words, env=environment, capture_output=True, check=True)
    assert read_results("lightgbm") == alone
