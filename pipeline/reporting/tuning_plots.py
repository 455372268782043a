"""Pictures of a search for hyperparameters, from the details that the stage `tune` reports."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from pipeline.models.predictions import FINAL, name_split
from pipeline.reporting.plots import BLUE, GRAY, ORANGE, plot_message, style_axes

COLUMNS = 4  # of slices in a row
COLORS = "viridis"

Details = Mapping[str, Any]


def plot_search(details: Details | None, *, title: str) -> dict[str, Figure]:
    """Return the pictures of the final search by name; none of a model that is not tuned."""
    if details is None:
        return {}
    return {
        "parallel_coordinates": plot_parallel_coordinates(details, title=title),
        "slices": plot_slices(details, title=title),
        "importances": plot_importances(details, title=title),
    }


def plot_parallel_coordinates(details: Details, *, title: str) -> Figure:
    """Return a line for each trial of the final search through all that was searched; the color is its metric.

    A trial that was pruned is gray. Where a trial does not have a hyperparameter, as of another choice, its line ends.
    """
    trials, space = list_trials(details), details["space"]
    names = list(space)
    places = np.array([[find_place(trial, name, space[name]) for name in names] for trial in trials])  # (trials, names)
    complete = np.array([trial["state"] == "complete" for trial in trials])
    values = np.array([trial["value"] for trial in trials if trial["state"] == "complete"], np.float64)
    figure = Figure(figsize=(max(7.0, 1.5 * len(names) + 2.0), 5.0), dpi=100, layout="constrained")
    axes = figure.subplots()
    style_axes(axes, f"{title}, {complete.sum()} complete of {len(trials)} trials; gray: pruned")
    for line in places[~complete]:
        axes.plot(line, color=GRAY, lw=0.7, alpha=0.6)
    scale = Normalize(values.min(), values.max())
    order = np.argsort(values if details["direction"] == "maximize" else -values, kind="stable")  # the best on top
    lines = [np.column_stack([np.arange(len(names)), line]) for line in places[complete][order]]
    drawn = LineCollection(lines, array=values[order], cmap=COLORS, norm=scale, lw=1.4)
    axes.add_collection(drawn)
    figure.colorbar(drawn, ax=axes, label=f"{details['metric']}, mean of the inner folds")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks([])
    axes.set_ylim(-0.08, 1.08)
    for place, name in enumerate(names):
        low, high = name_ends(space[name])
        axes.text(place, -0.03, low, ha="center", va="top", fontsize=8)
        axes.text(place, 1.03, high, ha="center", va="bottom", fontsize=8)
    return figure


def plot_slices(details: Details, *, title: str) -> Figure:
    """Return a panel for each hyperparameter: the metric of every trial of the final search against its value.

    Of a trial that was pruned it is the mean of the inner folds that were fitted. Trials without one are left out.
    """
    trials, space = list_trials(details), details["space"]
    shown = sum(bool(trial["means"]) for trial in trials)
    rows = -(-len(space) // COLUMNS)
    columns = min(COLUMNS, len(space))
    figure = Figure(figsize=(3.4 * columns, 2.9 * rows + 0.5), dpi=100, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(grid, space, strict=False):
        draw_slice(axes, name, space[name], trials, metric=details["metric"])
    for axes in grid[len(space) :]:
        axes.set_visible(False)
    figure.suptitle(f"{title}, {shown} of {len(trials)} trials; orange: pruned, by the folds before", fontsize=10)
    return figure


def draw_slice(axes: Axes, name: str, scale: Mapping[str, Any], trials: Sequence[Details], *, metric: str) -> None:
    """Draw the metric of trials against the value of one hyperparameter."""
    style_axes(axes, name)
    own = [trial for trial in trials if name in trial["parameters"] and trial["means"]]
    for is_complete, color in ((True, BLUE), (False, ORANGE)):
        part = [trial for trial in own if (trial["state"] == "complete") == is_complete]
        x = [trial["parameters"][name] for trial in part]
        if "choices" in scale:
            x = [list(scale["choices"]).index(value) for value in x]
        axes.scatter(x, [trial["means"][-1] for trial in part], s=14, color=color, alpha=0.8)
    if "choices" in scale:
        axes.set_xticks(range(len(scale["choices"])), [str(label)[:16] for label in scale["choices"]])
    elif scale["log"]:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        ticks = np.geomspace(scale["low"], scale["high"], 3)
        axes.set_xticks(ticks, [format_tick(tick) for tick in ticks])
    axes.set_ylabel(metric)


def plot_importances(details: Details, *, title: str) -> Figure:
    """Return the importance of each hyperparameter in the final search, by PED-ANOVA, as shares of all."""
    shares = details["searches"][name_split(FINAL)]["importances"]
    if not shares:
        return plot_message(f"{title}\nNo importances: too few complete trials or hyperparameters")
    ranked = sorted(shares.items(), key=lambda item: item[1])
    figure = Figure(figsize=(7.0, 0.4 * len(ranked) + 1.4), dpi=100, layout="constrained")
    axes = figure.subplots()
    style_axes(axes, title)
    axes.barh([name for name, _ in ranked], [share for _, share in ranked], color=BLUE)
    axes.set_xlabel("importance (PED-ANOVA), share of all")
    axes.grid(axis="y", visible=False)
    return figure


def format_tick(value: float) -> str:
    """Return a number with two digits, without an exponent from 0.0001 to below a million.

    >>> format_tick(316.2), format_tick(2000.0), format_tick(0.0447), format_tick(1e-06)
    ('320', '2000', '0.045', '1e-06')
    """
    return f"{float(f'{value:.2g}'):g}"


def list_trials(details: Details) -> Sequence[Details]:
    """Return the trials of the final search."""
    trials: Sequence[Details] = details["searches"][name_split(FINAL)]["trials"]
    return trials


def find_place(trial: Details, name: str, scale: Mapping[str, Any]) -> float:
    """Return where a value of a trial lies between the ends of its axis, in [0, 1]; NaN where it has none."""
    if name not in trial["parameters"]:
        return float("nan")
    value = trial["parameters"][name]
    if "choices" in scale:
        return list(scale["choices"]).index(value) / (len(scale["choices"]) - 1)
    ends = [scale["low"], value, scale["high"]]
    low, at, high = np.log(ends) if scale["log"] else ends
    return float((at - low) / (high - low))


def name_ends(scale: Mapping[str, Any]) -> tuple[str, str]:
    """Return the texts at the low and the high end of an axis."""
    if "choices" in scale:
        return str(scale["choices"][0])[:16], str(scale["choices"][-1])[:16]
    return f"{scale['low']:g}", f"{scale['high']:g}"
