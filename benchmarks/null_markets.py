"""Calibrate the pipeline on markets whose truth is known: `python benchmarks/null_markets.py [bars.parquet]`.

Null markets are simulated ones, and real bars whose every sign is drawn anew. They measure how often the pipeline finds
an edge where there is none; simulated markets with a signal measure how often it finds one that exists. In one kind of
null market trades bounce between bid and ask and many bars are idle: closes are predictable, fills not. Every market
is traded twice on the same fits: at the costs of params.yaml, where many models never trade, and free of costs and
without a band, where all do. Intervals are exact 95 % binomial ones (Clopper & Pearson 1934). Without an argument, the
bars are the real slice in ../shared/data.
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

from pipeline.leakage import embargo_sensitivity
from pipeline.leakage.findings import LeakageError
from pipeline.market.bars import find_interval_ms
from pipeline.reporting import markdown
from pipeline.stages import (
    audit,
    baseline,
    compare,
    evaluate,
    featurize,
    fetch,
    guard,
    ingest,
    label,
    sensitivity,
    split,
    train,
)

ROOT = Path(__file__).resolve().parents[1]
SLICE = ROOT.parent / "shared" / "data" / "BTCUSDT_1m_2024-01-01_90d.parquet"
DATASET = "klines"
BLOCK_BARS = 60  # stay together, so that volatility clusters within them as in the source
SETTINGS = WITH_COSTS, FREE = "costs of params", "no costs"
CONFIDENCE = 0.95
PROBABILITIES = ("dsr", "dsr_effective", "psr")  # of the leaderboard

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Market:
    """A market to run the pipeline on."""

    kind: str  # "simulated", or "real": the bars of `file` made null
    seed: int
    days: int
    signal: float = 0.0  # share of the next bar's variance that is predictable
    spread_bps: float = 0.0  # between bid and ask
    idle_share: float = 0.0005  # of the bars: without a trade
    file: str | None = None

    @property
    def name(self) -> str:
        """The truth that markets of the same kind, signal and spread share."""
        if self.kind != "simulated":
            return "real bars made null"
        bounce = f", spread {self.spread_bps:g} bps, {self.idle_share:.0%} idle bars" if self.spread_bps else ""
        return f"simulated, signal {self.signal:g}{bounce}"


def draw_bars(bars: int, *, length: int, block_bars: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw (rows, is_mirrored), both (length,): blocks of `bars` in random order, none twice; one coin per bar."""
    blocks = rng.permutation(bars // block_bars)[: -(-length // block_bars)]
    rows = (block_bars * blocks[:, None] + np.arange(block_bars)).ravel()[:length]
    if len(rows) < length:
        raise ValueError(f"{length} bars are needed, {bars} given, in whole blocks of {block_bars}; lower --days")
    return rows, rng.random(length) < 0.5


def make_null_bars(bars: pd.DataFrame, rows: np.ndarray, is_mirrored: np.ndarray) -> pd.DataFrame:
    """Return klines of the bars `rows`, some of them mirrored; each opens where the last one closed.

    A bar keeps its prices relative to its open. Mirrored, a simple return m becomes exactly -m, high and low change
    places, and takers sell as much as they bought. With fair coins, the mean of a bar's move given all bars before it
    is 0: its size can be forecast, its sign cannot. Volumes, in base units, and times are not mirrored.
    """
    old = {name: bars[name].to_numpy(np.float64)[rows] for name in bars.columns if bars[name].dtype.kind in "if"}
    rise, height, depth = (old[name] / old["open"] - 1 for name in ("close", "high", "low"))
    path = np.cumprod(np.append(old["open"][:1], 1 + np.where(is_mirrored, -rise, rise)))  # (length + 1,)
    opens, close = path[:-1], path[1:]
    buys, buys_quote = old["taker_buy_base"], old["taker_buy_quote"]
    taken = np.where(is_mirrored, np.maximum(old["volume"] - buys, 0.0), buys)
    taken_quote = np.where(is_mirrored, np.maximum(old["quote_volume"] - buys_quote, 0.0), buys_quote)
    bar_ms = find_interval_ms(bars)
    time_ms = int(bars["open_time"].iloc[0]) + bar_ms * np.arange(len(rows))
    return pd.DataFrame(
        {
            "open_time": time_ms,
            "open": opens,
            "high": opens * (1 + np.where(is_mirrored, -depth, height)),
            "low": opens * (1 + np.where(is_mirrored, -height, depth)),
            "close": close,
            "volume": old["volume"],
            "close_time": time_ms + bar_ms - 1,
            "quote_volume": opens * mirror_quote(old["volume"], old["quote_volume"] / old["open"], is_mirrored),
            "trades": bars["trades"].to_numpy()[rows],
            "taker_buy_base": taken,
            "taker_buy_quote": opens * mirror_quote(taken, taken_quote / old["open"], is_mirrored),
        }
    )


def mirror_quote(base: np.ndarray, quote: np.ndarray, is_mirrored: np.ndarray) -> np.ndarray:
    """Return the quote volume of `base`, in opens, where a mean price of 1 + d becomes 1 - d in mirrored bars."""
    return np.where(is_mirrored, 2 * base - quote, quote)


def make_params(market: Market, *, models: Sequence[str]) -> dict[str, Any]:
    """Return the blocks of params.yaml for a market, its real bars written to the current folder and pinned."""
    blocks: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    for family, members in blocks["models"].items():
        blocks["models"][family] = {name: block for name, block in (members or {}).items() if name in models}
    blocks["datasets"][DATASET]["source"] = "simulated" if market.file is None else "file"
    if market.file is None:
        names = ("days", "signal", "spread_bps", "idle_share", "seed")
        blocks["sources"]["simulated"] |= {name: getattr(market, name) for name in names}
        return blocks
    bars, rng = pd.read_parquet(market.file), np.random.default_rng(market.seed)
    length = market.days * 86_400_000 // find_interval_ms(bars)
    file = Path("bars.parquet")
    rows, is_mirrored = draw_bars(len(bars), length=length, block_bars=BLOCK_BARS, rng=rng)
    make_null_bars(bars, rows, is_mirrored).to_parquet(file, index=False)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    blocks["sources"]["file"] |= {"path": str(file), "sha256": digest, "symbol": "NULL"}
    return blocks


def list_models(blocks: dict[str, Any]) -> list[str]:
    """Return the names of the models in the blocks of params.yaml."""
    return [name for members in blocks["models"].values() for name in members]


def run_market(market: Market, models: Sequence[str]) -> list[Metrics]:
    """Return the metrics of a market in every setting; the pipeline runs in a folder of its own."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        blocks = make_params(market, models=models)
        alarms = run_until_fits(blocks)
        results = [{} if alarms else trade_models(set_costs(blocks, setting)) for setting in SETTINGS]
        found = {"alarms": alarms, "warnings": list_warnings()}
    common = {"market": market.name, **asdict(market), **found, "seconds": time.perf_counter() - start}
    return [{"setting": setting, **common, **result} for setting, result in zip(SETTINGS, results, strict=True)]


def run_until_fits(blocks: dict[str, Any]) -> list[str]:
    """Run the pipeline up to the fits in the current folder; return the guards that stopped it, if any did."""
    write_params(blocks)
    try:
        for stage in (fetch, ingest, featurize, label, guard, split, baseline, sensitivity):
            stage.main(DATASET)
        for model in list_models(blocks):
            train.main(model)
            audit.main(model)
    except LeakageError as error:
        return [line.split(":")[0] for line in str(error).splitlines()]
    return []


def list_warnings() -> list[str]:
    """Return the guards that warn, without stopping the pipeline, in the reports of the current folder."""
    reports = [json.loads(file.read_text()) for file in Path("trained/reports").rglob("*.json")]
    findings = [finding for report in reports for finding in (*report.get("findings", []), report.get("finding"))]
    return sorted({finding["guard"] for finding in findings if finding and finding["severity"] == "warning"})


def set_costs(blocks: dict[str, Any], setting: str) -> dict[str, Any]:
    """Return the blocks of params.yaml in one of the SETTINGS."""
    if setting == WITH_COSTS:
        return blocks
    source, nothing = blocks["datasets"][DATASET]["source"], {"fee_bps": 0.0, "slippage_bps": 0.0, "borrow_rate": 0.0}
    trading = {**blocks["trading"], "no_trade_band": 0.0}
    return {**blocks, "costs": {**blocks["costs"], source: nothing}, "trading": trading}


def trade_models(blocks: dict[str, Any]) -> Metrics:
    """Return the metrics that evaluate and compare report about the fits in the current folder, as `blocks` say."""
    write_params(blocks)
    models = list_models(blocks)
    for model in models:
        evaluate.main(model)
    compare.main(DATASET)
    reports = Path("trained/reports")
    leaderboard = json.loads((reports / f"compare/details/{DATASET}.json").read_text())["leaderboard"]
    scores = {model: json.loads((reports / f"evaluate/{model}.json").read_text()) for model in models}
    metrics = {
        model: {
            **{name: leaderboard[model].get(name) for name in ("sharpe", "psr", "dsr", "dsr_effective")},
            "ic": scores[model]["ic"],
            "turnover": scores[model]["turnover"],
        }
        for model in models
    }
    return {"pbo": json.loads((reports / f"compare/{DATASET}.json").read_text())["pbo"], "models": metrics}


def write_params(blocks: dict[str, Any]) -> None:
    """Write `blocks` as params.yaml to the current folder."""
    Path("params.yaml").write_text(yaml.safe_dump(blocks, sort_keys=False))


def bound_probability(count: int, total: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a probability after `count` events in `total` (Clopper & Pearson 1934)."""
    low, high = binomtest(count, total).proportion_ci(CONFIDENCE, method="exact")
    return float(low), float(high)


def measure_rate(events: Sequence[bool]) -> Metrics:
    """Return how many are true, of how many, and the exact interval of their share; null where there are none."""
    low, high = bound_probability(sum(events), len(events)) if events else (None, None)
    return {"count": sum(events), "of": len(events), "low": low, "high": high}


def summarize_markets(outcomes: Sequence[Metrics]) -> Metrics:
    """Return the calibration of markets of one truth in one setting: rates by market, by model that trades, PBO and IC.

    Models of one market are correlated: the intervals of rates by model are too narrow.
    """
    completed = [outcome for outcome in outcomes if not outcome["alarms"]]
    models = [model for outcome in completed for model in outcome["models"].values()]
    pbo = [outcome["pbo"] for outcome in completed if outcome["pbo"] is not None]
    ic = [np.mean([model["ic"] for model in outcome["models"].values()]) for outcome in completed]
    return {
        "markets": len(outcomes),
        "alarm": measure_rate([bool(outcome["alarms"]) for outcome in outcomes]),
        "suspected": measure_rate([embargo_sensitivity.GUARD in outcome["warnings"] for outcome in completed]),
        "named": dict(Counter(name for outcome in outcomes for name in (*outcome["alarms"], *outcome["warnings"]))),
        **{f"any_{name}": measure_rate(flag_markets_above(completed, name)) for name in PROBABILITIES},
        **{
            f"model_{name}": measure_rate([model[name] > CONFIDENCE for model in models if model[name] is not None])
            for name in PROBABILITIES
        },
        "without_pbo": len(completed) - len(pbo),
        "pbo_at_most_0.05": measure_rate([value <= 0.05 for value in pbo]),
        "pbo_at_least_0.5": measure_rate([value >= 0.5 for value in pbo]),
        "pbo_deciles": np.quantile(pbo, np.linspace(0.1, 0.9, 9)).round(3).tolist() if pbo else None,
        "ic": float(np.mean(ic)) if ic else None,
        "ic_error": float(np.std(ic, ddof=1) / np.sqrt(len(ic))) if len(ic) > 1 else None,
    }


def flag_markets_above(outcomes: Sequence[Metrics], name: str) -> list[bool]:
    """Return whether a model of each market is above 95 %, in those where one has it defined."""
    found = [[model[name] for model in outcome["models"].values()] for outcome in outcomes]
    defined = [[value for value in values if value is not None] for values in found]
    return [max(values) > CONFIDENCE for values in defined if values]


COLUMNS = {
    "a guard's alarm": "alarm",
    "leakage suspected": "suspected",
    "any DSR > 0.95": "any_dsr",
    "the same, effective trials": "any_dsr_effective",
    "PBO ≤ 0.05": "pbo_at_most_0.05",
    "PBO ≥ 0.5": "pbo_at_least_0.5",
}


def render_summaries(summaries: dict[tuple[str, str], Metrics]) -> str:
    """Return the calibration as markdown: one line for each truth and setting."""
    head = ["market", "traded at", "markets", *COLUMNS, "PBO: 10th, 50th, 90th percentile", "mean IC"]
    rows = (
        [market, setting, str(metrics["markets"]), *(format_rate(metrics[name]) for name in COLUMNS.values())]
        + [format_deciles(metrics), format_ic(metrics)]
        for (market, setting), metrics in summaries.items()
    )
    return markdown.render_table(head, rows)


def format_rate(rate: Metrics) -> str:
    """Return for example `2/40 (1–17 %)`, or a dash where there is nothing to count."""
    if not rate["of"]:
        return "–"
    return f"{rate['count']}/{rate['of']} ({100 * rate['low']:.0f}–{100 * rate['high']:.0f} %)"


def format_deciles(metrics: Metrics) -> str:
    """Return the first, the middle and the last decile of PBO, and the number of markets without PBO."""
    if metrics["pbo_deciles"] is None:
        return f"none in {metrics['without_pbo']}"
    some = ", ".join(f"{metrics['pbo_deciles'][at]:.2f}" for at in (0, 4, 8))
    return f"{some}; none in {metrics['without_pbo']}" if metrics["without_pbo"] else some


def format_ic(metrics: Metrics) -> str:
    """Return the mean IC over markets and models, with twice its standard error over markets."""
    error = metrics["ic_error"]
    return "–" if error is None else f"{metrics['ic']:.4f} ± {2 * error:.4f}"


def list_markets(options: argparse.Namespace) -> list[Market]:
    """Return all markets, the null ones first, seeds from 1 on."""
    nulls, seeds, days = range(1, options.nulls + 1), range(1, options.seeds + 1), options.days
    real = [Market("real", seed, days, file=str(options.bars.resolve())) for seed in nulls if options.bars]
    simulated = [Market("simulated", seed, days) for seed in nulls]
    bounce = {"spread_bps": options.spread_bps, "idle_share": options.idle_share}
    bouncing = [Market("simulated", seed, days, **bounce) for seed in nulls if options.spread_bps]
    signals = [Market("simulated", seed, days, signal) for signal in options.signals for seed in seeds]
    return [*simulated, *bouncing, *real, *signals]


def run_markets(markets: Sequence[Market], *, models: Sequence[str], processes: int) -> list[Metrics]:
    """Return the metrics of all markets, in their order; `processes` run at a time with one worker each."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = {pool.submit(run_market, market, models): market for market in markets}
        for done, future in enumerate(as_completed(futures), start=1):
            seconds, market = future.result()[0]["seconds"], futures[future]
            progress = f"{done}/{len(futures)} {market.name}, seed {market.seed}: {seconds:.0f} s"
            print(progress, file=sys.stderr, flush=True)
        return [outcome for future in futures for outcome in future.result()]


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    families = yaml.safe_load((ROOT / "params.yaml").read_text())["models"]
    trees = [name for name, block in (families["trees"] or {}).items() if block["dataset"] == DATASET]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bars", nargs="?", type=Path, default=SLICE if SLICE.exists() else None, help="real klines")
    parser.add_argument("--days", type=int, default=12, help="of each market")
    parser.add_argument("--nulls", type=int, default=20, help="null markets of either kind")
    parser.add_argument("--spread-bps", type=float, default=4.0, help="of null markets whose closes bounce; 0: none")
    parser.add_argument("--idle-share", type=float, default=0.2, help="of their bars")
    parser.add_argument("--signals", type=float, nargs="*", default=[0.01, 0.02, 0.05, 0.1], help="planted")
    parser.add_argument("--seeds", type=int, default=6, help="markets of each planted signal")
    parser.add_argument("--models", nargs="+", default=trees, help="of params.yaml")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for every metric")
    return parser.parse_args()


def main() -> None:
    """Run every market, print the calibration, and write its metrics to the file of --json."""
    options, start = parse_arguments(), time.perf_counter()
    os.environ |= {"PIPELINE_WORKERS": "1", "TQDM_DISABLE": "1"}
    outcomes = run_markets(list_markets(options), models=options.models, processes=options.processes)
    keys = dict.fromkeys((outcome["market"], outcome["setting"]) for outcome in outcomes)
    summaries = {key: summarize_markets([o for o in outcomes if (o["market"], o["setting"]) == key]) for key in keys}
    print(render_summaries(summaries))
    if not options.bars:
        print("\nno real bars: none given, and ../shared/data does not exist")
    print(f"\n{len(outcomes) // len(SETTINGS)} markets of {options.days} days in {time.perf_counter() - start:.0f} s")
    if options.json:
        named = [{"market": market, "setting": setting, **metrics} for (market, setting), metrics in summaries.items()]
        options.json.write_text(json.dumps({"summaries": named, "outcomes": outcomes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
