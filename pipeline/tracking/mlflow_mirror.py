"""Mirror runs and promoted models in MLflow: `python -m pipeline.tracking.mlflow_mirror`, with `--to URI`.

Runs are the commits with results and all experiments of DVC; the work tree is none. Each stands in the store once,
however often the command runs; what was deleted in git since stays. It needs the extra `mlflow`.
"""

import argparse
import fcntl
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from pipeline import cli
from pipeline.deployment import history
from pipeline.deployment.history import History
from pipeline.evaluation import experiments
from pipeline.tracking import runs
from pipeline.tracking.runs import Run

if TYPE_CHECKING:
    from pipeline.tracking.mlflow_store import Store

DEFAULT_STORE, DEFAULT_EXPERIMENT = "sqlite:///mlflow.db", "pipeline"
INSTALL = "pip install -c .ci/constraints.txt -e '.[mlflow]'"
SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}  # read when MLflow is imported


class Counts(NamedTuple):
    """The effect of one pass."""

    revisions: int
    written: int
    updated: int
    registered: int
    missing: int  # histories that DVC's cache lacks

    def __str__(self) -> str:
        """Return a line for people."""
        text = (
            f"{self.revisions} runs: {self.written} written, {self.updated} with other names, tags or stages; "
            f"{self.registered} changes of registered models"
        )
        remedy = "run `dvc fetch --all-commits trained/history`, then mirror again"
        return f"{text}; DVC's cache lacks {self.missing} histories: {remedy}" if self.missing else text


def mirror(root: Path, *, store: str, experiment: str) -> Counts:
    """Mirror the repository at `root` in a tracking store; return what one pass did.

    Raises:
        ValueError: the store is refused, a revision cannot be read, or another mirror of this repository is running.
        RegistryError: the tags of the registry are not those that it made.
    """
    with hold_lock(root):
        target = open_store(store, experiment)
        revisions, histories = runs.list_revisions(root), read_histories(root)
        absent = [revision for revision in revisions if not target.is_complete(revision)]
        written: set[str] = set()
        missing = 0
        for run in runs.collect_runs(root, absent):
            curves = read_curves(root, run)
            target.write_run(run, curves)
            written.add(run.revision.commit)
            missing += sum(curve is None for curve in curves.values())
        updated = 0
        for revision in revisions:
            versions = [
                f"{past.model}@{version}"
                for past in histories
                for version, event in past.versions.items()
                if event.commit == revision.commit
            ]
            stages = [
                f"{past.model}#{stage}"
                for past in histories
                for stage, version in past.stages.items()
                if past.versions[version].commit == revision.commit
            ]
            is_updated = target.update_state(revision, versions=versions, stages=stages)
            updated += is_updated and revision.commit not in written
        registered = sum(target.write_history(past) for past in histories)
    return Counts(len(revisions), len(written), updated, registered, missing)


def open_store(store: str, experiment: str) -> "Store":
    """Return the tracking store; ValueError where MLflow is not installed."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from pipeline.tracking.mlflow_store import Store
    except ModuleNotFoundError as error:
        raise ValueError(f"the mirror needs {error.name}; run `{INSTALL}`") from error
    return Store(store, experiment)


def read_histories(root: Path) -> list[History]:
    """Return the history of each model with tags of the registry; RegistryError where one is not append-only."""
    return [history.read_history(root, model) for model in history.list_models(history.list_tags(root))]


def read_curves(root: Path, run: Run) -> Mapping[str, pd.DataFrame | None]:
    """Return the history of the fits of each model that has one; None where DVC's cache lacks it."""
    cache = experiments.find_cache(root)
    found: dict[str, pd.DataFrame | None] = {}
    for model in run.models:
        if (md5 := run.outputs.get(str(runs.history_path(model)))) is not None:
            file = None if cache is None else cache / md5[:2] / md5[2:]
            found[model] = pd.read_csv(file) if file is not None and file.is_file() else None
    return found


@contextmanager
def hold_lock(root: Path) -> Iterator[None]:
    """Hold the lock of the mirror, which all work trees of the repository share; ValueError where it is held."""
    (common,) = experiments.run_git(root, "rev-parse", "--git-common-dir") or [""]
    if not common:
        raise ValueError(f"{root} is no repository; run it where params.yaml is")
    with ((root / common).resolve() / "mlflow_mirror.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError("another mirror of this repository is running; wait until it ends") from None
        yield


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.tracking.mlflow_mirror", description=__doc__)
    parser.add_argument("--to", default=DEFAULT_STORE, metavar="URI", help=f"the tracking store: {DEFAULT_STORE}")
    parser.add_argument("--experiment", default=DEFAULT_EXPERIMENT, help=f"its name in MLflow: {DEFAULT_EXPERIMENT}")
    return parser.parse_args()


def main() -> None:
    """Mirror the repository, and print what changed."""
    arguments = parse_arguments()
    try:
        counts = mirror(Path.cwd(), store=arguments.to, experiment=arguments.experiment)
    except (ValueError, OSError) as error:
        sys.exit(f"mlflow_mirror: {cli.describe_error(error)}")
    sys.stdout.write(f"{counts}: {arguments.to}\n")


if __name__ == "__main__":
    main()
