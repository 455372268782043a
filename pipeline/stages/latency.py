"""latency <dataset>: time a bundle's hot path, and judge it by the limits of params; off by default.

Its report is of this machine and this moment: it is written to trained/measured, and is no output that DVC records.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, cast

import numpy as np
import onnxruntime

from pipeline import artifacts, cli, config, digests
from pipeline.deployment import contract, latency
from pipeline.deployment.contract import Contract
from pipeline.deployment.hot_path import HotPath, open_graphs
from pipeline.deployment.latency import Bar, Latency, LatencySettings, Limits
from pipeline.deployment.latency_parts import Predict, measure_parts
from pipeline.deployment.latency_rule import REPORTS, describe_host
from pipeline.deployment.merged_graph import Graphs, bind_graphs
from pipeline.market.bars import list_columns
from pipeline.models import plugins
from pipeline.reporting import latency_plots, markdown

log = logging.getLogger(__name__)

NATIVE_FAMILY = "trees"  # whose trained models are timed too: their libraries run on one thread
WARM_UP_BARS, MEMORY_BARS = 200, 100  # beyond those of the features; with signals
STOPS = ("p50_us", "ratio_to_parts")  # limits that do not depend on what else the machine does as much as others


class LatencyError(ValueError):
    """A hot path that is slower than its limits."""


def main(dataset: str) -> None:
    """Time every selection of models of a bundle."""
    params = config.load_params()
    section = {key: value for key, value in config.look_up(params, "latency").items() if key != "datasets"}
    settings = config.call_with(LatencySettings, block=section, name="latency")
    limits = config.call_with(Limits, block=settings.limits, name="latency.limits")
    folder = contract.BUNDLES / dataset
    bundle, graphs = open_graphs(folder)
    if bundle.cross_section:
        raise config.ParamsError(
            f"latency.datasets has {dataset}, whose columns among symbols need all bars of an open time; take it out: "
            "`python -m benchmarks.hot_path_symbols` times such a hot path"
        )
    bars = load_bars(dataset, bundle.bars.symbols[0])
    identity = {"contract_sha256": contract.hash_contract(folder), "host": describe_host()}
    report: dict[str, Any] = {**identity, "machine": describe_machine(), "selections": {}}
    native = {
        name: plugins.load(artifacts.MODELS / name).predict
        for name, model in bundle.models.items()
        if model.family == NATIVE_FAMILY
    }
    memory_mb = latency.measure_memory_mb(folder, bars[-bundle.warm_up_bars - MEMORY_BARS :])
    for name, models in settings.models.items():
        selected = latency.select_models(bundle, models)
        terms = {"memory_mb": memory_mb, "settings": settings, "seed": params["seed"]}
        found, schedules = measure(selected, graphs, native, bars, **terms)
        verdicts = latency.judge(found["figures"], limits)
        report["selections"][name] = {**found, "verdicts": verdicts}
        plot = latency_plots.plot_latency(
            [(each.name, each.bars_per_second, each.ns) for each in schedules],
            limit_p50_us=limits.p50_us,
            limit_p99_us=limits.p99_us,
            title=f"{dataset}, {name}: latency of the hot path",
        )
        artifacts.write_figure(REPORTS / f"{dataset}_{name}.png", plot)
    artifacts.write_json(REPORTS / f"{dataset}.json", report)
    artifacts.write_text(REPORTS / f"{dataset}.md", render_page(report))
    broken = [
        f"{name}: {figure} is {verdict['value']:.4g}, above {verdict['limit']:g}"
        for name, each in report["selections"].items()
        for figure, verdict in each["verdicts"].items()
        if figure in STOPS and not verdict["holds"]
    ]
    if broken:
        raise LatencyError(f"{'; '.join(broken)}; on a busy machine repeat it, or raise latency.limits")


def load_bars(dataset: str, symbol: str) -> list[Bar]:
    """Return the clean bars of a symbol as a feed gives them."""
    table = artifacts.read_table(digests.verify(artifacts.CLEAN / f"{dataset}.parquet"))
    own = table[table["symbol"] == symbol]
    return cast(list[Bar], own[list_columns(own)].to_dict("records"))


def measure(
    bundle: Contract,
    graphs: Graphs,
    native: Mapping[str, Predict],
    bars: Sequence[Bar],
    *,
    memory_mb: float,
    settings: LatencySettings,
    seed: int,
) -> tuple[dict[str, Any], list[Latency]]:
    """Return the figures of a hot path of these models, with the memory given, and the latencies of every schedule."""
    count, warm_up = settings.bars, bundle.warm_up_bars + WARM_UP_BARS
    needed = warm_up + count
    if len(bars) < needed:
        raise LatencyError(f"latency.bars is {count:,}: there are {len(bars):,} bars, and {needed:,} are needed")
    bars = bars[-needed:]
    schedules = []
    for arrivals, rate, warms in product(settings.arrivals, settings.bars_per_second, settings.warms_caches):
        hot_path = start(bundle, graphs, bars[:warm_up])
        if warms:
            hot_path.warm_caches()  # the first call makes what warms them
        arrival_ns = latency.schedule(arrivals, count, bars_per_second=rate, seed=seed)
        idle = hot_path.warm_caches if warms else None
        ns = latency.measure_open_loop(hot_path.update, bars[warm_up:], arrival_ns, while_waiting=idle)
        schedules.append(Latency(arrivals, rate, warms, ns))
    hot_path = start(bundle, graphs, bars[:warm_up])
    throughput, cpu_us = latency.measure_saturation(hot_path.update, bars[warm_up:])
    parts = measure_parts(bundle, graphs, bars, native=native, warm_up_bars=warm_up)
    quiet = schedules[0].describe()
    figures = {
        "p50_us": quiet["p50_us"],
        "p99_us": quiet["p99_us"],
        "bars_per_second": throughput,
        "memory_mb": memory_mb,
        "ratio_to_parts": parts.whole_us / (parts.within_us["features"] + parts.within_us["models"]),
    }
    found = {"models": list(bundle.models), "figures": figures, "cpu_us_per_bar": cpu_us, **parts._asdict()}
    return {**found, "schedules": [each.describe() for each in schedules]}, schedules


def start(bundle: Contract, graphs: Graphs, bars: Sequence[Bar]) -> HotPath:
    """Return a hot path of a bundle's models that has taken bars."""
    hot_path = HotPath(bundle, bind_graphs(graphs))
    for bar in bars:
        hot_path.update(bar)
    return hot_path


def describe_machine() -> dict[str, Any]:
    """Return the machine and how busy it is."""
    load = os.getloadavg()[0]
    return {"cpus": os.cpu_count(), "load": load, "onnxruntime": onnxruntime.__version__, "numpy": np.__version__}


def render_page(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = []
    for name, each in report["selections"].items():
        rows = [
            [figure, f"{verdict['value']:,.4g}", f"{verdict['limit']:,.4g}", "holds" if verdict["holds"] else "BROKEN"]
            for figure, verdict in each["verdicts"].items()
        ]
        rows += [[figure, f"{each[figure]:,.4g}", "", ""] for figure in ("whole_us", "naive_us", "cpu_us_per_bar")]
        lines += [f"## {name}", "", markdown.render_table(["figure", "value", "limit", "verdict"], rows), ""]
        groups = ("within_us", "alone_us", "native_us")
        names = dict.fromkeys(part for group in groups for part in each[group])
        parts = [
            [part, *(f"{each[group][part]:.1f}" if part in each[group] else "" for group in groups)] for part in names
        ]
        header = ["part", "µs within an update", "µs alone", "µs of the trained model"]
        lines += [markdown.render_table(header, parts), ""]
        rows = [
            [f"{value:,.4g}" if isinstance(value, float) else str(value) for value in row.values()]
            for row in each["schedules"]
        ]
        lines += [markdown.render_table(list(each["schedules"][0]), rows), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
