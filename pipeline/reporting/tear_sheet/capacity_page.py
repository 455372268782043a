"""The profit of a model by capital, net of costs and market impact: a picture of two panels, and a table."""

from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.reporting.capacity_page import format_money
from pipeline.reporting.tear_sheet.blocks import Table
from pipeline.reporting.tear_sheet.charts import span_x
from pipeline.reporting.tear_sheet.evidence import ModelEvidence
from pipeline.reporting.tear_sheet.formats import format_number, format_percent
from pipeline.reporting.tear_sheet.model_charts import to_floats
from pipeline.reporting.tear_sheet.scales import fit_scale
from pipeline.reporting.tear_sheet.svg import (
    TOP,
    Panel,
    compose,
    draw_axes,
    draw_level,
    draw_line,
    draw_moment,
    draw_points,
)

SHARPE_STOP, PROFIT, HEIGHT = 116.0, (132.0, 236.0), 272.0  # pixels of the two panels
NAMES = {"max_profit_capital": "largest profit", "half_sharpe_capital": "half of the highest Sharpe ratio"}


def plot_capacity(model: ModelEvidence) -> Markup | str:
    """Return net Sharpe ratio and net profit a year against the capital; a reason where they were not measured."""
    report: dict[str, Any] = model.details["capacity"]
    names = ("capitals", "sharpe_daily", "profit_per_year")
    capitals, sharpe, profit = (to_floats(report[name]) for name in names)
    if not np.isfinite(sharpe).any():
        return f"no capacity: {report['reason']}"
    x = span_x(float(capitals[0]), float(capitals[-1]), is_log=True)
    top = Panel(x, fit_scale(sharpe, start=SHARPE_STOP, stop=TOP, include=0.0))
    low = Panel(x, fit_scale(profit, start=PROFIT[1], stop=PROFIT[0], include=0.0))
    parts = [
        draw_axes(top, y_label="Sharpe, daily", has_x_ticks=False),
        draw_axes(low, x_label="capital, quote currency, log axis", y_label="profit a year"),
    ]
    for panel, values in ((top, sharpe), (low, profit)):
        parts += [draw_level(panel, 0.0), draw_line(panel, capitals, values, style="median")]
        parts.append(draw_points(panel, capitals, values, style="c0"))
    for panel, key, label in ((top, "half_sharpe_capital", "half"), (low, "max_profit_capital", "largest")):
        if report[key]:
            parts.append(draw_moment(panel, report[key], label=label, is_left=panel is low))
    alt = (
        f"{model.name}: Sharpe ratio of daily returns and profit a year, net of costs and market impact, at capitals "
        f"of {format_money(capitals[0])} to {format_money(capitals[-1])}. {describe_capacity(report)}"
    )
    return compose(parts, height=HEIGHT, alt=alt)


def tabulate_capacity(model: ModelEvidence) -> Table:
    """Return what the median path earns with each capital, net of costs and market impact."""
    report: dict[str, Any] = model.details["capacity"]
    names = ("net_return", "sharpe_daily", "profit_per_year", "impact_bps", "cut_share")
    formats = (format_percent, format_number, format_money, format_number, format_percent)
    columns = [[show(value) for value in report[name]] for name, show in zip(names, formats, strict=True)]
    rows = [list(row) for row in zip(map(format_money, report["capitals"]), *columns, strict=True)]
    head = ["capital", "net return", "Sharpe, daily", "profit a year", "impact, bps", "orders cut"]
    note = (
        "Of the median path, in the quote currency, net of costs and of market impact by the square-root law, "
        f"coefficient {format_number(report['impact_coefficient'])}, in bps of the value traded; orders cut: by "
        f"max_participation. {describe_capacity(report)} A profit with less than a quarter of the highest Sharpe ratio "
        "does not count."
    )
    return Table(f"Capacity of {model.name}", head, rows, note=note)


def describe_capacity(report: dict[str, Any]) -> str:
    """Return the capacity in a sentence, and why it is missing."""
    found = [f"{text} at {format_money(report[key])}" for key, text in NAMES.items() if report[key]]
    return f"Found: {'; '.join([*found, *([report['reason']] if report['reason'] else [])])}."
