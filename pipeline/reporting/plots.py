"""Plots of results as images, which `dvc plots` shows offline: arrays in, matplotlib figures out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

INK, BLUE, ORANGE, GRAY, RED = "#22303c", "#2f6f9f", "#d9822b", "#9aa5b1", "#b3403a"
MAX_POINTS = 1500  # of a line: as many as an image shows
MAX_DOTS, MAX_BINS, MAX_LINES = 40, 40, 60  # of a scatter without density, a histogram, a bundle of lines


def plot_importances(kinds: Mapping[str, Mapping[str, float]], *, title: str, top: int = 25) -> Figure:
    """Return a panel for each kind of importance: the `top` columns, as shares of all; negative ones count 0."""
    if not kinds:
        return plot_message(f"{title}: undefined")
    figure = Figure(figsize=(7.0 * len(kinds), 6.0), dpi=100, layout="constrained")
    for axes, (kind, values) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds.items(), strict=True):
        positive = {name: max(value, 0.0) for name, value in values.items()}
        total = sum(positive.values()) or 1.0
        ranked = sorted(positive.items(), key=lambda item: item[1])[-top:]
        style_axes(axes, f"{title} by {kind}, {len(ranked)} of {len(values)} columns")
        axes.set_xlabel(f"share of {kind}")
        axes.barh([name for name, _ in ranked], [value / total for _, value in ranked], color=BLUE)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(axis="y", visible=False)
    return figure


def plot_equity(
    time: np.ndarray, paths: np.ndarray, *, title: str, label: str = "CPCV paths", median_path: int | None = None
) -> Figure:
    """Return the compounded net equity of every path (P, T); `label` names the paths.

    The median path, that of the median Sharpe ratio, stands out where it is given.
    """
    figure, axes = _make_axes(title, "time, UTC", "equity, multiple of the capital", size=(9.0, 4.5))
    for path, values in enumerate(paths):
        _draw_line(axes, time, values, label=label if path == 0 else None, color=BLUE, lw=0.9, alpha=0.6)
    if median_path is not None:
        name = f"median path ({median_path}), by Sharpe ratio"
        _draw_line(axes, time, paths[median_path], label=name, color=INK, lw=1.6)
    axes.axhline(1.0, color=GRAY, lw=0.8)
    use_log_axis(axes)
    format_date_axis(axes)
    axes.legend(frameon=False)
    return figure


def plot_calibration(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], *, title: str, unit: str
) -> Figure:
    """Return the mean outcome against the mean prediction: per name (predicted, actual, standard error), by bin.

    The error bars are two standard errors to either side: about 95 %.
    """
    figure, axes = _make_axes(title, f"mean predicted {unit}", f"mean realized {unit}", size=(5.5, 5.0))
    for (name, (predicted, actual, error)), color in zip(curves.items(), (BLUE, ORANGE, RED), strict=False):
        axes.errorbar(predicted, actual, 2.0 * error, fmt="o-", ms=4, lw=1, color=color, label=name, capsize=2)
    limits = axes.axis()
    axes.axline((limits[0], limits[0]), slope=1.0, color=GRAY, lw=0.9, ls="--", label="perfect calibration")
    axes.axis(limits)
    axes.legend(frameon=False)
    return figure


def plot_confusion(counts: np.ndarray, names: Sequence[str], *, title: str) -> Figure:
    """Return the confusion matrix of (actual, predicted) counts, with the share of each actual class."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _make_axes(title, "predicted class", "actual class", size=(4.8, 4.4))
    axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    for (row, column), value in np.ndenumerate(share):
        text = f"{value:.0%}\n{counts[row, column]:,}"
        axes.text(column, row, text, ha="center", va="center", color="white" if value > 0.5 else INK, fontsize=9)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False)
    return figure


def plot_pbo_logits(logits: np.ndarray, *, pbo: float) -> Figure:
    """Return the distribution of the logits of the chosen strategy's rank out of sample; at most 0 is overfitting."""
    figure, axes = _make_axes(
        f"PBO = {pbo:.3f}", "logit of the relative rank out of sample", "share of the choices of blocks"
    )
    defined = logits[np.isfinite(logits)]
    edges = _make_bin_edges(defined)
    sides = (defined <= 0, RED, "not above the median: overfit"), (defined > 0, BLUE, "above the median")
    for side, color, meaning in sides:
        axes.hist(defined[side], bins=edges.tolist(), weights=np.full(side.sum(), 1 / len(defined)), color=color)
        axes.scatter([], [], marker="s", color=color, label=f"{side.mean():.1%} {meaning}")
    axes.axvline(0.0, color=INK, lw=1)
    axes.set_xlim(-1.05 * np.abs(edges).max(), 1.05 * np.abs(edges).max())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    add_legend_below(figure)
    return figure


def _make_bin_edges(logits: np.ndarray) -> np.ndarray:
    """Return the bin edges of logits: around each rank of few strategies, evenly over those of many."""
    ranks = np.unique(np.round(logits, 9))
    if len(ranks) <= MAX_BINS:
        half = 0.4 * np.diff(ranks).min(initial=0.4)
        return np.column_stack([ranks - half, ranks + half]).ravel()
    limit = np.abs(ranks).max() + 1e-6
    return np.linspace(-limit, limit, MAX_BINS + 1) + 1e-9  # a logit of 0 is left of the middle, as it counts


def plot_degradation(
    in_sample: np.ndarray, out_of_sample: np.ndarray, *, slope: float, loss_probability: float
) -> Figure:
    """Return the chosen strategy's Sharpe out of sample against that in sample, one point for each choice of blocks.

    With the least-squares line, and the line of no degradation. Two halves of one record share its mean, so that the
    slope is near −1 wherever one model is chosen always: no sign of overfitting, which a loss out of sample is.
    """
    title = f"the best of one half in the other half: a loss in {loss_probability:.0%} of the choices of blocks"
    figure, axes = _make_axes(title, "annualized Sharpe in sample", "annualized Sharpe out of sample", size=(6.4, 5.2))
    is_loss = out_of_sample < 0
    size, alpha = (5.0, 0.2) if len(in_sample) > MAX_DOTS else (22.0, 0.6)
    for side, color in ((~is_loss, BLUE), (is_loss, RED)):
        axes.scatter(in_sample[side], out_of_sample[side], s=size, alpha=alpha, color=color, lw=0, rasterized=True)
    low, high = np.nanmin([in_sample, out_of_sample]), np.nanmax([in_sample, out_of_sample])
    margin = 0.05 * (high - low) + 1e-9
    axes.set_xlim(np.nanmin(in_sample) - margin, np.nanmax(in_sample) + margin)
    axes.set_ylim(min(low, 0.0) - margin, high + margin)
    axes.axhline(0.0, color=INK, lw=0.8)
    axes.axline((high, high), slope=1.0, color=GRAY, lw=1.0, ls="--", label="no degradation")
    if np.isfinite(slope):
        middle = np.nanmean(in_sample), np.nanmean(out_of_sample)
        axes.axline(middle, slope=slope, color=ORANGE, lw=1.8, label=f"least squares, slope {slope:.2f}")
    add_legend_below(figure)
    return figure


def plot_path_sharpes(
    sharpes: Mapping[str, np.ndarray],
    intervals: Mapping[str, tuple[float, float]],  # of models that trade
    *,
    title: str,
) -> Figure:
    """Return every model's annualized net Sharpe on each CPCV path, in the order given.

    The 5 % quantile of the paths is marked. The line under them is the interval of the median path. Up to `MAX_DOTS`
    paths are points, more are a density.
    """
    figure, axes = _make_axes(title, "annualized Sharpe, net of costs", "", size=(8.0, 1.4 + 0.62 * len(sharpes)))
    for row, (name, values) in enumerate(list(sharpes.items())[::-1]):
        known = values[np.isfinite(values)]
        if not len(known):
            axes.text(0.0, row, " no trade", va="center", color=GRAY)
            continue
        _draw_paths(axes, known, row=row)
        mark = [np.quantile(known, 0.05)] * 2
        axes.plot(
            mark, [row - 0.12, row + 0.34], color=RED, lw=2, label="5 % quantile of the paths", solid_capstyle="butt"
        )
        axes.plot(intervals[name], [row - 0.24] * 2, color=INK, lw=1.4, marker="|", label="interval of the median path")
    axes.axvline(0.0, color=INK, lw=0.8)
    axes.set_yticks(range(len(sharpes)), list(sharpes)[::-1])
    axes.set_ylim(-0.6, len(sharpes) - 0.4)
    axes.grid(axis="y", visible=False)
    add_legend_below(figure)
    return figure


def _draw_paths(axes: Axes, sharpes: np.ndarray, *, row: int) -> None:
    """Draw the Sharpe ratios of paths on a row: points of few, a density of many."""
    if len(sharpes) <= MAX_DOTS:
        axes.scatter(sharpes, np.full(len(sharpes), row), s=28, alpha=0.6, lw=0, color=BLUE, label="CPCV paths")
        return
    counts, edges = np.histogram(sharpes, bins=MAX_BINS)
    heights = row - 0.12 + 0.5 * counts / counts.max()
    axes.stairs(heights, edges, baseline=row - 0.12, fill=True, alpha=0.6, lw=0, color=BLUE, label="CPCV paths")


@dataclass(frozen=True)
class EquityPaths:
    """The net equity of one model at the points to show, on every path."""

    time: np.ndarray  # (T,) ms
    paths: np.ndarray  # (P, T)
    median_path: int  # the path with the median Sharpe


def plot_equity_paths(models: Mapping[str, EquityPaths], *, title: str) -> Figure:
    """Return a panel for each model, on common axes: 5 to 95 % of the paths, and the median path."""
    if not models:
        return plot_message(f"{title}: there is no model")
    columns = min(len(models), 2 if len(models) <= 4 else 3)
    rows = -(-len(models) // columns)
    figure = Figure(figsize=(4.6 * columns, 0.9 + 2.7 * rows), dpi=100, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    figure.supylabel("equity, multiple of the capital, log axis", fontsize=10, color=INK)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (name, equity) in zip(panels, models.items(), strict=False):
        style_axes(axes, name)
        _draw_equity_paths(axes, equity)
        format_date_axis(axes)
    use_log_axis(panels[0])
    for axes in panels[len(models) :]:
        axes.set_visible(False)
    for axes in panels[max(len(models) - columns, 0) : len(models)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    add_legend_below(figure)
    return figure


def _draw_equity_paths(axes: Axes, equity: EquityPaths) -> None:
    """Draw one model's equity in its panel."""
    if len(equity.paths) > 1:
        date = to_dates(equity.time)
        low, high = np.quantile(equity.paths, [0.05, 0.95], axis=0)
        axes.fill_between(date, low, high, color=BLUE, alpha=0.18, lw=0, label="5 to 95 % of the paths")
        thin = np.unique(np.linspace(0, len(equity.paths) - 1, MAX_LINES).astype(np.int64))
        drawn = equity.paths[np.argsort(equity.paths[:, -1], kind="stable")[thin]]  # from the worst to the best
        lines = axes.plot(date, drawn.T, color=BLUE, lw=0.6, alpha=0.45 if len(drawn) <= 10 else 0.12)
        lines[0].set_label("CPCV paths")
    _draw_line(axes, equity.time, equity.paths[equity.median_path], label="median path", color=INK, lw=1.6)
    axes.axhline(1.0, color=GRAY, lw=0.8)


def plot_pairs(
    names: Sequence[str], differences: Mapping[tuple[str, str], tuple[float, bool]], *, title: str
) -> Figure:
    """Return the Sharpe of each model (row) less that of each other (column); colored only where significant.

    `differences` are of the first of two models over the second, and whether that is significant.
    """
    if not differences:
        return plot_message(f"{title}: fewer than two models trade")
    models = [name for name in names if any(name in pair for pair in differences)]
    size, limit = 2.4 + 0.8 * len(models), max(abs(value) for value, _ in differences.values())
    figure, axes = _make_axes(title, "", "", size=(size + 1.2, size))
    shade = np.zeros((len(models), len(models)))  # 0, white, where nothing is significant
    for (a, b), (value, is_significant) in differences.items():
        for row, column, sign in ((models.index(a), models.index(b), 1), (models.index(b), models.index(a), -1)):
            shade[row, column] = sign * value if is_significant else 0.0
            ink, weight = (INK, "bold") if is_significant else (GRAY, "normal")
            text = f"{sign * value:+.3g}".replace("-", "−")
            axes.text(column, row, text, ha="center", va="center", color=ink, weight=weight, fontsize=9)
    edges = np.arange(len(models) + 1) - 0.5
    axes.pcolormesh(edges, edges, shade, cmap="RdBu", vmin=-2 * limit, vmax=2 * limit, edgecolors="#e4e7eb", lw=0.6)
    axes.set_xticks(range(len(models)), models, rotation=30, ha="right")
    axes.set_yticks(range(len(models)), models)
    axes.invert_yaxis()
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.grid(visible=False)
    return figure


def plot_embargo_sensitivity(
    embargo_bars: Sequence[int],
    boundary_ic: Sequence[float],
    interval: tuple[Sequence[float], Sequence[float]],
    ic: Sequence[float],
    *,
    title: str,
) -> Figure:
    """Return the information coefficient against the embargo, of rows before a test's end and of all."""
    figure, axes = _make_axes(title, "embargo, bars", "information coefficient (IC)", size=(7.0, 4.2))
    axes.fill_between(embargo_bars, *interval, color=BLUE, alpha=0.18, lw=0, label="95 % interval")
    axes.plot(embargo_bars, boundary_ic, color=BLUE, lw=1.8, marker="o", label="rows before a test's end")
    axes.plot(embargo_bars, ic, color=GRAY, lw=1.2, marker="o", ms=4, label="all tested rows")
    axes.axhline(0.0, color=INK, lw=0.8)
    axes.set_xticks(embargo_bars)
    add_legend_below(figure)
    return figure


def plot_message(title: str) -> Figure:
    """Return an empty figure whose title says why it is empty."""
    figure, axes = _make_axes(title, "", "")
    axes.set_axis_off()
    return figure


def _make_axes(title: str, x: str, y: str, *, size: tuple[float, float] = (7.0, 4.2)) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def style_axes(axes: Axes, title: str) -> None:
    """Give the panel its title, a pale grid behind its content, and no frame."""
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.grid(color="#e4e7eb", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def use_log_axis(axes: Axes) -> None:
    """Put a compounding quantity on a log axis, with ticks at 1, 2, 5, 10 … where it spans more than a factor of 3."""
    axes.set_yscale("log", nonpositive="clip")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if high > 3 * low else MaxNLocator(6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def add_legend_below(figure: Figure) -> None:
    """Put one legend below all panels, with each label once."""
    entries: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend(list(entries.values()), list(entries), frameon=False, loc="outside lower center", ncols=4, fontsize=9)


def pick_points(length: int) -> np.ndarray:
    """Return the indices of a long line that a plot shows: the first, the last, and evenly spaced ones between."""
    return np.unique(np.linspace(0, length - 1, MAX_POINTS).astype(np.int64))


def to_dates(time_ms: np.ndarray) -> np.ndarray:
    """Return instants in ms as matplotlib reads dates."""
    return time_ms.astype("datetime64[ms]")


def _draw_line(
    axes: Axes, time_ms: np.ndarray, values: np.ndarray, *, label: str | None, color: str, lw: float, alpha: float = 1.0
) -> None:
    shown = pick_points(len(values))
    axes.plot(to_dates(time_ms[shown]), values[shown], label=label, color=color, lw=lw, alpha=alpha)


def format_date_axis(axes: Axes) -> None:
    """Label the horizontal axis with dates, as short as possible."""
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
