"""The stages of a dvc.lock: what each read and wrote, by md5, and which of them stand before which."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

import yaml

from pipeline.evaluation.run_index import flatten

ABSENT = "absent"


@dataclass(frozen=True)
class Stage:
    """A stage as dvc.lock records its last run."""

    command: str
    inputs: Mapping[str, str]  # the md5 of each dependency, by path
    params: Mapping[str, Any]  # by file and dotted key
    outputs: Mapping[str, str]  # the md5 of each output, by path


@dataclass(frozen=True)
class Lock:
    """The stages of a dvc.lock by name."""

    stages: Mapping[str, Stage]

    @classmethod
    def parse(cls, text: str, *, name: str) -> "Lock":
        """Return the content of a dvc.lock; ValueError, which names it, where the text is none."""
        try:
            entries = yaml.load(text, Loader=yaml.CSafeLoader)["stages"]
            return cls({stage: _parse_stage(entry) for stage, entry in entries.items()})
        except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{name} is no dvc.lock ({' '.join(str(error).split())[:80]}); `git checkout dvc.lock` restores it"
            ) from error

    def sort_stages(self) -> list[str]:
        """Return the names of the stages, each after those that it reads from; ValueError where they form a circle."""
        writers = {path: name for name, stage in self.stages.items() for path in stage.outputs}
        graph = {
            name: {writers[out] for path in stage.inputs for out in find_related(path, writers)} - {name}
            for name, stage in self.stages.items()
        }
        try:
            return list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            raise ValueError(f"the stages of dvc.lock form a circle: {' → '.join(error.args[1])}") from error


def _parse_stage(entry: Mapping[str, Any]) -> Stage:
    return Stage(
        str(entry["cmd"]),
        {each["path"]: each.get("md5", "") for each in entry.get("deps") or ()},
        dict(flatten(entry.get("params") or {})),
        {each["path"]: each.get("md5", "") for each in entry.get("outs") or ()},
    )


def find_related(path: str, others: Mapping[str, Any]) -> list[str]:
    """Return the paths of `others` that are `path`, lie in it, or hold it."""
    return [each for each in others if each == path or each.startswith(f"{path}/") or path.startswith(f"{each}/")]


def list_changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield each key whose values differ, with both; `absent` stands for none."""
    for key in dict.fromkeys((*a, *b)):
        values = a.get(key, ABSENT), b.get(key, ABSENT)
        if values[0] != values[1] or type(values[0]) is not type(values[1]):
            yield key, *values
