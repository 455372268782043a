"""Kill `dvc repro` at random instants, repair and resume it: `python -m benchmarks.kills [--folder FOLDER] [--seed 0]`.

The small market of the tests runs once. Then, stage by stage: its results are forgotten, on disk, in dvc.lock (also the
one in git), in the run cache and in the cache. It runs once undisturbed, is forgotten again, and its whole process
group is killed by SIGKILL at an instant drawn uniformly over the time that the stage took. Then `dvc repro` runs again;
where DVC refuses, it is first repaired as README.md says. All files, dvc.lock included, must be those of the
undisturbed run, byte for byte, without a draft or a checkpoint left behind. Seconds lost are those that the killed and
the resumed run took together beyond the undisturbed one.
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
from statistics import median

import yaml

from tests.small_repository import command, commit, copy, surroundings

KILLS = {  # of each stage
    "fetch@klines": 1,
    "featurize@klines": 2,
    "label@klines": 2,
    "split@klines": 1,
    "signals@klines": 2,
    "baseline@klines": 2,
    "train_trees@lightgbm": 4,
    "train_nets@lstm": 5,
    "train_agents@marl": 5,
    "evaluate_trees@lightgbm": 4,
    "evaluate_nets@lstm": 4,
    "evaluate_agents@marl": 4,
    "compare@klines": 2,
    "export_trees@lightgbm": 4,
    "export_nets@lstm": 4,
    "export_agents@marl": 4,
}
IGNORED = (".git/", ".dvc/", "trained/measured/")  # `measured` has seconds and megabytes
STARTED = "Running stage"
WORKERS = {"PIPELINE_WORKERS": "2"}


@dataclass(frozen=True)
class Outcome:
    """What one kill ended in."""

    at: float  # the share of the stage's time after which it was killed
    repairs: tuple[str, ...]  # files of DVC that had to be repaired
    lost_seconds: float
    differences: tuple[str, ...]  # paths whose bytes are not those of the undisturbed run


def main() -> None:
    """Kill every stage as often as KILLS says, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a small repository whose pipeline has run; made where not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="+", choices=KILLS, default=list(KILLS))
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        repo = arguments.folder or make_repository(Path(folder) / "repo")
        sys.stdout.write(
            "| stage | kills, at | `dvc.lock` repaired | seconds undisturbed | lost, median, max | same bytes |\n"
        )
        sys.stdout.write("|---|---|---|---|---|---|\n")
        found = {}
        for stage in arguments.stages:
            seconds, found[stage] = kill_stage(repo, stage, kills=KILLS[stage], rng=rng)
            sys.stdout.write(format_row(stage, seconds, found[stage]) + "\n")
            sys.stdout.flush()
        every = [outcome for outcomes in found.values() for outcome in outcomes]
        sys.stdout.write(f"{len(every)} kills, {sum(not each.differences for each in every)} with the same bytes\n")
        command(repo, "dvc", "status")


def make_repository(folder: Path) -> Path:
    """Return a small repository whose pipeline has run."""
    folder.mkdir()
    copy(folder)
    command(folder, "dvc", "repro", **WORKERS)
    commit(folder, "The pipeline has run")
    return folder


def kill_stage(repo: Path, stage: str, *, kills: int, rng: random.Random) -> tuple[float, list[Outcome]]:
    """Return the seconds that a stage takes undisturbed, and what each kill ended in."""
    forget(repo, stage)
    start, running, end = run(repo, stage)
    expected, outcomes = hash_files(repo), list[Outcome]()
    while len(outcomes) < kills:
        share = rng.random()
        forget(repo, stage)
        began, _, killed = run(repo, stage, kill_after=share * (end - running))
        repairs = resume(repo, stage)
        lost = (killed - began) + (time.monotonic() - killed) - (end - start)
        after = hash_files(repo)
        different = tuple(
            sorted(file for file in after.keys() | expected.keys() if after.get(file) != expected.get(file))
        )
        outcomes.append(Outcome(share, repairs, lost, different))
    return end - running, outcomes


def run(repo: Path, stage: str, *, kill_after: float | None = None) -> tuple[float, float, float]:
    """Return when DVC started, when the stage began, and when all ended, killed `kill_after` seconds after it began."""
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", stage],
        cwd=repo,
        env=surroundings({**WORKERS, "PYTHONUNBUFFERED": "1"}),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(STARTED):
            assert stage in line, f"instead of {stage}: {line}"
            break
    running = time.monotonic()
    if kill_after is not None:
        time.sleep(kill_after)
        os.killpg(process.pid, signal.SIGKILL)
    process.stdout.read()
    status = process.wait()
    assert kill_after is not None or status == 0, f"{stage} failed"
    return start, running, time.monotonic()


def resume(repo: Path, stage: str) -> tuple[str, ...]:
    """Run `dvc repro` as after a kill, and where DVC refuses repair its files first; return which it were."""
    words = [sys.executable, "-m", "dvc", "repro", stage]
    done = subprocess.run(words, cwd=repo, env=surroundings(WORKERS), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ()
    repairs = tuple(name for name in ("dvc.lock", "rwlock") if name in done.stderr)
    assert repairs, done.stdout + done.stderr
    command(repo, "git", "checkout", "dvc.lock")
    (repo / ".dvc/tmp/rwlock").unlink(missing_ok=True)
    command(repo, *words, **WORKERS)
    return repairs


def forget(repo: Path, stage: str) -> None:
    """Remove the results of a stage wherever DVC could find them again, and commit a dvc.lock without them."""
    lock = yaml.safe_load((repo / "dvc.lock").read_text())
    for out in lock["stages"].pop(stage)["outs"]:
        path, cached = repo / out["path"], locate_cached(repo, out["md5"])
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if cached.suffix == ".dir" and cached.exists():
            for entry in json.loads(cached.read_text()):
                locate_cached(repo, entry["md5"]).unlink(missing_ok=True)
        cached.unlink(missing_ok=True)
    (repo / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    shutil.rmtree(repo / ".dvc/cache/runs", ignore_errors=True)
    commit(repo, f"Without {stage}")


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


def format_row(stage: str, seconds: float, outcomes: list[Outcome]) -> str:
    """Return the row of the table that describes the kills of a stage."""
    at = ", ".join(f"{outcome.at:.0%}" for outcome in sorted(outcomes, key=lambda outcome: outcome.at))
    lost = [outcome.lost_seconds for outcome in outcomes]
    repaired = sum("dvc.lock" in outcome.repairs for outcome in outcomes)
    same = sum(not outcome.differences for outcome in outcomes)
    different = sorted({file for outcome in outcomes for file in outcome.differences})
    row = f"| `{stage}` | {len(outcomes)}: {at} | {repaired} | {seconds:.0f} | {median(lost):.0f}, {max(lost):.0f} |"
    return f"{row} {same} of {len(outcomes)} {' '.join(different)}|"


if __name__ == "__main__":
    main()
