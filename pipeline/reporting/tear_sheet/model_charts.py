"""Charts of one model's terms of trading, forecasts and fits."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.reporting.tear_sheet.charts import HEIGHT, span_x
from pipeline.reporting.tear_sheet.evidence import ModelEvidence
from pipeline.reporting.tear_sheet.formats import format_number, format_percent
from pipeline.reporting.tear_sheet.scales import Scale, Unit, fit_scale
from pipeline.reporting.tear_sheet.svg import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Panel,
    compose,
    draw_axes,
    draw_legend,
    draw_level,
    draw_line,
    draw_moment,
    draw_points,
    draw_whiskers,
    format_pixel,
    write_text,
)

CURVE_LABELS = {  # report of an execution curve: name of its axis, title of what varies
    "by_cost": "cost charged on each side, bps",
    "by_delay": "delay of every order, bars",
    "by_capital": "capital, quote currency, log axis",
}
CLASS_STYLES = ("c0", "c1", "c2", "c3", "c4")
NAME_WIDTH, ROW_HEIGHT = 150.0, 14.0
TOP_FEATURES = 15
FIT_POINTS = 120  # of one learning curve, of which there are dozens


def to_floats(values: list[float | None]) -> np.ndarray:
    """Return values of a report as float64; null is NaN."""
    return np.array([np.nan if value is None else value for value in values], np.float64)


def plot_execution_curve(model: ModelEvidence, curve: str) -> Markup | str:
    """Return the net return of the median path against cost, delay or capital; a reason where it was not measured."""
    execution: Mapping[str, Any] = model.details["execution"]
    found = execution[curve]
    if not found or not found["values"]:
        return f"no curve: {(found or execution)['reason'] or 'params.yaml lists no values under execution'}"
    values, net = to_floats(found["values"]), to_floats(found["net_return"])
    is_log = curve == "by_capital"
    is_cost = curve == "by_cost"
    break_even = execution["break_even_bps"]
    marks = [value for value in (break_even, execution["charged_bps"]) if is_cost and value is not None and value >= 0]
    unit: Unit = "count" if curve == "by_delay" else "number"
    x = span_x(min([*values, *marks]), max([*values, *marks]), unit=unit, is_log=is_log)
    panel = Panel(x, fit_scale(net, start=HEIGHT - BOTTOM, stop=TOP, unit="percent", include=0.0))
    parts = [
        draw_axes(panel, x_label=CURVE_LABELS[curve], y_label="net return"),
        draw_level(panel, 0.0),
        draw_line(panel, values, net, style="median"),
        draw_points(panel, values, net, style="c0"),
    ]
    if is_cost:
        labels = [f"charged {format_number(execution['charged_bps'])}"]
        labels += [f"break-even {format_number(break_even)}"] if len(marks) > 1 else []
        ordered = [execution["charged_bps"], *([break_even] if len(marks) > 1 else [])]
        parts += [
            draw_moment(panel, value, label=label, row=row)
            for row, (value, label) in enumerate(zip(ordered, labels, strict=True))
        ]
    pairs = ", ".join(f"{format_percent(b)} at {format_number(a)}" for a, b in zip(values, net, strict=True))
    alt = f"{model.name}: net return of the median path against {CURVE_LABELS[curve]}: {pairs}."
    return compose(parts, height=HEIGHT, alt=alt)


def plot_calibration(model: ModelEvidence) -> Markup | str:
    """Return the mean outcome against the mean prediction, by bin, with two standard errors; or the reason why not."""
    calibration = model.calibration
    if calibration.reason:
        return f"no calibration: {calibration.reason}"
    curves = calibration.curves
    ends = [each for predicted, actual, _ in curves.values() for each in (predicted, actual)]
    x = fit_scale(*[predicted for predicted, _, _ in curves.values()], start=LEFT, stop=WIDTH - RIGHT)
    panel = Panel(x, fit_scale(*ends, start=HEIGHT - BOTTOM, stop=TOP + 14))
    diagonal = np.array([max(panel.x.low, panel.y.low), min(panel.x.high, panel.y.high)])
    parts = [
        draw_axes(panel, x_label=f"mean predicted {calibration.unit}", y_label=f"mean {calibration.unit}"),
        draw_line(panel, diagonal, diagonal, style="rule"),
    ]
    for style, (predicted, actual, error) in zip(CLASS_STYLES, curves.values(), strict=False):
        parts.append(draw_whiskers(panel, predicted, actual - 2 * error, actual + 2 * error))
        parts.append(draw_line(panel, predicted, actual, style=style))
        parts.append(draw_points(panel, predicted, actual, style=style, radius=2.5))
    parts.append(draw_legend(zip(CLASS_STYLES, curves, strict=False), y=14))
    within = [int((np.abs(actual - predicted) <= 2 * error).sum()) for predicted, actual, error in curves.values()]
    bins = [len(predicted) for predicted, _, _ in curves.values()]
    words = "; ".join(f"{n}: {a} of {b} bins" for n, a, b in zip(curves, within, bins, strict=True))
    alt = f"{model.name}: mean {calibration.unit} against the prediction; within two standard errors of it: {words}."
    return compose(parts, height=HEIGHT, alt=alt)


def plot_importances(model: ModelEvidence) -> Markup | str:
    """Return the features with the largest shares of importance; the reason where a model has none."""
    permuted = (model.audit or {}).get("permutation_importance")
    own = (model.training or {}).get("importances")
    importances = own or ({"importance by permutation": permuted["importances"]} if permuted else None)
    if not importances:
        return "no importances: an ensemble is not fitted, and a split without labeled test rows has none"
    kind, found = next(iter(importances.items()))
    gain = {name: max(value, 0.0) for name, value in found.items()}  # permuting a useless column may lower the loss
    total = sum(gain.values())
    if not total:
        return "no importances: the model uses no column"
    ranked = sorted(gain.items(), key=lambda item: (-item[1], item[0]))[:TOP_FEATURES]
    title = f"{model.name}: the {len(ranked)} of {len(gain)} features with the largest share of {kind}"
    return draw_shares([(name, value / total) for name, value in ranked], title=title)


def draw_shares(shares: list[tuple[str, float]], *, title: str) -> Markup:
    """Return a bar for each named share, the name to its left and the share to its right."""
    highest = max(share for _, share in shares)
    scale = Scale(0.0, highest, NAME_WIDTH, WIDTH - 50.0)
    parts = []
    for row, (name, share) in enumerate(shares):
        y, end = 4 + row * ROW_HEIGHT, float(scale.place(share))
        parts.append(write_text(NAME_WIDTH - 5, y + 10, name, anchor="end"))
        parts.append(
            f'<rect class="gain" x="{format_pixel(NAME_WIDTH)}" y="{format_pixel(y + 2)}" '
            f'width="{format_pixel(end - NAME_WIDTH)}" height="{format_pixel(ROW_HEIGHT - 4)}"/>'
        )
        parts.append(write_text(end + 4, y + 10, format_percent(share, digits=1)))
    words = ", ".join(f"{name} {format_percent(share, digits=1)}" for name, share in shares[:5])
    return compose(parts, height=len(shares) * ROW_HEIGHT + 8, alt=f"{title}; first: {words}.")


def plot_permutation_importances(model: ModelEvidence) -> Markup | str:
    """Return the features whose permutation raises the loss most, beside the model's own importances; or a reason."""
    permuted = (model.audit or {}).get("permutation_importance")
    if not permuted:
        return "no importances: they were not measured"
    if not (model.training or {}).get("importances"):
        return "the picture above shows them"
    return plot_importances(replace(model, training=None))


def plot_learning_curves(model: ModelEvidence) -> Markup | str:
    """Return the train and validation loss of every fit by iteration; the reason where nothing was fitted."""
    history: pd.DataFrame = model.history
    if history.empty:
        return "no learning curves: this model is not fitted"
    columns = [name for name in ("train_loss", "valid_loss") if history[name].notna().any()]
    if not columns:
        return "no learning curves: no fit has a loss"
    losses = history[columns].to_numpy(np.float64)
    x = span_x(float(history["iteration"].min()), float(history["iteration"].max()), unit="count")
    panel = Panel(x, fit_scale(losses, start=HEIGHT - BOTTOM, stop=TOP + 14))
    fits = list(history.groupby(["seed", "split"], sort=True))
    styles = {"train_loss": "c1", "valid_loss": "c0"}
    parts = [draw_axes(panel, x_label="iteration", y_label="loss")]
    for _, fit in fits:
        iteration = fit["iteration"].to_numpy(np.float64)
        parts += [
            draw_line(panel, iteration, fit[name].to_numpy(np.float64), style=f"{styles[name]} thin", points=FIT_POINTS)
            for name in columns
        ]
    names = {"train_loss": "train", "valid_loss": "validation"}
    parts.append(draw_legend([(styles[name], names[name]) for name in columns], y=14))
    longest = int(history["iteration"].max())
    alt = f"{model.name}: loss of {len(fits)} fits by iteration, at most {longest}; lowest validation loss "
    return compose(parts, height=HEIGHT, alt=f"{alt}{format_number(float(history[columns[-1]].min()))}.")


def plot_round_trips(model: ModelEvidence) -> Markup | str:
    """Return the number of round trips by net return; the reason where there are none."""
    net = model.round_trips["net"].to_numpy(np.float64) * 1e4
    if not len(net):
        return "no round trips: the median path never trades"
    limit = float(np.quantile(np.abs(net), 0.99)) or 1.0
    counts, edges = np.histogram(np.clip(net, -limit, limit), bins=40, range=(-limit, limit))
    panel = Panel(span_x(-limit, limit), fit_scale(counts, start=HEIGHT - BOTTOM, stop=TOP, include=0.0))
    width = 0.9 * float(panel.x.place(edges[1]) - panel.x.place(edges[0]))
    parts = [draw_axes(panel, x_label="net return of a round trip, bps of the capital", y_label="round trips")]
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        top, floor = float(panel.y.place(count)), float(panel.y.place(0.0))
        middle = float(panel.x.place((left + right) / 2))
        parts.append(
            f'<rect class="{"gain" if left >= 0 else "loss"}" x="{format_pixel(middle - width / 2)}" '
            f'y="{format_pixel(top)}" width="{format_pixel(width)}" height="{format_pixel(floor - top)}"/>'
        )
    beyond = int((np.abs(net) > limit).sum())
    alt = (
        f"{model.name}: {len(net)} round trips of the median path by net return in bps; {int((net > 0).sum())} gain; "
        f"{beyond} beyond ±{format_number(limit)} stand in the outermost bars."
    )
    return compose(parts, height=HEIGHT, alt=alt)


def plot_confusion(model: ModelEvidence) -> Markup | str:
    """Return the shares of each actual class by predicted class; the reason where there are no classes."""
    counts = model.metrics.get("confusion")
    if not counts:
        return "no confusion matrix: the predictions have no direction"
    table = np.asarray(counts, np.float64)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1.0)
    names, size = list(model.class_names), len(table)
    cell_width, cell_height, left, top = (WIDTH - 90.0) / size, 44.0, 80.0, 30.0
    parts = [write_text(left + size * cell_width / 2, 11, "predicted class", anchor="middle")]
    for row in range(size):
        parts.append(write_text(left - 6, top + (row + 0.6) * cell_height, f"is {names[row]}", anchor="end"))
        parts.append(write_text(left + (row + 0.5) * cell_width, top - 6, names[row], anchor="middle"))
        for column in range(size):
            x, y = left + column * cell_width, top + row * cell_height
            parts.append(
                f'<rect class="cell" x="{format_pixel(x)}" y="{format_pixel(y)}" '
                f'width="{format_pixel(cell_width - 2)}" '
                f'height="{format_pixel(cell_height - 2)}" fill-opacity="{share[row, column]:.2f}"/>'
            )
            text = f"{share[row, column]:.0%} · {table[row, column]:,.0f}"
            parts.append(write_text(x + cell_width / 2, y + cell_height / 2 + 3, text, anchor="middle"))
    words = "; ".join(
        f"{names[row]}: " + ", ".join(f"{share[row, column]:.0%} as {names[column]}" for column in range(size))
        for row in range(size)
    )
    return compose(
        parts, height=top + size * cell_height + 4, alt=f"{model.name}: actual classes as predicted. {words}."
    )
