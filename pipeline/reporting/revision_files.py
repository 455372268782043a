"""The reports of a dataset as the workspace or another revision has them: from git, and from DVC's cache."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import yaml

from pipeline import artifacts, config
from pipeline.evaluation import experiments
from pipeline.reporting.source_note import is_simulated
from pipeline.reporting.tear_sheet.evidence import DatasetReports, ModelReports, Side

PARAMS, LOCK = (Path(name) for name in ("params.yaml", "dvc.lock"))  # those of a revision
WORKSPACE = "workspace"


class RevisionError(ValueError):
    """A revision that does not exist, or lacks a report; the message says which, and what to do."""


class Files(Protocol):
    """Where files are read from."""

    @property
    def name(self) -> str:
        """The name that a page gives it."""

    def has(self, path: Path) -> bool:
        """Return whether there is a file of that path."""

    def read(self, path: Path) -> str:
        """Return the text of a file; RevisionError where there is none."""


@dataclass(frozen=True)
class WorkspaceFiles:
    """The files of the folder `root` as they are now."""

    root: Path
    name: str = WORKSPACE

    def has(self, path: Path) -> bool:
        """Return whether there is a file of that path."""
        return (self.root / path).is_file()

    def read(self, path: Path) -> str:
        """Return the text of a file; RevisionError where there is none."""
        if not self.has(path):
            raise RevisionError(f"the workspace has no {path}; run `dvc repro` or `dvc checkout` first")
        return (self.root / path).read_text(encoding="utf-8")


@dataclass(frozen=True)
class RevisionFiles:
    """The files of a commit: those that git has, and those that its dvc.lock names in DVC's cache."""

    root: Path
    name: str
    commit: str

    @classmethod
    def find(cls, root: Path, revision: str) -> "RevisionFiles":
        """Return the files of a branch, tag, commit or experiment; RevisionError where there is none of that name."""
        found = experiments.run_git(
            root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
        )
        if not found:
            named = experiments.name_experiments(root)
            found = [commit for commit, name in named.items() if name == f"experiment {revision}"]
        if len(found) != 1:
            what = "no revision or experiment" if not found else f"{len(found)} experiments"
            raise RevisionError(
                f"there is {what} {revision!r}; `git log` and `dvc exp list --all-commits` list commits"
            )
        return cls(root, revision, found[0])

    @cached_property
    def tracked(self) -> frozenset[str]:
        """The paths that git has."""
        return frozenset(experiments.run_git(self.root, "ls-tree", "-r", "--name-only", self.commit))

    @cached_property
    def cached(self) -> Mapping[str, str]:
        """The md5 of each output that its dvc.lock names, by path."""
        stages = yaml.load(self.read(LOCK), Loader=yaml.CSafeLoader)["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", ())}

    def has(self, path: Path) -> bool:
        """Return whether git has the file, or dvc.lock names it."""
        return str(path) in self.tracked or str(path) in self.cached

    def read(self, path: Path) -> str:
        """Return the text of a file; RevisionError where the revision or DVC's cache lacks it."""
        if str(path) in self.tracked:
            (text,) = experiments.read_objects(self.root, [f"{self.commit}:{path}"])
            return text
        if path == LOCK or (md5 := self.cached.get(str(path))) is None:
            raise RevisionError(f"{self.name} has no {path}; run `dvc repro` there, and commit what it writes")
        cache = experiments.find_cache(self.root)
        file = None if cache is None else cache / md5[:2] / md5[2:]
        if file is None or not file.is_file():
            raise RevisionError(
                f"DVC's cache lacks {path} of {self.name}; run `dvc fetch --all-commits`, or `dvc repro` there"
            )
        return file.read_text(encoding="utf-8")


def load_side(files: Files, dataset: str) -> Side:
    """Return params and reports of a dataset.

    Raises:
        RevisionError: a report is missing.
    """
    params = yaml.load(files.read(PARAMS), Loader=yaml.CSafeLoader)
    if dataset not in params.get("datasets", ()):
        raise RevisionError(f"params.yaml of {files.name} has no dataset {dataset!r}")

    def read(stage: str, key: str = dataset) -> Any:
        report = json.loads(files.read(artifacts.report_path(stage, key)))
        report.pop("sha256", None)  # its digest, which git or DVC vouches for here
        return report

    compare = read("compare/details")
    reports = DatasetReports(
        dataset=dataset,
        source=str(config.look_up(params, f"datasets.{dataset}.source")),
        is_simulated=is_simulated(params, dataset),
        split=read("split"),
        guard=read("guard"),
        canary=read("canary"),
        headline=read("compare"),
        compare=compare,
        models=[
            ModelReports(
                name=name,
                headline=read("evaluate", name),
                details=read("evaluate/details", name),
                audit=read("audit", name) if files.has(artifacts.report_path("audit", name)) else None,
            )
            for name in compare["leaderboard"]
        ],
    )
    gate = artifacts.report_path("gate", dataset)
    return Side(files.name, params, reports, json.loads(files.read(gate)) if files.has(gate) else None)
