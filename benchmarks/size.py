"""Measure seconds and memory of the stages that read whole tables: `python benchmarks/size.py [--rows 130000 4350000]`.

For each number of bars, the simulated market of params.yaml is made that long, and each stage runs by itself in a
temporary folder. Printed are the CPU seconds (user and system) of all its processes and the peak of the resident memory
of its first one, both over those of the imports, and the peak of all processes together, imports included. That is
sampled, and a page that processes share counts once. With `--folder` the tables stay there, and a call with `--stages`
starts from them. Folds are those of `purged_kfold` with `--groups`, fits are those of `--model` with `--boost-rounds`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import yaml

from pipeline.reporting import markdown

ROOT = Path(__file__).resolve().parents[1]
DATASET = "klines"
STAGES = ("fetch", "ingest", "featurize", "label", "guard", "canary", "split", "signals", "baseline", "train")
SAMPLE_S = 0.25  # between two looks at the memory of all processes
BARS_A_DAY, START = 1440, "2016-01-01"
FIRST_DAYS = 10  # of a run that is not measured: numba compiles what is not in its cache

MEASURE = """
import importlib, json, resource, sys
stage = importlib.import_module(f"pipeline.stages.{sys.argv[1]}")
for part in ("clock", "featurize", "fetch", "guard", "ingest", "label"):
    importlib.import_module(f"pipeline.datasets.klines.{part}")
importlib.import_module("pipeline.market.simulated")

def measure():
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usage), usage[0].ru_maxrss / 1024

seconds, mib = measure()
stage.main(sys.argv[2])
print(json.dumps([a - b for a, b in zip(measure(), (seconds, mib))]))
"""


def make_params(folder: Path, *, days: int, symbols: int, groups: int, boost_rounds: int) -> None:
    """Write params.yaml of the simulated market with this many days, divided among its symbols, and of the fits."""
    blocks = yaml.safe_load((ROOT / "params.yaml").read_text())
    names = ["BTCUSDT", *(f"SIM{n}USDT" for n in range(1, symbols))]
    blocks["sources"]["simulated"] |= {"days": -(-days // symbols), "start": START, "symbols": names}
    blocks["split"] |= {"method": "purged_kfold", "groups": groups, "test_groups": 1}
    blocks["trees"] |= {"num_boost_round": boost_rounds, "early_stopping_rounds": boost_rounds}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(blocks, sort_keys=False))


def run_stage(stage: str, folder: Path, *, argument: str) -> tuple[float, float, float]:
    """Return the CPU seconds and MiB over the imports of one stage in a folder, and the MiB of all its processes.

    Raises:
        RuntimeError: the stage fails; it has the stage's messages.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", MEASURE, stage, argument],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    peak, has_ended = [0.0], threading.Event()

    def sample() -> None:
        while not has_ended.wait(SAMPLE_S):
            peak[0] = max(peak[0], measure_session(process.pid))

    watcher = threading.Thread(target=sample)
    watcher.start()
    output, messages = process.communicate()
    has_ended.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{stage} fails in {folder}:\n{messages}")
    seconds, mib = json.loads(output.splitlines()[-1])
    return seconds, mib, peak[0]


def measure_session(session: int) -> float:
    """Return the MiB of all processes of a session; of a page that n processes share, each has an nth part."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                total += int((folder / "smaps_rollup").read_text().split("Pss:")[1].split()[0])
    return total / 1024


def measure_size(
    folder: Path, *, rows: int, symbols: int, groups: int, boost_rounds: int, stages: Sequence[str], model: str
) -> list[list[str]]:
    """Return the rows of the table for one number of bars."""
    days = max(1, round(rows / BARS_A_DAY))
    make_params(folder, days=days, symbols=symbols, groups=groups, boost_rounds=boost_rounds)
    lines = []
    for stage in stages:
        seconds, own, together = run_stage(stage, folder, argument=model if stage == "train" else DATASET)
        lines.append([f"{rows:,}", f"`{stage}`", f"{seconds:.1f}", f"{own:,.0f}", f"{together:,.0f}"])
        print(*lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> None:
    """Print the Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[130_000, 500_000, 1_050_000, 4_350_000])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--symbols", type=int, default=1, help="among which the bars are divided")
    parser.add_argument("--groups", type=int, default=4, help="of purged_kfold")
    parser.add_argument("--boost-rounds", type=int, default=20, help="of each fit, at most")
    parser.add_argument("--model", default="lightgbm", help="that the stage train fits")
    parser.add_argument("--folder", type=Path, help="where the tables stay; one folder for each number of bars")
    given = parser.parse_args()
    fits = {name: getattr(given, name) for name in ("groups", "boost_rounds", "stages", "model")}
    folder = given.folder or Path(tempfile.mkdtemp())
    try:
        if not given.folder:
            measure_size(folder / "first", rows=FIRST_DAYS * BARS_A_DAY, symbols=1, **fits)
        lines = []
        for rows in given.rows:
            place = folder / f"{rows}_{given.symbols}"
            lines += measure_size(place, rows=rows, symbols=given.symbols, **fits)
    finally:
        if not given.folder:
            shutil.rmtree(folder)
    head = ["rows", "stage", "seconds", "MiB over the imports", "MiB of all processes"]
    print(markdown.render_table(head, lines))


if __name__ == "__main__":
    main()
