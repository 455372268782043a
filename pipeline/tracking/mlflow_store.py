"""Write runs and promoted models to a tracking store of MLflow, each once; it needs the extra `mlflow`.

A revision is a run. Each version of a model is a run below the first revision that has it. The tag `pipeline.key` names
what a run stands for, so that the next pass finds it. All times are those of the commit, and a commit never changes:
what is written twice is stored once. So the next pass continues one that was stopped.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url

from pipeline.deployment.history import Event, History
from pipeline.evaluation.run_index import flatten
from pipeline.models.predictions import FINAL
from pipeline.tracking.runs import Revision, Run

KEY, MISSING = "pipeline.key", "pipeline.missing_histories"
COMMIT, MODEL, VERSION, STAGE = "pipeline.commit", "pipeline.model", "pipeline.version", "pipeline.stage"
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"  # names that MLflow gives a meaning
GIT_COMMIT, GIT_BRANCH = "mlflow.source.git.commit", "mlflow.source.git.branch"
BATCH = 100  # entries of a request; MLflow allows 100 params, 100 tags and 1000 metrics
METRICS_BATCH = 1000
REFUSED_CHARACTERS = re.compile(r"[^\w\-. :/]", re.ASCII)  # in names
MS = 1000  # in a second
FINISHED = "FINISHED"

logging.getLogger("alembic").setLevel(logging.WARNING)


class Store:
    """A tracking store, and one experiment of it, which holds all runs of a repository."""

    def __init__(self, uri: str, experiment: str) -> None:
        """Open the store at `uri`, such as sqlite:///mlflow.db; a new database and a new experiment are created.

        Raises:
            ValueError: the store is a folder, or in one that does not exist, cannot be opened, or its experiment was
                deleted.
        """
        if "://" not in uri or uri.startswith("file:"):
            raise ValueError(
                f"the store {uri} is a folder, which MLflow refuses; give a database, such as "
                "sqlite:///mlflow.db, or a server, such as http://127.0.0.1:5000"
            )
        _check_folder(uri)
        try:
            self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            found = self.client.get_experiment_by_name(experiment)
            if found is not None and found.lifecycle_stage != "active":
                raise ValueError(f"the experiment {experiment} of {uri} was deleted in MLflow; restore it there")
            self.experiment = self.client.create_experiment(experiment) if found is None else found.experiment_id
        except MlflowException as error:
            raise ValueError(f"MLflow cannot open {uri}: {' '.join(str(error).split())}") from error

    def find_run(self, key: str) -> StoredRun | None:
        """Return the run of a key, also one that was deleted in MLflow; None where there is none."""
        condition = f"tags.`{KEY}` = '{key}'"
        found = self.client.search_runs([self.experiment], condition, run_view_type=ViewType.ALL, max_results=1)
        return found[0] if found else None

    def is_complete(self, revision: Revision) -> bool:
        """Return whether the run of a revision is written, or was deleted in MLflow, which is respected."""
        stored = self.find_run(revision.commit)
        if stored is None:
            return False
        is_whole = stored.info.status == FINISHED and MISSING not in stored.data.tags
        return is_whole or bool(stored.info.lifecycle_stage != "active")

    def write_run(self, run: Run, histories: Mapping[str, pd.DataFrame | None]) -> None:
        """Write a revision and the models that no revision had before; a later pass adds a history that is None."""
        revision = run.revision
        parent, _ = self._open_run(revision.commit, revision, name=revision.name, tags={NOTE: revision.subject})
        children = {f"model/{model}": self._write_model(run, model, parent, histories) for model in run.models}
        self._write_params(parent, run.params)
        self._write_tags(parent, children | {f"md5/{path}": md5 for path, md5 in run.outputs.items()})
        self._write_metrics(
            parent,
            [each for name, content in run.metrics.items() for each in list_metrics(content, revision, f"{name}/")],
        )
        missing = sorted(model for model, history in histories.items() if history is None)
        self._update_tags(parent, {MISSING: " ".join(missing)})
        self.client.set_terminated(parent, FINISHED, end_time=revision.time * MS)

    def _write_model(self, run: Run, model: str, parent: str, histories: Mapping[str, pd.DataFrame | None]) -> str:
        """Return the id of the run of a model's version, which is written where it is not finished."""
        history, revision, version = histories.get(model), run.revision, run.describe_version(model)
        is_missing = model in histories and history is None
        digests = {f"md5/{path}": md5 for path, md5 in version.outputs.items()}
        tags = {PARENT: parent, MODEL: model, **digests}
        child, is_finished = self._open_run(version.key, revision, name=model, tags=tags)
        if not is_finished:
            self._write_params(child, version.block)
            values = [] if history is None else [*list_history(history, revision)]
            self._write_metrics(child, [*list_metrics(version.metrics, revision), *values])
            if not is_missing:
                self.client.set_terminated(child, FINISHED, end_time=revision.time * MS)
        return child

    def _open_run(self, key: str, revision: Revision, *, name: str, tags: Mapping[str, str]) -> tuple[str, bool]:
        """Return the id of the run of a key, which is created where there is none, and whether it is finished."""
        if (stored := self.find_run(key)) is not None:
            return str(stored.info.run_id), stored.info.status == FINISHED or stored.info.lifecycle_stage != "active"
        fixed = {KEY: key, COMMIT: revision.commit, GIT_COMMIT: revision.commit}
        run = self.client.create_run(
            self.experiment, start_time=revision.time * MS, tags={**fixed, **tags}, run_name=name
        )
        return str(run.info.run_id), False

    def _write_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        entries = [Param(clean_name(key), render_value(value)) for key, value in flatten(params)]
        for part in slice_batches(entries, BATCH):
            self.client.log_batch(run_id, params=part)

    def _write_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        for part in slice_batches([RunTag(clean_name(key), value) for key, value in tags.items()], BATCH):
            self.client.log_batch(run_id, tags=part)

    def _write_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        for part in slice_batches(metrics, METRICS_BATCH):
            self.client.log_batch(run_id, metrics=part)

    def _update_tags(self, run_id: str, tags: Mapping[str, str]) -> bool:
        """Set the tags that are another, and remove those that are empty; return whether there was any."""
        present = self.client.get_run(run_id).data.tags
        changed = {key: value for key, value in tags.items() if value and present.get(key) != value}
        removed = [key for key, value in tags.items() if not value and key in present]
        self._write_tags(run_id, changed)
        for key in removed:
            self.client.delete_tag(run_id, key)
        return bool(changed or removed)

    def update_state(self, revision: Revision, *, versions: Iterable[str], stages: Iterable[str]) -> bool:
        """Update what may change of a revision: names, branch, versions and stages; return whether any did."""
        stored = self.find_run(revision.commit)
        if stored is None or stored.info.lifecycle_stage != "active":
            return False
        present = {
            "pipeline.experiment": revision.experiment,
            "pipeline.baseline": revision.baseline,
            "pipeline.tags": " ".join(revision.tags),
            GIT_BRANCH: revision.branch,
            VERSION: " ".join(versions),
            STAGE: " ".join(stages),
        }
        is_renamed = stored.info.run_name != revision.name
        if is_renamed:
            self.client.update_run(stored.info.run_id, name=revision.name)
        return self._update_tags(stored.info.run_id, present) or is_renamed

    def write_history(self, past: History) -> int:
        """Write the versions of a registered model, and an alias for each stage; return how many changed."""
        if not self.client.search_registered_models(f"name = '{past.model}'"):
            self.client.create_registered_model(past.model)
        found = self.client.search_model_versions(f"name = '{past.model}'")
        numbers = {each.tags.get(VERSION): str(each.version) for each in found}
        count = 0
        for version, event in past.versions.items():
            if version not in numbers:
                numbers[version] = self._register_version(past.model, event)
                count += 1
        aliases = self.client.get_registered_model(past.model).aliases
        for stage, version in past.stages.items():
            if str(aliases.get(stage)) != numbers[version]:
                self.client.set_registered_model_alias(past.model, stage, numbers[version])
                count += 1
        return count

    def _register_version(self, model: str, event: Event) -> str:
        """Return MLflow's number of a new version, with the digests of its evidence as tags."""
        stored = self.find_run(event.commit)
        created = self.client.create_model_version(
            model,
            source=f"dvc:{event.path}@{event.commit}",
            run_id=None if stored is None else stored.info.run_id,
            tags={
                VERSION: event.version,
                COMMIT: event.commit,
                **{f"evidence/{k}": v for k, v in list_evidence(event)},
            },
            description=f"{event.version}, registered by {event.author}",
        )
        return str(created.version)


def _check_folder(uri: str) -> None:
    """Raise ValueError where the folder of a database of SQLite does not exist: MLflow would make it."""
    file = make_url(uri).database if uri.startswith("sqlite") else None
    if file and not Path(file).parent.is_dir():
        raise ValueError(
            f"the store {uri} is a file in {Path(file).parent}, which is no folder; make it, or give another path: "
            "sqlite:///mlflow.db is here, sqlite:////mlflow.db in /"
        )


def list_evidence(event: Event) -> Iterator[tuple[str, str]]:
    """Yield the names and digests of what a registration rests on."""
    yield from ((clean_name(name), digest) for name, digest in (event.evidence or {}).items())


def list_metrics(content: Mapping[str, Any], revision: Revision, prefix: str = "") -> Iterator[Metric]:
    """Yield the numbers of a metrics file; MLflow has no undefined ones."""
    for key, value in flatten(content):
        if isinstance(value, int | float):
            yield Metric(clean_name(f"{prefix}{key}"), float(value), revision.time * MS, 0)


def list_history(history: pd.DataFrame, revision: Revision) -> Iterator[Metric]:
    """Yield the values of a history, as `<column>/split_<split>` or `<column>/final`, each at its iteration.

    Where there are several seeds, `seed_<seed>` stands before the split.
    """
    keys, has_seeds = ["seed", "split", "iteration"], history["seed"].nunique() > 1
    for (seed, split), fit in history.groupby(["seed", "split"], sort=True):
        part = "final" if split == FINAL else f"split_{split}"
        name = f"seed_{seed}/{part}" if has_seeds else part
        for column in history.columns.difference(keys, sort=False):
            values = fit[["iteration", column]].dropna()
            for step, value in zip(values["iteration"].tolist(), values[column].tolist(), strict=True):
                yield Metric(clean_name(f"{column}/{name}"), float(value), revision.time * MS, int(step))


def clean_name(name: str) -> str:
    """Return a name with `_` for what MLflow refuses in names."""
    return REFUSED_CHARACTERS.sub("_", name)


def render_value(value: Any) -> str:
    """Return a parameter as text: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def slice_batches(entries: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield the entries in parts of a size."""
    for start in range(0, len(entries), size):
        yield entries[start : start + size]
