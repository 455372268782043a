"""The position chart of one stretch: candles bar by bar, orders, the side held and the net return, as SVG.

Each panel is a nested picture whose units are bars, so that the script of the page zooms by its `viewBox` alone.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from pipeline.evaluation import performance
from pipeline.reporting.tear_sheet.evidence import Bars, ModelEvidence
from pipeline.reporting.tear_sheet.formats import format_number, format_percent, format_time
from pipeline.reporting.tear_sheet.sampling import downsample
from pipeline.reporting.tear_sheet.scales import Scale, fit_scale
from pipeline.reporting.tear_sheet.stretches import Stretch
from pipeline.reporting.tear_sheet.svg import Panel, draw_axes, format_pixel, write_text

WIDE, LEFT, RIGHT = 1000.0, 70.0, 24.0
PRICE, LANE, RETURN = (8.0, 278.0), (286.0, 310.0), (320.0, 400.0)  # pixels of the panels, from top to bottom
HEIGHT = 436.0
RETURN_POINTS = 500


@dataclass(frozen=True)
class Frame:
    """The units of a stretch: x is in bars from its first bar on, y in pixels of a panel of the page."""

    bars: Bars
    start_ms: int
    step_ms: int

    @classmethod
    def from_bars(cls, bars: Bars) -> "Frame":
        """Return the frame of (T,) bars; the step is the shortest distance of two bars."""
        steps = np.diff(bars.time_ms)
        return cls(bars, int(bars.time_ms[0]), int(steps.min()) if len(steps) else 1)

    @property
    def width(self) -> float:
        """Bars from the first open to the last close, holes among them."""
        return float(self.bars.time_ms[-1] - self.start_ms) / self.step_ms + 1.0

    def place(self, time_ms: np.ndarray) -> np.ndarray:
        """Return how many bars after the first open instants (n,) are."""
        return np.asarray((time_ms - self.start_ms) / self.step_ms)


def plot_stretch(model: ModelEvidence, stretch: Stretch, bars: Bars, *, has_candles: bool) -> Markup:
    """Return candles with the orders of the median path, the side that it holds, and its net return.

    Without `has_candles` the page has the candles of these bars already, and this picture refers to them.
    """
    frame = Frame.from_bars(bars.slice_bars(stretch.first, stretch.last))
    shown = frame.bars
    price = fit_scale(shown.low, shown.high, start=PRICE[1] - PRICE[0], stop=0.0)
    end_ms = frame.start_ms + round(frame.width * frame.step_ms)
    net = select_net(model, shown.time_ms[0], end_ms)
    growth = np.concatenate([[0.0], performance.compound_equity(net[1]) - 1.0])
    gain = fit_scale(growth, start=RETURN[1] - RETURN[0], stop=0.0, unit="percent", include=0.0)
    trips = select_trips(model.round_trips, stretch.symbol, frame)
    candles = draw_candles(frame, price, key=stretch.key) if has_candles else f'<use href="#{escape(stretch.key)}"/>'
    views = [
        draw_view(frame, PRICE, "candles and orders", candles + draw_orders(frame, price, trips)),
        draw_view(frame, LANE, "side held", draw_sides(frame, trips)),
        draw_view(frame, RETURN, "net return", draw_growth(frame, gain, net[0], growth)),
    ]
    alt = describe_stretch(model, stretch, frame, trips, growth[-1])
    ends = {"bars": frame.width, "step": frame.step_ms, "low": price.low, "high": price.high}
    data = " ".join(f'data-{name}="{value:.10g}"' for name, value in ends.items())
    opening = (
        f'<svg class="zoom" viewBox="0 0 {WIDE:g} {HEIGHT:g}" role="img" aria-label="{escape(alt)}" {data} '
        f'data-start="{frame.start_ms}">'
    )
    axes = draw_ticks(frame, price, gain, y_label=f"price of {stretch.symbol}", end_ms=end_ms)
    return Markup(f"{opening}<title>{escape(alt)}</title>{axes}{''.join(views)}</svg>")


def select_net(model: ModelEvidence, start_ms: float, end_ms: float) -> tuple[np.ndarray, np.ndarray]:
    """Return times and net returns of the median path from `start_ms` to before `end_ms`."""
    first, last = np.searchsorted(model.time_ms, [start_ms, end_ms])
    return model.time_ms[first:last], model.net[first:last]


def select_trips(trips: pd.DataFrame, symbol: str, frame: Frame) -> pd.DataFrame:
    """Return the round trips of a symbol that overlap a frame, with `entry` and `exit` in bars.

    Both are the closes at which the orders are decided.
    """
    own = trips[trips["symbol"] == symbol]
    entry, exit_ = (frame.place(own[f"{end}_time"].to_numpy(np.int64)) + 1.0 for end in ("entry", "exit"))
    own = own.assign(entry=entry, exit=exit_)
    return own[(own["entry"] < frame.width) & (own["exit"] > 0)]


def draw_view(frame: Frame, rows: tuple[float, float], name: str, content: str) -> str:
    """Return a panel between two rows of pixels, whose content has bars as units of x."""
    width, height = WIDE - LEFT - RIGHT, rows[1] - rows[0]
    return (
        f'<svg class="view" role="img" aria-label="{name}" x="{LEFT:g}" y="{rows[0]:g}" width="{width:g}" '
        f'height="{height:g}" viewBox="0 0 {frame.width:.10g} {height:g}" preserveAspectRatio="none">{content}</svg>'
    )


def draw_candles(frame: Frame, price: Scale, *, key: str) -> str:
    """Return a wick and a body for each bar; a body is a stroke, as wide as most of a bar."""
    bars, parts = frame.bars, []
    x = frame.place(bars.time_ms) + 0.5
    heights = [np.char.mod("%.2f", price.place(each)) for each in (bars.high, bars.low, bars.open, bars.close)]
    is_up = bars.close >= bars.open
    for style, chosen in (("up", is_up), ("down", ~is_up)):
        at = np.flatnonzero(chosen)
        places, (high, low, start, stop) = np.char.mod("%.6g", x[at]), (each[at] for each in heights)
        lines = zip(places, high, low, strict=True)
        wicks = "".join(f"M{place} {a}V{b}" for place, a, b in lines)
        bodies = "".join(f"M{place} {a}V{b}" for place, a, b in zip(places, start, stop, strict=True))
        parts.append(f'<path class="wick {style}" d="{wicks}"/><path class="body {style}" d="{bodies}"/>')
    return f'<g id="{escape(key)}">{"".join(parts)}</g>'


def draw_orders(frame: Frame, price: Scale, trips: pd.DataFrame) -> str:
    """Return a dot for each order, at the close that decides it: filled where it opens a side, a ring where it ends."""
    bars, parts = frame.bars, []
    closes = frame.place(bars.time_ms) + 1.0
    for style, column, side in (("exit", "exit", 0), ("entry long", "entry", 1), ("entry short", "entry", -1)):
        chosen = trips if side == 0 else trips[trips["side"] == side]
        at = chosen[column].to_numpy(np.float64)
        bar = np.searchsorted(closes, at - 1e-9).clip(max=len(closes) - 1)
        is_shown = np.abs(closes[bar] - at) < 1e-6
        dots = zip(at[is_shown], price.place(bars.close[bar[is_shown]]), strict=True)
        path = "".join(f"M{place:.6g} {height:.2f}h0" for place, height in dots)
        parts.append(f'<path class="order {style}" d="{path}"/>' if path else "")
        parts.append(f'<path class="order hole" d="{path}"/>' if path and side == 0 else "")
    return "".join(parts)


def draw_sides(frame: Frame, trips: pd.DataFrame) -> str:
    """Return a block for each time that the position is long, in the upper half, or short, in the lower half."""
    middle, parts = (LANE[1] - LANE[0]) / 2, []
    for style, side, top in (("gain", 1, 0.0), ("loss", -1, middle)):
        held = trips[trips["side"] == side]
        ends = zip(held["entry"].clip(lower=0.0), held["exit"].clip(upper=frame.width), strict=True)
        path = "".join(f"M{a:.6g} {top:g}H{b:.6g}v{middle:g}H{a:.6g}Z" for a, b in ends)
        parts.append(f'<path class="{style}" d="{path}"/>' if path else "")
    return f'{"".join(parts)}<path class="rule" d="M0 {middle:g}H{frame.width:.10g}"/>'


def draw_growth(frame: Frame, gain: Scale, time_ms: np.ndarray, growth: np.ndarray) -> str:
    """Return the compounded net return (n + 1,) since the start, of (n,) bars."""
    x = np.concatenate([[0.0], frame.place(time_ms) + 1.0])
    x, y = downsample(x, growth, max_points=RETURN_POINTS)
    steps = "L".join(f"{a:.6g} {b:.2f}" for a, b in zip(x, gain.place(y), strict=True))
    zero = format_pixel(float(gain.place(0.0)))
    return f'<path class="rule" d="M0 {zero}H{frame.width:.10g}"/><path class="line median" d="M{steps}"/>'


def draw_ticks(frame: Frame, price: Scale, gain: Scale, *, y_label: str, end_ms: int) -> str:
    """Return grid and labels of all panels; the script of the page replaces those of class y and x when it zooms."""
    x = Scale(float(frame.start_ms), float(end_ms), LEFT, WIDE - RIGHT, "time")
    y = Scale(price.low, price.high, PRICE[1], PRICE[0])
    low = Scale(gain.low, gain.high, RETURN[1], RETURN[0], "percent")
    parts = [f'<g class="y">{draw_axes(Panel(x, y), has_x_ticks=False)}</g>']
    parts.append(draw_axes(Panel(x, low), has_x_ticks=False))
    ticks = []
    for value, label in x.list_ticks():
        at = format_pixel(float(x.place(value)))
        ticks.append(f'<path class="grid" d="M{at} {PRICE[0]:g}V{RETURN[1]:g}"/>')
        ticks.append(write_text(float(at), RETURN[1] + 14, label, anchor="middle"))
    parts.append(f'<g class="x">{"".join(ticks)}</g>')
    middle = (LANE[0] + LANE[1]) / 2
    parts += [
        write_text(LEFT - 6, middle - 2, "long", anchor="end"),
        write_text(LEFT - 6, middle + 10, "short", anchor="end"),
        write_text((LEFT + WIDE - RIGHT) / 2, RETURN[1] + 30, "time, UTC", anchor="middle"),
    ]
    labels = ((y_label, sum(PRICE) / 2), ("net return", sum(RETURN) / 2))
    for text, height in labels:
        place = f'x="11" y="{height:g}" text-anchor="middle" transform="rotate(-90 11 {height:g})"'
        parts.append(f"<text {place}>{escape(text)}</text>")
    return "".join(parts)


def describe_stretch(model: ModelEvidence, stretch: Stretch, frame: Frame, trips: pd.DataFrame, growth: float) -> str:
    """Return in words what a position chart shows."""
    bars = frame.bars
    return (
        f"{model.name}, {stretch.name} of the median path: {len(bars.time_ms):,} bars of {stretch.symbol} from "
        f"{format_time(frame.start_ms)} UTC on, price {format_number(float(bars.open[0]), digits=6)} to "
        f"{format_number(float(bars.close[-1]), digits=6)}, net return {format_percent(float(growth))}, "
        f"{len(trips)} round trips: {(trips['side'] > 0).sum()} long, {(trips['side'] < 0).sum()} short."
    )
