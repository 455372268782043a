"""Copies of this repository with params of a small market, and commands in them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SMALL = {
    "sources.simulated.days": 4,
    "sources.simulated.signal": 0.05,  # that four days show
    "sources.simulated.half_life_bars": 5.0,
    "sources.binance.days": 4,
    "trees.num_boost_round": 30,
    "trees.early_stopping_rounds": 10,
    "nets.epochs": 2,
    "nets.train_stride": 16,
    "models.nets.lstm.hyperparameters.window": 4,
    "models.nets.lstm.hyperparameters.hidden_size": 8,
    "disabled_models.nets.gru.hyperparameters.window": 4,
    "disabled_models.nets.gru.hyperparameters.hidden_size": 8,
    "embargo_sensitivity.embargo_factors": [0, 1],
    "embargo_sensitivity.hyperparameters.num_boost_round": 2,
    "split.groups": 4,
    "compare.blocks": 8,
    "quantize.min_rank_correlation": 0.9,  # a tiny net is coarse
    "quantize.max_flipped_share": 0.5,
    "trading.no_trade_band": 0.02,
    "deployment.golden_bars": 60,
    "prop_firm.challenges.block_days": 1.0,
    "prop_firm.challenges.evaluation_days": 10,
    "prop_firm.challenges.funded_days": 5,
    "prop_firm.challenges.resamples": 4,
    "replay.bars": 400,
    "replay.restarts": 1,
    "replay.holes": 1,
    "replay.hole_bars": 1000,
    "agents.num_evaluations": 2,
    "agents.learning_starts": 500,
    "models.agents.marl.hyperparameters.num_episodes": 16,
}
# those that are fitted, and their families
MODELS = {"lightgbm": "trees", "xgboost_barrier": "trees", "lstm": "nets", "marl": "agents"}
ENSEMBLE = "voting"
COMMITTED_RESULTS = ("trained/metrics", "trained/plots", "trained/reports")


def command(folder: Path, *words: str, **environment: str) -> str:
    """The output of a command, which must succeed."""
    done = subprocess.run(words, cwd=folder, env=surroundings(environment), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def surroundings(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a command: one fit at a time, because the start of a worker takes longer than a small fit.

    Python may write its byte code, so that a stage does not compile all modules again. The `python` of STAGE_PYTHON,
    where it is set, is that of tests/stage_server.py.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    folders = [os.environ.get("STAGE_PYTHON"), str(Path(sys.executable).parent), os.environ["PATH"]]
    path = os.pathsep.join(filter(None, folders))
    author = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {**inherited, "PIPELINE_WORKERS": "1", "PATH": path, **author, **environment}


def copy(folder: Path) -> Path:
    """A repository of its own with the files of this one as they are now, and params of a small market."""
    files = command(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for file in files:
        if (ROOT / file).is_file() and file != "dvc.lock" and not file.startswith(COMMITTED_RESULTS):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, folder / file, follow_symlinks=False)  # links to code follow that of the copy
    copy_compiled_code(folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for path, value in SMALL.items():
        *parents, key = path.split(".")
        block = params
        for parent in parents:
            block = block[parent]
        block[key] = value
    params["models"] = {
        family: {name: block for name, block in blocks.items() if name in (*MODELS, ENSEMBLE)}
        for family, blocks in params["models"].items()
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    command(folder, "git", "init", "--quiet", "--initial-branch", "main")
    commit(folder, "A small market")
    return folder


def run_all_stages(folder: Path) -> None:
    """Run every stage of a repository in one process, two fits at a time, and record them in its dvc.lock."""
    program = str(ROOT / "tests/run_stages.py")
    command(folder, sys.executable, "-P", program, PYTHONPATH=str(ROOT), PIPELINE_WORKERS="2")
    copy_compiled_code(folder)


def copy_compiled_code(folder: Path) -> None:
    """Copy what Python and numba have compiled so far: valid where a module has the same size and time of change."""
    for kind in ("pyc", "nbi", "nbc"):
        for file in (ROOT / "pipeline").rglob(f"__pycache__/*.{kind}"):
            target = folder / file.relative_to(ROOT)
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(file, target)


def commit(folder: Path, subject: str) -> None:
    command(folder, "git", "add", "--all")
    command(folder, "git", "commit", "--quiet", "--message", subject)
