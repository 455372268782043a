"""Pictures of results, drawn as images so that `dvc plots` shows them offline: arrays in, figures out."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

INK, BLUE, ORANGE, GREY, RED = "#22303c", "#2f6f9f", "#d9822b", "#9aa5b1", "#b3403a"
MAX_POINTS = 1500  # of a line: as many as an image shows


def learning_curves(histories: Sequence[Sequence[Mapping[str, float]]], *, title: str) -> Figure:
    """Train and valid loss by round, a line for every fit; the last fit is the final one."""
    figure, axes = _axes(title, "round", "loss")
    for fit, history in enumerate(histories):
        final = fit == len(histories) - 1
        width, alpha = (1.8, 1.0) if final else (0.7, 0.35)
        for name, colour in (("train", BLUE), ("valid", ORANGE)):
            loss = [step[name] for step in history]
            axes.plot(loss, color=colour, lw=width, alpha=alpha, label=f"{name}, final fit" if final else None)
    axes.legend(frameon=False)
    return figure


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
        axes.axvline(_dates(holdout_time)[0], color=GREY, lw=0.8, ls=":")
    axes.axhline(1.0, color=GREY, lw=0.8)
    _date_axis(axes)
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
    figure, axes = _axes(f"PBO = {pbo:.3f}", "logit of the relative rank out of sample", "choices")
    defined = logits[np.isfinite(logits)]
    edges = np.histogram_bin_edges(defined, bins=30).tolist()
    axes.hist(defined[defined <= 0], bins=edges, color=RED, label="not above the median: overfit")
    axes.hist(defined[defined > 0], bins=edges, color=BLUE, label="above the median")
    axes.axvline(0.0, color=INK, lw=1)
    axes.legend(frameon=False)
    return figure


def degradation(in_sample: np.ndarray, out_of_sample: np.ndarray, *, slope: float) -> Figure:
    """The chosen strategy's Sharpe out of sample against that in sample, one point a choice of blocks."""
    figure, axes = _axes(f"degradation slope = {slope:.2f}", "Sharpe in sample", "Sharpe out of sample")
    axes.scatter(in_sample, out_of_sample, s=4, alpha=0.25, color=BLUE, lw=0)
    axes.axhline(0.0, color=GREY, lw=0.8)
    return figure


def path_sharpes(sharpes: Mapping[str, np.ndarray], holdout: Mapping[str, float], *, title: str) -> Figure:
    """Every model's annualised net Sharpe on each CPCV path and on the holdout, best median first."""
    figure, axes = _axes(title, "annualised Sharpe, net of costs", "", size=(7.5, 1.2 + 0.42 * len(sharpes)))
    for row, (name, values) in enumerate(list(sharpes.items())[::-1]):
        axes.scatter(
            values, np.full(len(values), row), color=BLUE, s=28, alpha=0.6, label=None if row else "CPCV paths"
        )
        axes.scatter(holdout[name], row, color=ORANGE, marker="D", s=36, label=None if row else "holdout")
    axes.axvline(0.0, color=INK, lw=0.8)
    axes.set_yticks(range(len(sharpes)), list(sharpes)[::-1])
    axes.legend(frameon=False, loc="best")
    return figure


def nothing(title: str) -> Figure:
    """A picture that says why there is none."""
    figure, axes = _axes(title, "", "")
    axes.set_axis_off()
    return figure


def _axes(title: str, x: str, y: str, *, size: tuple[float, float] = (7.0, 4.2)) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#e4e7eb", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _dates(time_ms: np.ndarray) -> np.ndarray:
    return time_ms.astype("datetime64[ms]")


def _line(
    axes: Axes, time_ms: np.ndarray, values: np.ndarray, *, label: str | None, color: str, lw: float, alpha: float = 1.0
) -> None:
    shown = np.unique(np.linspace(0, len(values) - 1, MAX_POINTS).astype(np.int64))
    axes.plot(_dates(time_ms[shown]), values[shown], label=label, color=color, lw=lw, alpha=alpha)


def _date_axis(axes: Axes) -> None:
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
