"""The search for the hyperparameters of a tuned model: pictures of the final search, and what every search found."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape
from matplotlib.figure import Figure as Drawing

from pipeline.reporting.tear_sheet.blocks import Figure, Table
from pipeline.reporting.tear_sheet.evidence import ModelEvidence
from pipeline.reporting.tear_sheet.formats import format_number
from pipeline.reporting.tuning_plots import plot_search

NOTE = "Of the search on the whole development part, by the mean over its inner folds."


def draw_search(model: ModelEvidence) -> list[Figure]:
    """Return the pictures of the final search; none of a model that is not tuned."""
    tuning = (model.training or {}).get("tuning")
    drawn = plot_search(tuning, title=f"{model.name}: the final search")
    names = {name: f"Search, {name.replace('_', ' ')}: {model.name}" for name in drawn}
    return [Figure(names[name], embed(each, names[name]), NOTE) for name, each in drawn.items()]


def embed(drawing: Drawing, alt: str) -> Markup:
    """Return a picture as an element of the page that holds its bytes; the same drawing gives the same text."""
    stream = io.BytesIO()
    drawing.savefig(stream, format="png", metadata={"Software": None})
    content = base64.b64encode(stream.getvalue()).decode()
    return Markup('<img alt="{}" style="max-width: 100%" src="data:image/png;base64,{}">').format(escape(alt), content)


def tabulate_search(model: ModelEvidence) -> list[Table]:
    """Return how many trials each search of a tuned model made, and the metric and hyperparameters of the best one."""
    tuning = (model.training or {}).get("tuning")
    if tuning is None:
        return []
    rows, best = [], {}
    for name, search in tuning["searches"].items():
        complete = [trial for trial in search["trials"] if trial["state"] == "complete"]
        best[name] = choose_best(complete, direction=tuning["direction"])
        pruned = len(search["trials"]) - len(complete)
        rows.append([name, str(len(search["trials"])), str(pruned), format_number(best[name]["value"], digits=4)])
    head = ["search of split", "trials", "of them pruned", f"best {tuning['metric']}"]
    note = (
        "Within the rows that the fit learns from: the best of many is too high; the predictions out of sample are not."
    )
    found = [
        [name, *(format_value(each["parameters"].get(name)) for each in best.values())] for name in tuning["space"]
    ]
    return [
        Table(f"Searches of {model.name}", head, rows, note=note),
        Table(f"Best hyperparameters of {model.name}, by split", ["hyperparameter", *best], found),
    ]


def choose_best(trials: Sequence[Mapping[str, Any]], *, direction: str) -> Mapping[str, Any]:
    """Return the trial of the largest value, or of the least where the metric is minimized; of equal ones the first."""
    choose = max if direction == "maximize" else min
    return choose(trials, key=lambda trial: trial["value"])


def format_value(value: str | float | bool | None) -> str:
    """Return a value that was tried, a number that is not whole with three digits; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
