"""How a model behaved: what it held over every bar, at what prices, and what that brought; and the picture of it."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from pipeline import metrics
from pipeline.plots import BLUE, GREY, INK, ORANGE, RED, date_axis, dates, dress, legend_below, places

ZOOM_BARS = 240  # of the stretch that is shown bar by bar
BINS = 360  # of positions over a longer time: as many as the eye tells apart
SIDES = LinearSegmentedColormap.from_list(  # short, flat, long: the further from flat, the less is seen through
    "sides", [(0.0, f"{RED}c0"), (0.5, f"{RED}00"), (0.5, f"{BLUE}00"), (1.0, f"{BLUE}c0")]
)


@dataclass(frozen=True, eq=False)
class Behaviour:
    """What was held over each of T bars, from one of T + 1 instants to the next."""

    time: np.ndarray  # (T + 1,) ms
    price: np.ndarray  # (T + 1,) at each instant
    position: np.ndarray  # (T,) in [-1, 1]
    change: np.ndarray  # (T + 1,) of the position at each instant
    equity: np.ndarray  # (T + 1,) net of costs, 1 at the first

    @classmethod
    def of(cls, time: np.ndarray, *, price: np.ndarray, position: np.ndarray, net: np.ndarray) -> "Behaviour":
        """The (T,) positions and the (T,) net returns that they brought, from flat to flat."""
        change = np.diff(position, prepend=0.0, append=0.0)
        return cls(time, price, position, change, np.concatenate([[1.0], metrics.equity(net)]))

    @property
    def held(self) -> np.ndarray:
        """(T + 1,) what 1 becomes that buys at the first price and holds."""
        return np.asarray(self.price / self.price[0])

    @property
    def peak(self) -> np.ndarray:
        """(T + 1,) the highest equity so far, at least 1."""
        return np.asarray(np.maximum.accumulate(np.maximum(self.equity, 1.0)))

    def stretch(self, start: int, *, bars: int) -> "Behaviour":
        """What was done over some bars from instant `start` on; the equity is 1 there, or 0 where all is lost."""
        instants = slice(start, start + bars + 1)
        equity = self.equity[instants] / (self.equity[start] or 1.0)
        position = self.position[start : start + bars]
        return Behaviour(self.time[instants], self.price[instants], position, self.change[instants], equity)


def busiest(change: np.ndarray, *, bars: int) -> int:
    """The instant at which the stretch of some bars begins that trades most, the first of equals.

    `change` is of the position at (T + 1,) instants; a stretch trades at those that its bars begin and end.
    """
    traded = np.concatenate([[0.0], np.cumsum(np.abs(change))])
    instants = min(bars + 1, len(change))
    return int(np.argmax(np.round(traded[instants:] - traded[:-instants], 9)))  # equals differ by rounding


def figure(behaviour: Behaviour, *, title: str) -> Figure:
    """Price, position and equity over the whole time; beside them the stretch that trades most, bar by bar."""
    zoom = behaviour.stretch(busiest(behaviour.change, bars=ZOOM_BARS), bars=ZOOM_BARS)
    picture = Figure(figsize=(15.0, 8.8), dpi=100, layout="constrained")
    panels = picture.subplots(3, 2, sharex="col", width_ratios=[1.6, 1.0], height_ratios=[2.2, 1.2, 1.6])
    where = f"{'busiest' if behaviour.change.any() else 'first'} {len(zoom.position)} bars"
    for column, shown, name in zip(panels.T, (behaviour, zoom), (title, where), strict=True):
        _price(column[0], shown, title=f"{name}: {_summary(shown)}")
        _position(column[1], shown)
        _equity(column[2], shown)
        column[2].set_xlim(*dates(shown.time[[0, -1]]))
        date_axis(column[2])
    _trades(panels[0, 1], zoom)
    if len(zoom.time) < len(behaviour.time):
        spans = [axes.axvspan(*dates(zoom.time[[0, -1]]), color=INK, alpha=0.2, lw=1.0) for axes in panels[:, 0]]
        spans[-1].set_label("shown to the right")
    legend_below(picture)
    return picture


def _summary(shown: Behaviour) -> str:
    """How often it trades, and how long it is on which side."""
    trades = np.count_nonzero(shown.change)
    long, short = (shown.position > 0).mean(), (shown.position < 0).mean()
    return f"{trades:,} trades, long {long:.0%} of the time, short {short:.0%}" if trades else "it never trades"


def _price(axes: Axes, shown: Behaviour, *, title: str) -> None:
    """The price stands over an area that is blue where the mean position is long, and red where it is short.

    The colour is the deeper the larger the position, up to the largest that is shown.
    """
    dress(axes, title)
    at, edges = places(len(shown.time)), _edges(len(shown.position))
    date, price, mean = dates(shown.time[at]), shown.price[at], _means(shown.position, edges)
    axes.plot(date, price, color=INK, lw=1.1)
    axes.margins(y=0.08)
    limits = axes.get_ylim()
    area = axes.fill_between(date, limits[0], price, color="none")
    reach = np.abs(mean).max() or 1.0
    sides = axes.pcolormesh(dates(shown.time[edges]), limits, mean[None], cmap=SIDES, vmin=-reach, vmax=reach)
    sides.set_clip_path(area.get_paths()[0], axes.transData)
    axes.set_ylim(limits)
    axes.set_ylabel("close")
    axes.ticklabel_format(axis="y", useOffset=False)


def _position(axes: Axes, shown: Behaviour) -> None:
    """The mean position of each bin stands above or below zero, before the furthest that was held in it."""
    edges = _edges(len(shown.position))
    date, mean, bars = dates(shown.time[edges]), _means(shown.position, edges), int(np.diff(edges).max())
    dress(axes, f"position: mean of {bars} bars; pale, the furthest" if bars > 1 else "position, bar by bar")
    for further, colour, side in ((np.maximum, BLUE, "long"), (np.minimum, RED, "short")):
        furthest = further.reduceat(shown.position, edges[:-1])
        axes.stairs(further(furthest, 0.0), date, fill=True, color=colour, alpha=0.25, lw=0)
        axes.stairs(further(mean, 0.0), date, fill=True, color=colour, lw=0, label=side)
    axes.axhline(0.0, color=INK, lw=0.8)
    axes.set_ylim(-1.05, 1.05)


def _edges(bars: int) -> np.ndarray:
    """(bins + 1,) the instants between bins of about equally many bars; of few bars each is a bin."""
    return np.unique(np.linspace(0, bars, BINS + 1).astype(np.int64))


def _means(position: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(bins,) the mean position of each bin."""
    return np.asarray(np.add.reduceat(position, edges[:-1]) / np.diff(edges))


def _equity(axes: Axes, shown: Behaviour) -> None:
    """Net equity stands beside that of buying and holding; how far it is below its peak is shaded."""
    deepest = np.max(1.0 - shown.equity / shown.peak)
    dress(axes, f"equity {_gain(shown.equity)}, buy and hold {_gain(shown.held)}, drawdown {deepest:.2%}")
    at = places(len(shown.time))
    date, equity = dates(shown.time[at]), shown.equity[at]
    axes.plot(date, equity, color=INK, lw=1.6, zorder=3, label="equity, net of costs")
    axes.plot(date, shown.held[at], color=GREY, lw=1.1, label="buy and hold")
    axes.fill_between(date, equity, shown.peak[at], color=ORANGE, alpha=0.25, lw=0, label="drawdown")
    axes.ticklabel_format(axis="y", useOffset=False)


def _gain(capital: np.ndarray) -> str:
    """By how much a capital that begins with 1 grows."""
    return f"{capital[-1] - 1.0:+.2%}".replace("-", "−")


def _trades(axes: Axes, shown: Behaviour) -> None:
    """Every change of the position is a triangle beside the price, the larger the more is traded."""
    for sign, marker, colour, name in ((1, "^", BLUE, "bought"), (-1, "v", RED, "sold")):
        at = np.flatnonzero(sign * shown.change > 0)
        if not len(at):
            continue
        beside = offset_copy(axes.transData, axes.get_figure(root=True), y=-8.0 * sign, units="points")
        axes.scatter(
            dates(shown.time[at]),
            shown.price[at],
            s=16.0 + 40.0 * np.abs(shown.change[at]),
            marker=marker,
            color=colour,
            edgecolor="white",
            linewidth=0.4,
            zorder=3,
            transform=beside,
            label=name,
        )
