"""Promotions that other clones get from a remote: S3 on loopback by moto, and a bare repository beside it."""

from collections.abc import Iterator

import pytest
from dvc.repo import Repo
from dvc.repo.artifacts import Artifacts

from pipeline.deployment.registry import promote, restore, rollback, verify
from tests.registry_repository import PROMOTED, make_repository, read_folder, train
from tests.s3_server import MARKS, serve_bucket
from tests.small_repository import command

BUNDLE, EVIDENCE = "trained/bundles/tiny", "trained/evidence/tiny"
pytestmark = MARKS


@pytest.fixture
def s3(monkeypatch) -> Iterator[str]:
    with serve_bucket(monkeypatch) as address:
        yield address


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
