"""Plots of liquidity: arrays in, matplotlib figures out."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from pipeline.reporting.plots import (
    BLUE,
    GRAY,
    INK,
    ORANGE,
    RED,
    add_legend_below,
    format_date_axis,
    plot_message,
    style_axes,
    to_dates,
    use_log_axis,
)

COLORS = (BLUE, ORANGE, GRAY, INK)
MAX_SYMBOLS = len(COLORS)  # as many as stay legible


@dataclass(frozen=True)
class HalfSpreads:
    """The half spreads of one symbol by period."""

    time_ms: np.ndarray  # (P,) start of the period
    half_spread_bps: np.ndarray  # (P,) NaN where undefined


def plot_half_spreads(symbols: Mapping[str, HalfSpreads], *, slippage_bps: float, title: str) -> Figure:
    """Return the half spread of every symbol by period, with the slippage that is charged.

    The symbols with the widest spreads are shown; the number shown follows the title.
    """
    widest = {
        name: np.nanmax(each.half_spread_bps)
        for name, each in symbols.items()
        if not np.isnan(each.half_spread_bps).all()
    }
    if not widest:
        return plot_message(f"{title}: no period has a spread that is defined")
    shown = sorted(widest, key=lambda name: -widest[name])[:MAX_SYMBOLS]
    count = "" if len(shown) == len(symbols) else f"; {len(shown)} of {len(symbols)} symbols"
    figure = Figure(figsize=(8.0, 4.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, title + count)
    for name, color in zip(shown, COLORS, strict=False):
        each = symbols[name]
        axes.plot(to_dates(each.time_ms), each.half_spread_bps, "o-", ms=4, lw=1, color=color, label=name)
    if slippage_bps > 0:  # a log axis has no 0
        axes.axhline(slippage_bps, color=RED, lw=1.2, ls="--", label="slippage charged")
    axes.set_ylabel("half spread, bps")
    use_log_axis(axes)
    format_date_axis(axes)
    add_legend_below(figure)
    return figure
