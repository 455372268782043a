"""The whole line on a small market, through DVC, in copies of this repository."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline.predictions import HOLDOUT
from pipeline.stages import baseline, compare, evaluate, export, parity, probe, split, train

ROOT = Path(__file__).parents[1]
UP_TO_DATE = "Data and pipelines are up to date."
SMALL = {
    "sources.simulated.days": 4,
    "trees.rounds": 30,
    "trees.patience": 10,
    "nets.epochs": 2,
    "nets.stride": 16,
    "split.groups": 4,
    "compare.blocks": 8,
    "trading.band": 0.02,
    "agents.rounds": 2,
    "agents.warm_up": 500,
    "models.marl.build.episodes": 16,
}
MODELS = ("lightgbm", "xgboost_barrier", "lstm", "marl")


def command(folder: Path, *words: str, **environment: str) -> str:
    """What a command printed; it must succeed."""
    done = subprocess.run(words, cwd=folder, env=surroundings(environment), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def surroundings(environment: dict[str, str]) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    author = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {**os.environ, "PATH": path, **author, **environment}


def copy(folder: Path) -> Path:
    """A repository of its own with the files of this one as they are now, and params of a small market."""
    files = command(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for file in files:
        if (ROOT / file).is_file() and file != "dvc.lock" and not file.startswith(("trained/reports", "trained/plots")):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, folder / file)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for path, value in SMALL.items():
        *rooms, key = path.split(".")
        block = params
        for room in rooms:
            block = block[room]
        block[key] = value
    params["models"] = {name: params["models"][name] for name in MODELS}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    command(folder, "git", "init", "--quiet", "--initial-branch", "main")
    commit(folder, "A small market")
    return folder


def commit(folder: Path, subject: str) -> None:
    command(folder, "git", "add", "--all")
    command(folder, "git", "commit", "--quiet", "--message", subject)


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> Path:
    """The line, run once and committed."""
    folder = copy(tmp_path_factory.mktemp("line"))
    command(folder, "dvc", "repro", PIPELINE_WORKERS="2")
    commit(folder, "The line has run")
    return folder


def test_the_line_ends_in_graphs_whose_parity_is_proven(line):
    for model in MODELS:
        assert (line / f"trained/onnx/{model}/model.onnx").is_file()
        report = json.loads((line / f"trained/reports/parity/{model}.json").read_text())
        assert report["hard"] == report["hard"] | {"flipped_leaves": 0, "within": {"mean_abs": 1e-6, "max_abs": 1e-5}}
        measured = json.loads((line / f"trained/measured/parity/{model}.json").read_text())
        assert 0 <= measured["hard"]["max_abs"] < 1e-5
        assert measured["machine"]["cpu"]


def test_a_second_repro_does_nothing(line):
    assert UP_TO_DATE in command(line, "dvc", "repro")
    assert UP_TO_DATE in command(line, "dvc", "status")
    assert command(line, "git", "status", "--porcelain") == ""


def test_every_row_lost_has_one_cause_and_the_counts_add_up(line):
    report = json.loads((line / "trained/reports/split/klines.json").read_text())
    assert report["bars"] == report["rows"] + sum(report["lost"].values())
    assert report["rows"] == report["development"] + report["gap"] + report["holdout"]


def test_killed_and_repeated_on_another_number_of_workers_it_ends_in_the_same_bytes(line, tmp_path):
    again = copy(tmp_path)
    words = [sys.executable, "-m", "dvc", "repro"]
    run = subprocess.Popen(
        words,
        cwd=again,
        env=surroundings({"PIPELINE_WORKERS": "1"}),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while run.poll() is None and not list(again.glob("trained/models/.*.draft")):
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not (again / "trained/models/lightgbm").exists(), "the stage was over before it could be killed"
    command(again, "dvc", "repro", PIPELINE_WORKERS="1")
    assert (again / "dvc.lock").read_text() == (line / "dvc.lock").read_text()


@pytest.mark.parametrize("method", ["purged_kfold", "walk_forward_expanding", "walk_forward_rolling"])
def test_every_way_to_cut_folds_goes_through_the_line(line, method, tmp_path, monkeypatch):
    folder = shutil.copytree(line, tmp_path / method, ignore=shutil.ignore_patterns(".git", ".dvc"))
    blocks = yaml.safe_load((folder / "params.yaml").read_text())
    blocks["split"]["method"] = method
    (folder / "params.yaml").write_text(yaml.safe_dump(blocks, sort_keys=False))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PIPELINE_WORKERS", "1")
    for stage in (split, baseline, probe):
        stage.main("klines")
    for model in MODELS:
        train.main(model)
        evaluate.main(model)
    compare.main("klines")
    for model in MODELS:
        export.main(model)
        parity.main(model)
    report = json.loads(Path("trained/reports/split/klines.json").read_text())
    assert (report["method"], report["n_paths"]) == (method, 1)
    assert set(pd.read_parquet("trained/returns/lightgbm.parquet")["path"]) == {0, HOLDOUT}
    board = json.loads(Path("trained/reports/compare/details/klines.json").read_text())["leaderboard"]
    assert set(board) == set(MODELS)
    assert all(len(row["sharpe_of_paths"]) == 1 for row in board.values())


def test_a_copy_in_eight_bits_is_one_experiment_away(line):
    printed = command(line, "dvc", "exp", "run", "-n", "small", "-S", "quantise.models=[lstm]")
    assert [row for row in printed.splitlines() if row.startswith("Running stage")] == [
        "Running stage 'quantise@lstm':"
    ]
    report = json.loads((line / "trained/reports/quantise/lstm.json").read_text())
    assert report["rank_correlation"] > 0.99
    assert report["bytes"] == (line / "trained/int8/lstm/model.onnx").stat().st_size < report["bytes_of_float32"]
    latency = json.loads((line / "trained/reports/quantise/latency/lstm.json").read_text())
    assert latency["int8"]["p99_us"] >= latency["int8"]["p50_us"] > 0
    command(line, "git", "checkout", "--force", "--quiet", "main")
    command(line, "git", "clean", "--force", "--quiet", "-d")
    command(line, "dvc", "checkout")


def test_an_experiment_on_costs_retrains_nothing_and_its_branch_brings_its_results_back(line):
    before = (line / "trained/reports/evaluate/lightgbm.json").read_text()
    printed = command(line, "dvc", "exp", "run", "-n", "dear", "-S", "trading.fee_bps=20")
    assert "Running stage 'evaluate@lightgbm'" in printed
    assert "Running stage 'train@lightgbm'" not in printed
    after = (line / "trained/reports/evaluate/lightgbm.json").read_text()
    assert after != before
    changed = json.loads(command(line, "dvc", "metrics", "diff", "--json"))
    assert "sharpe" in changed["trained/reports/evaluate/lightgbm.json"]
    command(line, "dvc", "exp", "branch", "dear", "dear")
    command(line, "git", "checkout", "--force", "--quiet", "main")
    command(line, "dvc", "checkout", "--force")
    assert (line / "trained/reports/evaluate/lightgbm.json").read_text() == before
    command(line, "git", "checkout", "--quiet", "dear")
    command(line, "dvc", "checkout")
    assert (line / "trained/reports/evaluate/lightgbm.json").read_text() == after
    assert UP_TO_DATE in command(line, "dvc", "status")
    command(line, "git", "checkout", "--quiet", "main")
    command(line, "dvc", "checkout")


def test_an_experiment_in_a_temporary_folder_runs_the_code_of_its_own_copy(line):
    stage = line / "pipeline/stages/fetch.py"
    code = stage.read_text()
    try:
        stage.write_text(code + "\nraise SystemExit('this is the copy speaking')\n")
        done = subprocess.run(
            ["dvc", "exp", "run", "--temp"], cwd=line, env=surroundings({}), capture_output=True, text=True, check=False
        )
    finally:
        stage.write_text(code)
    assert done.returncode != 0
    assert "this is the copy speaking" in done.stdout + done.stderr


def test_a_misspelt_key_stops_the_stage_naming_itself_and_the_keys_that_exist(line):
    params = (line / "params.yaml").read_text()
    try:
        (line / "params.yaml").write_text(params.replace("fee_bps", "fee_bsp"))
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.stages.evaluate", "lightgbm"],
            cwd=line,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        (line / "params.yaml").write_text(params)
    assert done.returncode == 1
    assert "trading: unknown key 'fee_bsp'; its keys are fee_bps, slippage_bps, band" in done.stderr
