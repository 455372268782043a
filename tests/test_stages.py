"""The whole pipeline on a small market, through DVC, in copies of this repository."""

import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline.evaluation.predictions import HOLDOUT
from pipeline.stages import audit, baseline, compare, evaluate, export, parity, sensitivity, split, train

ROOT = Path(__file__).parents[1]
UP_TO_DATE = "Data and pipelines are up to date."
SMALL = {
    "sources.simulated.days": 4,
    "sources.binance.days": 4,
    "trees.num_boost_round": 30,
    "trees.early_stopping_rounds": 10,
    "nets.epochs": 2,
    "nets.train_stride": 16,
    "split.groups": 4,
    "compare.blocks": 8,
    "quantize.min_rank_correlation": 0.9,  # a tiny net is coarse
    "quantize.max_flipped_decisions": 0.5,
    "trading.no_trade_band": 0.02,
    "agents.num_evaluations": 2,
    "agents.learning_starts": 500,
    "models.agents.marl.hyperparameters.num_episodes": 16,
}
MODELS = {"lightgbm": "trees", "xgboost_barrier": "trees", "lstm": "nets", "marl": "agents"}  # and their families


def command(folder: Path, *words: str, **environment: str) -> str:
    """The output of a command, which must succeed."""
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
        *parents, key = path.split(".")
        block = params
        for parent in parents:
            block = block[parent]
        block[key] = value
    params["models"] = {
        family: {name: block for name, block in blocks.items() if name in MODELS}
        for family, blocks in params["models"].items()
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    command(folder, "git", "init", "--quiet", "--initial-branch", "main")
    commit(folder, "A small market")
    return folder


def commit(folder: Path, subject: str) -> None:
    command(folder, "git", "add", "--all")
    command(folder, "git", "commit", "--quiet", "--message", subject)


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    """The pipeline, run once and committed."""
    folder = copy(tmp_path_factory.mktemp("pipeline"))
    command(folder, "dvc", "repro", PIPELINE_WORKERS="2")
    commit(folder, "The pipeline has run")
    return folder


@pytest.fixture
def repo(ran, tmp_path) -> Path:
    """A copy of the repository in which the pipeline has run, for a test that changes it."""
    return shutil.copytree(ran, tmp_path / "repo", symlinks=True)


def test_the_pipeline_ends_in_graphs_that_predict_what_their_models_do(ran):
    for model in MODELS:
        assert (ran / f"trained/onnx/{model}/model.onnx").is_file()
        report = json.loads((ran / f"trained/reports/parity/{model}.json").read_text())
        assert report["hard"] == report["hard"] | {"flipped_leaves": 0, "within": {"mean_abs": 1e-6, "max_abs": 1e-5}}
        measured = json.loads((ran / f"trained/measured/parity/{model}.json").read_text())
        assert 0 <= measured["hard"]["max_abs"] < 1e-5
        assert measured["machine"]["cpu"]


def test_a_second_repro_does_nothing(ran):
    assert UP_TO_DATE in command(ran, "dvc", "repro")
    assert UP_TO_DATE in command(ran, "dvc", "status")
    assert command(ran, "git", "status", "--porcelain") == ""


def test_every_row_lost_has_one_cause_and_the_counts_add_up(ran):
    report = json.loads((ran / "trained/reports/split/klines.json").read_text())
    assert report["bars"] == report["rows"] + sum(report["lost"].values())
    assert report["rows"] == report["development"] + report["embargoed"] + report["holdout"]


def test_killed_and_repeated_on_another_number_of_workers_it_ends_in_the_same_bytes(ran, tmp_path):
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
    assert (again / "dvc.lock").read_text() == (ran / "dvc.lock").read_text()


@pytest.mark.parametrize("method", ["purged_kfold", "walk_forward_expanding", "walk_forward_rolling"])
def test_every_split_method_goes_through_the_pipeline(ran, method, tmp_path, monkeypatch):
    folder = shutil.copytree(ran, tmp_path / method, ignore=shutil.ignore_patterns(".git", ".dvc"))
    blocks = yaml.safe_load((folder / "params.yaml").read_text())
    blocks["split"]["method"] = method
    (folder / "params.yaml").write_text(yaml.safe_dump(blocks, sort_keys=False))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PIPELINE_WORKERS", "1")
    for stage in (split, baseline, sensitivity):
        stage.main("klines")
    for model in MODELS:
        train.main(model)
        audit.main(model)
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


def test_an_experiment_on_costs_retrains_nothing_and_its_branch_restores_its_results(repo):
    before = (repo / "trained/reports/evaluate/lightgbm.json").read_text()
    printed = command(repo, "dvc", "exp", "run", "-n", "costly", "-S", "trading.fee_bps=20")
    assert "Running stage 'evaluate_trees@lightgbm'" in printed
    assert "Running stage 'train_" not in printed
    after = (repo / "trained/reports/evaluate/lightgbm.json").read_text()
    assert after != before
    changed = json.loads(command(repo, "dvc", "metrics", "diff", "--json"))
    assert "sharpe" in changed["trained/reports/evaluate/lightgbm.json"]
    command(repo, "dvc", "exp", "branch", "costly", "costly")
    command(repo, "git", "checkout", "--force", "--quiet", "main")
    command(repo, "dvc", "checkout", "--force")
    assert (repo / "trained/reports/evaluate/lightgbm.json").read_text() == before
    command(repo, "git", "checkout", "--quiet", "costly")
    command(repo, "dvc", "checkout")
    assert (repo / "trained/reports/evaluate/lightgbm.json").read_text() == after
    assert UP_TO_DATE in command(repo, "dvc", "status")


TOUCHED = {  # a comment at the end of a file: the stages that DVC then wants to run
    "pipeline/reporting/plots.py": r"evaluate_|compare@",
    "pipeline/evaluation/overfitting.py": r"compare@",
    "pipeline/evaluation/performance.py": r"evaluate_|compare@",
    "pipeline/leakage/fits.py": r"canary@|audit_|compare@",
    "pipeline/models/torch_runtime/device.py": r"(train|audit|export|parity)_(nets|agents)@",
    "pipeline/models/nets/recurrent.py": r"(train|audit|export|parity)_nets@lstm",
    "pipeline/models/agents/marl.py": r"(train|audit|export|parity)_agents@marl",
    "pipeline/trading.py": r"evaluate_|(train|audit|export|parity)_agents@",
    "pipeline/tail_risk.py": r"(train|audit|export|parity)_agents@",
}


def test_a_comment_makes_stale_what_runs_the_file_and_nothing_else(repo):
    for file, stages in TOUCHED.items():
        text = (repo / file).read_text()
        (repo / file).write_text(text + "# a comment\n")
        stale = set(json.loads(command(repo, "dvc", "status", "--json")))
        (repo / file).write_text(text)
        assert stale, file
        assert [name for name in sorted(stale) if not re.match(stages, name)] == [], file


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
    assert "trading: unknown key 'fee_bsp'; its keys are fee_bps, slippage_bps, no_trade_band" in done.stderr


BLOCKS = [
    pytest.param(block, id=f"{file.parent.name}-{number}")
    for file in (ROOT / "README.md", *sorted((ROOT / "pipeline").rglob("README.md")))
    for number, block in enumerate(re.findall(r"^```bash\n(.*?)^```", file.read_text(), re.MULTILINE | re.DOTALL))
    if ". .ci/setup" not in block  # that is what .ci/run runs
]
KLINE = ("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades")
KLINE += ("taker_buy_base", "taker_buy_quote")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing."""


def write_archive(bars: pd.DataFrame, folder: Path) -> None:
    """Write bars as Binance's archive has them: a zip for each day, and its checksum."""
    for day, part in bars.groupby(pd.to_datetime(bars["open_time"], unit="ms").dt.strftime("%Y-%m-%d")):
        name = f"BTCUSDT-1m-{day}.zip"
        file = folder / "data/spot/daily/klines/BTCUSDT/1m" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(file, "w") as target:
            text = part[list(KLINE)].assign(ignore=0).to_csv(header=False, index=False)
            target.writestr(name.replace(".zip", ".csv"), text)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        file.with_name(f"{name}.CHECKSUM").write_text(f"{digest}  {name}\n")


@pytest.fixture
def readme_repo(repo, tmp_path) -> Iterator[Path]:
    """A repository in which the pipeline has run, with a user's file of bars, and Binance's archive on loopback."""
    bars = pd.read_parquet(repo / "data/raw/klines.parquet").drop(columns="symbol")
    bars.to_parquet(repo / "bars.parquet", index=False)
    write_archive(bars, tmp_path / "archive")
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "archive"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        params = yaml.safe_load((repo / "params.yaml").read_text())
        params["sources"]["binance"]["base_url"] = f"http://127.0.0.1:{server.server_port}"
        (repo / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        commit(repo, "A loopback archive")
        yield repo
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("block", BLOCKS)
def test_the_commands_of_every_readme_run_as_printed(block, readme_repo):
    command(readme_repo, "bash", "-euo", "pipefail", "-c", block)
