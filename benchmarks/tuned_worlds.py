"""Does a search for hyperparameters find skill where there is none? `python benchmarks/tuned_worlds.py --csv FILE`.

Simulated markets without any predictable move, and some with a planted one, run through the stages up to `compare` with
a model of given hyperparameters and one whose hyperparameters are searched. Planted worlds are searched twice, by TPE
and at random. Worlds that FILE holds are not repeated. No world draws pictures; the reports of guards, canaries and the
embargo's sensitivity are those of the first one.
"""

import argparse
import os
import tempfile
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from null_markets import DATASET, Market, bound_probability, list_models, write_params
from null_worlds import TREE, make_small_params, run_all, share_report, skip_pictures
from scipy import stats

from pipeline import artifacts
from pipeline.reporting import markdown
from pipeline.stages import (
    audit,
    baseline,
    canary,
    compare,
    evaluate,
    featurize,
    fetch,
    guard,
    ingest,
    label,
    sensitivity,
    signals,
    split,
    train,
    tune,
)

TUNED = "lightgbm_tuned"
CLAIM = 0.95  # of the DSR
CHANGES = {  # of params.yaml, for shorter fits
    "trees": {"num_boost_round": 200, "early_stopping_rounds": 20},
    "split": {"groups": 3, "test_groups": 1},  # 3 splits and 1 path
}
SAMPLERS = ("tpe", "random")


def make_blocks(market: Market, *, sampler: str, n_trials: int) -> dict[str, Any]:
    """Return the blocks of params.yaml: one model as it is, and the same plugin with a search."""
    blocks = make_small_params(market)
    blocks["models"]["tuned"] = {TUNED: blocks["disabled_models"]["tuned"][TUNED]}
    for section, changes in CHANGES.items():
        blocks[section] |= changes
    blocks["tune"] |= {"sampler": sampler, "n_trials": n_trials, "n_startup_trials": n_trials // 3, "groups": 2}
    return blocks


def run_world(market: Market, *, reports: Path, sampler: str, n_trials: int) -> list[dict[str, Any]]:
    """Return the results of both models in a market."""
    start, seconds = time.process_time(), {TREE: 0.0}
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        blocks = make_blocks(market, sampler=sampler, n_trials=n_trials)
        write_params(blocks)
        artifacts.write_text(artifacts.LEDGER, "")
        run_all(fetch, ingest, featurize, label, key=DATASET)
        share_report("guard", guard, reports=reports)
        share_report("canary", canary, reports=reports)
        run_all(split, key=DATASET)
        share_report("sensitivity", sensitivity, reports=reports)
        run_all(signals, baseline, key=DATASET)
        begin = time.process_time()
        run_all(tune, key=TUNED)
        seconds[TUNED] = time.process_time() - begin
        for model in list_models(blocks):
            run_all(train, audit, evaluate, key=model)
        run_all(compare, key=DATASET)
        board = artifacts.read_report("compare/details", DATASET)["leaderboard"]
        trials = artifacts.read_report("compare", DATASET)["trials"]
        found = artifacts.read_report("tune", TUNED)
        rows = [
            {
                "model": model,
                "dsr": board[model]["dsr"],
                "sharpe": board[model]["sharpe"],
                "ic": artifacts.read_report("evaluate", model)["ic"],
                "inner_ic": found["splits"]["final"]["ic"] if model == TUNED else np.nan,
                "inner_fits": found["inner_fits"] if model == TUNED else 0,
                "trials": trials,
                "tune_s": seconds[model],
            }
            for model in (TREE, TUNED)
        ]
    common = {"signal": market.signal, "seed": market.seed, "days": market.days, "sampler": sampler}
    return [{**common, **row, "cpu_s": time.process_time() - start} for row in rows]


def extend_file(file: Path, worlds: list[tuple[Market, str]], *, n_trials: int, seconds: float) -> pd.DataFrame:
    """Return the rows of a file after those of the worlds that it lacks; none begins after `seconds` of wall time."""
    start, reports = time.monotonic(), file.with_suffix(".reports")
    table = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["signal", "seed", "sampler"])
    for market, sampler in worlds:
        known = (table["signal"] == market.signal) & (table["seed"] == market.seed) & (table["sampler"] == sampler)
        if known.any() or time.monotonic() - start > seconds:
            continue
        rows = pd.DataFrame(run_world(market, reports=reports, sampler=sampler, n_trials=n_trials))
        table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
        table.to_csv(file, index=False)
        print(f"{market.name}, seed {market.seed}, {sampler}: {rows['cpu_s'].iloc[0]:.0f} s of CPU", flush=True)
    return table


def render_results(table: pd.DataFrame) -> str:
    """Return the results by signal, sampler and model, as means over the worlds."""
    rows = []
    for (signal, sampler, model), part in table.groupby(["signal", "sampler", "model"]):
        passed = int((part["dsr"] >= CLAIM).sum())
        _, high = bound_probability(passed, len(part))
        rows.append(
            [
                f"{signal:g}",
                f"`{model}`" + (f", {sampler}" if model == TUNED else ""),
                f"{passed} of {len(part)} (at most {high:.0%})",
                f"{part['dsr'].max():.2f}",
                f"{part['ic'].mean():.4f}",
                f"{part['inner_ic'].mean():.4f}" if model == TUNED else "",
                f"{part['inner_fits'].mean():.0f}",
                f"{part['tune_s'].mean():.0f}",
            ]
        )
    head = ["signal", "model", f"DSR ≥ {CLAIM:g}", "highest DSR", "IC", "inner IC of the best", "inner fits", "CPU s"]
    return markdown.render_table(head, rows)


def compare_pairs(table: pd.DataFrame, *, value: str) -> list[str]:
    """Return the mean difference tuned - given of a value over the worlds, with Student's interval at 95 %."""
    lines = []
    for (signal, sampler), part in table.groupby(["signal", "sampler"]):
        wide = part.pivot(index="seed", columns="model", values=value)
        difference = (wide[TUNED] - wide[TREE]).dropna()
        if len(difference) > 1:
            low, high = stats.ttest_1samp(difference, 0.0).confidence_interval(0.95)
            lines.append(
                f"signal {signal:g}, {sampler}, {len(difference)} worlds: {value} {difference.mean():+.4f} "
                f"[{low:+.4f}, {high:+.4f}]"
            )
    return lines


def main() -> None:
    """Run the worlds and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, required=True, help="file of the worlds, to which new ones are added")
    parser.add_argument("--nulls", type=int, default=64, help="worlds without a signal")
    parser.add_argument("--signal", type=float, default=0.02, help="planted")
    parser.add_argument("--seeds", type=int, default=6, help="worlds of it")
    parser.add_argument("--days", type=int, default=20, help="of each world")
    parser.add_argument("--trials", type=int, default=9, help="of each search")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which no world begins")
    options = parser.parse_args()
    os.environ |= {"PIPELINE_WORKERS": "1", "TQDM_DISABLE": "1"}
    planted = [Market("simulated", seed, options.days, options.signal) for seed in range(1, options.seeds + 1)]
    nulls = [Market("simulated", seed, options.days) for seed in range(1, options.nulls + 1)]
    worlds = [(market, "tpe") for market in nulls[:1]] + [(market, each) for market in planted for each in SAMPLERS]
    worlds += [(market, "tpe") for market in nulls[1:]]
    with skip_pictures():
        table = extend_file(options.csv.resolve(), worlds, n_trials=options.trials, seconds=options.seconds)
    print(render_results(table))
    for value in ("ic", "sharpe"):
        print("\n".join(compare_pairs(table, value=value)))


if __name__ == "__main__":
    main()
