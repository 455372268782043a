"""Charts of one model's returns: equity, drawdown, calendar, distribution."""

import numpy as np
from markupsafe import Markup

from pipeline.evaluation import performance
from pipeline.reporting.tear_sheet import series
from pipeline.reporting.tear_sheet.evidence import ModelEvidence
from pipeline.reporting.tear_sheet.formats import format_day, format_number, format_percent
from pipeline.reporting.tear_sheet.scales import Scale, Unit, fit_scale
from pipeline.reporting.tear_sheet.svg import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Panel,
    compose,
    draw_area,
    draw_axes,
    draw_bars,
    draw_categories,
    draw_legend,
    draw_level,
    draw_line,
    draw_moment,
    draw_whiskers,
)

HEIGHT = 220.0
EQUITY_STOP, UNDERWATER, EQUITY_HEIGHT = 190.0, (206.0, 272.0), 306.0  # pixels of the two panels
DAY_MS = series.DAY_MS
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
BINS = 60


def span_x(low: float, high: float, *, unit: Unit = "number", is_log: bool = False) -> Scale:
    """Return the horizontal scale of a whole picture."""
    start, stop = float(LEFT), float(WIDTH - RIGHT)
    return fit_scale(low, high, start=start, stop=stop, unit=unit, is_log=is_log)


def span_categories(count: int) -> Scale:
    """Return the horizontal scale of places 0 to count - 1, half a place from the borders."""
    return Scale(-0.5, count - 0.5, float(LEFT), float(WIDTH - RIGHT))


def plot_equity(model: ModelEvidence) -> Markup:
    """Return the equity of every path on a log axis, and below it how far each stands under its peak."""
    time = model.time_ms
    equity = np.apply_along_axis(performance.compound_equity, 0, model.paths)  # (T, P)
    under = np.apply_along_axis(series.measure_underwater, 0, model.paths)
    x = span_x(float(time[0]), float(time[-1]), unit="time")
    top = Panel(x, fit_scale(equity, start=EQUITY_STOP, stop=TOP + 14, is_log=True, include=1.0))
    low = Panel(x, fit_scale(under, start=UNDERWATER[1], stop=UNDERWATER[0], unit="percent", include=0.0))
    others = [path for path in range(model.paths.shape[1]) if path != model.median_path]
    median = model.median_path
    parts = [
        draw_legend([("median", f"median path ({median})"), ("path", "other paths")][: 1 + bool(others)], y=14),
        draw_axes(top, y_label="equity / capital, log axis", has_x_ticks=False),
        draw_axes(low, y_label="drawdown", x_label="time, UTC"),
        *(draw_line(top, time, equity[:, path], style="path") for path in others),
        draw_level(top, 1.0),
        draw_line(top, time, equity[:, median], style="median"),
        draw_area(low, time, under[:, median], style="under"),
        *(draw_line(low, time, under[:, path], style="path", points=400) for path in others),
    ]
    alt = (
        f"{model.name}: net equity of {model.paths.shape[1]} paths from {format_day(time[0])} "
        f"to {format_day(time[-1])}, ending at {format_number(float(equity[-1].min()))} to "
        f"{format_number(float(equity[-1].max()))} times the capital; "
        f"deepest drawdown of the median path {format_percent(-float(under[:, median].min()))}."
    )
    return compose(parts, height=EQUITY_HEIGHT, alt=alt)


def plot_daily_returns(model: ModelEvidence) -> Markup:
    """Return the net return of every UTC day on the median path."""
    days, returns = performance.aggregate_days(model.time_ms, model.net)
    panel = Panel(
        span_x(float(days[0] * DAY_MS), float((days[-1] + 1) * DAY_MS), unit="time"),
        fit_scale(returns, start=HEIGHT - BOTTOM, stop=TOP, unit="percent", include=0.0),
    )
    width = max(0.5, 0.8 * (panel.x.stop - panel.x.start) / max(1, days[-1] - days[0] + 1))
    parts = [
        draw_axes(panel, x_label="day, UTC", y_label="net return of the day"),
        draw_bars(panel, (days + 0.5) * DAY_MS, returns, width=width),
        draw_level(panel, 0.0),
    ]
    alt = (
        f"{model.name}: net return of each of {len(days)} days on the median path, from "
        f"{format_percent(float(returns.min()))} to {format_percent(float(returns.max()))}; "
        f"{int((returns > 0).sum())} days gain."
    )
    return compose(parts, height=HEIGHT, alt=alt)


def plot_hours(model: ModelEvidence) -> Markup:
    """Return the mean net return of each UTC hour of the day, with two standard errors to either side."""
    profile = series.profile_hours(model.time_ms, model.net)
    names = [str(hour) for hour in range(24)]
    text = f"{model.name}: mean net return of each hour of the day in bps, UTC, on the median path"
    return _plot_profile(profile, names, every=3, x_label="hour of the day, UTC", text=text)


def plot_weekdays(model: ModelEvidence) -> Markup:
    """Return the mean daily net return of each weekday, with two standard errors to either side."""
    profile = series.profile_weekdays(*performance.aggregate_days(model.time_ms, model.net))
    text = f"{model.name}: mean net return of the days of each weekday in bps, on the median path"
    return _plot_profile(profile, WEEKDAYS, every=1, x_label="weekday, UTC", text=text)


def _plot_profile(
    profile: series.Profile, names: list[str] | tuple[str, ...], *, every: int, x_label: str, text: str
) -> Markup:
    mean, error = profile.mean * 1e4, profile.error * 2e4
    low, high = mean - error, mean + error
    panel = Panel(span_categories(len(names)), fit_scale(mean, low, high, start=HEIGHT - BOTTOM, stop=TOP, include=0.0))
    places = np.arange(len(names))
    parts = [
        draw_axes(panel, x_label=x_label, y_label="mean net return, bps", has_x_ticks=False),
        draw_categories(panel, names, every=every),
        draw_bars(panel, places, mean, width=0.7 * (WIDTH - LEFT - RIGHT) / len(names)),
        draw_whiskers(panel, places, low, high),
        draw_level(panel, 0.0),
    ]
    clear = [name for name, a, b in zip(names, low, high, strict=True) if a > 0 or b < 0]
    alt = f"{text}, with two standard errors; distinct from 0: {', '.join(clear) or 'none'}."
    return compose(parts, height=HEIGHT, alt=alt)


def plot_rolling_sharpe(model: ModelEvidence, *, window: int) -> Markup | str:
    """Return the annualized Sharpe ratio of the last `window` days, on every path; a reason where days are too few."""
    days, returns = performance.aggregate_days(model.time_ms, model.paths)
    if len(days) <= window:
        return f"no rolling Sharpe ratio: {len(days)} days, and a window of {window}"
    per_year = performance.count_days_per_year(model.time_ms, bars_per_year=model.bars_per_year)
    rolling = [
        series.roll_sharpe(returns[:, path], window=window, days_per_year=per_year)
        for path in range(model.paths.shape[1])
    ]
    time = days[window - 1 :] * DAY_MS
    panel = Panel(
        span_x(float(time[0]), float(time[-1]), unit="time"),
        fit_scale(*rolling, start=HEIGHT - BOTTOM, stop=TOP, include=0.0),
    )
    median = rolling[model.median_path]
    parts = [
        draw_axes(panel, x_label="last day of the window, UTC", y_label=f"Sharpe ratio of {window} days"),
        *(draw_line(panel, time, path, style="path") for path in rolling),
        draw_level(panel, 0.0),
        draw_line(panel, time, median, style="median"),
    ]
    known = median[np.isfinite(median)]
    span = f"{format_number(float(known.min()))} to {format_number(float(known.max()))}" if len(known) else "undefined"
    alt = f"{model.name}: annualized Sharpe ratio of {window} days in a row, on the median path {span}."
    return compose(parts, height=HEIGHT, alt=alt)


def name_share(share: float) -> str:
    """Return a share in percent without superfluous digits."""
    return f"{100 * share:.6g} %"


def plot_distribution(model: ModelEvidence, *, share: float) -> Markup | str:
    """Return the number of bars by net return on a log axis, with the tails; a reason where no bar has a return."""
    tails = series.measure_tails(model.net, share=share)
    if not tails.bars:
        return "no distribution: no bar of the median path has a return"
    traded = model.net[model.net != 0] * 1e4
    counts, edges = np.histogram(traded, bins=BINS)
    panel = Panel(
        span_x(float(edges[0]), float(edges[-1])),
        fit_scale(counts, start=HEIGHT - BOTTOM, stop=TOP, is_log=True, include=0.8),
    )
    middles, is_filled = (edges[:-1] + edges[1:]) / 2, counts > 0
    width = 0.9 * float(panel.x.place(edges[1]) - panel.x.place(edges[0]))
    parts = [
        draw_axes(panel, x_label="net return of a bar, bps", y_label="bars, log axis"),
        draw_bars(panel, middles[is_filled], counts[is_filled], width=width, base=panel.y.low),
        draw_moment(panel, tails.low_quantile * 1e4, label=f"{name_share(share)} quantile", is_left=True),
        draw_moment(panel, tails.high_quantile * 1e4, label=name_share(1 - share), is_left=False),
    ]
    alt = (
        f"{model.name}: number of bars by net return on the median path. The worst {name_share(share)} lose "
        f"{format_number(-tails.low_mean * 1e4)} bps on average, the best gain {format_number(tails.high_mean * 1e4)}."
    )
    return compose(parts, height=HEIGHT, alt=alt)
