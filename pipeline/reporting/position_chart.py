"""The position chart: price, position and equity of a model over time, and a window of it bar by bar."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from pipeline.evaluation import performance
from pipeline.evaluation.evaluation_data import EvaluationData
from pipeline.evaluation.portfolio import trade_predictions
from pipeline.reporting.plots import (
    BLUE,
    GRAY,
    INK,
    ORANGE,
    RED,
    add_legend_below,
    format_date_axis,
    pick_points,
    style_axes,
    to_dates,
)

ZOOM_BARS = 240  # of the window that is shown bar by bar
ROUNDING = 1e-9  # of a position: a smaller trade is an error of arithmetic
POSITION_BINS = 360  # over a longer time: as many as the eye can distinguish
SIDE_COLORS = LinearSegmentedColormap.from_list(  # short, flat, long: the further from flat, the more opaque
    "sides", [(0.0, f"{RED}c0"), (0.5, f"{RED}00"), (0.5, f"{BLUE}00"), (1.0, f"{BLUE}c0")]
)


@dataclass(frozen=True, eq=False)
class PositionHistory:
    """The position held over each of T bars, that is between T + 1 instants, with prices and equity."""

    time: np.ndarray  # (T + 1,) ms
    price: np.ndarray  # (T + 1,) at each instant
    position: np.ndarray  # (T,) in [-1, 1]
    change: np.ndarray  # (T + 1,) of the position at each instant
    equity: np.ndarray  # (T + 1,) net of costs, 1 at the first

    @classmethod
    def from_returns(
        cls, time: np.ndarray, *, price: np.ndarray, position: np.ndarray, turnover: np.ndarray, net: np.ndarray
    ) -> "PositionHistory":
        """Return the history of (T,) positions, turnover and net returns, flat before the first and after the last.

        Where nothing is traded the position changes by its drift alone, which is no `change`.
        """
        change, is_flat = np.diff(position, prepend=0.0, append=0.0), np.append(position, 0.0) == 0
        is_traded = np.append(turnover > 0, False) | is_flat
        equity = np.concatenate([[1.0], performance.compound_equity(net)])
        return cls(time, price, position, np.where(is_traded, change, 0.0), equity)

    @property
    def buy_and_hold(self) -> np.ndarray:
        """(T + 1,) equity of buying at the first price and holding."""
        return np.asarray(self.price / self.price[0])

    @property
    def peak(self) -> np.ndarray:
        """(T + 1,) highest equity so far, at least 1."""
        return np.asarray(np.maximum.accumulate(np.maximum(self.equity, 1.0)))

    def slice_bars(self, start: int, *, bars: int) -> "PositionHistory":
        """Return `bars` bars from instant `start` on; the equity is 1 there, or 0 where everything is lost."""
        instants = slice(start, start + bars + 1)
        equity = self.equity[instants] / (self.equity[start] or 1.0)
        position = self.position[start : start + bars]
        return PositionHistory(self.time[instants], self.price[instants], position, self.change[instants], equity)

    def take_last(self, share: float) -> "PositionHistory":
        """Return the last `share` of the bars, at least one."""
        bars = int(np.ceil(share * len(self.position)))
        return self.slice_bars(len(self.position) - bars, bars=bars)


def trace_positions(predictions: pd.DataFrame, data: EvaluationData) -> tuple[str, PositionHistory]:
    """Return the first symbol of the portfolio and its positions bar by bar; in a gap its last price stands.

    Prices are closes at the decisions; net returns are those on the symbol's share of the capital. The history ends
    with the symbol's last bar, and begins with its first, or with the first prediction of any.
    """
    result = trade_predictions(predictions, data)
    symbol, done = result.symbols[0], result.backtest
    prices = data.clean[data.clean["symbol"] == symbol].set_index(data.time_column)["close"]
    share = result.sharing
    turnover = done.turnover[:, 0] * share
    turnover[-1] -= np.abs(done.position[-1, 0] + done.gross[-1, 0] * share[-1])  # what is closed after the last row
    net = (done.gross - done.cost - done.interest)[:, 0] * share
    listed = np.flatnonzero((result.time >= prices.index[0]) & (result.time <= prices.index[-1]))
    time, turnover, net = (each[listed] for each in (result.time, turnover, net))
    later = prices.index[prices.index > time[-1]]  # none after the last row of all
    step = data.bar_ms or (later[0] - time[-1] if len(later) else np.diff(time[-2:])[0])
    end = time[-1] + step
    instants = np.append(time, end)
    history = PositionHistory.from_returns(
        data.to_ms(instants),
        price=prices.reindex(instants, method="ffill").to_numpy(),
        position=done.position[listed, 0],
        turnover=np.where(turnover > ROUNDING, turnover, 0.0),
        net=net,
    )
    return symbol, history


def find_busiest_window(change: np.ndarray, *, bars: int) -> int:
    """Return the first instant of the window of `bars` bars with the highest turnover, the first of equals.

    `change` is of the position at (T + 1,) instants. A window contains the instants at both ends of its bars.
    """
    traded = np.concatenate([[0.0], np.cumsum(np.abs(change))])
    instants = min(bars + 1, len(change))
    return int(np.argmax(np.round(traded[instants:] - traded[:-instants], 9)))  # equals differ by rounding


def plot_positions(history: PositionHistory, *, title: str) -> Figure:
    """Return price, position and equity of all bars; beside them the busiest window, bar by bar."""
    zoom = history.slice_bars(find_busiest_window(history.change, bars=ZOOM_BARS), bars=ZOOM_BARS)
    figure = Figure(figsize=(15.0, 9.2), dpi=100, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
    panels = figure.subplots(3, 2, sharex="col", width_ratios=[1.6, 1.0], height_ratios=[2.2, 1.2, 1.6])
    window = f"{'busiest' if history.change.any() else 'first'} {len(zoom.position)} bars"
    names = f"{len(history.position):,} bars", window
    for column, shown, name in zip(panels.T, (history, zoom), names, strict=True):
        _draw_price(column[0], shown, title=f"{name}: {_summarize(shown)}")
        _draw_position(column[1], shown)
        _draw_equity(column[2], shown)
        column[2].set_xlim(*to_dates(shown.time[[0, -1]]))
        format_date_axis(column[2])
    _draw_trades(panels[0, 1], zoom)
    if len(zoom.time) < len(history.time):
        spans = [axes.axvspan(*to_dates(zoom.time[[0, -1]]), color=INK, alpha=0.2, lw=1.0) for axes in panels[:, 0]]
        spans[-1].set_label("shown to the right")
    add_legend_below(figure)
    return figure


def _summarize(shown: PositionHistory) -> str:
    """Return how often it trades, and the share of the time that it is long and short."""
    trades = np.count_nonzero(shown.change)
    long, short = (shown.position > 0).mean(), (shown.position < 0).mean()
    return f"{trades:,} trades, long {long:.0%} of the time, short {short:.0%}" if trades else "it never trades"


def _draw_price(axes: Axes, shown: PositionHistory, *, title: str) -> None:
    """Draw the price over an area that is blue where the mean position is long, and red where it is short.

    The larger the position, relative to the largest shown, the deeper the color.
    """
    style_axes(axes, title)
    at, edges = pick_points(len(shown.time)), _make_bin_edges(len(shown.position))
    date, price, mean = to_dates(shown.time[at]), shown.price[at], _average_bins(shown.position, edges)
    axes.plot(date, price, color=INK, lw=1.1)
    axes.margins(y=0.08)
    limits = axes.get_ylim()
    area = axes.fill_between(date, limits[0], price, color="none")
    limit = np.abs(mean).max() or 1.0
    sides = axes.pcolormesh(to_dates(shown.time[edges]), limits, mean[None], cmap=SIDE_COLORS, vmin=-limit, vmax=limit)
    sides.set_clip_path(area.get_paths()[0], axes.transData)
    axes.set_ylim(limits)
    axes.set_ylabel("close")
    axes.ticklabel_format(axis="y", useOffset=False)


def _draw_position(axes: Axes, shown: PositionHistory) -> None:
    """Draw the mean position of each bin, in front of the most extreme position within it."""
    edges = _make_bin_edges(len(shown.position))
    date, mean, bars = to_dates(shown.time[edges]), _average_bins(shown.position, edges), int(np.diff(edges).max())
    style_axes(axes, f"position: mean of {bars} bars; pale: extreme" if bars > 1 else "position, bar by bar")
    for extreme, color, side in ((np.maximum, BLUE, "long"), (np.minimum, RED, "short")):
        most = extreme.reduceat(shown.position, edges[:-1])
        axes.stairs(extreme(most, 0.0), date, fill=True, color=color, alpha=0.25, lw=0)
        axes.stairs(extreme(mean, 0.0), date, fill=True, color=color, lw=0, label=side)
    axes.axhline(0.0, color=INK, lw=0.8)
    axes.set_ylim(-1.05, 1.05)


def _make_bin_edges(bars: int) -> np.ndarray:
    """Return (bins + 1,) the instants between bins of about equally many bars; of few bars each is a bin."""
    return np.unique(np.linspace(0, bars, POSITION_BINS + 1).astype(np.int64))


def _average_bins(position: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return (bins,) the mean position of each bin."""
    return np.asarray(np.add.reduceat(position, edges[:-1]) / np.diff(edges))


def _draw_equity(axes: Axes, shown: PositionHistory) -> None:
    """Draw the net equity beside that of buying and holding; the drawdown is shaded."""
    drawdown = np.max(1.0 - shown.equity / shown.peak)
    gain, buy_and_hold = _format_gain(shown.equity), _format_gain(shown.buy_and_hold)
    style_axes(axes, f"equity {gain}, buy and hold {buy_and_hold}, maximum drawdown {drawdown:.2%}")
    at = pick_points(len(shown.time))
    date, equity = to_dates(shown.time[at]), shown.equity[at]
    axes.plot(date, equity, color=INK, lw=1.6, zorder=3, label="equity, net of costs")
    axes.plot(date, shown.buy_and_hold[at], color=GRAY, lw=1.1, label="buy and hold")
    axes.fill_between(date, equity, shown.peak[at], color=ORANGE, alpha=0.25, lw=0, label="drawdown")
    axes.ticklabel_format(axis="y", useOffset=False)


def _format_gain(equity: np.ndarray) -> str:
    """Return by how much an equity that begins with 1 grows."""
    return f"{equity[-1] - 1.0:+.2%}".replace("-", "−")


def _draw_trades(axes: Axes, shown: PositionHistory) -> None:
    """Draw every change of the position as a triangle beside the price, the larger the more is traded."""
    for sign, marker, color, name in ((1, "^", BLUE, "bought"), (-1, "v", RED, "sold")):
        at = np.flatnonzero(sign * shown.change > 0)
        if not len(at):
            continue
        beside = offset_copy(axes.transData, axes.get_figure(root=True), y=-8.0 * sign, units="points")
        axes.scatter(
            to_dates(shown.time[at]),
            shown.price[at],
            s=16.0 + 40.0 * np.abs(shown.change[at]),
            marker=marker,
            color=color,
            edgecolor="white",
            linewidth=0.4,
            zorder=3,
            transform=beside,
            label=name,
        )
