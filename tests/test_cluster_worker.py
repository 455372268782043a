"""The command that starts workers of a cluster: what it cannot start ends with one line."""

import sys

import pytest

from pipeline.cluster import worker
from tests.test_cluster import needs_dask


@needs_dask
def test_a_worker_without_the_address_of_a_scheduler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["worker"])
    with pytest.raises(SystemExit, match="^python -m pipeline.cluster.worker: Need to provide .*; give the"):
        worker.main()


def test_a_worker_without_dask_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed.cli", None)
    with pytest.raises(SystemExit, match=r"worker needs distributed.cli; run `pip install .*\[cluster\]'`$"):
        worker.main()
