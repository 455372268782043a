"""The section of a comparison's page that says how much capital results can bear, in markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.reporting.markdown import DASH, format_number, render_table

NOTE = (
    "Of the median path, net of costs and of market impact by the square-root law, which no other figure has: Sharpe "
    "ratios of daily returns by capital in the quote currency; the capital of the largest net profit that leaves a "
    "quarter of the highest Sharpe ratio, and that profit a year; and the capital beyond which less than half is left."
)

Report = Mapping[str, Any]


def render_capacity(reports: Mapping[str, Report], *, capitals: Sequence[float]) -> str:
    """Return the section: a table of the models, and why some have no capacity.

    `reports` are, by model, the fields of its `Capacity` as JSON has them, with None for NaN.
    """
    known = {name: report for name, report in reports.items() if report["capitals"]}
    lacks = [f"- {name}: {report['reason']}" for name, report in reports.items() if report["reason"]]
    if not known:
        return "\n".join(["How much capital can earn it? It was measured for no model.", "", *lacks]).rstrip()
    head = [
        "model",
        *(f"Sharpe, {capital:,.0f}" for capital in capitals),
        "largest profit at",
        "profit a year",
        "half of the Sharpe ratio at",
    ]
    rows = [[name, *_format_row(report, capitals)] for name, report in known.items()]
    parts = ["How much capital can earn it?", render_table(head, rows), NOTE]
    return "\n\n".join([*parts, "\n".join(lacks)] if lacks else parts)


def list_capitals(execution: Mapping[str, Report]) -> list[float]:
    """Return the capitals of params that the reports on execution have."""
    return list(dict.fromkeys(capital for report in execution.values() for capital in report["by_capital"]["values"]))


def format_money(value: float | None) -> str:
    """Return an amount with three significant digits and separators of thousands, or a dash."""
    return DASH if value is None else f"{float(f'{value:.3g}'):,.0f}".replace("-", "−")


def _format_row(report: Report, capitals: Sequence[float]) -> list[str]:
    sharpe = dict(zip(report["capitals"], report["sharpe_daily"], strict=True))
    money = [report[name] for name in ("max_profit_capital", "max_profit_per_year", "half_sharpe_capital")]
    return [*(format_number(sharpe.get(capital)) for capital in capitals), *map(format_money, money)]
