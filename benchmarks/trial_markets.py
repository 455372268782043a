"""Calibrate the deflated Sharpe ratio on null markets: `python benchmarks/trial_markets.py [bars.parquet] --json FILE`.

Every market runs through the stages: a simulated one without a signal, or real bars whose every sign is drawn anew.
A tree and linear models of three horizons are fitted; what is cheap to change makes up to a thousand trials of them.
The trials of a market are correlated, as those of a search are. Only the development part is traded. Arms, and the
ways of asking, are those of `null_trials.py`. Markets that the file of --json holds are not repeated.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

import null_trials
import numpy as np
import pandas as pd
from null_markets import SLICE, Market, make_params, write_params
from retraded_trials import DATASET, MEASURED, load_sources, make_trials, run_fits

from pipeline import artifacts
from pipeline.evaluation.trials import Trial, describe_market

MODELS, ROUNDS = ("lightgbm",), 40
HORIZONS = (1, 5, 15)
GROUPS = 4  # 6 splits and 3 paths
KINDS = ("simulated", "real")


def run_market(kind: str, seed: int, *, days: int, bars: Path, count: int) -> null_trials.Facts:
    """Return the best DSR of every arm on one market."""
    market = Market(kind, seed, days, file=str(bars) if kind == "real" else None)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        blocks = make_params(market, models=MODELS)
        own = blocks["datasets"][DATASET]["targets"]
        blocks["datasets"][DATASET]["targets"] = {
            f"return_{horizon}": {**own["return_5"], "horizon": horizon} for horizon in HORIZONS
        }
        blocks["models"] = {"trees": blocks["models"]["trees"]}
        blocks["trees"] = {"num_boost_round": ROUNDS, "early_stopping_rounds": ROUNDS}
        blocks["split"]["groups"] = GROUPS
        write_params(blocks)
        run_fits(blocks)
        clean = pd.read_parquet(artifacts.CLEAN / f"{DATASET}.parquet")
        found = describe_market(*(clean[name].to_numpy() for name in ("symbol", "open_time", "close")))
        rng = np.random.default_rng([seed, KINDS.index(kind)])
        made = make_trials(load_sources(blocks), found, count=count, rng=rng)
    return {"kind": kind, "seed": seed, "null": assess_arms(made), "edge": {}, **describe_trials(made)}


def assess_arms(made: Sequence[Trial]) -> dict[str, null_trials.Facts]:
    """Return the best DSR of every arm that has trials enough, the first of each."""
    return {
        arm: null_trials.assess_arm(made[:count], null_trials.read_k(arm))
        for arm, count in null_trials.ARMS.items()
        if count <= len(made)
    }


def describe_trials(made: Sequence[Trial]) -> null_trials.Facts:
    """Return how far the trials agree with one another, and how much they trade."""
    daily = np.array([trial.daily for trial in made[:MEASURED]], np.float64)
    daily = daily[np.ptp(daily, axis=1) > 0]
    correlation = np.corrcoef(daily)
    sufficient = [trial.sample.is_sufficient for trial in made]
    z = [trial.sample.sharpe / trial.sample.error for trial in made if trial.sample.is_sufficient]
    return {
        "correlation": float(np.abs(correlation[np.triu_indices(len(daily), 1)]).mean()),
        "sufficient": float(np.mean(sufficient)),
        "t_statistics": np.quantile(z, [0.0, 0.05, 0.5, 0.95, 1.0]).tolist(),
    }


def main() -> None:
    """Run the markets and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bars", nargs="?", type=Path, default=SLICE, help="real klines")
    parser.add_argument("--markets", type=int, default=32, help="of either kind")
    parser.add_argument("--days", type=int, default=20, help="of each market")
    parser.add_argument("--count", type=int, default=1000, help="trials of each market")
    parser.add_argument("--seconds", type=float, default=np.inf, help="after which no market is started")
    parser.add_argument("--json", type=Path, required=True, help="file of the markets, to which new ones are added")
    options = parser.parse_args()
    os.environ |= {"PIPELINE_WORKERS": "1"}
    keys = [{"kind": kind, "seed": seed} for seed in range(1, options.markets + 1) for kind in KINDS]
    settings = {"days": options.days, "bars": options.bars.resolve(), "count": options.count}
    worlds = null_trials.extend_worlds(
        options.json.resolve(), keys, lambda key: run_market(**key, **settings), seconds=options.seconds
    )
    for kind in KINDS:
        own = [world for world in worlds if world["kind"] == kind]
        correlation = np.mean([world["correlation"] for world in own])
        print(f"{kind}: {len(own)} markets, mean absolute correlation of daily returns {correlation:.2f}\n")
        print(null_trials.render_nulls(own) + "\n")
    print("both\n\n" + null_trials.render_nulls(worlds))


if __name__ == "__main__":
    main()
