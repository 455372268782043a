"""The commands that write a missing file, or restore a damaged one: dvc.yaml says which stage writes what."""

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline import config

VARIABLE = re.compile(r"\$\{([\w.]+)\}")  # such as ${item.dataset}


class Writer(NamedTuple):
    """The stage that writes a file, and whether DVC's cache holds the file, or git."""

    stage: str
    is_cached: bool


def describe_writing(path: Path) -> str:
    """Return the advice for a file or folder that does not exist, or is out of date."""
    writer = find_writer(path)
    if writer is None:
        return "no stage of dvc.yaml writes it: correct the name"
    return f"run `dvc repro {writer.stage}`, the stage that writes it"


def describe_restoring(path: Path) -> str:
    """Return the advice for a file or folder that is damaged."""
    writer = find_writer(path)
    if writer is None:
        return "no stage of dvc.yaml writes it: write it again"
    restore = "dvc checkout --force" if writer.is_cached else "git checkout"
    return f"run `{restore} {path}`, or `dvc repro --single-item --force {writer.stage}` to write it again"


def find_writer(path: Path) -> Writer | None:
    """Return the stage of dvc.yaml that writes `path`, or a folder that it lies in; None where none does."""
    file = Path("dvc.yaml")
    if not file.exists():
        return None
    params = config.load_params()
    for name, stage in _parse_stages(file.read_text(encoding="utf-8")).items():
        for suffix, values in _list_instances(stage, params):
            for output, is_cached in _list_outputs(stage.get("do", stage)):
                written = Path(_fill_in(output, values))
                if path == written or written in path.parents:
                    return Writer(f"{name}{suffix}", is_cached)
    return None


@functools.cache
def _parse_stages(text: str) -> dict[str, Any]:
    """Return the stages of the text of dvc.yaml; parsing it takes as long as a stage's start."""
    stages: dict[str, Any] = yaml.safe_load(text)["stages"]
    return stages


def _list_instances(stage: Mapping[str, Any], params: config.Block) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the suffix of the name, and the variables, of each stage that `foreach` makes; one for a plain stage."""
    expression = VARIABLE.fullmatch(stage.get("foreach", ""))
    if expression is None:
        yield "", {}
        return
    items = _look_up(params, expression[1]) or {}
    pairs = items.items() if isinstance(items, Mapping) else ((item, item) for item in items)
    for key, item in pairs:
        yield f"@{key}", {"key": key, "item": item}


def _list_outputs(stage: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield the path of each output of a stage, and whether DVC caches it."""
    for entry in (*stage.get("outs", ()), *stage.get("metrics", ()), *stage.get("plots", ())):
        output, options = next(iter(entry.items())) if isinstance(entry, Mapping) else (entry, {})
        yield output, options.get("cache", True)


def _fill_in(text: str, values: Mapping[str, Any]) -> str:
    """Return a text with the values of its variables."""
    return VARIABLE.sub(lambda found: str(_look_up(values, found[1])), text)


def _look_up(values: Any, path: str) -> Any:
    """Return the value at a dotted path; None where there is none, as for a family without models."""
    for key in path.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return values
