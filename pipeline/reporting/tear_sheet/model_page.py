"""The section of one model: its returns, terms of trading, round trips, forecasts and fits."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.evaluation import performance
from pipeline.reporting.tear_sheet import charts, model_charts, series
from pipeline.reporting.tear_sheet.blocks import Figure, Note, Section, Table
from pipeline.reporting.tear_sheet.capacity_page import plot_capacity, tabulate_capacity
from pipeline.reporting.tear_sheet.evidence import ModelEvidence
from pipeline.reporting.tear_sheet.forecast_page import tabulate_forecasts
from pipeline.reporting.tear_sheet.formats import (
    format_day,
    format_hours,
    format_number,
    format_percent,
    format_time,
)
from pipeline.reporting.tear_sheet.search_page import draw_search, tabulate_search

TOP_DRAWDOWNS, WORST_DAYS = 5, 5
PATH_METRICS = {  # of every path: header and format by key
    "sharpe_daily": ("Sharpe, daily", format_number),
    "sharpe": ("Sharpe, bars", format_number),
    "sortino": ("Sortino", format_number),
    "calmar": ("Calmar", format_number),
    "net_return": ("net return", format_percent),
    "gross_return": ("gross return", format_percent),
    "costs": ("costs", format_percent),
    "max_drawdown": ("deepest drawdown", format_percent),
    "exposure": ("exposure", format_percent),
    "turnover": ("turnover per bar", format_percent),
    "ic": ("IC", format_number),
    "rank_ic": ("rank IC", format_number),
}
Block = Figure | Note | Table


def make_section(
    model: ModelEvidence, positions: Sequence[Figure | Note], *, rolling_days: int, tail_share: float
) -> Section:
    """Return the section of a model, with its position charts.

    `rolling_days` is the window of Sharpe ratios, `tail_share` that of each tail.
    """
    returns: list[tuple[str, Markup | str]] = [
        ("Equity and drawdown", charts.plot_equity(model)),
        ("Daily returns", charts.plot_daily_returns(model)),
        ("Rolling Sharpe ratio", charts.plot_rolling_sharpe(model, window=rolling_days)),
        ("Distribution of returns", charts.plot_distribution(model, share=tail_share)),
        ("Hour of the day", charts.plot_hours(model)),
        ("Weekday", charts.plot_weekdays(model)),
        ("Costs", model_charts.plot_execution_curve(model, "by_cost")),
        ("Delay", model_charts.plot_execution_curve(model, "by_delay")),
        ("Capital", model_charts.plot_execution_curve(model, "by_capital")),
        ("Capacity", plot_capacity(model)),
        ("Round trips", model_charts.plot_round_trips(model)),
        ("Calibration", model_charts.plot_calibration(model)),
        ("Confusion", model_charts.plot_confusion(model)),
        ("Importances", model_charts.plot_importances(model)),
        ("Permutation importances", model_charts.plot_permutation_importances(model)),
        ("Learning curves", model_charts.plot_learning_curves(model)),
    ]
    blocks: list[Block] = [Note(describe(model)), tabulate_paths(model)]
    drawn = [make_figure(title, picture, model=model.name) for title, picture in returns]
    blocks += [*(each for each in drawn if isinstance(each, Figure)), *positions]
    blocks += draw_search(model)
    blocks += [each for each in drawn if isinstance(each, Note)]  # what cannot be drawn, behind the pictures
    tables: Sequence[Callable[[ModelEvidence], Table]] = (
        tabulate_months,
        tabulate_drawdowns,
        tabulate_worst_days,
        tabulate_round_trips,
        tabulate_capacity,
        tabulate_fits,
    )
    blocks += [tabulate(model) for tabulate in tables]
    blocks += [*tabulate_search(model), *tabulate_forecasts(model)]
    tails = series.measure_tails(model.net, share=tail_share)
    blocks.append(tabulate_tails(tails, share=tail_share, model=model.name))
    return Section(f"model-{model.name}", model.name, blocks, level=3)


def make_figure(title: str, drawn: Markup | str, *, model: str) -> Figure | Note:
    """Return a picture with its caption, or the reason why there is none."""
    return Figure(f"{title}: {model}", drawn) if isinstance(drawn, Markup) else Note(f"{title}: {drawn}.")


def describe(model: ModelEvidence) -> str:
    """Return which model this is, and on what its figures rest."""
    days = len(np.unique(model.time_ms // series.DAY_MS))
    first, last = format_day(model.time_ms[0]), format_day(model.time_ms[-1])
    reason = model.headline["reason"]
    return (
        f"Family {model.family}, target {model.target}. {model.paths.shape[1]} paths of {len(model.time_ms):,} bars on "
        f"{days} days, {first} to {last}. Pictures are of path {model.median_path}, that of the median Sharpe ratio, "
        f"unless they say otherwise; returns are net of costs." + (f" Undefined: {reason}." if reason else "")
    )


def tabulate_paths(model: ModelEvidence) -> Table:
    """Return the metrics of every path."""
    paths = model.details["model"]["paths"]
    rows = [
        [f"{number}{' (median)' if number == model.median_path else ''}"]
        + [show(path.get(key)) for key, (_, show) in PATH_METRICS.items()]
        for number, path in enumerate(paths)
    ]
    reasons = [f"path {i}, {key}: {why}" for i, path in enumerate(paths) for key, why in path["undefined"].items()]
    head = ["path", *(header for header, _ in PATH_METRICS.values())]
    return Table(f"Paths of {model.name}", head, rows, note="; ".join(reasons))


def tabulate_months(model: ModelEvidence) -> Table:
    """Return the compounded net return of every UTC month on every path."""
    months, returns = series.compound_months(model.time_ms, model.paths)
    head = ["month", *(f"path {path}" for path in range(model.paths.shape[1]))]
    rows = [[month, *(format_percent(float(v)) for v in row)] for month, row in zip(months, returns, strict=True)]
    return Table(f"Monthly net returns of {model.name}", head, rows, note="The first and the last may be cut short.")


def tabulate_drawdowns(model: ModelEvidence) -> Table:
    """Return the deepest drawdowns of the median path."""
    rows = [
        [
            format_percent(each.depth),
            format_time(each.start_ms),
            format_time(each.trough_ms),
            "not recovered" if each.end_ms is None else format_time(each.end_ms),
            format_hours(None if each.end_ms is None else each.end_ms - each.start_ms),
            f"{each.bars:,}",
        ]
        for each in series.list_drawdowns(model.time_ms, model.net, top=TOP_DRAWDOWNS)
    ]
    head = ["depth", "start, UTC", "trough", "recovered", "length", "bars"]
    return Table(f"Deepest drawdowns of {model.name}", head, rows, note="" if rows else "No drawdown.")


def tabulate_worst_days(model: ModelEvidence) -> Table:
    """Return the worst UTC days of the median path, and what every path earned on them."""
    days, returns = performance.aggregate_days(model.time_ms, model.paths)
    worst = np.argsort(returns[:, model.median_path], kind="stable")[:WORST_DAYS]
    rows = [
        [format_day(float(days[i] * series.DAY_MS)), *(format_percent(float(value)) for value in returns[i])]
        for i in worst
    ]
    head = ["day", *(f"path {path}" for path in range(model.paths.shape[1]))]
    return Table(f"Worst days of {model.name}", head, rows, note=f"By the net return of path {model.median_path}.")


def tabulate_round_trips(model: ModelEvidence) -> Table:
    """Return number, success and size of the round trips of the median path, by side."""
    trips = model.round_trips
    sides = {"all": trips, "long": trips[trips["side"] > 0], "short": trips[trips["side"] < 0]}
    rows = [[name, *summarize_trips(part)] for name, part in sides.items()]
    head = [
        "side",
        "round trips",
        "gain",
        "mean net, bps",
        "median length",
        "best, bps",
        "worst, bps",
        "worst excursion, bps",
    ]
    note = "Amounts in bps of the whole capital, net of costs; the worst excursion is gross, before the exit."
    return Table(f"Round trips of {model.name}", head, rows, note=note)


def summarize_trips(trips: pd.DataFrame) -> list[str]:
    """Return the cells of some round trips."""
    if trips.empty:
        return ["0", *([format_number(None)] * 6)]
    net = trips["net"].to_numpy(np.float64) * 1e4
    length = trips["exit_time"].to_numpy(np.float64) - trips["entry_time"].to_numpy(np.float64)
    return [
        f"{len(trips):,}",
        format_percent(float((net > 0).mean()), digits=1),
        format_number(float(net.mean())),
        format_hours(float(np.median(length))),
        format_number(float(net.max())),
        format_number(float(net.min())),
        format_number(float(trips["adverse_excursion"].min() * 1e4)),
    ]


def tabulate_fits(model: ModelEvidence) -> Table:
    """Return rows, iterations and best validation loss of every fit."""
    fits: Sequence[dict[str, Any]] = (model.training or {}).get("fits", ())
    diagnoses = model.details["fit_diagnoses"]
    rows = [
        [
            str(fit["split"]),
            str(fit["seed"]),
            format_number(fit["rows"].get("train")),
            format_number(fit["rows"].get("valid")),
            format_number(fit["iterations"]),
            format_number(fit["best"].get("iteration")),
            format_number(fit["best"].get("valid_loss"), digits=4),
            diagnoses.get(str(fit["split"]), {}).get("verdict", format_number(None)),
        ]
        for fit in fits
    ]
    head = ["split", "seed", "train rows", "validation rows", "iterations", "best", "validation loss", "diagnosis"]
    return Table(f"Fits of {model.name}", head, rows, note="" if rows else "This model is not fitted.")


def tabulate_tails(tails: series.Tails, *, share: float, model: str) -> Table:
    """Return quantiles and the means beyond them, of the bars that have a return."""
    size = f"{100 * share:g} %"
    rows = [
        [f"lowest {size}", format_number(tails.low_quantile * 1e4), format_number(tails.low_mean * 1e4)],
        [f"highest {size}", format_number(tails.high_quantile * 1e4), format_number(tails.high_mean * 1e4)],
    ]
    head = ["tail", "quantile, bps", "mean beyond it, bps"]
    note = f"Of the {tails.bars:,} bars of the median path with a return; the lower mean is the expected shortfall."
    return Table(f"Tails of {model}", head, rows, note=note)
