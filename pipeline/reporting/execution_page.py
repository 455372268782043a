"""The section of a comparison's page that says whether results could have been earned, in markdown."""

from collections.abc import Mapping
from typing import Any

from pipeline.reporting.markdown import DASH, format_number, render_table

NOTE = (
    "Of the median path. Break-even: the cost per side at which the gross return less interest is used up. Charged: "
    "fee and slippage. Half spread: half the bid-ask spread that the data imply, averaged over the trades. Costs are "
    "in bps of the value traded. A result is not executable where it is positive as charged, but not with that half "
    "spread in place of a smaller slippage, or not with one more bar of delay."
)

Report = Mapping[str, Any]


def render_execution(reports: Mapping[str, Report]) -> str:
    """Return the section: a table of the models, and their warnings.

    `reports` are, by model, the fields of its `Execution` as JSON has them, with None for NaN.
    """
    if not reports:
        return "Could it have been earned? No model trades."
    delays = list(dict.fromkeys(delay for report in reports.values() for delay in report["by_delay"]["values"]))
    head = [
        "model",
        "break-even, bps",
        "charged, bps",
        "half spread, bps",
        *(f"net, delay {delay:g}" for delay in delays),
        "round trips",
        "executable",
    ]
    rows = [[name, *_format_costs(report), *_format_results(report, delays)] for name, report in reports.items()]
    warnings = [f"- {name}: {warning}" for name, report in reports.items() for warning in report["warnings"]]
    parts = ["Could it have been earned?", render_table(head, rows), NOTE]
    return "\n\n".join([*parts, "\n".join(warnings)] if warnings else parts)


def _format_costs(report: Report) -> list[str]:
    return [format_number(report[name]) for name in ("break_even_bps", "charged_bps", "half_spread_bps")]


def _format_results(report: Report, delays: list[float]) -> list[str]:
    net = dict(zip(report["by_delay"]["values"], report["by_delay"]["net_return"], strict=True))
    returns = [format_percent(net.get(delay)) for delay in delays]
    return [*returns, str(report["round_trips"]), describe_executability(report["executability"])]


def describe_executability(verdict: Report) -> str:
    """Return a verdict in words: yes, not executable and why, or why it is not known."""
    name = name_verdict(verdict)
    return name if verdict["is_executable"] else f"{name}: {'; '.join(verdict['reasons'])}"


def name_verdict(verdict: Report) -> str:
    """Return a verdict in two words at most."""
    return {True: "yes", False: "not executable", None: "not known"}[verdict["is_executable"]]


def format_percent(value: float | None) -> str:
    """Return a fraction in percent, or a dash for None."""
    return DASH if value is None else f"{format_number(100.0 * value)} %"
