"""The tables of one model's forecasts: gains over the baselines, calibration, tiers, sessions, signals, findings."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from pipeline.reporting.markdown import DASH
from pipeline.reporting.tear_sheet.blocks import Table
from pipeline.reporting.tear_sheet.evidence import ModelReports
from pipeline.reporting.tear_sheet.formats import format_interval, format_number, format_percent, format_time

UNDEFINED = "undefined"  # the key of the reasons

Report = Mapping[str, Any]


def tabulate_forecasts(model: ModelReports) -> list[Table]:
    """Return the tables of what `evaluate` reports on forecasts and fits; a part that does not apply has none."""
    forecasts: Report = model.details.get("forecasts") or {}
    path = f"of {model.name}, path {forecasts['path']}" if forecasts else ""
    tables = []
    if names := list_horizons(model.details):
        tables.append(tabulate_horizons(names, model.details, model=model.name))
    if gains := forecasts.get("gains"):
        tables.append(tabulate_gains(gains, title=f"Gains over the baselines {path}"))
    if calibration := forecasts.get("calibration"):
        tables.append(tabulate_parts({"all rows": calibration}, title=f"Calibration {path}", name="rows"))
    if tiers := forecasts.get("tiers"):
        parts = {f"tier {number}": tier for number, tier in enumerate(tiers)}
        tables.append(tabulate_parts(parts, title=f"Tiers of |score| {path}", name="tier"))
    if sessions := forecasts.get("sessions"):
        tables.append(tabulate_parts(sessions, title=f"Sessions {path}", name="session"))
    if signals := forecasts.get("signals"):
        tables.append(tabulate_parts({"all rows": signals}, title=f"Signals of classes {path}", name="rows"))
    tables += [tabulate_interval(each, model=model.name) for each in model.details.get("intervals") or []]
    if bands := (model.details.get("model_findings") or {}).get("bands"):
        tables.append(tabulate_bands(bands, title=f"Findings on the fits of {model.name}"))
    return tables


def list_horizons(details: Report) -> list[str]:
    """Return the names of the predictions of several horizons, such as return_ahead_1; none of one horizon."""
    metrics = details["model"]["paths"][0]
    return [key.removeprefix("ic_") for key in metrics if key.startswith("ic_") and f"r2_{key[3:]}" in metrics]


def tabulate_horizons(names: Sequence[str], details: Report, *, model: str) -> Table:
    """Return the IC and the R² of each horizon, their means over the paths, beside those of the linear baseline."""
    own, linear = details["model"]["paths"], details["baselines"]["linear"]["paths"]
    rows = []
    for name in names:
        ic = [path[f"ic_{name}"] for path in own if path[f"ic_{name}"] is not None]
        ends = (min(ic), max(ic)) if ic else (None, None)
        of_paths = ((own, "ic"), (linear, "ic"), (own, "r2"), (linear, "r2"))
        means = [take_mean([path[f"{metric}_{name}"] for path in paths]) for paths, metric in of_paths]
        rows.append([name, format_interval(means[0], *ends), *(format_number(each) for each in means[1:])])
    head = ["horizon", "IC", "linear IC", "R²", "linear R²"]
    note = (
        "Means over the paths; in brackets the lowest and highest. return_ahead_5 is over 5 bars; the last is traded."
    )
    return Table(f"Horizons of {model}", head, rows, note=note)


def take_mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are defined; None without one."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def tabulate_gains(gains: Mapping[str, Report], *, title: str) -> Table:
    """Return by baseline and metric how much better the model is, with the interval and whether it is above 0."""
    rows = [
        [
            f"{metric.replace('_', ' ')} over {baseline}",
            format_interval(gain["value"], gain["low"], gain["high"]),
            show_fact(gain["beats"]),
            gain["reason"] or DASH,
        ]
        for baseline, metrics in gains.items()
        for metric, gain in metrics.items()
    ]
    note = "Positive: the model is better. It beats a baseline where the whole interval is above 0."
    return Table(title, ["gain", "value", "beats it", "reason"], rows, note=note)


def tabulate_parts(parts: Mapping[str, Report], *, title: str, name: str) -> Table:
    """Return the numbers of each part of the rows; reasons of what is undefined stand below."""
    shown = {
        part: {key: value for key, value in each.items() if value is None or isinstance(value, int | float)}
        for part, each in parts.items()
    }
    columns = list(dict.fromkeys(key for each in shown.values() for key in each))
    rows = [
        [part.replace("_", " "), *(format_number(each.get(key)) for key in columns)] for part, each in shown.items()
    ]
    reasons = [
        f"{part.replace('_', ' ')}, {key.replace('_', ' ')}: {why}"
        for part, each in parts.items()
        for key, why in (each.get(UNDEFINED) or {}).items()
    ]
    return Table(title, [name, *(key.replace("_", " ") for key in columns)], rows, note="; ".join(reasons))


def tabulate_interval(interval: Report, *, model: str) -> Table:
    """Return coverage and width of an interval between quantiles: by path, fixed and adaptive, and by time."""
    rows = []
    for number, path in enumerate(interval["paths"]):
        rows.append(show_coverage(f"path {number}", path))
        rows.append(show_coverage(f"path {number}, adaptive", path["adaptive"]))
    for number, path in enumerate(interval["paths"]):
        named = {f"path {number}, from {format_time(part['first_ms'])}": part for part in path["blocks"]}
        rows += [show_coverage(name, part) for name, part in named.items()]
    head = ["rows of", "rows", "independent", "coverage", "verdict", "mean width", "unbounded", "below", "above"]
    nominal = format_percent(interval["nominal"])
    title = f"Interval of {model} from {' to '.join(interval['quantiles'])}: nominal coverage {nominal}"
    note = (
        "Coverage with its exact interval for the number of independent rows. Width: in the unit of y. Adaptive: "
        "widened or narrowed by the errors known before (adaptive conformal inference); what it gains, drift has cost."
    )
    return Table(title, head, rows, note=note)


def show_coverage(name: str, found: Report) -> list[str]:
    """Return the cells of a coverage."""
    return [
        name,
        format_number(found["rows"]),
        format_number(found["independent_rows"]),
        format_interval(found["coverage"], found["low"], found["high"]),
        found["verdict"] or found["reason"],
        *(format_number(found[key]) for key in ("width", "unbounded", "below", "above")),
    ]


def tabulate_bands(bands: Mapping[str, Report], *, title: str) -> Table:
    """Return each measurement of the fits beside its usual band."""
    rows = [
        [
            key.replace("_", " "),
            format_number(found["value"]),
            f"{format_number(found['low'])} to {format_number(found['high'])}",
            show_fact(found["is_within"]),
            found["reason"] or DASH,
        ]
        for key, found in bands.items()
    ]
    head = ["measurement", "value", "usual band", "within", "reason"]
    return Table(title, head, rows, note="Outside of a band is a finding, no failure.")


def show_fact(value: bool | None) -> str:
    """Return yes, no, or a dash where it is not known."""
    return DASH if value is None else "yes" if value else "no"
