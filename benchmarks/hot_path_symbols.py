"""Time and memory of a hot path by its number of symbols, with columns among them.

Usage: python -m benchmarks.hot_path_symbols BUNDLE [--symbols 3 50] [--models lightgbm xgboost]

The graphs, the features and the rules are those of a bundle, such as trained/bundles/klines, whose models then predict
every symbol; the bars are made up. Times are CPU time of this process, a minute of bars of all symbols at a time.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.deployment.contract import Contract, CrossSectionPart
from pipeline.deployment.hot_path import HotPath, open_graphs
from pipeline.deployment.lane import Bind
from pipeline.deployment.latency import select_models
from pipeline.deployment.merged_graph import bind_graphs
from pipeline.features import cross_section

WINDOWS: dict[str, Any] = {"windows": [1, 15], "beta_window": 240}
MINUTES = 400  # that are timed, after those that warm up
START_MS, MINUTE_MS = 1_700_000_040_000, 60_000
KIB = 1024


def make_contract(bundle: Contract, symbols: list[str], *, among: bool) -> Contract:
    """Return a contract whose models predict `symbols`; with columns among them, which no model reads."""
    models = {name: model.model_copy(update={"symbols": symbols}) for name, model in bundle.models.items()}
    bars = bundle.bars.model_copy(update={"symbols": symbols})
    changed = {"models": models, "bars": bars}
    if among:
        meanings = cross_section.CrossSection(**WINDOWS).meanings
        changed |= {"features": bundle.features | {"cross_section": WINDOWS}, "columns": [*bundle.columns, *meanings]}
        changed |= {"cross_section": CrossSectionPart(symbols=symbols, columns=meanings)}
    return bundle.model_copy(update=changed)


def make_minutes(symbols: list[str], count: int) -> list[list[dict[str, object]]]:
    """Return `count` minutes of bars of all symbols."""
    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, (count + 1, len(symbols))), axis=0))
    volume = rng.lognormal(3, 1, (count, len(symbols)))
    minutes = []
    for i in range(count):
        opened, time_ms = START_MS + i * MINUTE_MS, START_MS + (i + 1) * MINUTE_MS - 1
        prices = zip(symbols, close[i].tolist(), close[i + 1].tolist(), volume[i].tolist(), strict=True)
        minutes.append(
            [
                {
                    **{"symbol": name, "open_time": opened, "close_time": time_ms, "open": before, "close": after},
                    **{"high": max(before, after) * 1.001, "low": min(before, after) * 0.999, "volume": amount},
                    **{"quote_volume": amount * after, "trades": 5, "taker_buy_base": amount / 2},
                }
                for name, before, after, amount in prices
            ]
        )
    return minutes


def measure_us(step: Callable[[Any], object], minutes: Sequence[Any]) -> np.ndarray:
    """Return (n,) µs of CPU time of each minute."""
    spent = np.empty(len(minutes))
    for i, minute in enumerate(minutes):
        begin = time.process_time_ns()
        step(minute)
        spent[i] = (time.process_time_ns() - begin) / 1e3
    return spent


def read_resident_kib() -> int:
    """Return the memory of this process in KiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // KIB


def measure(bundle: Contract, bind: Bind, count: int) -> tuple[list[float], float]:
    """Return the median µs of a minute one by one, together, and of the columns alone; and KiB a symbol, together."""
    symbols = [f"S{k:02d}" for k in range(count)]
    minutes = make_minutes(symbols, bundle.warm_up_bars + MINUTES)
    before = read_resident_kib()
    together = HotPath(make_contract(bundle, symbols, among=True), bind)
    all_at_once = measure_us(together.update_together, minutes)
    memory = (read_resident_kib() - before) / count
    alone = HotPath(make_contract(bundle, symbols, among=False), bind)
    one_by_one = measure_us(lambda bars: [alone.update(bar) for bar in bars], minutes)
    stream = cross_section.Stream(cross_section.CrossSection(**WINDOWS), symbols=symbols)
    closes = [{str(bar["symbol"]): bar["close"] for bar in minute} for minute in minutes]
    columns = measure_us(stream.update, closes)
    return [float(np.median(each[-MINUTES:])) for each in (one_by_one, all_at_once, columns)], memory


def main() -> None:
    """Print a row for each number of symbols."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--symbols", type=int, nargs="+", default=[3, 50])
    parser.add_argument("--models", nargs="+", default=[])
    given = parser.parse_args()
    bundle, graphs = open_graphs(given.folder)
    bundle = select_models(bundle, given.models)
    bind = bind_graphs({name: graphs[name] for name in bundle.models})
    measure(bundle, bind, 1)  # compiles, and allocates what all symbols share
    sys.stdout.write("| symbols | one by one, µs a minute | together | columns among symbols alone | KiB a symbol |\n")
    for count in given.symbols:
        figures, memory = measure(bundle, bind, count)
        sys.stdout.write(f"| {count} | {' | '.join(f'{each:,.0f}' for each in figures)} | {memory:,.0f} |\n")


if __name__ == "__main__":
    main()
