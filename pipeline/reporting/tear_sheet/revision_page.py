"""The page that puts the results of two revisions side by side: verdict, leaderboard, gate, figures and params."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.reporting.markdown import DASH
from pipeline.reporting.tear_sheet.blocks import Figure, Note, Section, Table, Verdict
from pipeline.reporting.tear_sheet.evidence import Side
from pipeline.reporting.tear_sheet.formats import format_interval, format_number
from pipeline.reporting.tear_sheet.model_charts import to_floats
from pipeline.reporting.tear_sheet.page import render_page
from pipeline.reporting.tear_sheet.scales import fit_scale
from pipeline.reporting.tear_sheet.svg import (
    RIGHT,
    TOP,
    WIDTH,
    Panel,
    compose,
    draw_legend,
    draw_moment,
    format_pixel,
    write_text,
)
from pipeline.reporting.tear_sheet.verdict import make_verdict

NAME_WIDTH, ROW_HEIGHT, FOOT = 112.0, 26.0, 34.0
STYLES = ("c1", "c0")  # of the other revision and of the present one
FIGURES = {"dsr": "DSR", "ic": "IC", "break_even_bps": "break-even, bps"}

Report = Mapping[str, Any]


def render_comparison(before: Side, now: Side) -> str:
    """Return one HTML page with the results of two revisions side by side; differences are `now` less `before`."""
    sections = [
        Section("verdict", "Verdict", tabulate_verdicts(before, now)),
        Section("leaderboard", "Leaderboard", [tabulate_models(before, now), draw_models(before, now)]),
        Section("gate", "Gate of the bundle", [tabulate_gate(before, now)]),
        Section("figures", "Headline figures", [tabulate_figures(before, now)]),
        Section("params", "Params", [tabulate_params(before, now)]),
    ]
    return render_page(f"{now.reports.dataset}: {before.name} and {now.name}", sections)


def judge(side: Side) -> Verdict:
    """Return the verdict of one side; ValueError where its reports lack what the present code reads."""
    try:
        return make_verdict(side.reports)
    except KeyError as error:
        raise ValueError(
            f"a report of {side.name} has no {error}: other code wrote it; run `dvc repro` there with the present code"
        ) from error


def tabulate_verdicts(before: Side, now: Side) -> list[Note | Table | Figure | Verdict]:
    """Return both summaries, and each claim with what both sides say of it."""
    verdicts = [judge(side) for side in (before, now)]
    claims = [{each.claim: each for each in verdict.statements} for verdict in verdicts]
    rows = [
        [
            claim,
            "same" if claims[0][claim].state == each.state else "changed",
            *(f"{side[claim].state}: {side[claim].evidence}" for side in claims),
        ]
        for claim, each in claims[1].items()
    ]
    summaries = [Note(f"{side.name}: {verdict.summary}") for side, verdict in zip((before, now), verdicts, strict=True)]
    return [*summaries, Table("Claims", ["claim", "verdict", before.name, now.name], rows)]


def list_models(before: Side, now: Side) -> list[str]:
    """Return the models of both sides: those of `now` in its order, then the others."""
    return list(dict.fromkeys([*now.reports.compare["leaderboard"], *before.reports.compare["leaderboard"]]))


def find_row(side: Side, model: str) -> Report:
    """Return a model's row of the leaderboard, with IC and break-even; empty where a side has no such model."""
    found = {each.name: each for each in side.reports.models}.get(model)
    if found is None:
        return {}
    row: Report = side.reports.compare["leaderboard"][model]
    break_even = found.details["execution"].get("break_even_bps")
    return {**row, "ic": found.headline.get("ic"), "break_even_bps": break_even}


def tabulate_models(before: Side, now: Side) -> Table:
    """Return one row for each model of either side, with the differences."""
    rows = []
    for model in list_models(before, now):
        pair = [find_row(side, model) for side in (before, now)]
        daily = [
            format_interval(row.get("sharpe_daily"), row.get("sharpe_daily_low"), row.get("sharpe_daily_high"))
            for row in pair
        ]
        cells = [model, *daily, format_difference(*(row.get("sharpe_daily") for row in pair))]
        for key in FIGURES:
            values = [row.get(key) for row in pair]
            cells += [*map(format_number, values), format_difference(*values)]
        rows.append(cells)
    head = ["model"]
    for title in ("Sharpe, daily returns", *FIGURES.values()):
        head += [f"{title}: {before.name}", now.name, "difference"]
    note = "Annualized, net of costs, of the median path, with intervals; a dash where a side has no such model."
    return Table("Models", head, rows, note=note)


def format_difference(before: object, now: object) -> str:
    """Return how much larger the second number is, with its sign; a dash where one is undefined."""
    if not isinstance(before, int | float) or not isinstance(now, int | float):
        return DASH
    difference = float(now) - float(before)
    if np.isnan(difference):
        return DASH
    return f"{'+' if difference > 0 else ''}{format_number(difference)}" if difference else "0"


def draw_models(before: Side, now: Side) -> Figure:
    """Return the Sharpe ratios of daily returns of both sides, with their intervals, below each other."""
    title = "Sharpe ratio of daily returns, with its interval"
    return Figure(title, plot_models([before, now], list_models(before, now)))


def plot_models(sides: Sequence[Side], models: Sequence[str]) -> Markup:
    """Return a dot with its interval for each model and side."""
    rows = {side.name: [find_row(side, model) for model in models] for side in sides}
    ends = {
        name: [to_floats([row.get(f"sharpe_daily{end}") for row in found]) for end in ("", "_low", "_high")]
        for name, found in rows.items()
    }
    x = fit_scale(
        *(each for found in ends.values() for each in found), start=NAME_WIDTH, stop=WIDTH - RIGHT, include=0.0
    )
    top = TOP + 16.0
    bottom = top + ROW_HEIGHT * len(models)
    panel = Panel(x, fit_scale(0.0, start=bottom, stop=top))
    parts = [draw_legend(zip(STYLES, ends, strict=True), y=14), draw_moment(panel, 0.0)]
    for tick, label in x.list_ticks():
        at = float(x.place(tick))
        parts.append(f'<path class="grid" d="M{format_pixel(at)} {format_pixel(bottom)}V{format_pixel(top)}"/>')
        parts.append(write_text(at, bottom + 13, label, anchor="middle"))
    parts.append(write_text((NAME_WIDTH + WIDTH) / 2, bottom + 28, "Sharpe ratio of daily returns", anchor="middle"))
    for row, model in enumerate(models):
        middle = top + ROW_HEIGHT * (row + 0.5)
        parts.append(write_text(NAME_WIDTH - 6, middle + 4, model, anchor="end"))
        for style, shift, found in zip(STYLES, (-5.0, 5.0), ends.values(), strict=True):
            value, low, high = (x.place(each)[row] for each in found)
            y = format_pixel(middle + shift)
            if np.isfinite([low, high]).all():
                parts.append(f'<path class="line {style}" d="M{format_pixel(low)} {y}H{format_pixel(high)}"/>')
            if np.isfinite(value):
                parts.append(f'<circle class="dot {style}" cx="{format_pixel(value)}" cy="{y}" r="3.5"/>')
    words = "; ".join(
        f"{model}: " + ", ".join(f"{format_number(float(found[0][row]))} in {name}" for name, found in ends.items())
        for row, model in enumerate(models)
    )
    return compose(parts, height=bottom + FOOT, alt=f"Annualized Sharpe ratio of daily returns: {words}.")


def tabulate_gate(before: Side, now: Side) -> Table:
    """Return the rules of the gate with value and verdict of both sides."""
    gates: list[Report] = [side.gate or {} for side in (before, now)]
    rules = [gate.get("rules", {}) for gate in gates]
    rows = [["bundle", *(describe_passing(gate) for gate in gates)]]
    rows += [
        [rule, *(describe_rule(found.get(rule)) for found in rules)] for rule in dict.fromkeys([*rules[1], *rules[0]])
    ]
    return Table("Rules of the gate", ["rule", before.name, now.name], rows)


def describe_passing(gate: Report) -> str:
    """Return whether a bundle passes the gate, and what it trades."""
    if not gate:
        return "not judged"
    return f"{'passes' if gate['passed'] else 'does not pass'}, trades {gate['signal']}"


def describe_rule(result: Report | None) -> str:
    """Return the verdict on one rule, with its value and condition."""
    if result is None:
        return DASH
    text = f"{result['verdict']}: {format_number(result['value'])}, {result['condition']}"
    return f"{text} ({result['reason']})" if result["reason"] else text


def tabulate_figures(before: Side, now: Side) -> Table:
    """Return the headline figures of both sides and their differences."""
    pair = [side.reports.headline for side in (before, now)]
    names = [name for name in dict.fromkeys([*pair[1], *pair[0]]) if name != "reason"]
    rows = []
    for name in names:
        values = [figures.get(name) for figures in pair]
        cells = [value if isinstance(value, str) else format_number(value) for value in values]
        rows.append([name.replace("_", " "), *cells, format_difference(*values)])
    return Table("Figures of the comparison", ["figure", before.name, now.name, "difference"], rows)


def tabulate_params(before: Side, now: Side) -> Table:
    """Return the keys of params.yaml whose values differ."""
    flat = [flatten(side.params) for side in (before, now)]
    keys = [key for key in dict.fromkeys([*flat[1], *flat[0]]) if flat[0].get(key) != flat[1].get(key)]
    rows = [[key, *(found.get(key, DASH) for found in flat)] for key in keys]
    title = f"Params that differ: {len(rows)} of {len({*flat[0], *flat[1]})}"
    return Table(title, ["key", before.name, now.name], rows, note="" if rows else "Both sides have the same params.")


def flatten(block: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the values of nested blocks as JSON, by their keys joined with points.

    >>> flatten({"a": {"b": 1, "c": [2, 3]}, "d": {}})
    {'a.b': '1', 'a.c': '[2, 3]', 'd': '{}'}
    """
    flat: dict[str, str] = {}
    for key, value in block.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, default=str, ensure_ascii=False)
    return flat
