"""Promotions that other clones get from a remote: S3 on loopback by moto, and a bare repository beside it."""

import contextlib
import importlib.util
import io
from collections.abc import Iterator

import httpx
import pytest
from dvc.repo import Repo
from dvc.repo.artifacts import Artifacts

from pipeline.deployment.registry import promote, restore, rollback, verify
from tests.registry_repository import PROMOTED, make_repository, read_folder, train
from tests.small_repository import command

BUNDLE, EVIDENCE = "trained/bundles/tiny", "trained/evidence/tiny"
PACKAGES = ("dvc_s3", "flask", "flask_cors", "moto")
ABSENT = [name for name in PACKAGES if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.skipif(bool(ABSENT), reason=f"S3 on loopback needs the extra `dev`: there is no {', '.join(ABSENT)}"),
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),  # of pygtrie, which DVC uses
]


@pytest.fixture
def s3(monkeypatch) -> Iterator[str]:
    """The address of an empty bucket `store`, and credentials in the environment."""
    from moto import server

    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with contextlib.redirect_stdout(io.StringIO()):
        running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    httpx.put(f"{address}/store", timeout=120).raise_for_status()  # the first request imports moto's S3
    yield address
    running.stop()


def test_two_promotions_and_a_rollback_reach_another_clone_by_a_remote_on_s3(s3, tmp_path, monkeypatch):
    root, shared, clone, got = (tmp_path / name for name in ("promoter", "shared.git", "clone", "got"))
    make_repository(root, url="s3://store/pipeline", endpointurl=s3)
    first = read_folder(root / BUNDLE)
    assert promote(root).startswith("model v1.0.0 is in prod")
    train(root, "The second fit", graph="second")
    assert promote(root).startswith("model v1.0.1 is in prod")
    assert rollback(root).startswith("model v1.0.0 is in prod again")
    assert verify(root) == []
    with Repo(str(root)) as repository:
        repository.push(all_tags=True)
    command(tmp_path, "git", "clone", "--quiet", "--bare", str(root), str(shared))
    assert not (shared / ".dvc").exists()  # so that the remote alone has the bundles

    Artifacts.get(str(shared), "model", stage="prod", out=str(got))
    assert read_folder(got) == first

    command(tmp_path, "git", "clone", "--quiet", str(shared), str(clone))
    monkeypatch.chdir(clone)
    with Repo() as repository:
        repository.fetch(targets=[BUNDLE, EVIDENCE], all_tags=True)
    restore(clone)
    assert verify(clone) == []
    assert read_folder(clone / PROMOTED) == first
