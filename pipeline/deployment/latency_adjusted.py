"""Latency-adjusted P&L: the net return of each model when orders fill as late as the hot path was measured to be.

`python -m pipeline.deployment.latency_adjusted <dataset>` prints a table. It reads the delay curves of `evaluate` and
the latency that the stage `latency` measured on this machine, which is no output that DVC records. Between two delays
of the curve the net return is interpolated linearly, as if prices moved evenly from one open to the next.
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline import artifacts, cli, config
from pipeline.datasets import kinds
from pipeline.digests import ArtifactError
from pipeline.row_groups import read_clean
from pipeline.scale import ROUNDING
from pipeline.trading_rules import read_order_delay

Report = Mapping[str, Any]
QUANTILES = ("p50_us", "p99_us")
US_PER_MS = 1000.0


def interpolate_net_return(by_delay: Report, *, delay_bars: float) -> float:
    """Return the net return of a delay curve at a fraction of a bar; NaN beyond its ends, or where it is undefined.

    >>> curve = {"values": [0.0, 1.0, 2.0], "net_return": [0.5, 0.25, 0.0]}
    >>> interpolate_net_return(curve, delay_bars=0.5)
    0.375
    """
    delays, net = (np.array(by_delay[name], dtype=np.float64) for name in ("values", "net_return"))
    if not delays[0] - ROUNDING <= delay_bars <= delays[-1] + ROUNDING:
        return float("nan")
    return float(np.interp(delay_bars, delays, net))


def adjust_for_latency(
    by_delay: Report, figures: Mapping[str, float], *, bar_ms: float, decision_delay_bars: int
) -> dict[str, float]:
    """Return the net return without latency, at each of QUANTILES of `figures`, in µs, and one bar later."""
    delays = {"none": 0.0, **{name: figures[name] / US_PER_MS / bar_ms for name in QUANTILES}, "one_bar": 1.0}
    return {
        name: interpolate_net_return(by_delay, delay_bars=decision_delay_bars + delay) for name, delay in delays.items()
    }


def read_latency(dataset: str) -> Report:
    """Return the figures of each selection of models that the stage `latency` timed; ArtifactError where it did not."""
    path = artifacts.MEASURED / "latency" / f"{dataset}.json"
    if not path.exists():
        raise ArtifactError(f"{path} does not exist; run `dvc exp run -S 'latency.datasets=[{dataset}]'`")
    selections: Report = artifacts.read_json(path)["selections"]
    return selections


def render_table(selections: Report, curves: Mapping[str, Report], *, bar_ms: float, decision_delay_bars: int) -> str:
    """Return a line for each selection that was timed and each model, from the delay curves of the models."""
    lines = [f"{'model':24} {'latency of':16} {'none':>10} {'p50':>10} {'p99':>10} {'one bar':>10}"]
    for selection, found in selections.items():
        for name, curve in curves.items():
            net = adjust_for_latency(curve, found["figures"], bar_ms=bar_ms, decision_delay_bars=decision_delay_bars)
            lines.append(f"{name:24} {selection:16} " + " ".join(f"{value:10.4%}" for value in net.values()))
    return "\n".join([*lines, ""])


def main(dataset: str) -> None:
    """Print the net return of every traded model of a dataset at the latency of each selection."""
    params = config.load_params()
    clock = kinds.import_part(params, dataset, "clock")
    bar_ms = clock.find_step(read_clean(dataset, clock.COLUMNS))
    if bar_ms is None:
        raise ValueError(f"{dataset}: its bars have no fixed length, so that a latency is no fraction of one")
    models = artifacts.read_report("compare/details", dataset)["leaderboard"]
    curves = {name: artifacts.read_report("evaluate/details", name)["execution"]["by_delay"] for name in models}
    delay_bars = read_order_delay(params)
    sys.stdout.write(render_table(read_latency(dataset), curves, bar_ms=bar_ms, decision_delay_bars=delay_bars))


if __name__ == "__main__":
    cli.run(main)
