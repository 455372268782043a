"""The plot of a result by delay, cost and capital."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.evaluation.execution import Curve, Execution
from pipeline.reporting.plots import BLUE, GRAY, INK, ORANGE, RED, add_legend_below, style_axes


def plot_execution(execution: Execution, *, delay_bars: int, capital: float, fee_bps: float, title: str) -> Figure:
    """Return the Sharpe ratio of daily returns against delay, cost and capital, on a common axis.

    `delay_bars`, `capital` and `fee_bps` are those of the result. They are marked, as are the cost charged, the
    break-even, and the fee with half the spread that the data imply.
    """
    figure = Figure(figsize=(10.0, 3.9), dpi=100, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    by_delay, by_cost, by_capital = figure.subplots(1, 3, sharey=True)
    _draw_curve(by_delay, execution.by_delay, "delay, bars", as_traded=delay_bars)
    by_delay.set_xticks(execution.by_delay.values)
    _draw_curve(by_cost, execution.by_cost, "cost per side, bps", as_traded=execution.charged_bps)
    if execution.break_even_bps > 0:
        by_cost.axvline(execution.break_even_bps, color=RED, lw=1.2, ls="--", label="break-even cost")
    if execution.half_spread_bps > 0:
        cost = fee_bps + execution.half_spread_bps
        by_cost.axvline(cost, color=ORANGE, lw=1.2, ls=":", label="fee and half the spread of the data")
    lowest, highest = (edge([capital, *execution.by_capital.values]) for edge in (min, max))
    by_capital.set(xscale="log", xlim=(lowest / 1.5, highest * 1.5))
    _draw_curve(by_capital, execution.by_capital, "capital, quote currency", as_traded=capital)
    by_delay.set_ylabel("Sharpe of daily returns, net of costs")
    add_legend_below(figure)
    return figure


def _draw_curve(axes: Axes, curve: Curve, x: str, *, as_traded: float) -> None:
    """Draw one curve in its panel; the title of an empty one gives the first reason."""
    is_empty = not np.isfinite(curve.sharpe_daily).any()
    style_axes(axes, str(curve.reason).split("; ")[0] if is_empty else "")
    axes.plot(curve.values, curve.sharpe_daily, color=BLUE, lw=1.8, marker="o", ms=5, label="median path")
    axes.axhline(0.0, color=INK, lw=0.8)
    axes.axvline(as_traded, color=GRAY, lw=1.2, label="as traded")
    axes.set_xlabel(x)
