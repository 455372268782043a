"""Kill `dvc repro` at random instants, repair and resume it: `python -m benchmarks.kills [--folder FOLDER] [--seed 0]`.

The small market of the tests runs once. Then, stage by stage: its results are forgotten, on disk, in dvc.lock (also the
one in git), in the run cache and in the cache. It runs once undisturbed and is forgotten again. Now its whole process
group is killed by SIGKILL, several times in a row, each time at an instant drawn uniformly over the time that the stage
takes; where DVC refuses to start, it is repaired as README.md says. At last it runs to its end. All files, dvc.lock
included, must be those of the undisturbed run, byte for byte, without a draft or a checkpoint left behind.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.small_repository import command, commit, copy, surroundings

KILLS = {  # of each stage, in a row
    "export_nets@lstm": 6,
    "evaluate_trees@lightgbm": 6,
    "train_trees@lightgbm": 6,
    "train_nets@lstm": 3,
    "evaluate_agents@marl": 6,
    "export_trees@lightgbm": 6,
    "train_agents@marl": 2,
    "tune@lightgbm_tuned": 6,
    "featurize@klines": 5,
    "label@klines": 5,
    "compare@klines": 5,
}
IGNORED = (".git/", ".dvc/", "trained/measured/")  # `measured` has seconds and megabytes
STARTED = "Running stage"
WORKERS = {"PIPELINE_WORKERS": "2"}


@dataclass(frozen=True)
class Outcome:
    """The end of all kills of one stage."""

    shares: tuple[float, ...]  # of the stage's time, after which it was killed
    repairs: tuple[str, ...]  # files of DVC that had to be repaired
    seconds: float  # undisturbed, with the start of DVC
    resumed_seconds: float  # of the run after the last kill
    differences: tuple[str, ...]  # paths whose bytes are not those of the undisturbed run


def main() -> None:
    """Kill every stage as often as KILLS says, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a small repository whose pipeline has run; made where not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="+", choices=KILLS, default=list(KILLS))
    parser.add_argument("--workers", type=int, default=2, help="fits at a time")
    arguments = parser.parse_args()
    WORKERS["PIPELINE_WORKERS"] = str(arguments.workers)
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        repo = arguments.folder or make_repository(Path(folder) / "repo")
        sys.stdout.write("| stage | killed at | repaired | seconds undisturbed, after the last kill | bytes |\n")
        sys.stdout.write("|---|---|---|---|---|\n")
        for stage in arguments.stages:
            sys.stdout.write(format_row(stage, kill_stage(repo, stage, kills=KILLS[stage], rng=rng)) + "\n")
            sys.stdout.flush()
        sys.stdout.write(command(repo, "dvc", "status"))


def make_repository(folder: Path) -> Path:
    """Return a small repository whose pipeline has run."""
    folder.mkdir()
    copy(folder)
    enable_search(folder / "params.yaml")
    command(folder, "dvc", "repro", **WORKERS)
    commit(folder, "The pipeline has run")
    return folder


def enable_search(file: Path) -> None:
    """Add a tuned model with short searches to a params.yaml."""
    params = yaml.safe_load(file.read_text())
    params["models"]["tuned"] = {"lightgbm_tuned": params["disabled_models"]["tuned"]["lightgbm_tuned"]}
    params["tune"] |= {"n_trials": 6, "n_startup_trials": 3, "groups": 2}
    file.write_text(yaml.safe_dump(params, sort_keys=False))


def kill_stage(repo: Path, stage: str, *, kills: int, rng: random.Random) -> Outcome:
    """Return what so many kills of a stage in a row, and one run to its end, ended in."""
    forget(repo, stage)
    undisturbed = run(repo, stage)
    expected = hash_files(repo)
    forget(repo, stage)
    shares, repairs, seconds = [rng.random() for _ in range(kills)], list[str](), undisturbed.seconds
    for share in shares:
        killed = run(repo, stage, kill_after=share * seconds)
        while not killed.was_killed:
            if killed.refused:
                repairs += repair(repo, killed.refused)
            else:  # the results were complete, by the previous kill or because the machine was faster this time
                assert hash_files(repo) == expected, f"{stage} is complete, and other than undisturbed"
                seconds = min(seconds, killed.seconds or seconds)
                forget(repo, stage)
            killed = run(repo, stage, kill_after=share * seconds)
        repairs += restore_lost_stages(repo)
    last = run(repo, stage)
    while last.refused:
        repairs += repair(repo, last.refused)
        last = run(repo, stage)
    after = hash_files(repo)
    different = sorted(file for file in after.keys() | expected.keys() if after.get(file) != expected.get(file))
    return Outcome(tuple(shares), tuple(repairs), undisturbed.total, last.total, tuple(different))


@dataclass(frozen=True)
class Run:
    """One run of `dvc repro`."""

    was_killed: bool  # not where the stage did not start, or had ended
    seconds: float  # of the stage; 0 where it did not start
    total: float  # seconds, with the start of DVC
    refused: str  # why DVC did not start, or empty


def run(repo: Path, stage: str, *, kill_after: float | None = None) -> Run:
    """Run a stage to its end, or kill it `kill_after` seconds after it began."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", stage],
            cwd=repo,
            env=surroundings({**WORKERS, "PYTHONUNBUFFERED": "1"}),
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdout is not None
        has_started = any(line.startswith(f"{STARTED} '{stage}'") for line in process.stdout)
        running = time.monotonic()
        if has_started and kill_after is not None:
            time.sleep(kill_after)
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.read()
        status = process.wait()
        errors.seek(0)
        message = errors.read()
    end = time.monotonic()
    assert status == 0 or kill_after is not None or not has_started, f"{stage} failed: {message}"
    refused = "" if has_started or status == 0 else message
    return Run(status == -signal.SIGKILL, end - running if has_started else 0.0, end - start, refused)


def repair(repo: Path, message: str) -> list[str]:
    """Repair what DVC refuses after a kill, as README.md says; return the file that was broken."""
    if "dvc.lock" in message:
        command(repo, "git", "checkout", "dvc.lock")
        return ["dvc.lock"]
    assert "rwlock" in message, message
    (repo / ".dvc/tmp/rwlock").unlink()
    return ["rwlock"]


def restore_lost_stages(repo: Path) -> list[str]:
    """Restore the committed dvc.lock where stages are lost, as README.md says; return the file where it was cut."""
    committed = command(repo, "git", "show", "HEAD:dvc.lock")
    text = (repo / "dvc.lock").read_text()
    try:
        lost = list_stages(committed) - list_stages(text)
    except yaml.YAMLError:
        return []  # DVC refuses it, see `repair`
    if not lost:
        return []
    command(repo, "git", "checkout", "dvc.lock")
    return [f"dvc.lock, cut by {len(lost)} stages"]


def list_stages(lock: str) -> set[str]:
    """Return the names of the stages in the text of a dvc.lock, which may be empty."""
    return set((yaml.safe_load(lock) or {}).get("stages") or {})


def forget(repo: Path, stage: str) -> None:
    """Remove the results of a stage wherever DVC could find them again, and commit a dvc.lock without them."""
    lock = yaml.safe_load((repo / "dvc.lock").read_text())
    for out in lock["stages"].pop(stage, {"outs": []})["outs"]:
        path, cached = repo / out["path"], locate_cached(repo, out["md5"])
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if cached.suffix == ".dir" and cached.exists():
            for entry in json.loads(cached.read_text()):
                locate_cached(repo, entry["md5"]).unlink(missing_ok=True)
        cached.unlink(missing_ok=True)
    (repo / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    shutil.rmtree(repo / ".dvc/cache/runs", ignore_errors=True)
    command(repo, "git", "commit", "--all", "--allow-empty", "--quiet", "--message", f"Without {stage}")


def locate_cached(repo: Path, digest: str) -> Path:
    """Return the file of an object in DVC's cache."""
    return repo / ".dvc/cache/files/md5" / digest[:2] / digest[2:]


def hash_files(repo: Path) -> Mapping[str, str]:
    """Return the digest of every file of the repository, drafts and checkpoints included, by its path."""
    files = {str(file.relative_to(repo)): file for file in repo.rglob("*") if file.is_file()}
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in files.items()
        if not name.startswith(IGNORED) and "__pycache__" not in name
    }


def format_row(stage: str, outcome: Outcome) -> str:
    """Return the row of the table that describes the kills of a stage."""
    at = ", ".join(f"{share:.0%}" for share in outcome.shares)
    seconds = f"{outcome.seconds:.0f}, {outcome.resumed_seconds:.0f}"
    result = f"other: {' '.join(outcome.differences)}" if outcome.differences else "the same"
    return f"| `{stage}` | {at} | {', '.join(outcome.repairs)} | {seconds} | {result} |"


if __name__ == "__main__":
    main()
