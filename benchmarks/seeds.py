"""Measure the luck of a seed: `python benchmarks/seeds.py [bars.parquet]`, hours for all models of params.yaml.

Every model is fitted on every split once for each seed, on the simulated market and on real bars. Printed are its
figures as median and range over the seeds, and for models that are neighbors in the ranking whether the choice of the
seed moves the Sharpe ratio further than what separates them. Finished fits stay in the folder of --folder, from which
the next call goes on. Without an argument, the bars are the real slice in ../shared/data.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline import artifacts, config
from pipeline.evaluation.performance import find_median_path
from pipeline.evaluation.voting import list_fitted
from pipeline.reporting import markdown

ROOT = Path(__file__).resolve().parents[1]
SLICE = ROOT.parent / "shared" / "data" / "BTCUSDT_1m_2024-01-01_90d.parquet"
DATASET = "klines"
SHARED = ("data", "trained/baselines", "trained/reports/featurize", "trained/reports/sensitivity")  # by all seeds
FIGURES = {  # of a model and a seed: header and format by name
    "ic": ("IC", "{:.3f}"),
    "sharpe": ("Sharpe", "{:.1f}"),
    "net_return": ("net return", "{:.1%}"),
    "dsr": ("DSR", "{:.2f}"),
    "rank": ("rank", "{:.0f}"),
}

PREPARED = ("fetch", "ingest", "featurize", "label", "guard", "split", "baseline", "sensitivity")  # before the fits

Figures = dict[str, float]  # the figures of one model and one seed; NaN where undefined


def make_params(bars: Path | None, changes: Sequence[str]) -> dict[str, Any]:
    """Return the blocks of params.yaml for the simulated market, or for the real `bars`, with `changes` key=value."""
    blocks: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    if bars is not None:
        digest = hashlib.sha256(bars.read_bytes()).hexdigest()
        blocks["datasets"][DATASET]["source"] = "file"
        blocks["sources"]["file"] |= {"path": str(bars.resolve()), "sha256": digest, "symbol": "REAL"}
    for change in changes:
        path, _, value = change.partition("=")
        parent, _, key = path.rpartition(".")
        section = config.look_up(blocks, parent) if parent else blocks
        if key not in section:
            raise ValueError(f"params.yaml has no {path}; {parent or 'the file'} has {', '.join(section)}")
        section[key] = yaml.safe_load(value)
    return blocks


def select_models(blocks: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the blocks with these models alone, by default all that are fitted.

    Raises:
        ValueError: a model is unknown, of another dataset, or not fitted.
    """
    known = [name for name, block in list_fitted(blocks) if block["dataset"] == DATASET]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"there is no model {', '.join(unknown)}; {DATASET} has {', '.join(known)}")
    wanted = names or known
    models = {
        family: {name: block for name, block in (members or {}).items() if name in wanted}
        for family, members in blocks["models"].items()
    }
    return {**blocks, "models": models}


def prepare_market(folder: Path, blocks: Mapping[str, Any]) -> None:
    """Run the stages before the fits in `folder`, once; ValueError where it holds a market of other params."""
    folder.mkdir(parents=True, exist_ok=True)
    file, text = folder / "params.yaml", yaml.safe_dump(dict(blocks), sort_keys=False)
    if file.exists() and file.read_text() != text:
        raise ValueError(f"{folder} holds results of other params; name another --folder")
    file.write_text(text)
    if not (folder / artifacts.report_path(PREPARED[-1], DATASET)).exists():
        for stage in PREPARED:
            run_stage(folder, stage, DATASET)


def run_stage(folder: Path, stage: str, key: str) -> None:
    """Run a stage of this checkout in `folder`; a process of its own, since workers stay where they were started."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {"TQDM_DISABLE": "1", **os.environ, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-m", f"pipeline.stages.{stage}", key], cwd=folder, env=environment, check=True)


def measure_seed(market: Path, blocks: Mapping[str, Any], *, seed: int) -> dict[str, Figures]:
    """Return the figures of every model of the blocks, fitted with this seed; what exists is not fitted again."""
    folder = market / f"seed_{seed}"
    for part in SHARED:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / part).exists():
            (folder / part).symlink_to(market.resolve() / part)
    (folder / "params.yaml").write_text(yaml.safe_dump({**blocks, "seeds": [seed]}, sort_keys=False))
    names = [name for members in blocks["models"].values() for name in members]
    for name in names:
        if not (folder / artifacts.MODELS / name).exists():  # the last that a training writes
            run_stage(folder, "train", name)
        if not all((folder / file).exists() for file in list_evaluated(name)):
            run_stage(folder, "audit", name)
            run_stage(folder, "evaluate", name)
    run_stage(folder, "compare", DATASET)
    return read_figures(folder, names)


def list_evaluated(name: str) -> tuple[Path, Path]:
    """Return the results of an evaluation that this script needs."""
    return artifacts.RETURNS / f"{name}.parquet", artifacts.report_path("evaluate/details", name)


def read_figures(folder: Path, names: Sequence[str]) -> dict[str, Figures]:
    """Return the figures of models from the reports in `folder`."""
    board = artifacts.read_json(folder / artifacts.report_path("compare/details", DATASET))["leaderboard"]
    ranks = {name: rank for rank, name in enumerate(board, start=1)}
    found = {}
    for name in names:
        paths = artifacts.read_json(folder / list_evaluated(name)[1])["model"]["paths"]
        sharpes = np.array([path.get("sharpe") for path in paths], np.float64)
        values = {
            "ic": np.mean([path["ic"] for path in paths]),
            "sharpe": sharpes[find_median_path(sharpes)],
            "net_return": paths[find_median_path(sharpes)].get("net_return"),
            "dsr": board.get(name, {}).get("dsr"),
            "rank": ranks.get(name),
        }
        found[name] = {key: float("nan") if value is None else float(value) for key, value in values.items()}
    return found


def render_figures(of_seeds: Mapping[int, Mapping[str, Figures]]) -> str:
    """Return a table of markdown: for each model the median of each figure over the seeds, and its range."""
    rows = (
        [f"`{name}`", *(format_range(take(of_seeds, name, figure), FIGURES[figure][1]) for figure in FIGURES)]
        for name in rank_models(of_seeds)
    )
    return markdown.render_table(["model", *(header for header, _ in FIGURES.values())], rows)


def render_neighbors(of_seeds: Mapping[int, Mapping[str, Figures]]) -> str:
    """Return a table of markdown: the gap of the median Sharpe ratios of neighbors, and the larger of their ranges."""
    rows = []
    for better, worse in pairwise(rank_models(of_seeds)):
        sharpes = [take(of_seeds, name, "sharpe") for name in (better, worse)]
        gap, spread = np.median(sharpes[0]) - np.median(sharpes[1]), max(np.ptp(each) for each in sharpes)
        verdict = "the seed" if spread > gap else "the model" if spread <= gap else "undefined"
        rows.append([f"`{better}`, `{worse}`", f"{gap:.1f}", f"{spread:.1f}", verdict])
    head = ["neighbors", "gap of the median Sharpe ratios", "larger range over seeds", "what matters more"]
    return markdown.render_table(head, rows)


def rank_models(of_seeds: Mapping[int, Mapping[str, Figures]]) -> list[str]:
    """Return the models by their median Sharpe ratio, the highest first; those without one last."""
    medians = {name: float(np.median(take(of_seeds, name, "sharpe"))) for name in next(iter(of_seeds.values()))}
    return sorted(medians, key=lambda name: (np.isnan(medians[name]), -medians[name]))


def take(of_seeds: Mapping[int, Mapping[str, Figures]], name: str, figure: str) -> np.ndarray:
    """Return one figure of a model for every seed."""
    return np.array([models[name][figure] for models in of_seeds.values()])


def format_range(values: np.ndarray, pattern: str) -> str:
    """Return for example `0.22 (0.21–0.24)`, or a dash where a value is undefined."""
    if np.isnan(values).any():
        return "–"
    middle, low, high = (pattern.format(value) for value in (np.median(values), values.min(), values.max()))
    return f"{middle} ({low}–{high})"


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bars", nargs="?", type=Path, default=SLICE if SLICE.exists() else None, help="real klines")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--models", nargs="+", default=[], help=f"of params.yaml; all of {DATASET} by default")
    parser.add_argument("--markets", nargs="+", choices=["simulated", "real"], default=["simulated", "real"])
    parser.add_argument("--folder", type=Path, help="that keeps finished fits; a temporary one by default")
    parser.add_argument("-S", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="as `dvc exp run`")
    return parser.parse_args()


def run_market(folder: Path, bars: Path | None, options: argparse.Namespace) -> dict[int, dict[str, Figures]]:
    """Return the figures of every seed and model on the simulated market, or on `bars`."""
    blocks = make_params(bars, options.changes)
    chosen = select_models(blocks, options.models)
    prepare_market(folder, blocks)
    return {seed: measure_seed(folder, chosen, seed=seed) for seed in options.seeds}


def main() -> None:
    """Print the tables of both markets."""
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as temporary:
        for market in options.markets:
            bars = options.bars if market == "real" else None
            if market == "real" and bars is None:
                print("no real bars: none given, and ../shared/data does not exist")
                continue
            found = run_market((options.folder or Path(temporary)) / market, bars, options)
            print(f"{market}, seeds {', '.join(map(str, options.seeds))}: median (range over seeds)\n")
            print(render_figures(found), end="\n\n")
            print(render_neighbors(found), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
