"""The runs of a repository: commits and experiments with results, as `dvc exp show` shows them."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dvc.repo import Repo
from dvc.repo.experiments.serialize import ExpState

from pipeline import artifacts
from pipeline.evaluation import experiments, run_index
from pipeline.evaluation.trials import digest_json

METRICS = artifacts.TRAINED / "metrics"
PARAMS = "params.yaml"
SOURCES = (str(METRICS), str(run_index.REPORTS), "dvc.lock")  # a commit that changes one of them has results of its own
REFS_DEPTH = 3  # parts before the name of an experiment's ref: refs/exps, then the commit that it starts from


@dataclass(frozen=True)
class Revision:
    """A commit, or an experiment, which is a commit as well; what can change of it later stands here."""

    commit: str
    time: int  # seconds since 1970
    subject: str
    experiment: str = ""
    baseline: str = ""  # the commit that an experiment starts from
    branch: str = ""
    tags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The experiment's name, or the branch or a tag, and seven digits of the commit."""
        where = self.branch or " ".join(self.tags)
        return self.experiment or f"{where} {self.commit[:7]}".lstrip()


@dataclass(frozen=True)
class Run:
    """The data that DVC has of a revision; none of it changes later."""

    revision: Revision
    params: Mapping[str, Any]  # params.yaml
    metrics: Mapping[str, Mapping[str, Any]]  # of each file, by its name, see `name_metrics`
    outputs: Mapping[str, str]  # the md5 of each output, by path

    @property
    def models(self) -> dict[str, Mapping[str, Any]]:
        """The block of each model that has metrics or a history, by name."""
        return {
            model: block if isinstance(block, Mapping) else {}
            for blocks in (self.params.get("models") or {}).values()
            for model, block in (blocks or {}).items()
            if model in self.metrics or str(history_path(model)) in self.outputs
        }

    def describe_version(self, model: str) -> "ModelVersion":
        """Return what this run has of a model."""
        outputs = {str(path): self.outputs[str(path)] for path in model_paths(model) if str(path) in self.outputs}
        return ModelVersion(model, self.models[model], self.metrics.get(model, {}), outputs)


@dataclass(frozen=True)
class ModelVersion:
    """A model as one or more runs have it."""

    model: str
    block: Mapping[str, Any]  # of params.yaml
    metrics: Mapping[str, Any]
    outputs: Mapping[str, str]  # the md5 of its fits, by path

    @property
    def key(self) -> str:
        """The model's name, and a digest of all else: two runs that have the same version share it."""
        return f"{self.model}/{digest_json([self.block, self.metrics, self.outputs])}"


def model_paths(model: str) -> tuple[Path, ...]:
    """Return the outputs that the fits of a model write, and the weights of an ensemble."""
    return (
        artifacts.MODELS / model,
        artifacts.TRAINED / "ensembles" / model,
        artifacts.OOS / f"{model}.parquet",
        history_path(model),
    )


def history_path(model: str) -> Path:
    """Return the file of a model's history."""
    return artifacts.HISTORY / f"{model}.csv"


def list_revisions(root: Path) -> list[Revision]:
    """Return the commits whose results differ from those before, those with a tag, and all experiments, by time."""
    refs, tags, branches = list_experiments(root), run_index.name_tags(root), run_index.name_branches(root)
    changed = {commit for commit, *_ in run_index.log_commits(root, *SOURCES)}
    found = []
    for commit, time, subject in run_index.log_commits(root):
        if commit in changed or commit in tags or commit in refs:
            name, baseline = refs.get(commit, ("", ""))
            branch, own = branches.get(commit, ""), tuple(tags.get(commit, ()))
            found.append(Revision(commit, int(time), subject, name, baseline, branch, own))
    return found


def list_experiments(root: Path) -> dict[str, tuple[str, str]]:
    """Return the name of each experiment, and the commit that it starts from, by its commit."""
    command = ("for-each-ref", "--format=%(objectname) %(refname)", experiments.EXPERIMENTS)
    found = {}
    for line in experiments.run_git(root, *command):
        commit, ref = line.split(" ", 1)
        parts = PurePosixPath(ref).parts  # refs/exps/01/2345.../name
        if not ref.startswith(experiments.BOOKMARKS) and len(parts) > REFS_DEPTH + 1:
            found[commit] = ("/".join(parts[REFS_DEPTH + 1 :]), "".join(parts[2 : REFS_DEPTH + 1]))
    return found


def collect_runs(root: Path, revisions: Collection[Revision]) -> Iterator[Run]:
    """Yield the run of each revision, as DVC collects them for `dvc exp show`.

    Raises:
        ValueError: DVC cannot read a revision; names it, with DVC's reason.
    """
    wanted = {revision.commit: revision for revision in revisions}
    if not wanted:
        return
    starts = list(dict.fromkeys(revision.baseline or revision.commit for revision in revisions))
    with Repo(str(root)) as repository:
        shown = repository.experiments.show(revs=starts, hide_workspace=True, hide_queued=True, hide_failed=True)
    for state in _iterate_states(shown):
        if (revision := wanted.pop(state.rev, None)) is not None:
            yield make_run(revision, state)


def _iterate_states(shown: Iterable[ExpState]) -> Iterator[ExpState]:
    """Yield commits and their experiments."""
    for state in shown:
        yield state
        for group in state.experiments or ():
            yield from group.revs


def make_run(revision: Revision, state: ExpState) -> Run:
    """Return a revision as a run; ValueError where DVC cannot read it."""
    if state.data is None:
        raise ValueError(f"DVC cannot read {revision.name}: {state.error and state.error.msg}; see `dvc exp show`")
    params = (state.data.params.get(PARAMS) or {}).get("data") or {}
    metrics = {
        name_metrics(PurePosixPath(file)): content["data"]
        for file, content in state.data.metrics.items()
        if "data" in content
    }
    outputs = {path: out.hash for path, out in state.data.outs.items() if out.hash}
    return Run(revision, params, metrics, outputs)


def name_metrics(file: PurePosixPath) -> str:
    """Return the name of a metrics file: its path without a suffix, below `trained/metrics` where it lies there."""
    path = file.with_suffix("")
    return str(path.relative_to(METRICS) if path.is_relative_to(METRICS) else path)
