"""Plots of signals: arrays in, matplotlib figures out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.reporting.plots import GRAY, INK, plot_message, style_axes

MAX_FEATURES = 60  # as many as stay legible
WHOLE_WIDTH = 2.4  # of the column of all rows, in columns of a group
UNDEFINED_COLOR = "#d5d9de"


@dataclass(frozen=True)
class SignalPanel:
    """The correlations of all features with one target."""

    whole: np.ndarray  # (F,) over all rows
    groups: np.ndarray  # (F, G) within each group
    is_distinguishable: np.ndarray  # (F,) bool, from 0


def plot_signals(features: Sequence[str], panels: Mapping[str, SignalPanel], *, title: str, unit: str) -> Figure:
    """Return a heatmap by feature and group with a panel for each target; those with the largest values stand first.

    Each panel has its own colors. The number of a value that is distinguishable from 0 is bold and has a star. A
    number of features follows the title.
    """
    if not features or not panels:
        return plot_message(f"{title}: there is no signal")
    strongest = np.nan_to_num(np.abs([panel.whole for panel in panels.values()])).max(axis=0)  # (F,)
    shown = np.argsort(-strongest, kind="stable")[:MAX_FEATURES]
    count = len(features) if len(shown) == len(features) else f"{len(shown)} of {len(features)}"
    figure = Figure(figsize=(2.2 + 3.3 * len(panels), 2.0 + 0.2 * len(shown)), dpi=100, layout="constrained")
    figure.suptitle(f"{title}; {count} features", x=0.01, ha="left", fontsize=11, color=INK)
    figure.supxlabel("all development rows, then group of the cross-validation in time", fontsize=10, color=INK)
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (target, panel) in zip(row, panels.items(), strict=True):
        style_axes(axes, f"target {target}")
        _draw_panel(axes, panel, shown, unit=unit)
        axes.set_yticks([])
        axes.invert_yaxis()
    row[0].set_yticks(np.arange(len(shown)) + 0.5, [features[i] for i in shown], fontsize=8)
    row[0].set_ylabel("feature")
    return figure


def _draw_panel(axes: Axes, panel: SignalPanel, shown: np.ndarray, *, unit: str) -> None:
    values = np.column_stack([panel.whole, panel.groups])[shown]
    limit = np.abs(values).max(initial=1e-9, where=np.isfinite(values))
    groups = panel.groups.shape[1]
    colors = colormaps["RdBu"].with_extremes(bad=UNDEFINED_COLOR)
    edges = np.concatenate([[0.0], WHOLE_WIDTH + np.arange(groups + 1)])
    lines = np.arange(len(shown) + 1)
    mesh = axes.pcolormesh(edges, lines, np.ma.masked_invalid(values), cmap=colors, vmin=-limit, vmax=limit)
    for line, feature in enumerate(shown):
        value, is_distinguishable = panel.whole[feature], bool(panel.is_distinguishable[feature])
        text = "undefined" if np.isnan(value) else f"{value:+.3f}{'*' if is_distinguishable else ''}".replace("-", "−")
        ink = "white" if abs(value) > 0.6 * limit else INK if is_distinguishable else "#5b6773"
        weight = "bold" if is_distinguishable else "normal"
        number = axes.text(WHOLE_WIDTH / 2, line + 0.5, text, ha="center", va="center_baseline", fontsize=7.5)
        number.set(color=ink, weight=weight, in_layout=False)  # it lies inside: to lay it out takes a second
    axes.axvline(WHOLE_WIDTH, color=GRAY, lw=1.5)
    axes.set_xticks([WHOLE_WIDTH / 2, *(WHOLE_WIDTH + 0.5 + np.arange(groups))], ["all", *map(str, range(groups))])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.figure.colorbar(mesh, ax=axes, orientation="horizontal", label=unit, fraction=0.03, pad=0.02, shrink=0.9)
