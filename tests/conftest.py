import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline  # noqa: F401  # pins the arithmetic of NumPy, torch and others: before any test imports them
from tests import stage_server
from tests.small_repository import commit, copy, run_all_stages


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long tests: a long one that starts last leaves the other CPUs idle.

    They are those that use the repository in which the pipeline has run, and among them those that change it.
    """
    items.sort(key=lambda item: ("ran" not in item.fixturenames, "quick_python" not in item.fixturenames))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The tests' own process computes on one thread: more than there are CPUs would wait for each other."""
    from tests.threads import use_threads  # with torch, which the process that distributes the tests does not need

    with use_threads(1):
        yield


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
            run_all_stages(draft)
            commit(draft, "The pipeline has run")
            draft.rename(folder)
    return folder


@pytest.fixture(scope="session")
def quick_python(tmp_path_factory) -> Iterator[None]:
    """Stages that commands of `small_repository` run start in moments; they run the code of their own repository."""
    with stage_server.start(tmp_path_factory.mktemp("python")) as folder, pytest.MonkeyPatch.context() as patched:
        patched.setenv("STAGE_PYTHON", str(folder))
        yield


@pytest.fixture
def repo(ran, quick_python, tmp_path) -> Path:
    """A copy of the repository in which the pipeline has run, for a test that changes it."""
    return shutil.copytree(ran, tmp_path / "repo", symlinks=True)
