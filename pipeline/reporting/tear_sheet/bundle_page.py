"""The sections of a report on the bundle of a dataset: gate, odds at a prop firm, and latency of the hot path.

The stages that write them follow the report, and latency is of one machine and one moment. So they stand on the page
that a command writes, and not on that of the stage, which is the same for the same inputs.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from pipeline.reporting.prop_firm_page import describe_uncertainty, name_odds
from pipeline.reporting.tear_sheet.blocks import Figure, Note, Section, Table, Verdict
from pipeline.reporting.tear_sheet.charts import HEIGHT, span_x
from pipeline.reporting.tear_sheet.evidence import BundleEvidence, DatasetEvidence
from pipeline.reporting.tear_sheet.forecast_page import show_fact
from pipeline.reporting.tear_sheet.formats import format_number, format_percent, list_names
from pipeline.reporting.tear_sheet.model_charts import to_floats
from pipeline.reporting.tear_sheet.scales import fit_scale
from pipeline.reporting.tear_sheet.svg import (
    BOTTOM,
    TOP,
    Panel,
    compose,
    draw_axes,
    draw_legend,
    draw_line,
    draw_moment,
    draw_points,
)

UNITS = {"us": "µs", "mb": "MB"}
SHARES = {"pass_probability": "passes all phases", "ruin": "ruin"}  # of the curve by risk: label by column
STYLES = ("c0", "c4")

Report = Mapping[str, Any]
Block = Note | Verdict | Table | Figure


def make_bundle(evidence: DatasetEvidence) -> Section:
    """Return gate, odds at a prop firm and latency of the bundle, each or how to get it."""
    dataset, bundle = evidence.dataset, evidence.bundle
    if bundle is None:
        text = (
            "Gate, odds at a prop firm and latency are of the bundle, which is made after this page; latency is of one "
            f"machine and one moment. `python -m pipeline.stages.report {dataset} --bundle` writes this page with them."
        )
        return Section("bundle", "Bundle", [Note(text)])
    blocks: list[Block] = [tabulate_gate(bundle.gate)]
    blocks += describe_prop_firm(bundle)
    blocks += describe_latency(bundle, dataset)
    return Section("bundle", "Bundle", blocks)


def tabulate_gate(gate: Report | None) -> Table:
    """Return the rules of the gate with value, condition and verdict."""
    title, head = "Gate", ["rule", "verdict", "value", "condition", "reason"]
    if gate is None:
        return Table(title, head, [], note="No gate judges this bundle: `deployment.datasets` of params.yaml lacks it.")
    rows = [
        [
            name.replace("_", " "),
            each["verdict"],
            format_number(each["value"]),
            "off" if each["verdict"] == "off" else each["condition"],
            each["reason"] or "",
        ]
        for name, each in gate["rules"].items()
    ]
    verdict = "passes" if gate["passed"] else "does not pass"
    return Table(title, head, rows, note=f"The bundle that trades {gate['signal']} {verdict}.")


def describe_prop_firm(bundle: BundleEvidence) -> list[Block]:
    """Return the odds of the signal in a prop firm's evaluation, by risk; or why there are none."""
    headline, details = bundle.prop_firm, bundle.prop_firm_details
    if headline is None or details is None:
        return [Note("Odds at a prop firm: no stage has estimated them for this bundle.")]
    if headline["reason"]:
        return [Note(f"Odds at a prop firm: {headline['signal']} has none: {headline['reason']}.")]
    own = [
        row for row in details["by_risk"] if (row["model"], row["symbol"]) == (headline["signal"], headline["symbol"])
    ]
    columns = [name for name in own[0] if name not in ("model", "symbol")]
    heads = {name: name.replace("_", " ") for name in columns} | name_odds(len(details["rules"]["targets"]))
    rows = [[format_number(row[name]) for name in columns] for row in own]
    passes, low, high = (
        format_percent(headline[f"pass_probability{end}"], digits=1) for end in ("", "_lowest", "_highest")
    )
    text = (
        f"{headline['signal']} on {headline['symbol']} passes with a probability of {passes} at the best risk, "
        f"{format_number(headline['risk'])}; {low} to {high} by path. "
        f"{describe_uncertainty(headline, details, show=partial(format_percent, digits=1))} Risk: the loss of a full "
        "position in a move of one daily standard deviation, a share of the equity."
    )
    return [
        Table("Odds at a prop firm, by risk", [heads[name] for name in columns], rows, note=text),
        Figure("Odds at a prop firm", plot_odds(own, best=headline["risk"])),
    ]


def plot_odds(rows: Sequence[Report], *, best: float) -> Markup:
    """Return the probability to pass all phases, and that of ruin, against the risk; the best risk is marked."""
    risk = to_floats([row["risk"] for row in rows])
    curves = {label: to_floats([row[name] for row in rows]) for name, label in SHARES.items()}
    panel = Panel(
        span_x(float(risk.min()), float(risk.max())),
        fit_scale(*curves.values(), start=HEIGHT - BOTTOM, stop=TOP + 14, unit="percent", include=0.0),
    )
    parts = [draw_axes(panel, x_label="risk, share of the equity", y_label="probability")]
    for style, values in zip(STYLES, curves.values(), strict=True):
        parts += [draw_line(panel, risk, values, style=style), draw_points(panel, risk, values, style=style)]
    parts += [draw_moment(panel, best, label="best"), draw_legend(zip(STYLES, curves, strict=True), y=14)]
    cells = [[format_percent(float(value), digits=1) for value in values] for values in curves.values()]
    pairs = "; ".join(
        f"at {format_number(float(at))}: {' and '.join(each)}" for at, *each in zip(risk, *cells, strict=True)
    )
    alt = f"Probability to pass all phases of a prop firm's evaluation, and of ruin, by risk: {pairs}."
    return compose(parts, height=HEIGHT, alt=alt)


def describe_latency(bundle: BundleEvidence, dataset: str) -> list[Block]:
    """Return the measured latency of every selection of models, or how to measure it."""
    measured = bundle.latency
    if measured is None:
        remedy = f"measure it with `dvc exp run -S 'latency.datasets=[{dataset}]'`"
        return [Note(f"Latency: {bundle.no_latency_reason}; {remedy}.")]
    machine = ", ".join(f"{name} {format_value(value)}" for name, value in measured["machine"].items())
    blocks: list[Block] = [Note(f"Latency was measured on this machine: {machine}. Limits are those of params.yaml.")]
    for name, selection in measured["selections"].items():
        blocks += tabulate_selection(name, selection)
    return blocks


def tabulate_selection(name: str, selection: Report) -> list[Table]:
    """Return the figures of one selection of models beside their limits, and its latency at each rate of bars."""
    rows = [
        [
            name_quantity(figure),
            format_value(each["value"]),
            format_value(each["limit"]),
            "holds" if each["holds"] else "does not hold",
        ]
        for figure, each in selection["verdicts"].items()
    ]
    models = f"Models: {list_names(selection['models'])}."
    tables = [Table(f"Latency of {name}", ["figure", "value", "limit", "verdict"], rows, note=models)]
    if schedules := selection["schedules"]:
        head = [name_quantity(key) for key in schedules[0]]
        cells = [[format_value(value) for value in schedule.values()] for schedule in schedules]
        tables.append(Table(f"Latency of {name} by rate of bars", head, cells))
    return tables


def format_value(value: object) -> str:
    """Return a text as it is, a fact as yes or no, a number with its significant digits."""
    if isinstance(value, bool):
        return show_fact(value)
    return value if isinstance(value, str) else format_number(value)


def name_quantity(key: str) -> str:
    """Return the key of a figure in words, its unit last.

    >>> name_quantity("p50_us"), name_quantity("bars_per_second")
    ('p50, µs', 'bars per second')
    """
    *words, last = key.split("_")
    return f"{' '.join(words)}, {UNITS[last]}" if words and last in UNITS else key.replace("_", " ")
