"""latency <dataset>: time a bundle's hot path, and judge it by the limits of params; off by default.

Its report is of this machine and this moment: it is written to trained/measured, and is no output that DVC records.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnxruntime

from pipeline import artifacts, cli, config, digests
from pipeline.deployment import contract, latency
from pipeline.deployment.contract import Contract
from pipeline.deployment.hot_path import open_sessions
from pipeline.deployment.latency import Bar, Latency, LatencySettings, Limits
from pipeline.market.bars import list_columns
from pipeline.reporting import latency_plots, markdown

log = logging.getLogger(__name__)

STOPS = ("p50_us", "ratio_to_parts")  # limits that do not depend on what else the machine does as much as others


class LatencyError(ValueError):
    """A hot path that is slower than its limits."""


def main(dataset: str) -> None:
    """Time every selection of models of a bundle."""
    params = config.load_params()
    section = {key: value for key, value in config.look_up(params, "latency").items() if key != "datasets"}
    settings = config.call_with(LatencySettings, block=section, name="latency")
    limits = config.call_with(Limits, block=settings.limits, name="latency.limits")
    bundle, sessions = open_sessions(contract.BUNDLES / dataset)
    bars = load_bars(dataset, bundle.bars.symbols[0])
    report: dict[str, Any] = {"machine": describe_machine(), "selections": {}}
    for name, models in settings.models.items():
        found, schedules = measure(bundle, sessions, models, bars, settings=settings, seed=params["seed"])
        verdicts = latency.judge(found["figures"], limits)
        report["selections"][name] = {**found, "verdicts": verdicts}
        plot = latency_plots.plot_latency(
            [(each.arrivals, each.bars_per_second, each.ns) for each in schedules],
            limit_p50_us=limits.p50_us,
            limit_p99_us=limits.p99_us,
            title=f"{dataset}, {name}: latency of the hot path",
        )
        artifacts.write_figure(artifacts.MEASURED / "latency" / f"{dataset}_{name}.png", plot)
    artifacts.write_json(artifacts.MEASURED / "latency" / f"{dataset}.json", report)
    artifacts.write_text(artifacts.MEASURED / "latency" / f"{dataset}.md", render_page(report))
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
    sessions: Mapping[str, onnxruntime.InferenceSession],
    models: Sequence[str],
    bars: Sequence[Bar],
    *,
    settings: LatencySettings,
    seed: int,
) -> tuple[dict[str, Any], list[Latency]]:
    """Return the figures of a hot path of these models, and the latencies of every schedule."""
    count, warm_up = settings.bars, bundle.warm_up_bars + 200
    needed = warm_up + count
    if len(bars) < needed:
        raise LatencyError(f"latency.bars is {count:,}: there are {len(bars):,} bars, and {needed:,} are needed")
    bars = bars[-needed:]
    schedules = []
    for arrivals in settings.arrivals:
        for rate in settings.bars_per_second:
            hot_path = latency.make_hot_path(bundle, sessions, models)
            for bar in bars[:warm_up]:
                hot_path.update(bar)
            arrival_ns = latency.schedule(arrivals, count, bars_per_second=rate, seed=seed)
            ns = latency.measure_open_loop(hot_path.update, bars[warm_up:], arrival_ns)
            schedules.append(Latency(arrivals, rate, ns))
    hot_path = latency.make_hot_path(bundle, sessions, models)
    for bar in bars[:warm_up]:
        hot_path.update(bar)
    throughput, cpu_us = latency.measure_saturation(hot_path.update, bars[warm_up:])
    memory = latency.measure_memory_mb()
    parts = {}
    for name, function in (("within_us", latency.measure_parts), ("alone_us", latency.measure_alone)):
        (lane,) = list(latency.make_hot_path(bundle, sessions, models).lanes.values())[:1]
        for bar in bars[:warm_up]:
            lane.take(bar, now_ms=None, decides=True)
        parts[name] = function(lane, bars[warm_up:])
    (lane,) = list(latency.make_hot_path(bundle, sessions, models).lanes.values())[:1]
    naive = latency.measure_naive(lane, sessions, bars[: warm_up + min(count, 1000)])
    quiet = schedules[0].describe()
    figures = {
        "p50_us": quiet["p50_us"],
        "p99_us": quiet["p99_us"],
        "bars_per_second": throughput,
        "memory_mb": memory,
        "ratio_to_parts": quiet["p50_us"] / sum(parts["alone_us"].values()),
    }
    found = {"models": list(models), "figures": figures, "cpu_us_per_bar": cpu_us, **parts, "naive_us": naive}
    return {**found, "schedules": [each.describe() for each in schedules]}, schedules


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
        rows += [
            ["naive_us", f"{each['naive_us']:,.4g}", "", ""],
            ["cpu_us_per_bar", f"{each['cpu_us_per_bar']:,.4g}", "", ""],
        ]
        lines += [f"## {name}", "", markdown.render_table(["figure", "value", "limit", "verdict"], rows), ""]
        parts = [
            [part, f"{us:.1f}", f"{each['alone_us'].get(part, float('nan')):.1f}"]
            for part, us in each["within_us"].items()
        ]
        lines += [markdown.render_table(["part", "µs within", "µs alone"], parts), ""]
        rows = [
            [str(value) if isinstance(value, str) else f"{value:,.4g}" for value in row.values()]
            for row in each["schedules"]
        ]
        lines += [markdown.render_table(list(each["schedules"][0]), rows), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
