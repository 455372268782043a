"""Pictures of results, drawn as images so that `dvc plots` shows them offline: arrays in, figures out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

INK, BLUE, ORANGE, GREY, RED = "#22303c", "#2f6f9f", "#d9822b", "#9aa5b1", "#b3403a"
MAX_POINTS = 1500  # of a line: as many as an image shows
FEW, MOST_BARS, MOST_LINES = 40, 40, 60  # points apart, bars of a histogram, lines one above another


def importances(gain: Mapping[str, float], *, title: str, top: int = 25) -> Figure:
    """The columns that reduced the loss most, as shares of the whole reduction."""
    total = sum(gain.values()) or 1.0
    ranked = sorted(gain.items(), key=lambda item: item[1])[-top:]
    figure, axes = _axes(title, "share of gain", "", size=(7.0, 6.0))
    axes.barh([name for name, _ in ranked], [value / total for _, value in ranked], color=BLUE)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", visible=False)
    return figure


def equity(time: np.ndarray, paths: np.ndarray, *, holdout_time: np.ndarray, holdout: np.ndarray, title: str) -> Figure:
    """Compounded net equity of every path (P, T) over the development part, and of the holdout after it."""
    figure, axes = _axes(title, "", "equity, net of costs", size=(9.0, 4.5))
    for path, values in enumerate(paths):
        _line(axes, time, values, label="CPCV paths" if path == 0 else None, color=BLUE, lw=0.9, alpha=0.6)
    _line(axes, time, np.median(paths, axis=0), label="median path", color=INK, lw=1.6)
    if len(holdout):
        _line(axes, holdout_time, holdout, label="holdout", color=ORANGE, lw=1.6)
        axes.axvline(dates(holdout_time)[0], color=GREY, lw=0.8, ls=":")
    axes.axhline(1.0, color=GREY, lw=0.8)
    date_axis(axes)
    axes.legend(frameon=False)
    return figure


def calibration(curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], *, title: str, unit: str) -> Figure:
    """What came true against what was predicted: per name (predicted, true, standard error), one point a bin.

    The bars are two standard errors to either side: about 95 %.
    """
    figure, axes = _axes(title, f"predicted {unit}", f"realised {unit}", size=(5.5, 5.0))
    for (name, (predicted, true, error)), colour in zip(curves.items(), (BLUE, ORANGE, RED), strict=False):
        axes.errorbar(predicted, true, 2.0 * error, fmt="o-", ms=4, lw=1, color=colour, label=name, capsize=2)
    limits = axes.axis()
    axes.axline((limits[0], limits[0]), slope=1.0, color=GREY, lw=0.9, ls="--", label="perfect")
    axes.axis(limits)
    axes.legend(frameon=False)
    return figure


def confusion(counts: np.ndarray, names: Sequence[str], *, title: str) -> Figure:
    """How often each true class was called what, in counts and as a share of the true class."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _axes(title, "called", "true", size=(4.8, 4.4))
    axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    for (row, column), value in np.ndenumerate(share):
        text = f"{value:.0%}\n{counts[row, column]:,}"
        axes.text(column, row, text, ha="center", va="center", color="white" if value > 0.5 else INK, fontsize=9)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False)
    return figure


def pbo_logits(logits: np.ndarray, *, pbo: float) -> Figure:
    """The distribution of the logits of the chosen strategy's rank out of sample; left of zero is overfitting."""
    figure, axes = _axes(f"PBO = {pbo:.3f}", "logit of the relative rank out of sample", "share of choices")
    defined = logits[np.isfinite(logits)]
    edges = _edges(defined)
    sides = (defined <= 0, RED, "not above the median: overfit"), (defined > 0, BLUE, "above it")
    for side, colour, meaning in sides:
        axes.hist(defined[side], bins=edges.tolist(), weights=np.full(side.sum(), 1 / len(defined)), color=colour)
        axes.scatter([], [], marker="s", color=colour, label=f"{side.mean():.1%} {meaning}")
    axes.axvline(0.0, color=INK, lw=1)
    axes.set_xlim(-1.05 * np.abs(edges).max(), 1.05 * np.abs(edges).max())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    legend_below(figure)
    return figure


def _edges(logits: np.ndarray) -> np.ndarray:
    """Borders of the bars of logits: around each rank of few strategies, evenly over those of many."""
    ranks = np.unique(np.round(logits, 9))
    if len(ranks) <= MOST_BARS:
        half = 0.4 * np.diff(ranks).min(initial=0.4)
        return np.column_stack([ranks - half, ranks + half]).ravel()
    reach = np.abs(ranks).max() + 1e-6
    return np.linspace(-reach, reach, MOST_BARS + 1) + 1e-9  # a logit of 0 is left of the middle, as it counts


def degradation(in_sample: np.ndarray, out_of_sample: np.ndarray, *, slope: float, loss_probability: float) -> Figure:
    """The chosen strategy's Sharpe out of sample against that in sample, one point a choice of blocks.

    With the least squares line, and the line on which nothing degrades.
    """
    title = f"degradation slope = {slope:.2f}, loss out of sample in {loss_probability:.0%} of the choices"
    figure, axes = _axes(title, "annualised Sharpe in sample", "annualised Sharpe out of sample", size=(6.4, 5.2))
    is_loss = out_of_sample < 0
    size, alpha = (5.0, 0.2) if len(in_sample) > FEW else (22.0, 0.6)
    for side, colour in ((~is_loss, BLUE), (is_loss, RED)):
        axes.scatter(in_sample[side], out_of_sample[side], s=size, alpha=alpha, color=colour, lw=0, rasterized=True)
    low, high = np.nanmin([in_sample, out_of_sample]), np.nanmax([in_sample, out_of_sample])
    margin = 0.05 * (high - low) + 1e-9
    axes.set_xlim(np.nanmin(in_sample) - margin, np.nanmax(in_sample) + margin)
    axes.set_ylim(min(low, 0.0) - margin, high + margin)
    axes.axhline(0.0, color=INK, lw=0.8)
    axes.axline((high, high), slope=1.0, color=GREY, lw=1.0, ls="--", label="as good as in sample")
    if np.isfinite(slope):
        middle = np.nanmean(in_sample), np.nanmean(out_of_sample)
        axes.axline(middle, slope=slope, color=ORANGE, lw=1.8, label="least squares")
    legend_below(figure)
    return figure


def path_sharpes(
    sharpes: Mapping[str, np.ndarray],
    holdout: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],  # of models that trade
    *,
    title: str,
) -> Figure:
    """Every model's annualised net Sharpe on each CPCV path and on the holdout, the best median first.

    The 5 % quantile of the paths is marked; the line under them is the interval of the median path. Few paths are
    points, many a density.
    """
    figure, axes = _axes(title, "annualised Sharpe, net of costs", "", size=(8.0, 1.4 + 0.62 * len(sharpes)))
    for row, (name, values) in enumerate(list(sharpes.items())[::-1]):
        known = values[np.isfinite(values)]
        if not len(known):
            axes.text(0.0, row, " no trade", va="center", color=GREY)
            continue
        _paths(axes, known, row=row)
        mark = [np.quantile(known, 0.05)] * 2
        axes.plot(mark, [row - 0.12, row + 0.34], color=RED, lw=2, label="5 % quantile of them", solid_capstyle="butt")
        axes.plot(intervals[name], [row - 0.24] * 2, color=INK, lw=1.4, marker="|", label="interval of the median path")
        axes.scatter(holdout[name], row, color=ORANGE, marker="D", s=34, zorder=3, label="holdout")
    axes.axvline(0.0, color=INK, lw=0.8)
    axes.set_yticks(range(len(sharpes)), list(sharpes)[::-1])
    axes.set_ylim(-0.6, len(sharpes) - 0.4)
    axes.grid(axis="y", visible=False)
    legend_below(figure)
    return figure


def _paths(axes: Axes, sharpes: np.ndarray, *, row: int) -> None:
    """The Sharpe ratios of paths stand on a row: points of few, a density of many."""
    if len(sharpes) <= FEW:
        axes.scatter(sharpes, np.full(len(sharpes), row), s=28, alpha=0.6, lw=0, color=BLUE, label="CPCV paths")
        return
    counts, edges = np.histogram(sharpes, bins=MOST_BARS)
    heights = row - 0.12 + 0.5 * counts / counts.max()
    axes.stairs(heights, edges, baseline=row - 0.12, fill=True, alpha=0.6, lw=0, color=BLUE, label="CPCV paths")


@dataclass(frozen=True)
class Fan:
    """The net equity of one model at the `places` to show, on every path and on the holdout that follows."""

    time: np.ndarray  # (T,) ms
    paths: np.ndarray  # (P, T)
    median: int  # the path with the median Sharpe
    holdout_time: np.ndarray  # (H,) ms
    holdout: np.ndarray  # (H,) from 1 at its beginning


def equity_fans(fans: Mapping[str, Fan], *, title: str) -> Figure:
    """A panel a model, on common axes: the band from 5 to 95 % of the paths, the median path, the holdout after it."""
    if not fans:
        return nothing(title)
    columns = min(len(fans), 2 if len(fans) <= 4 else 3)
    rows = -(-len(fans) // columns)
    figure = Figure(figsize=(4.6 * columns, 0.9 + 2.7 * rows), dpi=100, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (name, fan) in zip(panels, fans.items(), strict=False):
        dress(axes, name)
        _fan(axes, fan)
        date_axis(axes)
    for axes in panels[len(fans) :]:
        axes.set_visible(False)
    for axes in panels[max(len(fans) - columns, 0) : len(fans)]:  # nothing stands below them
        axes.tick_params(labelbottom=True)
    legend_below(figure)
    return figure


def _fan(axes: Axes, fan: Fan) -> None:
    """One model's equity stands in its panel; its holdout goes on from where the median path ends."""
    if len(fan.paths) > 1:
        date = dates(fan.time)
        low, high = np.quantile(fan.paths, [0.05, 0.95], axis=0)
        axes.fill_between(date, low, high, color=BLUE, alpha=0.18, lw=0, label="5 to 95 % of the paths")
        thin = np.unique(np.linspace(0, len(fan.paths) - 1, MOST_LINES).astype(np.int64))
        drawn = fan.paths[np.argsort(fan.paths[:, -1], kind="stable")[thin]]  # from the worst to the best
        lines = axes.plot(date, drawn.T, color=BLUE, lw=0.6, alpha=0.45 if len(drawn) <= 10 else 0.12)
        lines[0].set_label("CPCV paths")
    _line(axes, fan.time, fan.paths[fan.median], label="median path", color=INK, lw=1.6)
    if len(fan.holdout):
        _line(axes, fan.holdout_time, fan.paths[fan.median, -1] * fan.holdout, label="holdout", color=ORANGE, lw=1.6)
        axes.axvline(dates(fan.holdout_time)[0], color=GREY, lw=0.8, ls=":")
    axes.axhline(1.0, color=GREY, lw=0.8)


def pairs(names: Sequence[str], differences: Mapping[tuple[str, str], tuple[float, bool]], *, title: str) -> Figure:
    """How much the Sharpe of each model (row) is above that of each other (column); colour only where it is known.

    `differences` are of the first of two models over the second, and whether that is known.
    """
    if not differences:
        return nothing(f"{title}: fewer than two models trade")
    models = [name for name in names if any(name in pair for pair in differences)]
    size, reach = 2.4 + 0.8 * len(models), max(abs(value) for value, _ in differences.values())
    figure, axes = _axes(title, "", "", size=(size + 1.2, size))
    shade = np.zeros((len(models), len(models)))  # 0, white, where nothing is known
    for (a, b), (value, is_known) in differences.items():
        for row, column, sign in ((models.index(a), models.index(b), 1), (models.index(b), models.index(a), -1)):
            shade[row, column] = sign * value if is_known else 0.0
            ink, weight = (INK, "bold") if is_known else (GREY, "normal")
            text = f"{sign * value:+.3g}".replace("-", "−")
            axes.text(column, row, text, ha="center", va="center", color=ink, weight=weight, fontsize=9)
    edges = np.arange(len(models) + 1) - 0.5
    axes.pcolormesh(edges, edges, shade, cmap="RdBu", vmin=-2 * reach, vmax=2 * reach, edgecolors="#e4e7eb", lw=0.6)
    axes.set_xticks(range(len(models)), models, rotation=30, ha="right")
    axes.set_yticks(range(len(models)), models)
    axes.invert_yaxis()
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.grid(visible=False)
    return figure


def embargo(
    embargo_bars: Sequence[int],
    near: Sequence[float],
    interval: tuple[Sequence[float], Sequence[float]],
    every: Sequence[float],
    *,
    title: str,
) -> Figure:
    """The information coefficient against the embargo: of rows near a test's end with its interval, and of all."""
    figure, axes = _axes(title, "embargo, bars", "information coefficient", size=(7.0, 4.2))
    axes.fill_between(embargo_bars, *interval, color=BLUE, alpha=0.18, lw=0, label="its 95 % interval")
    axes.plot(embargo_bars, near, color=BLUE, lw=1.8, marker="o", label="rows before a test's end")
    axes.plot(embargo_bars, every, color=GREY, lw=1.2, marker="o", ms=4, label="all tested rows")
    axes.axhline(0.0, color=INK, lw=0.8)
    axes.set_xticks(embargo_bars)
    legend_below(figure)
    return figure


def nothing(title: str) -> Figure:
    """A picture that says why there is none."""
    figure, axes = _axes(title, "", "")
    axes.set_axis_off()
    return figure


def _axes(title: str, x: str, y: str, *, size: tuple[float, float] = (7.0, 4.2)) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.add_subplot()
    dress(axes, title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def dress(axes: Axes, title: str) -> None:
    """The panel has its title, a pale grid behind what it shows, and no frame."""
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.grid(color="#e4e7eb", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Figure) -> None:
    """What the panels name stands below them, each name once."""
    named: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.legend(list(named.values()), list(named), frameon=False, loc="outside lower center", ncols=4, fontsize=9)


def places(length: int) -> np.ndarray:
    """The places of a long line that a picture shows: the first, the last, and evenly what is between."""
    return np.unique(np.linspace(0, length - 1, MAX_POINTS).astype(np.int64))


def dates(time_ms: np.ndarray) -> np.ndarray:
    """Instants in ms as matplotlib takes them for dates."""
    return time_ms.astype("datetime64[ms]")


def _line(
    axes: Axes, time_ms: np.ndarray, values: np.ndarray, *, label: str | None, color: str, lw: float, alpha: float = 1.0
) -> None:
    shown = places(len(values))
    axes.plot(dates(time_ms[shown]), values[shown], label=label, color=color, lw=lw, alpha=alpha)


def date_axis(axes: Axes) -> None:
    """The horizontal axis tells dates, no longer than needed."""
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
