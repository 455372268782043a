"""The plot of a hot path's latency: its distribution, and its percentiles against the load."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from pipeline.reporting.plots import BLUE, GRAY, INK, ORANGE, RED, add_legend_below, style_axes

Latencies = tuple[str, float, np.ndarray]  # of a schedule: its kind, bars a second, ns of each bar
COLORS = (BLUE, ORANGE, RED, INK)


def plot_latency(found: Sequence[Latencies], *, limit_p50_us: float, limit_p99_us: float, title: str) -> Figure:
    """Return the share of bars above each latency, and the percentiles 50 and 99 against bars per second.

    The left panel has the lowest load of each kind of arrivals. Both axes of latency are logarithmic.
    """
    figure = Figure(figsize=(10.0, 4.2), dpi=100, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    distribution, load = figure.subplots(1, 2)
    for axes in (distribution, load):
        style_axes(axes, "")
    kinds = dict.fromkeys(kind for kind, _, _ in found)
    for kind, color in zip(kinds, itertools.cycle(COLORS), strict=False):
        own = sorted(((rate, ns) for name, rate, ns in found if name == kind), key=lambda each: each[0])
        lowest, us = own[0][0], np.sort(own[0][1]) / 1e3
        above = 1 - np.arange(len(us)) / len(us)
        label = f"{kind}, {lowest:g} bars a second"
        distribution.step(us, above, color=color, lw=1.6, where="post", label=label)
        rates = [rate for rate, _ in own]
        for percentile, style in ((50, "-"), (99, "--")):
            values = [np.percentile(ns, percentile) / 1e3 for _, ns in own]
            label = f"{kind}, percentile {percentile}"
            load.plot(rates, values, color=color, lw=1.6, ls=style, marker="o", ms=4, label=label)
    for limit, style in ((limit_p50_us, "-"), (limit_p99_us, "--")):
        load.axhline(limit, color=GRAY, lw=1.0, ls=style)
    distribution.set(xscale="log", yscale="log", xlabel="latency from arrival, µs", ylabel="share of bars above")
    load.set(xscale="log", yscale="log", xlabel="bars a second", ylabel="latency from arrival, µs")
    add_legend_below(figure)
    return figure
