"""The section of a report on the latency of the hot path, which is of one machine and one moment."""

from collections.abc import Mapping
from typing import Any

from pipeline.reporting.tear_sheet.blocks import Figure, Note, Section, Table, Verdict
from pipeline.reporting.tear_sheet.evidence import DatasetEvidence
from pipeline.reporting.tear_sheet.formats import format_number, list_names

UNITS = {"us": "µs", "ns": "ns", "mb": "MB"}

Report = Mapping[str, Any]


def make_latency(evidence: DatasetEvidence) -> Section:
    """Return the measured latency of every selection of models, or how to measure it."""
    dataset, measured = evidence.dataset, evidence.latency
    if measured is None:
        text = (
            "Latency is of one machine and one moment, so that this page, which is the same for the same inputs, has "
            f"none. Measure it with `dvc exp run -S 'latency.datasets=[{dataset}]'`; then `python -m "
            f"pipeline.stages.report {dataset} --latency` writes this page with it."
        )
        return Section("latency", "Latency", [Note(text)])
    machine = ", ".join(f"{name} {format_value(value)}" for name, value in measured["machine"].items())
    blocks: list[Note | Verdict | Table | Figure] = [Note(f"Machine: {machine}. Limits are those of params.yaml.")]
    for name, selection in measured["selections"].items():
        blocks += tabulate_selection(name, selection)
    return Section("latency", "Latency", blocks)


def tabulate_selection(name: str, selection: Report) -> list[Table]:
    """Return the figures of one selection of models beside their limits, and its latency at each rate of bars."""
    rows = [
        [
            name_quantity(figure),
            format_value(each["value"]),
            format_value(each["limit"]),
            "holds" if each["holds"] else "does not hold",
        ]
        for figure, each in selection["verdicts"].items()
    ]
    models = f"Models: {list_names(selection['models'])}." if selection["models"] else "All models of the bundle."
    tables = [Table(f"Latency of {name}", ["figure", "value", "limit", "verdict"], rows, note=models)]
    if schedules := selection["schedules"]:
        head = [name_quantity(key) for key in schedules[0]]
        cells = [[format_value(value) for value in schedule.values()] for schedule in schedules]
        tables.append(Table(f"Latency of {name} by rate of bars", head, cells))
    return tables


def format_value(value: object) -> str:
    """Return a text as it is, a number with its significant digits."""
    return value if isinstance(value, str) else format_number(value)


def name_quantity(key: str) -> str:
    """Return the key of a figure in words, its unit last: p50_us is p50, µs."""
    *words, last = key.split("_")
    return f"{' '.join(words)}, {UNITS[last]}" if words and last in UNITS else key.replace("_", " ")
