"""Calibration: `python benchmarks/null_worlds.py [bars.parquet]`, the whole line on worlds whose truth is known.

Null worlds, simulated ones and real bars whose every sign is drawn anew, tell how often the line finds what is not
there; simulated worlds with a signal tell how often it finds what is. Every world is traded twice on the same fits: at
the costs of params.yaml, where many models never trade, and free of costs, where all do. Intervals are exact 95 %
binomial ones (Clopper & Pearson 1934). The bars are the given ones, else the real slice in ../shared/data.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import chdir
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.stats import binomtest

from pipeline import pages
from pipeline.bars import interval_ms
from pipeline.leakage.findings import LeakageError
from pipeline.stages import baseline, compare, evaluate, featurize, fetch, guard, ingest, label, probe, split, train

ROOT = Path(__file__).resolve().parents[1]
SLICE = ROOT.parent / "shared" / "data" / "BTCUSDT_1m_2024-01-01_90d.parquet"
DATASET = "klines"
BLOCK_BARS = 60  # stay together, so that volatility clusters within them as it did
SETTINGS = {"costs of params": {}, "no costs": {"fee_bps": 0.0, "slippage_bps": 0.0, "band": 0.0}}
CONFIDENCE = 0.95
FIGURES = ("dsr", "dsr_effective", "psr", "holdout_psr")  # probabilities, of the leaderboard

Outcome = dict[str, Any]


@dataclass(frozen=True)
class World:
    """A market to run the line on."""

    kind: str  # "simulated", or "real": the bars of `file` made null
    seed: int
    days: int
    signal: float = 0.0  # share of the next bar's variance that is predictable
    file: str | None = None

    @property
    def name(self) -> str:
        """What worlds of the same truth have in common."""
        return f"simulated, signal {self.signal:g}" if self.kind == "simulated" else "real bars made null"


def drawn(bars: int, *, length: int, block_bars: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(rows, mirrored), both (length,): blocks of `bars` in random order, none twice, and a fair coin for each bar."""
    blocks = rng.permutation(bars // block_bars)[: -(-length // block_bars)]
    rows = (block_bars * blocks[:, None] + np.arange(block_bars)).ravel()[:length]
    if len(rows) < length:
        raise ValueError(f"null world: {length} bars wanted of {bars}, in whole blocks of {block_bars}; ask fewer days")
    return rows, rng.random(length) < 0.5


def made_null(bars: pd.DataFrame, rows: np.ndarray, mirrored: np.ndarray) -> pd.DataFrame:
    """Klines of the bars `rows` one after another, those `mirrored` upside down; each opens where the last one closed.

    A bar keeps its prices relative to its open. Upside down, a simple return m becomes -m exactly, high and low change
    places, and what takers bought they sold. With fair coins a bar's move has a mean of 0 given all bars before it:
    its size can be foreseen, its sign cannot. Volumes, in base units, and times are not turned.
    """
    old = {name: bars[name].to_numpy(np.float64)[rows] for name in bars.columns if bars[name].dtype.kind in "if"}
    rise, reach, depth = (old[name] / old["open"] - 1 for name in ("close", "high", "low"))
    path = np.cumprod(np.append(old["open"][:1], 1 + np.where(mirrored, -rise, rise)))  # (length + 1,)
    opens, close = path[:-1], path[1:]
    buys, buys_quote = old["taker_buy_base"], old["taker_buy_quote"]
    taken = np.where(mirrored, np.maximum(old["volume"] - buys, 0.0), buys)
    taken_quote = np.where(mirrored, np.maximum(old["quote_volume"] - buys_quote, 0.0), buys_quote)
    bar_ms = interval_ms(bars)
    time_ms = int(bars["open_time"].iloc[0]) + bar_ms * np.arange(len(rows))
    return pd.DataFrame(
        {
            "open_time": time_ms,
            "open": opens,
            "high": opens * (1 + np.where(mirrored, -depth, reach)),
            "low": opens * (1 + np.where(mirrored, -reach, depth)),
            "close": close,
            "volume": old["volume"],
            "close_time": time_ms + bar_ms - 1,
            "quote_volume": opens * turned(old["volume"], old["quote_volume"] / old["open"], mirrored),
            "trades": bars["trades"].to_numpy()[rows],
            "taker_buy_base": taken,
            "taker_buy_quote": opens * turned(taken, taken_quote / old["open"], mirrored),
        }
    )


def turned(amount: np.ndarray, paid: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """What is paid for `amount`, in opens, where a mean price of 1 + d has become 1 - d in the bars `mirrored`."""
    return np.where(mirrored, 2 * amount - paid, paid)


def params_of(world: World, *, models: Sequence[str]) -> dict[str, Any]:
    """The blocks of params.yaml for a world, its real bars written to the current folder and pinned."""
    blocks: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    blocks["models"] = {name: block for name, block in blocks["models"].items() if name in models}
    blocks["datasets"][DATASET]["source"] = "simulated" if world.file is None else "file"
    if world.file is None:
        blocks["sources"]["simulated"] |= {"days": world.days, "signal": world.signal, "seed": world.seed}
        return blocks
    bars, rng = pd.read_parquet(world.file), np.random.default_rng(world.seed)
    length = world.days * 86_400_000 // interval_ms(bars)
    file = Path("bars.parquet")
    made_null(bars, *drawn(len(bars), length=length, block_bars=BLOCK_BARS, rng=rng)).to_parquet(file, index=False)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    blocks["sources"]["file"] |= {"path": str(file), "sha256": digest, "symbol": "NULL"}
    return blocks


def run(world: World, models: Sequence[str]) -> list[Outcome]:
    """What the line says of a world, in every setting; it runs in a folder of its own."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        blocks = params_of(world, models=models)
        alarms = fitted(blocks)
        results = [{} if alarms else traded(blocks, costs) for costs in SETTINGS.values()]
        found = {"alarms": alarms, "warnings": warnings()}
    common = {"world": world.name, **asdict(world), **found, "seconds": time.perf_counter() - start}
    return [{"setting": setting, **common, **result} for setting, result in zip(SETTINGS, results, strict=True)]


def fitted(blocks: dict[str, Any]) -> list[str]:
    """The line up to the fits has run in the current folder; the guards that stopped it, if any did."""
    write(blocks)
    try:
        for stage in (fetch, ingest, featurize, label, guard, split, baseline, probe):
            stage.main(DATASET)
        for model in blocks["models"]:
            train.main(model)
    except LeakageError as error:
        return [line.split(":")[0] for line in str(error).splitlines()]
    return []


def warnings() -> list[str]:
    """The guards of the current folder's reports that warn, without stopping the line."""
    reports = [json.loads(file.read_text()) for file in Path("trained/reports").rglob("*.json")]
    findings = [
        finding for report in reports for finding in (*report.get("guards", []), report.get("guard")) if finding
    ]
    return sorted({finding["guard"] for finding in findings if finding["severity"] == "warning"})


def traded(blocks: dict[str, Any], costs: dict[str, float]) -> Outcome:
    """What evaluate and compare say of the fits in the current folder at these costs."""
    write({**blocks, "trading": {**blocks["trading"], **costs}})
    for model in blocks["models"]:
        evaluate.main(model)
    compare.main(DATASET)
    reports = Path("trained/reports")
    board = json.loads((reports / f"compare/details/{DATASET}.json").read_text())["leaderboard"]
    scores = {model: json.loads((reports / f"evaluate/{model}.json").read_text()) for model in blocks["models"]}
    models = {
        model: {
            **{name: board[model].get(name) for name in ("sharpe", "psr", "dsr", "dsr_effective", "holdout_psr")},
            "ic": scores[model]["ic"],
            "holdout_ic": scores[model]["holdout"]["ic"],
            "turnover": scores[model]["turnover"],
        }
        for model in blocks["models"]
    }
    return {"pbo": json.loads((reports / f"compare/{DATASET}.json").read_text())["pbo"], "models": models}


def write(blocks: dict[str, Any]) -> None:
    """`blocks` stand as params.yaml in the current folder."""
    Path("params.yaml").write_text(yaml.safe_dump(blocks, sort_keys=False))


def interval(count: int, of: int) -> tuple[float, float]:
    """Exact 95 % interval of a probability of which `count` of `of` came true (Clopper & Pearson 1934)."""
    low, high = binomtest(count, of).proportion_ci(CONFIDENCE, method="exact")
    return float(low), float(high)


def rate(facts: Sequence[bool]) -> Outcome:
    """How many are true, of how many, and the exact interval of their share; null where there are none."""
    low, high = interval(sum(facts), len(facts)) if facts else (None, None)
    return {"count": sum(facts), "of": len(facts), "low": low, "high": high}


def summary(outcomes: Sequence[Outcome]) -> Outcome:
    """The calibration of worlds of one truth in one setting: rates by world, by model that trades, PBO and IC.

    Models of one world go together: the intervals of rates by model are narrower than the truth.
    """
    ran = [outcome for outcome in outcomes if not outcome["alarms"]]
    models = [model for outcome in ran for model in outcome["models"].values()]
    pbo = [outcome["pbo"] for outcome in ran if outcome["pbo"] is not None]
    ic = [np.mean([model["ic"] for model in outcome["models"].values()]) for outcome in ran]
    return {
        "worlds": len(outcomes),
        "alarm": rate([bool(outcome["alarms"]) for outcome in outcomes]),
        "suspected": rate([probe.GUARD in outcome["warnings"] for outcome in ran]),
        "named": dict(Counter(name for outcome in outcomes for name in (*outcome["alarms"], *outcome["warnings"]))),
        **{f"any_{name}": rate(any_above(ran, name)) for name in FIGURES},
        **{
            f"model_{name}": rate([model[name] > CONFIDENCE for model in models if model[name] is not None])
            for name in FIGURES
        },
        "without_pbo": len(ran) - len(pbo),
        "pbo_at_most_0.05": rate([value <= 0.05 for value in pbo]),
        "pbo_at_least_0.5": rate([value >= 0.5 for value in pbo]),
        "pbo_deciles": np.quantile(pbo, np.linspace(0.1, 0.9, 9)).round(3).tolist() if pbo else None,
        "ic": float(np.mean(ic)) if ic else None,
        "ic_error": float(np.std(ic, ddof=1) / np.sqrt(len(ic))) if len(ic) > 1 else None,
    }


def any_above(outcomes: Sequence[Outcome], name: str) -> list[bool]:
    """Whether a model of each world passes 95 %, in the worlds where the figure is defined for any of them."""
    found = [[model[name] for model in outcome["models"].values()] for outcome in outcomes]
    return [
        any(value is not None and value > CONFIDENCE for value in values)
        for values in found
        if any(value is not None for value in values)
    ]


COLUMNS = {
    "a guard's alarm": "alarm",
    "leakage suspected": "suspected",
    "any DSR > 0.95": "any_dsr",
    "the same, effective trials": "any_dsr_effective",
    "any holdout PSR > 0.95": "any_holdout_psr",
    "PBO ≤ 0.05": "pbo_at_most_0.05",
    "PBO ≥ 0.5": "pbo_at_least_0.5",
}


def table(summaries: dict[tuple[str, str], Outcome]) -> str:
    """The certificate as markdown: a line for each truth and setting."""
    names = ["world", "traded at", "worlds", *COLUMNS, "PBO deciles 1, 5, 9", "IC"]
    rows = (
        [world, setting, str(figures["worlds"]), *(shown(figures[name]) for name in COLUMNS.values())]
        + [deciles(figures), correlation(figures)]
        for (world, setting), figures in summaries.items()
    )
    return pages.table(names, rows)


def shown(figure: Outcome) -> str:
    """`2/40 (0.6-17 %)`, or a dash where nothing was asked."""
    if not figure["of"]:
        return "–"
    return f"{figure['count']}/{figure['of']} ({100 * figure['low']:.0f}–{100 * figure['high']:.0f} %)"


def deciles(figures: Outcome) -> str:
    """The first, the middle and the last decile of PBO, and in how many worlds there is none."""
    if figures["pbo_deciles"] is None:
        return f"none in {figures['without_pbo']}"
    some = ", ".join(f"{figures['pbo_deciles'][at]:.2f}" for at in (0, 4, 8))
    return f"{some}; none in {figures['without_pbo']}" if figures["without_pbo"] else some


def correlation(figures: Outcome) -> str:
    """Mean IC over worlds and models, with twice its standard error over worlds."""
    if figures["ic_error"] is None:
        return "–"
    return f"{figures['ic']:.4f} ± {2 * figures['ic_error']:.4f}"


def worlds(asked: argparse.Namespace) -> list[World]:
    """All worlds, the null ones first, seeds from 1 on."""
    nulls = range(1, asked.nulls + 1)
    real = [World("real", seed, asked.days, file=str(asked.bars.resolve())) for seed in nulls if asked.bars]
    simulated = [World("simulated", seed, asked.days) for seed in nulls]
    signals = [
        World("simulated", seed, asked.days, signal) for signal in asked.signals for seed in range(1, asked.seeds + 1)
    ]
    return [*simulated, *real, *signals]


def outcomes_of(all_worlds: Sequence[World], *, models: Sequence[str], processes: int) -> list[Outcome]:
    """The outcomes of all worlds, in their order, `processes` at a time with one worker each."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = {pool.submit(run, world, models): world for world in all_worlds}
        for done, future in enumerate(as_completed(futures), start=1):
            seconds, world = future.result()[0]["seconds"], futures[future]
            print(
                f"{done}/{len(futures)} {world.name}, seed {world.seed}: {seconds:.0f} s", file=sys.stderr, flush=True
            )
        return [outcome for future in futures for outcome in future.result()]


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    trees = [
        name
        for name, block in yaml.safe_load((ROOT / "params.yaml").read_text())["models"].items()
        if block["family"] == "trees" and block["dataset"] == DATASET
    ]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bars", nargs="?", type=Path, default=SLICE if SLICE.exists() else None, help="real klines")
    parser.add_argument("--days", type=int, default=12, help="of each world")
    parser.add_argument("--nulls", type=int, default=20, help="null worlds of either kind")
    parser.add_argument("--signals", type=float, nargs="*", default=[0.01, 0.02, 0.05, 0.1], help="planted")
    parser.add_argument("--seeds", type=int, default=6, help="worlds of each planted signal")
    parser.add_argument("--models", nargs="+", default=trees, help="of params.yaml")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where every figure is written")
    return parser.parse_args()


def main() -> None:
    """Run every world, print the certificate and write its figures where asked."""
    asked, start = arguments(), time.perf_counter()
    os.environ |= {"PIPELINE_WORKERS": "1", "TQDM_DISABLE": "1"}
    outcomes = outcomes_of(worlds(asked), models=asked.models, processes=asked.processes)
    keys = dict.fromkeys((outcome["world"], outcome["setting"]) for outcome in outcomes)
    summaries = {key: summary([o for o in outcomes if (o["world"], o["setting"]) == key]) for key in keys}
    print(table(summaries))
    if not asked.bars:
        print("\nno real bars: none given, and ../shared/data is not there")
    print(f"\n{len(outcomes) // len(SETTINGS)} worlds of {asked.days} days in {time.perf_counter() - start:.0f} s")
    if asked.json:
        named = [{"world": world, "setting": setting, **figures} for (world, setting), figures in summaries.items()]
        asked.json.write_text(json.dumps({"summaries": named, "outcomes": outcomes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
