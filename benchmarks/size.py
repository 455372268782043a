"""Measure seconds and memory of the stages that read whole tables: `python benchmarks/size.py [--rows 130000 4350000]`.

For each number of bars, the simulated market of params.yaml is made that long, and each stage runs by itself in a
temporary folder. Printed are the CPU seconds (user and system) and the peak of the resident memory, both over those of
the imports. With `--folder` the tables stay there, and a call with `--stages` starts from them. The processes of a
stage's workers count for the seconds, not for the memory.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from pipeline.reporting import markdown

ROOT = Path(__file__).resolve().parents[1]
DATASET = "klines"
STAGES = ("fetch", "ingest", "featurize", "label", "guard", "split")
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


def make_params(folder: Path, *, days: int, symbols: int) -> None:
    """Write params.yaml of the simulated market with this many days, divided among its symbols."""
    blocks = yaml.safe_load((ROOT / "params.yaml").read_text())
    names = ["BTCUSDT", *(f"SIM{n}USDT" for n in range(1, symbols))]
    blocks["sources"]["simulated"] |= {"days": -(-days // symbols), "start": START, "symbols": names}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(blocks, sort_keys=False))


def run_stage(stage: str, folder: Path) -> tuple[float, float]:
    """Return the CPU seconds and the MiB over the imports of one stage in a folder.

    Raises:
        RuntimeError: the stage fails; it has the stage's messages.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, stage, DATASET],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{stage} fails in {folder}:\n{done.stderr}")
    seconds, mib = json.loads(done.stdout.splitlines()[-1])
    return seconds, mib


def measure_size(folder: Path, *, rows: int, symbols: int, stages: Sequence[str]) -> list[list[str]]:
    """Return the rows of the table for one number of bars."""
    make_params(folder, days=max(1, round(rows / BARS_A_DAY)), symbols=symbols)
    lines = []
    for stage in stages:
        seconds, mib = run_stage(stage, folder)
        lines.append([f"{rows:,}", f"`{stage}`", f"{seconds:.1f}", f"{mib:,.0f}"])
        print(*lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> None:
    """Print the Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[130_000, 500_000, 1_050_000, 4_350_000])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--symbols", type=int, default=1, help="among which the bars are divided")
    parser.add_argument("--folder", type=Path, help="where the tables stay; one folder for each number of bars")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    try:
        if not given.folder:
            measure_size(folder / "first", rows=FIRST_DAYS * BARS_A_DAY, symbols=1, stages=given.stages)
        lines = []
        for rows in given.rows:
            place = folder / f"{rows}_{given.symbols}"
            lines += measure_size(place, rows=rows, symbols=given.symbols, stages=given.stages)
    finally:
        if not given.folder:
            shutil.rmtree(folder)
    print(markdown.render_table(["rows", "stage", "seconds", "MiB over the imports"], lines))


if __name__ == "__main__":
    main()
