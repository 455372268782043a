"""Charts as SVG text, colored by the style sheet of the page: marks of one panel, its axes, and the whole picture."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from pipeline.reporting.tear_sheet.sampling import downsample
from pipeline.reporting.tear_sheet.scales import Scale

WIDTH = 400
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 8, 34  # margins of a panel, for its labels
LINE_POINTS = 800  # of a line, which is twice as many as its pixels


@dataclass(frozen=True)
class Panel:
    """The area between two scales."""

    x: Scale
    y: Scale


def format_pixel(value: float) -> str:
    """Return a coordinate with a tenth of a pixel."""
    return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")  # + 0.0: no negative zero


def draw_line(panel: Panel, x: np.ndarray, y: np.ndarray, *, style: str, points: int = LINE_POINTS) -> str:
    """Return a line through (n,) points, downsampled by minimum and maximum.

    NaN is left out, and on a log axis what is not above 0, as after a total loss.
    """
    y = np.where(y > 0, y, np.nan) if panel.y.is_log else y
    path = _trace(panel, *downsample(x, y, max_points=points))
    return f'<path class="line {style}" d="{path}"/>' if path else ""


def draw_area(panel: Panel, x: np.ndarray, y: np.ndarray, *, style: str, base: float = 0.0) -> str:
    """Return the area between (n,) points and a base value."""
    x, y = downsample(x, y, max_points=LINE_POINTS)
    if not len(x):
        return ""
    floor = format_pixel(float(panel.y.place(base)))
    ends = [format_pixel(float(panel.x.place(each))) for each in (x[0], x[-1])]
    return f'<path class="area {style}" d="{_trace(panel, x, y)}L{ends[1]} {floor}L{ends[0]} {floor}Z"/>'


def draw_bars(panel: Panel, x: np.ndarray, y: np.ndarray, *, width: float, base: float = 0.0) -> str:
    """Return bars from a base to (n,) values, `width` pixels wide, colored by their sign against the base."""
    floor, middles, tops = float(panel.y.place(base)), panel.x.place(x), panel.y.place(y)
    return "".join(
        f'<rect class="{"gain" if value >= base else "loss"}" x="{format_pixel(middle - width / 2)}" '
        f'y="{format_pixel(min(top, floor))}" width="{format_pixel(width)}" height="{format_pixel(abs(top - floor))}"/>'
        for middle, top, value in zip(middles, tops, y, strict=True)
        if np.isfinite(value)
    )


def draw_whiskers(panel: Panel, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """Return vertical intervals at (n,) places."""
    ends = zip(panel.x.place(x), panel.y.place(low), panel.y.place(high), strict=True)
    return "".join(
        f'<path class="whisker" d="M{format_pixel(at)} {format_pixel(bottom)}V{format_pixel(top)}"/>'
        for at, bottom, top in ends
        if np.isfinite(bottom) and np.isfinite(top)
    )


def draw_points(panel: Panel, x: np.ndarray, y: np.ndarray, *, style: str, radius: float = 3.0) -> str:
    """Return a dot at each of (n,) points; NaN is left out."""
    places = zip(panel.x.place(x), panel.y.place(y), strict=True)
    return "".join(
        f'<circle class="dot {style}" cx="{format_pixel(at)}" cy="{format_pixel(height)}" r="{radius:g}"/>'
        for at, height in places
        if np.isfinite(at) and np.isfinite(height)
    )


def draw_level(panel: Panel, value: float, *, label: str = "") -> str:
    """Return a horizontal line at a value of y, with its label at the right end."""
    height = format_pixel(float(panel.y.place(value)))
    line = f'<path class="rule" d="M{format_pixel(panel.x.start)} {height}H{format_pixel(panel.x.stop)}"/>'
    return line + (write_text(panel.x.stop, float(height) - 4, label, anchor="end") if label else "")


def draw_moment(panel: Panel, value: float, *, label: str = "", row: int = 0, is_left: bool | None = None) -> str:
    """Return a vertical line at a value of x, with its label beside the top; `row` moves the label down.

    The label stands to the left where `is_left`, by default in the right half of the panel.
    """
    at = float(panel.x.place(value))
    line = f'<path class="rule" d="M{format_pixel(at)} {format_pixel(panel.y.start)}V{format_pixel(panel.y.stop)}"/>'
    is_left = at > (panel.x.start + panel.x.stop) / 2 if is_left is None else is_left
    side, anchor = (-4, "end") if is_left else (4, "start")
    return line + (write_text(at + side, panel.y.stop + 10 + 12 * row, label, anchor=anchor) if label else "")


def write_text(x: float, y: float, text: str, *, anchor: str = "start", style: str = "") -> str:
    """Return a text at a place in pixels."""
    named = f' class="{style}"' if style else ""
    return f'<text{named} x="{format_pixel(x)}" y="{format_pixel(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def draw_axes(panel: Panel, *, x_label: str = "", y_label: str = "", has_x_ticks: bool = True) -> str:
    """Return grid lines, tick labels and the names of both axes."""
    left, right, bottom, top = (format_pixel(v) for v in (panel.x.start, panel.x.stop, panel.y.start, panel.y.stop))
    parts = []
    for value, label in panel.y.list_ticks():
        height = float(panel.y.place(value))
        parts.append(f'<path class="grid" d="M{left} {format_pixel(height)}H{right}"/>')
        parts.append(write_text(panel.x.start - 4, height + 4, label, anchor="end"))
    for value, label in panel.x.list_ticks() if has_x_ticks else ():
        at = float(panel.x.place(value))
        parts.append(f'<path class="grid" d="M{format_pixel(at)} {bottom}V{top}"/>')
        parts.append(write_text(at, panel.y.start + 13, label, anchor="middle"))
    if x_label:
        parts.append(write_text((panel.x.start + panel.x.stop) / 2, panel.y.start + 27, x_label, anchor="middle"))
    if y_label:
        height = (panel.y.start + panel.y.stop) / 2
        parts.append(
            f'<text x="9" y="{format_pixel(height)}" text-anchor="middle" '
            f'transform="rotate(-90 9 {format_pixel(height)})">{escape(y_label)}</text>'
        )
    return "".join(parts)


def draw_categories(panel: Panel, names: Sequence[str], *, every: int = 1) -> str:
    """Return the labels of places 0, 1, … on the x axis, one for each `every` of them."""
    return "".join(
        write_text(float(panel.x.place(i)), panel.y.start + 13, name, anchor="middle")
        for i, name in enumerate(names)
        if i % every == 0
    )


def draw_legend(entries: Iterable[tuple[str, str]], *, y: float) -> str:
    """Return (style, name) entries in one row, from the left."""
    parts, at = [], float(LEFT)
    for style, name in entries:
        parts.append(f'<path class="line {style} key" d="M{format_pixel(at)} {format_pixel(y - 4)}h14"/>')
        parts.append(write_text(at + 18, y, name))
        at += 30 + 6.0 * len(name)
    return "".join(parts)


def compose(parts: Iterable[str], *, height: float, alt: str, width: float = WIDTH) -> Markup:
    """Return a picture that scales with the page; `alt` says in words what it shows."""
    text = escape(alt)
    opening = f'<svg viewBox="0 0 {format_pixel(width)} {format_pixel(height)}" role="img" aria-label="{text}">'
    return Markup(f"{opening}<title>{text}</title>{''.join(parts)}</svg>")


def _trace(panel: Panel, x: np.ndarray, y: np.ndarray) -> str:
    places = zip(panel.x.place(x), panel.y.place(y), strict=True)
    steps = [f"{format_pixel(a)} {format_pixel(b)}" for a, b in places]
    return f"M{'L'.join(steps)}" if steps else ""
