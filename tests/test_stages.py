"""The whole pipeline on a small market, through DVC, in copies of this repository."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from dvc.repo import Repo

from pipeline import artifacts
from pipeline.config import ParamsError
from pipeline.models.predictions import FINAL
from pipeline.stages import (
    audit,
    baseline,
    combine,
    compare,
    evaluate,
    export,
    holdout,
    parity,
    sensitivity,
    signals,
    split,
    train,
)
from pipeline.targets import Target
from pipeline.validation.folds import Folds
from tests.small_repository import ENSEMBLE, MODELS, command, surroundings

UP_TO_DATE = "Data and pipelines are up to date."
REPORTS = ("split", "signals", "sensitivity", "train", "audit", "combine", "evaluate", "compare", "parity")
RESULTS = ("baselines", "models", "in_sample", "statistics", "history", "returns", "plots", "metrics")
FOLDERS = [*(Path("trained/reports") / name for name in REPORTS), *(Path("trained") / name for name in RESULTS)]
OPENED = "trees.lightgbm"


def test_the_pipeline_ends_in_graphs_that_predict_what_their_models_do(ran):
    for model in MODELS:
        assert (ran / f"trained/onnx/{model}/model.onnx").is_file()
        report = json.loads((ran / f"trained/reports/parity/{model}.json").read_text())
        assert report["edge_cases"] == report["edge_cases"] | {
            "flipped_decisions": 0,
            "limits": {"mean_abs": 1e-6, "max_abs": 1e-5, "max_relative": 1e-4},
        }
        measured = json.loads((ran / f"trained/measured/parity/{model}.json").read_text())
        assert 0 <= measured["edge_cases"]["max_abs"] < 1e-5
        assert measured["machine"]["cpu"]


def test_seconds_and_peak_memory_of_every_fit_are_measured(ran):
    for model, family in MODELS.items():
        history = pd.read_csv(ran / f"trained/history/{model}.csv", dtype={"split": str})
        table = pd.read_csv(ran / f"trained/measured/train/{model}.csv", dtype={"split": str})
        fits, epochs = table[table["iteration"].isna()], table.dropna(subset="iteration")
        assert sorted(fits["split"]) == sorted(history["split"].unique())
        assert (table["seconds"] > 0).all()
        assert (table["peak_memory_mb"] > 10).all()
        assert len(epochs) == (len(history) if family == "nets" else 0)


def test_a_second_repro_does_nothing(ran):
    assert UP_TO_DATE in command(ran, "dvc", "repro")
    assert UP_TO_DATE in command(ran, "dvc", "status")
    assert command(ran, "git", "status", "--porcelain") == ""


def test_every_row_lost_has_one_cause_and_the_counts_add_up(ran):
    report = json.loads((ran / "trained/reports/split/klines.json").read_text())
    assert report["bars"] == report["rows"] + sum(report["lost"].values())
    assert report["rows"] == report["development"] + report["purged_and_embargoed_before_holdout"] + report["holdout"]


def test_killed_and_repeated_on_another_number_of_workers_fits_end_in_the_same_bytes(repo):
    stages = [f"train_{family}@{model}" for model, family in MODELS.items()]
    stages += ["baseline@klines", "sensitivity@klines"]  # all that use several workers
    expected = (repo / "dvc.lock").read_text()
    forget_results(repo, stages)
    words = [sys.executable, "-m", "dvc", "repro", *stages]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # of a python that dies with its group
    run = subprocess.Popen(
        words,
        cwd=repo,
        env=surroundings({"PATH": path}),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while run.poll() is None and not list(repo.glob("trained/models/.*.draft")):
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not (repo / "trained/models/lightgbm").exists(), "the stage was over before it could be killed"
    command(repo, "dvc", "repro", *stages)
    assert yaml.safe_load((repo / "dvc.lock").read_text()) == yaml.safe_load(expected)


def forget_results(repo: Path, stages: list[str]) -> None:
    """Remove the results of stages from disk, from dvc.lock and from DVC's cache of runs."""
    lock = yaml.safe_load((repo / "dvc.lock").read_text())
    for stage in stages:
        for out in lock["stages"].pop(stage)["outs"]:
            path = repo / out["path"]
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (repo / "dvc.lock").write_text(yaml.safe_dump(lock))
    shutil.rmtree(repo / ".dvc/cache/runs")


@pytest.mark.parametrize(
    ("method", "models"),
    [
        ("purged_kfold", ("lightgbm",)),
        ("walk_forward_expanding", tuple(MODELS)),
        ("walk_forward_rolling", ("lightgbm",)),
    ],
)
def test_every_split_method_goes_through_the_pipeline(ran, method, models, tmp_path, monkeypatch):
    folder = shutil.copytree(ran, tmp_path / method, ignore=shutil.ignore_patterns(".git", ".dvc"))
    blocks = yaml.safe_load((folder / "params.yaml").read_text())
    blocks["split"]["method"] = method
    blocks["models"] = {
        family: {name: block for name, block in of_family.items() if name in models}
        for family, of_family in blocks["models"].items()
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(blocks, sort_keys=False))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PIPELINE_WORKERS", "1")
    for stage in (split, signals, baseline, sensitivity):
        stage.main("klines")
    for model in models:
        train.main(model)
        audit.main(model)
        evaluate.main(model)
    compare.main("klines")
    for model in models:
        export.main(model)
        parity.main(model)
    report = json.loads(Path("trained/reports/split/klines.json").read_text())
    assert (report["method"], report["n_paths"]) == (method, 1)
    assert set(pd.read_parquet("trained/returns/lightgbm.parquet")["path"]) == {0}
    board = json.loads(Path("trained/reports/compare/details/klines.json").read_text())["leaderboard"]
    assert set(board) == set(models)
    assert all(len(row["path_sharpes"]) == 1 for row in board.values())


def test_an_eight_bit_copy_is_one_experiment(repo):
    printed = command(repo, "dvc", "exp", "run", "-S", "quantize.models=[nets.lstm]")
    assert [row for row in printed.splitlines() if row.startswith("Running stage")] == [
        "Running stage 'quantize@nets.lstm':"
    ]
    report = json.loads((repo / "trained/reports/quantize/nets.lstm.json").read_text())
    assert report["rank_correlation"] > 0.9
    assert report["int8_bytes"] == (repo / "trained/int8/nets.lstm/model.onnx").stat().st_size < report["float32_bytes"]
    latency = json.loads((repo / "trained/reports/quantize/latency/nets.lstm.json").read_text())
    assert latency["int8"]["p99_us"] >= latency["int8"]["p50_us"] > 0


def test_an_experiment_on_costs_retrains_agents_alone_and_its_branch_restores_its_results(repo):
    before = (repo / "trained/reports/evaluate/lstm.json").read_text()
    printed = command(repo, "dvc", "exp", "run", "-n", "costly", "-S", "costs.simulated.fee_bps=20")
    assert "Running stage 'evaluate_trees@lightgbm'" in printed
    assert set(re.findall(r"Running stage 'train_(\w+)@", printed)) == {"agents", "ensembles"}
    after = (repo / "trained/reports/evaluate/lstm.json").read_text()
    assert after != before
    changed = json.loads(command(repo, "dvc", "metrics", "diff", "--json"))
    assert "sharpe" in changed["trained/metrics/lstm.json"]
    command(repo, "dvc", "exp", "branch", "costly", "costly")
    command(repo, "git", "checkout", "--force", "--quiet", "main")
    command(repo, "dvc", "checkout", "--force")
    assert (repo / "trained/reports/evaluate/lstm.json").read_text() == before
    command(repo, "git", "checkout", "--quiet", "costly")
    command(repo, "dvc", "checkout")
    assert (repo / "trained/reports/evaluate/lstm.json").read_text() == after
    assert UP_TO_DATE in command(repo, "dvc", "status")
    command(repo, "git", "checkout", "--force", "--quiet", "main")
    command(repo, "dvc", "checkout", "--force")
    before = read_comparison(repo)
    assert "experiment costly" in command(repo, "python", "-m", "pipeline.evaluation.ledger", "harvest")
    assert "Running stage 'compare@klines'" in command(repo, "dvc", "repro")
    after = read_comparison(repo)
    assert after["trials"] == before["trials"] + len([*MODELS, ENSEMBLE])
    assert after["best_dsr"] < before["best_dsr"]
    assert after["best_sharpe"] == before["best_sharpe"]


def read_comparison(repo: Path) -> dict:
    return json.loads((repo / "trained/reports/compare/klines.json").read_text())


def test_a_fit_that_was_made_before_comes_from_the_cache(repo):
    params = (repo / "params.yaml").read_text()
    model = repo / "trained/models/lightgbm/model.json"
    trained = model.read_text()
    (repo / "params.yaml").write_text(params.replace("learning_rate: 0.05", "learning_rate: 0.5"))
    assert "Running stage 'train_trees@lightgbm'" in command(repo, "dvc", "repro", "train_trees@lightgbm")
    assert model.read_text() != trained
    (repo / "params.yaml").write_text(params)
    assert "Stage 'train_trees@lightgbm' is cached" in command(repo, "dvc", "repro", "train_trees@lightgbm")
    assert model.read_text() == trained


def test_dvc_runs_again_the_stages_that_list_a_changed_file_and_no_other(repo, monkeypatch):
    """tests/test_dvc_yaml.py says which stages list a file."""
    monkeypatch.chdir(repo)
    files = ("pipeline/models/torch_runtime/device.py", "pipeline/evaluation/comparison.py")
    with Repo() as opened:
        listed = {
            stage.addressing
            for stage in opened.index.stages
            if any(Path(file).is_relative_to(dep.def_path) for dep in stage.deps for file in files)
        }
    for file in files:
        with (repo / file).open("a") as text:
            text.write("# a comment\n")
    with Repo() as opened:
        stale = set(opened.status())
    assert stale == listed
    assert {name.partition("_")[0] for name in stale} == {
        *("train", "audit", "export"),
        *("bundle@klines", "compare@klines", "report@klines"),
    }


def test_an_experiment_in_a_temporary_folder_runs_the_code_of_its_own_copy(repo):
    stage = repo / "pipeline/stages/fetch.py"
    code = stage.read_text()
    try:
        stage.write_text(code + "\nraise SystemExit('the code of the copy runs')\n")
        done = subprocess.run(
            ["dvc", "exp", "run", "--temp"], cwd=repo, env=surroundings({}), capture_output=True, text=True, check=False
        )
    finally:
        stage.write_text(code)
    assert done.returncode != 0
    assert "the code of the copy runs" in done.stdout + done.stderr


def test_a_misspelled_key_stops_its_stage_naming_the_keys_that_exist(repo):
    params = (repo / "params.yaml").read_text()
    try:
        (repo / "params.yaml").write_text(params.replace("fee_bps", "fee_bsp"))
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.stages.evaluate", "lightgbm"],
            cwd=repo,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        (repo / "params.yaml").write_text(params)
    assert done.returncode == 1
    assert "costs.simulated: unknown key 'fee_bsp'; its keys are fee_bps, slippage_bps, borrow_rate" in done.stderr


@pytest.fixture
def folder(ran, tmp_path, monkeypatch) -> Path:
    """The data and results of the pipeline in a folder of its own, the current one."""
    folder = shutil.copytree(ran, tmp_path / "copy", ignore=shutil.ignore_patterns(".git", ".dvc"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PIPELINE_WORKERS", "1")
    return folder


def change_params(**sections: object) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump(params | sections, sort_keys=False))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"models": "nets.lstm"}, "holdout.models is 'nets.lstm'; it must be a list"),
        ({"models": ["lstm"]}, "holdout.models has 'lstm'; it must be <family>.<model>, such as nets.lstm"),
        ({"models": [], "looks": 3}, "holdout: unknown key 'looks'; its keys are models"),
    ],
)
def test_a_wrong_section_is_one_line(folder, section, message):
    change_params(holdout=section)
    with pytest.raises(ParamsError) as refused:
        holdout.main("nets.lstm")
    assert str(refused.value) == f"params.yaml: {message}"


def test_a_model_that_does_not_exist_is_one_line_that_names_those_that_do(folder):
    with pytest.raises(ParamsError) as refused:
        holdout.main("nets.lightgbm")
    assert str(refused.value) == "params.yaml: there is no models.nets.lightgbm; models.nets has lstm"


def test_a_model_that_is_not_traded_is_one_line(folder):
    file = Path("data/labels/klines/return_5.parquet")
    table = pd.read_parquet(file)
    table.attrs["target"]["output"]["has_direction"] = False
    artifacts.write_table(file, table)
    with pytest.raises(ParamsError) as refused:
        holdout.main(OPENED)
    assert str(refused.value).startswith(f"params.yaml: holdout.models has {OPENED}, which is not traded: ")
    assert not Path("trained/reports/holdout").exists()


def read_results() -> dict[str, bytes]:
    """Return the bytes of every result of `run_stages` by its path, and the predictions of the splits.

    Those of the final fit are left out: the return of an agent's open position is among its inputs.
    """
    oos = {str(file): evaluate.drop_final_fit(pd.read_parquet(file)) for file in Path("trained/oos").iterdir()}
    files = [file for folder in FOLDERS for file in folder.rglob("*") if file.is_file()]
    files = [file for file in files if not file.parent.name.startswith("liquidity")]  # which describes all bars
    files = [file for file in files if file.name not in ("data.json", "SHA256SUMS")]  # of all labels
    return {str(file): file.read_bytes() for file in files} | {
        name: table.to_csv().encode() for name, table in oos.items()
    }


def alter_holdout_labels() -> int:
    """Change prices, moves and labels from the first row of the holdout on; return the number of its rows."""
    folds, rows = Folds.load(Path("data/folds/klines.parquet"))
    first = rows["time"].to_numpy()[folds.holdout()].min()
    clean = pd.read_parquet("data/clean/klines.parquet")
    clean.loc[clean["open_time"] >= first, ["open", "high", "low", "close"]] *= 3.0
    artifacts.write_table(Path("data/clean/klines.parquet"), clean)
    for file in Path("data/labels/klines").glob("*.parquet"):
        table, names = pd.read_parquet(file), Target.load(file).output.names
        sealed = table["time"] >= first
        y = table["y"].to_numpy()
        table["y"] = np.where(sealed, (y + 1) % len(names) if len(names) > 1 else 1 - 2 * y, y).astype(y.dtype)
        artifacts.write_table(file, table)
    return len(folds.holdout())


def run_stages() -> None:
    """Run every stage after the labels and their guards that the default params have."""
    for stage in (split, signals, baseline, sensitivity):
        stage.main("klines")
    for model in MODELS:
        for stage in (train, audit, evaluate, export, parity):
            stage.main(model)
    for stage in (combine, evaluate):
        stage.main(ENSEMBLE)
    compare.main("klines")


def test_no_report_picture_or_prediction_depends_on_the_labels_of_the_holdout(folder):
    before = read_results()
    holdout.main(OPENED)
    opened = Path(f"trained/reports/holdout/{OPENED}.json").read_bytes()
    assert alter_holdout_labels() > 100
    holdout.main(OPENED)
    assert Path(f"trained/reports/holdout/{OPENED}.json").read_bytes() != opened  # where they are read they show
    for results in [*FOLDERS, Path("trained/oos")]:
        shutil.rmtree(results)
    run_stages()
    after = read_results()
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] == []


def test_the_holdout_of_one_model_is_one_experiment_and_nothing_else_mentions_it(repo):
    shown = command(repo, "dvc", "metrics", "show", "--json")
    assert "holdout" not in shown.replace("purged_and_embargoed_before_holdout", "")
    assert not (repo / "trained/reports/holdout").exists()
    printed = command(repo, "dvc", "exp", "run", "-S", f"holdout.models=[{OPENED}]")
    assert [row for row in printed.splitlines() if row.startswith("Running stage")] == [
        f"Running stage 'holdout@{OPENED}':"
    ]
    report = json.loads((repo / f"trained/reports/holdout/{OPENED}.json").read_text())
    oos = pd.read_parquet(repo / "trained/oos/lightgbm.parquet").query(f"split == {FINAL}").set_index("time")
    labels = pd.read_parquet(repo / "data/labels/klines/return_5.parquet").set_index("time")["y"]
    rows = pd.read_parquet(repo / "data/folds/klines.parquet")
    labeled = rows["time"][rows["is_labeled"]]  # by every target; the last rows are predicted and traded without
    labels = labels[labels.index.isin(oos.index) & labels.index.isin(labeled)]
    predicted = oos.loc[labels.index, Target.load(repo / "data/labels/klines/return_5.parquet").output.names[0]]
    expected = np.corrcoef(predicted.astype(np.float64), labels.astype(np.float64))[0, 1]
    assert report["ic"] == pytest.approx(expected)
    assert report["bars"] == len(oos)
    assert report["looks"] == 1
    look, _ = map(json.loads, (repo / f"trained/looks/{OPENED}.jsonl").read_text().splitlines())
    assert (look["kind"], look["digest"]) == ("look", report["trial"])
    changed = json.loads(command(repo, "dvc", "metrics", "diff", "--json"))
    assert set(changed) == {f"trained/metrics/holdout_{OPENED}.json"}
    pictures = sorted(file.name for file in (repo / "trained/plots/holdout" / OPENED).iterdir())
    assert pictures == ["equity.png", "positions.png"]
