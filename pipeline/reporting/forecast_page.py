"""The page of one model's forecasts and fit in markdown: gains, calibration, tiers, sessions, signals and findings."""

from collections.abc import Mapping
from typing import Any

from pipeline.reporting.markdown import DASH, format_interval, format_number, render_table

Report = Mapping[str, Any]
VERDICTS = {True: "yes", False: "no: it is worse", None: "not distinguishable"}
EARNED = ("accuracy", "net_return_bps", "profitable", "move_bps", "half_spread_bps", "break_even_half_spread_bps")
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
        render_strategy(forecasts.get("strategy")),
        *(render_interval(each) for each in details.get("intervals", [])),
        render_sets(details.get("prediction_sets")),
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


def render_strategy(strategy: Report | None) -> str:
    """Return the tables of a strategy: its metrics, and its calls on labels and at the quotes; nothing without one."""
    if strategy is None:
        return ""
    terms = ", ".join(f"{key} {strategy[key]}" for key in ("profit", "stop", "unit") if key in strategy)
    metrics = [(name, format_number(value)) for name, value in strategy["metrics"].items() if name != "undefined"]
    gains = [
        (name, format_interval(found["value"], found["low"], found["high"]), _judge(found))
        for name, found in strategy["improvement"].items()
    ]
    title = f"Strategy: {strategy['kind']}{f' ({terms})' if terms else ''}"
    parts = [f"{title}\n\n{render_table(('metric', 'value'), metrics)}"]
    parts.append(render_table(("baseline", "improvement", "beats it"), gains))
    if strategy["executable"] is not None:
        parts.append(render_executable(strategy["executable"]))
    if strategy["net_returns"] is not None:
        parts += [_render_parts(name, rows) for name, rows in strategy["net_returns"].items()]
    return "\n\n".join(parts)


def render_executable(executable: Report) -> str:
    """Return the table of the score of calls on labels beside what they earn at the quotes, by side and by tier."""
    tiers = {f"tier from {format_number(tier['from'])}": tier for tier in executable["tiers"]}
    named = {name: executable[name] for name in ("all", "up", "down")} | tiers
    rows = [
        (name, f"{found['traded']:,}", *(format_number(found[figure]) for figure in EARNED))
        for name, found in named.items()
    ]
    return f"Calls on labels, and executed at the quotes\n\n{render_table(('calls', 'traded', *EARNED), rows)}"


def _render_parts(name: str, parts: list[Report]) -> str:
    figures = ("net_return", "gross_return", "costs")
    rows = [
        (str(number), f"{part['events']:,}", *(format_number(part[figure]) for figure in figures))
        for number, part in enumerate(parts)
    ]
    return f"Net returns {name.replace('_', ' ')}\n\n{render_table(('part', 'events', *figures), rows)}"


def render_interval(interval: Report) -> str:
    """Return the tables of an interval between quantiles: by path, fixed and adaptive, and by time on path 0."""
    head = ("rows of", "rows", "coverage", "verdict", "mean width", "unbounded", "below", "above")
    rows = []
    for number, path in enumerate(interval["paths"]):
        rows += [_show_coverage(f"path {number}", path), _show_coverage(f"path {number}, adaptive", path["adaptive"])]
    blocks = enumerate(interval["paths"][0]["blocks"])
    rows += [_show_coverage(f"path 0, part {number} of its times", block) for number, block in blocks]
    title = f"Interval from {' to '.join(interval['quantiles'])}, nominal coverage {interval['nominal']:.0%}"
    return f"{title}\n\n{render_table(head, rows)}"


def _show_coverage(name: str, found: Report) -> tuple[str, ...]:
    coverage = format_interval(found["coverage"], found["low"], found["high"])
    shares = (format_number(found[key]) for key in ("width", "unbounded", "below", "above"))
    return name, f"{found['rows']:,}", coverage, found["verdict"] or f"not known: {found['reason']}", *shares


def render_sets(sets: Report | None) -> str:
    """Return the table of prediction sets of classes: by path, and by time on path 0; nothing without sets."""
    if not sets:
        return ""
    classes = list(sets["paths"][0]["by_class"])
    head = ("rows of", "rows", "coverage", "verdict", "mean size", "empty", "single", *classes)
    named = {f"path {number}": path for number, path in enumerate(sets["paths"])}
    named |= {f"path 0, part {number} of its times": part for number, part in enumerate(sets["paths"][0]["blocks"])}
    rows = []
    for name, found in named.items():
        coverage = format_interval(found["coverage"], found["low"], found["high"])
        shares = [format_number(found[key]) for key in ("size", "empty", "single")]
        by_class = found.get("by_class", {})
        shares += [format_number(by_class[each]) if each in by_class else DASH for each in classes]
        rows.append(
            (name, f"{found['rows']:,}", coverage, found["verdict"] or f"not known: {found['reason']}", *shares)
        )
    title = f"Prediction sets of classes, nominal coverage {sets['nominal']:.0%}; the last columns: coverage by class"
    return f"{title}\n\n{render_table(head, rows)}"


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
