"""Charts of a whole dataset: leaderboard, folds, embargo, feature signals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.reporting.tear_sheet.charts import HEIGHT, span_x
from pipeline.reporting.tear_sheet.formats import format_day, format_interval, format_number
from pipeline.reporting.tear_sheet.model_charts import to_floats
from pipeline.reporting.tear_sheet.scales import fit_scale
from pipeline.reporting.tear_sheet.svg import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Panel,
    compose,
    draw_axes,
    draw_level,
    draw_line,
    draw_moment,
    draw_points,
    draw_whiskers,
    format_pixel,
    write_text,
)

NAME_WIDTH, ROW_HEIGHT, FOOT = 112.0, 22.0, 34.0
SPLIT_HEIGHT = 11.0

Report = Mapping[str, Any]


def plot_leaderboard(rows: Mapping[str, Report]) -> Markup:
    """Return the Sharpe ratio of daily returns of every model with its interval, and a dot for each path's of bars."""
    low, high = (to_floats([row[f"sharpe_daily_{end}"] for row in rows.values()]) for end in ("low", "high"))
    value = to_floats([row["sharpe_daily"] for row in rows.values()])
    x = fit_scale(value, low, high, start=NAME_WIDTH, stop=WIDTH - RIGHT, include=0.0)
    bottom = TOP + ROW_HEIGHT * len(rows)
    panel = Panel(x, fit_scale(0.0, start=bottom, stop=TOP))
    parts = []
    for tick, label in x.list_ticks():
        at = format_pixel(float(x.place(tick)))
        parts.append(f'<path class="grid" d="M{at} {format_pixel(bottom)}V{TOP}"/>')
        parts.append(write_text(float(x.place(tick)), bottom + 13, label, anchor="middle"))
    parts.append(write_text((NAME_WIDTH + WIDTH) / 2, bottom + 28, "Sharpe ratio of daily returns", anchor="middle"))
    parts.append(draw_moment(panel, 0.0))
    for i, name in enumerate(rows):
        y = TOP + ROW_HEIGHT * (i + 0.5)
        parts.append(write_text(NAME_WIDTH - 6, y + 4, name, anchor="end"))
        if np.isfinite(low[i]) and np.isfinite(high[i]):
            ends = [format_pixel(float(x.place(end[i]))) for end in (low, high)]
            parts.append(f'<path class="whisker" d="M{ends[0]} {format_pixel(y)}H{ends[1]}"/>')
        if np.isfinite(value[i]):
            at = format_pixel(float(x.place(value[i])))
            parts.append(f'<circle class="dot c0" cx="{at}" cy="{format_pixel(y)}" r="4"/>')
    words = ", ".join(f"{name} {format_interval(*ends)}" for name, *ends in zip(rows, value, low, high, strict=True))
    alt = f"Annualized Sharpe ratio of daily returns on the median path, with its interval: {words}."
    return compose(parts, height=bottom + FOOT, alt=alt)


def plot_folds(split: Report) -> Markup | str:
    """Return which groups of time each split tests; the reason where there is no split."""
    groups, tests = split["groups"], split["splits"].get("tested_groups")
    if not tests:
        return "no picture of the folds: there are too many splits to show each"
    first, last = (next(key for key in groups[0] if key.startswith(end)) for end in ("first_", "last_"))
    unit = first.removeprefix("first_")  # of the clock; events are numbered
    x = span_x(groups[0][first], groups[-1][last], unit="time" if unit == "ms" else "number")
    bottom = TOP + SPLIT_HEIGHT * len(tests)
    parts = []
    for row, tested in enumerate(tests):
        for number, group in enumerate(groups):
            left, right = (float(x.place(group[end])) for end in (first, last))
            parts.append(
                f'<rect class="{"test" if number in tested else "other"}" x="{format_pixel(left)}" '
                f'y="{format_pixel(TOP + row * SPLIT_HEIGHT)}" width="{format_pixel(max(0.5, right - left - 1))}" '
                f'height="{format_pixel(SPLIT_HEIGHT - 2)}"/>'
            )
        parts.append(write_text(LEFT - 4, TOP + row * SPLIT_HEIGHT + 8, str(row), anchor="end"))
    for tick, label in x.list_ticks():
        parts.append(write_text(float(x.place(tick)), bottom + 13, label, anchor="middle"))
    axis, name_end = ("time, UTC", format_day) if unit == "ms" else (f"{unit}, by number", format_number)
    parts.append(write_text((LEFT + WIDTH) / 2, bottom + 28, f"{axis}; rows: splits", anchor="middle"))
    ends = f"{name_end(groups[0][first])} to {name_end(groups[-1][last])}"
    alt = f"{len(tests)} splits of {len(groups)} groups of time from {ends}: the groups that each tests."
    return compose(parts, height=bottom + FOOT, alt=alt)


def plot_embargo(sensitivity: Report) -> Markup | str:
    """Return the IC beside the borders of test ranges against the embargo; the reason where it was not measured."""
    if sensitivity["reason"]:
        return f"no curve: {sensitivity['reason']}"
    bars, ic = to_floats(sensitivity["embargo_bars"]), to_floats(sensitivity["boundary_ic"])
    low, high = (to_floats(sensitivity[f"boundary_ic_{end}"]) for end in ("low", "high"))
    panel = Panel(
        span_x(float(bars.min()), float(bars.max())),
        fit_scale(ic, low, high, start=HEIGHT - BOTTOM, stop=TOP, include=0.0),
    )
    parts = [
        draw_axes(panel, x_label="embargo, bars", y_label="IC"),
        draw_level(panel, 0.0),
        draw_whiskers(panel, bars, low, high),
        draw_line(panel, bars, ic, style="c0"),
        draw_points(panel, bars, ic, style="c0"),
    ]
    pairs = ", ".join(f"{format_number(float(b))} at {format_number(float(a))}" for a, b in zip(bars, ic, strict=True))
    alt = f"IC of an overfitted model in the last embargo length of the test ranges, by embargo in bars: {pairs}."
    return compose(parts, height=HEIGHT, alt=alt)


def plot_signals(target: str, features: Mapping[str, Report], names: Sequence[str]) -> Markup:
    """Return the ICs of named features with one target, with two standard errors to either side."""
    ic = to_floats([features[name]["ic"] for name in names])
    error = to_floats([features[name]["ic_error"] for name in names])
    x = fit_scale(ic - 2 * error, ic + 2 * error, ic, start=150.0, stop=WIDTH - RIGHT, include=0.0)
    bottom = TOP + 15.0 * len(names)
    panel = Panel(x, fit_scale(0.0, start=bottom, stop=TOP))
    parts = []
    for tick, label in x.list_ticks():
        at = float(x.place(tick))
        parts.append(f'<path class="grid" d="M{format_pixel(at)} {format_pixel(bottom)}V{TOP}"/>')
        parts.append(write_text(at, bottom + 13, label, anchor="middle"))
    parts += [
        write_text((150.0 + WIDTH) / 2, bottom + 28, "IC with the target", anchor="middle"),
        draw_moment(panel, 0.0),
    ]
    for i, name in enumerate(names):
        y = TOP + 15.0 * (i + 0.5)
        parts.append(write_text(144.0, y + 4, name, anchor="end"))
        if np.isfinite(ic[i]) and np.isfinite(error[i]):
            ends = [format_pixel(float(x.place(ic[i] + side * error[i]))) for side in (-2, 2)]
            parts.append(f'<path class="whisker" d="M{ends[0]} {format_pixel(y)}H{ends[1]}"/>')
        if np.isfinite(ic[i]):
            at_value = format_pixel(float(x.place(ic[i])))
            parts.append(f'<circle class="dot c0" cx="{at_value}" cy="{format_pixel(y)}" r="3"/>')
    words = ", ".join(f"{name} {format_number(float(value))}" for name, value in zip(names[:5], ic, strict=False))
    alt = f"{target}: IC of the {len(names)} features with the largest |IC|, with two standard errors; first: {words}."
    return compose(parts, height=bottom + FOOT, alt=alt)
