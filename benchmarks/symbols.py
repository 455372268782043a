"""Measure memory and time of the stages on a market of many symbols: `python benchmarks/symbols.py --days 10 30`.

For each number of days, the simulated market of params.yaml gets that many symbols and days, and each stage runs by
itself in a temporary folder, one fit at a time. Printed are the CPU seconds and the peak of the resident memory of its
process, imports included, and a line through the largest two numbers of days at a year of minutes. It is no measurement
of a year: it holds as far as time and memory are linear in the rows.

Fewer folds, rounds and cuts than in params.yaml shorten the time: purged k-fold, one model, --rounds, --cuts. Memory
does not depend on rounds or cuts; seconds do.
"""

import argparse
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
DATASET, MODEL = "klines", "lightgbm"
STAGES = {
    **dict.fromkeys(("fetch", "ingest", "featurize", "label", "guard", "split", "signals", "baseline"), DATASET),
    **dict.fromkeys(("train", "audit", "evaluate"), MODEL),
}
BARS_A_DAY, YEAR_DAYS = 1440, 365
CROSS_SECTION = {"windows": [1, 15], "beta_window": 240}
MIB = 1024


def make_params(folder: Path, *, days: int, symbols: int, groups: int, rounds: int, cuts: int) -> None:
    """Write params.yaml of the simulated market with these symbols and days, and of one model on it."""
    blocks = yaml.safe_load((ROOT / "params.yaml").read_text())
    blocks["sources"]["simulated"] |= {"days": days, "symbols": [f"SIM{n:03}USDT" for n in range(symbols)]}
    blocks["datasets"][DATASET]["features"]["cross_section"] = CROSS_SECTION
    target = blocks["models"]["trees"][MODEL]["target"]
    blocks["datasets"][DATASET]["targets"] = {target: blocks["datasets"][DATASET]["targets"][target]}
    blocks["models"] = {"trees": {MODEL: blocks["models"]["trees"][MODEL]}}
    blocks["trees"]["num_boost_round"], blocks["guard"]["cuts"] = rounds, cuts
    blocks["split"] |= {"method": "purged_kfold", "groups": groups}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(blocks, sort_keys=False))


def run_stage(stage: str, folder: Path) -> tuple[float, float]:
    """Return the CPU seconds and the peak memory (MiB) of one stage in a folder, all fits in its own process.

    Raises:
        RuntimeError: the stage fails; it has the stage's messages.
    """
    log = folder / f"{stage}.log"
    with log.open("w") as target:
        process = subprocess.Popen(
            [sys.executable, "-m", f"pipeline.stages.{stage}", STAGES[stage]],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PIPELINE_WORKERS": "1"},
            stdout=target,
            stderr=target,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{stage} fails in {folder}:\n{log.read_text()}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / MIB


def extrapolate(measured: Sequence[tuple[int, float]], days: int) -> float:
    """Return the value at a number of days of the line through the last two of (days, value)."""
    (before, low), (last, high) = measured[-2:]
    return high + (high - low) / (last - before) * (days - last)


def main() -> None:
    """Print the Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, nargs="+", default=[10, 30], help="ascending, two at least")
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--groups", type=int, default=3, help="of the purged k-fold")
    parser.add_argument("--rounds", type=int, default=20, help="trees of a fit")
    parser.add_argument("--cuts", type=int, default=4, help="of the guard")
    parser.add_argument("--folder", type=Path, help="where the tables stay, and where a later call finds them")
    given = parser.parse_args()
    if len(given.days) < 2:
        parser.error("give two numbers of days or more: the year is extrapolated from the last two")
    folder = given.folder or Path(tempfile.mkdtemp())
    found: dict[str, list[tuple[int, float, float]]] = {stage: [] for stage in given.stages}
    sizes = {"symbols": given.symbols, "groups": given.groups, "rounds": given.rounds, "cuts": given.cuts}
    try:
        for days in given.days:
            place = folder / f"{given.symbols}_{days}"
            make_params(place, days=days, **sizes)
            for stage in given.stages:
                seconds, mib = run_stage(stage, place)
                found[stage].append((days, seconds, mib))
                print(days, stage, f"{seconds:.1f} s, {mib:,.0f} MiB", file=sys.stderr, flush=True)
    finally:
        if not given.folder:
            shutil.rmtree(folder)
    lines = []
    for stage, runs in found.items():
        year = [extrapolate([(run[0], run[k]) for run in runs], YEAR_DAYS) for k in (1, 2)]
        cells = [f"{seconds:,.0f} s, {mib:,.0f} MiB" for _, seconds, mib in runs]
        lines.append([f"`{stage}`", *cells, f"{year[0]:,.0f} s, {year[1]:,.0f} MiB"])
    heads = [f"{days} days, {days * given.symbols * BARS_A_DAY:,} rows" for days in given.days]
    print(markdown.render_table(["stage", *heads, "a year, extrapolated"], lines))


if __name__ == "__main__":
    main()
