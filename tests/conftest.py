import fcntl
import shutil
from pathlib import Path

import pytest

import pipeline  # noqa: F401  # pins the arithmetic of NumPy, torch and others: before any test imports them
from tests.small_repository import command, commit, copy


@pytest.fixture(scope="session")
def ran(tmp_path_factory) -> Path:
    """A small market whose pipeline has run once and is committed; test processes share it."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if shared.name.startswith("popen-") else shared  # the folder of one process of pytest-xdist
    with (shared / "pipeline.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = shared / "pipeline"
        if not folder.exists():
            draft = copy(shared / "pipeline.draft")
            command(draft, "dvc", "repro", PIPELINE_WORKERS="2")
            commit(draft, "The pipeline has run")
            draft.rename(folder)
    return folder


@pytest.fixture
def repo(ran, tmp_path) -> Path:
    """A copy of the repository in which the pipeline has run, for a test that changes it."""
    return shutil.copytree(ran, tmp_path / "repo", symlinks=True)
