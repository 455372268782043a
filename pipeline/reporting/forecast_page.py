"""The page of one model's forecasts and fit in markdown: gains, calibration, tiers, sessions, signals and findings."""

from collections.abc import Mapping
from typing import Any

from pipeline.reporting.markdown import DASH, format_interval, format_number, render_table

Report = Mapping[str, Any]
VERDICTS = {True: "yes", False: "no: it is worse", None: "not distinguishable"}
SIDES = ("hit_rate", "precision_up", "recall_up", "precision_down", "recall_down")


def render_page(model: str, details: Report) -> str:
    """Return the page from the fields `forecasts` and `model_findings` of a report of `evaluate`, as it is written."""
    forecasts = details["forecasts"]
    parts = [
        f"# {model}: forecasts on path {forecasts['path']}",
        render_gains(forecasts["gains"]),
        render_calibration(forecasts["calibration"]),
        render_tiers(forecasts["tiers"]),
        render_sessions(forecasts["sessions"]),
        render_signals(forecasts["signals"]),
        render_findings(details["model_findings"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_gains(gains: Report) -> str:
    """Return the table of the gains over each baseline."""
    rows = [
        (name, metric, format_interval(found["value"], found["low"], found["high"]), _judge(found))
        for name, by_metric in gains.items()
        for metric, found in by_metric.items()
    ]
    note = "Gain of the loss: the share of the baseline's mean loss that is saved; of the others: the difference."
    return f"Does it beat the baselines?\n\n{render_table(('baseline', 'of', 'gain', 'beats it'), rows)}\n\n{note}"


def _judge(found: Report) -> str:
    return f"not known: {found['reason']}" if found["reason"] else VERDICTS[found["beats"]]


def render_calibration(calibration: Report) -> str:
    """Return the table of the calibration: a calibrated forecast has the slope 1 and the intercept 0."""
    undefined = calibration["undefined"]
    rows = [
        (name, format_number(value), undefined.get(name, DASH))
        for name, value in calibration.items()
        if name != "undefined"
    ]
    return f"Calibration\n\n{render_table(('metric', 'value', 'why undefined'), rows)}"


def render_tiers(tiers: list[Report] | None) -> str:
    """Return the table of the tiers of |score|, the lowest first; nothing where predictions have no score."""
    if tiers is None:
        return ""
    rows = [
        (format_number(tier["from_score"]), f"{tier['rows']:,}", *(format_number(tier[name]) for name in SIDES))
        for tier in tiers
    ]
    return f"Tiers of the score\n\n{render_table(('from', 'rows', *SIDES), rows)}"


def render_sessions(sessions: Report | None) -> str:
    """Return the table of the hit rates by session, UTC, with the error of independent rows."""
    if sessions is None:
        return ""
    rows = [
        (name, f"{found['rows']:,}", format_number(found["hit_rate"]), format_number(found["error"]))
        for name, found in sessions.items()
    ]
    return f"Sessions of the day, UTC\n\n{render_table(('session', 'rows', 'hit_rate', 'error'), rows)}"


def render_signals(signals: Report | None) -> str:
    """Return the table of the trades that the likeliest classes suggest; nothing where there are no classes."""
    if signals is None:
        return ""
    rows = [(name, format_number(value)) for name, value in signals.items() if name != "undefined"]
    return f"Likeliest classes as trades\n\n{render_table(('metric', 'value'), rows)}"


def render_findings(findings: Report) -> str:
    """Return the table of the measurements of the fitted model; nothing for one that is not fitted."""
    rows = [
        (name, format_number(found["value"]), f"{found['low']:g} to {found['high']:g}", _place(found))
        for name, found in findings["bands"].items()
    ]
    rows += [(name, format_number(value), DASH, DASH) for name, value in findings["measurements"].items()]
    if not rows:
        return ""
    return f"The fitted model\n\n{render_table(('measurement', 'value', 'usual', 'finding'), rows)}"


def _place(found: Report) -> str:
    return {True: "usual", False: "outside", None: f"undefined: {found['reason']}"}[found["is_within"]]
